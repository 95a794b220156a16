//! The routers that a message meets, each as it would decide: its table compiled from the desired state as far as the
//! question needs it, and over that `caplane-core`'s own forwarder. So what it costs does not grow with the tables, but
//! with the instances attached where the message passes.
//!
//! Refuses to know what routers really hold and which links really live: links live unless the question says otherwise.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use caplane_core::fib::{Delta, Entry, EntryKey, Fib, Generation};
use caplane_core::forward::{
    Destination, Explanation, Forwarder, ForwarderConfig, NextHop, Outcome, PeerKey, PeerRole,
};
use caplane_core::{DropReason, Now};
use caplane_wire::{HEADER_LEN, Header, Label, LabelKind};

use crate::compile::{self, topology, transit};
use crate::record::AgentRecord;
use crate::rib::Rib;
use crate::spf::Paths;
use crate::tables::TableKey;

/// Routers that are asked about one message at most, counted anew for each copy: twice a hop limit of ordinary fabrics.
const VISITS_MAX: usize = 128;

/// What is not there, in thought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gone {
    Nothing,
    Link(Label, Label),
    Router(Label),
}

impl Gone {
    /// Does it part these two neighbours?
    fn parts(self, one: Label, other: Label) -> bool {
        match self {
            Self::Nothing => false,
            Self::Link(a, b) => (a, b) == (one, other) || (b, a) == (one, other),
            Self::Router(gone) => gone == one || gone == other,
        }
    }
}

/// Who sends, and from where.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub uri: String,
    pub instance: Label,
    pub router: Label,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub tenant: u32,
    pub label: Label,
}

/// What one router does with one copy.
pub(super) struct Visit {
    pub router: Label,
    pub label_in: Label,
    /// It comes from the source itself.
    pub ingress: bool,
    pub explanation: Explanation,
    /// Ways towards the egress router, where it goes on.
    pub ways: Vec<NextHop>,
}

/// All routers, as far as one question needs them.
pub(super) struct Fabric<'a> {
    rib: &'a Rib,
    source: &'a Source,
    asked: Asked,
    gone: Gone,
    paths: Paths,
    /// What all tables say.
    shared: Fib,
}

impl<'a> Fabric<'a> {
    /// `recompiled`: the tables are those that the controller makes without what is gone; else those of now.
    ///
    /// # Errors
    /// Core refuses what this controller compiled: a fault of ours, in words.
    pub(super) fn new(
        rib: &'a Rib,
        source: &'a Source,
        asked: Asked,
        gone: Gone,
        recompiled: bool,
    ) -> Result<Self, String> {
        let mut topology = topology(rib);
        let mut entries = shared_entries(rib, source, asked);
        if recompiled {
            for link in &mut topology.links {
                link.up &= !gone.parts(link.a, link.b);
            }
            if let Gone::Router(router) = gone {
                entries = entries
                    .into_iter()
                    .filter_map(|entry| without(entry, router))
                    .collect();
            }
        }
        let empty = Fib::empty(0, source.router);
        let shared = apply(&empty, Generation(0), entries)?;
        Ok(Self {
            rib,
            source,
            asked,
            gone,
            paths: Paths::new(&topology),
            shared,
        })
    }

