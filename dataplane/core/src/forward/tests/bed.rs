//! A forwarder with peers to try things on: short names for tables, messages and what came out.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use caplane_wire::{
    Flags, HEADER_LEN, Header, HeaderRepr, Kind, LANE_MESSAGE_MAX, Label, Messages, Notice,
    TrafficClass,
};

use super::super::*;
use crate::fib::{
    AgentEntry, Allow, ClassEntry, Delta, Egress, Entry, Generation, GroupEntry, IdentityEntry,
    InstanceAt, Membership, NeighbourEntry, PolicyEntry, TransitEntry,
};
use crate::{DropReason, Now};

pub const CLASS: TrafficClass = TrafficClass::from_index(4); // priority 2, drop
pub const BLOCKING: TrafficClass = TrafficClass::from_index(5); // priority 2, block
pub const NOW: Now = Now {
    mono: core::time::Duration::from_secs(1),
    unix_us: 1_000_000,
};

pub fn router(number: u32) -> Label {
    Label::router(number).unwrap()
}

pub fn agent(number: u32, instance: u8) -> Label {
    Label::agent(number, instance).unwrap()
}

pub fn label(text: &str) -> Label {
    text.parse().unwrap()
}

pub fn peer(slot: u32) -> PeerKey {
    PeerKey { worker: 0, slot }
}

pub fn class_at(tenant: u32, text: &str, own: &[u32], subtree: &[u32]) -> Entry {
    let egress = |routers: &[u32]| {
        let routers = routers.iter();
        routers
            .map(|n| Egress {
                router: router(*n),
                weight: 100,
            })
            .collect()
    };
    let (own, subtree) = (egress(own), egress(subtree));
    Entry::Class(ClassEntry {
        tenant,
        label: label(text),
        own,
        subtree,
    })
}

pub fn agent_at(number: u32, tenant: u32, instances: &[(u8, u32)]) -> Entry {
    let at = |(instance, at): &(u8, u32)| InstanceAt {
        instance: *instance,
        router: router(*at),
        weight: 100,
    };
    Entry::Agent(AgentEntry {
        label: agent(number, 0),
        tenant,
        instances: instances.iter().map(at).collect(),
    })
}

pub fn group_at(number: u32, tenant: u32, routers: &[u32]) -> Entry {
    Entry::Group(GroupEntry {
        label: Label::group(number).unwrap(),
        tenant,
        routers: routers.iter().map(|n| router(*n)).collect(),
    })
}

/// Identity of agent `number`; serves `classes` of its tenant with the weight given.
pub fn identity(number: u32, tenant: u32, classes: &[(&str, u32)], groups: &[u32]) -> Entry {
    Entry::Identity(IdentityEntry {
        uri: uri(number),
        agent: agent(number, 0),
        tenant,
        policy: tenant,
        classes: classes
            .iter()
            .map(|(text, weight)| Membership {
                tenant,
                label: label(text),
                weight: *weight,
            })
            .collect(),
        groups: groups.iter().map(|n| Label::group(*n).unwrap()).collect(),
    })
}

pub fn uri(number: u32) -> String {
    format!("spiffe://caplane.local/agent/{number}")
}

/// Policy group `tenant`: everything of these tenants; may answer `replies`.
pub fn policy(tenant: u32, allow: &[u32], replies: &[u32]) -> Entry {
    let allow = allow.iter().map(|tenant| Allow {
        tenant: *tenant,
        label: Label::NONE,
    });
    Entry::Policy(PolicyEntry {
        id: tenant,
        tenant,
        allow: allow.collect(),
        reply_tenants: replies.to_vec(),
        reply_all: false,
        priority_max: 6,
        rate: None,
        class_rates: vec![],
    })
}

/// A neighbour, and the routers behind it (itself included).
pub fn link(to: u32, behind: &[u32], alternates: &[u32]) -> Vec<Entry> {
    let mut entries = vec![Entry::Neighbour(NeighbourEntry {
        router: router(to),
        name: format!("r{to}"),
        uri: format!("spiffe://caplane.local/router/r{to}"),
        address: String::new(),
        dial: true,
        cost: 1,
    })];
    entries.extend(behind.iter().map(|far| {
        Entry::Transit(TransitEntry {
            router: router(*far),
            next_hops: vec![router(to)],
            alternates: alternates.iter().map(|n| router(*n)).collect(),
        })
    }));
    entries
}

pub fn table(own: u32, entries: Vec<Entry>) -> Arc<Fib> {
    let delta = Delta {
        generation: Generation(1),
        upserts: entries,
        ..Delta::default()
    };
    match Fib::empty(7, router(own)).apply(&delta) {
        Ok(fib) => Arc::new(fib),
        Err(rejections) => panic!("{rejections:?}"),
    }
}

/// What the tests say about a message; the rest is ordinary.
pub struct Message(pub HeaderRepr);

