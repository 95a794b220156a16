//! Who takes part: agents made of cards, attached to the last router, and a
//! requester attached to the first.

use std::path::Path;

use caplane_client::{Client, ClientConfig, Credentials, Destination, Query, TrustBundle};
use caplane_proto::v1;

use crate::fabric::{AgentIdentity, Fabric};
use crate::failure::{Exit, Failure};
use crate::output::clean;

/// Tenant of everybody here: tenant 0.
const TENANT: &str = "shared";
/// Name of the requester, also for `caplane request --as requester`.
const REQUESTER: &str = "requester";
/// The requester claims no skill.
const REQUESTER_CARD: &str =
    r#"{"name": "Requester", "description": "Asks", "version": "1.0.0", "skills": []}"#;

/// An agent card, with what the requester will ask for.
#[derive(Debug, Clone)]
pub(super) struct Card {
    name: String,
    need: String,
    bytes: Vec<u8>,
}

/// An attached agent and what it was found by.
pub(super) struct Actor {
    pub(super) name: String,
    pub(super) client: Client,
    /// What the requester asked for, in words.
    pub(super) need: String,
    /// What that was resolved to, once.
    pub(super) destination: Destination,
    /// Path of that class.
    pub(super) class: String,
}

/// Everybody.
pub(super) struct Cast {
    pub(super) agents: Vec<Actor>,
    pub(super) requester: Client,
    /// Classes of the taxonomy that have a member now.
    pub(super) classes: usize,
    /// Generation that every router forwards by.
    pub(super) generation: u64,
}

impl Cast {
    /// Everybody says goodbye.
    pub(super) async fn leave(&self) {
        self.requester.close().await;
        for agent in &self.agents {
            agent.client.close().await;
        }
    }
}

/// The built-in cards, or every `*.json` of a folder, in name order.
pub(super) fn read_cards(folder: Option<&Path>) -> Result<Vec<Card>, Failure> {
    let Some(folder) = folder else {
        return [
            (
                "convert currency",
                include_str!("../../cards/money-changer.json"),
            ),
            ("book a hotel", include_str!("../../cards/room-finder.json")),
            (
                "book air tickets",
                include_str!("../../cards/ticket-desk.json"),
            ),
        ]
        .into_iter()
        .map(|(need, text)| read_card(text.as_bytes(), Some(need), "a built-in card"))
        .collect();
    };
    let unreadable = |path: &Path, error: &dyn std::fmt::Display| {
        Failure::new(
            Exit::Usage,
            format!(
                "cannot read {}: {error}; name a folder of agent cards with --cards",
                path.display()
            ),
        )
    };
    let entries = std::fs::read_dir(folder).map_err(|error| unreadable(folder, &error))?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "json")
    });
    paths.sort();
    if paths.is_empty() {
        return Err(unreadable(folder, &"it holds no *.json"));
    }
    paths
        .iter()
        .map(|path| {
            let bytes = std::fs::read(path).map_err(|error| unreadable(path, &error))?;
            read_card(&bytes, None, &path.display().to_string())
        })
        .collect()
}

/// Reads no more of a card than a name for its certificate and a need to ask for: its first skill.
fn read_card(bytes: &[u8], need: Option<&str>, whence: &str) -> Result<Card, Failure> {
    #[derive(serde::Deserialize)]
    struct Outline {
        name: String,
        skills: Vec<Skill>,
    }
    #[derive(serde::Deserialize)]
    struct Skill {
        name: String,
    }
    let outline: Outline = serde_json::from_slice(bytes).map_err(|error| {
        Failure::new(Exit::Usage, format!("{whence}: not an agent card: {error}"))
    })?;
    let need = need
        .map(str::to_owned)
        .or_else(|| outline.skills.first().map(|skill| skill.name.clone()));
    let need = need.ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            format!("{whence}: the card has no skill to ask for"),
        )
    })?;
    let name: String = outline
        .name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .take(crate::pki::NAME_BYTES_MAX)
        .collect();
    Ok(Card {
        name,
        need,
        bytes: bytes.to_vec(),
    })
}

