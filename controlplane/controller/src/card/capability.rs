//! ACPs capability specifications (ACS 02.01 and 02.02): told from A2A cards by what only they have.

use std::fmt;

use caplane_wire::Aic;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::{AgentCard, CardForm, Name, Provider, each_once, organization, skills};
use crate::classify::SkillClaim;

/// What this JSON is. One that cannot be read is an agent card, whose reader tells why.
pub(super) fn form(bytes: &[u8]) -> CardForm {
    match serde_json::from_slice(bytes) {
        Ok(Marked(true)) => CardForm::Acs,
        _ => CardForm::A2a,
    }
}

/// Has it an `aic` or `endPoints`?
struct Marked(bool);

impl<'de> Deserialize<'de> for Marked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Marked;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Marked, A::Error> {
        let mut marked = false;
        while let Some(field) = map.next_key::<String>()? {
            if matches!(field.as_str(), "aic" | "endPoints") {
                marked |= map.next_value::<Option<IgnoredAny>>()?.is_some();
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Marked(marked))
    }
}

/// The JSON. `null` counts as absent.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Specification {
    aic: Option<Code>,
    active: Option<bool>,
    protocol_version: Option<String>,
    name: Name,
    description: Option<String>,
    version: Option<String>,
    provider: Option<Provider>,
    end_points: Option<Vec<EndPoint>>,
    #[serde(deserialize_with = "skills")]
    skills: Vec<SkillClaim>,
}

#[derive(serde::Deserialize)]
struct EndPoint {
    url: String,
}

impl From<Specification> for AgentCard {
    fn from(spec: Specification) -> Self {
        let end_points = spec.end_points.unwrap_or_default();
        Self {
            form: CardForm::Acs,
            aic: spec.aic.and_then(|code| code.0),
            active: spec.active.unwrap_or(true),
            name: spec.name.0,
            description: spec.description.unwrap_or_default(),
            version: spec.version.unwrap_or_default(),
            provider: organization(spec.provider),
            protocol_version: spec.protocol_version.unwrap_or_default(),
            endpoints: each_once(end_points.into_iter().map(|at| at.url)),
            skills: spec.skills,
        }
    }
}

/// An agent identity code in upper case; `None` = the text is empty, as before it is issued.
struct Code(Option<String>);

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(Self(None));
        }
        Aic::parse(&text).map_err(D::Error::custom)?;
        Ok(Self(Some(text.to_ascii_uppercase())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"{
  "aic": "1.2.156.3088.1.1.34c2.478BDF.3GF546.0JU4",
  "active": true,
  "lastModifiedTime": "2026-03-01T09:30:00+08:00",
  "protocolVersion": "02.01",
  "name": "Harbour pilot",
  "description": "Finds berths and books tugs",
  "version": "1.4.0",
  "provider": {"organization": "Example Port Authority", "department": "Traffic", "countryCode": "NO"},
  "securitySchemes": {"mtls": {"type": "mutualTLS"}},
  "endPoints": [
    {"url": "https://pilot.example/rpc", "transport": "JSONRPC", "security": [{"mtls": []}]},
    {"url": "https://pilot.example/rpc", "transport": "HTTP_JSON"},
    {"url": "https://pilot.example/stream", "transport": "SSE"}
  ],
  "capabilities": {"streaming": true, "messageQueue": []},
  "defaultInputModes": ["application/json"],
  "defaultOutputModes": ["application/json"],
  "skills": [
    {"id": "harbour.berth", "name": "Find a berth", "version": "1.0.0", "description": "Free berths by draught",
     "tags": ["harbour", "berth"], "examples": ["Where can a ship of nine metres draught lie?"]},
    {"id": "harbour.tug", "name": "Book a tug", "version": "1.0.0", "description": "Tugs by the hour", "tags": ["tug"]}
  ]
}"#;

    fn parse(text: &str) -> Result<AgentCard, String> {
        AgentCard::parse(text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_specification_is_read_as_it_is() {
        let card = parse(FULL).expect("reads");
        assert_eq!((card.form, card.active), (CardForm::Acs, true));
        let aic = "1.2.156.3088.1.1.34C2.478BDF.3GF546.0JU4";
        assert_eq!(card.aic.as_deref(), Some(aic), "in upper case");
        assert_eq!(
            (card.name.as_str(), card.provider.as_str()),
            ("Harbour pilot", "Example Port Authority")
        );
        assert_eq!(
            (card.version.as_str(), card.protocol_version.as_str()),
            ("1.4.0", "02.01")
        );
        let endpoints = ["https://pilot.example/rpc", "https://pilot.example/stream"];
        assert_eq!(card.endpoints, endpoints);
        let ids: Vec<_> = card.skills.iter().map(|skill| skill.id.as_str()).collect();
        assert_eq!(ids, ["harbour.berth", "harbour.tug"]);
        assert_eq!(card.skills[0].tags, ["harbour", "berth"]);
    }

    #[test]
    fn either_mark_is_enough_and_other_fields_of_agent_cards_are_left_alone() {
        let small = |fields: &str| parse(&format!(r#"{{"name": "x", "skills": []{fields}}}"#));
        let acs = |fields: &str| small(fields).expect(fields);
        assert_eq!(acs(r#", "endPoints": []"#).form, CardForm::Acs);
        let inactive = acs(r#", "endPoints": [], "active": false"#);
        assert!(!inactive.active && inactive.aic.is_none());
        // A code that is not issued yet.
        let early = acs(r#", "aic": """#);
        assert_eq!((early.form, early.aic), (CardForm::Acs, None));
        for fields in [
            "",
            r#", "active": "sometimes""#,
            r#", "active": false"#,
            r#", "aic": null, "endPoints": null"#,
            r#", "deep": {"aic": "1", "endPoints": []}"#,
        ] {
            let card = acs(fields);
            assert_eq!((card.form, card.active), (CardForm::A2a, true), "{fields}");
        }
    }

    #[test]
    fn faults_are_told_with_their_place() {
        let cases = [
            (
                r#"{"name": "x", "skills": [], "aic": 7}"#,
                "agent card 1:36: aic: invalid type: integer `7`",
            ),
            (
                r#"{"name": "x", "skills": [], "aic": "1.2.156"}"#,
                "aic: not a peer's name at byte 7: an AIC has ten levels",
            ),
            (
                r#"{"name": "x", "skills": [], "aic": "", "active": "no"}"#,
                "active: invalid type: string \"no\", expected a boolean",
            ),
            (
                r#"{"name": "x", "skills": [], "endPoints": [{"transport": "SSE"}]}"#,
                "endPoints[0]: missing field `url`",
            ),
            (
                r#"{"name": "x", "skills": [], "aic": "", "aic": ""}"#,
                "duplicate field `aic`",
            ),
            (r#"{"skills": [], "aic": ""}"#, "missing field `name`"),
            (r#"{"name": "x", "aic": ""}"#, "missing field `skills`"),
        ];
        for (text, due) in cases {
            let told = parse(text).expect_err(text);
            assert!(
                told.contains(due),
                "{text}\n  said {told}\n  expected {due}"
            );
        }
    }

    #[test]
    fn every_truncation_is_an_error_and_none_a_panic() {
        for end in 0..FULL.len() {
            AgentCard::parse(&FULL.as_bytes()[..end]).expect_err("cut short");
        }
    }
}
