//! Egress queues: merging, budgets, blocking, order of service, notices about what was dropped.

use core::time::Duration;

use bytes::BytesMut;
use caplane_wire::{Header, NoticeCode, TrafficClass};

use super::bed::*;
use crate::forward::{ForwarderConfig, Outgoing, Unblocked};
use crate::{DropReason, Now};

/// Slabs of 64 KiB, queues of 1 MiB, a budget of 4 MiB.
fn small() -> ForwarderConfig {
    ForwarderConfig {
        queue_bytes_max: 1 << 20,
        queue_total_bytes_max: 4 << 20,
        queue_bytes_floor: 64 << 10,
        backlog_bytes: 256 << 10,
        slab_bytes: 64 << 10,
        ..ForwarderConfig::default()
    }
}

/// Router 1: asker agent 10 in slot 1; agents 20 to 29 (class 7.1 to 7.10) in slots 20 to 29; router 2 (with agent 50,
/// class 8) behind slot 100.
fn bed() -> Bed {
    let mut entries = vec![
        policy(1, &[1], &[]),
        identity(10, 1, &[], &[]),
        agent_at(10, 1, &[(1, 1)]),
        agent_at(50, 1, &[(1, 2)]),
        class_at(1, "class:8", &[2], &[2]),
    ];
    entries.extend(link(2, &[2], &[]));
    for n in 0..10 {
        let class = format!("class:7.{}", n + 1);
        entries.push(identity(20 + n, 1, &[(&class, 100)], &[]));
        entries.push(class_at(1, &class, &[1], &[1]));
    }
    let mut bed = Bed::with(small(), table(1, entries));
    bed.attach(1, 10, 1);
    for number in 20..30 {
        bed.attach(number, number, 1);
    }
    bed.neighbour(100, 2);
    bed
}

fn to(class: &str) -> Message {
    message(agent(10, 1), class).set(|header| header.tenant = 1)
}

#[test]
fn neighbours_in_the_buffer_leave_as_one_slice_without_a_copy() {
    let mut bed = bed();
    let mut bytes = Vec::new();
    for sequence in 0..500 {
        bytes.extend(
            to("class:7.1")
                .set(|header| header.sequence = sequence)
                .bytes(),
        );
    }
    bytes.extend(to("class:7.2").bytes());
    bytes.extend(to("class:7.1").bytes());
    let mut data = BytesMut::from(&bytes[..]);
    let at = data.as_ptr();
    bed.forwarder
        .lane(NOW, peer(1), 0, CLASS, &mut data)
        .unwrap();
    let first = bed
        .forwarder
        .dequeue(peer(20), usize::MAX, |_, _| true)
        .unwrap();
    assert_eq!((first.messages, first.data.as_ptr()), (500, at));
    assert_eq!(bed.slices(20).1, 1);
    assert_eq!(bed.slices(21).1, 1);
    let counters = bed.forwarder.counters();
    assert_eq!(
        (counters.runs, counters.copied_bytes, counters.charged_bytes),
        (3, 0, 0)
    );
}

#[test]
fn a_slice_is_cut_at_a_message_boundary() {
    let mut bed = bed();
    let one = to("class:7.1").bytes();
    bed.send_bytes(1, CLASS, &one.repeat(10));
    let mut next = |max| bed.forwarder.dequeue(peer(20), max, |_, _| true).unwrap();
    let lens = [
        next(one.len() * 3 + 5),
        next(1),
        next(one.len() * 2),
        next(usize::MAX),
    ];
    let lens: Vec<_> = lens
        .iter()
        .map(|out| (out.messages, out.data.len() / one.len()))
        .collect();
    assert_eq!(lens, [(3, 3), (1, 1), (2, 2), (4, 4)]);
    assert_eq!(bed.forwarder.counters().charged_bytes, 0);
    bed.check();
}

#[test]
fn lanes_of_a_class_are_few_and_an_ingress_lane_stays_on_its_own() {
    let mut bed = bed();
    let mut seen = [false; 4];
    for lane in 0..64 {
        bed.lane = lane;
        for _ in 0..2 {
            bed.send(1, &to("class:7.1"));
        }
        let mut next = || {
            bed.forwarder
                .dequeue(peer(20), usize::MAX, |_, _| true)
                .unwrap()
                .lane_hint
        };
        let hint = next();
        assert_eq!(hint, next());
        seen[hint as usize] = true;
    }
    assert_eq!(seen, [true; 4]);
}

