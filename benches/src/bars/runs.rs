//! What the runs of a row say together: figures formed run by run, and what
//! went wrong in them.
//!
//! It refuses to know what a row compares.

use crate::load::{Report, Verdict};

/// What a lost message means to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Nothing may be lost: the row compares costs, and what is lost cost less.
    Fault,
    /// Loss is the row's own figure.
    Figure,
}

/// CPU time a message (ns), a copy with a group; `None` when none was measured, which is no zero.
pub(crate) fn ns(report: &Report) -> Option<f64> {
    let ns = report.router_cpu?.ns_per_message;
    (ns > 0.0).then_some(ns)
}

/// One figure a pair of runs; pairs of which one has no CPU time are left out, and [`faults`] says so.
pub(crate) fn ratios(plain: &[Report], other: &[Report], of: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    let pairs = plain.iter().zip(other);
    let both = pairs.filter_map(|(plain, other)| ns(plain).zip(ns(other)));
    both.map(|(plain, other)| of(plain, other)).collect()
}

/// What runs did that they must not, a line each; empty when their figures may be held against a bar.
pub(crate) fn faults<'a>(runs: impl IntoIterator<Item = &'a Report>, loss: Loss) -> Vec<String> {
    let runs: Vec<&Report> = runs.into_iter().collect();
    let sum = |of: fn(&Report) -> u64| runs.iter().map(|run| of(run)).sum::<u64>();
    let lost = match loss {
        Loss::Fault => sum(|run| run.lost),
        Loss::Figure => 0,
    };
    let messages = [
        (lost, "lost"),
        (sum(|run| run.duplicated), "duplicated"),
        (sum(|run| run.reordered), "reordered"),
        (sum(|run| run.corrupted), "corrupted"),
        (sum(|run| run.misrouted), "misrouted"),
    ];
    let mut faults: Vec<String> = messages
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} messages {what}"))
        .collect();
    if lost > 0 {
        faults.extend(losses(&runs));
    }
    let all = runs.len();
    let count = |of: &dyn Fn(&Report) -> bool| runs.iter().filter(|run| of(run)).count();
    for (verdict, what) in [
        (Verdict::GeneratorSaturated, "generator saturated"),
        (Verdict::HeldBack, "held back"),
        (Verdict::NothingReceived, "nothing received"),
    ] {
        let bad = count(&|run| run.verdict == verdict);
        if bad > 0 {
            faults.push(format!("{what} in {bad} of {all} runs"));
        }
    }
    let without = count(&|run| ns(run).is_none());
    if without > 0 {
        faults.push(format!(
            "no CPU time of the router in {without} of {all} runs"
        ));
    }
    faults
}

/// Of each run that lost messages: which (of how many routers, in the order that the row ran them), and what its senders were told.
fn losses<'a>(runs: &'a [&Report]) -> impl Iterator<Item = String> + 'a {
    let lossy = runs.iter().enumerate().filter(|(_, run)| run.lost > 0);
    lossy.map(move |(n, run)| {
        let told: Vec<String> = run
            .notices
            .iter()
            .map(|(reason, count)| format!("{count} x {reason}"))
            .collect();
        let told = match &told[..] {
            [] => "its senders were told nothing".to_owned(),
            told => format!("its senders were told {}", told.join(", ")),
        };
        format!(
            "run {} of {} ({}) lost {} of {}: {told}",
            n + 1,
            runs.len(),
            run.target,
            run.lost,
            run.expected,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Report {
        Report::example()
    }

    #[test]
    fn runs_without_a_fault_have_none() {
        assert_eq!(faults(&[run(), run()], Loss::Fault), [""; 0]);
        assert_eq!(faults([], Loss::Fault), [""; 0]);
    }

    #[test]
    fn each_fault_is_named_and_a_loss_counts_where_it_is_not_the_figure() {
        type Edit = (fn(&mut Report), &'static str);
        let edits: [Edit; 8] = [
            (|run| run.duplicated = 1, "1 messages duplicated"),
            (|run| run.reordered = 2, "2 messages reordered"),
            (|run| run.corrupted = 3, "3 messages corrupted"),
            (|run| run.misrouted = 4, "4 messages misrouted"),
            (
                |run| run.verdict = Verdict::GeneratorSaturated,
                "generator saturated in 1 of 2 runs",
            ),
            (
                |run| run.verdict = Verdict::HeldBack,
                "held back in 1 of 2 runs",
            ),
            (
                |run| run.verdict = Verdict::NothingReceived,
                "nothing received in 1 of 2 runs",
            ),
            (
                |run| run.router_cpu = None,
                "no CPU time of the router in 1 of 2 runs",
            ),
        ];
        for (edit, named) in edits {
            let mut bad = run();
            edit(&mut bad);
            for loss in [Loss::Fault, Loss::Figure] {
                assert_eq!(faults(&[run(), bad.clone()], loss), [named]);
            }
        }
        let lossy = Report {
            target: "r".into(),
            lost: 7,
            expected: 100,
            notices: [("OVERLOADED".to_owned(), 5)].into(),
            ..run()
        };
        assert_eq!(
            faults([&run(), &lossy], Loss::Fault),
            [
                "7 messages lost",
                "run 2 of 2 (r) lost 7 of 100: its senders were told 5 x OVERLOADED"
            ]
        );
        assert_eq!(faults([&lossy], Loss::Figure), [""; 0]);
    }

    #[test]
    fn a_run_without_cpu_time_is_in_no_ratio() {
        let mut without = run();
        without.router_cpu = without.router_cpu.map(|cpu| crate::load::Cpu {
            ns_per_message: 0.0,
            ..cpu
        });
        let (plain, other) = ([run(), run()], [without, run()]);
        assert_eq!(ratios(&plain, &other, |plain, other| plain / other), [1.0]);
    }
}