/// Registers and attaches everybody, and resolves every need once.
pub(super) async fn assemble(fabric: &mut Fabric, cards: &[Card]) -> Result<Cast, Failure> {
    let first = fabric.routers().next().unwrap_or_default().to_owned();
    let last = fabric.routers().next_back().unwrap_or_default().to_owned();
    let mut attached = Vec::new();
    for card in cards {
        let identity = fabric.issue_agent(TENANT, &card.name)?;
        let agent = fabric
            .register_agent(&identity, &card.bytes, |_| {})
            .await?;
        tell(&agent);
        attached.push((card, identity));
    }
    let asker = fabric.issue_agent(TENANT, REQUESTER)?;
    fabric
        .register_agent(&asker, REQUESTER_CARD.as_bytes(), |_| {})
        .await?;
    fabric.wait_live().await?;
    let mut clients = Vec::new();
    for (card, identity) in &attached {
        clients.push((*card, attach(fabric, identity, &last).await?));
    }
    let requester = attach(fabric, &asker, &first).await?;
    let generation = fabric.wait_instances(clients.len() as u32 + 1).await?;
    let mut agents = Vec::new();
    for (card, client) in clients {
        let (destination, class) = resolve(&requester, &card.need).await?;
        eprintln!(
            "need       {:?} -> {class} {destination}, resolved once",
            card.need
        );
        agents.push(Actor {
            name: card.name.clone(),
            client,
            need: card.need.clone(),
            destination,
            class,
        });
    }
    let classes = fabric.api().classes().await?;
    let classes = classes.iter().filter(|class| class.instances > 0).count();
    Ok(Cast {
        agents,
        requester,
        classes,
        generation,
    })
}

fn tell(agent: &v1::Agent) {
    for skill in &agent.skills {
        let class = match skill.class_path.as_str() {
            "" => "waits for an operator",
            path => path,
        };
        eprintln!(
            "agent      {}: skill {} -> {class} ({:.2})",
            clean(&agent.name),
            clean(&skill.id),
            skill.score
        );
    }
}

async fn attach(
    fabric: &Fabric,
    identity: &AgentIdentity,
    router: &str,
) -> Result<Client, Failure> {
    let unusable =
        |error: caplane_client::CredentialsError| Failure::new(Exit::Failed, error.to_string());
    let mut trust = TrustBundle::new();
    trust
        .add_file(fabric.authority().trust_domain(), &fabric.roots())
        .map_err(unusable)?;
    let credentials = Credentials::from_files(&identity.files.chain, &identity.files.key, trust)
        .map_err(unusable)?;
    let config =
        ClientConfig::new([fabric.router_address(router)?], credentials).instance_name("up");
    Ok(Client::attach(config).await?)
}

/// The best class for a need that somebody serves now.
async fn resolve(requester: &Client, need: &str) -> Result<(Destination, String), Failure> {
    let candidates = requester.resolve(Query::Text(need.to_owned())).await?;
    let served = candidates.iter().find(|candidate| candidate.members > 0);
    let best = served.or(candidates.first()).ok_or_else(|| {
        Failure::new(
            Exit::NotFound,
            format!("the fabric knows no class for {need:?}"),
        )
    })?;
    let destination = Destination::try_from(best).map_err(|label| {
        Failure::new(
            Exit::Failed,
            format!("the router resolved {need:?} to {label}, which is no destination"),
        )
    })?;
    Ok((destination, clean(&best.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_cards_are_cards() {
        let cards = read_cards(None).expect("cards");
        let names: Vec<_> = cards.iter().map(|card| card.name.as_str()).collect();
        assert_eq!(names, ["money-changer", "room-finder", "ticket-desk"]);
        assert_eq!(cards[0].need, "convert currency");
    }

    #[test]
    fn cards_of_a_folder_are_asked_for_by_their_first_skill() {
        let folder = tempfile::tempdir().expect("folder");
        let error = read_cards(Some(folder.path()))
            .expect_err("empty")
            .to_string();
        assert!(error.contains("it holds no *.json"), "{error}");
        let card = r#"{"name": "Über Agent", "skills": [{"id": "x", "name": "Do X"}]}"#;
        std::fs::write(folder.path().join("b.json"), card).expect("written");
        std::fs::write(folder.path().join("a.txt"), "no card").expect("written");
        let cards = read_cards(Some(folder.path())).expect("cards");
        assert_eq!(
            (cards[0].name.as_str(), cards[0].need.as_str()),
            ("-ber-agent", "Do X")
        );
        std::fs::write(folder.path().join("c.json"), "{\"name\": 1}").expect("written");
        let error = read_cards(Some(folder.path()))
            .expect_err("broken")
            .to_string();
        assert!(
            error.contains("c.json: not an agent card: ") && error.contains("line 1 column"),
            "{error}"
        );
    }
}
