//! Reports keep to the shipped schema, and assertions read them.

use super::*;
use crate::load::Assertion;
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
    };
    let watch = ProcessWatch::new(vec![std::process::id()]);
    let mut report = Report::new(&plan, "test", &watch, &outcome);
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
    });
    report
}

/// As much of JSON Schema as ours uses; what is wrong, with its place.
fn faults(root: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = root.pointer(&reference[1..]).expect("a definition");
        return faults(root, target, value, at, found);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let fits = any.iter().any(|schema| {
            let mut inner = Vec::new();
            faults(root, schema, value, at, &mut inner);
            inner.is_empty()
        });
        if !fits {
            found.push(format!("{at}: none of anyOf"));
        }
        return;
    }
    let kinds = match &schema["type"] {
        Value::String(kind) => vec![kind.as_str()],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let is = |kind: &str| match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        _ => value.is_null(),
    };
    if !kinds.is_empty() && !kinds.into_iter().any(is) {
        found.push(format!("{at}: {value} is no {}", schema["type"]));
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        found.push(format!("{at}: {value} is none of {allowed:?}"));
    }
    if !schema["const"].is_null() && schema["const"] != *value {
        found.push(format!("{at}: {value} is not {}", schema["const"]));
    }
    for item in value.as_array().into_iter().flatten() {
        faults(root, &schema["items"], item, at, found);
    }
    let Some(object) = value.as_object() else {
        return;
    };
    for name in schema["required"].as_array().into_iter().flatten() {
        if !object.contains_key(name.as_str().expect("a name")) {
            found.push(format!("{at}: {name} is missing"));
        }
    }
    for (name, value) in object {
        let at = format!("{at}/{name}");
        match schema["properties"].get(name) {
            Some(schema) => faults(root, schema, value, &at, found),
            None if schema["additionalProperties"] == Value::Bool(false) => {
                found.push(format!("{at}: not in the schema"));
            }
            None => faults(root, &schema["additionalProperties"], value, &at, found),
        }
    }
}

fn faults_of(value: &Value) -> Vec<String> {
    let schema: Value = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    let mut found = Vec::new();
    faults(&schema, &schema, value, "", &mut found);
    found
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
