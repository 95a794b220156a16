//! All systems in turn, their results and the bars between them.

use super::{Path, RoundTrip, Settings, System, Throughput};
use crate::bars::{Bar, Bound};
use crate::ceiling::Spread;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What is asked of every system.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// Payload bytes.
    pub sizes: Vec<usize>,
    /// Numbers of receivers.
    pub receivers: Vec<usize>,
    /// Questions a second.
    pub rates: Vec<f64>,
    /// Runs of each cell.
    pub repeat: usize,
}

/// One system's figures.
#[derive(Debug, Serialize)]
pub struct Row {
    system: &'static str,
    transport: &'static str,
    encrypted: bool,
    path: Path,
    #[serde(skip)]
    throughput: BTreeMap<(usize, usize), Vec<Throughput>>,
    #[serde(skip)]
    round_trips: Vec<Vec<RoundTrip>>,
    #[serde(skip)]
    failures: BTreeMap<String, String>,
}

/// Measures all systems: cell by cell in turn, so that drift of the machine meets all.
pub fn measure(
    systems: &mut [Box<dyn System>],
    settings: &Settings,
    matrix: &Matrix,
    tell: &mut dyn FnMut(&str),
) -> Vec<Row> {
    let mut rows: Vec<Row> = systems
        .iter_mut()
        .map(|system| {
            let mut row = Row::new(system.as_ref(), settings, matrix);
            tell(&format!("installing {} ({})", row.system, row.transport));
            if let Err(error) = system.install(settings) {
                tell(&format!("{} ({}): {error}", row.system, row.transport));
                row.failures.insert("install".to_owned(), error.to_string());
            }
            row
        })
        .collect();
    for round in 1..=matrix.repeat {
        for (system, row) in systems.iter_mut().zip(&mut rows) {
            if row.failures.contains_key("install") {
                continue;
            }
            row.round(system.as_mut(), settings, matrix, tell);
            tell(&format!(
                "round {round} of {}: {} ({}) measured",
                matrix.repeat, row.system, row.transport
            ));
        }
    }
    rows
}

impl Row {
    fn new(system: &dyn System, settings: &Settings, matrix: &Matrix) -> Row {
        Row {
            system: system.name(),
            transport: system.transport(),
            encrypted: system.encrypted(),
            path: settings.place.path,
            throughput: BTreeMap::new(),
            round_trips: vec![Vec::new(); matrix.rates.len()],
            failures: BTreeMap::new(),
        }
    }

    fn round(
        &mut self,
        system: &mut dyn System,
        settings: &Settings,
        matrix: &Matrix,
        tell: &mut dyn FnMut(&str),
    ) {
        for size in &matrix.sizes {
            for receivers in &matrix.receivers {
                let what = format!("{size} B to {receivers}");
                match system.throughput(settings, *size, *receivers) {
                    Ok(found) if found.messages > 0 && !found.cpu.is_zero() => {
                        let cell = self.throughput.entry((*size, *receivers)).or_default();
                        cell.push(found);
                    }
                    Ok(found) if found.messages > 0 => {
                        self.failed(what, "no CPU time of the server".to_owned(), tell);
                    }
                    Ok(_) => self.failed(what, "nothing came through".to_owned(), tell),
                    Err(error) => self.failed(what, error.to_string(), tell),
                }
            }
        }
        for (rate, found) in matrix.rates.iter().zip(0..) {
            match system.round_trip(settings, *rate) {
                Ok(trip) => self.round_trips[found].push(trip),
                Err(error) => {
                    self.failed(format!("round trip at {rate}/s"), error.to_string(), tell)
                }
            }
        }
    }

    fn failed(&mut self, what: String, why: String, tell: &mut dyn FnMut(&str)) {
        tell(&format!(
            "{} ({}), {what}: {why}",
            self.system, self.transport
        ));
        self.failures.insert(what, why);
    }

    fn cell(&self, size: usize, receivers: usize) -> &[Throughput] {
        self.throughput
            .get(&(size, receivers))
            .map_or(&[], Vec::as_slice)
    }

    /// Messages a core-second of the server, run by run.
    fn runs(&self, size: usize, receivers: usize) -> impl Iterator<Item = f64> {
        let runs = self.cell(size, receivers).iter();
        runs.map(|run| run.messages as f64 / run.cpu.as_secs_f64())
    }

    fn messages(&self, size: usize, receivers: usize) -> Spread {
        Spread::of(self.runs(size, receivers))
    }

