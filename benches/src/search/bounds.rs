//! Bounds from trials, as RFC 9971 defines them.

use serde::Serialize;

/// What is searched for (RFC 9971, Search Goal). Every attribute is printed with every result.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Goal {
    /// "NDR" or "PDR".
    pub name: &'static str,
    /// Goal Loss Ratio: a trial with more is bad.
    pub loss_ratio: f64,
    /// Goal Final Trial Duration (seconds): all trials here are of it.
    pub trial_s: f64,
    /// Goal Duration Sum (seconds): trials of a load until it is decided without more.
    pub duration_sum_s: f64,
    /// Goal Exceed Ratio: part of the duration that may be bad.
    pub exceed_ratio: f64,
    /// Goal Width: upper bound / lower bound - 1 at which the search ends (resolution).
    pub width: f64,
}

/// One trial.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// Trial Load: messages a second intended.
    pub load: f64,
    /// Trial Loss Ratio: part of the intended that did not arrive, what flow control held back included.
    pub loss_ratio: f64,
    /// The generator itself could not offer it.
    pub generator_saturated: bool,
}

/// What is known about a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It meets the goal.
    Lower,
    /// It does not.
    Upper,
    /// More trials are needed.
    Undecided,
}

/// The outcome for a goal.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GoalResult {
    /// What was searched for.
    pub goal: Goal,
    /// Relevant Lower Bound (messages a second): the highest load that meets the goal below every load that does not.
    pub relevant_lower_bound: Option<f64>,
    /// Relevant Upper Bound (messages a second): the lowest load that does not meet the goal.
    pub relevant_upper_bound: Option<f64>,
    /// Conditional Throughput (messages a second): the forwarding rate at the relevant lower bound that all but the exceed
    /// ratio of its trials reach.
    pub conditional_throughput: Option<f64>,
    /// The upper bound is the generator's: the router may carry more.
    pub generator_limited: bool,
}

/// All trials, and which load to try next.
#[derive(Clone, Debug, Default)]
pub struct Searcher {
    trials: Vec<Trial>,
}

/// How far the search goes out from where it begins before it knows both bounds.
const STRIDE: f64 = 2.0;
/// Below this no load is tried (messages a second).
const LOAD_MIN: f64 = 10.0;

impl Searcher {
    /// Notes a trial.
    pub fn note(&mut self, trial: Trial) {
        self.trials.push(trial);
    }

    /// All trials so far.
    pub fn trials(&self) -> &[Trial] {
        &self.trials
    }

    fn loads(&self) -> Vec<f64> {
        let mut loads: Vec<f64> = self.trials.iter().map(|trial| trial.load).collect();
        loads.sort_by(f64::total_cmp);
        loads.dedup();
        loads
    }

    fn at(&self, load: f64) -> impl Iterator<Item = &Trial> {
        self.trials.iter().filter(move |trial| trial.load == load)
    }

    /// Which side of the goal a load is on.
    pub fn side(&self, goal: &Goal, load: f64) -> Side {
        let (mut good_s, mut bad_s) = (0.0, 0.0);
        for trial in self.at(load) {
            if trial.loss_ratio <= goal.loss_ratio && !trial.generator_saturated {
                good_s += goal.trial_s;
            } else {
                bad_s += goal.trial_s;
            }
        }
        let whole = goal.duration_sum_s.max(good_s + bad_s);
        let missing = whole - good_s - bad_s;
        if bad_s > goal.exceed_ratio * whole {
            Side::Upper
        } else if bad_s + missing <= goal.exceed_ratio * whole {
            Side::Lower
        } else {
            Side::Undecided
        }
    }

    /// Lowest upper bound, and highest lower bound below it.
    fn bounds(&self, goal: &Goal) -> (Option<f64>, Option<f64>) {
        let loads = self.loads();
        let upper = loads
            .iter()
            .copied()
            .find(|load| self.side(goal, *load) == Side::Upper);
        let lower = loads
            .iter()
            .copied()
            .filter(|load| upper.is_none_or(|upper| *load < upper))
            .rfind(|load| self.side(goal, *load) == Side::Lower);
        (lower, upper)
    }

    /// The load to try next for this goal; `None` when the bounds are close enough.
    pub fn next(&self, goal: &Goal, start: f64) -> Option<f64> {
        let (lower, upper) = self.bounds(goal);
        // What is begun is decided first, as long as it can still be relevant.
        let undecided = self.loads().into_iter().find(|load| {
            self.side(goal, *load) == Side::Undecided
                && lower.is_none_or(|lower| *load > lower)
                && upper.is_none_or(|upper| *load < upper)
        });
        if undecided.is_some() {
            return undecided;
        }
        match (lower, upper) {
            (None, None) => Some(start.max(LOAD_MIN)),
            (Some(lower), None) => Some(lower * STRIDE),
            (None, Some(upper)) => {
                let next = upper / STRIDE;
                (next >= LOAD_MIN).then_some(next)
            }
            // The middle in proportion, since widths are relative.
            (Some(lower), Some(upper)) => {
                (upper / lower - 1.0 > goal.width).then(|| (lower * upper).sqrt())
            }
        }
    }