#[test]
fn a_peer_is_dirty_until_emptied_and_again_when_something_new_waits() {
    let mut bed = bed();
    assert_eq!(bed.forwarder.dirty(), None);
    bed.send(1, &to("class:7.1"));
    bed.send(1, &to("class:7.1"));
    assert_eq!(bed.forwarder.dirty(), Some(peer(20)));
    assert_eq!(bed.forwarder.dirty(), None);
    // Its lane is not ready: nothing comes, and it is not dirty by more of the same class.
    assert_eq!(
        bed.forwarder.dequeue(peer(20), usize::MAX, |_, _| false),
        None
    );
    bed.send(1, &to("class:7.1"));
    assert_eq!(bed.forwarder.dirty(), None);
    // Another class may be ready.
    let other = TrafficClass::from_index(12);
    bed.send(1, &to("class:7.1").set(|header| header.class = other));
    assert_eq!(bed.forwarder.dirty(), Some(peer(20)));
    let out = bed
        .forwarder
        .dequeue(peer(20), usize::MAX, |class, _| class == other);
    assert_eq!(out.map(|out| out.class), Some(other));
    bed.forwarder.mark_dirty(peer(20));
    assert_eq!(bed.forwarder.dirty(), Some(peer(20)));
    assert_eq!(bed.slices(20).0.len(), 3);
    bed.forwarder.mark_dirty(peer(20));
    assert_eq!(bed.forwarder.dirty(), None);
}

/// A neighbour's bytes as they come off a slab: one buffer, filled and forwarded bit by bit.
struct Slab(BytesMut, Now);

impl Slab {
    fn new() -> Slab {
        Slab(BytesMut::with_capacity(64 << 10), NOW)
    }

    fn push(&mut self, bed: &mut Bed, slot: u32, class: TrafficClass, bytes: &[u8]) {
        if self.0.capacity() - self.0.len() < bytes.len() {
            self.0 = BytesMut::with_capacity(64 << 10);
        }
        self.1.mono += Duration::from_micros(2);
        self.0.extend_from_slice(bytes);
        bed.forwarder
            .lane(self.1, peer(slot), 0, class, &mut self.0)
            .unwrap();
        assert!(self.0.is_empty());
    }
}

fn from_router_2(to: u32, sequence: u32) -> Vec<u8> {
    let message = message(agent(50, 1), &format!("agent:{to}.1")).set(|header| {
        header.label = router(1);
        header.sequence = sequence;
        header.payload_len = 100 - 48;
    });
    message.bytes()
}

#[test]
fn a_slow_receiver_behind_a_shared_link_hurts_nobody_else() {
    let mut bed = bed();
    let mut slab = Slab::new();
    let mut others = 0;
    let messages = 200_000;
    let mut notices = 0;
    for sequence in 0..messages {
        // Agent 20 has stopped reading; the nine others are drained every few messages.
        slab.push(
            &mut bed,
            100,
            CLASS,
            &from_router_2(20 + sequence % 10, sequence),
        );
        if sequence % 100 == 99 {
            for slot in 21..30 {
                others += bed.slices(slot).0.len();
            }
            notices += bed.slices(100).0.len();
        }
        if sequence % 1_000 == 0 {
            let charged = bed.forwarder.counters().charged_bytes;
            assert!(charged <= (1 << 20) + (2 << 16), "{charged} bytes");
        }
    }
    // Everybody else got everything; the slow one has a full queue, the rest was dropped and noticed.
    assert_eq!(others, messages as usize * 9 / 10);
    let (_, waiting) = bed.forwarder.queued(peer(20));
    let dropped = bed.dropped(DropReason::Overloaded);
    assert_eq!(waiting + dropped, u64::from(messages) / 10);
    let counters = bed.forwarder.counters();
    assert_eq!(counters.notices + counters.notices_suppressed, dropped);
    assert!(notices > 0 && counters.notices == notices as u64);
    // Copied out, its queue holds many small messages: left in their slabs 16 slabs would fill it.
    assert!(waiting > 5_000, "{waiting} waiting");
    let copied = counters.copied_bytes as f64 / counters.received_bytes as f64;
    assert!(copied < 0.06, "{copied} copied");
    assert_eq!(bed.slices(20).0.len() as u64, waiting);
    assert_eq!(bed.forwarder.counters().charged_bytes, 0);
}

