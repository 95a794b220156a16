//! The bars the product is held to, measured: each row is one comparison,
//! its runs interleaved, its spread shown.
//!
//! Nothing here decides how a router is run: it is the real program with its
//! default configuration, but for the largest packet where a row names one.

pub mod agents;
pub mod naive;
pub mod round_trip;
pub mod shapes;
pub mod tables;

use crate::ceiling::{CeilingError, Spread};
use crate::churn::ChurnError;
use crate::load::{Plan, Rate, RunError};
use crate::rig::RigError;
use caplane_wire::{CongestionAction, TrafficClass};
use serde::Serialize;
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
    /// The figure.
    pub figure: Spread,
    /// Its unit.
    pub unit: &'static str,
    /// The bar.
    pub bound: Bound,
    /// What else belongs to it.
    pub detail: String,
}

impl Bar {
    /// Whether the median meets the bar.
    pub fn met(&self) -> bool {
        match self.bound {
            Bound::AtLeast(least) => self.figure.median >= least,
            Bound::AtMost(most) => self.figure.median <= most,
            Bound::BelowPeers => true,
        }
    }
}

impl std::fmt::Display for Bar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bound = match self.bound {
            Bound::AtLeast(bound) => format!(">= {bound}"),
            Bound::AtMost(bound) => format!("<= {bound}"),
            Bound::BelowPeers => "see peers".to_owned(),
        };
        let verdict = match self.bound {
            Bound::BelowPeers => "-",
            _ if self.met() => "met",
            _ => "NOT MET",
        };
        write!(
            f,
            "{:<58} {:>24} {:<4} bar {bound:<9} {verdict:<7}  {}",
            self.what,
            self.figure.to_string(),
            self.unit,
            self.detail
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_decides() {
        let mut bar = Bar {
            what: "x".to_owned(),
            figure: Spread::of([0.9, 1.0, 1.2]),
            unit: "x",
            bound: Bound::AtLeast(0.95),
            detail: String::new(),
        };
        assert!(bar.met());
        assert!(bar.to_string().contains(">= 0.95") && bar.to_string().contains("met"));
        bar.bound = Bound::AtMost(0.95);
        assert!(!bar.met());
    }
}
