//! Group messages: one copy per egress router, one buffer for all local members.

use bytes::BytesMut;
use caplane_wire::{Kind, NoticeCode};

use super::bed::*;
use crate::DropReason;

/// Router 1 with agents 10 to 13 of group 9; routers 2 and 3 behind slots 102 and 103.
fn bed(routers: &[u32]) -> Bed {
    let mut entries = vec![
        policy(1, &[1], &[]),
        policy(2, &[2], &[]),
        group_at(9, 1, routers),
        identity(30, 2, &[], &[]),
    ];
    entries.extend(link(2, &[2], &[]));
    entries.extend(link(3, &[3], &[]));
    for number in 10..14 {
        entries.push(identity(number, 1, &[], &[9]));
        entries.push(agent_at(number, 1, &[(1, 1)]));
    }
    entries.push(identity(14, 1, &[], &[]));
    entries.push(agent_at(14, 1, &[(1, 1)]));
    let mut bed = Bed::new(table(1, entries));
    for number in 10..15 {
        bed.attach(number, number, 1);
    }
    bed.attach(30, 30, 1);
    bed.neighbour(102, 2);
    bed.neighbour(103, 3);
    bed
}

#[test]
fn one_copy_a_router_and_one_buffer_for_the_members_here() {
    let mut bed = bed(&[1, 2, 3]);
    let sent = message(agent(10, 1), "group:9");
    let mut data = BytesMut::from(&sent.bytes()[..]);
    let at = data.as_ptr();
    bed.forwarder
        .lane(NOW, peer(10), 0, CLASS, &mut data)
        .unwrap();
    bed.check();
    let counters = bed.forwarder.counters();
    // Three here (the sender gets none back), two to other routers: one message became five.
    assert_eq!(
        (counters.received, counters.replicated, counters.queued),
        (1, 4, 5)
    );
    assert_eq!(counters.copied_bytes, 2 * 48, "only headers");
    for slot in 11..14 {
        let out = bed
            .forwarder
            .dequeue(peer(slot), usize::MAX, |_, _| true)
            .unwrap();
        assert_eq!((out.data.as_ptr(), &out.data[..]), (at, &sent.bytes()[..]));
    }
    assert!(bed.received(10).is_empty());
    assert!(bed.received(14).is_empty());
    for (slot, to) in [(102, 2), (103, 3)] {
        let got = bed.slices(slot).0;
        let header = sent.0;
        let expected = Message(header).set(|h| {
            h.label = router(to);
            h.hop_limit -= 1;
        });
        assert_eq!(got, [expected.bytes()]);
    }
    assert_eq!(bed.forwarder.counters().forwarded, 5);
}

#[test]
fn the_egress_router_replicates_to_its_own_only() {
    let mut bed = bed(&[1, 2, 3]);
    let copy = message(agent(50, 1), "group:9").set(|header| header.label = router(1));
    bed.send(102, &copy);
    for slot in 10..14 {
        let got = bed.received(slot);
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].label, label("group:9"));
    }
    assert!(bed.received(102).is_empty() && bed.received(103).is_empty());
    assert_eq!(bed.forwarder.counters().replicated, 3);
}

#[test]
fn copies_are_dropped_alone_and_without_notices() {
    let mut bed = bed(&[1, 2, 3]);
    bed.forwarder.peer_down(NOW, peer(103));
    bed.send(10, &message(agent(10, 1), "group:9"));
    assert_eq!(bed.dropped(DropReason::Unreachable), 1);
    assert_eq!(bed.forwarder.counters().queued, 4);
    // Used up for other routers, good enough here.
    bed.send(
        10,
        &message(agent(10, 1), "group:9").set(|header| header.hop_limit = 1),
    );
    assert_eq!(bed.dropped(DropReason::HopLimit), 1);
    assert_eq!(bed.dropped(DropReason::Unreachable), 2);
    assert_eq!(bed.forwarder.counters().queued, 7);
    // What waits for a member that goes is counted, not noticed.
    assert_eq!(bed.forwarder.peer_down(NOW, peer(11)), 2);
    assert_eq!(bed.forwarder.peer_down(NOW, peer(102)), 1);
    bed.check();
    assert_eq!(bed.forwarder.counters().notices, 0);
}

/// Twenty messages for the group with one for an agent among them.
fn run_with_a_gap() -> Vec<u8> {
    let mut bytes = Vec::new();
    for sequence in 0..20 {
        let to = if sequence == 12 {
            "agent:14.1"
        } else {
            "group:9"
        };
        let one = message(agent(10, 1), to).set(|header| {
            header.sequence = sequence;
            header.payload_len = 16 + sequence;
        });
        bytes.extend(one.bytes());
    }
    bytes
}

#[test]
fn neighbours_in_the_buffer_are_copied_as_one_slice() {
    let mut bed = bed(&[1]);
    let bytes = run_with_a_gap();
    bed.send_bytes(10, CLASS, &bytes);
    let counters = bed.forwarder.counters();
    assert_eq!((counters.received, counters.replicated), (20, 19 * 2));
    assert_eq!((counters.copied_bytes, counters.runs), (0, 3 * 2 + 1));
    for slot in 11..14 {
        let (messages, slices) = bed.slices(slot);
        assert_eq!((messages.len(), slices), (19, 2));
        let all = messages.concat();
        let due: Vec<u8> = bytes.clone();
        // As they were sent, the gap apart; label and class are what they were.
        assert!(due.starts_with(&all[..12 * 64]));
        assert!(due.ends_with(&messages[12..].concat()));
    }
    assert_eq!(bed.slices(14).0.len(), 1);
}

