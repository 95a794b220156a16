//! Changes under load: connections that come and go, tables that are
//! rewritten, while a run measures what that does to the others.

use crate::load::{
    self, ConnectionChurn, Moment, Observer, Phase, Plan, Report, RunError, Seat, TableChurn,
    Target, Timeline,
};
use crate::rig::{Rewritten, Rig, RigError};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What changes while messages flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Churn {
    /// Instances that attach and leave, a second.
    pub connections_per_s: f64,
    /// Class entries rewritten in each change of the tables; 0: tables stay.
    pub table_entries: usize,
    /// Time between changes of the tables.
    pub table_every: Duration,
}

/// Why a run under churn has no report.
#[derive(Debug, thiserror::Error)]
pub enum ChurnError {
    /// The run failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The tables could not be changed.
    #[error(transparent)]
    Rig(#[from] RigError),
    /// A thread panicked.
    #[error("a churning thread panicked")]
    Panicked,
}

/// Passes everything on, and remembers whether the measurement runs.
struct Gate<'a> {
    measuring: &'a AtomicBool,
    inner: &'a mut dyn Observer,
}

impl Observer for Gate<'_> {
    fn moment(&mut self, moment: &Moment) {
        self.measuring
            .store(moment.phase == Phase::Measuring, Ordering::Release);
        self.inner.moment(moment);
    }

    fn note(&mut self, line: &str) {
        self.inner.note(line);
    }
}

/// When changes are due, and when to end.
struct Clock<'a> {
    measuring: &'a AtomicBool,
    ended: &'a AtomicBool,
}

