//! The load of the speed bars: 10,000 distinct labels and flows, 64-byte messages, slabs full of them.
//! Shared by the benches and by the tests that hold the bars.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use caplane_core::fib::*;
use caplane_core::forward::{ForwarderConfig, PeerKey, PeerRole};
use caplane_core::{Fib, Forwarder, Now};
use caplane_wire::{HeaderRepr, Label, TrafficClass};

pub const LABELS: usize = 10_000;
/// Messages of one call: what 256 KiB of slab hold.
pub const BATCH: usize = 4_096;
pub const CLASS: TrafficClass = TrafficClass::from_index(4);
pub const NOW: Now = Now {
    mono: Duration::from_secs(1),
    unix_us: 1,
};

pub fn router(number: u32) -> Label {
    Label::router(number).unwrap()
}

pub fn class(n: usize) -> Label {
    Label::class(1 + (n / 1_000) as u16, 1 + (n % 1_000) as u16, 0).unwrap()
}

pub fn peer(slot: u32) -> PeerKey {
    PeerKey { worker: 0, slot }
}

pub fn agent(number: u32, instance: u8) -> Label {
    Label::agent(number, instance).unwrap()
}

/// Router 1. Agent 1 asks; `receivers` agents serve the classes in turn, or router 2 does.
pub fn table(labels: usize, receivers: usize, remote: bool) -> Fib {
    let mut upserts = vec![
        policy(None, vec![]),
        Entry::Neighbour(NeighbourEntry {
            router: router(2),
            name: "b".into(),
            uri: "spiffe://d/router/b".into(),
            address: String::new(),
            dial: true,
            cost: 1,
        }),
        Entry::Transit(TransitEntry {
            router: router(2),
            next_hops: vec![router(2)],
            alternates: vec![],
        }),
    ];
    let egress = router(if remote { 2 } else { 1 });
    for n in 0..labels {
        let members = vec![Egress {
            router: egress,
            weight: 100,
        }];
        upserts.push(Entry::Class(ClassEntry {
            tenant: 1,
            label: class(n),
            own: members.clone(),
            subtree: members,
        }));
    }
    for number in 0..=receivers {
        let served = (0..labels).filter(|n| number > 0 && n % receivers == number - 1);
        let number = 1 + number as u32;
        upserts.push(Entry::Identity(IdentityEntry {
            uri: format!("spiffe://d/{number}"),
            agent: agent(number, 0),
            tenant: 1,
            policy: 1,
            classes: served
                .map(|n| Membership {
                    tenant: 1,
                    label: class(n),
                    weight: 100,
                })
                .collect(),
            groups: vec![],
        }));
        upserts.push(Entry::Agent(AgentEntry {
            label: agent(number, 0),
            tenant: 1,
            instances: vec![InstanceAt {
                instance: 1,
                router: router(1),
                weight: 100,
            }],
        }));
    }
    let delta = Delta {
        generation: Generation(1),
        upserts,
        ..Delta::default()
    };
    match Fib::empty(1, router(1)).apply(&delta) {
        Ok(fib) => fib,
        Err(rejections) => panic!("{}", rejections[0]),
    }
}

/// The policy group of every agent: all that its tenant has is allowed.
fn policy(rate: Option<Rate>, class_rates: Vec<ClassRate>) -> Entry {
    Entry::Policy(PolicyEntry {
        id: 1,
        tenant: 1,
        allow: vec![Allow {
            tenant: 1,
            label: Label::NONE,
        }],
        reply_tenants: vec![],
        reply_all: false,
        priority_max: 6,
        rate,
        class_rates,
    })
}

pub fn forwarder(receivers: usize, remote: bool) -> Forwarder {
    let fib = table(LABELS, receivers, remote);
    configured(ForwarderConfig::default(), fib, receivers)
}

/// One to one; every message is looked up in the tables.
pub fn forgetful() -> Forwarder {
    let config = ForwarderConfig {
        decisions_remembered: 0,
        ..ForwarderConfig::default()
    };
    configured(config, table(LABELS, 1, false), 1)
}

