//! Two workers of one router: the asker is attached to worker 0, the one that serves to worker 1.

use bytes::{BufMut, BytesMut};
use caplane_wire::Messages;

use super::bed::*;
use crate::forward::*;
use crate::{DropReason, Now};

const ASKER: PeerKey = PeerKey { worker: 0, slot: 1 };
const SERVER: PeerKey = PeerKey { worker: 1, slot: 1 };

struct Pair {
    workers: [Forwarder; 2],
}

impl Pair {
    fn new(config: &ForwarderConfig) -> Pair {
        let fib = table(
            1,
            vec![
                policy(1, &[1], &[]),
                identity(10, 1, &[], &[]),
                identity(21, 1, &[("class:7.12.3", 100)], &[]),
                class_at(1, "class:7.12.3", &[1], &[1]),
                agent_at(10, 1, &[(1, 1)]),
                agent_at(21, 1, &[(1, 1)]),
            ],
        );
        let workers = [0, 1].map(|worker| {
            let config = ForwarderConfig {
                worker,
                ..config.clone()
            };
            let mut forwarder = Forwarder::new(config, fib.clone());
            for (key, number) in [(ASKER, 10), (SERVER, 21)] {
                let role = PeerRole::Instance {
                    uri: uri(number),
                    label: agent(number, 1),
                };
                forwarder.peer_up(key, role).unwrap();
            }
            forwarder
        });
        Pair { workers }
    }

    fn ask(&mut self, class: TrafficClass, messages: u32) -> Progress {
        let mut data = BytesMut::with_capacity(64 << 10);
        for sequence in 0..messages {
            let ask = message(agent(10, 1), "class:7.12.3").set(|header| {
                header.tenant = 1;
                header.class = class;
                header.sequence = sequence;
                header.payload_len = 1000;
            });
            data.put_slice(&ask.bytes());
        }
        self.workers[0]
            .lane(NOW, ASKER, 3, class, &mut data)
            .unwrap()
    }

    /// Moves what `from` queued for the other worker's peer; `false` from the gate keeps it there.
    fn carry(&mut self, from: usize, to: PeerKey, gate: bool) -> usize {
        let listed = std::iter::from_fn(|| self.workers[from].dirty()).any(|key| key == to);
        assert!(listed, "a peer of another worker is named as one of this");
        let mut slices = 0;
        while let Some(handed) = self.workers[from].hand_over(to, 4_000, |_| gate) {
            assert!(handed.bytes() > 0);
            self.workers[usize::from(to.worker)].take_over(NOW, handed);
            slices += 1;
        }
        self.check();
        slices
    }

    fn delivered(&mut self, to: PeerKey) -> Vec<u32> {
        let owner = &mut self.workers[usize::from(to.worker)];
        let mut sequences = Vec::new();
        while let Some(outgoing) = owner.dequeue(to, usize::MAX, |_, _| true) {
            for message in Messages::new(&outgoing.data, LANE_MAX) {
                let header = caplane_wire::Header::new_unchecked(message.unwrap());
                sequences.push(header.sequence());
            }
        }
        self.check();
        sequences
    }

    /// No message is lost between two workers while none is on its way.
    fn check(&self) {
        let mut sum = crate::Counters::default();
        for worker in &self.workers {
            assert_eq!(worker.counters().imbalance(), 0, "{:?}", worker.counters());
            sum.add(worker.counters());
        }
        assert_eq!(sum.handed_over, sum.taken_over);
    }
}

const LANE_MAX: usize = caplane_wire::LANE_MESSAGE_MAX;

#[test]
fn messages_reach_a_peer_of_another_worker_in_order() {
    let mut pair = Pair::new(&ForwarderConfig::default());
    let progress = pair.ask(CLASS, 40);
    assert_eq!(progress.messages, 40);
    assert!(pair.carry(0, SERVER, true) > 1, "cut at 4,000 bytes");
    assert_eq!(pair.delivered(SERVER), (0..40).collect::<Vec<_>>());
    let (asking, owning) = (pair.workers[0].counters(), pair.workers[1].counters());
    assert_eq!((asking.handed_over, asking.forwarded), (40, 0));
    assert_eq!((owning.taken_over, owning.delivered), (40, 40));
}