    /// Where the message goes, router by router, every copy of it.
    ///
    /// # Errors
    /// As [`Fabric::new`].
    pub(super) fn walk(
        &mut self,
        now: Now,
        message: [u8; HEADER_LEN],
    ) -> Result<Vec<Visit>, String> {
        let mut visits = Vec::new();
        let mut due = VecDeque::from([(self.source.router, None, message)]);
        while let Some((router, from, message)) = due.pop_front() {
            if visits.len() == VISITS_MAX {
                break;
            }
            let (forwarder, neighbours) = self.router(router)?;
            let slot = |of: Label| neighbours.iter().position(|label| *label == of);
            let peer = match from {
                None => Some(INGRESS),
                Some(from) => slot(from).map(link),
            };
            let explanation = match peer {
                Some(peer) => forwarder.explain(now, peer, &message),
                None => Explanation {
                    outcome: Outcome::Refused(DropReason::UnknownPeer),
                    considered: Vec::new(),
                    considered_more: 0,
                },
            };
            let copies = match &explanation.outcome {
                Outcome::Unicast(copy) => core::slice::from_ref(copy),
                Outcome::Group { copies, .. } => &copies[..],
                Outcome::Refused(_) => &[][..],
            };
            let mut ways = Vec::new();
            for copy in copies {
                if let Destination::Router { egress, next_hop } = copy.to {
                    if matches!(explanation.outcome, Outcome::Unicast(_)) {
                        ways = forwarder.next_hops(egress);
                    }
                    due.push_back((next_hop, Some(router), copy.header));
                }
            }
            visits.push(Visit {
                router,
                label_in: Header::new_unchecked(&message).label(),
                ingress: from.is_none(),
                explanation,
                ways,
            });
        }
        Ok(visits)
    }

    /// A router's forwarder with everybody attached whom the question concerns, and its neighbours.
    fn router(&mut self, router: Label) -> Result<(Forwarder, Vec<Label>), String> {
        let rib = self.rib;
        let record = rib.router_by_label(router);
        let names = record.into_iter().flat_map(|r| rib.neighbours_of(&r.name));
        let neighbours: Vec<Label> = names
            .filter_map(|name| rib.router(name).map(|other| other.label()))
            .collect();
        let mut entries: Vec<Entry> = neighbours
            .iter()
            .map(|other| TableKey::Router(router, EntryKey::Neighbour(*other)))
            .filter_map(|key| compile::entry(rib, &key))
            .collect();
        let routes = transit(&mut self.paths, router).into_iter();
        entries.extend(routes.map(Entry::Transit));
        let here = self.here(router);
        let uris: BTreeSet<&str> = here.iter().map(|(uri, _)| uri.as_str()).collect();
        let uris = uris.into_iter();
        let unknown = uris.filter(|uri| self.shared.identity(uri).is_none());
        let keys = unknown.map(|uri| TableKey::Shared(EntryKey::Identity(uri.to_owned())));
        let identities = keys.filter_map(|key| compile::entry(rib, &key)).collect();
        entries.extend(with_policies(rib, identities, &self.shared));
        let fib = apply(
            &self.shared.for_router(router),
            self.shared.generation(),
            entries,
        )?;
        let mut forwarder = Forwarder::new(ForwarderConfig::default(), Arc::new(fib));
        let mut up = |key: PeerKey, role: PeerRole| {
            let up = forwarder.peer_up(key, role);
            up.map_err(|error| format!("{router}: {error}"))
        };
        for (at, other) in neighbours.iter().enumerate() {
            if !self.gone.parts(router, *other) {
                up(link(at), PeerRole::Neighbour { router: *other })?;
            }
        }
        for (slot, (uri, label)) in (1..).zip(here) {
            let is_source = router == self.source.router && label == self.source.instance;
            let key = match is_source {
                true => INGRESS,
                false => PeerKey { worker: 1, slot },
            };
            up(key, PeerRole::Instance { uri, label })?;
        }
        Ok((forwarder, neighbours))
    }

    /// The instances at a router whom the question concerns; the source is attached in thought, when it is not.
    fn here(&self, router: Label) -> Vec<(String, Label)> {
        let attached = self.rib.attached_at(router);
        let mut here: Vec<(String, Label)> = attached
            .filter(|label| *label != self.source.instance)
            .filter_map(|label| {
                let agent = self.rib.agent_by_number(label.agent_number())?;
                self.concerns(agent).then(|| (agent.uri.clone(), label))
            })
            .collect();
        if router == self.source.router {
            here.push((self.source.uri.clone(), self.source.instance));
        }
        here
    }

