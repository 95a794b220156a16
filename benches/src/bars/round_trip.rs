//! Row: request and reply through one router, open loop.

use super::{Bar, BarError, Bound, Settings};
use crate::ceiling::Spread;
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
    let bars = RATES.iter().zip(&reports).flat_map(|(rate, reports)| {
        let of = |name: &str, of: fn(&load::Distribution) -> f64| {
            let all = reports
                .iter()
                .filter_map(|r| r.round_trip_us.as_ref().map(of));
            let lost: u64 = reports
                .iter()
                .map(|r| r.expected.saturating_sub(r.replies))
                .sum();
            Bar {
                what: format!("request/reply of {SIZE} B at {rate:.0}/s, open loop: {name}"),
                figure: Spread::of(all),
                unit: "us",
                bound: Bound::BelowPeers,
                detail: format!("{lost} unanswered"),
            }
        };
        [of("p50", |d| d.p50), of("p99", |d| d.p99)]
    });
    Ok(bars.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

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
