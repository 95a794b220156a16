//! What an instance may send, and what becomes of what it may not.

use bytes::BytesMut;
use caplane_wire::{Extension, Flags, Kind, Label, NoticeCode, TrafficClass, extension};

use super::bed::*;
use crate::DropReason;
use crate::fib::{Delta, Entry, EntryKey, Generation};
use crate::forward::{BulkEnd, BulkVerdict, PeerError, PeerRole};

/// Router 1: agent 10 (tenant 1) in slot 1 asks; agent 20 (tenant 1, class 7.12.3) in slot 2 serves;
/// agent 30 (tenant 2, class 8) in slot 3; agent 40 (shared, class 9) in slot 4.
fn bed() -> Bed {
    let fib = table(
        1,
        vec![
            policy(1, &[1, 0], &[]),
            policy(2, &[2], &[]),
            policy(0, &[0], &[1]),
            identity(10, 1, &[], &[]),
            identity(20, 1, &[("class:7.12.3", 100)], &[]),
            identity(30, 2, &[("class:8", 100)], &[]),
            identity(40, 0, &[("class:9", 100)], &[]),
            class_at(1, "class:7.12.3", &[1], &[1]),
            class_at(1, "class:7.12", &[], &[1]),
            class_at(1, "class:7", &[], &[1]),
            class_at(2, "class:8", &[1], &[1]),
            class_at(0, "class:9", &[1], &[1]),
            agent_at(10, 1, &[(1, 1)]),
            agent_at(20, 1, &[(1, 1)]),
            agent_at(30, 2, &[(1, 1)]),
            agent_at(40, 0, &[(1, 1)]),
        ],
    );
    let mut bed = Bed::new(fib);
    for (slot, number) in [(1, 10), (2, 20), (3, 30), (4, 40)] {
        bed.attach(slot, number, 1);
    }
    bed
}

fn ask(class: &str) -> Message {
    message(agent(10, 1), class).set(|header| header.tenant = 1)
}

#[test]
fn a_message_reaches_an_agent_by_its_capability() {
    let mut bed = bed();
    for class in ["class:7.12.3", "class:7.12", "class:7"] {
        bed.send(1, &ask(class));
        let got = bed.received(2);
        assert_eq!(got.len(), 1, "{class}");
        // Delivery within a router changes nothing.
        assert_eq!(got[0], ask(class).0);
    }
    assert_eq!(bed.forwarder.counters().delivered, 3);
}

#[test]
fn a_reply_returns_to_the_instance_that_asked() {
    let mut bed = bed();
    bed.attach(5, 10, 2);
    for (slot, instance) in [(1, 1), (5, 2)] {
        let reply = message(agent(20, 1), &format!("agent:10.{instance}"));
        bed.send(2, &reply);
        assert_eq!(bed.received(slot).len(), 1);
    }
}

#[test]
fn nobody_serves_it_no_route() {
    let mut bed = bed();
    bed.send(1, &ask("class:6.1"));
    let notice = bed.notice(1);
    assert_eq!(notice.code, NoticeCode::NoRoute);
    assert_eq!(notice.router, router(1));
    assert_eq!(notice.offending().requested_label(), label("class:6.1"));
    assert_eq!(bed.dropped(DropReason::NoRoute), 1);
    bed.send(1, &message(agent(10, 1), "agent:999"));
    assert_eq!(bed.notice(1).code, NoticeCode::NoRoute);
    bed.send(1, &message(agent(10, 1), "group:5"));
    assert_eq!(bed.notice(1).code, NoticeCode::NoRoute);
    // An agent that is known, an instance that is not there.
    bed.send(1, &message(agent(10, 1), "agent:20.9"));
    assert_eq!(bed.notice(1).code, NoticeCode::Unreachable);
}

#[test]
fn tenants_are_apart_and_the_shared_one_is_for_all() {
    let mut bed = bed();
    // Shared class, asked for with the own tenant and with the shared one.
    for tenant in [1, 0] {
        bed.send(1, &ask("class:9").set(|header| header.tenant = tenant));
        assert_eq!(bed.received(4).len(), 1);
    }
    // The shared agent answers, by the reply permission.
    bed.send(4, &message(agent(40, 1), "agent:10.1"));
    assert_eq!(bed.received(1).len(), 1);
    // It may not reach tenant 2, nor tenant 1's classes.
    bed.send(4, &message(agent(40, 1), "agent:30.1"));
    assert_eq!(bed.notice(4).code, NoticeCode::PolicyDenied);
    bed.send(
        4,
        &message(agent(40, 1), "class:7").set(|header| header.tenant = 1),
    );
    assert_eq!(bed.notice(4).code, NoticeCode::PolicyDenied);
    // Tenant 1 reaches nothing of tenant 2: class, agent, instance.
    for to in ["class:8", "agent:30", "agent:30.1"] {
        bed.send(1, &ask(to).set(|header| header.tenant = 2));
        assert_eq!(bed.notice(1).code, NoticeCode::PolicyDenied, "{to}");
        assert!(bed.received(3).is_empty());
    }
    // Tenant 2 is not allowed the shared tenant: a match there is denied though its own class is asked for.
    bed.send(
        3,
        &message(agent(30, 1), "class:9").set(|header| header.tenant = 2),
    );
    assert_eq!(bed.notice(3).code, NoticeCode::PolicyDenied);
    assert!(bed.received(4).is_empty());
}

