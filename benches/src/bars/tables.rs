//! Rows about changes of the tables: how soon they are in force, and what
//! they do to traffic meanwhile.

use super::runs::{Loss, faults};
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
    let figure = changes
        .filter(|change| change.deltas > 0)
        .filter_map(|change| change.blocked_ms);
    let what = format!("{what}: blocked time (lost / offered rate)");
    Bar::new(what, figure, "ms", Bound::AtMost(1.0))
        .detailed(format!(
            "at {RATE:.0}/s; longest silence at the receiver {} ms, without changes {} ms",
            silence(1),
            silence(0)
        ))
        .faulty(unchanged(pairs))
        .faulty(faults(pairs.iter().flatten(), Loss::Figure))
}

/// Runs in which no change came into force: that must pass neither for a quick one nor for no blocking.
fn unchanged(pairs: &[[Report; 2]]) -> Option<String> {
    let without = |run: &Report| run.table_churn.is_none_or(|change| change.deltas == 0);
    let runs = pairs.iter().filter(|[_, changed]| without(changed)).count();
    (runs > 0).then(|| format!("no change was live in {runs} of {} runs", pairs.len()))
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
    Ok(vec![live(&pairs), blocked("the same", &pairs)])
}

/// How soon changes were in force: the median change of each run.
fn live(pairs: &[[Report; 2]]) -> Bar {
    let changes = || {
        let all = pairs.iter().filter_map(|[_, changed]| changed.table_churn);
        all.filter(|change| change.deltas > 0)
    };
    let what = format!("delta of {DELTA} entries: pushed by the controller to live");
    let figures = changes().map(|change| change.live_ms.p50);
    Bar::new(what, figures, "ms", Bound::AtMost(10.0))
        .detailed(format!(
            "medians of {} changes; the router's part {} ms; the rest is gRPC",
            changes().map(|change| change.deltas).sum::<u32>(),
            Spread::of(changes().map(|change| change.router_ms.p50)),
        ))
        .faulty(unchanged(pairs))
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
    let what = format!("snapshot of {TABLE} labels: time to live");
    let live = Bar::new(what, pushed, "s", Bound::AtMost(3.0)).detailed(format!(
        "the router's part {} s; the rest is gRPC",
        Spread::of(own)
    ));
    Ok(vec![live, blocked("all of them rewritten", &pairs)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bars::Standing;
    use crate::load::TableChurn;

    fn run(deltas: u32) -> Report {
        let mut run = Report::example();
        run.table_churn = run
            .table_churn
            .map(|change| TableChurn { deltas, ..change });
        run
    }

    #[test]
    fn a_run_without_a_change_meets_no_bar() {
        let changed = [[run(0), run(3)], [run(0), run(4)]];
        assert_eq!(live(&changed).standing(), Standing::Met);
        assert_eq!(blocked("x", &changed).standing(), Standing::Met);
        let mut none = run(0);
        none.table_churn = None;
        for unchanged in [run(0), none] {
            let some = [[run(0), run(3)], [run(0), unchanged.clone()]];
            let all = [[run(0), unchanged]];
            for bar in [
                live(&some),
                blocked("x", &some),
                live(&all),
                blocked("x", &all),
            ] {
                assert_eq!(bar.standing(), Standing::NotMet, "{bar}");
                assert!(bar.to_string().contains("no change was live"), "{bar}");
            }
            assert_eq!(live(&all).figure, None);
        }
    }
}
