//! The cost of one 64-byte message in core, in nanoseconds of CPU: check, lookup, policy, choice, edit, enqueue
//! and dequeue, at 10,000 distinct labels and flows. Held below the bar in optimised builds, printed in all.

#[allow(dead_code, reason = "the bench uses the rest")]
#[path = "../benches/load/mod.rs"]
mod load;

use std::time::Instant;

use bytes::BytesMut;
use caplane_core::Forwarder;
use load::*;

/// The least of many passes: what the code costs when nothing else runs on the core.
fn ns_per_message(forwarder: &mut Forwarder, from: u32, slabs: &[Vec<u8>], passes: usize) -> f64 {
    let mut least = f64::INFINITY;
    for at in 0..passes {
        let data = BytesMut::from(&slabs[at % slabs.len()][..]);
        let begun = Instant::now();
        pass(forwarder, from, data);
        least = least.min(begun.elapsed().as_nanos() as f64 / BATCH as f64);
    }
    assert_eq!(forwarder.counters().imbalance(), 0);
    least
}

#[test]
fn a_message_costs_less_than_60_ns() {
    let optimised = !cfg!(debug_assertions);
    let passes = if optimised { 2_000 } else { 40 };
    let mut cases = [
        (
            "one router, 1 receiver",
            forwarder(1, false),
            1,
            slabs(class),
        ),
        (
            "one router, 10 receivers",
            forwarder(10, false),
            1,
            slabs(class),
        ),
        (
            "ingress to another router",
            forwarder(1, true),
            1,
            slabs(class),
        ),
        (
            "egress from another router",
            forwarder(1, false),
            0,
            slabs(|_| router(1)),
        ),
    ];
    for (name, forwarder, from, slabs) in &mut cases {
        let ns = ns_per_message(forwarder, *from, slabs, passes);
        println!("{name}: {ns:.1} ns a message");
        assert!(!optimised || ns < 60.0, "{name}: {ns:.1} ns");
        // Ten receivers in turn: small messages are gathered for each. Otherwise nothing is copied.
        let copied = forwarder.counters().copied_bytes;
        assert_eq!(copied > 0, name.contains("10 receivers"), "{name}");
    }
}
