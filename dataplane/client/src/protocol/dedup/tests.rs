use std::collections::HashSet;

use caplane_wire::Label;
use proptest::prelude::*;

use super::*;

fn key(flow: u64) -> FlowKey {
    FlowKey {
        source: Address {
            domain: 1,
            label: Label::agent(7, 1).unwrap(),
        },
        flow,
    }
}

#[test]
fn a_sequence_is_new_once() {
    let mut dedup = Dedup::new(8);
    assert_eq!(dedup.mark(key(1), 5), Seen::New);
    assert_eq!(dedup.mark(key(1), 5), Seen::Before);
    assert_eq!(
        dedup.mark(key(1), 3),
        Seen::New,
        "older ones may come later"
    );
    assert_eq!(dedup.mark(key(2), 5), Seen::New, "flows are apart");
}

#[test]
fn sequences_older_than_the_window_are_refused_and_wrapping_is_no_matter() {
    let mut dedup = Dedup::new(8);
    assert_eq!(dedup.mark(key(1), u32::MAX - 1), Seen::New);
    assert_eq!(dedup.mark(key(1), 2), Seen::New);
    assert_eq!(dedup.mark(key(1), u32::MAX - 1), Seen::Before);
    assert_eq!(dedup.mark(key(1), u32::MAX), Seen::New);
    assert_eq!(dedup.mark(key(1), 2 + WINDOW), Seen::New);
    assert_eq!(dedup.mark(key(1), 2), Seen::TooOld);
    assert_eq!(dedup.mark(key(1), 3), Seen::New);
}

#[test]
fn flows_are_bounded_and_those_in_use_are_kept() {
    let mut dedup = Dedup::new(100);
    dedup.mark(key(0), 0);
    for flow in 1..10_000 {
        dedup.mark(key(flow), 0);
        assert_eq!(dedup.mark(key(0), 0), Seen::Before, "in use at {flow}");
        assert!(dedup.len() <= 100);
    }
    assert!(dedup.forgotten() > 9_000);
}

proptest! {
    /// Against a plain set: what the window still covers is judged exactly as the set judges it.
    #[test]
    fn agrees_with_a_set(start in any::<u32>(), steps in prop::collection::vec(-1200_i32..1200, 1..400)) {
        let mut dedup = Dedup::new(2);
        let mut set = HashSet::new();
        let mut highest = start;
        let mut sequence = start;
        for (i, step) in steps.into_iter().enumerate() {
            if i > 0 {
                sequence = sequence.wrapping_add_signed(step);
            }
            if i == 0 || (sequence.wrapping_sub(highest) as i32) > 0 {
                highest = sequence;
            }
            let expected = if highest.wrapping_sub(sequence) >= WINDOW {
                Seen::TooOld
            } else if set.insert(sequence) {
                Seen::New
            } else {
                Seen::Before
            };
            let looked = dedup.look(&key(1), sequence);
            prop_assert_eq!(looked, expected);
            prop_assert_eq!(dedup.mark(key(1), sequence), expected);
        }
    }
}