#[test]
fn many_slow_receivers_stay_within_the_budget() {
    let mut bed = bed();
    let mut slab = Slab::new();
    for sequence in 0..400_000 {
        slab.push(
            &mut bed,
            100,
            CLASS,
            &from_router_2(20 + sequence % 10, sequence),
        );
    }
    let counters = bed.forwarder.counters();
    assert!(
        counters.charged_bytes <= (5 << 20) + (1 << 16),
        "{}",
        counters.charged_bytes
    );
    assert!(
        counters.queued_bytes > 3 << 19,
        "{} bytes of use",
        counters.queued_bytes
    );
    // Each has its share.
    let shares: Vec<_> = (20..30)
        .map(|slot| bed.forwarder.queued(peer(slot)).1)
        .collect();
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    assert!(*least * 3 > *most, "{shares:?}");
    bed.check();
}

#[test]
fn many_senders_fill_one_queue_without_drops_or_copies() {
    let mut bed = bed();
    // Forty lanes, each with a slab of its own, a few small messages each, drained every tick: 2.5 MiB of slabs pinned
    // for a queue of 1 MiB.
    let mut slabs: Vec<_> = (0..40).map(|_| Slab::new()).collect();
    let mut got = 0;
    for sequence in 0..200 {
        for slab in &mut slabs {
            slab.1 = NOW;
            slab.1.mono += Duration::from_millis(u64::from(sequence));
            slab.push(&mut bed, 100, CLASS, &from_router_2(20, sequence));
        }
        got += bed.slices(20).0.len();
    }
    assert_eq!(got, 40 * 200);
    let counters = bed.forwarder.counters();
    assert_eq!((counters.dropped_total(), counters.copied_bytes), (0, 0));
}

#[test]
fn a_full_queue_of_one_flow_is_never_copied() {
    let mut bed = bed();
    let mut slab = Slab::new();
    for sequence in 0..50_000 {
        slab.push(&mut bed, 100, CLASS, &from_router_2(20, sequence));
        if sequence % 3 == 0 {
            bed.forwarder.dequeue(peer(20), 200, |_, _| true);
        }
    }
    // It fills its slabs: leaving them would gain nothing.
    assert!(bed.dropped(DropReason::Overloaded) > 10_000);
    let copied = bed.forwarder.counters().copied_bytes;
    assert!(copied < 64 << 10, "{copied} bytes copied");
}

#[test]
fn a_drop_is_noticed_to_its_source_across_routers() {
    let mut bed = bed();
    // 64 KiB messages to a receiver that does not read.
    for sequence in 0..40 {
        let big = message(agent(50, 1), "agent:20.1").set(|header| {
            header.label = router(1);
            header.sequence = sequence;
            header.payload_len = 65_536 - 48;
        });
        bed.send(100, &big);
    }
    let dropped = bed.dropped(DropReason::Overloaded);
    assert!(dropped >= 20, "{dropped}");
    let notices = bed.received(100);
    assert_eq!(notices.len() as u64, dropped);
    // As data to the source's router: its label switched on, the source asked for.
    assert_eq!(notices[0].label, router(2));
    assert_eq!(notices[0].requested_label, agent(50, 1));
    assert_eq!(notices[0].source_label, router(1));
    assert_eq!(notices[0].class, TrafficClass::NOTICE);
    assert_eq!(notices.last().unwrap().sequence, 39);
}

