//! Rows about changes of the tables: how soon they are in force, and what
//! they do to traffic meanwhile.

use super::runs::{Loss, faults};
use super::{Bar, BarError, Bound, Settings};
use crate::ceiling::Spread;
use crate::churn::{self, Churn};
use crate::load::{Lines, Plan, Rate, Report, TableChurn};
use crate::rig::Rig;
use caplane_wire::{CongestionAction, TrafficClass};
use std::time::Duration;

/// Entries of a small change, and how often one is made.
const DELTA: usize = 1_000;
const DELTA_EVERY: Duration = Duration::from_millis(250);
/// Labels of a whole table; how often all of them are rewritten, and for how long: the rewriting takes seconds and needs as long
/// a time without any before it.
const TABLE: usize = 1_000_000;
const TABLE_EVERY: Duration = Duration::from_secs(5);
const TABLE_DURATION: Duration = Duration::from_secs(20);
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

/// One run with changes of `entries` each `every`.
fn changed(plan: &Plan, rig: &Rig, entries: usize, every: Duration) -> Result<Report, BarError> {
    let churn = Churn {
        connections_per_s: 0.0,
        table_entries: entries,
        table_every: every,
    };
    let report = churn::observed(plan, rig, &churn, &mut Lines::new(&mut |_| {}))?;
    Ok(report)
}

/// What runs say of their changes; those without any have nothing to say.
fn changes(runs: &[Report]) -> impl Iterator<Item = TableChurn> {
    let all = runs.iter().filter_map(|run| run.table_churn);
    all.filter(|change| change.deltas > 0)
}

/// Blocked time a change: by silence, and by loss.
fn blocked(what: &str, runs: &[Report]) -> [Bar; 2] {
    let silence = |of: fn(&TableChurn) -> Option<f64>| {
        Spread::of(changes(runs).filter_map(|change| of(&change)))
    };
    let stood = changes(runs).filter_map(|change| change.stood_ms());
    let judged = changes(runs).filter_map(|change| change.stood_ms()).count();
    let unjudged = runs.len() - judged;
    let faults = faults(runs, Loss::Figure);
    let by_silence = Bar::new(
        format!("{what}: blocked time (silence)"),
        stood,
        "ms",
        Bound::AtMost(1.0),
    )
    .detailed(format!(
        "at {RATE:.0}/s; longest silence at the receiver in a change {} ms, as long before it {} ms",
        silence(|change| change.silence_during_ms),
        silence(|change| change.silence_before_ms),
    ))
    .faulty((unjudged > 0).then(|| format!("no change could be judged in {unjudged} runs")));
    let by_loss = Bar::new(
        format!("{what}: blocked time (lost / offered rate)"),
        changes(runs).filter_map(|change| change.blocked_ms),
        "ms",
        Bound::AtMost(1.0),
    )
    .detailed("what tables in between drop; a stall loses nothing on lanes");
    [by_silence, by_loss].map(|bar| bar.faulty(unchanged(runs)).faulty(faults.clone()))
}

/// Runs in which no change came into force: that must pass neither for a quick one nor for no blocking.
fn unchanged(runs: &[Report]) -> Option<String> {
    let without = runs.len() - changes(runs).count();
    (without > 0).then(|| format!("no change was live in {without} of {} runs", runs.len()))
}

/// How soon changes of `entries` were in force: the median change of each run.
fn live(runs: &[Report]) -> Bar {
    let what = format!("delta of {DELTA} entries: pushed by the controller to live");
    let figures = changes(runs).map(|change| change.live_ms.p50);
    Bar::new(what, figures, "ms", Bound::AtMost(10.0))
        .detailed(format!(
            "medians of {} changes; the router's part {} ms; the rest is gRPC",
            changes(runs).map(|change| change.deltas).sum::<u32>(),
            Spread::of(changes(runs).map(|change| change.router_ms.p50)),
        ))
        .faulty(unchanged(runs))
}

/// A change of 1,000 entries in a table of 10,000 labels, under load.
///
/// # Errors
/// As all rows.
pub fn delta(settings: &Settings, tell: &mut dyn FnMut(&str)) -> Result<Vec<Bar>, BarError> {
    let duration = settings.duration.max(3 * DELTA_EVERY);
    let plan = plan(settings, settings.labels, duration);
    let rig = Rig::start(&plan, 1)?;
    let mut runs = Vec::new();
    for round in 0..settings.repeat {
        runs.push(changed(&plan, &rig, DELTA, DELTA_EVERY)?);
        tell(&line("delta", round, settings.repeat, runs.last()));
    }
    let mut bars = vec![live(&runs)];
    bars.extend(blocked("the same", &runs));
    Ok(bars)
}

