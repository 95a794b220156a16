//! A2A agent cards (protocol 0.3 and 1.0) and ACPs capability specifications, read exactly as they are found (R5).
//!
//! Only what Caplane needs is read; every other field is accepted and left
//! alone, and the caller keeps the bytes. This module refuses to know classes and salts.

mod capability;

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _, SeqAccess, Visitor};

use crate::classify::SkillClaim;

/// Largest card accepted (bytes): what `Hello.agent_card` may carry. It also
/// bounds every text in the card that has no bound of its own.
pub const CARD_BYTES_MAX: usize = 65_536;
/// Most skills of one card.
pub const SKILLS_MAX: usize = 256;
/// Longest agent name, skill id or skill name (bytes).
pub const NAME_BYTES_MAX: usize = 256;

/// What Caplane reads of an agent card or a capability specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentCard {
    /// Which of the two it is.
    pub form: CardForm,
    /// The agent identity code (ACPs), its letters upper-case; only capability specifications have one.
    pub aic: Option<String>,
    /// False = a capability specification says that the agent serves nothing now.
    pub active: bool,
    /// Name of the agent.
    pub name: String,
    /// What it does.
    pub description: String,
    /// Version of the agent, free text; empty when not given.
    pub version: String,
    /// Organisation that provides it; empty when not given.
    pub provider: String,
    /// Version of the A2A protocol, or of the ACPs specifications; empty when not given.
    pub protocol_version: String,
    /// Where it can be reached directly (URLs, not checked), the preferred one first.
    pub endpoints: Vec<String>,
    /// Its skills, in the card's order; ids are unique and not empty.
    pub skills: Vec<SkillClaim>,
}

/// What kind of document a card is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CardForm {
    /// An A2A agent card.
    A2a,
    /// An ACPs capability specification: it has an `aic` or `endPoints`.
    Acs,
}

/// Why a card was refused, and where in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("agent card {line}:{column}: {field}: {cause}")]
pub struct CardError {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1; 0 = the start of the line.
    pub column: usize,
    /// Path of the field, `skills[2].id`; "card" = the whole of it.
    pub field: String,
    /// What is wrong.
    pub cause: String,
}

impl AgentCard {
    /// Reads a card.
    ///
    /// # Errors
    /// Line and column, the field and the cause.
    pub fn parse(bytes: &[u8]) -> Result<Self, CardError> {
        if bytes.len() > CARD_BYTES_MAX {
            let cause = format!("{} bytes; at most {CARD_BYTES_MAX}", bytes.len());
            return Err(CardError::whole(1, 0, cause));
        }
        // RFC 8259 section 8.1: a byte order mark may be ignored.
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        match capability::form(bytes) {
            CardForm::A2a => read::<Card>(bytes).map(Into::into),
            CardForm::Acs => read::<capability::Specification>(bytes).map(Into::into),
        }
    }
}

impl AgentCard {
    /// The tags of its skills: in lower case, sorted, each once, without empty ones.
    #[must_use]
    pub fn tags(&self) -> Vec<String> {
        let tags = self.skills.iter().flat_map(|skill| &skill.tags);
        let tags = tags.map(|tag| tag.trim().to_lowercase());
        let tags: BTreeSet<String> = tags.filter(|tag| !tag.is_empty()).collect();
        tags.into_iter().collect()
    }
}

impl CardError {
    fn whole(line: usize, column: usize, cause: String) -> Self {
        Self {
            line,
            column,
            field: "card".into(),
            cause,
        }
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CardError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let card = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = match error.path().to_string() {
            path if path == "." => "card".to_owned(),
            path => path,
        };
        let error = error.into_inner();
        let cause = crate::taxonomy::without_position(&error);
        CardError {
            line: error.line(),
            column: error.column(),
            field,
            cause,
        }
    })?;
    json.end().map_err(|error| {
        let cause = "something follows the card's closing brace".to_owned();
        CardError::whole(error.line(), error.column(), cause)
    })?;
    Ok(card)
}

/// The JSON of both A2A versions. `null` counts as absent, since exporters write it.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Card {
    name: Name,
    description: Option<String>,
    version: Option<String>,
    provider: Option<Provider>,
    protocol_version: Option<String>,
    /// 0.3
    url: Option<String>,
    /// 0.3
    additional_interfaces: Option<Vec<Interface>>,
    /// 1.0
    supported_interfaces: Option<Vec<Interface>>,
    #[serde(deserialize_with = "skills")]
    skills: Vec<SkillClaim>,
}

