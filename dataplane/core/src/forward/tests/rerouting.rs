//! Several routers: transit, hop limit, alternates, one reroute, stale tables.

use caplane_wire::{Flags, NoticeCode};

use super::bed::*;
use crate::DropReason;
use crate::fib::{Entry, TransitEntry};

/// Router 2 between 1 (slot 101) and 3 (slot 103). Agent 20 (class 7.1) is here (slot 20) and on router 3;
/// agent 10 asks from router 1; agent 60 lives on router 3 only.
fn middle() -> Bed {
    let mut entries = vec![
        policy(1, &[1], &[]),
        identity(10, 1, &[], &[]),
        identity(20, 1, &[("class:7.1", 100)], &[]),
        agent_at(10, 1, &[(1, 1)]),
        agent_at(20, 1, &[(1, 2), (2, 3)]),
        agent_at(60, 1, &[(1, 3)]),
        class_at(1, "class:7.1", &[2, 3], &[2, 3]),
        class_at(1, "class:8", &[2], &[2]),
        class_at(1, "class:9", &[3], &[3]),
    ];
    entries.extend(link(1, &[1], &[3]));
    entries.extend(link(3, &[3], &[1]));
    let mut bed = Bed::new(table(2, entries));
    bed.attach(20, 20, 1);
    bed.neighbour(101, 1);
    bed.neighbour(103, 3);
    bed
}

fn from_1(to: &str, at: u32) -> Message {
    message(agent(10, 1), to).set(|header| {
        header.tenant = 1;
        header.label = router(at);
    })
}

#[test]
fn transit_looks_at_the_router_label_only() {
    let mut bed = middle();
    // Class, tenant and agent mean nothing here.
    for to in ["class:1023.1", "agent:1.1", "group:77"] {
        bed.send(101, &from_1(to, 3));
        let got = bed.received(103);
        assert_eq!(got.len(), 1);
        assert_eq!(got[0], from_1(to, 3).set(|header| header.hop_limit -= 1).0);
    }
    bed.send(101, &from_1("class:7.1", 9));
    assert_eq!(bed.dropped(DropReason::Unreachable), 1);
    // Between routers every label is a router's.
    bed.send(
        101,
        &from_1("class:7.1", 2).set(|header| header.label = header.requested_label),
    );
    assert_eq!(bed.dropped(DropReason::Malformed), 1);
}

#[test]
fn the_hop_limit_counts_routers() {
    let mut bed = middle();
    bed.send(
        101,
        &from_1("class:9", 3).set(|header| header.hop_limit = 2),
    );
    assert_eq!(bed.received(103)[0].hop_limit, 1);
    bed.send(
        101,
        &from_1("class:9", 3).set(|header| header.hop_limit = 1),
    );
    assert_eq!(bed.dropped(DropReason::HopLimit), 1);
    assert_eq!(bed.notice(101).code, NoticeCode::HopLimit);
    // Delivery costs nothing.
    bed.send(
        101,
        &from_1("class:7.1", 2).set(|header| header.hop_limit = 1),
    );
    assert_eq!(bed.received(20)[0].hop_limit, 1);
}

#[test]
fn the_fabric_label_is_taken_off_at_delivery() {
    let mut bed = middle();
    bed.send(101, &from_1("class:7.1", 2));
    assert_eq!(bed.received(20)[0].label, label("class:7.1"));
}

#[test]
fn ingress_chooses_the_egress_router_by_weight() {
    let mut bed = middle();
    for flow in 0..400 {
        let ask = message(agent(20, 1), "class:7.1")
            .flow(flow)
            .set(|header| header.tenant = 1);
        bed.send(20, &ask);
    }
    let (here, there) = (bed.received(20).len(), bed.received(103));
    assert_eq!(here + there.len(), 400);
    assert!((140..260).contains(&here), "{here}");
    assert!(there.iter().all(|header| header.label == router(3)));
}

#[test]
fn the_last_instance_gone_a_message_is_rerouted_once() {
    let mut bed = middle();
    bed.forwarder.peer_down(NOW, peer(20));
    for to in ["class:7.1", "agent:20"] {
        bed.send(101, &from_1(to, 2));
        let got = bed.received(103);
        assert_eq!(got.len(), 1, "{to}");
        assert_eq!(got[0].label, router(3));
        assert!(got[0].flags.contains(Flags::REROUTED));
        // A second time is once too many.
        bed.send(
            103,
            &from_1(to, 2).set(|header| header.flags = header.flags | Flags::REROUTED),
        );
        assert_eq!(bed.notice(101).code, NoticeCode::Unreachable, "{to}");
    }
    assert_eq!(bed.forwarder.counters().rerouted, 2);
    // The very instance asked for is not replaced by another.
    bed.send(101, &from_1("agent:20.1", 2));
    assert_eq!(bed.notice(101).code, NoticeCode::Unreachable);
    // Nobody else serves it.
    bed.send(101, &from_1("class:8", 2));
    assert_eq!(bed.notice(101).code, NoticeCode::Unreachable);
}

#[test]
fn a_rerouted_message_may_go_back_where_it_came_from() {
    let mut bed = middle();
    bed.forwarder.peer_down(NOW, peer(20));
    bed.send(103, &from_1("class:7.1", 2));
    assert_eq!(bed.received(103).len(), 1);
}