#[test]
fn a_forged_source_is_dropped_without_a_word() {
    let mut bed = bed();
    bed.send(
        1,
        &ask("class:7").set(|header| header.source_label = agent(10, 2)),
    );
    bed.send(
        1,
        &ask("class:7").set(|header| header.source_label = agent(20, 1)),
    );
    bed.send(
        1,
        &ask("class:7").set(|header| header.source_label = Label::NONE),
    );
    bed.send(1, &ask("class:7").set(|header| header.source_domain = 8));
    assert_eq!(bed.dropped(DropReason::ForgedSource), 4);
    for slot in 1..5 {
        assert!(bed.received(slot).is_empty());
    }
    // Zero means this domain, as its number does.
    bed.send(1, &ask("class:7").set(|header| header.source_domain = 0));
    assert_eq!(bed.received(2).len(), 1);
}

#[test]
fn instances_send_data_receipts_and_probes_but_no_notices() {
    let mut bed = bed();
    for (kind, delivered) in [
        (Kind::Data, 1),
        (Kind::Receipt, 1),
        (Kind::Probe, 1),
        (Kind::Notice, 0),
    ] {
        bed.send(
            1,
            &message(agent(10, 1), "agent:20.1").set(|header| header.kind = kind),
        );
        assert_eq!(bed.received(2).len(), delivered, "{kind:?}");
    }
    assert_eq!(bed.dropped(DropReason::ForgedNotice), 1);
    assert!(bed.received(1).is_empty());
}

#[test]
fn no_notice_about_a_receipt() {
    let mut bed = bed();
    bed.send(
        1,
        &message(agent(10, 1), "agent:999").set(|header| header.kind = Kind::Receipt),
    );
    assert_eq!(bed.dropped(DropReason::NoRoute), 1);
    assert!(bed.received(1).is_empty());
}

#[test]
fn priority_is_lowered_to_the_cap_in_place() {
    let mut bed = bed();
    let urgent = TrafficClass::from_index(15);
    for class in [urgent, CLASS] {
        bed.send(1, &ask("class:7").set(|header| header.class = class));
    }
    let classes: Vec<_> = bed.received(2).iter().map(|header| header.class).collect();
    assert_eq!(classes, [urgent.capped(6), CLASS]);
    assert_eq!(bed.forwarder.counters().priority_capped, 1);
}

#[test]
fn labels_that_are_no_destination_are_malformed() {
    let mut bed = bed();
    let gap = Label::from_bits(7 << 20 | 3);
    for bad in [Label::NONE, gap, router(1)] {
        bed.send(
            1,
            &ask("class:7").set(|header| header.requested_label = bad),
        );
        assert_eq!(bed.notice(1).code, NoticeCode::Malformed);
    }
    assert_eq!(bed.dropped(DropReason::Malformed), 3);
    // What the sender writes into `label` does not matter.
    bed.send(1, &ask("class:7").set(|header| header.label = router(9)));
    assert_eq!(bed.received(2)[0].label, label("class:7"));
    // Other domains have no way yet.
    bed.send(
        1,
        &ask("class:7").set(|header| header.destination_domain = 99),
    );
    assert_eq!(bed.notice(1).code, NoticeCode::NoRoute);
}

#[test]
fn a_deadline_that_passed_drops_the_message() {
    let mut bed = bed();
    let with_deadline = |deadline: u64| {
        let value = &deadline.to_be_bytes();
        let item = Extension {
            kind: extension::DEADLINE,
            value,
        };
        let mut items = vec![0; item.wire_len()];
        item.emit(&mut items).unwrap();
        let late = ask("class:7").set(|header| {
            header.flags = header.flags | Flags::DEADLINE;
            header.extension_len = items.len() as u16;
        });
        let mut bytes = late.bytes();
        bytes[48..48 + items.len()].copy_from_slice(&items);
        bytes
    };
    bed.send_bytes(1, CLASS, &with_deadline(NOW.unix_us));
    assert_eq!(bed.received(2).len(), 1);
    bed.send_bytes(1, CLASS, &with_deadline(NOW.unix_us - 1));
    assert_eq!(bed.notice(1).code, NoticeCode::Deadline);
    // The flag without the extension.
    bed.send(
        1,
        &ask("class:7").set(|header| header.flags = Flags::DEADLINE),
    );
    assert_eq!(bed.notice(1).code, NoticeCode::Malformed);
}

