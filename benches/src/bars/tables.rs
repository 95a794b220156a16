//! Rows about changes of the tables: how soon they are in force, and what
//! they do to traffic meanwhile.

use super::{Bar, BarError, Bound, Settings};
use crate::ceiling::Spread;
use crate::churn::{self, Churn};
use crate::load::{Lines, Plan, Rate, Report};
use crate::rig::Rig;
use caplane_wire::{CongestionAction, TrafficClass};
use std::time::Duration;

/// Entries of a small change, and labels of a whole table.
const DELTA: usize = 1_000;
const TABLE: usize = 1_000_000;
/// Load while tables change: what a busy machine carries beside it (messages a second).
const RATE: f64 = 20_000.0;

fn plan(settings: &Settings, labels: usize, duration: Duration) -> Plan {
    Plan {
        rate: Rate::PerSecond(RATE),
        class: TrafficClass::new(0, CongestionAction::Drop),
        warm_up: settings.warm_up,
        duration,
        flows: settings.labels,
        ..Plan::one_to_one(labels)
    }
}

/// One run with changes of `entries` each `every`, and one without.
fn pair(plan: &Plan, rig: &Rig, entries: usize, every: Duration) -> Result<[Report; 2], BarError> {
    let run = |entries| {
        let churn = Churn {
            connections_per_s: 0.0,
            table_entries: entries,
            table_every: every,
        };
        churn::observed(plan, rig, &churn, &mut Lines::new(&mut |_| {}))
    };
    Ok([run(0)?, run(entries)?])
}

/// Blocked time a change, with what the receiver saw beside it.
fn blocked(what: &str, pairs: &[[Report; 2]]) -> Bar {
    let silence = |n: usize| Spread::of(pairs.iter().map(|pair| pair[n].longest_silence_ms));
    let changes = pairs.iter().filter_map(|[_, changed]| changed.table_churn);
    let mut figure: Vec<f64> = changes
        .filter(|change| change.deltas > 0)
        .filter_map(|change| change.blocked_ms)
        .collect();
    if figure.is_empty() {
        // No change came into force within the window: that must not pass for no blocking.
        figure.push(f64::INFINITY);
    }
    Bar {
        what: format!("{what}: blocked time (lost / offered rate)"),
        figure: Spread::of(figure),
        unit: "ms",
        bound: Bound::AtMost(1.0),
        detail: format!(
            "at {RATE:.0}/s; longest silence at the receiver {} ms, without changes {} ms",
            silence(1),
            silence(0)
        ),
    }
}

/// A change of 1,000 entries in a table of 10,000 labels, under load.
///
/// # Errors
/// As all rows.
pub fn delta(settings: &Settings, tell: &mut dyn FnMut(&str)) -> Result<Vec<Bar>, BarError> {
    let plan = plan(settings, settings.labels, settings.duration);
    let rig = Rig::start(&plan, 1)?;
    let mut pairs = Vec::new();
    for round in 0..settings.repeat {
        pairs.push(pair(&plan, &rig, DELTA, Duration::from_millis(250))?);
        tell(&format!(
            "delta: round {} of {}",
            round + 1,
            settings.repeat
        ));
    }
    let changes = || pairs.iter().filter_map(|[_, changed]| changed.table_churn);
    let live = Bar {
        what: format!("delta of {DELTA} entries: pushed by the controller to live"),
        figure: Spread::of(changes().map(|change| change.live_ms.p50)),
        unit: "ms",
        bound: Bound::AtMost(10.0),
        detail: format!(
            "medians of {} changes; the router's part {} ms; the rest is gRPC",
            changes().map(|change| change.deltas).sum::<u32>(),
            Spread::of(changes().map(|change| change.router_ms.p50)),
        ),
    };
    Ok(vec![live, blocked("the same", &pairs)])
}

/// A table of 1,000,000 labels: pushed whole, then rewritten under load.
///
/// # Errors
/// As all rows.
pub fn snapshot(settings: &Settings, tell: &mut dyn FnMut(&str)) -> Result<Vec<Bar>, BarError> {
    // The rewriting takes seconds: it must fit into the window.
    let duration = settings.duration.max(Duration::from_secs(10));
    let plan = plan(settings, TABLE, duration);
    let mut pushed = Vec::new();
    let mut own = Vec::new();
    let mut pairs = Vec::new();
    for round in 0..settings.repeat {
        let rig = Rig::start(&plan, 1)?;
        pushed.push(rig.tables_live().0.as_secs_f64());
        own.push(rig.tables_live().1.as_secs_f64());
        tell(&format!(
            "snapshot: round {} of {}: live after {:.2} s",
            round + 1,
            settings.repeat,
            rig.tables_live().0.as_secs_f64()
        ));
        // Once under load is enough: it takes long and blocks or does not.
        if round == 0 {
            pairs.push(pair(&plan, &rig, TABLE, duration)?);
        }
    }
    let live = Bar {
        what: format!("snapshot of {TABLE} labels: time to live"),
        figure: Spread::of(pushed),
        unit: "s",
        bound: Bound::AtMost(3.0),
        detail: format!("the router's part {} s; the rest is gRPC", Spread::of(own)),
    };
    Ok(vec![live, blocked("all of them rewritten", &pairs)])
}
