//! What happens in the simulated fabric, and what must come of it.

use caplane_core::DropReason;
use caplane_core::fib::Rate;
use caplane_wire::{Label, NoticeCode};

use crate::load::{BLOCK, DROP, Flow, agent, config, plan};
use crate::plan::Plan;
use crate::rng::Rng;
use crate::world::{Action, Quality, World};

/// Says how to run a failing seed again.
struct Seed {
    seed: u64,
    scenario: &'static str,
}

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Seed { seed, scenario } = self;
            eprintln!(
                "failed under seed {seed}; again: SIM_SEED={seed} cargo test -p caplane-core --test sim {scenario}"
            );
        }
    }
}

fn under_seeds(scenario: &'static str, seeds: u64, run: impl Fn(u64)) {
    let only = std::env::var("SIM_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seeds = only.map_or(1..=seeds, |seed: u64| seed..=seed);
    for seed in seeds {
        let guard = Seed { seed, scenario };
        run(seed);
        drop(guard);
    }
}

fn dropped(world: &World, reason: DropReason) -> u64 {
    world.sum(|counters| counters.dropped(reason))
}

fn dropped_total(world: &World) -> u64 {
    world.sum(|counters| counters.dropped_total())
}

/// Three routers in a line; agents 1 and 2 (class 7.1) at the ends, 3 (class 7.2) and the asker in the middle of
/// nowhere: node 0.
fn line() -> Plan {
    let agents = vec![
        agent(10, 1, &[]),
        agent(20, 1, &[("class:7.1", 100)]),
        agent(21, 1, &[("class:7.1", 300)]),
        agent(22, 1, &[("class:7.2", 100)]),
    ];
    plan(
        3,
        &[(0, 1), (1, 2)],
        agents,
        &[(0, 1, 0), (1, 1, 1), (2, 1, 2), (3, 1, 2)],
    )
}

fn busy_line(seed: u64, quality: Quality) -> World {
    let mut world = World::new(seed, line(), &config(), quality);
    for flow in 0..40u64 {
        let to = [
            "class:7.1",
            "class:7.2",
            "class:7",
            "agent:21.1",
            "agent:20",
        ][flow as usize % 5];
        let mut flow = Flow::new(0, to, flow);
        flow.lane = flow.id as u32 % 3;
        flow.class = if flow.id.is_multiple_of(2) {
            DROP
        } else {
            BLOCK
        };
        flow.bytes = [64, 100, 1_000, 8_000][flow.id as usize % 4];
        // Slowly enough for a lossy path's windows: nothing has to be dropped.
        flow.send(&mut world, 0..50, 0, 200 * quality.delay_us.max(1_000));
    }
    world
}

#[test]
fn everything_arrives_once_and_in_order() {
    under_seeds("everything_arrives_once_and_in_order", 12, |seed| {
        let quality = if seed % 2 == 0 {
            Quality::BAD
        } else {
            Quality::LAN
        };
        let mut world = busy_line(seed, quality);
        world.run();
        world.settled();
        assert_eq!(world.check.delivered.len(), 2_000);
        assert_eq!(dropped_total(&world), 0);
        assert_eq!(world.sum(|counters| counters.copied_bytes), 0);
        assert!(world.check.hops_left_min >= 62);
    });
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let trace = |seed| {
        let mut world = busy_line(seed, Quality::BAD);
        world.run();
        (world.check.trace_hash(), world.now_us)
    };
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}

#[test]
fn datagrams_are_lost_or_doubled_by_the_network_alone() {
    under_seeds(
        "datagrams_are_lost_or_doubled_by_the_network_alone",
        8,
        |seed| {
            let mut world = World::new(seed, line(), &config(), Quality::BAD);
            for id in 0..10 {
                let mut flow = Flow::new(0, "class:7.2", id);
                flow.datagrams = true;
                flow.bytes = 900;
                flow.send(&mut world, 0..100, 0, 100_000);
            }
            world.run();
            world.settled();
            let forwarded = world.sum(|counters| counters.forwarded);
            let (lost, got) = (world.check.datagrams_lost, world.check.delivered_datagrams);
            assert!(
                lost > 0 && got > 700 && got < 1_200,
                "{lost} lost, {got} delivered"
            );
            assert_eq!(forwarded, world.sum(|counters| counters.received));
        },
    );
}

/// A ring of three; agents of one class on nodes 1 and 2; the asker on node 0.
fn ring() -> Plan {
    let agents = vec![
        agent(10, 1, &[]),
        agent(20, 1, &[("class:5", 100)]),
        agent(21, 1, &[("class:5", 100)]),
    ];
    plan(
        3,
        &[(0, 1), (1, 2), (0, 2)],
        agents,
        &[(0, 1, 0), (1, 1, 1), (2, 1, 2)],
    )
}

fn ring_flows(world: &mut World) {
    for id in 0..40 {
        let to = ["class:5", "agent:20.1", "agent:21.1"][id as usize % 3];
        Flow::new(0, to, id).send(world, 0..50, 5_000, 100_000);
        // Answers go the same broken way.
        let server = 1 + id as usize % 2;
        Flow::new(server, "agent:10.1", 1_000 + id).send(world, 0..50, 5_000, 100_000);
    }
}

#[test]
fn a_ring_with_one_link_cut_delivers_everything() {
    under_seeds("a_ring_with_one_link_cut_delivers_everything", 9, |seed| {
        let mut world = World::new(seed, ring(), &config(), Quality::LAN);
        let cut = [(0, 1), (1, 2), (0, 2)][seed as usize % 3];
        world.at(1_000, Action::Cut(cut.0, cut.1));
        ring_flows(&mut world);
        world.run();
        world.settled();
        // No controller had a part in it: the tables still name the link.
        assert!(world.nodes.iter().all(|node| node.pushed.len() == 1));
        assert_eq!(world.check.delivered.len(), 4_000);
        assert_eq!(dropped_total(&world), 0);
        assert_eq!(dropped(&world, DropReason::HopLimit), 0);
    });
}

#[test]
fn a_link_cut_under_traffic_costs_only_what_was_on_it() {
    under_seeds(
        "a_link_cut_under_traffic_costs_only_what_was_on_it",
        9,
        |seed| {
            let mut world = World::new(seed, ring(), &config(), Quality::LAN);
            ring_flows(&mut world);
            world.at(40_000, Action::Cut(0, 1));
            world.at(70_000, Action::Mend(0, 1));
            world.run();
            world.settled();
            let gone = world.lost()
                + dropped(&world, DropReason::PeerGone)
                + dropped(&world, DropReason::CutShort);
            assert_eq!(dropped_total(&world) + world.lost(), gone);
            assert_eq!(
                world.check.delivered.len() as u64 + gone,
                4_000 + world.sum(|c| c.notices) - world.check.noticed.len() as u64
            );
            assert!(gone < 200, "{gone}");
        },
    );
}

#[test]
fn a_member_killed_costs_only_what_it_held() {
    under_seeds("a_member_killed_costs_only_what_it_held", 8, |seed| {
        let mut world = World::new(seed, ring(), &config(), Quality::LAN);
        for id in 0..60 {
            Flow::new(0, "class:5", id).send(&mut world, 0..100, 0, 200_000);
        }
        // The table of node 0 still names node 1: it reroutes, once, until the new one is in force.
        world.at(60_000, Action::Kill(1));
        world.at(120_000, Action::Compile { slowest_us: 20_000 });
        world.run();
        world.settled();
        assert!(world.sum(|counters| counters.rerouted) > 0);
        assert_eq!(dropped(&world, DropReason::HopLimit), 0);
        let delivered = world.check.delivered.len() as u64;
        let gone = dropped(&world, DropReason::PeerGone) + world.lost();
        assert_eq!(delivered + gone, 6_000);
        assert!(gone < 300, "{gone}");
    });
}

#[test]
fn a_moved_class_under_stale_tables_is_rerouted_or_noticed() {
    under_seeds(
        "a_moved_class_under_stale_tables_is_rerouted_or_noticed",
        8,
        |seed| {
            // One instance of agent 20 leaves node 1, another comes at node 2; tables follow, each at its own pace.
            let mut plan = ring();
            plan.agents.push(agent(30, 1, &[("class:6", 100)]));
            plan.attached.insert((3, 1), 1);
            plan.attached.insert((3, 2), 2);
            let mut world = World::new(seed, plan, &config(), Quality::LAN);
            let second = world.instances.len() - 1;
            world.at(0, Action::Kill(second));
            world.at(1, Action::Compile { slowest_us: 0 });
            for id in 0..40 {
                let to = ["class:6", "agent:30"][id as usize % 2];
                Flow::new(0, to, id).send(&mut world, 0..100, 10_000, 300_000);
            }
            for (at, kill, attach) in [(50_000, second - 1, second), (150_000, second, second - 1)]
            {
                world.at(at, Action::Attach(attach));
                world.at(at + 100, Action::Compile { slowest_us: 30_000 });
                world.at(at + 10_000, Action::Kill(kill));
                world.at(at + 10_100, Action::Compile { slowest_us: 30_000 });
            }
            world.run();
            world.settled();
            let delivered = world.check.delivered.len() as u64;
            assert_eq!(
                delivered + dropped_total(&world) + world.lost(),
                4_000,
                "{delivered}"
            );
            assert!(delivered > 3_500, "{delivered}");
            assert_eq!(dropped(&world, DropReason::HopLimit), 0);
            assert!(world.sum(|counters| counters.rerouted) > 0);
        },
    );
}

#[test]
fn a_receiver_that_stops_reading_hurts_nobody_else() {
    under_seeds(
        "a_receiver_that_stops_reading_hurts_nobody_else",
        4,
        |seed| {
            let mut world = World::new(seed, line(), &config(), Quality::LAN);
            // Agents 21 and 22 are both at node 2; 22 does not read. 100-byte messages over the shared links.
            world.at(0, Action::Reads(3, 0));
            for id in 0..10 {
                Flow::new(0, "agent:21.1", id).send(&mut world, 0..1_000, 0, 1_000_000);
                Flow::new(0, "agent:22.1", 100 + id).send(&mut world, 0..2_000, 0, 1_000_000);
            }
            world.run();
            let others = world
                .check
                .delivered
                .keys()
                .filter(|(_, flow, _)| *flow < 100)
                .count();
            assert_eq!(others, 10_000);
            let counters = world.nodes[2].forwarder.counters();
            // One full queue, and what its lane has under way.
            assert!(
                counters.charged_bytes <= (512 + 64) << 10,
                "{}",
                counters.charged_bytes
            );
            assert!(counters.dropped(DropReason::Overloaded) > 5_000);
            assert_eq!(
                counters.dropped_total(),
                counters.dropped(DropReason::Overloaded)
            );
            assert_eq!(dropped_total(&world), counters.dropped_total());
            // Drops are noticed, as far as the rate allows.
            assert!(
                world
                    .check
                    .noticed
                    .values()
                    .all(|code| *code == NoticeCode::Overloaded.number())
            );
            assert_eq!(world.check.noticed.len() as u64, counters.notices);
            assert!(counters.notices > 1_000);
        },
    );
}

#[test]
fn an_instance_above_its_rate_is_held_to_it_and_hurts_nobody_else() {
    under_seeds(
        "an_instance_above_its_rate_is_held_to_it_and_hurts_nobody_else",
        4,
        |seed| {
            let mut config = config();
            config.instance_rate = Rate {
                messages_per_second: 5_000,
                bytes_per_second: 0,
                burst_ms: 20,
            };
            let mut world = World::new(seed, line(), &config, Quality::LAN);
            // Agent 10 sends four times as much as it may for a second, agent 20 less.
            for id in 0..10 {
                Flow::new(0, "agent:22.1", id).send(&mut world, 0..2_000, 0, 1_000_000);
                Flow::new(1, "agent:22.1", 100 + id).send(&mut world, 0..400, 0, 1_000_000);
            }
            world.run();
            let flows = || world.check.delivered.keys().map(|(_, flow, _)| *flow);
            let calm = flows().filter(|flow| *flow >= 100).count();
            let eager = flows().count() - calm;
            assert_eq!(calm, 4_000);
            // A second of the rate and one burst; ticks come unevenly.
            assert!((4_950..=5_150).contains(&eager), "{eager}");
            let limited = dropped(&world, DropReason::RateLimited);
            assert_eq!(limited + eager as u64, 20_000);
            assert_eq!(dropped_total(&world), limited);
            let codes = world.check.noticed.values();
            assert!(
                codes
                    .into_iter()
                    .all(|code| *code == NoticeCode::RateLimited.number())
            );
            assert!(world.check.noticed.len() > 1_000);
        },
    );
}

#[test]
fn a_blocking_sender_waits_for_a_slow_receiver_at_its_own_router() {
    under_seeds(
        "a_blocking_sender_waits_for_a_slow_receiver_at_its_own_router",
        6,
        |seed| {
            let mut plan = line();
            // Asker and receiver on one router: nothing between them may drop.
            plan.attached.insert((3, 2), 0);
            let mut world = World::new(seed, plan, &config(), Quality::LAN);
            let receiver = world
                .instances
                .iter()
                .position(|i| (i.agent, i.instance) == (3, 2));
            let receiver = receiver.expect("it is attached");
            world.at(0, Action::Reads(receiver, 20_000));
            for id in 0..4 {
                let mut flow = Flow::new(0, "agent:22.2", id);
                (flow.class, flow.lane, flow.bytes) = (BLOCK, id as u32, 2_000);
                flow.send(&mut world, 0..500, 0, 50_000);
            }
            world.run();
            assert_eq!(world.check.delivered.len(), 2_000);
            assert_eq!(dropped_total(&world), 0);
            assert!(world.sum(|counters| counters.blocked) > 0);
        },
    );
}

#[test]
fn a_partition_fills_queues_drops_with_notice_and_heals() {
    under_seeds(
        "a_partition_fills_queues_drops_with_notice_and_heals",
        6,
        |seed| {
            let mut world = World::new(seed, line(), &config(), Quality::LAN);
            world.at(20_000, Action::Stall(0, 1, 300_000));
            for id in 0..20 {
                let mut flow = Flow::new(0, "class:7.2", id);
                flow.bytes = 1_000;
                flow.send(&mut world, 0..200, 0, 200_000);
            }
            let mut after = Flow::new(0, "class:7.2", 99);
            after.bytes = 1_000;
            after.send(&mut world, 0..200, 1_000_000, 100_000);
            world.run();
            world.settled();
            let lost = dropped(&world, DropReason::Overloaded);
            assert!(lost > 0);
            assert_eq!(world.check.delivered.len() as u64 + lost, 4_200);
            assert_eq!(
                world.sum(|counters| counters.notices),
                world.check.noticed.len() as u64
            );
            let healed = world
                .check
                .delivered
                .keys()
                .filter(|(_, flow, _)| *flow == 99)
                .count();
            assert_eq!(healed, 200);
        },
    );
}

#[test]
fn groups_reach_every_member_once() {
    under_seeds("groups_reach_every_member_once", 6, |seed| {
        let mut plan = ring();
        let group = Label::group(9).unwrap();
        plan.agents
            .iter_mut()
            .for_each(|agent| agent.groups.push(group));
        plan.attached.insert((1, 2), 2);
        plan.attached.insert((2, 2), 0);
        let mut world = World::new(seed, plan, &config(), Quality::BAD);
        for id in 0..20 {
            let mut flow = Flow::new(id as usize % 5, "group:9", id);
            flow.bytes = 500;
            flow.send(&mut world, 0..20, 0, 100_000);
        }
        world.run();
        world.settled();
        assert_eq!(world.check.delivered.len(), 400);
        assert!(
            world
                .check
                .delivered
                .values()
                .all(|receivers| receivers.len() == 4)
        );
        assert_eq!(dropped_total(&world), 0);
        assert_eq!(world.sum(|counters| counters.copied_bytes) % 48, 0);
    });
}

/// Four routers in a full mesh, eight agents of two tenants, and everything at once.
fn chaos(seed: u64) -> World {
    let mut agents = vec![agent(10, 1, &[]), agent(11, 2, &[])];
    for n in 0..8 {
        let class = ["class:1", "class:1.2", "class:1.2.3", "class:1.3"][n as usize % 4];
        agents.push(agent(
            20 + n,
            [1, 2, 0][n as usize % 3],
            &[(class, 50 + n * 30)],
        ));
    }
    agents[4].groups.push(Label::group(1).unwrap());
    agents[7].groups.push(Label::group(1).unwrap());
    let links = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)];
    let mut attached = vec![(0, 1, 0), (0, 2, 1), (1, 1, 2), (1, 2, 3)];
    attached.extend((2..10).map(|agent| (agent, 1, agent % 4)));
    let plan = plan(4, &links, agents, &attached);
    let quality = if seed.is_multiple_of(3) {
        Quality::LAN
    } else {
        Quality::BAD
    };
    let mut world = World::new(seed, plan, &config(), quality);
    let mut rng = Rng::new(seed ^ 0xc4a05);
    let targets = [
        "class:1",
        "class:1.2",
        "class:1.2.3",
        "class:1.2.4",
        "class:1.3",
        "class:2",
        "agent:20",
        "agent:23.1",
        "agent:25",
        "group:1",
    ];
    for id in 0..60 {
        let to: &str = rng.pick::<&str>(&targets);
        let mut flow = Flow::new(rng.below(4) as usize, to, id);
        flow.tenant = *rng.pick(&[0, 1, 1, 2, 2]);
        flow.lane = rng.below(3) as u32;
        flow.class = *rng.pick(&[
            DROP,
            BLOCK,
            caplane_wire::TrafficClass::from_index(12),
            caplane_wire::TrafficClass::from_index(14),
        ]);
        flow.bytes = *rng.pick(&[64, 100, 700, 3_000, 20_000]);
        flow.datagrams = rng.chance(10) && flow.bytes < 1_000;
        flow.send(&mut world, 0..60, rng.below(50_000), 400_000);
    }
    for n in 0..6 {
        let at = 30_000 + n * 60_000;
        let (a, b) = *rng.pick(&links);
        world.at(at, Action::Cut(a, b));
        world.at(at + 25_000, Action::Mend(a, b));
        let victim = 4 + rng.below(8) as usize;
        world.at(at + 10_000, Action::Kill(victim));
        world.at(at + 12_000, Action::Compile { slowest_us: 15_000 });
        world.at(at + 40_000, Action::Attach(victim));
        world.at(at + 42_000, Action::Compile { slowest_us: 15_000 });
        let slow = 4 + rng.below(8) as usize;
        world.at(at, Action::Reads(slow, 1 + rng.below(5_000) as usize));
        world.at(at + 50_000, Action::Reads(slow, usize::MAX));
        let (a, b) = *rng.pick(&links);
        world.at(at + 5_000, Action::Stall(a, b, 20_000));
    }
    world
}

#[test]
fn chaos_breaks_no_rule() {
    under_seeds("chaos_breaks_no_rule", 16, |seed| {
        let mut world = chaos(seed);
        world.run();
        world.settled();
        assert_eq!(world.sum(|counters| counters.queued), 0);
        assert_eq!(world.sum(|counters| counters.charged_bytes), 0);
        assert!(
            world.check.delivered.len() > 500,
            "{}",
            world.check.delivered.len()
        );
        assert!(dropped(&world, DropReason::PolicyDenied) > 0);
        assert_eq!(dropped(&world, DropReason::HopLimit), 0);
        assert_eq!(dropped(&world, DropReason::Malformed), 0);
        assert_eq!(dropped(&world, DropReason::ForgedSource), 0);
    });
}

#[test]
fn chaos_is_reproducible() {
    let trace = |seed| {
        let mut world = chaos(seed);
        world.run();
        world.check.trace_hash()
    };
    assert_eq!(trace(3), trace(3));
}
