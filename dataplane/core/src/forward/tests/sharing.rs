//! Who gets a message among several: weights, affinity, parents, backups.

use std::collections::BTreeMap;

use caplane_wire::NoticeCode;

use super::bed::*;
use crate::DropReason;

/// Router 1: asker in slot 1; agents 21 and 22 serve class 7.12.3 with weights 100 and 300 in slots 2 and 3.
fn weighted() -> Bed {
    let mut bed = Bed::new(table(
        1,
        vec![
            policy(1, &[1], &[]),
            identity(10, 1, &[], &[]),
            identity(21, 1, &[("class:7.12.3", 100)], &[]),
            identity(22, 1, &[("class:7.12.3", 300)], &[]),
            class_at(1, "class:7.12.3", &[1], &[1]),
            agent_at(10, 1, &[(1, 1)]),
        ],
    ));
    for (slot, number) in [(1, 10), (2, 21), (3, 22)] {
        bed.attach(slot, number, 1);
    }
    bed
}

fn ask(flow: u64) -> Message {
    message(agent(10, 1), "class:7.12.3")
        .flow(flow)
        .set(|header| header.tenant = 1)
}

/// Slot each flow went to.
fn placement(bed: &mut Bed, flows: u64, slots: &[u32]) -> BTreeMap<u64, u32> {
    for flow in 0..flows {
        bed.send(1, &ask(flow));
    }
    let mut placed = BTreeMap::new();
    for slot in slots {
        for header in bed.received(*slot) {
            assert_eq!(placed.insert(header.flow, *slot), None);
        }
    }
    placed
}

#[test]
fn load_is_shared_by_weight_and_a_flow_stays() {
    let mut bed = weighted();
    let placed = placement(&mut bed, 2_000, &[2, 3]);
    assert_eq!(placed.len(), 2_000);
    let heavier = placed.values().filter(|slot| **slot == 3).count();
    assert!(
        (1_420..1_580).contains(&heavier),
        "{heavier} of 2,000, 1,500 due"
    );
    assert_eq!(placement(&mut bed, 2_000, &[2, 3]), placed);
}

#[test]
fn without_affinity_the_less_loaded_of_two_is_taken() {
    let mut bed = weighted();
    for sequence in 0..1_000 {
        bed.send(
            1,
            &ask(1)
                .set(no_affinity)
                .set(|header| header.sequence = sequence),
        );
    }
    // Nothing drains: an even split, as both draws see both members half of the time.
    let (light, heavy) = (bed.received(2).len(), bed.received(3).len());
    assert_eq!(light + heavy, 1_000);
    assert!((250..=750).contains(&light), "{light}");
}

#[test]
fn the_flows_of_a_dead_member_move_at_once_and_only_they() {
    let mut bed = weighted();
    let before = placement(&mut bed, 500, &[2, 3]);
    bed.forwarder.peer_down(NOW, peer(3));
    let after = placement(&mut bed, 500, &[2]);
    assert_eq!(after.len(), 500);
    assert!(
        before
            .iter()
            .all(|(flow, slot)| *slot == 3 || after[flow] == *slot)
    );
    bed.attach(3, 22, 1);
    assert_eq!(placement(&mut bed, 500, &[2, 3]), before);
    // Draining: no class traffic, but still its own label.
    bed.forwarder.peer_draining(peer(3));
    assert_eq!(placement(&mut bed, 500, &[2]).len(), 500);
    bed.send(1, &message(agent(10, 1), "agent:22.1"));
    assert_eq!(bed.received(3).len(), 1);
}

#[test]
fn what_waited_for_a_dead_instance_is_counted_and_noticed() {
    let mut bed = weighted();
    let placed = placement(&mut bed, 0, &[]);
    assert!(placed.is_empty());
    for flow in 0..40 {
        bed.send(1, &ask(flow));
    }
    let (_, waiting) = bed.forwarder.queued(peer(3));
    assert!(waiting > 0);
    assert_eq!(bed.forwarder.peer_down(NOW, peer(3)), waiting);
    assert_eq!(bed.dropped(DropReason::PeerGone), waiting);
    bed.check();
    let notices = bed.slices(1).0;
    assert_eq!(notices.len() as u64, waiting);
    assert_eq!(notices[0][48], NoticeCode::Unreachable.number());
    assert_eq!(bed.forwarder.peer_down(NOW, peer(3)), 0);
}

/// Router 1: who may stand in for class 7.12.3 of tenant 1. Every agent number is its slot.
fn family(members: &[(u32, u32, &str)]) -> Bed {
    let mut entries = vec![
        policy(1, &[1, 0], &[]),
        policy(0, &[0], &[1]),
        identity(1, 1, &[], &[]),
        agent_at(1, 1, &[(1, 1)]),
    ];
    let mut routes = BTreeMap::<(u32, String), bool>::new();
    for (number, tenant, class) in members {
        entries.push(identity(*number, *tenant, &[(class, 100)], &[]));
        let own = label(class);
        routes.insert((*tenant, class.to_string()), true);
        for above in own.ancestors() {
            routes.entry((*tenant, above.to_string())).or_insert(false);
        }
    }
    for ((tenant, class), own) in &routes {
        let own: &[u32] = if *own { &[1] } else { &[] };
        entries.push(class_at(*tenant, class, own, &[1]));
    }
    let mut bed = Bed::new(table(1, entries));
    bed.attach(1, 1, 1);
    for (number, _, _) in members {
        bed.attach(*number, *number, 1);
    }
    bed
}

