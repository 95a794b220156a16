//! What one message costs in core: header check, table lookup, policy, choice, header edit and enqueue, and the
//! dequeue of its slice. What the table alone costs is in the bench `fib`.
//!
//! `cargo bench -p caplane-core --bench forward`

#[path = "../load/mod.rs"]
mod load;

use std::time::Duration;

use bytes::BytesMut;
use caplane_core::Forwarder;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use load::*;

fn measure(
    c: &mut Criterion,
    name: &str,
    mut forwarder: Forwarder,
    from: u32,
    slabs: Vec<Vec<u8>>,
) {
    let mut group = c.benchmark_group("forward_4096_messages_of_64_bytes");
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut next = (0..slabs.len()).cycle();
    group.bench_function(name, |b| {
        b.iter_batched(
            || BytesMut::from(&slabs[next.next().unwrap()][..]),
            |data| pass(&mut forwarder, from, data),
            BatchSize::LargeInput,
        );
    });
    group.finish();
    let counters = forwarder.counters();
    assert_eq!((counters.imbalance(), counters.dropped_total()), (0, 0));
}

fn forward(c: &mut Criterion) {
    measure(
        c,
        "one router, 1 receiver",
        forwarder(1, false),
        1,
        slabs(class),
    );
    measure(
        c,
        "one router, 1 receiver, nothing remembered",
        forgetful(),
        1,
        slabs(class),
    );
    measure(
        c,
        "one router, 1 receiver, by a rate and ten of classes",
        metered(),
        1,
        slabs(class),
    );
    measure(
        c,
        "one router, 10 receivers",
        forwarder(10, false),
        1,
        slabs(class),
    );
    measure(
        c,
        "ingress to another router",
        forwarder(1, true),
        1,
        slabs(class),
    );
    measure(
        c,
        "egress from another router",
        forwarder(1, false),
        0,
        slabs(|_| router(1)),
    );
}

/// Labels at random out of a million: what a table costs that no cache holds.
fn scattered(c: &mut Criterion) {
    let (forwarder, slabs) = load::scattered(1_000_000);
    let name = "ingress to another router, 1 M labels at random";
    measure(c, name, forwarder, 1, slabs);
}

/// Ten senders, ten receivers, ten classes.
fn crowded(c: &mut Criterion) {
    let Crowd {
        mut forwarder,
        lanes,
    } = crowd();
    let mut group = c.benchmark_group("forward_10_lanes_of_410_messages");
    group.throughput(Throughput::Elements((CROWD * CROWD_BATCH) as u64));
    group.bench_function("10 senders, 10 receivers, 10 classes", |b| {
        b.iter_batched(
            || lanes.iter().map(|lane| BytesMut::from(&lane[..])).collect(),
            |lanes| crowd_pass(&mut forwarder, lanes),
            BatchSize::LargeInput,
        );
    });
    group.finish();
    assert_eq!(forwarder.counters().dropped_total(), 0);
}

/// A message for ten members of a group, per copy.
fn fan_out(c: &mut Criterion) {
    let (mut forwarder, slabs) = load::group();
    let mut group = c.benchmark_group("fan_out_4096_messages_to_10");
    group.throughput(Throughput::Elements(10 * BATCH as u64));
    group.bench_function("per copy", |b| {
        b.iter_batched(
            || BytesMut::from(&slabs[0][..]),
            |data| pass(&mut forwarder, 1, data),
            BatchSize::LargeInput,
        );
    });
    group.finish();
    assert_eq!(forwarder.counters().dropped_total(), 0);
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(40).measurement_time(Duration::from_secs(3));
    targets = forward, scattered, crowded, fan_out
}
criterion_main!(benches);
