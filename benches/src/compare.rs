//! Two results side by side: what differs, by how much, and whether the two
//! may be compared at all.

use serde_json::Value;
use std::fmt;

/// A figure of both.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Its path in the JSON.
    pub what: &'static str,
    /// In the first and in the second.
    pub figures: [f64; 2],
    /// Less is better.
    pub less_is_better: bool,
}

impl Line {
    /// How much worse the second is: 1.1 is ten percent worse.
    pub fn worse_by(&self) -> f64 {
        let [a, b] = self.figures;
        let (from, to) = if self.less_is_better { (a, b) } else { (b, a) };
        if from > 0.0 { to / from } else { 1.0 }
    }
}

/// What is compared of runs and of searches: path, and whether less is better.
const FIGURES: [(&str, bool); 16] = [
    ("/router_cpu/ns_per_message", true),
    ("/router_cpu/context_switches_per_message", true),
    ("/router_cpu/resident_bytes", true),
    ("/received_per_s", false),
    ("/lost", true),
    ("/latency_us/p50", true),
    ("/latency_us/p90", true),
    ("/latency_us/p99", true),
    ("/latency_us/p999", true),
    ("/latency_us/max", true),
    ("/latency_uncorrected_us/p50", true),
    ("/latency_uncorrected_us/p99", true),
    ("/longest_silence_ms", true),
    ("/mrr_per_s", false),
    ("/goals/0/conditional_throughput", false),
    ("/goals/1/conditional_throughput", false),
];

/// What must be the same for figures to mean the same.
const SETTINGS: [&str; 18] = [
    "/schema",
    "/carrier",
    "/payload_bytes",
    "/mix",
    "/fan_out",
    "/senders",
    "/receivers",
    "/classes",
    "/flows",
    "/lanes",
    "/offered_per_s",
    "/loop_kind",
    "/udp_payload",
    "/scale",
    "/tls",
    "/machine/cpu",
    "/machine/cpus",
    "/machine/kernel",
];

/// Two results compared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Settings that differ: path, first, second.
    pub differing: Vec<(&'static str, String, String)>,
    /// Figures that both have.
    pub lines: Vec<Line>,
}

impl Comparison {
    /// Compares `a` with `b`, results of `run` or of `search`.
    pub fn of(a: &Value, b: &Value) -> Comparison {
        let text = |value: Option<&Value>| value.unwrap_or(&Value::Null).to_string();
        let differing = SETTINGS
            .into_iter()
            .map(|path| (path, text(a.pointer(path)), text(b.pointer(path))))
            .filter(|(_, a, b)| a != b)
            .collect();
        let lines = FIGURES
            .into_iter()
            .filter_map(|(what, less_is_better)| {
                let figures = [a.pointer(what)?.as_f64()?, b.pointer(what)?.as_f64()?];
                Some(Line {
                    what,
                    figures,
                    less_is_better,
                })
            })
            .collect();
        Comparison { differing, lines }
    }

    /// Figures of which the second is worse by more than this part (0.05 = 5 %).
    pub fn worse_than(&self, part: f64) -> impl Iterator<Item = &Line> {
        self.lines
            .iter()
            .filter(move |line| line.worse_by() > 1.0 + part)
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (path, a, b) in &self.differing {
            writeln!(f, "  NOT THE SAME {:<28} {a} / {b}", &path[1..])?;
        }
        writeln!(f, "  {:<42} {:>16} {:>16} {:>9}", "", "A", "B", "B / A")?;
        for line in &self.lines {
            let [a, b] = line.figures;
            let ratio = if a > 0.0 {
                format!("{:.3}", b / a)
            } else {
                "-".to_owned()
            };
            let verdict = match line.worse_by() {
                worse if worse > 1.05 => "worse",
                worse if worse < 0.95 => "better",
                _ => "",
            };
            writeln!(
                f,
                "  {:<42} {a:>16.3} {b:>16.3} {ratio:>9} {verdict}",
                &line.what[1..]
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn figures_settings_and_the_better_direction_are_told() {
        let a = json!({"payload_bytes": 64, "received_per_s": 100.0, "router_cpu": {"ns_per_message": 200.0}});
        let b = json!({"payload_bytes": 1024, "received_per_s": 80.0, "router_cpu": {"ns_per_message": 180.0}});
        let comparison = Comparison::of(&a, &b);
        assert_eq!(comparison.differing.len(), 1);
        let worse: Vec<&str> = comparison.worse_than(0.05).map(|line| line.what).collect();
        assert_eq!(worse, ["/received_per_s"]);
        let text = comparison.to_string();
        assert!(
            text.contains("NOT THE SAME payload_bytes") && text.contains("better"),
            "{text}"
        );
    }
}
