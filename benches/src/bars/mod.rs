//! The bars the product is held to, measured: each row is one comparison,
//! its runs interleaved, its spread shown.
//!
//! Nothing here decides how a router is run: it is the real program with its
//! default configuration, but for the largest packet where a row names one.

pub mod agents;
pub mod naive;
pub mod round_trip;
pub(crate) mod runs;
pub mod shapes;
pub mod tables;

use crate::ceiling::{CeilingError, Spread};
use crate::churn::ChurnError;
use crate::load::{Machine, Plan, Rate, RunError};
use crate::rig::RigError;
use caplane_wire::{CongestionAction, TrafficClass};
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;

/// How rows are measured.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Time measured in each run.
    pub duration: Duration,
    /// Time before it.
    pub warm_up: Duration,
    /// Runs of each cell.
    pub repeat: usize,
    /// Labels and flows.
    pub labels: usize,
}

impl Settings {
    /// As fast as flow control admits, one to one.
    pub fn plan(&self, size: usize, packet: usize) -> Plan {
        Plan {
            payload: size,
            rate: Rate::Max,
            class: TrafficClass::new(0, CongestionAction::Block),
            warm_up: self.warm_up,
            duration: self.duration,
            udp_payload_max: packet,
            ..Plan::one_to_one(self.labels)
        }
    }
}

/// Why a row could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum BarError {
    /// A rig did not start.
    #[error(transparent)]
    Rig(#[from] RigError),
    /// A run failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A run under churn failed.
    #[error(transparent)]
    Churn(#[from] ChurnError),
    /// A router's process could not be watched.
    #[error("{0}")]
    Proc(String),
    /// A yardstick failed.
    #[error(transparent)]
    Ceiling(#[from] CeilingError),
}

/// Which side of the bar is good.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The figure must reach this.
    AtLeast(f64),
    /// The figure must not pass this.
    AtMost(f64),
    /// The figure must stay below every encrypted peer's, which `peers` measures in the same run: no verdict here.
    BelowPeers,
}

/// One figure against its bar.
#[derive(Clone, Debug, Serialize)]
pub struct Bar {
    /// What was measured.
    pub what: String,
    /// The figure; none when nothing could be measured.
    pub figure: Option<Spread>,
    /// Its unit.
    pub unit: &'static str,
    /// The bar.
    pub bound: Bound,
    /// What else belongs to it.
    pub detail: String,
    /// What its runs did that they must not: with any of these the bar is not met, whatever the figure.
    pub faults: Vec<String>,
}

/// The object of `bars --json`; its schema: benches/schema/bars.json.
pub fn json(bars: &[Bar], machine: &Machine) -> Value {
    let bars: Vec<Value> = bars.iter().map(Bar::json).collect();
    json!({"schema": "caplane-load.bars.2", "machine": machine, "bars": bars})
}

/// How a figure stands to its bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The median meets it, and no run had a fault.
    Met,
    /// It does not, or a run had a fault, or nothing was measured.
    NotMet,
    /// The figure is sound; what it is held against is not measured here but by `peers`.
    AgainstPeers,
}

impl Bar {
    /// The median of `figures` against its bar.
    pub fn new(
        what: impl Into<String>,
        figures: impl IntoIterator<Item = f64>,
        unit: &'static str,
        bound: Bound,
    ) -> Bar {
        let mut figures = figures.into_iter().peekable();
        Bar {
            what: what.into(),
            figure: figures.peek().is_some().then(|| Spread::of(figures)),
            unit,
            bound,
            detail: String::new(),
            faults: Vec::new(),
        }
    }

    /// With what else belongs to it.
    #[must_use]
    pub fn detailed(mut self, detail: impl Into<String>) -> Bar {
        self.detail = detail.into();
        self
    }

    /// With what its runs did that they must not, beside what it has already.
    #[must_use]
    pub fn faulty(mut self, faults: impl IntoIterator<Item = String>) -> Bar {
        self.faults.extend(faults);
        self
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        let Some(figure) = self.figure.filter(|_| self.faults.is_empty()) else {
            return Standing::NotMet;
        };
        let met = match self.bound {
            Bound::AtLeast(least) => figure.median >= least,
            Bound::AtMost(most) => figure.median <= most,
            Bound::BelowPeers => return Standing::AgainstPeers,
        };
        if met { Standing::Met } else { Standing::NotMet }
    }

    /// The object of `--json`: the bar, `met` (null when it is compared elsewhere), and with what it is compared then.
    pub fn json(&self) -> Value {
        let (met, compared_with) = match self.standing() {
            Standing::Met => (Some(true), None),
            Standing::NotMet => (Some(false), None),
            Standing::AgainstPeers => (None, Some("peers")),
        };
        json!({"bar": self, "met": met, "compared_with": compared_with})
    }
}

impl std::fmt::Display for Bar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bound = match self.bound {
            Bound::AtLeast(bound) => format!(">= {bound}"),
            Bound::AtMost(bound) => format!("<= {bound}"),
            Bound::BelowPeers => "see peers".to_owned(),
        };
        let verdict = match self.standing() {
            Standing::Met => "met",
            Standing::NotMet => "NOT MET",
            Standing::AgainstPeers => "-",
        };
        let figure = self
            .figure
            .map_or("not measured".to_owned(), |figure| figure.to_string());
        write!(
            f,
            "{:<58} {figure:>24} {:<4} bar {bound:<9} {verdict:<7}  {}",
            self.what, self.unit, self.detail
        )?;
        if !self.faults.is_empty() {
            write!(f, "; FAULTS: {}", self.faults.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
