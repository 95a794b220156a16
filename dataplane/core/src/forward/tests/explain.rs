//! What is explained is what then happens, and every reason is named with the members it is about.

use caplane_wire::{HEADER_LEN, Header, Kind};
use proptest::prelude::*;

use super::bed::*;
use super::recall::{Event, bed_with, event, happen};
use crate::DropReason;
use crate::fib::Entry;
use crate::forward::{Destination, Explanation, NextHop, Outcome, PeerKey, Verdict};

/// Router 1 and its neighbours 2 and 3, each the other's alternate. Agents 10 (tenant 1) and 11 (tenant 2) ask; 20 and
/// 21 serve class 7.1 here, with a quarter and three; class 7.2 is at routers 2 and 3; group 9 everywhere.
fn entries() -> Vec<Entry> {
    let mut entries = vec![
        policy(1, &[1, 0], &[]),
        policy(2, &[0], &[]),
        identity(10, 1, &[], &[]),
        identity(11, 2, &[], &[]),
        identity(20, 1, &[("class:7.1", 100)], &[9]),
        identity(21, 1, &[("class:7.1", 300)], &[]),
        class_at(1, "class:7", &[], &[1, 2, 3]),
        class_at(1, "class:7.1", &[1], &[1]),
        class_at(1, "class:7.2", &[2, 3], &[2, 3]),
        class_at(2, "class:8", &[2], &[2]),
        agent_at(20, 1, &[(1, 1), (2, 3)]),
        group_at(9, 1, &[1, 2, 3]),
    ];
    entries.extend(link(2, &[2], &[3]));
    entries.extend(link(3, &[3], &[2]));
    entries
}

fn bed() -> Bed {
    let mut bed = Bed::new(table(1, entries()));
    for number in [10, 11, 20, 21] {
        bed.attach(number, number, 1);
    }
    bed.neighbour(102, 2);
    bed.neighbour(103, 3);
    bed
}

fn ask(number: u32, to: &str) -> Message {
    message(agent(number, 1), to).set(|header| header.tenant = 1)
}

fn explain(bed: &Bed, slot: u32, message: &Message) -> Explanation {
    bed.forwarder.explain(NOW, peer(slot), &message.bytes())
}

/// `label member verdict`, a line each.
fn told(explanation: &Explanation) -> Vec<String> {
    let considered = explanation.considered.iter();
    considered
        .map(|c| format!("{} {} {:?}", c.label, c.member, c.verdict))
        .collect()
}

