//! The records of the desired state: what a store keeps, key and value.
//!
//! Values are protobuf (field numbers are for ever, new fields may be added), so
//! that a store outlives the program's versions. Nothing here validates: records
//! are made by [`crate::change`] only. Refuses to know indexes, routes and redb.

use std::sync::Arc;

use caplane_wire::Label;
use prost::Message;

mod key;
mod pending;
mod policy;

pub use key::ObjectKey;
pub use pending::{Outcome, PendingRecord, UndoCard, UndoRecord};
pub use policy::{
    ClassRateRecord, GroupOf, PolicerRecord, PolicyRecord, RateRecord, SelectorRecord,
    policy_group, policy_group_parts,
};

/// What a grant's class path says when it means "whatever its skills are classified as".
pub const ANY_CLASS: &str = "*";

/// Name of tenant 0.
pub const SHARED_TENANT: &str = "shared";

/// A tenant.
#[derive(Clone, PartialEq, Message)]
pub struct TenantRecord {
    /// Unique name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Number in headers; 0 = shared.
    #[prost(uint32, tag = "2")]
    pub id: u32,
    /// Name of the policer that holds its agents; empty = the routers' default.
    #[prost(string, tag = "3")]
    pub policer: String,
    /// Its agents may connect to others directly.
    #[prost(bool, tag = "4")]
    pub direct: bool,
}

/// An agent; its card is kept apart (see [`crate::store`]).
#[derive(Clone, PartialEq, Message)]
pub struct AgentRecord {
    /// Certificate URI.
    #[prost(string, tag = "1")]
    pub uri: String,
    /// 24-bit agent number.
    #[prost(uint32, tag = "2")]
    pub number: u32,
    /// Tenant number.
    #[prost(uint32, tag = "3")]
    pub tenant: u32,
    /// 1..=65535.
    #[prost(uint32, tag = "4")]
    pub weight: u32,
    /// 0 = until withdrawn.
    #[prost(uint32, tag = "5")]
    pub lease_seconds: u32,
    /// 0..=7; `None` = the default.
    #[prost(uint32, optional, tag = "6")]
    pub priority_max: Option<u32>,
    /// Last renewal, in milliseconds since the Unix epoch.
    #[prost(uint64, tag = "7")]
    pub renewed_unix_ms: u64,
    /// The card's name; empty without a card.
    #[prost(string, tag = "8")]
    pub name: String,
    /// The card's provider.
    #[prost(string, tag = "9")]
    pub provider: String,
    /// The card's skills, in order.
    #[prost(message, repeated, tag = "10")]
    pub skills: Vec<SkillRecord>,
    /// The identity code that its capability specification names, upper-case; empty without one.
    #[prost(string, tag = "11")]
    pub aic: String,
    /// Its capability specification says that it serves nothing now.
    #[prost(bool, tag = "12")]
    pub inactive: bool,
    /// Number of its policy; 0 = it names none.
    #[prost(uint32, tag = "13")]
    pub policy: u32,
    /// The operator says that it serves nothing now.
    #[prost(bool, tag = "14")]
    pub out_of_service: bool,
    /// Where it runs, from large to small; may be empty.
    #[prost(string, tag = "15")]
    pub locality: String,
    /// What using it costs.
    #[prost(uint32, tag = "16")]
    pub cost: u32,
    /// The card's version.
    #[prost(string, tag = "17")]
    pub version: String,
    /// Where the card says that it can be reached directly.
    #[prost(string, repeated, tag = "18")]
    pub endpoints: Vec<String>,
    /// Tags of the card's skills, in lower case, sorted, each once.
    #[prost(string, repeated, tag = "19")]
    pub tags: Vec<String>,
}

/// A skill of a card, as the classifier decided.
#[derive(Clone, PartialEq, Message)]
pub struct SkillRecord {
    /// Unique within the card.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Name for people.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Class label; 0 = waiting for an operator.
    #[prost(uint32, tag = "3")]
    pub class: u32,
    /// "exact", "alias", "text", "waiting".
    #[prost(string, tag = "4")]
    pub matched_by: String,
    /// 1.0 = exact.
    #[prost(double, tag = "5")]
    pub score: f64,
    /// The evidence in words.
    #[prost(string, tag = "6")]
    pub provenance: String,
}

/// A grant (R4).
#[derive(Clone, PartialEq, Message)]
pub struct GrantRecord {
    /// Certificate URI; need not be registered.
    #[prost(string, tag = "1")]
    pub agent: String,
    /// Class path or [`ANY_CLASS`].
    #[prost(string, tag = "2")]
    pub class_path: String,
    /// Label of the path; 0 for [`ANY_CLASS`] and for a path the taxonomy lost.
    #[prost(uint32, tag = "3")]
    pub class: u32,
    /// 0 = the agent's weight.
    #[prost(uint32, tag = "4")]
    pub weight: u32,
    /// What it covers is not served now.
    #[prost(bool, tag = "5")]
    pub out_of_service: bool,
}

