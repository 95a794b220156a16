//! Rows for tests of what reads them, and rounds that fail.

use super::*;
use crate::load::Machine;
use crate::peers::results::{self, Found};
use crate::peers::{PeerError, Place};
use crate::schema;
use std::time::Duration;

const SCHEMA: &str = include_str!("../../../schema/peers.json");

/// 64 bytes to one receiver, round trips at one rate, three rounds.
pub(in crate::peers) fn matrix() -> Matrix {
    Matrix {
        sizes: vec![64],
        receivers: vec![1],
        rates: vec![1_000.0],
        repeat: 3,
    }
}

fn throughput(messages: u64) -> Throughput {
    Throughput {
        messages,
        payload_bytes: messages * 64,
        cpu: Duration::from_secs(1),
        elapsed: Duration::from_secs(1),
    }
}

fn empty(system: &'static str, encrypted: bool) -> Row {
    Row {
        system,
        transport: "x",
        encrypted,
        path: Path::Loopback,
        throughput: BTreeMap::new(),
        round_trips: vec![Vec::new()],
        failures: BTreeMap::new(),
    }
}

/// A system measured in every round; the more messages a core-second, the later its answers.
pub(in crate::peers) fn row(system: &'static str, encrypted: bool, messages: u64) -> Row {
    let trip = RoundTrip {
        rate: 1_000.0,
        p50: 50.0 + messages as f64,
        p99: 200.0,
        unanswered: 0,
    };
    Row {
        throughput: BTreeMap::from([((64, 1), vec![throughput(messages); 3])]),
        round_trips: vec![vec![trip; 3]],
        ..empty(system, encrypted)
    }
}

/// An encrypted system that could not be installed.
pub(in crate::peers) fn failing(system: &'static str) -> Row {
    let why = "no network".to_owned();
    Row {
        failures: BTreeMap::from([(Cell::Install, vec![Failure { round: 0, why }])]),
        ..empty(system, true)
    }
}

/// Fails in its first round, answers half of its second, and says nothing useful in its third.
struct Unsteady(usize);

impl System for Unsteady {
    fn name(&self) -> &'static str {
        "unsteady"
    }

    fn transport(&self) -> &'static str {
        "x"
    }

    fn encrypted(&self) -> bool {
        true
    }

    fn install(&mut self, _: &Settings) -> Result<(), PeerError> {
        Ok(())
    }

    fn throughput(&mut self, _: &Settings, _: usize, _: usize) -> Result<Throughput, PeerError> {
        self.0 += 1;
        match self.0 {
            1 => Err(PeerError::Failed("it fell over".to_owned())),
            2 => Ok(throughput(100)),
            _ => Ok(Throughput {
                cpu: Duration::ZERO,
                ..throughput(100)
            }),
        }
    }

    fn round_trip(&mut self, _: &Settings, rate: f64) -> Result<RoundTrip, PeerError> {
        let trip = |p50, unanswered| RoundTrip {
            rate,
            p50,
            p99: p50,
            unanswered,
        };
        match self.0 {
            1 => Err(PeerError::Failed("it fell over".to_owned())),
            2 => Ok(trip(100.0, 7)),
            _ => Ok(trip(0.0, 20)),
        }
    }
}

#[test]
fn rounds_that_failed_and_questions_without_an_answer_are_told() {
    let settings = Settings {
        duration: Duration::ZERO,
        warm_up: Duration::ZERO,
        place: Place::loopback(),
        keys: 1,
        cache: std::path::PathBuf::new(),
    };
    let mut systems: Vec<Box<dyn System>> = vec![Box::new(Unsteady(0))];
    let (mut told, matrix) = (Vec::new(), matrix());
    let mut rows = measure(&mut systems, &settings, &matrix, &mut |line| {
        told.push(line.to_owned())
    });
    assert!(told.iter().any(|line| line.contains("it fell over")));
    rows.push(failing("broken"));
    let found = Found {
        machine: &Machine::read(),
        repeat: 3,
        seconds: 1.0,
        results: results::json(&rows, &matrix),
        bars: &super::super::bars::bars(&rows, &matrix),
        failed_paths: Vec::new(),
    };
    let value = found.json();
    assert_eq!(schema::faults(SCHEMA, &value), Vec::<String>::new());
    let unsteady = &value["results"][0];
    assert_eq!(unsteady["messages_per_core_second"], 100.0);
    assert_eq!(unsteady["rounds"], 1);
    let failed = |of: &serde_json::Value| of["failed_rounds"].as_array().expect("rounds").clone();
    assert_eq!(failed(unsteady).len(), 2);
    assert_eq!(unsteady["failed_rounds"][0]["why"], "it fell over");
    assert_eq!(unsteady["failed_rounds"][1]["round"], 3);
    let trips = &unsteady["rtt_us"][0];
    assert_eq!(
        (&trips["rounds"], &trips["unanswered"]),
        (&1.into(), &7.into())
    );
    assert_eq!(failed(trips).len(), 2);
    let broken = &value["results"][1];
    assert_eq!(broken["failed"], "no network");
    assert_eq!(broken["rtt_us"][0]["failed"], "no network");
    assert!(!super::super::bars::is_whole(&rows));
}

#[test]
fn one_object_for_each_system_where_only_round_trips_were_asked() {
    let mut matrix = matrix();
    matrix.sizes.clear();
    let all = results::json(&[row("x", true, 1), row("y", true, 1)], &matrix);
    assert_eq!(all.len(), 2);
    assert_eq!(all[0]["rtt_us"][0]["rate"], 1_000.0);
}
