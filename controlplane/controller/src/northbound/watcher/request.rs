//! What a watch asks for, and the tokens it goes on from.

use std::fmt;

use caplane_proto::v1;
use caplane_proto::v1::read_request::Kind;

use crate::change::{Fault, Refusal};
use crate::commit::State;
use crate::feed::EntityKey;

/// All that can be watched, in the order in which things stand on each other.
const KINDS: [(Kind, &str); 11] = [
    (Kind::Policer, "POLICER"),
    (Kind::Tenant, "TENANT"),
    (Kind::Policy, "POLICY"),
    (Kind::Router, "ROUTER"),
    (Kind::Link, "LINK"),
    (Kind::Agent, "AGENT"),
    (Kind::Grant, "GRANT"),
    (Kind::SkillOverride, "SKILL_OVERRIDE"),
    (Kind::Permission, "PERMISSION"),
    (Kind::Group, "GROUP"),
    (Kind::PendingCommit, "PENDING_COMMIT"),
];

/// What is watched.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Each once, in the order of [`KINDS`].
    pub(super) kinds: Vec<Kind>,
    /// As `ReadRequest.key`; empty = all.
    pub(super) key: String,
    /// Agents with their cards.
    pub(super) cards: bool,
}

impl Wanted {
    /// Whether an entity is watched.
    pub(super) fn wants(&self, key: &EntityKey) -> bool {
        let (kind, is_key) = match key {
            EntityKey::Tenant(name) => (Kind::Tenant, self.key == *name),
            EntityKey::Router(name) => (Kind::Router, self.key == *name),
            EntityKey::Link(a, b) => (Kind::Link, self.key == *a || self.key == *b),
            EntityKey::Agent(uri) => (Kind::Agent, self.key == *uri),
            EntityKey::Grant(agent, _) => (Kind::Grant, self.key == *agent),
            EntityKey::Override(agent, _) => (Kind::SkillOverride, self.key == *agent),
            EntityKey::Permission(from, ..) => (Kind::Permission, self.key == *from),
            EntityKey::Group(name) => (Kind::Group, self.key == *name),
            EntityKey::Policy(name) => (Kind::Policy, self.key == *name),
            EntityKey::Policer(name) => (Kind::Policer, self.key == *name),
            EntityKey::Pending(generation) => {
                (Kind::PendingCommit, self.key == generation.to_string())
            }
        };
        self.kinds.contains(&kind) && (self.key.is_empty() || is_key)
    }
}

/// Where a watch begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// With what changes from now on.
    Now,
    /// With everything as it is.
    Everything,
    /// After what was told before.
    After(Token),
}

/// A place in the changes of one run of one controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    store_id: String,
    run: u64,
    generation: u64,
}

/// The token of a generation, now.
pub(super) fn token(state: &State, generation: u64) -> String {
    Token::of(&state.store_id(), state.feed().run(), generation).to_string()
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:x}:{}", self.store_id, self.run, self.generation)
    }
}

impl Token {
    pub(super) fn of(store_id: &str, run: u64, generation: u64) -> Self {
        Self {
            store_id: store_id.to_owned(),
            run,
            generation,
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.rsplitn(3, ':');
        let generation = parts.next()?.parse().ok()?;
        let run = u64::from_str_radix(parts.next()?, 16).ok()?;
        Some(Self::of(parts.next()?, run, generation))
    }

    /// The generation to go on from, or why that cannot be.
    pub(super) fn place(&self, state: &State) -> Result<u64, String> {
        let feed = state.feed();
        if self.store_id != state.store_id() {
            return Err("it is of another store".into());
        }
        if self.generation > feed.newest() {
            return Err("it is of a generation that is not there yet".into());
        }
        // Of a run before, the last generation is the only one that this run knows what came after it.
        if self.run != feed.run() && self.generation != feed.first() {
            return Err(
                "the controller started anew since, and remembers no changes of before".into(),
            );
        }
        Ok(self.generation)
    }
}

/// Checks what is asked for.
pub(super) fn check(request: v1::WatchRequest) -> Result<(Wanted, Begin), Refusal> {
    let mut asked = Vec::new();
    for number in &request.kinds {
        let kind = Kind::try_from(*number).unwrap_or_default();
        if !KINDS.iter().any(|(known, _)| *known == kind) {
            return Err(kind_refused(kind, *number));
        }
        asked.push(kind);
    }
    let kinds = KINDS.iter().map(|(kind, _)| *kind);
    let kinds = kinds.filter(|kind| asked.is_empty() || asked.contains(kind));
    let begin = match (request.initial, request.resume.as_str()) {
        (false, "") => Begin::Now,
        (true, "") => Begin::Everything,
        (false, text) => Begin::After(Token::parse(text).ok_or_else(|| {
            let remedy = "use `resume` of a message that Watch sent, as it is";
            Refusal::new(Fault::Invalid, "resume", text, "is no token", remedy)
        })?),
        (true, text) => {
            let reason = "means nothing when everything is to be told";
            let remedy = "leave out `resume` or `initial`";
            return Err(Refusal::new(Fault::Invalid, "resume", text, reason, remedy));
        }
    };
    let wanted = Wanted {
        kinds: kinds.collect(),
        key: request.key,
        cards: !request.omit_cards,
    };
    Ok((wanted, begin))
}

fn kind_refused(kind: Kind, number: i32) -> Refusal {
    let (reason, remedy) = match kind {
        Kind::Class => (
            "changes only when the controller starts anew",
            "Read classes".to_owned(),
        ),
        _ => (
            "is no kind",
            format!(
                "use some of {}, or none for all",
                KINDS.map(|k| k.1).join(", ")
            ),
        ),
    };
    let refusal = Refusal::new(Fault::Invalid, "kinds", number, reason, remedy);
    refusal.accepting(KINDS.map(|(_, name)| name))
}
