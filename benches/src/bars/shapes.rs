//! Rows that compare shapes of load through the same router program: many to
//! many, two routers in a row, groups, and what the router copies.

use super::naive::SIZES;
use super::runs::{Loss, faults, ns, ratios};
use super::{Bar, BarError, Bound, Settings};
use crate::ceiling::millions;
use crate::load::{self, Plan, Report, group_labels};
use crate::peers::Place;
use crate::rig::{Rig, Tuning};

/// Payload bytes of the comparisons.
const SIZE: usize = 1_024;
/// What the router sends where the path allows: its default.
const PACKET: usize = 16_368;
/// Messages under way at most where flow control does not close the loop, as behind a second router or with groups: 2 MiB of them,
/// half of what a queue takes.
const UNDER_WAY: u64 = (2 << 20) / SIZE as u64;
/// Senders, receivers and classes of "many to many", and receivers of a group.
const MANY: usize = 10;

/// Two loads, run in turn.
struct Pair<'a> {
    what: &'a str,
    plain: Plan,
    other: Plan,
    /// Routers in a row for each.
    routers: [usize; 2],
    /// Workers of each router.
    workers: [u8; 2],
}

impl Pair<'_> {
    /// `repeat` runs of each, in turn.
    fn measure(
        &self,
        repeat: usize,
        tell: &mut dyn FnMut(&str),
    ) -> Result<[Vec<Report>; 2], BarError> {
        let plans = [&self.plain, &self.other];
        let start = |n: usize| {
            let tuning = Tuning {
                workers: Some(self.workers[n]),
                ..Tuning::default()
            };
            Rig::start_with(plans[n], self.routers[n], &Place::loopback(), &tuning)
        };
        let rigs = [start(0)?, start(1)?];
        let mut reports = [Vec::new(), Vec::new()];
        for round in 0..repeat {
            for turn in 0..2 {
                let n = (round + turn) % 2;
                let target = rigs[n].target()?;
                reports[n].push(load::run(plans[n], &target, &mut |_| {})?);
            }
            let last = |n: usize| reports[n].last().and_then(ns).unwrap_or(f64::NAN);
            tell(&format!(
                "{}: round {} of {repeat}: {:.0} ns against {:.0} ns",
                self.what,
                round + 1,
                last(1),
                last(0),
            ));
        }
        Ok(reports)
    }
}

/// The bar of a pair: a figure a round, and nothing lost or changed in any run of either.
fn bar(
    what: impl Into<String>,
    [plain, other]: &[Vec<Report>; 2],
    names: [&str; 2],
    bound: Bound,
    of: impl Fn(f64, f64) -> f64,
) -> Bar {
    Bar::new(what, ratios(plain, other, of), "x", bound)
        .detailed(format!(
            "{} {:.3} M/core-s, {} {:.3}; {SIZE} B",
            names[1],
            millions(other),
            names[0],
            millions(plain),
        ))
        .faulty(faults(plain.iter().chain(other), Loss::Fault))
}

/// Ten senders, ten receivers and ten classes against one to one.
///
/// # Errors
/// As [`super::naive::measure`], and so for all rows.
pub fn many(settings: &Settings, tell: &mut dyn FnMut(&str)) -> Result<Vec<Bar>, BarError> {
    let plain = settings.plan(SIZE, PACKET);
    let other = Plan {
        senders: MANY,
        receivers: MANY,
        classes: load::class_labels(MANY),
        ..plain.clone()
    };
    let reports = Pair {
        what: "many to many",
        plain,
        other,
        routers: [1, 1],
        workers: [1, 1],
    }
    .measure(settings.repeat, tell)?;
    Ok(vec![bar(
        "10 senders x 10 receivers x 10 classes, against 1 to 1",
        &reports,
        ["1 to 1", "10x10x10"],
        Bound::AtLeast(0.7),
        |plain, many| plain / many,
    )])
}

