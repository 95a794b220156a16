//! What the fabric should look like, and the table of each router for it: shortest paths by hops, loop-free
//! alternates, members where they are attached. A controller in miniature; knows no forwarder.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use caplane_core::fib::*;
use caplane_wire::Label;

pub fn router(node: usize) -> Label {
    Label::router(node as u32 + 1).unwrap()
}

/// An agent and what it serves.
#[derive(Clone)]
pub struct Agent {
    pub number: u32,
    pub tenant: u32,
    pub classes: Vec<(Label, u32)>,
    pub groups: Vec<Label>,
}

impl Agent {
    pub fn uri(&self) -> String {
        format!("spiffe://caplane.local/agent/{}", self.number)
    }

    pub fn label(&self, instance: u8) -> Label {
        Label::agent(self.number, instance).unwrap()
    }
}

/// The desired state.
#[derive(Clone)]
pub struct Plan {
    pub nodes: usize,
    /// Declared links, lower node first.
    pub links: BTreeSet<(usize, usize)>,
    pub agents: Vec<Agent>,
    /// Attached instances as the controller knows them: (agent index, instance) -> node.
    pub attached: BTreeMap<(usize, u8), usize>,
}

impl Plan {
    /// Every entry of one node's table.
    pub fn entries(&self, node: usize) -> BTreeMap<EntryKey, Entry> {
        let mut entries = Vec::new();
        self.policies(&mut entries);
        self.identities(&mut entries);
        self.classes(&mut entries);
        self.topology(node, &mut entries);
        entries
            .into_iter()
            .map(|entry| (entry.key(), entry))
            .collect()
    }

    fn policies(&self, entries: &mut Vec<Entry>) {
        let tenants: BTreeSet<u32> = self.agents.iter().map(|agent| agent.tenant).collect();
        for tenant in &tenants {
            let allowed = BTreeSet::from([*tenant, 0]);
            let allow = allowed.iter().map(|tenant| Allow {
                tenant: *tenant,
                label: Label::NONE,
            });
            // The shared tenant answers whoever may ask it.
            let replies = if *tenant == 0 {
                tenants.iter().copied().collect()
            } else {
                vec![]
            };
            entries.push(Entry::Policy(PolicyEntry {
                id: *tenant,
                tenant: *tenant,
                allow: allow.collect(),
                reply_tenants: replies,
                reply_all: false,
                priority_max: 6,
                rate: None,
                class_rates: vec![],
            }));
        }
    }

    fn identities(&self, entries: &mut Vec<Entry>) {
        for (at, agent) in self.agents.iter().enumerate() {
            let grant = |(label, weight): &(Label, u32)| Membership {
                tenant: agent.tenant,
                label: *label,
                weight: *weight,
            };
            entries.push(Entry::Identity(IdentityEntry {
                uri: agent.uri(),
                agent: agent.label(0),
                tenant: agent.tenant,
                policy: agent.tenant,
                classes: agent.classes.iter().map(grant).collect(),
                groups: agent.groups.clone(),
            }));
            let instances = self.attached.iter().filter(|((agent, _), _)| *agent == at);
            let instances = instances.map(|((_, instance), node)| InstanceAt {
                instance: *instance,
                router: router(*node),
                weight: 1,
            });
            entries.push(Entry::Agent(AgentEntry {
                label: agent.label(0),
                tenant: agent.tenant,
                instances: instances.collect(),
            }));
        }
    }

