//! Decisions that are remembered are the decisions that the tables give, and whatever changes is honoured at once.

use proptest::prelude::*;

use super::bed::*;
use crate::fib::{Delta, Entry, EntryKey, Generation};
use crate::forward::ForwarderConfig;
use crate::{Counters, DropReason};

/// Router 1. Agents 10 (tenant 1) and 11 (tenant 2, who may ask the shared tenant only) ask; 20 serves class 7.1 here,
/// 30 class 7.2 at router 2; group 9 here, 8 at all three. Routers 2 and 3 behind slots 102 and 103, each other's alternate.
fn entries() -> Vec<Entry> {
    let mut entries = vec![
        policy(1, &[1, 0], &[]),
        policy(2, &[0], &[]),
        identity(10, 1, &[], &[]),
        identity(11, 2, &[], &[]),
        identity(20, 1, &[("class:7.1", 100)], &[8, 9]),
        identity(21, 1, &[("class:7.1", 100)], &[]),
        class_at(1, "class:7.1", &[1], &[1]),
        class_at(1, "class:7.2", &[2], &[2]),
        class_at(1, "class:7", &[], &[1, 2]),
        agent_at(10, 1, &[(1, 1)]),
        agent_at(20, 1, &[(1, 1)]),
        agent_at(30, 1, &[(1, 2), (2, 3)]),
        group_at(8, 1, &[1, 2, 3]),
        group_at(9, 1, &[1]),
    ];
    entries.extend(link(2, &[2], &[3]));
    entries.extend(link(3, &[3], &[2]));
    entries
}

pub(super) fn bed_with(decisions_remembered: usize) -> Bed {
    let config = ForwarderConfig {
        decisions_remembered,
        ..ForwarderConfig::default()
    };
    let mut bed = Bed::with(config, table(1, entries()));
    bed.attach(10, 10, 1);
    bed.attach(11, 11, 1);
    bed.attach(20, 20, 1);
    bed.neighbour(102, 2);
    bed.neighbour(103, 3);
    bed
}

fn bed() -> Bed {
    bed_with(1_024)
}

fn ask(to: &str) -> Message {
    message(agent(10, 1), to).set(|header| header.tenant = 1)
}

/// Twice: decided, then remembered. How many arrived.
fn arrive(bed: &mut Bed, to: &str, slot: u32) -> usize {
    for flow in 0..2 {
        bed.send(10, &ask(to).flow(flow));
    }
    bed.received(slot).len()
}

fn change(bed: &mut Bed, upserts: Vec<Entry>, removes: Vec<EntryKey>) {
    let fib = bed.forwarder.fib().clone();
    let base = fib.generation();
    let delta = Delta {
        base,
        generation: Generation(base.0 + 1),
        upserts,
        removes,
    };
    let unknown = bed.forwarder.set_fib(fib.apply(&delta).unwrap().into());
    assert!(unknown.is_empty());
}

#[test]
fn a_changed_table_is_honoured_at_once() {
    let mut bed = bed();
    assert_eq!(arrive(&mut bed, "class:7.1", 20), 2);
    let moved = vec![class_at(1, "class:7.1", &[3], &[3])];
    change(&mut bed, moved, vec![]);
    assert_eq!(arrive(&mut bed, "class:7.1", 103), 2);
    let key = EntryKey::Class {
        tenant: 1,
        label: label("class:7.2"),
    };
    assert_eq!(arrive(&mut bed, "class:7.2", 102), 2);
    change(&mut bed, vec![], vec![key]);
    assert_eq!(arrive(&mut bed, "class:7.2", 102), 0);
    assert_eq!(bed.dropped(DropReason::NoRoute), 2);
}

#[test]
fn a_changed_policy_is_honoured_at_once() {
    let mut bed = bed();
    assert_eq!(arrive(&mut bed, "class:7.1", 20), 2);
    assert_eq!(arrive(&mut bed, "group:9", 20), 2);
    change(&mut bed, vec![policy(1, &[0], &[])], vec![]);
    assert_eq!(arrive(&mut bed, "class:7.1", 20), 0);
    assert_eq!(arrive(&mut bed, "group:9", 20), 0);
    assert_eq!(bed.dropped(DropReason::PolicyDenied), 4);
}

#[test]
fn what_one_policy_group_was_told_does_not_hold_for_another() {
    let mut bed = bed();
    for to in ["class:7.1", "agent:20.1", "group:9"] {
        assert_eq!(arrive(&mut bed, to, 20), 2, "{to}");
        let denied = bed.dropped(DropReason::PolicyDenied);
        let other = message(agent(11, 1), to).set(|header| header.tenant = 1);
        bed.send(11, &other);
        assert_eq!(bed.dropped(DropReason::PolicyDenied), denied + 1, "{to}");
        assert!(bed.received(20).is_empty(), "{to}");
    }
}