/// A skill put in a class by an operator.
#[derive(Clone, PartialEq, Message)]
pub struct OverrideRecord {
    /// Certificate URI.
    #[prost(string, tag = "1")]
    pub agent: String,
    /// The skill's id.
    #[prost(string, tag = "2")]
    pub skill: String,
    /// Class path.
    #[prost(string, tag = "3")]
    pub class_path: String,
    /// Label of the path; 0 when the taxonomy lost it.
    #[prost(uint32, tag = "4")]
    pub class: u32,
}

/// A router.
#[derive(Clone, PartialEq, Message)]
pub struct RouterRecord {
    /// Unique name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Certificate URI.
    #[prost(string, tag = "2")]
    pub uri: String,
    /// Router number; its label is `router:<number>`.
    #[prost(uint32, tag = "3")]
    pub number: u32,
    /// `host:port`, as the router last said; empty while unknown.
    #[prost(string, tag = "4")]
    pub address: String,
    /// Generation that brought it: a table held from before was another router's.
    #[prost(uint64, tag = "5")]
    pub since_generation: u64,
}

/// A link; `a` sorts before `b`.
#[derive(Clone, PartialEq, Message)]
pub struct LinkRecord {
    /// Router name.
    #[prost(string, tag = "1")]
    pub a: String,
    /// Router name.
    #[prost(string, tag = "2")]
    pub b: String,
    /// 1..=65535.
    #[prost(uint32, tag = "3")]
    pub cost: u32,
}

/// Lets one tenant reach classes of another.
#[derive(Clone, PartialEq, Message)]
pub struct PermissionRecord {
    /// Tenant number.
    #[prost(uint32, tag = "1")]
    pub from: u32,
    /// Tenant number.
    #[prost(uint32, tag = "2")]
    pub to: u32,
    /// Class path; empty = all.
    #[prost(string, tag = "3")]
    pub class_path: String,
    /// Label of the path; 0 for all, and for a path the taxonomy lost.
    #[prost(uint32, tag = "4")]
    pub class: u32,
}

/// A multicast group.
#[derive(Clone, PartialEq, Message)]
pub struct GroupRecord {
    /// Unique name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Tenant number.
    #[prost(uint32, tag = "2")]
    pub tenant: u32,
    /// Group number; its label is `group:<number>`.
    #[prost(uint32, tag = "3")]
    pub number: u32,
    /// Members, sorted; only those registered in the same tenant count.
    #[prost(string, repeated, tag = "4")]
    pub agents: Vec<String>,
}

/// An attached instance.
#[derive(Clone, PartialEq, Message)]
pub struct AttachmentRecord {
    /// Label bits with the instance number.
    #[prost(uint32, tag = "1")]
    pub label: u32,
    /// Router number.
    #[prost(uint32, tag = "2")]
    pub router: u32,
    /// The instance's name; may be empty.
    #[prost(string, tag = "3")]
    pub instance_name: String,
    /// When it attached, in milliseconds since the Unix epoch.
    #[prost(uint64, tag = "4")]
    pub since_unix_ms: u64,
}

/// A Write that held, remembered so that it is not done twice.
#[derive(Clone, PartialEq, Message)]
pub struct RequestRecord {
    /// Certificate URI of the caller.
    #[prost(string, tag = "1")]
    pub caller: String,
    /// The idempotency key it chose.
    #[prost(string, tag = "2")]
    pub key: String,
    /// SHA-256 of the request.
    #[prost(bytes = "vec", tag = "3")]
    pub digest: Vec<u8>,
    /// The generation that holds it.
    #[prost(uint64, tag = "4")]
    pub generation: u64,
    /// When it is forgotten, in milliseconds since the Unix epoch.
    #[prost(uint64, tag = "5")]
    pub end_unix_ms: u64,
    /// Updates that were refused.
    #[prost(message, repeated, tag = "6")]
    pub refused: Vec<RefusedUpdate>,
    /// The first generation that holds some of it: the name of what waits to be confirmed. 0 = as `generation`.
    #[prost(uint64, tag = "7")]
    pub first_generation: u64,
}

impl RequestRecord {
    /// Names what waits to be confirmed of it.
    #[must_use]
    pub fn commit(&self) -> u64 {
        match self.first_generation {
            0 => self.generation,
            first => first,
        }
    }
}

/// One update of a [`RequestRecord`] that was refused.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct RefusedUpdate {
    /// Its place.
    #[prost(uint32, tag = "1")]
    pub index: u32,
    /// The gRPC code it was answered with.
    #[prost(int32, tag = "2")]
    pub code: i32,
}