/// One to one; every message passes a rate for all and one for its class, that are never reached.
pub fn metered() -> Forwarder {
    let rate = Rate {
        messages_per_second: 1_000_000_000,
        bytes_per_second: 100_000_000_000,
        burst_ms: 1_000,
    };
    let of_class = |level_1| ClassRate {
        tenant: 1,
        label: Label::class(level_1, 0, 0).unwrap(),
        rate,
    };
    let delta = Delta {
        base: Generation(1),
        generation: Generation(2),
        upserts: vec![policy(
            Some(rate),
            (1..=(LABELS / 1_000) as u16).map(of_class).collect(),
        )],
        ..Delta::default()
    };
    match table(LABELS, 1, false).apply(&delta) {
        Ok(fib) => configured(ForwarderConfig::default(), fib, 1),
        Err(rejections) => panic!("{}", rejections[0]),
    }
}

fn configured(config: ForwarderConfig, fib: Fib, receivers: usize) -> Forwarder {
    let mut forwarder = Forwarder::new(config, Arc::new(fib));
    for number in 1..=receivers as u32 + 1 {
        let role = PeerRole::Instance {
            uri: format!("spiffe://d/{number}"),
            label: agent(number, 1),
        };
        forwarder.peer_up(peer(number), role).unwrap();
    }
    forwarder
        .peer_up(peer(0), PeerRole::Neighbour { router: router(2) })
        .unwrap();
    forwarder
}

/// Slabs of 64-byte messages, every label and flow in a scattered order; `label` is what is switched on.
pub fn slabs(label: impl Fn(usize) -> Label) -> Vec<Vec<u8>> {
    let slab = |slab: usize| {
        let message = |at: usize| {
            let n = (slab * BATCH + at) * 7_919 % LABELS;
            message(agent(1, 1), label(n), class(n), n as u64)
        };
        (0..BATCH).flat_map(message).collect()
    };
    (0..LABELS.div_ceil(BATCH) * 5).map(slab).collect()
}

/// 64 bytes.
fn message(source_label: Label, label: Label, requested_label: Label, flow: u64) -> Vec<u8> {
    let header = HeaderRepr {
        class: CLASS,
        source_label,
        source_domain: 1,
        tenant: 1,
        label,
        requested_label,
        flow,
        payload_len: 16,
        ..HeaderRepr::default()
    };
    let mut bytes = header.to_bytes().to_vec();
    bytes.resize(64, 0xa5);
    bytes
}

/// One slab through the forwarder and out again.
pub fn pass(forwarder: &mut Forwarder, from: u32, mut data: BytesMut) -> usize {
    let progress = forwarder.lane(NOW, peer(from), 0, CLASS, &mut data);
    assert_eq!(progress.map(|progress| progress.messages), Ok(BATCH as u32));
    drain(forwarder)
}

/// Everything queued, handed on; its bytes.
pub fn drain(forwarder: &mut Forwarder) -> usize {
    let mut sent = 0;
    while let Some(peer) = forwarder.dirty() {
        while let Some(out) = forwarder.dequeue(peer, 1 << 18, |_, _| true) {
            sent += black_box(out).data.len();
        }
    }
    sent
}

/// Ingress with so many labels, all at router 2, and slabs that ask for them at random.
pub fn scattered(labels: usize) -> (Forwarder, Vec<Vec<u8>>) {
    let fib = Arc::new(table(labels, 0, true));
    let mut forwarder = instances(fib, 1..=1);
    forwarder
        .peer_up(peer(0), PeerRole::Neighbour { router: router(2) })
        .unwrap();
    let mut state = 1u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize % labels
    };
    let mut slab = |_| {
        let messages = (0..BATCH).map(|_| random());
        let messages = messages.map(|n| message(agent(1, 1), class(n), class(n), n as u64));
        messages.flatten().collect()
    };
    (forwarder, (0..100).map(&mut slab).collect())
}

