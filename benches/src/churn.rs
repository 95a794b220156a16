//! Changes under load: connections that come and go, tables that are
//! rewritten, while a run measures what that does to the others.

use crate::load::{
    self, ConnectionChurn, Moment, Observer, Phase, Plan, Report, RunError, Seat, TableChurn,
    Target,
};
use crate::rig::{Rig, RigError};
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
        report.table_churn = tables.transpose()?.transpose()?;
        if let Some(tables) = &mut report.table_churn {
            tables.blocked_ms = report.offered_per_s.map(|offered| {
                report.lost as f64 / offered / f64::from(tables.deltas.max(1)) * 1e3
            });
        }
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

fn tables(rig: &Rig, churn: &Churn, clock: &Clock<'_>) -> Result<TableChurn, RigError> {
    let (mut begun, mut n) = (None, 0);
    let (mut live, mut router) = (Vec::new(), Vec::new());
    while clock.wait(&mut begun, n, churn.table_every) {
        n += 1;
        let (took, own) = rig.rewrite_classes(churn.table_entries, n)?;
        live.push(took.as_secs_f64() * 1e3);
        router.push(own.as_secs_f64() * 1e3);
    }
    Ok(TableChurn {
        deltas: live.len() as u32,
        entries: churn.table_entries,
        live_ms: live.into(),
        router_ms: router.into(),
        blocked_ms: None,
    })
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