#[test]
fn every_message_is_checked_whatever_is_remembered() {
    let mut bed = bed();
    assert_eq!(arrive(&mut bed, "class:7.1", 20), 2);
    let forged = [
        (
            ask("class:7.1").set(|header| header.source_label = agent(20, 1)),
            DropReason::ForgedSource,
        ),
        (
            ask("class:7.1").set(|header| header.source_domain = 8),
            DropReason::ForgedSource,
        ),
        (
            ask("class:7.1").set(|header| header.destination_domain = 8),
            DropReason::NoRoute,
        ),
        (
            ask("class:7.1").set(|header| header.kind = caplane_wire::Kind::Notice),
            DropReason::ForgedNotice,
        ),
        (
            ask("class:7.1").set(|header| {
                header.flags = header.flags.with(caplane_wire::Flags::DEADLINE);
            }),
            DropReason::Malformed,
        ),
    ];
    for (message, reason) in forged {
        let before = bed.dropped(reason);
        bed.send(10, &message);
        assert_eq!(bed.dropped(reason), before + 1, "{reason:?}");
        assert!(bed.received(20).is_empty(), "{reason:?}");
    }
    let spent = ask("class:7.2").set(|header| header.hop_limit = 1);
    assert_eq!(arrive(&mut bed, "class:7.2", 102), 2);
    bed.send(10, &spent);
    assert_eq!(bed.dropped(DropReason::HopLimit), 1);
}

#[test]
fn a_neighbour_that_falls_silent_is_left_out_at_once() {
    let mut bed = bed();
    assert_eq!(arrive(&mut bed, "class:7.2", 102), 2);
    bed.forwarder.peer_alive(peer(102), false);
    assert_eq!(arrive(&mut bed, "class:7.2", 103), 2);
    bed.forwarder.peer_down(NOW, peer(103));
    assert_eq!(arrive(&mut bed, "class:7.2", 103), 0);
    assert_eq!(bed.dropped(DropReason::Unreachable), 2);
    bed.forwarder.peer_alive(peer(102), true);
    assert_eq!(arrive(&mut bed, "class:7.2", 102), 2);
}

#[test]
fn a_class_comes_back_from_its_parent_as_soon_as_it_is_reached() {
    let mut bed = bed();
    let general = vec![
        class_at(1, "class:7", &[1], &[1, 2]),
        identity(20, 1, &[("class:7", 100)], &[]),
    ];
    change(&mut bed, general, vec![]);
    for alive in [true, false, true] {
        bed.forwarder.peer_alive(peer(102), alive);
        bed.forwarder.peer_alive(peer(103), alive);
        let slot = if alive { 102 } else { 20 };
        assert_eq!(arrive(&mut bed, "class:7.2", slot), 2, "{alive}");
    }
}

#[test]
fn an_instance_that_drains_alone_gets_nothing_more() {
    let mut bed = bed();
    assert_eq!(arrive(&mut bed, "class:7.1", 20), 2);
    bed.forwarder.peer_draining(peer(20));
    assert_eq!(arrive(&mut bed, "class:7.1", 20), 0);
    assert_eq!(bed.dropped(DropReason::Unreachable), 2);
}

#[test]
fn instances_that_come_drain_and_go_are_honoured_at_once() {
    let mut bed = bed();
    assert_eq!(arrive(&mut bed, "class:7.1", 20), 2);
    bed.attach(21, 21, 1);
    for flow in 0..200 {
        bed.send(10, &ask("class:7.1").flow(flow));
    }
    let both = [bed.received(20).len(), bed.received(21).len()];
    assert!(both.iter().all(|share| *share > 50), "{both:?}");
    bed.forwarder.peer_draining(peer(20));
    assert_eq!(arrive(&mut bed, "class:7.1", 21), 2);
    assert_eq!(arrive(&mut bed, "agent:20.1", 20), 2);
    bed.forwarder.peer_down(NOW, peer(20));
    assert_eq!(arrive(&mut bed, "agent:20.1", 20), 0);
    bed.forwarder.peer_down(NOW, peer(21));
    assert_eq!(arrive(&mut bed, "class:7.1", 21), 0);
    // Its place may be somebody else's by now.
    bed.attach(22, 10, 2);
    assert_eq!(arrive(&mut bed, "class:7.1", 22), 0);
}

#[test]
fn messages_from_other_routers_follow_the_instances_too() {
    let mut bed = bed();
    let from = |to: &str| ask(to).set(|header| header.label = router(1));
    for _ in 0..2 {
        bed.send(102, &from("class:7.1"));
    }
    assert_eq!(bed.received(20).len(), 2);
    // What an instance here may ask for is no answer for other routers, nor the other way round.
    assert_eq!(arrive(&mut bed, "class:7.2", 102), 2);
    bed.send(103, &from("class:7.2"));
    let sent_on = bed.received(102);
    assert!(sent_on[0].flags.contains(caplane_wire::Flags::REROUTED));
    bed.forwarder.peer_down(NOW, peer(20));
    bed.send(102, &from("class:7.1"));
    assert_eq!(bed.dropped(DropReason::Unreachable), 1);
}

