//! Shortest paths and loop-free alternates over the declared topology.

use std::collections::BTreeSet;

use caplane_wire::Label;

/// Routers and the links between them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    /// Router labels.
    pub routers: BTreeSet<Label>,
    /// Links; one whose end is not in `routers` is ignored.
    pub links: Vec<Link>,
}

/// A link between two routers, both ways at the same cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// One end.
    pub a: Label,
    /// The other end.
    pub b: Label,
    /// 1..=65535; 0 counts as 1.
    pub cost: u32,
    /// False: not used.
    pub up: bool,
}

/// How one router reaches another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The router to reach.
    pub to: Label,
    /// Sum of link costs along a shortest path.
    pub cost: u64,
    /// Neighbours on shortest paths, lowest label first; never empty.
    pub next_hops: Vec<Label>,
    /// Loop-free alternates (RFC 5286), best first.
    pub alternates: Vec<Label>,
}

impl Topology {
    /// Routes from one router to every other it can reach, in label order.
    #[must_use]
    pub fn routes_from(&self, _router: Label) -> Vec<Route> {
        Vec::new()
    }
}
