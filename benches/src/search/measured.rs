//! The search on a real target: trials are runs of the load generator.

use super::bounds::{Goal, GoalResult, Searcher, Trial};
use crate::load::{
    self, Distribution, Machine, Observer, Plan, Rate, Report, RunError, SelfTest, Target, Verdict,
};
use serde::Serialize;
use std::time::Duration;

/// Waiting for what is under way at the end of a trial: what comes later was not carried at that load.
const TRIAL_DRAIN: Duration = Duration::from_millis(100);
/// Parts of the PDR at which latency is measured.
const LATENCY_PARTS: [f64; 4] = [0.0, 0.1, 0.5, 0.9];
/// "0 %" of the PDR: a load that loads nothing.
const IDLE_PART: f64 = 0.001;
/// Part of what the generator carries alone above which a rate is the generator's.
const GENERATOR_LIMITED_PART: f64 = 0.9;
/// Trials at most: a search that does not close in ends here, and says so.
const TRIALS_MAX: usize = 500;

/// How to search.
#[derive(Clone, Copy, Debug)]
pub struct SearchSettings {
    /// Length of a trial.
    pub trial: Duration,
    /// Sum of trial lengths at a load.
    pub duration_sum: Duration,
    /// Part of it that may be bad.
    pub exceed_ratio: f64,
    /// Relative width between the bounds at the end.
    pub width: f64,
    /// Loss ratio of the partial drop rate.
    pub pdr_loss_ratio: f64,
}

/// Why a search has no result.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// A trial failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The bounds did not close in.
    #[error("no result after {0} trials: the target's loss does not settle; try longer trials")]
    Endless(usize),
}

/// Latency at a load.
#[derive(Clone, Debug, Serialize)]
pub struct LatencyAt {
    /// Part of the PDR; 0 stands for a thousandth of it.
    pub part_of_pdr: f64,
    /// Messages a second.
    pub load: f64,
    /// From the intended time; absent when payloads carry no stamps.
    pub latency_us: Option<Distribution>,
    /// Quantile and latency (us), for plots.
    pub latency_percentiles_us: Vec<(f64, f64)>,
}

/// Everything a search found.
#[derive(Clone, Debug, Serialize)]
pub struct SearchReport {
    /// Version of this object's shape.
    pub schema: &'static str,
    /// What was measured.
    pub target: String,
    /// Payload bytes of a message.
    pub payload_bytes: usize,
    /// Senders, receivers, classes, flows.
    pub scale: [usize; 4],
    /// Maximum receive rate: messages a second received at maximum load.
    pub mrr_per_s: f64,
    /// It is nearly what the generator carries alone: the router may carry more.
    pub mrr_generator_limited: bool,
    /// The generator alone at maximum load; absent when that was left out.
    pub self_test: Option<SelfTest>,
    /// NDR and PDR.
    pub goals: Vec<GoalResult>,
    /// Latency below the PDR.
    pub latency: Vec<LatencyAt>,
    /// Every trial, in the order of time.
    pub trials: Vec<Trial>,
    /// Sum of all trial lengths (seconds).
    pub trials_s: f64,
    /// Generator and router share this machine's CPUs.
    pub co_located: bool,
    /// What it ran on.
    pub machine: Machine,
}

/// Searches NDR and PDR of `plan` (its rate is replaced), then measures latency below the PDR. `alone` is what the generator
/// carries by itself at maximum load.
///
/// # Errors
/// [`SearchError`].
pub fn search(
    plan: &Plan,
    target: &Target,
    settings: &SearchSettings,
    alone: Option<SelfTest>,
    observer: &mut dyn Observer,
) -> Result<SearchReport, SearchError> {
    let at = |rate: Rate| Plan {
        rate,
        duration: settings.trial,
        drain: TRIAL_DRAIN,
        ..plan.clone()
    };
    let most = load::observed(&at(Rate::Max), target, observer)?;
    let mrr = most.received_per_s;
    observer.note(&format!("MRR {mrr:.0} messages/s"));
    let goal = |name, loss_ratio| Goal {
        name,
        loss_ratio,
        trial_s: settings.trial.as_secs_f64(),
        duration_sum_s: settings.duration_sum.as_secs_f64(),
        exceed_ratio: settings.exceed_ratio,
        width: settings.width,
    };
    let goals = [goal("NDR", 0.0), goal("PDR", settings.pdr_loss_ratio)];
    let mut searcher = Searcher::default();
    for goal in &goals {
        while let Some(rate) = searcher.next(goal, mrr / 2.0) {
            if searcher.trials().len() >= TRIALS_MAX {
                return Err(SearchError::Endless(TRIALS_MAX));
            }
            let plan = at(Rate::PerSecond(rate));
            let trial = trial(&plan, rate, &load::observed(&plan, target, observer)?);
            observer.note(&format!(
                "{}: {rate:.0}/s lost {:.4} %{}",
                goal.name,
                trial.loss_ratio * 100.0,
                if trial.generator_saturated {
                    " (generator saturated)"
                } else {
                    ""
                },
            ));
            searcher.note(trial);
        }
    }
    let results: Vec<GoalResult> = goals.iter().map(|goal| searcher.result(goal)).collect();
    let pdr = results
        .last()
        .and_then(|result| result.conditional_throughput)
        .unwrap_or(0.0);
    let latency = latencies(pdr, &at, target, observer)?;
    Ok(SearchReport {
        schema: "caplane-load.search.1",
        target: target.name.clone(),
        payload_bytes: plan.payload,
        scale: [plan.senders, plan.receivers, plan.classes.len(), plan.flows],
        mrr_per_s: mrr,
        mrr_generator_limited: alone
            .as_ref()
            .is_some_and(|alone| mrr >= alone.received_per_s * GENERATOR_LIMITED_PART),
        self_test: alone,
        goals: results,
        latency,
        trials_s: settings.trial.as_secs_f64() * searcher.trials().len() as f64,
        trials: searcher.trials().to_vec(),
        co_located: target.co_located,
        machine: Machine::read(),
    })
}

fn latencies(
    pdr: f64,
    at: &dyn Fn(Rate) -> Plan,
    target: &Target,
    observer: &mut dyn Observer,
) -> Result<Vec<LatencyAt>, SearchError> {
    if pdr <= 0.0 {
        return Ok(Vec::new());
    }
    LATENCY_PARTS
        .into_iter()
        .map(|part| {
            let load = (pdr * part.max(IDLE_PART)).max(10.0);
            let report = load::observed(&at(Rate::PerSecond(load)), target, observer)?;
            Ok(LatencyAt {
                part_of_pdr: part,
                load,
                latency_us: report.latency_us,
                latency_percentiles_us: report.latency_percentiles_us,
            })
        })
        .collect()
}

/// Loss against what was intended: what flow control held back did not get through either.
fn trial(plan: &Plan, rate: f64, report: &Report) -> Trial {
    let time = plan.warm_up + plan.duration;
    // A message due in the last instants may fall to either side of the end.
    let intended = (rate * time.as_secs_f64()).floor() * plan.copies() as f64;
    let edge = (plan.senders * plan.lanes) as u64 * plan.copies() + 1;
    let missing = (intended - report.received as f64).max(0.0);
    let lost = if missing <= edge as f64 && report.lost == 0 {
        0.0
    } else {
        missing.max(report.lost as f64)
    };
    Trial {
        load: rate,
        loss_ratio: lost / intended.max(1.0),
        generator_saturated: report.verdict == Verdict::GeneratorSaturated,
    }
}
