//! Rates: what an instance may send in all and to single classes, and what becomes of the rest.

use core::time::Duration;

use bytes::BytesMut;
use caplane_wire::NoticeCode;

use super::bed::*;
use crate::fib::{ClassRate, Delta, Entry, Fib, Generation, Rate};
use crate::forward::{BulkVerdict, ForwarderConfig};
use crate::{DropReason, Now};
use std::sync::Arc;

fn rate(messages_per_second: u64) -> Rate {
    Rate {
        messages_per_second,
        burst_ms: 10,
        ..Rate::UNLIMITED
    }
}

fn limited(group: Option<Rate>, classes: &[(&str, Rate)]) -> Entry {
    let Entry::Policy(mut entry) = policy(1, &[1], &[]) else {
        unreachable!()
    };
    entry.rate = group;
    let limit = |(class, rate): &(&str, Rate)| ClassRate {
        tenant: 1,
        label: label(class),
        rate: *rate,
    };
    entry.class_rates = classes.iter().map(limit).collect();
    Entry::Policy(entry)
}

/// Agent 10 asks, agents 20 and 21 serve class 7.1 and 7.2; router 2 behind slot 100.
fn bed(default: Rate, policy: Entry) -> Bed {
    let mut entries = vec![
        policy,
        identity(10, 1, &[], &[]),
        identity(20, 1, &[("class:7.1", 100)], &[]),
        identity(21, 1, &[("class:7.2", 100)], &[]),
        agent_at(10, 1, &[(1, 1)]),
        agent_at(20, 1, &[(1, 1)]),
        class_at(1, "class:7.1", &[1], &[1]),
        class_at(1, "class:7.2", &[1], &[1]),
    ];
    entries.extend(link(2, &[2], &[]));
    let config = ForwarderConfig {
        instance_rate: default,
        ..ForwarderConfig::default()
    };
    let mut bed = Bed::with(config, table(1, entries));
    for number in [10, 20, 21] {
        bed.attach(number, number, 1);
    }
    bed.neighbour(100, 2);
    bed
}

fn after(ms: u64) -> Now {
    Now {
        mono: NOW.mono + Duration::from_millis(ms),
        unix_us: 0,
    }
}

/// So many messages to a class at once; how many of them arrived.
fn send(bed: &mut Bed, now: Now, class: &str, count: usize) -> usize {
    let one = message(agent(10, 1), class).set(|header| header.tenant = 1);
    let mut data = BytesMut::from(&one.bytes().repeat(count)[..]);
    let slot = if class == "class:7.1" { 20 } else { 21 };
    bed.forwarder
        .lane(now, peer(10), 0, CLASS, &mut data)
        .unwrap();
    assert!(data.is_empty());
    bed.received(slot).len()
}

#[test]
fn without_a_rate_nothing_is_limited() {
    let mut bed = bed(Rate::UNLIMITED, policy(1, &[1], &[]));
    assert_eq!(send(&mut bed, NOW, "class:7.1", 5_000), 5_000);
    assert_eq!(bed.dropped(DropReason::RateLimited), 0);
}

#[test]
fn what_is_above_the_rate_is_dropped_and_noticed() {
    let mut bed = bed(rate(10_000), policy(1, &[1], &[]));
    assert_eq!(send(&mut bed, NOW, "class:7.1", 150), 100);
    assert_eq!(bed.dropped(DropReason::RateLimited), 50);
    assert_eq!(bed.received(10).len(), 50);
    assert_eq!(send(&mut bed, after(1), "class:7.1", 11), 10);
    assert_eq!(bed.notice(10).code, NoticeCode::RateLimited);
    assert_eq!(send(&mut bed, after(1_000), "class:7.1", 150), 100);
    bed.check();
}

#[test]
fn a_policy_groups_rate_replaces_the_default() {
    let mut bed = bed(rate(1), limited(Some(rate(20_000)), &[]));
    assert_eq!(send(&mut bed, NOW, "class:7.1", 500), 200);
    let mut free = super::policing::bed(rate(1), limited(Some(Rate::UNLIMITED), &[]));
    assert_eq!(send(&mut free, NOW, "class:7.1", 500), 500);
}