    fn gbit(&self, size: usize, receivers: usize) -> Spread {
        Spread::of(
            self.cell(size, receivers)
                .iter()
                .map(|run| run.payload_bytes as f64 * 8.0 / 1e9 / run.cpu.as_secs_f64()),
        )
    }

    /// Median of the runs' medians, and of their 99th percentiles.
    fn round_trip(&self, n: usize) -> Option<[Spread; 2]> {
        let runs = self.round_trips.get(n).filter(|runs| !runs.is_empty())?;
        Some([
            Spread::of(runs.iter().map(|run| run.p50)),
            Spread::of(runs.iter().map(|run| run.p99)),
        ])
    }
}

/// One object for each system, size and number of receivers; failures too.
pub fn json(rows: &[Row], matrix: &Matrix) -> Vec<Value> {
    let mut all = Vec::new();
    for row in rows {
        let mut base = serde_json::to_value(row).unwrap_or_default();
        base["round_trip_failures"] = row
            .failures
            .iter()
            .filter(|(what, _)| what.starts_with("round trip"))
            .map(|(what, why)| format!("{what}: {why}"))
            .collect();
        let trips: Vec<Value> = matrix
            .rates
            .iter()
            .enumerate()
            .filter_map(|(n, rate)| {
                let [p50, p99] = row.round_trip(n)?;
                Some(json!({"rate": rate, "p50": p50.median, "p99": p99.median, "spread": {"p50": p50, "p99": p99}}))
            })
            .collect();
        base["rtt_us"] = trips.into();
        if matrix.sizes.is_empty() {
            all.push(base.clone());
        }
        for size in &matrix.sizes {
            for receivers in &matrix.receivers {
                let mut one = base.clone();
                one["size"] = (*size).into();
                one["receivers"] = (*receivers).into();
                let messages = row.messages(*size, *receivers);
                if messages.median > 0.0 {
                    one["messages_per_core_second"] = messages.median.into();
                    one["cpu_ns_per_message"] = (1e9 / messages.median).into();
                    one["gbit_per_core_second"] = row.gbit(*size, *receivers).median.into();
                    one["spread"] = json!({"messages_per_core_second": messages});
                } else {
                    let why = row.failures.get(&format!("{size} B to {receivers}"));
                    let why = why.or_else(|| row.failures.get("install"));
                    one["failed"] = why.map_or("not measured", String::as_str).into();
                }
                all.push(one);
            }
        }
    }
    all
}

/// The table for people.
pub fn print(rows: &[Row], matrix: &Matrix) {
    if !matrix.sizes.is_empty() {
        println!(
            "\nmillion messages per core-second of the server (Gbit of payload behind it): median [lowest..highest]"
        );
        print!("{:<16} {:<5} {:<10}", "system", "via", "path");
    }
    for size in &matrix.sizes {
        for receivers in &matrix.receivers {
            print!(" {:>32}", format!("{size} B to {receivers}"));
        }
    }
    println!();
    for row in rows.iter().filter(|_| !matrix.sizes.is_empty()) {
        print!(
            "{:<16} {:<5} {:<10}",
            row.system,
            row.transport,
            format!("{:?}", row.path)
        );
        for size in &matrix.sizes {
            for receivers in &matrix.receivers {
                let messages = row.messages(*size, *receivers);
                let text = if messages.median > 0.0 {
                    let gbit = row.gbit(*size, *receivers).median;
                    format!("{:.3} ({gbit:.2})", messages.per(1e6))
                } else {
                    "FAILED".to_owned()
                };
                print!(" {text:>32}");
            }
        }
        println!();
    }
    if !matrix.rates.is_empty() {
        println!("\nround trip of 1 KiB, open loop, us: p50 / p99, medians [lowest..highest]");
    }
    for row in rows.iter().filter(|_| !matrix.rates.is_empty()) {
        print!(
            "{:<16} {:<5} {:<10}",
            row.system,
            row.transport,
            format!("{:?}", row.path)
        );
        for (n, rate) in matrix.rates.iter().enumerate() {
            let text = row.round_trip(n).map_or("FAILED".to_owned(), |[p50, p99]| {
                format!("at {rate}/s {p50:.0} / {p99:.0}")
            });
            print!("  {text:<52}");
        }
        println!();
    }
    for row in rows {
        for (what, why) in &row.failures {
            println!("FAILED {} ({}), {what}: {why}", row.system, row.transport);
        }
    }
}