    fn classes(&self, entries: &mut Vec<Entry>) {
        type Weights = BTreeMap<Label, u32>;
        let mut classes = BTreeMap::<(u32, Label), (Weights, Weights)>::new();
        let mut groups = BTreeMap::<Label, (u32, BTreeSet<Label>)>::new();
        for ((agent, _), node) in &self.attached {
            let agent = &self.agents[*agent];
            let router = router(*node);
            for (label, weight) in &agent.classes {
                for at in std::iter::once(*label).chain(label.ancestors()) {
                    let (own, subtree) = classes.entry((agent.tenant, at)).or_default();
                    *subtree.entry(router).or_default() += weight;
                    if at == *label {
                        *own.entry(router).or_default() += weight;
                    }
                }
            }
            for group in &agent.groups {
                groups
                    .entry(*group)
                    .or_insert((agent.tenant, BTreeSet::new()))
                    .1
                    .insert(router);
            }
        }
        let egress = |weights: Weights| {
            let weights = weights.into_iter();
            weights
                .map(|(router, weight)| Egress { router, weight })
                .collect()
        };
        for ((tenant, label), (own, subtree)) in classes {
            let (own, subtree) = (egress(own), egress(subtree));
            entries.push(Entry::Class(ClassEntry {
                tenant,
                label,
                own,
                subtree,
            }));
        }
        for (label, (tenant, routers)) in groups {
            let routers = routers.into_iter().collect();
            entries.push(Entry::Group(GroupEntry {
                label,
                tenant,
                routers,
            }));
        }
    }

    fn neighbours(&self, node: usize) -> Vec<usize> {
        let links = self.links.iter();
        let mut neighbours: Vec<_> = links
            .filter_map(|(a, b)| match (*a == node, *b == node) {
                (true, _) => Some(*b),
                (_, true) => Some(*a),
                _ => None,
            })
            .collect();
        neighbours.sort_unstable();
        neighbours
    }

    /// Hops from `from` to every node; `usize::MAX` = no way.
    fn distances(&self, from: usize) -> Vec<usize> {
        let mut distance = vec![usize::MAX; self.nodes];
        distance[from] = 0;
        let mut queue = VecDeque::from([from]);
        while let Some(node) = queue.pop_front() {
            for next in self.neighbours(node) {
                if distance[next] == usize::MAX {
                    distance[next] = distance[node] + 1;
                    queue.push_back(next);
                }
            }
        }
        distance
    }

    fn topology(&self, node: usize, entries: &mut Vec<Entry>) {
        let neighbours = self.neighbours(node);
        for far in &neighbours {
            entries.push(Entry::Neighbour(NeighbourEntry {
                router: router(*far),
                name: format!("r{far}"),
                uri: format!("spiffe://caplane.local/router/r{far}"),
                address: String::new(),
                dial: node < *far,
                cost: 1,
            }));
        }
        let own = self.distances(node);
        let theirs: Vec<_> = neighbours
            .iter()
            .map(|n| (*n, self.distances(*n)))
            .collect();
        for far in (0..self.nodes).filter(|far| *far != node && own[*far] != usize::MAX) {
            let on_path = |(_, d): &&(usize, Vec<usize>)| d[far] + 1 == own[far];
            // RFC 5286 inequality 1: dist(N, D) < dist(N, S) + dist(S, D).
            let loop_free = |(_, d): &&(usize, Vec<usize>)| {
                d[far] + 1 > own[far] && d[far] != usize::MAX && d[far] < d[node] + own[far]
            };
            let label = |(n, _): &(usize, Vec<usize>)| router(*n);
            entries.push(Entry::Transit(TransitEntry {
                router: router(far),
                next_hops: theirs.iter().filter(on_path).map(label).collect(),
                alternates: theirs.iter().filter(loop_free).map(label).collect(),
            }));
        }
    }
}

/// The difference between two generations of one node's table.
pub fn difference(
    old: &BTreeMap<EntryKey, Entry>,
    new: &BTreeMap<EntryKey, Entry>,
    base: Generation,
    generation: Generation,
) -> Delta {
    let changed = new
        .iter()
        .filter(|(key, entry)| old.get(key) != Some(entry));
    let gone = old.keys().filter(|key| !new.contains_key(key));
    Delta {
        base,
        generation,
        upserts: changed.map(|(_, entry)| entry.clone()).collect(),
        removes: gone.cloned().collect(),
    }
}