#[test]
fn groups_with_the_same_members_share_a_slice_and_others_do_not() {
    // Groups 7 and 8 have the members 11 and 12, group 9 has 12 alone; group 6 is 7 with members at router 2.
    let mut entries = vec![policy(1, &[1], &[])];
    entries.extend(link(2, &[2], &[]));
    for (group, routers) in [(6, &[1, 2][..]), (7, &[1]), (8, &[1]), (9, &[1])] {
        entries.push(group_at(group, 1, routers));
    }
    for (number, groups) in [(10, &[][..]), (11, &[6, 7, 8]), (12, &[6, 7, 8, 9])] {
        entries.push(identity(number, 1, &[], groups));
        entries.push(agent_at(number, 1, &[(1, 1)]));
    }
    let mut bed = Bed::new(table(1, entries));
    for number in 10..13 {
        bed.attach(number, number, 1);
    }
    bed.neighbour(102, 2);
    let groups = [7, 8, 7, 8, 9, 9, 7, 8, 6, 6, 8];
    let bytes: Vec<u8> = groups
        .iter()
        .flat_map(|group| message(agent(10, 1), &format!("group:{group}")).bytes())
        .collect();
    bed.send_bytes(10, CLASS, &bytes);
    let of = |wanted: &[u32]| {
        let each = groups.iter().filter(|group| wanted.contains(group));
        each.map(|group| label(&format!("group:{group}")))
            .collect::<Vec<_>>()
    };
    let labels = |bed: &mut Bed, slot| {
        let (messages, slices) = bed.slices(slot);
        let label = |m: &Vec<u8>| caplane_wire::Header::new_unchecked(&m[..]).label();
        (messages.iter().map(label).collect::<Vec<_>>(), slices)
    };
    // Four, two, and one of 8; those of group 6 one by one, as their copies for router 2 are made one by one.
    assert_eq!(labels(&mut bed, 11), (of(&[6, 7, 8]), 5));
    assert_eq!(labels(&mut bed, 12), (of(&[6, 7, 8, 9]), 6));
    assert_eq!(bed.received(102).len(), 2);
}

#[test]
fn runs_for_other_routers_get_their_headers_one_by_one() {
    let mut bed = bed(&[1, 2]);
    bed.send_bytes(10, CLASS, &run_with_a_gap());
    let remote = bed.received(102);
    assert_eq!(remote.len(), 19);
    assert!(remote.iter().all(|header| header.label == router(2)));
    assert!(remote.iter().all(|header| header.hop_limit == 63));
    assert_eq!(bed.received(13).len(), 19);
    // Each message is noticed when nobody is there.
    for slot in [11, 12, 13, 102] {
        bed.forwarder.peer_down(NOW, peer(slot));
    }
    let before = bed.dropped(DropReason::Unreachable);
    let mut lonely = self::bed(&[1]);
    for slot in 11..14 {
        lonely.forwarder.peer_down(NOW, peer(slot));
    }
    lonely.send_bytes(10, CLASS, &run_with_a_gap());
    assert_eq!(lonely.dropped(DropReason::Unreachable), 19);
    assert_eq!(lonely.received(10).len(), 19);
    bed.send_bytes(10, CLASS, &run_with_a_gap());
    assert_eq!(bed.dropped(DropReason::Unreachable), before + 19);
}

#[test]
fn a_group_without_members_is_unreachable() {
    let mut bed = bed(&[]);
    for slot in 11..14 {
        bed.forwarder.peer_down(NOW, peer(slot));
    }
    bed.send(10, &message(agent(10, 1), "group:9"));
    assert_eq!(bed.notice(10).code, NoticeCode::Unreachable);
    // At an egress router nothing is said.
    bed.forwarder.peer_down(NOW, peer(10));
    bed.send(
        102,
        &message(agent(50, 1), "group:9").set(|header| header.label = router(1)),
    );
    assert_eq!(bed.dropped(DropReason::Unreachable), 2);
    assert_eq!(bed.forwarder.counters().notices, 1);
}

#[test]
fn another_tenant_may_not_send_to_a_group() {
    let mut bed = bed(&[1]);
    bed.send(30, &message(agent(30, 1), "group:9"));
    assert_eq!(bed.dropped(DropReason::PolicyDenied), 1);
    assert_eq!(
        bed.forwarder.counters().queued,
        bed.forwarder.counters().notices
    );
}

#[test]
fn datagrams_to_groups_stay_whole() {
    let mut bed = bed(&[1, 2]);
    let sent = message(agent(10, 1), "group:9").set(|header| header.kind = Kind::Probe);
    bed.forwarder
        .datagram(NOW, peer(10), BytesMut::from(&sent.bytes()[..]));
    bed.check();
    let out = bed
        .forwarder
        .dequeue(peer(102), usize::MAX, |_, _| true)
        .unwrap();
    assert_eq!((out.messages, out.data.len()), (1, sent.bytes().len()));
    assert_eq!(bed.forwarder.counters().queued, 3);
}

#[test]
fn bulk_to_a_group_is_refused() {
    let mut bed = bed(&[1]);
    let mut head = message(agent(10, 1), "group:9").0.to_bytes();
    let verdict = bed.forwarder.bulk_open(NOW, peer(10), CLASS, &mut head);
    let reason = DropReason::TooLarge;
    assert_eq!(verdict, crate::forward::BulkVerdict::Refuse { reason });
    bed.check();
}