impl Clock<'_> {
    /// Waits for the `n`-th change; false when there is none any more.
    fn wait(&self, begun: &mut Option<Instant>, n: u32, every: Duration) -> bool {
        loop {
            if self.ended.load(Ordering::Acquire) {
                return false;
            }
            let measuring = self.measuring.load(Ordering::Acquire);
            match *begun {
                None if measuring => *begun = Some(Instant::now()),
                Some(_) if !measuring => return false,
                Some(begun) if Instant::now() >= begun + every * n => return true,
                _ => {}
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
}

/// Measures `plan` on the rig while connections and tables change.
///
/// # Errors
/// [`ChurnError`]; a refused attachment is counted, not an error.
pub fn observed(
    plan: &Plan,
    rig: &Rig,
    churn: &Churn,
    observer: &mut dyn Observer,
) -> Result<Report, ChurnError> {
    let target = rig.target()?;
    let (measuring, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let clock = Clock {
        measuring: &measuring,
        ended: &ended,
    };
    std::thread::scope(|scope| {
        let connections = (churn.connections_per_s > 0.0)
            .then(|| scope.spawn(|| connections(plan, &target, churn, &clock)));
        let tables = (churn.table_entries > 0).then(|| scope.spawn(|| tables(rig, churn, &clock)));
        let mut gate = Gate {
            measuring: &measuring,
            inner: observer,
        };
        let report = load::observed(plan, &target, &mut gate);
        ended.store(true, Ordering::Release);
        let connections = connections.map(|thread| thread.join().map_err(|_| ChurnError::Panicked));
        let tables = tables.map(|thread| thread.join().map_err(|_| ChurnError::Panicked));
        let mut report = report?;
        report.connection_churn = connections.transpose()?;
        let changes = tables.transpose()?.transpose()?;
        report.table_churn = changes.map(|changes| judge(&changes, churn.table_entries, &report));
        Ok(report)
    })
}

fn connections(plan: &Plan, target: &Target, churn: &Churn, clock: &Clock<'_>) -> ConnectionChurn {
    let every = Duration::from_secs_f64(1.0 / churn.connections_per_s.clamp(0.01, 10_000.0));
    let (mut begun, mut n, mut took) = (None, 0, Vec::new());
    let mut failed = 0;
    while clock.wait(&mut begun, n, every) {
        n += 1;
        let before = Instant::now();
        // A name of its own: the router gives it the next free instance number.
        let name = format!("churn-{n}");
        let payload = plan.udp_payload_max;
        match Seat::attach(target.ingress, target.sender.clone(), &name, payload) {
            Ok(seat) => {
                took.push(before.elapsed().as_secs_f64() * 1e3);
                if seat.leave().is_err() {
                    failed += 1;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "churn");
                failed += 1;
            }
        }
    }
    let measured = begun.map_or(0.0, |begun: Instant| begun.elapsed().as_secs_f64());
    ConnectionChurn {
        wanted_per_s: churn.connections_per_s,
        attached: took.len() as u32,
        attached_per_s: took.len() as f64 / measured.max(1e-9),
        failed,
        attach_ms: took.into(),
    }
}

fn tables(rig: &Rig, churn: &Churn, clock: &Clock<'_>) -> Result<Vec<Rewritten>, RigError> {
    let (mut begun, mut changes) = (None, Vec::new());
    // The first comes after one interval: what was before it belongs to the measurement too.
    while clock.wait(&mut begun, changes.len() as u32 + 1, churn.table_every) {
        changes.push(rig.rewrite_classes(churn.table_entries, changes.len() as u32 + 1)?);
    }
    Ok(changes)
}

fn judge(changes: &[Rewritten], entries: usize, report: &Report) -> TableChurn {
    let ms = |of: fn(&Rewritten) -> Duration| -> Vec<f64> {
        let all = changes.iter();
        all.map(|change| of(change).as_secs_f64() * 1e3).collect()
    };
    let deltas = changes.len() as u32;
    let silence = Silence::of(&report.silences, changes);
    TableChurn {
        deltas,
        entries,
        live_ms: ms(|change| change.live_after).into(),
        router_ms: ms(|change| change.router).into(),
        blocked_ms: report
            .offered_per_s
            .map(|offered| report.lost as f64 / offered / f64::from(deltas.max(1)) * 1e3),
        silence_during_ms: silence.map(|silence| silence.during_ms),
        silence_before_ms: silence.map(|silence| silence.before_ms),
    }
}

/// What is put away behind a change that is live is a part of it.
const AFTER_LIVE: Duration = Duration::from_millis(20);

/// Longest silence of a receiver while changes came into force, and in equally long stretches right before the making of each:
/// the machine's own stalls are in both. Means of the changes that could be judged, as blocked time is a mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Silence {
    /// From the push of a change until a moment after it was live (milliseconds).
    pub during_ms: f64,
    /// As long, up to when the making of the change began (milliseconds).
    pub before_ms: f64,
}

impl Silence {
    /// `None` when no change could be judged: a stretch of it is not wholly within what was measured, or the one before it
    /// belongs to another change.
    pub fn of(timeline: &Timeline, changes: &[Rewritten]) -> Option<Silence> {
        let mut free_since = None;
        let judged: Vec<(Duration, Duration)> = changes
            .iter()
            .filter_map(|change| {
                let end = change.live + AFTER_LIVE;
                let free = free_since.replace(end);
                let from = change.begun.checked_sub(end - change.pushed)?;
                if free.is_some_and(|free| from < free) {
                    return None;
                }
                let during = timeline.longest(change.pushed, end)?;
                Some((during, timeline.longest(from, change.begun)?))
            })
            .collect();
        let mean = |of: fn(&(Duration, Duration)) -> Duration| {
            let sum: Duration = judged.iter().map(of).sum();
            sum.as_secs_f64() * 1e3 / judged.len() as f64
        };
        (!judged.is_empty()).then(|| Silence {
            during_ms: mean(|(during, _)| *during),
            before_ms: mean(|(_, before)| *before),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Lines, Rate};
    use caplane_wire::{CongestionAction, TrafficClass};

    fn plan() -> Plan {
        Plan {
            flows: 64,
            rate: Rate::PerSecond(1_000.0),
            class: TrafficClass::new(0, CongestionAction::Block),
            warm_up: Duration::from_millis(200),
            duration: Duration::from_millis(1_000),
            drain: Duration::from_secs(20),
            ..Plan::one_to_one(1_000)
        }
    }

    #[test]
    fn connections_and_tables_change_under_load_and_nothing_is_lost() {
        let plan = plan();
        let rig = Rig::start(&plan, 1).expect("a rig");
        let churn = Churn {
            connections_per_s: 10.0,
            table_entries: 500,
            table_every: Duration::from_millis(200),
        };
        let mut tell = |line: &str| println!("{line}");
        let report = observed(&plan, &rig, &churn, &mut Lines::new(&mut tell)).expect("a run");
        println!("{report}");
        assert_eq!((report.lost, report.corrupted, report.misrouted), (0, 0, 0));
        let connections = report.connection_churn.expect("connections came and went");
        assert!(
            connections.attached > 0 && connections.failed == 0,
            "{report}"
        );
        let tables = report.table_churn.expect("tables changed");
        assert!(tables.deltas > 0 && tables.live_ms.p50 > 0.0, "{report}");
        assert_eq!(tables.blocked_ms, Some(0.0));
        assert!(tables.stood_ms().is_some(), "{report}");
    }

    /// Changes at these times (ms): their making begins, they are pushed, they are live.
    fn changes(epoch: Instant, times: &[[u64; 3]]) -> Vec<Rewritten> {
        let at = |ms: u64| epoch + Duration::from_millis(ms);
        let change = |[begun, pushed, live]: &[u64; 3]| Rewritten {
            begun: at(*begun),
            pushed: at(*pushed),
            live: at(*live),
            live_after: Duration::from_millis(live - pushed),
            router: Duration::ZERO,
        };
        times.iter().map(change).collect()
    }

    /// One second, measured whole, in which a receiver got nothing between these (ms).
    fn timeline(epoch: Instant, silences: &[[u64; 2]]) -> Timeline {
        let mut kept = load::Silences::default();
        for [from, to] in silences {
            kept.note(from * 1_000_000, to * 1_000_000);
        }
        Timeline::new(epoch, (0, 1_000_000_000), vec![kept])
    }

    #[test]
    fn what_stands_in_changes_is_told_from_what_stands_anyway() {
        let epoch = Instant::now();
        let three = changes(epoch, &[[200, 210, 215], [400, 410, 415], [600, 610, 615]]);
        // The machine stalls before the first, beside all, and within the third; the second change blocks.
        let quiet = timeline(epoch, &[[190, 196], [300, 309], [620, 626]]);
        let silence = Silence::of(&quiet, &three).expect("judged");
        assert_eq!((silence.during_ms, silence.before_ms), (2.0, 2.0));
        let blocks = timeline(epoch, &[[190, 196], [411, 414], [620, 626]]);
        let silence = Silence::of(&blocks, &three).expect("judged");
        assert_eq!((silence.during_ms, silence.before_ms), (3.0, 2.0));
    }

    #[test]
    fn a_change_that_cannot_be_judged_is_left_out() {
        let epoch = Instant::now();
        let silent = timeline(epoch, &[[0, 1_000]]);
        let judged = |times: &[[u64; 3]]| Silence::of(&silent, &changes(epoch, times)).is_some();
        assert!(judged(&[[200, 210, 215]]));
        // The stretch before it, or it itself, is not wholly measured; none at all.
        assert!(!judged(&[[20, 30, 35]]) && !judged(&[[960, 970, 985]]) && !judged(&[]));
        // The second follows too closely, and the first alone counts.
        let close = changes(epoch, &[[200, 210, 215], [250, 255, 260]]);
        let quiet = timeline(epoch, &[[256, 259]]);
        let silence = Silence::of(&quiet, &close).expect("judged");
        assert_eq!((silence.during_ms, silence.before_ms), (0.0, 0.0));
    }

    /// The router itself is stopped for 40 ms in the middle of each change: that is found, to the millisecond or two.
    #[test]
    fn a_router_that_stands_in_each_change_is_found_out() {
        const STOPPED: Duration = Duration::from_millis(40);
        let plan = Plan {
            duration: Duration::from_millis(1_500),
            ..plan()
        };
        let rig = Rig::start(&plan, 1).expect("a rig");
        let target = rig.target().expect("a target");
        let pid = rustix::process::Pid::from_raw(rig.pids()[0] as i32).expect("a pid");
        let signal = |signal| rustix::process::kill_process(pid, signal).expect("it runs");
        let measuring = AtomicBool::new(false);
        let (report, changes) = std::thread::scope(|scope| {
            let changing = scope.spawn(|| {
                let ended = AtomicBool::new(false);
                let clock = Clock {
                    measuring: &measuring,
                    ended: &ended,
                };
                let (mut since, mut changes) = (None, Vec::new());
                while clock.wait(
                    &mut since,
                    changes.len() as u32 + 1,
                    Duration::from_millis(300),
                ) {
                    // It stands because of the change: the making of that began before.
                    let begun = Instant::now();
                    signal(rustix::process::Signal::STOP);
                    let going_on = scope.spawn(|| {
                        let stopped = Instant::now();
                        while stopped.elapsed() < STOPPED {
                            std::thread::park_timeout(STOPPED - stopped.elapsed());
                        }
                        signal(rustix::process::Signal::CONT);
                    });
                    let round = changes.len() as u32 + 1;
                    let change = rig.rewrite_classes(100, round).expect("live");
                    changes.push(Rewritten { begun, ..change });
                    going_on.join().expect("it goes on");
                }
                changes
            });
            let mut tell = |line: &str| println!("{line}");
            let mut gate = Gate {
                measuring: &measuring,
                inner: &mut Lines::new(&mut tell),
            };
            let report = load::observed(&plan, &target, &mut gate).expect("a run");
            measuring.store(false, Ordering::Release);
            (report, changing.join().expect("changes"))
        });
        let found = judge(&changes, 100, &report);
        println!("{report}\n{found:?}");
        // Nothing is lost, so the loss says nothing.
        assert_eq!(found.blocked_ms, Some(0.0));
        let stood = found.stood_ms().expect("judged");
        assert!(stood > 0.5 * STOPPED.as_secs_f64() * 1e3, "{stood} ms");
    }

    #[test]
    fn a_group_message_reaches_every_receiver() {
        let plan = Plan {
            classes: load::group_labels(3),
            flows: 6,
            fan_out: true,
            receivers: 3,
            mix: vec![(64, 3), (2_000, 1)],
            ..plan()
        };
        let rig = Rig::start(&plan, 2).expect("a rig");
        let target = rig.target().expect("a target");
        let report = load::run(&plan, &target, &mut |line| println!("{line}")).expect("a run");
        println!("{report}");
        assert_eq!(report.expected, report.sent * 3);
        assert_eq!(
            (report.lost, report.corrupted, report.duplicated),
            (0, 0, 0)
        );
    }
}
