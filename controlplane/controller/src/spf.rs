//! Shortest paths and loop-free alternates over the declared topology.
//!
//! Pure: routers are labels, links have costs, nothing here knows addresses,
//! connections or tables.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use caplane_wire::Label;

/// Routers and the links between them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    /// Router labels.
    pub routers: BTreeSet<Label>,
    /// Links; one whose end is not in `routers`, or that is a loop, is ignored.
    /// Of several links between the same two the cheapest that is up counts.
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
    /// Loop-free alternates (RFC 5286), best first: those that also avoid every
    /// next hop before those that avoid only its link, then by cost, then by label.
    pub alternates: Vec<Label>,
}

impl Topology {
    /// Routes from one router to every other it can reach, in label order.
    /// A router that is not in the topology has none.
    #[must_use]
    pub fn routes_from(&self, router: Label) -> Vec<Route> {
        Paths::new(self).routes_from(router)
    }
}

/// The topology with the distances that were asked for so far: cheaper than
/// [`Topology::routes_from`] when every router's routes are wanted.
#[derive(Debug, Default)]
pub struct Paths {
    neighbours: BTreeMap<Label, BTreeMap<Label, u64>>,
    distances: BTreeMap<Label, BTreeMap<Label, u64>>,
}

impl Paths {
    /// Reads the topology; no path is computed yet.
    #[must_use]
    pub fn new(topology: &Topology) -> Self {
        let mut neighbours: BTreeMap<Label, BTreeMap<Label, u64>> = topology
            .routers
            .iter()
            .map(|&router| (router, BTreeMap::new()))
            .collect();
        for link in topology
            .links
            .iter()
            .filter(|link| link.up && link.a != link.b)
        {
            if !topology.routers.contains(&link.a) || !topology.routers.contains(&link.b) {
                continue;
            }
            for (from, to) in [(link.a, link.b), (link.b, link.a)] {
                let cost = neighbours
                    .entry(from)
                    .or_default()
                    .entry(to)
                    .or_insert(u64::MAX);
                *cost = (*cost).min(u64::from(link.cost.max(1)));
            }
        }
        Self {
            neighbours,
            distances: BTreeMap::new(),
        }
    }

    /// Routes from one router to every other it can reach, in label order.
    pub fn routes_from(&mut self, router: Label) -> Vec<Route> {
        let Some(neighbours) = self.neighbours.get(&router).cloned() else {
            return Vec::new();
        };
        self.need(router);
        for &neighbour in neighbours.keys() {
            self.need(neighbour);
        }
        let targets: Vec<(Label, u64)> = self.distances[&router]
            .iter()
            .filter(|(to, _)| **to != router)
            .map(|(&to, &cost)| (to, cost))
            .collect();
        targets
            .into_iter()
            .map(|(to, cost)| self.route(router, &neighbours, to, cost))
            .collect()
    }

    fn route(&self, from: Label, neighbours: &BTreeMap<Label, u64>, to: Label, cost: u64) -> Route {
        let mut next_hops = Vec::new();
        let mut alternates = Vec::new();
        for (&neighbour, &link) in neighbours {
            let Some(rest) = self.distance(neighbour, to) else {
                continue;
            };
            if link + rest == cost {
                next_hops.push(neighbour);
            // RFC 5286 inequality 1: the neighbour's own way does not lead back through us.
            } else if self
                .distance(neighbour, from)
                .is_some_and(|back| rest < back + cost)
            {
                alternates.push((link + rest, neighbour));
            }
        }
        // RFC 5286 inequality 3: its way does not lead through a next hop either.
        let avoids_next_hops = |alternate: Label| {
            next_hops.iter().all(|&hop| {
                match (
                    self.distance(alternate, to),
                    self.distance(alternate, hop),
                    self.distance(hop, to),
                ) {
                    (Some(own), Some(to_hop), Some(onwards)) => own < to_hop + onwards,
                    _ => false,
                }
            })
        };
        alternates.sort_by_key(|&(cost, label)| (!avoids_next_hops(label), cost, label));
        let alternates = alternates.into_iter().map(|(_, label)| label).collect();
        Route {
            to,
            cost,
            next_hops,
            alternates,
        }
    }

    fn distance(&self, from: Label, to: Label) -> Option<u64> {
        self.distances.get(&from)?.get(&to).copied()
    }

    /// Dijkstra from one router, once.
    fn need(&mut self, from: Label) {
        if self.distances.contains_key(&from) {
            return;
        }
        let mut reached: BTreeMap<Label, u64> = BTreeMap::new();
        let mut frontier = BinaryHeap::from([Reverse((0_u64, from))]);
        while let Some(Reverse((cost, router))) = frontier.pop() {
            if reached.contains_key(&router) {
                continue;
            }
            reached.insert(router, cost);
            for (&next, &link) in self.neighbours.get(&router).into_iter().flatten() {
                if !reached.contains_key(&next) {
                    frontier.push(Reverse((cost + link, next)));
                }
            }
        }
        self.distances.insert(from, reached);
    }
}

#[cfg(test)]
mod tests;
