//! What a table is made of: one variant per resource of the southbound API, same field names.
//! Refuses to know how entries are stored (`edge`, `people`, `transit`) or how they travel.

use caplane_wire::Label;

/// Version of a forwarding table: monotonic within one store of the controller; 0 = no table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl core::fmt::Display for Generation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One resource of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Egress routers of a class.
    Class(ClassEntry),
    /// Where the instances of an agent are attached.
    Agent(AgentEntry),
    /// Egress routers of a group.
    Group(GroupEntry),
    /// Who may attach, and what it serves.
    Identity(IdentityEntry),
    /// What identities of one group may reach.
    Policy(PolicyEntry),
    /// Next hops towards a router.
    Transit(TransitEntry),
    /// A router this one keeps a link to.
    Neighbour(NeighbourEntry),
}

impl Entry {
    /// The key that names this entry in a remove and in a rejection.
    pub fn key(&self) -> EntryKey {
        match self {
            Entry::Class(e) => EntryKey::Class {
                tenant: e.tenant,
                label: e.label,
            },
            Entry::Agent(e) => EntryKey::Agent(e.label),
            Entry::Group(e) => EntryKey::Group(e.label),
            Entry::Identity(e) => EntryKey::Identity(e.uri.clone()),
            Entry::Policy(e) => EntryKey::Policy(e.id),
            Entry::Transit(e) => EntryKey::Transit(e.router),
            Entry::Neighbour(e) => EntryKey::Neighbour(e.router),
        }
    }
}

/// Names one entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKey {
    /// A class of a tenant.
    Class {
        /// Tenant of the class; 0 = shared.
        tenant: u32,
        /// Class label.
        label: Label,
    },
    /// Agent label, instance 0.
    Agent(Label),
    /// Group label.
    Group(Label),
    /// Certificate URI.
    Identity(String),
    /// Policy group number.
    Policy(u32),
    /// Router label.
    Transit(Label),
    /// Router label.
    Neighbour(Label),
}

impl core::fmt::Display for EntryKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            EntryKey::Class { tenant, label } => {
                write!(f, "class route {label} of tenant {tenant}")
            }
            EntryKey::Agent(label) => write!(f, "agent route {label}"),
            EntryKey::Group(label) => write!(f, "group route {label}"),
            EntryKey::Identity(uri) => write!(f, "identity {uri}"),
            EntryKey::Policy(id) => write!(f, "policy group {id}"),
            EntryKey::Transit(label) => write!(f, "transit route {label}"),
            EntryKey::Neighbour(label) => write!(f, "neighbour {label}"),
        }
    }
}

/// Egress routers with members of a class (R8, R9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassEntry {
    /// Tenant of the class; 0 = shared.
    pub tenant: u32,
    /// Class label.
    pub label: Label,
    /// Members granted exactly this class.
    pub own: Vec<Egress>,
    /// Members granted this class or anything below it: a superset of `own`.
    pub subtree: Vec<Egress>,
}

/// An egress router and its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Egress {
    /// Router label.
    pub router: Label,
    /// Sum of the members' weights there; at least 1.
    pub weight: u32,
}

/// Where the instances of one agent are attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentEntry {
    /// Agent label, instance 0.
    pub label: Label,
    /// The agent's tenant.
    pub tenant: u32,
    /// At most 63.
    pub instances: Vec<InstanceAt>,
}

/// One attached instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InstanceAt {
    /// 1..=63.
    pub instance: u8,
    /// Router label.
    pub router: Label,
    /// At least 1.
    pub weight: u32,
}

/// Egress routers with members of a group (R28).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupEntry {
    /// Group label.
    pub label: Label,
    /// The group's tenant.
    pub tenant: u32,
    /// Router labels, each once.
    pub routers: Vec<Label>,
}

/// Who may attach, and what it serves once attached (R2, R4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityEntry {
    /// The one URI SAN of its certificate.
    pub uri: String,
    /// Agent label, instance 0.
    pub agent: Label,
    /// The agent's tenant.
    pub tenant: u32,
    /// Policy group number.
    pub policy: u32,
    /// Classes it serves.
    pub classes: Vec<Membership>,
    /// Groups it belongs to (group labels).
    pub groups: Vec<Label>,
}