fn served_by(bed: &mut Bed, class: &str) -> Option<u32> {
    bed.send(
        1,
        &message(agent(1, 1), class).set(|header| header.tenant = 1),
    );
    (2..9).find(|slot| !bed.received(*slot).is_empty())
}

#[test]
fn own_members_of_parents_serve_and_siblings_never() {
    let exact = (2, 1, "class:7.12.3");
    let parent = (3, 1, "class:7.12");
    let top = (4, 1, "class:7");
    let sibling = (5, 1, "class:7.12.4");
    let shared = (6, 0, "class:7.12.3");
    let shared_parent = (7, 0, "class:7.12");
    type Members<'a> = &'a [(u32, u32, &'a str)];
    let cases: [(Members, Option<u32>); 8] = [
        (
            &[exact, parent, top, sibling, shared, shared_parent],
            Some(2),
        ),
        (&[parent, top, sibling, shared, shared_parent], Some(6)),
        (&[parent, top, sibling, shared_parent], Some(3)),
        (&[top, sibling, shared_parent], Some(7)),
        (&[top, sibling], Some(4)),
        (&[sibling], None),
        (&[(8, 1, "class:7.13")], None),
        (&[], None),
    ];
    for (members, expected) in cases {
        let mut bed = family(members);
        assert_eq!(served_by(&mut bed, "class:7.12.3"), expected, "{members:?}");
        if expected.is_none() {
            assert_eq!(bed.dropped(DropReason::NoRoute), 1);
            assert_eq!(bed.notice(1).code, NoticeCode::NoRoute);
        }
    }
}

#[test]
fn when_the_specialist_dies_the_generalist_serves() {
    let mut bed = family(&[(2, 1, "class:7.12.3"), (3, 1, "class:7.12")]);
    assert_eq!(served_by(&mut bed, "class:7.12.3"), Some(2));
    // The table still names the dead one; it is skipped at once.
    bed.forwarder.peer_down(NOW, peer(2));
    assert_eq!(served_by(&mut bed, "class:7.12.3"), Some(3));
    bed.forwarder.peer_down(NOW, peer(3));
    assert_eq!(served_by(&mut bed, "class:7.12.3"), None);
    assert_eq!(bed.notice(1).code, NoticeCode::Unreachable);
}

#[test]
fn asked_for_a_parent_everything_below_serves() {
    let mut bed = family(&[
        (2, 1, "class:7.12.3"),
        (3, 1, "class:7.12.4"),
        (4, 1, "class:7.13"),
    ]);
    let mut served = BTreeMap::new();
    for flow in 0..90 {
        let ask = message(agent(1, 1), "class:7")
            .flow(flow)
            .set(|header| header.tenant = 1);
        bed.send(1, &ask);
    }
    for slot in 2..5 {
        served.insert(slot, bed.received(slot).len());
    }
    assert!(served.values().all(|count| *count > 10), "{served:?}");
}

#[test]
fn a_thousand_members_share_by_weight_and_lose_only_the_dead_ones_flows() {
    let number = |slot: u32| 100 + slot;
    let mut entries = vec![
        policy(1, &[1], &[]),
        identity(10, 1, &[], &[]),
        class_at(1, "class:7", &[1], &[1]),
    ];
    for slot in 2..1_002 {
        entries.push(identity(
            number(slot),
            1,
            &[("class:7", 100 + slot % 2 * 100)],
            &[],
        ));
    }
    let mut bed = Bed::new(table(1, entries));
    bed.attach(1, 10, 1);
    for slot in 2..1_002 {
        bed.attach(slot, number(slot), 1);
    }
    let placed = |bed: &mut Bed| {
        let mut bytes = Vec::new();
        for flow in 0..10_000 {
            let ask = message(agent(10, 1), "class:7").flow(flow);
            bytes.extend(ask.set(|header| header.tenant = 1).bytes());
        }
        bed.send_bytes(1, CLASS, &bytes);
        let mut placed = BTreeMap::new();
        for slot in 2..1_002 {
            placed.extend(bed.received(slot).iter().map(|header| (header.flow, slot)));
        }
        placed
    };
    let before = placed(&mut bed);
    assert_eq!(before.len(), 10_000);
    let heavier = before.values().filter(|slot| **slot % 2 == 1).count();
    assert!((6_500..6_850).contains(&heavier), "{heavier}, 6,667 due");
    for slot in 2..12 {
        bed.forwarder.peer_down(NOW, peer(slot));
    }
    let after = placed(&mut bed);
    assert!(
        before
            .iter()
            .all(|(flow, slot)| *slot < 12 || after[flow] == *slot)
    );
    // Down to a few, and up again.
    for slot in 12..1_000 {
        bed.forwarder.peer_down(NOW, peer(slot));
    }
    assert_eq!(placed(&mut bed).len(), 10_000);
}