#[derive(serde::Deserialize)]
struct Provider {
    organization: Option<String>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Interface {
    url: String,
    protocol_version: Option<String>,
}

#[derive(serde::Deserialize)]
struct Skill {
    id: Name,
    name: Name,
    description: Option<String>,
    tags: Option<Vec<String>>,
    examples: Option<Vec<String>>,
}

impl From<Card> for AgentCard {
    fn from(card: Card) -> Self {
        let interfaces = card.supported_interfaces.unwrap_or_default();
        let protocol_version = card.protocol_version.or_else(|| {
            interfaces
                .first()
                .and_then(|first| first.protocol_version.clone())
        });
        let more = card.additional_interfaces.unwrap_or_default();
        let urls = interfaces
            .into_iter()
            .chain(more)
            .map(|interface| interface.url);
        Self {
            form: CardForm::A2a,
            aic: None,
            active: true,
            name: card.name.0,
            description: card.description.unwrap_or_default(),
            version: card.version.unwrap_or_default(),
            provider: organization(card.provider),
            protocol_version: protocol_version.unwrap_or_default(),
            endpoints: each_once(card.url.into_iter().chain(urls)),
            skills: card.skills,
        }
    }
}

fn organization(provider: Option<Provider>) -> String {
    provider.and_then(|by| by.organization).unwrap_or_default()
}

/// Addresses in their order, without empty ones.
fn each_once(urls: impl Iterator<Item = String>) -> Vec<String> {
    let mut endpoints: Vec<String> = Vec::new();
    for url in urls.filter(|url| !url.is_empty()) {
        if !endpoints.contains(&url) {
            endpoints.push(url);
        }
    }
    endpoints
}

impl From<Skill> for SkillClaim {
    fn from(skill: Skill) -> Self {
        Self {
            id: skill.id.0,
            name: skill.name.0,
            description: skill.description.unwrap_or_default(),
            tags: skill.tags.unwrap_or_default(),
            examples: skill.examples.unwrap_or_default(),
        }
    }
}

/// A text that is shown to people and compared: 1 to [`NAME_BYTES_MAX`] bytes, nothing invisible.
/// Checked while the JSON is read, so that the error knows the position.
struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.trim().is_empty() || text.len() > NAME_BYTES_MAX {
            let cause = format!(
                "{} bytes; give 1 to {NAME_BYTES_MAX}, not only blanks",
                text.len()
            );
            return Err(D::Error::custom(cause));
        }
        // A terminal obeys control characters: a name could rewrite an operator's screen.
        if text.contains(char::is_control) {
            return Err(D::Error::custom(
                "control characters are not accepted in names",
            ));
        }
        Ok(Self(text))
    }
}

fn skills<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SkillClaim>, D::Error> {
    deserializer.deserialize_seq(SkillList)
}

struct SkillList;