/// A class an identity serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Membership {
    /// Tenant of the class; 0 = shared.
    pub tenant: u32,
    /// Class label.
    pub label: Label,
    /// Share among the members, 1..=65535.
    pub weight: u32,
}

/// What the identities of one group may reach (R13, R15).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyEntry {
    /// Policy group number.
    pub id: u32,
    /// The group's own tenant.
    pub tenant: u32,
    /// Everything not listed is denied.
    pub allow: Vec<Allow>,
    /// Tenants that this group may answer by unicast.
    pub reply_tenants: Vec<u32>,
    /// It may answer every tenant.
    pub reply_all: bool,
    /// Highest priority, 0..=7; higher ones are lowered to it.
    pub priority_max: u8,
    /// What each attached instance may send in all; `None` = the router's default.
    pub rate: Option<Rate>,
    /// What each attached instance may send to single classes, besides.
    pub class_rates: Vec<ClassRate>,
}

/// A limit of what one attached instance sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Messages a second, at most [`Rate::MAX`]; 0 = no limit.
    pub messages_per_second: u64,
    /// Bytes a second, headers included, at most [`Rate::MAX`]; 0 = no limit.
    pub bytes_per_second: u64,
    /// So many milliseconds of the rate may come at once after a pause, at most [`Rate::BURST_MS_MAX`]; 0 = 100.
    pub burst_ms: u32,
}

impl Rate {
    /// No limit at all.
    pub const UNLIMITED: Rate = Rate {
        messages_per_second: 0,
        bytes_per_second: 0,
        burst_ms: 0,
    };
    /// Highest limit: 100 billion a second, above any link.
    pub const MAX: u64 = 100_000_000_000;
    /// Longest burst: 10 s.
    pub const BURST_MS_MAX: u32 = 10_000;

    /// Is nothing limited?
    pub fn is_unlimited(&self) -> bool {
        self.messages_per_second == 0 && self.bytes_per_second == 0
    }

    /// How much time of the rate may come at once.
    pub fn burst(&self) -> core::time::Duration {
        let ms = if self.burst_ms == 0 {
            100
        } else {
            self.burst_ms
        };
        core::time::Duration::from_millis(ms.into())
    }
}

/// A limit of what one attached instance sends to a class and everything below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClassRate {
    /// Tenant of the class, as it is asked for; 0 = shared.
    pub tenant: u32,
    /// Class label. Of several that cover the class asked for, the lowest in the tree counts.
    pub label: Label,
    /// The limit.
    pub rate: Rate,
}

/// One permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Allow {
    /// Tenant of the destination.
    pub tenant: u32,
    /// This class and everything below it; `Label::NONE` = every class, agent and group of the tenant.
    pub label: Label,
}

/// Next hops towards a router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransitEntry {
    /// Router label of the far end.
    pub router: Label,
    /// Neighbours on shortest paths.
    pub next_hops: Vec<Label>,
    /// Loop-free alternates (RFC 5286), best first.
    pub alternates: Vec<Label>,
}

/// A router this one keeps a link to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeighbourEntry {
    /// Router label.
    pub router: Label,
    /// Name, for people.
    pub name: String,
    /// The URI SAN its certificate must carry.
    pub uri: String,
    /// `host:port`; empty while unknown.
    pub address: String,
    /// True on the side that dials.
    pub dial: bool,
    /// Link cost, at least 1.
    pub cost: u32,
}

/// A change of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// The generation this is a difference to; 0 = a snapshot, replacing everything.
    pub base: Generation,
    /// The generation held afterwards.
    pub generation: Generation,
    /// Entries that are new or changed (full assignment).
    pub upserts: Vec<Entry>,
    /// Entries that are gone; one that is not there is no error.
    pub removes: Vec<EntryKey>,
}

/// Why an entry, or the whole delta, was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The entry; `None` = the delta itself (wrong base, generation going back).
    pub key: Option<EntryKey>,
    /// What is wrong, with the values, for a person.
    pub reason: String,
}

impl core::fmt::Display for Rejection {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{key}: {}", self.reason),
            None => write!(f, "update: {}", self.reason),
        }
    }
}