#[test]
fn small_messages_that_alternate_are_gathered_in_order() {
    let mut bed = bed();
    let mut bytes = Vec::new();
    for sequence in 0..300 {
        let class = if sequence % 3 == 0 {
            "class:7.1"
        } else {
            "class:7.2"
        };
        // Now and then one that is too large to be copied.
        let payload_len = if sequence % 100 == 99 { 300 } else { 16 };
        let change = |header: &mut caplane_wire::HeaderRepr| {
            header.sequence = sequence;
            header.payload_len = payload_len;
        };
        bytes.extend(to(class).set(change).bytes());
    }
    bed.send_bytes(1, CLASS, &bytes);
    let copied = bed.forwarder.counters().copied_bytes;
    assert!(copied > 0 && copied < bytes.len() as u64);
    // Cut at message boundaries, also inside of what was gathered.
    let first = bed.forwarder.dequeue(peer(21), 128, |_, _| true).unwrap();
    assert_eq!(
        first.messages, 2,
        "the first two were neighbours: one slice"
    );
    // So were the next, before it was seen that they alternate.
    let second = bed.forwarder.dequeue(peer(21), 200, |_, _| true).unwrap();
    assert_eq!(second.messages, 2);
    let gathered = bed.forwarder.dequeue(peer(21), 200, |_, _| true).unwrap();
    assert_eq!((gathered.messages, gathered.data.len()), (3, 192));
    bed.check();
    let (one, slices) = bed.slices(20);
    assert_eq!(one.len(), 100);
    assert!(slices < 20, "{slices}");
    let sequences = |messages: &[Vec<u8>]| -> Vec<u32> {
        let header = |m: &Vec<u8>| Header::new_unchecked(&m[..]).sequence();
        messages.iter().map(header).collect()
    };
    assert!(sequences(&one).into_iter().eq((0..100).map(|n| n * 3)));
    let (two, _) = bed.slices(21);
    let due: Vec<u32> = (0..300).filter(|n| n % 3 != 0).skip(7).collect();
    assert_eq!(sequences(&two), due);
    assert_eq!(bed.forwarder.counters().charged_bytes, 0);
}

/// A walk of its own for each message, as when they come one at a time: nothing alternates, nothing is copied.
#[test]
fn small_messages_that_come_alone_are_not_gathered() {
    let mut bed = bed();
    // Too few for memory to become short.
    for _ in 0..20 {
        bed.send(1, &to("class:7.1"));
        bed.send(1, &to("class:7.2"));
    }
    assert_eq!(bed.forwarder.counters().copied_bytes, 0);
}

/// What is gathered is charged for with the room it takes, and stays within the worker's budget.
#[test]
fn gathered_messages_stay_within_the_budget() {
    let mut bed = bed();
    let mut bytes = Vec::new();
    for _ in 0..400 {
        bytes.extend(to("class:7.1").bytes());
        bytes.extend(to("class:7.2").bytes());
    }
    for _ in 0..2_000 {
        bed.send_bytes(1, CLASS, &bytes);
        let charged = bed.forwarder.counters().charged_bytes;
        assert!(charged <= 4 << 20, "{charged}");
    }
    assert!(bed.dropped(DropReason::Overloaded) > 0);
    bed.slices(20);
    bed.slices(21);
    bed.received(1);
    assert_eq!(bed.forwarder.counters().charged_bytes, 0);
}

#[test]
fn a_blocking_sender_is_stopped_and_resumed_and_loses_nothing() {
    let mut bed = bed();
    let one = |sequence| {
        to("class:7.1").set(|header| {
            header.class = BLOCKING;
            header.sequence = sequence;
            header.payload_len = 8_000;
        })
    };
    let mut data = BytesMut::with_capacity(64 << 10);
    let (mut sent, mut got, mut stops) = (0, Vec::new(), 0);
    while sent < 1_000 || !data.is_empty() {
        while data.len() < 32 << 10 && sent < 1_000 {
            data.extend_from_slice(&one(sent).bytes());
            sent += 1;
        }
        let progress = bed
            .forwarder
            .lane(NOW, peer(1), 3, BLOCKING, &mut data)
            .unwrap();
        bed.check();
        assert_eq!(progress.blocked, !data.is_empty());
        if !progress.blocked {
            continue;
        }
        stops += 1;
        // Above half of the queue; nothing resumes it before a quarter is reached.
        assert!(bed.forwarder.queued(peer(20)).0 >= 512 << 10);
        assert_eq!(bed.forwarder.unblocked(), None);
        loop {
            got.push(bed.forwarder.dequeue(peer(20), 1, |_, _| true).unwrap());
            match bed.forwarder.unblocked() {
                Some(lane) => {
                    assert_eq!(
                        lane,
                        Unblocked {
                            peer: peer(1),
                            lane_hint: 3
                        }
                    );
                    assert!(bed.forwarder.queued(peer(20)).0 < 256 << 10);
                    break;
                }
                None => continue,
            }
        }
    }
    let rest = core::iter::from_fn(|| bed.forwarder.dequeue(peer(20), 1, |_, _| true));
    got.extend(rest);
    let sequences = got
        .iter()
        .map(|out: &Outgoing| u32::from_be_bytes(out.data[32..36].try_into().unwrap()));
    assert!(sequences.eq(0..1_000));
    assert!(stops > 2);
    assert_eq!(bed.forwarder.counters().dropped_total(), 0);
    assert_eq!(bed.forwarder.counters().blocked, stops);
}

