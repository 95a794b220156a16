//! Results of `peers` as JSON (schema: `benches/schema/peers.json`).

use super::table::{Cell, Matrix, Row};
use crate::bars::Bar;
use crate::load::Machine;
use serde_json::{Value, json};

/// What one call of `peers` found.
pub struct Found<'a> {
    /// What it ran on.
    pub machine: &'a Machine,
    /// Runs of each cell.
    pub repeat: usize,
    /// Seconds measured in each.
    pub seconds: f64,
    /// Of all paths.
    pub results: Vec<Value>,
    /// Our router against the others.
    pub bars: &'a [Bar],
    /// Paths that could not be set up.
    pub failed_paths: Vec<Value>,
}

impl Found<'_> {
    /// The whole object.
    pub fn json(&self) -> Value {
        let bars: Vec<Value> = self.bars.iter().map(Bar::json).collect();
        json!({
            "schema": "caplane-load.peers.2", "machine": self.machine, "repeat": self.repeat, "seconds": self.seconds,
            "results": self.results, "bars": bars, "failed_paths": self.failed_paths,
        })
    }
}

/// One object for each system, size and number of receivers, failures too; one for each system where only round trips were asked.
pub fn json(rows: &[Row], matrix: &Matrix) -> Vec<Value> {
    let mut all = Vec::new();
    for row in rows {
        let trips: Vec<Value> = (0..matrix.rates.len())
            .map(|n| round_trip(row, matrix, n))
            .collect();
        let system = json!({
            "system": row.system, "transport": row.transport, "encrypted": row.encrypted, "path": row.path, "rtt_us": trips,
        });
        let cells: Vec<(usize, usize)> = matrix.cells().collect();
        if cells.is_empty() {
            all.push(system.clone());
        }
        for (size, receivers) in cells {
            let mut one = system.clone();
            throughput(row, size, receivers, &mut one);
            all.push(one);
        }
    }
    all
}

/// Adds what one cell found; `failed` where no round of it succeeded.
fn throughput(row: &Row, size: usize, receivers: usize, one: &mut Value) {
    let failed = row.failed_rounds(Cell::Throughput(size, receivers));
    let rounds = row.cell(size, receivers).len();
    one["size"] = size.into();
    one["receivers"] = receivers.into();
    one["rounds"] = rounds.into();
    one["failed_rounds"] = json!(failed);
    if rounds == 0 {
        one["failed"] = why(failed);
        return;
    }
    let messages = row.messages(size, receivers);
    one["messages_per_core_second"] = messages.median.into();
    one["cpu_ns_per_message"] = (1e9 / messages.median).into();
    one["gbit_per_core_second"] = row.gbit(size, receivers).median.into();
    one["spread"] = json!({"messages_per_core_second": messages});
}

/// Round trips at one rate; `failed` where no round succeeded.
fn round_trip(row: &Row, matrix: &Matrix, n: usize) -> Value {
    let failed = row.failed_rounds(Cell::RoundTrip(n));
    let mut trip = json!({
        "rate": matrix.rates[n], "rounds": row.round_trips[n].len(), "failed_rounds": failed,
    });
    match row.round_trip(n) {
        Some([p50, p99]) => {
            trip["p50"] = p50.median.into();
            trip["p99"] = p99.median.into();
            trip["unanswered"] = row.unanswered(n).into();
            trip["spread"] = json!({"p50": p50, "p99": p99});
        }
        None => trip["failed"] = why(failed),
    }
    trip
}

fn why(failed: &[super::table::Failure]) -> Value {
    let last = failed.last().map(|failure| failure.why.as_str());
    last.unwrap_or("not measured").into()
}
