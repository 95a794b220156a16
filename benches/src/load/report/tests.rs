//! Reports keep to the shipped schema, and assertions read them.

use super::*;
use crate::load::Assertion;
use crate::schema;
use serde_json::Value;

const SCHEMA: &str = include_str!("../../../schema/run.json");

/// A report of a run in which everything happened once.
fn report() -> Report {
    let plan = Plan {
        mix: vec![(64, 2), (1_024, 1)],
        ..Plan::one_to_one(10)
    };
    let mut receiver = ReceiverTotals::new();
    for ns in [100_000, 200_000, 3_000_000] {
        receiver.corrected_ns.saturating_record(ns);
        receiver.uncorrected_ns.saturating_record(ns);
    }
    receiver.unique = 3;
    let sender = SenderTotals {
        sent: 4,
        sent_measured: 4,
        too_large: 0,
        replies: 0,
        round_trip_ns: super::super::receiver::histogram(),
        notices: BTreeMap::from([("NO_ROUTE".to_owned(), 1)]),
        lateness_ns: super::super::receiver::histogram(),
        blocked_ns: 0,
        udp_payload: 1_350,
    };
    let outcome = Outcome {
        senders: vec![sender],
        receivers: vec![receiver],
        sampled: Sampled::default(),
        epoch: Instant::now(),
        measured: (0, 0),
    };
    let watch = ProcessWatch::new(vec![std::process::id()]);
    let subject = Subject {
        name: "test",
        watch: &watch,
        co_located: true,
    };
    let mut report = Report::new(&plan, &subject, &outcome);
    report.self_test = Some(SelfTest {
        offered_per_s: Some(10_000.0),
        received_per_s: 10_000.0,
        verdict: Verdict::Valid,
        left_out: vec!["the network"],
    });
    report.connection_churn = Some(ConnectionChurn {
        wanted_per_s: 1.0,
        attached: 1,
        attached_per_s: 1.0,
        failed: 0,
        attach_ms: Span::default(),
    });
    report.table_churn = Some(TableChurn {
        deltas: 1,
        entries: 1_000,
        live_ms: vec![1.0, 3.0, 2.0].into(),
        router_ms: Span::default(),
        blocked_ms: Some(0.0),
        silence_during_ms: Some(0.75),
        silence_before_ms: Some(0.5),
    });
    report
}

impl Report {
    /// A valid run for tests of what reads reports: nothing lost, 1,000 ns of CPU a message, three changes of tables.
    pub(crate) fn example() -> Report {
        let cpu = Cpu::of(
            &Sampled {
                after: ProcessSample {
                    cpu: Duration::from_micros(4),
                    ..ProcessSample::default()
                },
                messages: 4,
                ..Sampled::default()
            },
            Duration::from_millis(10),
        );
        let report = report();
        Report {
            verdict: Verdict::Valid,
            received: report.expected,
            lost: 0,
            router_cpu: Some(cpu),
            ..report
        }
    }
}

fn faults_of(value: &Value) -> Vec<String> {
    schema::faults(SCHEMA, value)
}

#[test]
fn a_report_is_what_the_schema_says() {
    let mut value = serde_json::to_value(report()).expect("plain data");
    assert_eq!(faults_of(&value), Vec::<String>::new());
    // With and without what may be absent.
    for name in [
        "latency_us",
        "router_cpu",
        "connection_churn",
        "table_churn",
        "offered_per_s",
        "self_test",
    ] {
        value[name] = Value::Null;
    }
    assert_eq!(faults_of(&value), Vec::<String>::new());
    value["verdict"] = "splendid".into();
    value["lost"] = "none".into();
    value["more"] = 1.into();
    assert_eq!(faults_of(&value).len(), 3, "{:?}", faults_of(&value));
}

#[test]
fn assertions_hold_or_say_what_was_found() {
    let report = report();
    assert_eq!((report.expected, report.lost), (4, 1));
    assert_eq!(
        report.table_churn.map(|t| t.live_ms),
        Some(Span { p50: 2.0, max: 3.0 })
    );
    for (text, holds) in [
        ("p50<1ms", true),
        ("max<=2ms", false),
        ("loss<=25%", true),
        ("loss<25%", false),
        ("lost<1", false),
        ("reordered<=0", true),
    ] {
        let assertion: Assertion = text.parse().expect("an assertion");
        assert_eq!(
            assertion.holds(&report),
            holds,
            "{}",
            assertion.verdict(&report)
        );
    }
    let unknown: Assertion = "cpu<1us".parse().expect("an assertion");
    assert!(unknown.holds(&report), "{}", unknown.verdict(&report));
}
