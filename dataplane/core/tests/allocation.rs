//! After warm-up core asks the heap for nothing per message. What is left is per slab or per slice, and named here.

#[path = "../benches/counting.rs"]
mod counting;
#[allow(dead_code, reason = "the benches use the rest")]
#[path = "../benches/load/mod.rs"]
mod load;

use bytes::BytesMut;
use counting::heap;
use load::*;

/// Allocations of `passes` runs of `work`, warm-up apart. `prepare` makes what comes in: the transport's part.
fn allocations<T>(passes: u64, mut prepare: impl FnMut(u64) -> T, mut work: impl FnMut(T)) -> u64 {
    for pass in 0..10 {
        work(prepare(pass));
    }
    (0..passes)
        .map(|pass| {
            let input = prepare(pass);
            let before = heap().calls;
            work(input);
            heap().calls - before
        })
        .sum()
}

/// One test, since the counts are of the whole process.
#[test]
fn forwarding_allocates_nothing_per_message() {
    one_to_one();
    crowded();
    to_a_group();
}

/// A slab as the transport gives it: an allocation of its own. The first slice of it makes the reference count
/// that all share, which is one allocation.
fn one_to_one() {
    for (name, mut forwarder, from, slabs) in [
        ("one to one", forwarder(1, false), 1, slabs(class)),
        ("to a router", forwarder(1, true), 1, slabs(class)),
        (
            "from a router",
            forwarder(1, false),
            0,
            slabs(|_| router(1)),
        ),
    ] {
        let passes = 100_000 / BATCH as u64 + 1;
        let count = allocations(
            passes,
            |pass| BytesMut::from(&slabs[pass as usize % slabs.len()][..]),
            |data| {
                pass(&mut forwarder, from, data);
            },
        );
        println!("{name}: {count} allocations, {passes} slabs of {BATCH} messages");
        assert_eq!(count, passes, "{name}: one a slab");
    }
}

/// Ten lanes a pass: one for each lane's buffer, and two for each room of 4 KiB that messages are gathered in (the
/// room, and its reference count when it leaves unfilled).
fn crowded() {
    let Crowd {
        mut forwarder,
        lanes,
    } = crowd();
    let passes = 100_000 / (CROWD * CROWD_BATCH) as u64 + 1;
    let count = allocations(
        passes,
        |_| lanes.iter().map(|lane| BytesMut::from(&lane[..])).collect(),
        |lanes| {
            crowd_pass(&mut forwarder, lanes);
        },
    );
    let messages = passes * (CROWD * CROWD_BATCH) as u64;
    println!("10 x 10 x 10: {count} allocations, {messages} messages");
    // Each receiver gets some 41 messages of each lane: the first as a slice, the others in one room.
    let rooms = passes * (CROWD * CROWD) as u64;
    assert_eq!(count, passes * CROWD as u64 + 2 * rooms);
}

/// One for each slab; copies of a message share it.
fn to_a_group() {
    let (mut forwarder, slabs) = group();
    let passes = 100_000 / BATCH as u64 + 1;
    let count = allocations(
        passes,
        |_| BytesMut::from(&slabs[0][..]),
        |data| {
            pass(&mut forwarder, 1, data);
        },
    );
    println!("to a group of ten: {count} allocations, {passes} slabs of {BATCH} messages");
    assert_eq!(count, passes, "one a slab");
}