/// Our router against the best encrypted peer of the same runs.
pub fn bars(rows: &[Row], matrix: &Matrix) -> Vec<Bar> {
    let Some(ours) = rows.iter().find(|row| row.system == "caplane-router") else {
        return Vec::new();
    };
    let peers = || {
        rows.iter()
            .filter(|row| row.encrypted && row.system != ours.system)
    };
    let mut bars = Vec::new();
    for size in &matrix.sizes {
        let what = format!("{size} B against the best encrypted peer, {:?}", ours.path);
        let bound = Bound::AtLeast(least(ours.path, *size));
        let best = peers().max_by(|a, b| {
            let of = |row: &Row| row.messages(*size, 1).median;
            of(a).total_cmp(&of(b))
        });
        let Some(best) = best.filter(|best| best.messages(*size, 1).median > 0.0) else {
            bars.push(
                Bar::new(what, [], "x", bound)
                    .faulty(["no encrypted peer could be measured".to_owned()]),
            );
            continue;
        };
        let theirs = best.messages(*size, 1).median;
        let ratios = ours.runs(*size, 1).map(|messages| messages / theirs);
        bars.push(Bar::new(what, ratios, "x", bound).detailed(format!(
            "{} over {}: {:.3} M/core-s",
            best.system,
            best.transport,
            theirs / 1e6
        )));
    }
    for (n, rate) in matrix.rates.iter().enumerate() {
        for (name, of) in PERCENTILES {
            let what = format!("round trip at {rate}/s, {name}, below every encrypted peer");
            let own = ours.round_trips[n].iter().map(of);
            let fastest = peers()
                .filter(|row| !row.round_trips[n].is_empty())
                .map(|row| Spread::of(row.round_trips[n].iter().map(of)).median)
                .min_by(f64::total_cmp);
            bars.push(match fastest {
                Some(fastest) => {
                    let most = (fastest * 10.0).round() / 10.0;
                    Bar::new(what, own, "us", Bound::AtMost(most))
                }
                None => Bar::new(what, own, "us", Bound::BelowPeers)
                    .faulty(["no encrypted peer could be measured".to_owned()]),
            });
        }
    }
    bars
}

/// What is compared of round trips: its name, and where it stands.
type Percentile = (&'static str, fn(&RoundTrip) -> f64);
const PERCENTILES: [Percentile; 2] = [("p50", |trip| trip.p50), ("p99", |trip| trip.p99)];

/// What is asked of the ratio.
fn least(path: Path, size: usize) -> f64 {
    match (path, size) {
        (Path::Loopback, 64) => 2.8,
        (Path::Loopback, 1_024) => 2.0,
        (Path::Loopback, _) => 2.2,
        (Path::Veth, 64) => 1.8,
        (Path::Veth, _) => 1.0,
    }
}

/// Whether every cell of every system was measured in every round: what failed is in the table, and no bar is met by its absence.
pub fn is_whole(rows: &[Row]) -> bool {
    rows.iter().all(|row| row.failures.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bars::Standing;
    use std::time::Duration;

    fn row(system: &'static str, encrypted: bool, messages: u64) -> Row {
        let run = Throughput {
            messages,
            payload_bytes: messages * 64,
            cpu: Duration::from_secs(1),
            elapsed: Duration::from_secs(1),
        };
        Row {
            system,
            transport: "x",
            encrypted,
            path: Path::Loopback,
            throughput: BTreeMap::from([((64, 1), vec![run; 3])]),
            round_trips: vec![vec![RoundTrip {
                rate: 1_000.0,
                p50: 100.0 + messages as f64,
                p99: 200.0,
                unanswered: 0,
            }]],
            failures: BTreeMap::new(),
        }
    }

    #[test]
    fn the_best_encrypted_peer_is_the_bar_and_a_failure_is_a_result() {
        let matrix = Matrix {
            sizes: vec![64],
            receivers: vec![1],
            rates: vec![1_000.0],
            repeat: 3,
        };
        let mut broken = row("broken", true, 0);
        broken.throughput.clear();
        broken
            .failures
            .insert("install".to_owned(), "no network".to_owned());
        let rows = [
            row("caplane-router", true, 300),
            row("plain", false, 500),
            row("slow", true, 50),
            row("best", true, 100),
            broken,
        ];
        let bars = bars(&rows, &matrix);
        assert_eq!(bars[0].figure.map(|f| f.median), Some(3.0));
        assert!(bars[0].standing() == Standing::Met && bars[0].detail.contains("best"));
        // The slow one answers first.
        assert_eq!(bars[1].bound, Bound::AtMost(100.0));
        let all = json(&rows, &matrix);
        assert_eq!(all.len(), 5);
        assert_eq!(all[4]["failed"], "no network");
        assert_eq!(all[0]["rtt_us"][0]["rate"], 1_000.0);
    }
}