#[test]
fn blocking_ends_with_the_peer_that_was_waited_for() {
    let mut bed = bed();
    let message = to("class:7.1").set(|header| {
        header.class = BLOCKING;
        header.payload_len = 60_000;
    });
    let mut data = BytesMut::new();
    for sent in 0.. {
        assert!(sent < 1_000, "never blocked");
        data.extend_from_slice(&message.bytes());
        let progress = bed
            .forwarder
            .lane(NOW, peer(1), 0, BLOCKING, &mut data)
            .unwrap();
        if progress.blocked {
            break;
        }
    }
    assert!(bed.forwarder.peer_down(NOW, peer(20)) > 0);
    assert!(bed.forwarder.unblocked().is_some());
    bed.forwarder
        .lane(NOW, peer(1), 0, BLOCKING, &mut data)
        .unwrap();
    assert_eq!(bed.dropped(DropReason::Unreachable), 1);
    bed.check();
}

#[test]
fn in_the_fabric_nothing_waits() {
    let mut bed = bed();
    for sequence in 0..100 {
        let big = message(agent(50, 1), "agent:20.1").set(|header| {
            header.label = router(1);
            header.class = BLOCKING;
            header.sequence = sequence;
            header.payload_len = 60_000;
        });
        assert!(!bed.send_bytes(100, BLOCKING, &big.bytes()).blocked);
    }
    assert!(bed.dropped(DropReason::Overloaded) > 0);
}

#[test]
fn seven_goes_first_and_the_others_share_by_priority() {
    let mut bed = bed();
    let priority = |n: usize| TrafficClass::from_index(2 * n);
    for _ in 0..150 {
        for n in [0, 3, 6] {
            let class = priority(n);
            let big = to("class:7.1").set(|header| {
                header.class = class;
                header.payload_len = 4_000;
            });
            bed.send(1, &big);
        }
    }
    // A notice for a waiting peer overtakes everything.
    bed.send(
        20,
        &message(agent(20, 1), "class:9").set(|header| header.tenant = 1),
    );
    let mut order = Vec::new();
    while let Some(out) = bed.forwarder.dequeue(peer(20), 1, |_, _| true) {
        order.push(out.class);
    }
    assert_eq!(order[0], TrafficClass::NOTICE);
    // While all three wait, they share 7 : 4 : 1.
    let window = &order[1..145];
    let share = |n| window.iter().filter(|class| **class == priority(n)).count();
    let shares = [share(0), share(3), share(6)];
    assert!((9..=15).contains(&shares[0]), "{shares:?}");
    assert!((42..=54).contains(&shares[1]), "{shares:?}");
    assert!((78..=90).contains(&shares[2]), "{shares:?}");
    assert_eq!(order.len(), 451);
}

/// What leaves for slot 20 by class, bytes: `slices` of at most `max_bytes`.
fn served(
    bed: &mut Bed,
    slices: usize,
    ready: impl Fn(TrafficClass) -> bool,
) -> [usize; TrafficClass::COUNT] {
    let mut bytes = [0; TrafficClass::COUNT];
    for _ in 0..slices {
        let out = bed
            .forwarder
            .dequeue(peer(20), 4_096, |class, _| ready(class));
        let Some(out) = out else { break };
        bytes[out.class.index()] += out.data.len();
    }
    bytes
}

/// Keeps the queue of a class full with messages of one size.
fn fill(bed: &mut Bed, index: usize, payload_len: u32) {
    let class = TrafficClass::from_index(index);
    let one = to("class:7.1").set(|header| {
        header.class = class;
        header.payload_len = payload_len;
    });
    let room = 256 << 10;
    let peers = &bed.forwarder.peers;
    let at = peers.find(peer(20)).unwrap();
    let queued = peers
        .get(at)
        .egress
        .queue(class)
        .map_or(0, |queue| queue.bytes());
    let missing = (room as usize).saturating_sub(queued) / one.bytes().len();
    bed.send_bytes(1, class, &one.bytes().repeat(missing));
}

