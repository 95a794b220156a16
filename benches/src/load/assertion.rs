//! `--assert 'p99<2ms'`: a result that must hold, or the command fails.

use super::Report;
use std::fmt;
use std::str::FromStr;

/// What a report can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Metric {
    Min,
    Mean,
    P50,
    P90,
    P99,
    P999,
    P9999,
    Max,
    Loss,
    Lost,
    Duplicated,
    Reordered,
    Received,
    CpuPerMessage,
    Silence,
}

/// Name, metric; times are in microseconds inside.
const METRICS: [(&str, Metric); 15] = [
    ("min", Metric::Min),
    ("mean", Metric::Mean),
    ("p50", Metric::P50),
    ("p90", Metric::P90),
    ("p99", Metric::P99),
    ("p99.9", Metric::P999),
    ("p99.99", Metric::P9999),
    ("max", Metric::Max),
    ("loss", Metric::Loss),
    ("lost", Metric::Lost),
    ("duplicated", Metric::Duplicated),
    ("reordered", Metric::Reordered),
    ("received", Metric::Received),
    ("cpu", Metric::CpuPerMessage),
    ("silence", Metric::Silence),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    AtMost,
    Below,
    AtLeast,
    Above,
}

/// Longest first: `<=` begins with `<`.
const RELATIONS: [(&str, Relation); 4] = [
    ("<=", Relation::AtMost),
    (">=", Relation::AtLeast),
    ("<", Relation::Below),
    (">", Relation::Above),
];

/// One condition on a report.
#[derive(Clone, Debug, PartialEq)]
pub struct Assertion {
    text: String,
    metric: Metric,
    relation: Relation,
    bound: f64,
}

/// Why an assertion cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?}: give METRIC RELATION VALUE, such as p99<2ms, loss<=0.5%, received>=10000 or cpu<1500ns; metrics are min mean p50 p90 p99 p99.9 p99.99 max silence (ns, us, ms, s), cpu (of the router a message: ns, us), loss (%), lost duplicated reordered (messages), received (a second)"
)]
pub struct AssertionError(String);

impl FromStr for Assertion {
    type Err = AssertionError;

    fn from_str(text: &str) -> Result<Assertion, AssertionError> {
        let wrong = || AssertionError(text.to_owned());
        let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let (at, word, relation) = RELATIONS
            .iter()
            .filter_map(|(word, relation)| Some((compact.find(word)?, *word, *relation)))
            .next()
            .ok_or_else(wrong)?;
        let (name, value) = (&compact[..at], &compact[at + word.len()..]);
        let (_, metric) = METRICS
            .iter()
            .find(|(known, _)| *known == name)
            .ok_or_else(wrong)?;
        let bound = bound(*metric, value).ok_or_else(wrong)?;
        Ok(Assertion {
            text: compact,
            metric: *metric,
            relation,
            bound,
        })
    }
}

fn bound(metric: Metric, value: &str) -> Option<f64> {
    let digits = value
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(value.len());
    let number: f64 = value[..digits].parse().ok()?;
    let factor = match (metric, &value[digits..]) {
        (Metric::Loss, "%") => 0.01,
        (Metric::Lost | Metric::Duplicated | Metric::Reordered | Metric::Received, "") => 1.0,
        (Metric::Loss | Metric::Lost | Metric::Duplicated, _) => return None,
        (Metric::Reordered | Metric::Received, _) => return None,
        (_, "ns") => 1e-3,
        (_, "us") => 1.0,
        (_, "ms") => 1e3,
        (_, "s") => 1e6,
        _ => return None,
    };
    Some(number * factor)
}

impl Assertion {
    /// Whether it holds; a figure that the report does not have holds nothing.
    pub fn holds(&self, report: &Report) -> bool {
        self.figure(report)
            .is_some_and(|figure| match self.relation {
                Relation::AtMost => figure <= self.bound,
                Relation::Below => figure < self.bound,
                Relation::AtLeast => figure >= self.bound,
                Relation::Above => figure > self.bound,
            })
    }

    fn figure(&self, report: &Report) -> Option<f64> {
        let latency = report
            .latency_us
            .as_ref()
            .or(report.latency_uncorrected_us.as_ref());
        match self.metric {
            Metric::Min => latency.map(|l| l.min),
            Metric::Mean => latency.map(|l| l.mean),
            Metric::P50 => latency.map(|l| l.p50),
            Metric::P90 => latency.map(|l| l.p90),
            Metric::P99 => latency.map(|l| l.p99),
            Metric::P999 => latency.map(|l| l.p999),
            Metric::P9999 => latency.map(|l| l.p9999),
            Metric::Max => latency.map(|l| l.max),
            Metric::Loss => Some(report.loss()),
            Metric::Lost => Some(report.lost as f64),
            Metric::Duplicated => Some(report.duplicated as f64),
            Metric::Reordered => Some(report.reordered as f64),
            Metric::Received => Some(report.received_per_s),
            Metric::CpuPerMessage => report.router_cpu.map(|cpu| cpu.ns_per_message / 1e3),
            Metric::Silence => Some(report.longest_silence_ms * 1e3),
        }
    }

    /// "p99<2ms does not hold: it is 3.1 ms", for people.
    pub fn verdict(&self, report: &Report) -> String {
        let found = match (self.metric, self.figure(report)) {
            (_, None) => "the report has no such figure".to_owned(),
            (Metric::Loss, Some(part)) => format!("it is {:.4} %", part * 100.0),
            (Metric::Lost | Metric::Duplicated | Metric::Reordered | Metric::Received, Some(n)) => {
                format!("it is {n:.0}")
            }
            (_, Some(us)) => format!("it is {us:.1} us"),
        };
        let holds = if self.holds(report) {
            "holds"
        } else {
            "DOES NOT HOLD"
        };
        format!("{self} {holds}: {found}")
    }
}

impl fmt::Display for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_relations_and_units_are_read() {
        let parsed: Assertion = " p99.9 <= 1.5ms".parse().expect("an assertion");
        assert_eq!(
            (parsed.metric, parsed.relation, parsed.bound),
            (Metric::P999, Relation::AtMost, 1_500.0)
        );
        let loss: Assertion = "loss<0.5%".parse().expect("an assertion");
        assert!((loss.bound - 0.005).abs() < 1e-12);
        let rate: Assertion = "received>=10000".parse().expect("an assertion");
        assert_eq!((rate.relation, rate.bound), (Relation::AtLeast, 10_000.0));
        for wrong in [
            "p99", "p98<1ms", "p99<2", "loss<1ms", "lost<5%", "p99<ms", "<1ms",
        ] {
            let error = wrong.parse::<Assertion>().expect_err(wrong);
            assert!(error.to_string().contains("p99<2ms"), "{error}");
        }
    }
}