#[test]
fn a_class_has_a_rate_of_its_own_and_the_lowest_counts() {
    let classes = [("class:7", rate(30_000)), ("class:7.1", rate(10_000))];
    let mut bed = bed(Rate::UNLIMITED, limited(None, &classes));
    assert_eq!(send(&mut bed, NOW, "class:7.1", 500), 100);
    assert_eq!(send(&mut bed, NOW, "class:7.2", 500), 300);
    // What one rate refuses is not charged to the other.
    let both = limited(Some(rate(20_000)), &[("class:7.1", rate(10_000))]);
    let mut bed = super::policing::bed(Rate::UNLIMITED, both);
    assert_eq!(send(&mut bed, NOW, "class:7.1", 500), 100);
    assert_eq!(send(&mut bed, NOW, "class:7.2", 500), 100);
}

#[test]
fn bulk_and_datagrams_count_too_and_neighbours_do_not() {
    let mut bed = bed(rate(200), policy(1, &[1], &[]));
    // Two messages, one datagram and one bulk message each.
    let one = message(agent(10, 1), "class:7.1").set(|header| header.tenant = 1);
    let mut datagram = || {
        let data = BytesMut::from(&one.bytes()[..]);
        bed.forwarder.datagram(NOW, peer(10), data);
    };
    datagram();
    let mut head = one.bytes()[..48].to_vec();
    let verdict = bed.forwarder.bulk_open(NOW, peer(10), CLASS, &mut head);
    assert!(matches!(verdict, BulkVerdict::Forward { .. }));
    let mut head = one.bytes()[..48].to_vec();
    let verdict = bed.forwarder.bulk_open(NOW, peer(10), CLASS, &mut head);
    let reason = DropReason::RateLimited;
    assert_eq!(verdict, BulkVerdict::Refuse { reason });
    bed.forwarder
        .datagram(NOW, peer(10), BytesMut::from(&one.bytes()[..]));
    assert_eq!(bed.dropped(reason), 2);
    let from_afar = message(agent(50, 1), "agent:20.1").set(|header| header.label = router(1));
    bed.received(20);
    bed.send_bytes(100, CLASS, &from_afar.bytes().repeat(100));
    assert_eq!(bed.received(20).len(), 100);
}

/// A blocked message is asked about again when its lane is resumed, and pays once.
#[test]
fn a_message_that_waits_pays_once() {
    let mut bed = bed(rate(100_000), policy(1, &[1], &[]));
    let one = message(agent(10, 1), "class:7.1").set(|header| {
        header.tenant = 1;
        header.class = BLOCKING;
        header.payload_len = 60_000;
    });
    let mut data = BytesMut::new();
    let mut sent = 0;
    loop {
        data.extend_from_slice(&one.bytes());
        sent += 1;
        let lane = bed.forwarder.lane(NOW, peer(10), 0, BLOCKING, &mut data);
        if lane.unwrap().blocked {
            break;
        }
    }
    // Many vain attempts.
    for _ in 0..2_000 {
        let lane = bed.forwarder.lane(NOW, peer(10), 0, BLOCKING, &mut data);
        assert!(lane.unwrap().blocked);
    }
    assert_eq!(bed.received(20).len(), sent - 1);
    let lane = bed.forwarder.lane(NOW, peer(10), 0, BLOCKING, &mut data);
    assert!(!lane.unwrap().blocked);
    assert_eq!(bed.received(20).len(), 1);
    assert_eq!(bed.dropped(DropReason::RateLimited), 0);
}

/// A change of the table that leaves the rates alone does not fill the buckets anew; a change of them does.
#[test]
fn a_new_table_keeps_what_was_used() {
    let mut bed = bed(Rate::UNLIMITED, limited(Some(rate(10_000)), &[]));
    assert_eq!(send(&mut bed, NOW, "class:7.1", 500), 100);
    let put = |fib: &Fib, entry: Entry| {
        let delta = Delta {
            base: fib.generation(),
            generation: Generation(fib.generation().0 + 1),
            upserts: vec![entry],
            removes: vec![],
        };
        Arc::new(fib.apply(&delta).unwrap())
    };
    let same = put(
        &bed.forwarder.fib().clone(),
        limited(Some(rate(10_000)), &[]),
    );
    bed.forwarder.set_fib(same);
    assert_eq!(send(&mut bed, NOW, "class:7.1", 500), 0);
    let more = put(
        &bed.forwarder.fib().clone(),
        limited(Some(rate(50_000)), &[]),
    );
    bed.forwarder.set_fib(more);
    assert_eq!(send(&mut bed, NOW, "class:7.1", 1_000), 500);
}