pub fn message(from: Label, to: &str) -> Message {
    Message(HeaderRepr {
        class: CLASS,
        source_label: from,
        source_domain: 7,
        label: label(to),
        requested_label: label(to),
        payload_len: 16,
        flow: 1,
        ..HeaderRepr::default()
    })
}

impl Message {
    pub fn set(mut self, change: impl FnOnce(&mut HeaderRepr)) -> Message {
        change(&mut self.0);
        self
    }

    pub fn flow(self, flow: u64) -> Message {
        self.set(|header| header.flow = flow)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.0.to_bytes().to_vec();
        bytes.resize(bytes.len() + usize::from(self.0.extension_len), 0);
        let sequence = self.0.sequence.to_be_bytes();
        bytes.extend((0..self.0.payload_len as usize).map(|at| sequence[at % 4] ^ at as u8));
        bytes
    }
}

pub struct Bed {
    pub forwarder: Forwarder,
    pub lane: u32,
}

impl Bed {
    pub fn new(fib: Arc<Fib>) -> Bed {
        Bed::with(ForwarderConfig::default(), fib)
    }

    pub fn with(config: ForwarderConfig, fib: Arc<Fib>) -> Bed {
        Bed {
            forwarder: Forwarder::new(config, fib),
            lane: 0,
        }
    }

    /// Attaches instance `instance` of agent `number` in slot `slot`.
    pub fn attach(&mut self, slot: u32, number: u32, instance: u8) -> Label {
        let label = agent(number, instance);
        let role = PeerRole::Instance {
            uri: uri(number),
            label,
        };
        self.forwarder.peer_up(peer(slot), role).unwrap();
        label
    }

    pub fn neighbour(&mut self, slot: u32, number: u32) {
        let role = PeerRole::Neighbour {
            router: router(number),
        };
        self.forwarder.peer_up(peer(slot), role).unwrap();
    }

    /// Puts bytes on a lane; what is left over must be nothing.
    pub fn send_bytes(&mut self, slot: u32, class: TrafficClass, bytes: &[u8]) -> Progress {
        let mut data = BytesMut::with_capacity(bytes.len().max(64));
        data.put_slice(bytes);
        let lane = self.lane;
        let progress = self
            .forwarder
            .lane(NOW, peer(slot), lane, class, &mut data)
            .unwrap();
        assert!(data.is_empty() || progress.blocked);
        self.check();
        progress
    }

    pub fn send(&mut self, slot: u32, message: &Message) {
        self.send_bytes(slot, message.0.class, &message.bytes());
    }

    /// Every message queued for a peer, and the number of slices they came in.
    pub fn slices(&mut self, slot: u32) -> (Vec<Vec<u8>>, usize) {
        let (mut messages, mut slices) = (Vec::new(), 0);
        let mut bytes = Vec::new();
        while let Some(outgoing) = self.forwarder.dequeue(peer(slot), usize::MAX, |_, _| true) {
            slices += 1;
            // Pieces of one message follow each other.
            bytes.extend_from_slice(&outgoing.data);
            let mut walk = Messages::new(&bytes, LANE_MESSAGE_MAX);
            let before = messages.len();
            for message in &mut walk {
                let message = message.unwrap();
                let header = Header::new_unchecked(message);
                assert_eq!(header.class(), outgoing.class, "a lane carries its class");
                messages.push(message.to_vec());
            }
            assert!(messages.len() - before <= outgoing.messages as usize + 1);
            bytes = walk.rest().to_vec();
        }
        assert!(bytes.is_empty(), "part of a message");
        self.check();
        (messages, slices)
    }

    pub fn received(&mut self, slot: u32) -> Vec<HeaderRepr> {
        let messages = self.slices(slot).0;
        messages
            .iter()
            .map(|m| HeaderRepr::parse(&Header::new_unchecked(m)))
            .collect()
    }

    /// The only notice queued for a peer.
    pub fn notice(&mut self, slot: u32) -> Notice {
        let messages = self.slices(slot).0;
        let [message] = &messages[..] else {
            panic!("{} messages", messages.len())
        };
        assert_eq!(Header::new_unchecked(message).kind(), Kind::Notice);
        Notice::parse(&message[HEADER_LEN..]).unwrap()
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.forwarder.counters().dropped(reason)
    }

    /// Conservation holds, and the gauges agree with the queues.
    pub fn check(&self) {
        let counters = self.forwarder.counters();
        assert_eq!(counters.imbalance(), 0, "{counters:?}");
        let peers = self.forwarder.peers.iter();
        let queued: u64 = peers.map(|(_, peer)| peer.egress.totals().1).sum();
        assert_eq!(counters.queued, queued);
    }
}

pub fn no_affinity(header: &mut HeaderRepr) {
    header.flags = Flags::NONE;
}