/// Shares are of bytes, whatever the size of the messages, and nobody starves.
#[test]
fn classes_share_bytes_by_priority_whatever_their_messages() {
    let mut bed = bed();
    let sizes = [60, 3_000, 900, 100, 4_000, 20, 1_500];
    let mut total = [0; TrafficClass::COUNT];
    for _ in 0..60 {
        for (priority, size) in sizes.into_iter().enumerate() {
            fill(&mut bed, 2 * priority, size);
        }
        let bytes = served(&mut bed, 64, |_| true);
        total
            .iter_mut()
            .zip(bytes)
            .for_each(|(sum, more)| *sum += more);
    }
    let all: usize = total.iter().sum();
    for priority in 0..sizes.len() {
        let (got, due) = (
            total[2 * priority] as f64,
            all as f64 * (priority + 1) as f64 / 28.0,
        );
        assert!(
            (got - due).abs() < due * 0.1,
            "{priority}: {got}, due {due}; {total:?}"
        );
    }
}

/// A class that was alone for long has no debt, and one that could not send for long has no claim.
#[test]
fn neither_debts_nor_claims_pile_up() {
    let mut bed = bed();
    let (low, high) = (4, 6);
    for _ in 0..100 {
        fill(&mut bed, low, 1_000);
        served(&mut bed, 32, |_| true);
    }
    fill(&mut bed, low, 1_000);
    fill(&mut bed, high, 1_000);
    // 3 : 4 at once, but for a quantum.
    let bytes = served(&mut bed, 100, |_| true);
    assert!(bytes[low] > 96_000 && bytes[high] > 128_000, "{bytes:?}");
    for _ in 0..100 {
        fill(&mut bed, low, 1_000);
        fill(&mut bed, high, 1_000);
        let bytes = served(&mut bed, 32, |class| class.index() == low);
        assert_eq!(bytes[high], 0);
    }
    fill(&mut bed, low, 1_000);
    fill(&mut bed, high, 1_000);
    let bytes = served(&mut bed, 100, |_| true);
    assert!(bytes[low] > 96_000 && bytes[high] > 128_000, "{bytes:?}");
}

#[test]
fn a_class_whose_lane_is_not_ready_holds_nobody_back() {
    let mut bed = bed();
    let (low, high) = (TrafficClass::from_index(2), TrafficClass::from_index(12));
    for class in [low, high, low, high] {
        bed.send(1, &to("class:7.1").set(|header| header.class = class));
    }
    let mut got = Vec::new();
    while let Some(out) = bed.forwarder.dequeue(peer(20), 1, |class, _| class == low) {
        got.push(out.class);
    }
    assert_eq!(got, [low, low]);
    assert_eq!(bed.forwarder.queued(peer(20)).1, 2);
}

#[test]
fn what_the_transport_refuses_is_dropped_and_noticed() {
    let mut bed = bed();
    bed.send_bytes(1, CLASS, &to("class:7.1").bytes().repeat(3));
    let out = bed
        .forwarder
        .dequeue(peer(20), usize::MAX, |_, _| true)
        .unwrap();
    bed.forwarder
        .returned(NOW, peer(20), out, DropReason::SendFailed);
    bed.check();
    assert_eq!(bed.dropped(DropReason::SendFailed), 3);
    let notices = bed.slices(1).0;
    assert_eq!(notices.len(), 3);
    assert_eq!(notices[0][48], NoticeCode::Unreachable.number());
}

#[test]
fn notices_are_limited_per_peer() {
    let mut bed = bed();
    bed.send_bytes(1, CLASS, &to("class:6").bytes().repeat(1_000));
    let counters = bed.forwarder.counters();
    assert_eq!((counters.notices, counters.notices_suppressed), (200, 800));
    assert_eq!(bed.slices(1).0.len(), 200);
    // Another peer has its own allowance.
    bed.send(
        20,
        &message(agent(20, 1), "class:6").set(|header| header.tenant = 1),
    );
    assert_eq!(bed.slices(20).0.len(), 1);
}
