//! All systems in turn, and what each round found, as a table for people.
//!
//! It refuses to judge: see [`super::bars`].

use super::{Path, RoundTrip, Settings, System, Throughput};
use crate::ceiling::Spread;
use serde::Serialize;
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

impl Matrix {
    /// Sizes and receivers at full speed.
    pub(super) fn cells(&self) -> impl Iterator<Item = (usize, usize)> {
        let receivers = |size: &usize| {
            let size = *size;
            self.receivers
                .iter()
                .map(move |receivers| (size, *receivers))
        };
        self.sizes.iter().flat_map(receivers)
    }

    /// A cell in words.
    pub(super) fn name(&self, cell: Cell) -> String {
        match cell {
            Cell::Install => "install".to_owned(),
            Cell::Throughput(size, receivers) => format!("{size} B to {receivers}"),
            Cell::RoundTrip(n) => format!("round trip at {}/s", self.rates[n]),
        }
    }
}

/// A run that says something, or why it does not.
fn useful(found: Throughput) -> Result<Throughput, &'static str> {
    if found.messages == 0 {
        return Err("nothing came through");
    }
    if found.cpu.is_zero() {
        return Err("no CPU time of the server");
    }
    Ok(found)
}

/// What a system was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cell {
    /// Its programs.
    Install,
    /// Full speed: payload bytes, receivers.
    Throughput(usize, usize),
    /// Round trips: which of the rates.
    RoundTrip(usize),
}

/// A round that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Which, from 1 on; 0 before the first.
    pub round: usize,
    /// Why.
    pub why: String,
}

/// One system's figures.
#[derive(Debug)]
pub struct Row {
    pub(super) system: &'static str,
    pub(super) transport: &'static str,
    pub(super) encrypted: bool,
    pub(super) path: Path,
    pub(super) throughput: BTreeMap<(usize, usize), Vec<Throughput>>,
    pub(super) round_trips: Vec<Vec<RoundTrip>>,
    pub(super) failures: BTreeMap<Cell, Vec<Failure>>,
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
                row.failed(Cell::Install, 0, error.to_string(), matrix, tell);
            }
            row
        })
        .collect();
    for round in 1..=matrix.repeat {
        for (system, row) in systems.iter_mut().zip(&mut rows) {
            if row.failures.contains_key(&Cell::Install) {
                continue;
            }
            row.round(round, system.as_mut(), settings, matrix, tell);
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
        round: usize,
        system: &mut dyn System,
        settings: &Settings,
        matrix: &Matrix,
        tell: &mut dyn FnMut(&str),
    ) {
        for (size, receivers) in matrix.cells() {
            match system.throughput(settings, size, receivers).map(useful) {
                Ok(Ok(found)) => {
                    let cell = self.throughput.entry((size, receivers)).or_default();
                    cell.push(found);
                }
                Ok(Err(why)) => {
                    let cell = Cell::Throughput(size, receivers);
                    self.failed(cell, round, why.to_owned(), matrix, tell);
                }
                Err(error) => {
                    let cell = Cell::Throughput(size, receivers);
                    self.failed(cell, round, error.to_string(), matrix, tell);
                }
            }
        }
        for (n, rate) in matrix.rates.iter().enumerate() {
            match system.round_trip(settings, *rate) {
                // Percentiles of nothing are 0.
                Ok(trip) if trip.p50 > 0.0 => self.round_trips[n].push(trip),
                Ok(trip) => {
                    let why = format!("nothing was answered ({} asked)", trip.unanswered);
                    self.failed(Cell::RoundTrip(n), round, why, matrix, tell);
                }
                Err(error) => {
                    self.failed(Cell::RoundTrip(n), round, error.to_string(), matrix, tell);
                }
            }
        }
    }

    fn failed(
        &mut self,
        cell: Cell,
        round: usize,
        why: String,
        matrix: &Matrix,
        tell: &mut dyn FnMut(&str),
    ) {
        tell(&format!(
            "{} ({}), {}: {why}",
            self.system,
            self.transport,
            matrix.name(cell)
        ));
        let failures = self.failures.entry(cell).or_default();
        failures.push(Failure { round, why });
    }

    /// Rounds of a cell that failed; all of them where the system could not be installed.
    pub(super) fn failed_rounds(&self, cell: Cell) -> &[Failure] {
        let failures = self.failures.get(&Cell::Install);
        failures
            .or_else(|| self.failures.get(&cell))
            .map_or(&[], Vec::as_slice)
    }

    /// Questions of all rounds at a rate that nobody answered.
    pub(super) fn unanswered(&self, n: usize) -> u64 {
        self.round_trips[n].iter().map(|trip| trip.unanswered).sum()
    }

    pub(super) fn cell(&self, size: usize, receivers: usize) -> &[Throughput] {
        self.throughput
            .get(&(size, receivers))
            .map_or(&[], Vec::as_slice)
    }

    /// Messages a core-second of the server, run by run.
    pub(super) fn runs(&self, size: usize, receivers: usize) -> impl Iterator<Item = f64> {
        let runs = self.cell(size, receivers).iter();
        runs.map(|run| run.messages as f64 / run.cpu.as_secs_f64())
    }

    pub(super) fn messages(&self, size: usize, receivers: usize) -> Spread {
        Spread::of(self.runs(size, receivers))
    }

    pub(super) fn gbit(&self, size: usize, receivers: usize) -> Spread {
        Spread::of(
            self.cell(size, receivers)
                .iter()
                .map(|run| run.payload_bytes as f64 * 8.0 / 1e9 / run.cpu.as_secs_f64()),
        )
    }

    /// Median of the runs' medians, and of their 99th percentiles.
    pub(super) fn round_trip(&self, n: usize) -> Option<[Spread; 2]> {
        let runs = self.round_trips.get(n).filter(|runs| !runs.is_empty())?;
        Some([
            Spread::of(runs.iter().map(|run| run.p50)),
            Spread::of(runs.iter().map(|run| run.p99)),
        ])
    }
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
            let mut text = row.round_trip(n).map_or("FAILED".to_owned(), |[p50, p99]| {
                format!("at {rate}/s {p50:.0} / {p99:.0}")
            });
            let unanswered = row.unanswered(n);
            if unanswered > 0 {
                text.push_str(&format!(", {unanswered} UNANSWERED"));
            }
            print!("  {text:<52}");
        }
        println!();
    }
    for row in rows {
        for (cell, failures) in &row.failures {
            let what = matrix.name(*cell);
            for Failure { round, why } in failures {
                println!(
                    "FAILED {} ({}), {what}, round {round} of {}: {why}",
                    row.system, row.transport, matrix.repeat
                );
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