/// What happens to both forwarders alike.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Send {
        slot: u32,
        to: &'static str,
        label: &'static str,
        flow: u64,
        flags: u8,
        tenant: u32,
        hops: u8,
    },
    Attach(u32),
    Down(u32),
    Drain(u32),
    Alive(u32, bool),
    Class(&'static str, Vec<u32>),
    NoClass(&'static str),
    Policy(u32, Vec<u32>),
}

impl Event {
    /// What is sent.
    pub(super) fn message(&self) -> Option<Message> {
        let Event::Send {
            slot,
            to,
            label: label_text,
            flow,
            flags,
            tenant,
            hops,
        } = self
        else {
            return None;
        };
        Some(message(agent(*slot % 100, 1), to).set(|header| {
            header.flow = *flow;
            header.flags = caplane_wire::Flags::from_bits(*flags);
            header.tenant = *tenant;
            header.hop_limit = *hops;
            if *slot > 100 {
                header.source_label = agent(30, 1);
                header.label = label(label_text);
            }
        }))
    }
}

const CLASSES: [&str; 4] = ["class:7", "class:7.1", "class:7.2", "class:7.1.1"];

pub(super) fn event() -> impl Strategy<Value = Event> {
    let to = prop::sample::select(vec![
        "class:7",
        "class:7.1",
        "class:7.1",
        "class:7.1",
        "class:7.2",
        "class:7.1.1",
        "class:7.2",
        "agent:20",
        "agent:20.1",
        "agent:30",
        "agent:30.2",
        "group:8",
        "group:9",
        "router:2",
    ]);
    let label = prop::sample::select(vec!["router:1", "router:1", "router:2", "router:3"]);
    let sender = prop::sample::select(vec![10u32, 10, 11, 20, 102, 103]);
    let flags = prop::sample::select(vec![0x80u8, 0x80, 0x88, 0x08, 0x90]);
    let tenant = prop::sample::select(vec![1u32, 1, 1, 0, 2]);
    let hops = prop::sample::select(vec![64u8, 64, 64, 1, 0]);
    let routers = prop::collection::btree_set(1..4u32, 0..3);
    let routers = routers.prop_map(|set| set.into_iter().collect::<Vec<_>>());
    let class = prop::sample::select(CLASSES.to_vec());
    let instance = prop::sample::select(vec![10u32, 11, 20, 21]);
    prop_oneof![
        120 => (sender, to, label, 0..4u64, flags, tenant, hops).prop_map(
            |(slot, to, label, flow, flags, tenant, hops)| Event::Send {
                slot, to, label, flow, flags, tenant, hops
            }
        ),
        2 => instance.clone().prop_map(Event::Attach),
        1 => instance.clone().prop_map(Event::Down),
        1 => instance.prop_map(Event::Drain),
        4 => (102..104u32, any::<bool>()).prop_map(|(slot, alive)| Event::Alive(slot, alive)),
        2 => (class.clone(), routers).prop_map(|(class, routers)| Event::Class(class, routers)),
        1 => class.prop_map(Event::NoClass),
        1 => (1..3u32, prop::collection::vec(0..3u32, 0..3)).prop_map(|(id, allow)| Event::Policy(id, allow)),
    ]
}

pub(super) fn happen(bed: &mut Bed, event: &Event) {
    match event {
        Event::Send { slot, .. } => {
            if let Some(message) = event.message() {
                bed.send(*slot, &message);
            }
        }
        Event::Attach(number) => {
            if bed.forwarder.peers.find(peer(*number)).is_none() {
                bed.attach(*number, *number, 1);
            }
        }
        Event::Down(number) => {
            bed.forwarder.peer_down(NOW, peer(*number));
        }
        Event::Drain(number) => bed.forwarder.peer_draining(peer(*number)),
        Event::Alive(slot, alive) => bed.forwarder.peer_alive(peer(*slot), *alive),
        Event::Class(class, routers) => {
            change(bed, vec![class_at(1, class, routers, routers)], vec![]);
        }
        Event::NoClass(class) => {
            let label = label(class);
            change(bed, vec![], vec![EntryKey::Class { tenant: 1, label }]);
        }
        Event::Policy(id, allow) => change(bed, vec![policy(*id, allow, &[])], vec![]),
    }
}

/// Counters, and everything queued for everybody.
fn outcome(bed: &mut Bed) -> (Counters, Vec<Vec<Vec<u8>>>) {
    let slots = [10, 11, 20, 21, 102, 103];
    let queued = slots.map(|slot| bed.slices(slot).0);
    (bed.forwarder.counters().clone(), queued.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// A forwarder that remembers, one with room for four decisions, and one that looks everything up: whatever comes,
    /// goes and changes, they do the same.
    #[test]
    fn remembering_changes_nothing(events in prop::collection::vec(event(), 1..120)) {
        let mut beds = [0, 4, 1_024].map(bed_with);
        for event in &events {
            // An instance that is not attached sends nothing.
            if let Event::Send { slot, .. } = event
                && beds[0].forwarder.peers.find(peer(*slot)).is_none()
            {
                continue;
            }
            for bed in &mut beds {
                happen(bed, event);
            }
            let [by_tables, few, many] = &mut beds;
            let due = outcome(by_tables);
            prop_assert_eq!(&outcome(few), &due, "{:?}", event);
            prop_assert_eq!(&outcome(many), &due, "{:?}", event);
        }
    }
}