/// The next number to hand out of one kind.
#[derive(Clone, PartialEq, Message)]
pub struct CounterRecord {
    /// [`CounterKind`] as a number.
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    /// Tried first.
    #[prost(uint32, tag = "2")]
    pub next: u32,
}

/// What numbers are handed out for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum CounterKind {
    /// 1..=2^24-1.
    Agent = 1,
    /// 1..=2^30-1.
    Router = 2,
    /// 1..=2^30-1.
    Group = 3,
    /// 1..=2^28-1, so that `tenant * 8 + priority` numbers a policy group below those of policies.
    Tenant = 4,
    /// 1..=2^28-1.
    Policy = 5,
}

impl CounterKind {
    fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Agent,
            2 => Self::Router,
            3 => Self::Group,
            4 => Self::Tenant,
            5 => Self::Policy,
            _ => return None,
        })
    }
}

/// One object of the desired state.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// The next number of a kind.
    Counter(CounterRecord),
    /// See [`TenantRecord`].
    Tenant(TenantRecord),
    /// See [`AgentRecord`].
    Agent(Arc<AgentRecord>),
    /// See [`GrantRecord`].
    Grant(GrantRecord),
    /// See [`OverrideRecord`].
    Override(OverrideRecord),
    /// See [`RouterRecord`].
    Router(RouterRecord),
    /// See [`LinkRecord`].
    Link(LinkRecord),
    /// See [`PermissionRecord`].
    Permission(PermissionRecord),
    /// See [`GroupRecord`].
    Group(GroupRecord),
    /// See [`AttachmentRecord`].
    Attachment(AttachmentRecord),
    /// See [`RequestRecord`].
    Request(Arc<RequestRecord>),
    /// See [`PendingRecord`].
    Pending(Arc<PendingRecord>),
    /// See [`PolicyRecord`].
    Policy(Arc<PolicyRecord>),
    /// See [`PolicerRecord`].
    Policer(Arc<PolicerRecord>),
}

/// A stored value that this program cannot read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("stored record of kind {tag}: {cause}; was the store written by a newer version?")]
pub struct RecordError {
    /// The kind's number.
    pub tag: u8,
    /// What is wrong.
    pub cause: String,
}

