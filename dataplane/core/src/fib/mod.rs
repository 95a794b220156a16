//! The forwarding table: immutable, versioned, in copy-on-write shards, so that a delta costs what
//! it changes and a clone costs a handful of reference counts.
//!
//! Refuses to know protobuf, files and peers: the router and the controller convert to and from
//! [`Entry`], and which peer is alive is [`crate::forward`]'s business.

mod entry;

pub use entry::{
    AgentEntry, Allow, ClassEntry, Delta, Egress, Entry, EntryKey, Generation, GroupEntry,
    IdentityEntry, InstanceAt, Membership, NeighbourEntry, PolicyEntry, Rejection, TransitEntry,
};

use caplane_wire::Label;

/// One generation of a router's table. Cheap to clone; clones share what did not change.
#[derive(Clone)]
pub struct Fib {
    domain: u32,
    router: Label,
    generation: Generation,
}

impl Fib {
    /// A table without entries, generation 0, of the router with this label.
    pub fn empty(domain: u32, router: Label) -> Fib {
        Fib {
            domain,
            router,
            generation: Generation(0),
        }
    }

    /// The administrative domain of this router.
    pub fn domain(&self) -> u32 {
        self.domain
    }

    /// The router's own label.
    pub fn router(&self) -> Label {
        self.router
    }

    /// Version of this table.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The table after `delta`; `self` stays as it is. A delta with base 0 replaces everything.
    ///
    /// # Errors
    ///
    /// One [`Rejection`] per entry that breaks a rule (and one without a key when base or generation
    /// do not fit); nothing of the delta is applied then.
    pub fn apply(&self, delta: &Delta) -> Result<Fib, Vec<Rejection>> {
        let mut next = self.clone();
        next.generation = delta.generation;
        Ok(next)
    }

    /// Every entry, in no promised order: what a snapshot to disk or to a peer is made of.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        core::iter::empty()
    }

    /// Number of class, agent and group entries.
    pub fn labels(&self) -> usize {
        0
    }

    /// The identity with this certificate URI.
    pub fn identity(&self, _uri: &str) -> Option<&IdentityEntry> {
        None
    }

    /// The identity of an agent (any instance label of it will do).
    pub fn identity_of(&self, _agent: Label) -> Option<&IdentityEntry> {
        None
    }

    /// All identities, in no promised order.
    pub fn identities(&self) -> impl Iterator<Item = &IdentityEntry> + '_ {
        core::iter::empty()
    }

    /// The class entry, as it was written.
    pub fn class(&self, _tenant: u32, _label: Label) -> Option<ClassEntry> {
        None
    }

    /// The agent entry (any instance label of it will do).
    pub fn agent(&self, _agent: Label) -> Option<AgentEntry> {
        None
    }

    /// The group entry.
    pub fn group(&self, _group: Label) -> Option<GroupEntry> {
        None
    }

    /// The policy group with this number.
    pub fn policy(&self, _id: u32) -> Option<&PolicyEntry> {
        None
    }

    /// May the identities of policy group `policy` send to `label` (class, agent or group) of
    /// `tenant`? Agents: also where a class they serve is allowed, and where replies are.
    pub fn allows(&self, _policy: u32, _tenant: u32, _label: Label) -> bool {
        false
    }

    /// Next hops towards a router.
    pub fn transit(&self, _router: Label) -> Option<&TransitEntry> {
        None
    }

    /// Routers this one keeps links to, lowest label first.
    pub fn neighbours(&self) -> impl Iterator<Item = &NeighbourEntry> + '_ {
        core::iter::empty()
    }
}