/// A table of 1,000,000 labels: pushed whole, then rewritten under load.
///
/// # Errors
/// As all rows.
pub fn snapshot(settings: &Settings, tell: &mut dyn FnMut(&str)) -> Result<Vec<Bar>, BarError> {
    let plan = plan(settings, TABLE, settings.duration.max(TABLE_DURATION));
    let (mut pushed, mut own, mut runs) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..settings.repeat {
        let rig = Rig::start(&plan, 1)?;
        pushed.push(rig.tables_live().0.as_secs_f64());
        own.push(rig.tables_live().1.as_secs_f64());
        runs.push(changed(&plan, &rig, TABLE, TABLE_EVERY)?);
        tell(&line("snapshot", round, settings.repeat, runs.last()));
    }
    let what = format!("snapshot of {TABLE} labels: time to live");
    let live = Bar::new(what, pushed, "s", Bound::AtMost(3.0)).detailed(format!(
        "the router's part {} s; the rest is gRPC",
        Spread::of(own)
    ));
    let mut bars = vec![live];
    bars.extend(blocked("all of them rewritten", &runs));
    Ok(bars)
}

/// What a round found.
fn line(what: &str, round: usize, of: usize, run: Option<&Report>) -> String {
    let change = run.and_then(|run| run.table_churn);
    let found = change.map_or("no change".to_owned(), |change| {
        let ms = |ms: Option<f64>| ms.map_or("-".to_owned(), |ms| format!("{ms:.2}"));
        format!(
            "{} changes live after {:.1} ms, silence {} ms in them and {} ms before",
            change.deltas,
            change.live_ms.p50,
            ms(change.silence_during_ms),
            ms(change.silence_before_ms)
        )
    });
    format!("{what}: round {} of {of}: {found}", round + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bars::Standing;

    fn run(edit: fn(&mut TableChurn)) -> Report {
        let mut run = Report::example();
        edit(run.table_churn.as_mut().expect("the example has changes"));
        run
    }

    #[test]
    fn a_run_without_a_change_meets_no_bar() {
        let some = run(|change| change.deltas = 3);
        let whole = [some.clone(), some.clone()];
        for bar in blocked("x", &whole).into_iter().chain([live(&whole)]) {
            assert_eq!(bar.standing(), Standing::Met, "{bar}");
        }
        let none = Report {
            table_churn: None,
            ..run(|_| {})
        };
        for unchanged in [run(|change| change.deltas = 0), none] {
            let runs = [some.clone(), unchanged];
            for runs in [&runs[..], &runs[1..]] {
                for bar in blocked("x", runs).into_iter().chain([live(runs)]) {
                    assert_eq!(bar.standing(), Standing::NotMet, "{bar}");
                    assert!(bar.to_string().contains("no change was live"), "{bar}");
                }
            }
            assert_eq!(live(&runs[1..]).figure, None);
        }
    }

    #[test]
    fn a_router_that_stands_in_each_change_does_not_meet_the_bar() {
        let stands = |change: &mut TableChurn| {
            change.silence_before_ms = Some(6.0);
            change.silence_during_ms = Some(7.5);
        };
        let [by_silence, by_loss] = blocked("x", &[run(stands)]);
        assert_eq!(by_silence.figure.map(|figure| figure.median), Some(1.5));
        assert_eq!(by_silence.standing(), Standing::NotMet);
        assert_eq!(by_loss.standing(), Standing::Met);
        let drops = |change: &mut TableChurn| change.blocked_ms = Some(1.5);
        let [by_silence, by_loss] = blocked("x", &[run(drops)]);
        assert_eq!(by_silence.standing(), Standing::Met);
        assert_eq!(by_loss.standing(), Standing::NotMet);
        let unjudged = |change: &mut TableChurn| change.silence_during_ms = None;
        let [by_silence, _] = blocked("x", &[run(|_| {}), run(unjudged)]);
        assert_eq!(by_silence.standing(), Standing::NotMet, "{by_silence}");
    }
}
