//! The load generator against real routers: everything sent arrives once,
//! intact and in order, through one router, three in a row, and an impaired
//! path; every carrier.

use caplane_load::impair::{Conditions, ImpairConfig, Impairer};
use caplane_load::load::{self, Carrier, Plan, Rate, Report};
use caplane_load::rig::Rig;
use caplane_wire::{CongestionAction, TrafficClass};
use std::time::Duration;

fn plan() -> Plan {
    Plan {
        flows: 64,
        rate: Rate::PerSecond(2_000.0),
        // What a busy test machine cannot take at once shall wait, not be dropped.
        class: TrafficClass::new(0, CongestionAction::Block),
        warm_up: Duration::from_millis(200),
        duration: Duration::from_secs(1),
        drain: Duration::from_secs(20),
        ..Plan::one_to_one(16)
    }
}

fn measure(plan: &Plan, rig: &Rig) -> Report {
    let target = rig.target().expect("target");
    load::run(plan, &target, &mut |line| println!("{line}")).expect("a run")
}

fn assert_all_arrived(report: &Report) {
    println!("{report}");
    assert!(report.received > 0);
    assert_eq!(report.sent, report.received, "{report}");
    let faults = [
        report.lost,
        report.duplicated,
        report.reordered,
        report.corrupted,
        report.misrouted,
        report.foreign,
        report.too_large,
    ];
    assert_eq!(faults, [0; 7], "{report}");
    assert!(report.notices.is_empty(), "{report}");
}

#[test]
fn every_carrier_delivers_everything_through_one_router() {
    let lanes = plan();
    let rig = Rig::start(&lanes, 1).expect("a rig");
    let report = measure(&lanes, &rig);
    assert_all_arrived(&report);
    let cpu = report
        .router_cpu
        .expect("the router's processes are watched");
    assert!(cpu.messages > 0 && cpu.resident_bytes > 0);
    let latency = report.latency_us.expect("payloads carry stamps");
    let sum = latency.count;
    // 2,000 a second for a second, each due within the window.
    assert!(
        (1_990..=2_010).contains(&sum),
        "{sum} messages were due in the window"
    );

    let bulk = Plan {
        carrier: Carrier::Bulk,
        payload: 100_000,
        rate: Rate::PerSecond(100.0),
        ..plan()
    };
    assert_all_arrived(&measure(&bulk, &rig));
    let datagrams = Plan {
        carrier: Carrier::Datagram,
        payload: 500,
        rate: Rate::PerSecond(200.0),
        ..plan()
    };
    let report = measure(&datagrams, &rig);
    // Datagrams may be lost; on loopback at this rate nearly all come.
    assert!(report.received * 10 >= report.sent * 9, "{report}");
    assert_eq!(
        report.corrupted + report.misrouted + report.duplicated,
        0,
        "{report}"
    );
    let counters = rig.counters().expect("metrics");
    assert!(counters.forwarded_bytes > 0.0 && counters.received >= report.received as f64);
}

#[test]
fn many_senders_and_receivers_share_the_classes_through_three_routers() {
    let plan = Plan {
        senders: 3,
        receivers: 4,
        lanes: 2,
        ..plan()
    };
    let rig = Rig::start(&plan, 3).expect("a rig");
    assert_eq!(rig.pids().len(), 3);
    assert_all_arrived(&measure(&plan, &rig));
}

#[test]
fn an_impaired_path_delays_but_loses_nothing_on_a_lane() {
    let plan = Plan {
        rate: Rate::PerSecond(500.0),
        ..plan()
    };
    let rig = Rig::start(&plan, 1).expect("a rig");
    let mut target = rig.target().expect("target");
    let conditions = Conditions::loss(0.02)
        .with_delay(Duration::from_millis(20))
        .with_reorder(0.02);
    let relay =
        Impairer::start(ImpairConfig::to(target.ingress, 7).with(conditions)).expect("a relay");
    target.ingress = relay.local_addr();
    let report = load::run(&plan, &target, &mut |line| println!("{line}")).expect("a run");
    assert_all_arrived(&report);
    let latency = report.latency_us.expect("payloads carry stamps");
    assert!(latency.min >= 20_000.0, "{report}");
    let counters = relay.stop().expect("counters");
    println!("{counters}");
    assert!(
        counters.up.lost > 0 && counters.up.reordered > 0,
        "{counters}"
    );
}