#[test]
fn a_lane_takes_65536_bytes_and_not_one_more() {
    let mut bed = bed();
    let most = 65_536 - 48;
    bed.send(1, &ask("class:7").set(|header| header.payload_len = most));
    assert_eq!(bed.slices(2).0[0].len(), 65_536);
    let first = ask("class:7").bytes();
    let mut bytes = first.clone();
    bytes.extend(
        ask("class:7")
            .set(|header| header.payload_len = most + 1)
            .bytes(),
    );
    let mut data = BytesMut::from(&bytes[..]);
    let fault = bed
        .forwarder
        .lane(NOW, peer(1), 0, CLASS, &mut data)
        .unwrap_err();
    assert_eq!(fault.reason, DropReason::TooLarge);
    // What was complete before it is kept.
    assert_eq!(
        (fault.progress.messages, fault.progress.bytes),
        (1, first.len())
    );
    assert_eq!(bed.received(2).len(), 1);
    assert_eq!(bed.notice(1).code, NoticeCode::TooLarge);
    bed.check();
}

#[test]
fn what_is_no_message_ends_the_stream() {
    let good = ask("class:7").bytes();
    let mut version = good.clone();
    version[0] = 0x20;
    let mut kind = good.clone();
    kind[0] = 0x14;
    let other_class = ask("class:7").set(|header| header.class = BLOCKING).bytes();
    for bad in [version, kind, other_class] {
        let mut bed = bed();
        let mut data = BytesMut::from(&[&good[..], &bad[..]].concat()[..]);
        let fault = bed
            .forwarder
            .lane(NOW, peer(1), 0, CLASS, &mut data)
            .unwrap_err();
        assert_eq!(fault.reason, DropReason::Malformed);
        assert_eq!(bed.received(2).len(), 1);
        assert_eq!(bed.dropped(DropReason::Malformed), 1);
        bed.check();
    }
}

#[test]
fn bytes_may_come_one_at_a_time() {
    let mut bed = bed();
    let messages: Vec<u8> = (0..3)
        .flat_map(|n| ask("class:7").set(|header| header.sequence = n).bytes())
        .collect();
    let mut data = BytesMut::with_capacity(1_024);
    for byte in &messages {
        data.extend_from_slice(&[*byte]);
        bed.forwarder
            .lane(NOW, peer(1), 0, CLASS, &mut data)
            .unwrap();
        bed.check();
    }
    assert!(data.is_empty());
    assert_eq!(bed.slices(2).0.concat(), messages);
    // A lane that ends inside a message loses it, and says so.
    bed.forwarder.lane_cut(peer(1));
    assert_eq!(bed.dropped(DropReason::CutShort), 1);
    bed.check();
}

#[test]
fn datagrams_hold_one_whole_message() {
    let mut bed = bed();
    let whole = ask("class:7").bytes();
    let send = |bed: &mut Bed, bytes: &[u8]| {
        bed.forwarder.datagram(NOW, peer(1), BytesMut::from(bytes));
        bed.check();
    };
    send(&mut bed, &whole);
    let out = bed
        .forwarder
        .dequeue(peer(2), usize::MAX, |_, _| true)
        .unwrap();
    assert_eq!(
        (out.carrier, out.messages),
        (crate::forward::Carrier::Datagram, 1)
    );
    assert_eq!(out.data, whole);
    send(&mut bed, &whole[..60]);
    send(&mut bed, &whole[..20]);
    send(&mut bed, &[&whole[..], &[0]].concat());
    assert_eq!(bed.dropped(DropReason::Malformed), 3);
    bed.forwarder.peer_datagram_max(peer(2), whole.len() - 1);
    send(&mut bed, &whole);
    assert_eq!(bed.notice(1).code, NoticeCode::TooLarge);
}