#[test]
fn an_ingress_router_clears_the_flag_that_instances_may_not_set() {
    let mut bed = middle();
    let ask = message(agent(20, 1), "class:9").set(|header| {
        header.tenant = 1;
        header.flags = header.flags | Flags::REROUTED;
    });
    bed.send(20, &ask);
    assert!(!bed.received(103)[0].flags.contains(Flags::REROUTED));
}

#[test]
fn a_table_that_never_named_this_router_is_stale() {
    let mut bed = middle();
    // An agent that was never here: its table is another generation's.
    bed.send(101, &from_1("agent:77.1", 2));
    assert_eq!(bed.notice(101).code, NoticeCode::StaleTable);
    bed.send(101, &from_1("class:6", 2));
    assert_eq!(bed.notice(101).code, NoticeCode::StaleTable);
    // Named elsewhere by ours: sent there, once.
    bed.send(101, &from_1("agent:60.1", 2));
    let got = bed.received(103);
    assert!(got[0].flags.contains(Flags::REROUTED));
    bed.send(
        101,
        &from_1("class:9", 2).set(|header| header.flags = header.flags | Flags::REROUTED),
    );
    assert_eq!(bed.notice(101).code, NoticeCode::StaleTable);
    assert_eq!(bed.dropped(DropReason::StaleTable), 3);
}

#[test]
fn a_fallback_at_the_egress_router_needs_the_senders_permission() {
    let mut entries = vec![
        policy(1, &[1], &[]),
        policy(0, &[0], &[]),
        identity(10, 1, &[], &[]),
        identity(40, 0, &[("class:7.1", 1)], &[]),
        agent_at(10, 1, &[(1, 1)]),
        class_at(1, "class:7.1", &[2], &[2]),
        class_at(0, "class:7.1", &[2], &[2]),
    ];
    entries.extend(link(1, &[1], &[]));
    let mut bed = Bed::new(table(2, entries));
    bed.attach(40, 40, 1);
    bed.neighbour(101, 1);
    // Tenant 1's member is gone, the shared one is not allowed to tenant 1.
    bed.send(101, &from_1("class:7.1", 2));
    assert!(bed.received(40).is_empty());
    assert_eq!(bed.notice(101).code, NoticeCode::Unreachable);
    // A source the table does not know has no permission at all.
    let stranger = message(agent(999, 1), "class:7.1").set(|header| {
        header.tenant = 1;
        header.label = router(2);
    });
    bed.send(101, &stranger);
    assert!(bed.received(40).is_empty());
}

/// Router 1 of a square: to router 4 by 2 or 3 (equal), alternate 5.
fn square() -> Bed {
    let mut entries = vec![
        policy(1, &[1], &[]),
        identity(10, 1, &[], &[]),
        class_at(1, "class:9", &[4], &[4]),
    ];
    for n in [2, 3, 5] {
        entries.extend(link(n, &[n], &[]));
    }
    entries.push(Entry::Transit(TransitEntry {
        router: router(4),
        next_hops: vec![router(2), router(3)],
        alternates: vec![router(5)],
    }));
    let mut bed = Bed::new(table(1, entries));
    bed.attach(10, 10, 1);
    for n in [2, 3, 5] {
        bed.neighbour(100 + n, n);
    }
    bed
}

fn spread(bed: &mut Bed) -> [usize; 3] {
    for flow in 0..300 {
        let ask = message(agent(10, 1), "class:9")
            .flow(flow)
            .set(|header| header.tenant = 1);
        bed.send(10, &ask);
    }
    [102, 103, 105].map(|slot| bed.received(slot).len())
}

#[test]
fn equal_paths_share_flows_and_alternates_take_over_at_once() {
    let mut bed = square();
    let [two, three, five] = spread(&mut bed);
    assert!(
        two > 100 && three > 100 && five == 0,
        "{two} {three} {five}"
    );
    bed.forwarder.peer_alive(peer(102), false);
    assert_eq!(spread(&mut bed), [0, 300, 0]);
    bed.forwarder.peer_down(NOW, peer(103));
    assert_eq!(spread(&mut bed), [0, 0, 300]);
    bed.forwarder.peer_alive(peer(102), true);
    assert_eq!(spread(&mut bed), [300, 0, 0]);
    bed.forwarder.peer_down(NOW, peer(102));
    bed.forwarder.peer_down(NOW, peer(105));
    assert_eq!(spread(&mut bed), [0, 0, 0]);
    assert_eq!(bed.dropped(DropReason::Unreachable), 300);
}

#[test]
fn transit_never_returns_a_message_to_where_it_came_from() {
    let mut bed = square();
    for flow in 0..100 {
        let through = message(agent(77, 1), "class:9")
            .flow(flow)
            .set(|header| header.label = router(4));
        bed.send(102, &through);
    }
    assert_eq!(bed.received(103).len(), 100);
    bed.forwarder.peer_down(NOW, peer(103));
    for flow in 0..100 {
        let through = message(agent(77, 1), "class:9")
            .flow(flow)
            .set(|header| header.label = router(4));
        bed.send(102, &through);
    }
    assert_eq!(bed.received(105).len(), 100, "the alternate");
}
