//! The load of the speed bars: 10,000 distinct labels and flows, 64-byte messages, slabs full of them.
//! Shared by the bench and by the test that holds the bar.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use caplane_core::fib::*;
use caplane_core::forward::{PeerKey, PeerRole};
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
    let allow = vec![Allow {
        tenant: 1,
        label: Label::NONE,
    }];
    let mut upserts = vec![
        Entry::Policy(PolicyEntry {
            id: 1,
            tenant: 1,
            allow,
            reply_tenants: vec![],
            priority_max: 6,
        }),
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

pub fn forwarder(receivers: usize, remote: bool) -> Forwarder {
    let fib = Arc::new(table(LABELS, receivers, remote));
    let mut forwarder = Forwarder::new(Default::default(), fib);
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
            let header = HeaderRepr {
                class: CLASS,
                source_label: agent(1, 1),
                source_domain: 1,
                tenant: 1,
                label: label(n),
                requested_label: class(n),
                flow: n as u64,
                payload_len: 16,
                ..HeaderRepr::default()
            };
            let mut bytes = header.to_bytes().to_vec();
            bytes.resize(64, 0xa5);
            bytes
        };
        (0..BATCH).flat_map(message).collect()
    };
    (0..LABELS.div_ceil(BATCH) * 5).map(slab).collect()
}

/// One slab through the forwarder and out again.
pub fn pass(forwarder: &mut Forwarder, from: u32, mut data: BytesMut) -> usize {
    let progress = forwarder.lane(NOW, peer(from), 0, CLASS, &mut data);
    assert_eq!(progress.map(|progress| progress.messages), Ok(BATCH as u32));
    let mut sent = 0;
    while let Some(peer) = forwarder.dirty() {
        while let Some(out) = forwarder.dequeue(peer, 1 << 18, |_, _| true) {
            sent += black_box(out).data.len();
        }
    }
    sent
}

pub fn million(n: usize) -> (u32, Label) {
    let label = Label::class(
        1 + (n % 10) as u16,
        1 + (n / 10 % 100) as u16,
        1 + (n / 1_000 % 1_000) as u16,
    );
    (1 + (n / 1_000_000) as u32, label.unwrap())
}

pub fn table_of(labels: usize) -> Fib {
    let upserts = (0..labels).map(|n| {
        let (tenant, label) = million(n);
        let members = vec![Egress {
            router: router(2 + (n % 50) as u32),
            weight: 100,
        }];
        Entry::Class(ClassEntry {
            tenant,
            label,
            own: members.clone(),
            subtree: members,
        })
    });
    let delta = Delta {
        generation: Generation(1),
        upserts: upserts.collect(),
        ..Delta::default()
    };
    match Fib::empty(1, router(1)).apply(&delta) {
        Ok(fib) => fib,
        Err(rejections) => panic!("{}", rejections[0]),
    }
}

/// A delta that changes `count` scattered classes of [`table_of`].
pub fn difference(fib: &Fib, count: usize) -> Delta {
    let upserts = (0..count).map(|n| {
        let (tenant, label) = million(n * 997 % fib.labels());
        let members = vec![Egress {
            router: router(9),
            weight: 50,
        }];
        Entry::Class(ClassEntry {
            tenant,
            label,
            own: members.clone(),
            subtree: members,
        })
    });
    let base = fib.generation();
    let generation = Generation(base.0 + 1);
    Delta {
        base,
        generation,
        upserts: upserts.collect(),
        removes: vec![],
    }
}