/// Ten senders and ten receivers on two and on four workers, against the same on one.
///
/// # Errors
/// As all rows.
pub fn workers(settings: &Settings, tell: &mut dyn FnMut(&str)) -> Result<Vec<Bar>, BarError> {
    let plan = Plan {
        senders: MANY,
        receivers: MANY,
        classes: load::class_labels(MANY),
        ..settings.plan(SIZE, PACKET)
    };
    let mut bars = Vec::new();
    for workers in [2, 4] {
        let what = format!("{workers} workers against one");
        let reports = Pair {
            what: &what,
            plain: plan.clone(),
            other: plan.clone(),
            routers: [1, 1],
            workers: [1, workers],
        }
        .measure(settings.repeat, tell)?;
        bars.push(bar(
            format!("throughput per CPU second, 10x10x10, {what}"),
            &reports,
            ["one", "several"],
            Bound::AtLeast(0.9),
            |one, several| one / several,
        ));
    }
    Ok(bars)
}

/// Two routers in a row, CPU of both, against one.
///
/// # Errors
/// As all rows.
pub fn two_routers(settings: &Settings, tell: &mut dyn FnMut(&str)) -> Result<Vec<Bar>, BarError> {
    let plan = Plan {
        under_way_max: Some(UNDER_WAY),
        ..settings.plan(SIZE, PACKET)
    };
    let reports = Pair {
        what: "two routers",
        plain: plan.clone(),
        other: plan,
        routers: [1, 2],
        workers: [1, 1],
    }
    .measure(settings.repeat, tell)?;
    Ok(vec![bar(
        "two routers in a row, CPU of both, against one",
        &reports,
        ["one", "two"],
        Bound::AtMost(2.1),
        |one, two| two / one,
    )])
}

/// A group of ten, CPU per delivered copy, against unicast.
///
/// # Errors
/// As all rows.
pub fn fan_out(settings: &Settings, tell: &mut dyn FnMut(&str)) -> Result<Vec<Bar>, BarError> {
    let plain = Plan {
        under_way_max: Some(UNDER_WAY),
        ..settings.plan(SIZE, PACKET)
    };
    let other = Plan {
        receivers: MANY,
        fan_out: true,
        classes: group_labels(settings.labels.min(1_000)),
        ..plain.clone()
    };
    let reports = Pair {
        what: "fan-out",
        plain,
        other,
        routers: [1, 1],
        workers: [1, 1],
    }
    .measure(settings.repeat, tell)?;
    Ok(vec![bar(
        "fan-out to 10: CPU per delivered copy, against unicast",
        &reports,
        ["unicast", "copies"],
        Bound::AtMost(0.8),
        |unicast, copy| copy / unicast,
    )])
}

/// Bytes the router's own code copies, in percent of those forwarded.
///
/// # Errors
/// As all rows.
pub fn copied(settings: &Settings, tell: &mut dyn FnMut(&str)) -> Result<Vec<Bar>, BarError> {
    let rig = Rig::start(&settings.plan(SIZE, PACKET), 1)?;
    let mut cells: Vec<(Vec<f64>, Vec<Report>)> = vec![Default::default(); SIZES.len()];
    for round in 0..settings.repeat {
        for (size, (parts, reports)) in SIZES.iter().zip(&mut cells) {
            let before = rig.counters()?;
            let plan = settings.plan(*size, PACKET);
            reports.push(load::run(&plan, &rig.target()?, &mut |_| {})?);
            let after = rig.counters()?;
            let forwarded = after.forwarded_bytes - before.forwarded_bytes;
            // A run that forwarded nothing has copied no part of it; its report says that nothing came.
            if forwarded > 0.0 {
                parts.push(100.0 * (after.copied_bytes - before.copied_bytes) / forwarded);
            }
        }
        tell(&format!(
            "copied: round {} of {}",
            round + 1,
            settings.repeat
        ));
    }
    Ok(SIZES
        .iter()
        .zip(cells)
        .map(|(size, (parts, reports))| {
            let what = format!("copied by our code / forwarded, {size} B");
            Bar::new(what, parts, "%", Bound::AtMost(0.5))
                .detailed("router_copied_bytes_total / router_forwarded_bytes_total")
                .faulty(faults(&reports, Loss::Fault))
        })
        .collect())
}