#[test]
fn bulk_is_decided_by_its_head() {
    let mut bed = bed();
    let head = |bytes: u32, to: &str| {
        ask(to)
            .set(|header| header.payload_len = bytes - 48)
            .0
            .to_bytes()
    };
    let open = |bed: &mut Bed, mut head: [u8; 48]| {
        let verdict = bed.forwarder.bulk_open(NOW, peer(1), CLASS, &mut head);
        bed.check();
        verdict
    };
    let forward = BulkVerdict::Forward {
        to: peer(2),
        class: CLASS,
    };
    assert_eq!(open(&mut bed, head(16 << 20, "class:7")), forward);
    assert_eq!(bed.forwarder.counters().bulk_active, 1);
    bed.forwarder.bulk_end(peer(2), BulkEnd::Complete, 16 << 20);
    assert_eq!(bed.forwarder.counters().delivered, 1);
    assert_eq!(open(&mut bed, head(1 << 20, "class:7")), forward);
    bed.forwarder.bulk_end(peer(2), BulkEnd::Cut, 1_000);
    assert_eq!(bed.dropped(DropReason::CutShort), 1);
    let refuse = |reason| BulkVerdict::Refuse { reason };
    assert_eq!(
        open(&mut bed, head((16 << 20) + 1, "class:7")),
        refuse(DropReason::TooLarge)
    );
    assert_eq!(bed.notice(1).code, NoticeCode::TooLarge);
    assert_eq!(
        open(&mut bed, head(1 << 20, "class:6")),
        refuse(DropReason::NoRoute)
    );
    assert_eq!(bed.notice(1).code, NoticeCode::NoRoute);
    // The way on is gone half way: the source is told.
    assert_eq!(open(&mut bed, head(1 << 20, "class:7")), forward);
    bed.forwarder
        .bulk_gone(NOW, peer(1), &head(1 << 20, "class:7"));
    assert_eq!(bed.notice(1).code, NoticeCode::Unreachable);
    bed.check();
}

#[test]
fn peers_are_what_the_table_says() {
    let mut bed = bed();
    let instance = |number, label| PeerRole::Instance {
        uri: uri(number),
        label,
    };
    let mut up = |slot, role| bed.forwarder.peer_up(peer(slot), role);
    assert_eq!(up(1, instance(10, agent(10, 9))), Err(PeerError::KeyInUse));
    assert_eq!(
        up(9, instance(99, agent(99, 1))),
        Err(PeerError::UnknownIdentity)
    );
    assert_eq!(
        up(9, instance(10, agent(20, 2))),
        Err(PeerError::WrongLabel)
    );
    assert_eq!(
        up(9, instance(10, agent(10, 0))),
        Err(PeerError::WrongLabel)
    );
    let held = Err(PeerError::LabelInUse { by: peer(1) });
    assert_eq!(up(9, instance(10, agent(10, 1))), held);
    let stranger = PeerRole::Neighbour { router: router(2) };
    assert_eq!(up(9, stranger), Err(PeerError::UnknownNeighbour));
}

#[test]
fn a_withdrawn_identity_reaches_and_serves_nothing() {
    let mut bed = bed();
    let fib = bed.forwarder.fib().clone();
    let mut delta = Delta {
        base: Generation(1),
        generation: Generation(2),
        upserts: vec![],
        removes: vec![EntryKey::Identity(uri(20))],
    };
    let without = fib.apply(&delta).unwrap();
    assert_eq!(bed.forwarder.set_fib(without.into()), [peer(2)]);
    bed.send(1, &ask("class:7"));
    assert_eq!(bed.notice(1).code, NoticeCode::Unreachable);
    bed.send(2, &message(agent(20, 1), "agent:10.1"));
    assert_eq!(bed.notice(2).code, NoticeCode::PolicyDenied);
    // Back with another class, without attaching anew.
    delta.removes.clear();
    delta.upserts = vec![
        identity(20, 1, &[("class:5", 1)], &[]),
        class_at(1, "class:5", &[1], &[1]),
    ];
    let changed = fib.apply(&delta).unwrap();
    assert!(bed.forwarder.set_fib(changed.into()).is_empty());
    bed.send(1, &ask("class:5"));
    assert_eq!(bed.received(2).len(), 1);
}

#[test]
fn policy_changes_are_in_force_with_the_table() {
    let mut bed = bed();
    let fib = bed.forwarder.fib().clone();
    let delta = Delta {
        base: Generation(1),
        generation: Generation(2),
        upserts: vec![policy(1, &[], &[])],
        removes: vec![],
    };
    assert!(
        bed.forwarder
            .set_fib(fib.apply(&delta).unwrap().into())
            .is_empty()
    );
    bed.send(1, &ask("class:7"));
    assert_eq!(bed.notice(1).code, NoticeCode::PolicyDenied);
}

#[test]
fn an_instance_the_table_does_not_route_yet_serves_its_own_router() {
    let mut bed = bed();
    // Attached while the controller is away: its identity is known, no class route names this router.
    let fib = bed.forwarder.fib().clone();
    let delta = Delta {
        base: Generation(1),
        generation: Generation(2),
        upserts: vec![identity(50, 1, &[("class:3.1", 100)], &[])],
        removes: vec![],
    };
    bed.forwarder.set_fib(fib.apply(&delta).unwrap().into());
    bed.attach(5, 50, 4);
    for to in ["class:3.1", "class:3", "agent:50", "agent:50.4"] {
        bed.send(1, &ask(to));
        assert_eq!(bed.received(5).len(), 1, "{to}");
    }
    assert!(matches!(policy(1, &[], &[]), Entry::Policy(_)));
}