#[test]
fn a_dropping_class_is_dropped_and_noticed_where_the_queue_is_full() {
    let config = ForwarderConfig {
        queue_bytes_max: 64 << 10,
        slab_bytes: 64 << 10,
        ..ForwarderConfig::default()
    };
    let mut pair = Pair::new(&config);
    for _ in 0..4 {
        pair.ask(CLASS, 40);
        pair.carry(0, SERVER, true);
    }
    let lost = pair.workers[1].counters().dropped(DropReason::Overloaded);
    assert!(lost > 0);
    // The notices go back by the asker's worker.
    pair.carry(1, ASKER, true);
    let notices = pair.workers[1].counters().notices;
    assert!(notices > 0);
    assert_eq!(pair.delivered(ASKER).len() as u64, notices);
    assert_eq!(pair.delivered(SERVER).len() as u64, 160 - lost);
}

#[test]
fn a_blocking_class_waits_for_the_owner_and_loses_nothing() {
    let config = ForwarderConfig {
        queue_bytes_max: 64 << 10,
        slab_bytes: 64 << 10,
        ..ForwarderConfig::default()
    };
    let mut pair = Pair::new(&config);
    let mut sent = 0;
    while pair.workers[1].pressure.is_empty() {
        sent += pair.ask(BLOCKING, 10).messages;
        pair.carry(0, SERVER, true);
    }
    let bit = 1 << BLOCKING.index();
    let held = Pressure {
        peer: SERVER,
        classes: bit,
    };
    assert_eq!(pair.workers[1].pressure(), Some(held));
    // The asker's worker heeds it, and its own queue stops the lane.
    let blocked = std::iter::repeat_with(|| pair.ask(BLOCKING, 10))
        .take(100)
        .inspect(|progress| sent += progress.messages)
        .any(|progress| progress.blocked);
    assert!(blocked);
    assert_eq!(pair.carry(0, SERVER, false), 0);
    let mut got = pair.delivered(SERVER).len();
    let eased = Pressure {
        peer: SERVER,
        classes: 0,
    };
    assert_eq!(pair.workers[1].pressure(), Some(eased));
    pair.workers[0].mark_dirty(SERVER);
    pair.carry(0, SERVER, true);
    got += pair.delivered(SERVER).len();
    assert_eq!(got as u32, sent);
    assert!(pair.workers[0].unblocked().is_some());
    let dropped: u64 = pair
        .workers
        .iter()
        .map(|w| w.counters().dropped_total())
        .sum();
    assert_eq!(dropped, 0);
}

#[test]
fn what_arrives_for_a_slot_that_changed_hands_is_noticed_and_not_delivered() {
    let mut pair = Pair::new(&ForwarderConfig::default());
    pair.ask(CLASS, 3);
    let _ = pair.workers[0].dirty();
    let handed = pair.workers[0]
        .hand_over(SERVER, 1 << 20, |_| true)
        .unwrap();
    pair.workers[1].peer_down(NOW, SERVER);
    let role = PeerRole::Instance {
        uri: uri(21),
        label: agent(21, 2),
    };
    pair.workers[1].peer_up(SERVER, role).unwrap();
    pair.workers[1].take_over(NOW, handed);
    assert_eq!(pair.workers[1].counters().dropped(DropReason::PeerGone), 3);
    assert!(pair.delivered(SERVER).is_empty());
    pair.carry(1, ASKER, true);
    assert_eq!(pair.delivered(ASKER).len(), 3);
}

#[test]
fn pressure_ends_with_the_peer() {
    let config = ForwarderConfig {
        queue_bytes_max: 64 << 10,
        slab_bytes: 64 << 10,
        ..ForwarderConfig::default()
    };
    let mut pair = Pair::new(&config);
    while pair.workers[1].pressure.is_empty() {
        pair.ask(BLOCKING, 10);
        pair.carry(0, SERVER, true);
    }
    let _ = pair.workers[1].pressure();
    let now = Now { ..NOW };
    pair.workers[1].peer_down(now, SERVER);
    let over = pair.workers[1].pressure().unwrap();
    assert_eq!((over.peer, over.classes), (SERVER, 0));
}