impl<'de> Visitor<'de> for SkillList {
    type Value = Vec<SkillClaim>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of skills")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut skills: Vec<SkillClaim> = Vec::new();
        let mut indices: HashMap<String, usize> = HashMap::new();
        while let Some(skill) = list.next_element::<Skill>()? {
            let index = skills.len();
            if index == SKILLS_MAX {
                return Err(A::Error::custom(format!("more than {SKILLS_MAX} skills")));
            }
            if let Some(first) = indices.insert(skill.id.0.clone(), index) {
                let cause = format!("skills[{index}].id is the id of skills[{first}] too");
                return Err(A::Error::custom(cause));
            }
            skills.push(skill.into());
        }
        Ok(skills)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"{
  "protocolVersion": "0.3.0",
  "name": "Roaming desk",
  "description": "Answers questions about roaming",
  "url": "https://agents.example/roaming",
  "additionalInterfaces": [
    {"url": "https://agents.example/roaming", "transport": "JSONRPC"},
    {"url": "https://agents.example/grpc", "transport": "GRPC"}
  ],
  "provider": {"organization": "Example Telecom", "url": "https://example.org"},
  "version": "2.1",
  "capabilities": {"streaming": true},
  "skills": [
    {"id": "roaming_rates", "name": "Roaming rates", "description": "What a call abroad costs",
     "tags": ["roaming", "tariff"], "examples": ["What does a call from Spain cost?"]},
    {"id": "roaming_setup", "name": "Roaming set-up", "description": null, "tags": null}
  ],
  "futureField": {"anything": [1, 2, 3]}
}"#;

    #[test]
    fn a_card_of_protocol_0_3_is_read_as_it_is() {
        let card = AgentCard::parse(FULL.as_bytes()).expect("card");
        assert_eq!(
            (card.name.as_str(), card.provider.as_str()),
            ("Roaming desk", "Example Telecom")
        );
        assert_eq!(
            (card.version.as_str(), card.protocol_version.as_str()),
            ("2.1", "0.3.0")
        );
        let endpoints = [
            "https://agents.example/roaming",
            "https://agents.example/grpc",
        ];
        assert_eq!(card.endpoints, endpoints);
        assert_eq!(
            (card.form, &card.aic, card.active),
            (CardForm::A2a, &None, true)
        );
        assert_eq!(card.skills.len(), 2);
        assert_eq!(card.skills[0].tags, ["roaming", "tariff"]);
        assert_eq!(card.skills[1].description, "");
        let mut marked = b"\xef\xbb\xbf".to_vec();
        marked.extend_from_slice(FULL.as_bytes());
        assert_eq!(
            AgentCard::parse(&marked).expect("with a byte order mark"),
            card
        );
    }

    #[test]
    fn a_card_of_protocol_1_0_is_read_too() {
        let card = AgentCard::parse(
            br#"{"name": "x", "description": "y", "version": "1", "skills": [],
                 "supportedInterfaces": [
                   {"url": "https://a.example", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"},
                   {"url": "https://b.example", "protocolBinding": "GRPC", "protocolVersion": "1.0"}]}"#,
        )
        .expect("card");
        assert_eq!(card.protocol_version, "1.0");
        assert_eq!(card.endpoints, ["https://a.example", "https://b.example"]);
    }

    #[test]
    fn errors_say_line_column_field_and_cause() {
        let cases: [(&str, &str); 11] = [
            ("", "agent card 1:0: card: EOF while parsing a value"),
            (
                "[]",
                "agent card 1:2: card: invalid length 0, expected struct Card",
            ),
            (
                "{\n \"name\": 7}",
                "agent card 2:10: name: invalid type: integer `7`, expected a string",
            ),
            (
                "{\"name\": \"x\"}",
                "agent card 1:13: card: missing field `skills`",
            ),
            (
                "{\"name\": \" \", \"skills\": []}",
                "name: 1 bytes; give 1 to 256, not only blanks",
            ),
            (
                "{\"name\": \"a\\u001b[2J\", \"skills\": []}",
                "name: control characters",
            ),
            (
                "{\"name\": \"x\", \"skills\": 3}",
                "skills: invalid type: integer `3`, expected a list of skills",
            ),
            (
                "{\"name\": \"x\",\n\"skills\": [\n{\"id\": \"a\", \"name\": \"A\"},\n{\"id\": \"b\"}]}",
                "agent card 4:11: skills[1]: missing field `name`",
            ),
            (
                "{\"name\": \"x\", \"skills\": [{\"id\": \"a\", \"name\": \"A\", \"tags\": [\"t\", 4]}]}",
                "skills[0].tags[1]: invalid type: integer `4`, expected a string",
            ),
            (
                "{\"name\": \"x\", \"skills\": [{\"id\": \"a\", \"name\": \"A\"}, {\"id\": \"a\", \"name\": \"B\"}]}",
                "skills: skills[1].id is the id of skills[0] too",
            ),
            (
                "{\"name\": \"x\", \"skills\": []} 1",
                "card: something follows the card's closing brace",
            ),
        ];
        for (text, expected) in cases {
            let error = AgentCard::parse(text.as_bytes())
                .expect_err(text)
                .to_string();
            assert!(
                error.contains(expected),
                "{text}\n  said {error}\n  expected {expected}"
            );
        }
        let invalid_utf8 = AgentCard::parse(b"{\"name\": \"\xff\"}").expect_err("not UTF-8");
        assert_eq!(invalid_utf8.field, "name");
    }

    #[test]
    fn sizes_are_bounded() {
        let large = vec![b' '; CARD_BYTES_MAX + 1];
        let error = AgentCard::parse(&large).expect_err("too large").to_string();
        assert!(error.contains("65537 bytes; at most 65536"), "{error}");
        let skills: Vec<String> = (0..=SKILLS_MAX)
            .map(|i| format!("{{\"id\":\"{i}\",\"name\":\"n\"}}"))
            .collect();
        let text = format!("{{\"name\":\"x\",\"skills\":[{}]}}", skills.join(","));
        let error = AgentCard::parse(text.as_bytes())
            .expect_err("too many")
            .to_string();
        assert!(error.contains("more than 256 skills"), "{error}");
        let deep = "[".repeat(10_000);
        let text = format!("{{\"x\": {deep}");
        AgentCard::parse(text.as_bytes()).expect_err("too deep, not a crash");
    }

    #[test]
    fn every_truncation_is_an_error_and_none_a_panic() {
        for end in 0..FULL.len() {
            AgentCard::parse(&FULL.as_bytes()[..end]).expect_err("cut short");
        }
    }
}
