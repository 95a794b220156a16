//! How bars stand, as text and as JSON.

use super::*;
use crate::schema;

const SCHEMA: &str = include_str!("../../schema/bars.json");

fn bar(bound: Bound) -> Bar {
    Bar::new("x", [0.9, 1.0, 1.2], "x", bound).detailed("beside it")
}

#[test]
fn the_median_decides() {
    for (bound, standing, word) in [
        (Bound::AtLeast(0.95), Standing::Met, "met"),
        (Bound::AtMost(0.95), Standing::NotMet, "NOT MET"),
        (Bound::BelowPeers, Standing::AgainstPeers, "see peers -"),
    ] {
        let bar = bar(bound);
        assert_eq!(bar.standing(), standing);
        assert!(bar.to_string().contains(word), "{bar}");
    }
}

#[test]
fn a_fault_of_any_run_or_no_figure_at_all_meets_nothing() {
    for bound in [Bound::AtLeast(0.0), Bound::AtMost(9.0), Bound::BelowPeers] {
        let lossy = bar(bound).faulty(["3 messages lost".to_owned()]);
        assert_eq!(lossy.standing(), Standing::NotMet);
        let text = lossy.to_string();
        assert!(
            text.contains("NOT MET") && text.ends_with("beside it; FAULTS: 3 messages lost"),
            "{text}"
        );
        let empty = Bar::new("x", [], "ms", bound);
        assert_eq!((empty.figure, empty.standing()), (None, Standing::NotMet));
        assert!(empty.to_string().contains("not measured"), "{empty}");
    }
}

#[test]
fn json_is_what_the_schema_says_and_has_three_states() {
    let bars = [
        bar(Bound::AtLeast(0.95)),
        bar(Bound::AtMost(0.95)).faulty(["3 messages lost".to_owned()]),
        bar(Bound::BelowPeers),
        Bar::new("x", [], "ms", Bound::BelowPeers),
    ];
    let mut value = json(&bars, &Machine::read());
    assert_eq!(schema::faults(SCHEMA, &value), Vec::<String>::new());
    let met: Vec<_> = (0..4).map(|n| value["bars"][n]["met"].as_bool()).collect();
    assert_eq!(met, [Some(true), Some(false), None, Some(false)]);
    assert_eq!(value["bars"][2]["compared_with"], "peers");
    assert!(value["bars"][3]["bar"]["figure"].is_null());
    value["bars"][0]["met"] = "yes".into();
    value["bars"][1]["bar"]["bound"] = "huge".into();
    assert_eq!(schema::faults(SCHEMA, &value).len(), 2);
}