    fn concerns(&self, agent: &AgentRecord) -> bool {
        let Asked { tenant, label } = self.asked;
        match label.kind() {
            LabelKind::Class => {
                let mut members = self.rib.memberships(agent).into_iter();
                (agent.tenant == tenant || agent.tenant == 0)
                    && members.any(|m| m.class.covers(label) || label.covers(m.class))
            }
            LabelKind::Agent => agent.label() == label.any_instance(),
            LabelKind::Group => self
                .rib
                .groups_of(agent)
                .any(|group| group.label() == label),
            LabelKind::Router => false,
        }
    }
}

/// The peer that the source is, at its router.
const INGRESS: PeerKey = PeerKey { worker: 1, slot: 0 };

/// The peer that a neighbour is.
fn link(at: usize) -> PeerKey {
    PeerKey {
        worker: 0,
        slot: at as u32,
    }
}

fn apply(fib: &Fib, base: Generation, upserts: Vec<Entry>) -> Result<Fib, String> {
    let delta = Delta {
        base,
        generation: Generation(base.0 + 1),
        upserts,
        removes: Vec::new(),
    };
    fib.apply(&delta).map_err(|rejections| {
        let first = rejections.first().map(ToString::to_string);
        format!("a compiled table is refused: {}", first.unwrap_or_default())
    })
}

/// What all routers' tables have that a decision on this question can look at.
fn shared_entries(rib: &Rib, source: &Source, asked: Asked) -> Vec<Entry> {
    let mut keys = BTreeSet::from([EntryKey::Identity(source.uri.clone())]);
    let Asked { tenant, label } = asked;
    match label.kind() {
        LabelKind::Class => {
            for label in std::iter::once(label).chain(label.ancestors()) {
                for tenant in [tenant, 0] {
                    keys.insert(EntryKey::Class { tenant, label });
                }
            }
        }
        LabelKind::Agent => {
            keys.insert(EntryKey::Agent(label.any_instance()));
            let agent = rib.agent_by_number(label.agent_number());
            keys.extend(agent.map(|agent| EntryKey::Identity(agent.uri.clone())));
        }
        LabelKind::Group => {
            keys.insert(EntryKey::Group(label));
        }
        LabelKind::Router => {}
    }
    let keys = keys.into_iter().map(TableKey::Shared);
    let entries = keys.filter_map(|key| compile::entry(rib, &key)).collect();
    with_policies(rib, entries, &Fib::empty(0, source.router))
}

/// Entries, and the policy groups that their identities name and `held` lacks.
fn with_policies(rib: &Rib, mut entries: Vec<Entry>, held: &Fib) -> Vec<Entry> {
    let policies: BTreeSet<u32> = entries
        .iter()
        .filter_map(|entry| match entry {
            Entry::Identity(identity) => Some(identity.policy),
            _ => None,
        })
        .filter(|id| held.policy(*id).is_none())
        .collect();
    let keys = policies.into_iter().map(EntryKey::Policy);
    entries.extend(keys.filter_map(|key| compile::entry(rib, &TableKey::Shared(key))));
    entries
}

/// An entry as it is compiled when nobody is attached at a router; `None` = there is none then.
fn without(entry: Entry, router: Label) -> Option<Entry> {
    match entry {
        Entry::Class(mut class) => {
            class.own.retain(|at| at.router != router);
            class.subtree.retain(|at| at.router != router);
            (!class.subtree.is_empty()).then_some(Entry::Class(class))
        }
        Entry::Agent(mut agent) => {
            agent.instances.retain(|at| at.router != router);
            (!agent.instances.is_empty()).then_some(Entry::Agent(agent))
        }
        Entry::Group(mut group) => {
            group.routers.retain(|at| *at != router);
            (!group.routers.is_empty()).then_some(Entry::Group(group))
        }
        other => Some(other),
    }
}