/// Many to many: so many senders, receivers and classes, every receiver serves every class, 10,000 flows in all.
pub struct Crowd {
    pub forwarder: Forwarder,
    /// One lane's bytes for each sender.
    pub lanes: Vec<Vec<u8>>,
}

/// Members of each kind.
pub const CROWD: usize = 10;
/// Messages of one lane in one pass: 26 KB, what a busy connection brings in a tick.
pub const CROWD_BATCH: usize = 410;

fn identity(number: u32, classes: Vec<Membership>, groups: Vec<Label>) -> Entry {
    Entry::Identity(IdentityEntry {
        uri: format!("spiffe://d/{number}"),
        agent: agent(number, 0),
        tenant: 1,
        policy: 1,
        classes,
        groups,
    })
}

fn applied(fib: &Fib, upserts: Vec<Entry>) -> Arc<Fib> {
    let base = fib.generation();
    let delta = Delta {
        base,
        generation: Generation(base.0 + 1),
        upserts,
        ..Delta::default()
    };
    match fib.apply(&delta) {
        Ok(fib) => Arc::new(fib),
        Err(rejections) => panic!("{}", rejections[0]),
    }
}

fn instances(fib: Arc<Fib>, numbers: impl Iterator<Item = u32>) -> Forwarder {
    let mut forwarder = Forwarder::new(Default::default(), fib);
    for number in numbers {
        let role = PeerRole::Instance {
            uri: format!("spiffe://d/{number}"),
            label: agent(number, 1),
        };
        forwarder.peer_up(peer(number), role).unwrap();
    }
    forwarder
}

/// Senders are agents and peers 1 to 10, receivers 11 to 20.
pub fn crowd() -> Crowd {
    let classes = (0..CROWD).map(|n| Membership {
        tenant: 1,
        label: class(n),
        weight: 100,
    });
    let classes: Vec<Membership> = classes.collect();
    let identities = (1..=2 * CROWD as u32).map(|number| match number as usize > CROWD {
        true => identity(number, classes.clone(), vec![]),
        false => identity(number, vec![], vec![]),
    });
    let fib = applied(&table(CROWD, 0, false), identities.collect());
    let lane = |sender: u32| {
        let message = |at: usize| {
            let flow = at * 7_919 % (LABELS / CROWD);
            let requested = class(flow % CROWD);
            message(agent(sender, 1), requested, requested, flow as u64)
        };
        (0..CROWD_BATCH).flat_map(message).collect()
    };
    Crowd {
        forwarder: instances(fib, 1..=2 * CROWD as u32),
        lanes: (1..=CROWD as u32).map(lane).collect(),
    }
}

/// Every sender's lane through the forwarder, then out to all receivers.
pub fn crowd_pass(forwarder: &mut Forwarder, lanes: Vec<BytesMut>) -> usize {
    for (sender, mut data) in (1..).zip(lanes) {
        let progress = forwarder.lane(NOW, peer(sender), 0, CLASS, &mut data);
        assert_eq!(
            progress.map(|progress| progress.messages),
            Ok(CROWD_BATCH as u32)
        );
    }
    drain(forwarder)
}

/// One sender, agent 1, and a group of ten, agents 2 to 11; their slabs ask for the group.
pub fn group() -> (Forwarder, Vec<Vec<u8>>) {
    let group = Label::group(1).unwrap();
    let mut entries: Vec<Entry> = (2..=11)
        .map(|number| identity(number, vec![], vec![group]))
        .collect();
    entries.push(identity(1, vec![], vec![]));
    entries.push(Entry::Group(GroupEntry {
        label: group,
        tenant: 1,
        routers: vec![router(1)],
    }));
    let fib = applied(&table(1, 0, false), entries);
    let slab = (0..BATCH).flat_map(|at| message(agent(1, 1), group, group, at as u64));
    (instances(fib, 1..=11), vec![slab.collect()])
}
