//! Row: request and reply through one router, open loop.

use super::runs::{Loss, faults};
use super::{Bar, BarError, Bound, Settings};
use crate::load::{self, Plan, Rate, Report};
use crate::rig::Rig;
use caplane_wire::{CongestionAction, TrafficClass};

/// Payload bytes of question and answer.
pub const SIZE: usize = 1_024;
/// Questions a second.
pub const RATES: [f64; 2] = [1_000.0, 5_000.0];

/// The load of the row at one rate.
pub fn plan(settings: &Settings, rate: f64) -> Plan {
    Plan {
        payload: SIZE,
        rate: Rate::PerSecond(rate),
        reply: true,
        class: TrafficClass::new(0, CongestionAction::Drop),
        warm_up: settings.warm_up,
        duration: settings.duration,
        ..Plan::one_to_one(settings.labels)
    }
}

/// Median and 99th percentile at both rates. What they are held against is every encrypted peer of `peers`.
///
/// # Errors
/// As all rows.
pub fn measure(settings: &Settings, tell: &mut dyn FnMut(&str)) -> Result<Vec<Bar>, BarError> {
    let rig = Rig::start(&plan(settings, RATES[0]), 1)?;
    let mut reports: Vec<Vec<Report>> = vec![Vec::new(); RATES.len()];
    for round in 0..settings.repeat {
        for (rate, reports) in RATES.iter().zip(&mut reports) {
            let plan = plan(settings, *rate);
            reports.push(load::run(&plan, &rig.target()?, &mut |_| {})?);
        }
        tell(&format!(
            "round trip: round {} of {}",
            round + 1,
            settings.repeat
        ));
    }
    let bars = RATES
        .iter()
        .zip(&reports)
        .flat_map(|(rate, reports)| bars(*rate, reports));
    Ok(bars.collect())
}

/// Two bars of the runs at one rate.
fn bars(rate: f64, reports: &[Report]) -> [Bar; 2] {
    let unanswered: u64 = reports
        .iter()
        .map(|run| run.expected.saturating_sub(run.replies))
        .sum();
    let of = |name: &str, of: fn(&load::Distribution) -> f64| {
        let measured = reports
            .iter()
            .filter_map(|run| run.round_trip_us.as_ref().map(of));
        let what = format!("request/reply of {SIZE} B at {rate:.0}/s, open loop: {name}");
        Bar::new(what, measured, "us", Bound::BelowPeers)
            .detailed(format!("{unanswered} unanswered"))
            .faulty(faults(reports, Loss::Fault))
            .faulty((unanswered > 0).then(|| format!("{unanswered} questions unanswered")))
    };
    [of("p50", |d| d.p50), of("p99", |d| d.p99)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bars::Standing;
    use std::time::Duration;

    #[test]
    fn a_question_without_an_answer_is_a_fault() {
        let whole = Report {
            replies: Report::example().expected,
            round_trip_us: Some(load::Distribution::default()),
            ..Report::example()
        };
        for bar in bars(1_000.0, std::slice::from_ref(&whole)) {
            assert_eq!(bar.standing(), Standing::AgainstPeers, "{bar}");
        }
        let cut = Report {
            replies: whole.replies - 1,
            ..whole.clone()
        };
        for bar in bars(1_000.0, &[whole, cut]) {
            assert_eq!(bar.faults, ["1 questions unanswered"]);
            assert_eq!(bar.standing(), Standing::NotMet, "{bar}");
        }
    }

    #[test]
    fn every_question_is_answered() {
        let settings = Settings {
            duration: Duration::from_millis(500),
            warm_up: Duration::from_millis(100),
            repeat: 1,
            labels: 100,
        };
        let mut plan = plan(&settings, 500.0);
        plan.drain = Duration::from_secs(20);
        let rig = Rig::start(&plan, 2).expect("a rig");
        let target = rig.target().expect("a target");
        let report = load::run(&plan, &target, &mut |line| println!("{line}")).expect("a run");
        println!("{report}");
        assert!(report.notices.is_empty() && report.lost == 0, "{report}");
        // The last answers may still be under way when the run is over.
        assert!(report.replies + 5 >= report.sent, "{report}");
        let trip = report.round_trip_us.as_ref().expect("round trips");
        let one_way = report.latency_us.as_ref().expect("latencies");
        assert!(trip.p50 > one_way.p50, "{report}");
    }
}