    /// What was found.
    pub fn result(&self, goal: &Goal) -> GoalResult {
        let (lower, upper) = self.bounds(goal);
        let limited = upper.is_some_and(|upper| {
            let mut trials = self.at(upper);
            trials.any(|t| t.generator_saturated)
        });
        GoalResult {
            goal: *goal,
            relevant_lower_bound: lower,
            relevant_upper_bound: upper,
            conditional_throughput: lower.map(|lower| self.throughput(goal, lower)),
            generator_limited: limited,
        }
    }

    /// Trials sorted by forwarding rate: the worst that is not within the exceed ratio.
    fn throughput(&self, goal: &Goal, load: f64) -> f64 {
        let mut losses: Vec<f64> = self.at(load).map(|trial| trial.loss_ratio).collect();
        losses.sort_by(|a, b| b.total_cmp(a));
        let trials = (goal.duration_sum_s / goal.trial_s).max(losses.len() as f64);
        let allowed = (goal.exceed_ratio * trials).floor() as usize;
        let missing = trials as usize - losses.len();
        // Trials that were not needed any more count as allowed ones first: the result is not made better by them.
        let loss = losses.get(allowed.saturating_sub(missing));
        load * (1.0 - loss.copied().unwrap_or(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NDR: Goal = Goal {
        name: "NDR",
        loss_ratio: 0.0,
        trial_s: 1.0,
        duration_sum_s: 5.0,
        exceed_ratio: 0.5,
        width: 0.02,
    };

    fn trial(load: f64, loss_ratio: f64) -> Trial {
        Trial {
            load,
            loss_ratio,
            generator_saturated: false,
        }
    }

    #[test]
    fn a_load_is_decided_when_no_further_trial_can_change_it() {
        let mut searcher = Searcher::default();
        for (loss, side) in [
            (0.0, Side::Undecided),
            (0.1, Side::Undecided),
            (0.0, Side::Undecided),
            (0.0, Side::Lower),
        ] {
            searcher.note(trial(100.0, loss));
            assert_eq!(searcher.side(&NDR, 100.0), side, "{:?}", searcher.trials());
        }
        for _ in 0..3 {
            searcher.note(trial(200.0, 0.01));
        }
        assert_eq!(searcher.side(&NDR, 200.0), Side::Upper);
        let result = searcher.result(&NDR);
        assert_eq!(result.relevant_lower_bound, Some(100.0));
        assert_eq!(result.relevant_upper_bound, Some(200.0));
        // One bad trial of four is within the exceed ratio.
        assert_eq!(result.conditional_throughput, Some(100.0));
    }

    #[test]
    fn the_search_closes_in_on_a_sharp_limit_from_either_side() {
        const LIMIT: f64 = 12_345.0;
        for start in [100.0, 1_000_000.0] {
            let mut searcher = Searcher::default();
            let mut steps = 0;
            while let Some(load) = searcher.next(&NDR, start) {
                let loss = (1.0 - LIMIT / load).max(0.0);
                searcher.note(trial(load, loss));
                steps += 1;
                assert!(steps < 200, "{:?}", searcher.trials());
            }
            let result = searcher.result(&NDR);
            let (lower, upper) = (
                result.relevant_lower_bound.expect("lower"),
                result.relevant_upper_bound.expect("upper"),
            );
            assert!(lower <= LIMIT && LIMIT <= upper && upper / lower <= 1.02);
            assert_eq!(result.conditional_throughput, Some(lower));
        }
    }

    #[test]
    fn a_partial_drop_rate_lies_above_the_lossless_one() {
        let pdr = Goal {
            name: "PDR",
            loss_ratio: 0.005,
            ..NDR
        };
        let mut searcher = Searcher::default();
        for goal in [NDR, pdr] {
            while let Some(load) = searcher.next(&goal, 5_000.0) {
                // A trickle of loss from 10,000 on, a flood from 20,000 on.
                let loss = match load {
                    load if load < 10_000.0 => 0.0,
                    load if load < 20_000.0 => 0.001,
                    _ => 0.2,
                };
                searcher.note(trial(load, loss));
            }
        }
        let lower = |goal| searcher.result(goal).relevant_lower_bound.expect("lower");
        assert!((9_800.0..=10_000.0).contains(&lower(&NDR)));
        assert!((19_600.0..=20_000.0).contains(&lower(&pdr)));
        let throughput = searcher.result(&pdr).conditional_throughput.expect("rate");
        assert!((throughput / lower(&pdr) - 0.999).abs() < 1e-9);
    }

    #[test]
    fn a_generator_that_cannot_offer_a_load_bounds_the_result_and_says_so() {
        let mut searcher = Searcher::default();
        while let Some(load) = searcher.next(&NDR, 1_000.0) {
            let mut trial = trial(load, 0.0);
            trial.generator_saturated = load > 5_000.0;
            searcher.note(trial);
        }
        assert!(searcher.result(&NDR).generator_limited);
    }
}