fn destination(explanation: &Explanation) -> Destination {
    match &explanation.outcome {
        Outcome::Unicast(copy) => copy.to,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_instance_chosen_is_named_beside_those_passed_over() {
    let bed = bed();
    let explanation = explain(&bed, 10, &ask(10, "class:7.1"));
    let Destination::Instance(chosen) = destination(&explanation) else {
        panic!("{explanation:?}");
    };
    assert!([agent(20, 1), agent(21, 1)].contains(&chosen));
    let verdict = |instance| match instance == chosen {
        true => "Chosen",
        false => "Passed",
    };
    let mut told = told(&explanation);
    told[1..].sort();
    let due = [
        "class:7.1 router:1 Chosen".to_owned(),
        format!("class:7.1 agent:20.1 {}", verdict(agent(20, 1))),
        format!("class:7.1 agent:21.1 {}", verdict(agent(21, 1))),
    ];
    assert_eq!(told, due);
    let mut weights: Vec<u32> = explanation.considered.iter().map(|c| c.weight).collect();
    weights.sort_unstable();
    assert_eq!(weights, [100, 100, 300]);
}

#[test]
fn a_denied_destination_has_its_reason() {
    let bed = bed();
    let explanation = explain(&bed, 11, &ask(11, "class:7.1"));
    assert_eq!(
        explanation.outcome,
        Outcome::Refused(DropReason::PolicyDenied)
    );
    assert!(explanation.considered.is_empty());
    // Nor may it ask an agent that serves it.
    let explanation = explain(&bed, 11, &ask(11, "agent:20"));
    assert_eq!(
        explanation.outcome,
        Outcome::Refused(DropReason::PolicyDenied)
    );
    assert_eq!(
        told(&explanation),
        ["agent:20 agent:20.1 Denied", "agent:20 agent:20.2 Denied"]
    );
}

#[test]
fn members_that_policy_denies_are_told() {
    let mut entries = entries();
    entries.retain(|entry| entry.key() != class_at(1, "class:7", &[], &[]).key());
    // The shared tenant has what is asked for; agent 12 may ask its own tenant only.
    entries.extend([
        policy(3, &[1], &[]),
        identity(12, 3, &[], &[]),
        class_at(0, "class:7.3", &[2], &[2]),
    ]);
    let mut bed = Bed::new(table(1, entries));
    bed.attach(12, 12, 1);
    bed.neighbour(102, 2);
    let explanation = explain(&bed, 12, &ask(12, "class:7.3"));
    let due = Outcome::Refused(DropReason::PolicyDenied);
    assert_eq!(explanation.outcome, due);
    assert_eq!(told(&explanation), ["class:7.3 router:2 Denied"]);
    assert_eq!(explanation.considered[0].tenant, 0);
}

#[test]
fn what_no_table_serves_has_no_members() {
    let bed = bed();
    for to in ["class:9.1", "agent:77", "group:77"] {
        let explanation = explain(&bed, 10, &ask(10, to));
        let due = Outcome::Refused(DropReason::NoRoute);
        assert_eq!(explanation.outcome, due, "{to}");
        assert!(explanation.considered.is_empty(), "{to}");
    }
}

#[test]
fn a_dead_member_is_told_from_one_passed_over() {
    let mut bed = bed();
    bed.forwarder.peer_down(NOW, peer(102));
    bed.forwarder.peer_alive(peer(103), false);
    let explanation = explain(&bed, 10, &ask(10, "class:7.2"));
    let due = Outcome::Refused(DropReason::Unreachable);
    assert_eq!(explanation.outcome, due);
    let dead = ["class:7.2 router:2 Dead", "class:7.2 router:3 Dead"];
    assert_eq!(told(&explanation), dead);
    let hops = |alive| {
        [(2, false), (3, true)].map(|(number, alternate)| NextHop {
            router: router(number),
            alternate,
            alive: alive && number == 3,
        })
    };
    assert_eq!(bed.forwarder.next_hops(router(2)), hops(false));
    bed.forwarder.peer_alive(peer(103), true);
    assert_eq!(bed.forwarder.next_hops(router(2)), hops(true));
    // Router 2 is behind its alternate now.
    let both = ask(10, "class:7.2");
    let explained = destination(&explain(&bed, 10, &both));
    assert!(
        matches!(explained, Destination::Router { next_hop, .. } if next_hop == router(3)),
        "{explained:?}"
    );
    assert!(bed.forwarder.next_hops(router(9)).is_empty());
}

#[test]
fn a_table_that_is_no_longer_true_and_a_reroute_are_told() {
    let mut bed = bed();
    let stray = |to: &str| ask(10, to).set(|header| header.label = router(1));
    // Nothing of class 7.2 is here, and the table does not say so: once, another router may have it.
    let explanation = explain(&bed, 102, &stray("class:7.2"));
    let Outcome::Unicast(copy) = &explanation.outcome else {
        panic!("{explanation:?}");
    };
    let header = Header::new_unchecked(&copy.header);
    assert!(header.flags().contains(caplane_wire::Flags::REROUTED));
    let again = stray("class:7.2").set(|header| {
        header.flags = header.flags.with(caplane_wire::Flags::REROUTED);
    });
    let explanation = explain(&bed, 102, &again);
    let stale = Outcome::Refused(DropReason::StaleTable);
    assert_eq!(explanation.outcome, stale);
    // With the table's word it is nobody's fault but the instances'.
    bed.forwarder.peer_down(NOW, peer(20));
    bed.forwarder.peer_down(NOW, peer(21));
    let explanation = explain(&bed, 102, &stray("class:7.1"));
    let gone = Outcome::Refused(DropReason::Unreachable);
    assert_eq!(explanation.outcome, gone);
}

#[test]
fn a_used_up_hop_limit_is_told() {
    let bed = bed();
    let last = |to: &str| ask(10, to).set(|header| header.hop_limit = 1);
    let explanation = explain(&bed, 10, &last("class:7.2"));
    let due = Outcome::Refused(DropReason::HopLimit);
    assert_eq!(explanation.outcome, due);
    // Who was chosen all the same, is told.
    let chosen = |c: &&crate::forward::Considered| c.verdict == Verdict::Chosen;
    assert_eq!(explanation.considered.iter().filter(chosen).count(), 1);
}

#[test]
fn every_copy_for_a_group_is_told() {
    let mut bed = bed();
    let to_group = ask(10, "group:9").set(|header| header.hop_limit = 1);
    bed.forwarder.peer_down(NOW, peer(103));
    bed.forwarder.peer_alive(peer(102), false);
    let explanation = explain(&bed, 10, &to_group);
    let Outcome::Group {
        copies,
        unreachable,
        hop_limit,
    } = &explanation.outcome
    else {
        panic!("{explanation:?}");
    };
    assert_eq!((copies.len(), *unreachable, *hop_limit), (1, 2, 0));
    bed.forwarder.peer_alive(peer(102), true);
    // Router 3 is reached through router 2, but not by a message at its last hop.
    let explanation = explain(&bed, 10, &to_group);
    assert_eq!(
        told(&explanation),
        [
            "group:9 agent:20.1 Chosen",
            "group:9 router:2 HopLimit",
            "group:9 router:3 HopLimit"
        ]
    );
}

#[test]
fn a_long_list_is_cut_but_never_the_one_chosen() {
    let number = 1_000;
    let mut entries = vec![
        policy(1, &[1], &[]),
        identity(10, 1, &[], &[]),
        class_at(1, "class:7", &[1], &[1]),
    ];
    entries.extend((0..number).map(|n| identity(100 + n, 1, &[("class:7", 100)], &[])));
    let mut bed = Bed::new(table(1, entries));
    bed.attach(10, 10, 1);
    (0..number).for_each(|n| {
        bed.attach(100 + n, 100 + n, 1);
    });
    for flow in 0..50 {
        let explanation = explain(&bed, 10, &ask(10, "class:7").flow(flow));
        let Destination::Instance(chosen) = destination(&explanation) else {
            panic!("{explanation:?}");
        };
        let told = explanation.considered.len();
        assert!(told <= Explanation::CONSIDERED_MAX + 1, "{told}");
        assert_eq!(
            told as u64 + explanation.considered_more,
            1 + u64::from(number)
        );
        let is_it = |c: &crate::forward::Considered| c.member == chosen;
        assert!(explanation.considered.iter().any(is_it));
    }
}

#[test]
fn what_is_no_message_is_explained_as_that() {
    let bed = bed();
    let bytes = ask(10, "class:7.1").bytes();
    let refused =
        |from: PeerKey, bytes: &[u8]| match bed.forwarder.explain(NOW, from, bytes).outcome {
            Outcome::Refused(reason) => Some(reason),
            _ => None,
        };
    // The payload does not matter, a header cut short does.
    assert_eq!(refused(peer(10), &bytes[..HEADER_LEN]), None);
    for end in 0..HEADER_LEN {
        let reason = refused(peer(10), &bytes[..end]);
        assert_eq!(reason, Some(DropReason::Malformed), "{end}");
    }
    assert_eq!(refused(peer(99), &bytes), Some(DropReason::UnknownPeer));
    let large = ask(10, "class:7.1").set(|header| header.payload_len = 1 << 20);
    let head = large.0.to_bytes();
    assert_eq!(refused(peer(10), &head), Some(DropReason::TooLarge));
    let forged = ask(11, "class:7.1").bytes();
    assert_eq!(refused(peer(10), &forged), Some(DropReason::ForgedSource));
}

#[test]
fn another_routers_table_has_all_but_its_links() {
    let fib = table(1, entries());
    let other = fib.for_router(router(2));
    assert_eq!(other.router(), router(2));
    assert_eq!(other.generation(), fib.generation());
    assert_eq!(
        (other.transits().count(), other.neighbours().count()),
        (0, 0)
    );
    let shared = |fib: &crate::Fib| {
        let entries = fib.entries();
        let linked = |entry: &Entry| matches!(entry, Entry::Transit(_) | Entry::Neighbour(_));
        let mut shared: Vec<_> = entries
            .filter(|entry| !linked(entry))
            .map(|entry| format!("{entry:?}"))
            .collect();
        shared.sort();
        shared
    };
    assert_eq!(shared(&other), shared(&fib));
}

/// Slot and header of each message.
type Queued = Vec<(u32, Vec<u8>)>;

/// Messages queued for everybody but notices.
fn queued(bed: &mut Bed) -> Queued {
    let mut queued = Vec::new();
    for slot in [10, 11, 20, 21, 102, 103] {
        for message in bed.slices(slot).0 {
            if Header::new_unchecked(&message).kind() != Kind::Notice {
                queued.push((slot, message[..HEADER_LEN].to_vec()));
            }
        }
    }
    queued
}

/// What an explanation says will be queued, and how many messages dropped, by reason.
fn foretold(outcome: &Outcome) -> (Queued, Vec<(DropReason, u64)>) {
    let (copies, dropped) = match outcome {
        Outcome::Unicast(copy) => (core::slice::from_ref(copy), vec![]),
        Outcome::Group {
            copies,
            unreachable,
            hop_limit,
        } => {
            let dropped = vec![
                (DropReason::Unreachable, *unreachable),
                (DropReason::HopLimit, *hop_limit),
            ];
            (&copies[..], dropped)
        }
        Outcome::Refused(reason) => (&[][..], vec![(*reason, 1)]),
    };
    let copies = copies.iter();
    let mut queued: Vec<_> = copies
        .map(|copy| (copy.peer.slot, copy.header.to_vec()))
        .collect();
    queued.sort_by_key(|(slot, _)| *slot);
    (queued, dropped)
}

/// Nobody is told to have been chosen who does not get it, and whoever gets it is told.
fn check_considered(bed: &Bed, explanation: &Explanation, to: &str) {
    let chosen = explanation.considered.iter();
    let chosen = chosen.filter(|c| c.verdict == Verdict::Chosen);
    let chosen: Vec<_> = chosen.map(|c| c.member).collect();
    match &explanation.outcome {
        Outcome::Unicast(copy) => match copy.to {
            Destination::Instance(instance) => assert_eq!(chosen.last(), Some(&instance), "{to}"),
            // Transit looks at no member.
            Destination::Router { egress, next_hop } => {
                let hops = bed.forwarder.next_hops(egress);
                let hop = hops.iter().find(|hop| hop.router == next_hop).unwrap();
                assert!(hop.alive);
                assert!(chosen.len() <= 1, "{to}");
                let last = explanation.considered.last();
                let last = last.filter(|c| c.verdict == Verdict::Chosen);
                assert!(last.is_none_or(|c| c.router == egress), "{to}");
            }
        },
        Outcome::Group { copies, .. } => assert_eq!(chosen.len(), copies.len(), "{to}"),
        Outcome::Refused(_) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever came, went and changed before: each message is explained, then sent, and what was explained happens. With
    /// and without decisions that are remembered, of which explanations know nothing.
    #[test]
    fn what_is_explained_happens(events in prop::collection::vec(event(), 1..120)) {
        let mut beds = [0, 1_024].map(bed_with);
        for event in &events {
            for bed in &mut beds {
                let Event::Send { slot, to, .. } = event else {
                    happen(bed, event);
                    continue;
                };
                let Some(message) = event.message() else { continue };
                if bed.forwarder.peers.find(peer(*slot)).is_none() {
                    continue;
                }
                let before = bed.forwarder.counters().clone();
                let explanation = explain(bed, *slot, &message);
                prop_assert_eq!(&before, bed.forwarder.counters());
                check_considered(bed, &explanation, to);
                happen(bed, event);
                let (due, dropped) = foretold(&explanation.outcome);
                prop_assert_eq!(queued(bed), due, "{:?}: {:?}", event, &explanation);
                for reason in DropReason::ALL {
                    let told = dropped.iter().filter(|(r, _)| *r == reason);
                    let told: u64 = told.map(|(_, count)| count).sum();
                    let happened = bed.dropped(reason) - before.dropped(reason);
                    prop_assert_eq!(happened, told, "{:?} {:?}", reason, event);
                }
            }
        }
    }
}