impl Object {
    /// The key that names this object.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Counter(r) => ObjectKey::Counter(
                CounterKind::from_number(r.kind).expect("made from a kind or checked by decode"),
            ),
            Self::Tenant(r) => ObjectKey::Tenant(r.name.clone()),
            Self::Agent(r) => ObjectKey::Agent(r.uri.clone()),
            Self::Grant(r) => ObjectKey::Grant(r.agent.clone(), r.class_path.clone()),
            Self::Override(r) => ObjectKey::Override(r.agent.clone(), r.skill.clone()),
            Self::Router(r) => ObjectKey::Router(r.name.clone()),
            Self::Link(r) => ObjectKey::Link(r.a.clone(), r.b.clone()),
            Self::Permission(r) => ObjectKey::Permission(r.from, r.to, r.class_path.clone()),
            Self::Group(r) => ObjectKey::Group(r.name.clone()),
            Self::Attachment(r) => ObjectKey::Attachment(r.label),
            Self::Request(r) => ObjectKey::Request(r.caller.clone(), r.key.clone()),
            Self::Pending(r) => ObjectKey::Pending(r.generation),
            Self::Policy(r) => ObjectKey::Policy(r.name.clone()),
            Self::Policer(r) => ObjectKey::Policer(r.name.clone()),
        }
    }

    /// The stored value.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Counter(r) => r.encode_to_vec(),
            Self::Tenant(r) => r.encode_to_vec(),
            Self::Agent(r) => r.encode_to_vec(),
            Self::Grant(r) => r.encode_to_vec(),
            Self::Override(r) => r.encode_to_vec(),
            Self::Router(r) => r.encode_to_vec(),
            Self::Link(r) => r.encode_to_vec(),
            Self::Permission(r) => r.encode_to_vec(),
            Self::Group(r) => r.encode_to_vec(),
            Self::Attachment(r) => r.encode_to_vec(),
            Self::Request(r) => r.encode_to_vec(),
            Self::Pending(r) => r.encode_to_vec(),
            Self::Policy(r) => r.encode_to_vec(),
            Self::Policer(r) => r.encode_to_vec(),
        }
    }

    /// Reads a stored value of the kind `tag`.
    ///
    /// # Errors
    /// An unknown kind, a value that is no record of it, or numbers that make no label.
    pub fn from_bytes(tag: u8, value: &[u8]) -> Result<Self, RecordError> {
        let refuse = |cause: String| RecordError { tag, cause };
        fn read<T: Message + Default>(tag: u8, value: &[u8]) -> Result<T, RecordError> {
            T::decode(value).map_err(|e| RecordError {
                tag,
                cause: e.to_string(),
            })
        }
        let object = match tag {
            1 => {
                let record: CounterRecord = read(tag, value)?;
                if CounterKind::from_number(record.kind).is_none() {
                    return Err(refuse(format!("counter {} is unknown", record.kind)));
                }
                Self::Counter(record)
            }
            2 => Self::Tenant(read(tag, value)?),
            3 => Self::Agent(Arc::new(read(tag, value)?)),
            4 => Self::Grant(read(tag, value)?),
            5 => Self::Override(read(tag, value)?),
            6 => Self::Router(read(tag, value)?),
            7 => Self::Link(read(tag, value)?),
            8 => Self::Permission(read(tag, value)?),
            9 => Self::Group(read(tag, value)?),
            10 => Self::Attachment(read(tag, value)?),
            12 => Self::Request(Arc::new(read(tag, value)?)),
            13 => {
                let record: PendingRecord = read(tag, value)?;
                for undo in &record.undo {
                    undo.parts()?;
                }
                Self::Pending(Arc::new(record))
            }
            15 => Self::Policy(Arc::new(read(tag, value)?)),
            16 => Self::Policer(Arc::new(read(tag, value)?)),
            _ => return Err(refuse("the kind is unknown".into())),
        };
        match object.number_out_of_range() {
            None => Ok(object),
            Some(number) => Err(refuse(format!("{number} is no number of the kind"))),
        }
    }

    /// A number in the record that the allocator never hands out.
    fn number_out_of_range(&self) -> Option<u32> {
        let check = |kind: CounterKind, number: u32| {
            (number == 0 || number > kind.largest()).then_some(number)
        };
        let most = |kind: CounterKind, number: u32| (number > kind.largest()).then_some(number);
        let tenant = |number: u32| most(CounterKind::Tenant, number);
        match self {
            Self::Counter(_)
            | Self::Grant(_)
            | Self::Override(_)
            | Self::Link(_)
            | Self::Request(_)
            | Self::Pending(_) => None,
            Self::Tenant(r) => tenant(r.id),
            Self::Permission(r) => tenant(r.from).or(tenant(r.to)),
            Self::Agent(r) => check(CounterKind::Agent, r.number)
                .or(tenant(r.tenant))
                .or(most(CounterKind::Policy, r.policy)),
            Self::Policy(r) => {
                check(CounterKind::Policy, r.number).or(r.tenants().find_map(tenant))
            }
            Self::Policer(r) => r.tenants().find_map(tenant),
            Self::Router(r) => check(CounterKind::Router, r.number),
            Self::Group(r) => check(CounterKind::Group, r.number).or(tenant(r.tenant)),
            Self::Attachment(r) => {
                let label = (!Label::from_bits(r.label).is_instance()).then_some(r.label);
                label.or(check(CounterKind::Router, r.router))
            }
        }
    }
}

/// Highest priority of an agent that says nothing: 7 is the fabric's own (notices).
pub const PRIORITY_MAX_DEFAULT: u8 = 6;

impl AgentRecord {
    /// `agent:<number>`, any instance.
    #[must_use]
    pub fn label(&self) -> Label {
        Label::agent(self.number, 0).expect("the allocator hands out 24-bit numbers")
    }

    /// Highest priority in force.
    #[must_use]
    pub fn priority(&self) -> u8 {
        self.priority_max
            .map_or(PRIORITY_MAX_DEFAULT, |p| p.min(7) as u8)
    }

    /// Number of its policy group.
    #[must_use]
    pub fn policy(&self) -> u32 {
        let of = match self.policy {
            0 => GroupOf::Tenant(self.tenant),
            number => GroupOf::Policy(number),
        };
        policy_group(of, self.priority())
    }

    /// Whether it serves no class, whatever it is granted.
    #[must_use]
    pub fn serves_nothing(&self) -> bool {
        self.inactive || self.out_of_service
    }
}

impl RouterRecord {
    /// `router:<number>`.
    #[must_use]
    pub fn label(&self) -> Label {
        router_label(self.number)
    }
}

impl GroupRecord {
    /// `group:<number>`.
    #[must_use]
    pub fn label(&self) -> Label {
        Label::group(self.number).expect("the allocator hands out 30-bit numbers")
    }
}

impl AttachmentRecord {
    /// The instance's label.
    #[must_use]
    pub fn label(&self) -> Label {
        Label::from_bits(self.label)
    }

    /// Label of the router it is attached to.
    #[must_use]
    pub fn router(&self) -> Label {
        router_label(self.router)
    }
}

/// `router:<number>` of a number that the allocator handed out.
#[must_use]
pub fn router_label(number: u32) -> Label {
    Label::router(number).expect("the allocator hands out 30-bit numbers")
}
