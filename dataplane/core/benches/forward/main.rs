//! What one message costs in core: header check, table lookup, policy, choice, header edit and enqueue, and the
//! dequeue of its slice; and what lookups and deltas cost on a table of a million labels.
//!
//! `cargo bench -p caplane-core --bench forward`

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
    assert_eq!(counters.copied_bytes, 0);
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

/// Table lookups of random labels out of a million.
fn lookup(c: &mut Criterion) {
    let labels = 1_000_000;
    let fib = table_of(labels);
    let mut state = 1u64;
    let mut group = c.benchmark_group("lookup_1M_labels_batch_of_32");
    group.throughput(Throughput::Elements(32));
    group.bench_function("exact", |b| {
        b.iter(|| {
            let mut found = 0;
            for _ in 0..32 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let n = (state >> 33) as usize % labels;
                let (tenant, label) = million(n);
                found += usize::from(fib.serves(tenant, label));
            }
            assert_eq!(found, 32);
        });
    });
    group.finish();
}

/// A delta of 1,000 scattered entries on a table of a million.
fn delta(c: &mut Criterion) {
    let fib = table_of(1_000_000);
    let delta = difference(&fib, 1_000);
    c.bench_function("delta_1000_of_1M", |b| {
        b.iter(|| fib.apply(&delta).map(|fib| fib.labels()))
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(40).measurement_time(Duration::from_secs(3));
    targets = forward, lookup, delta
}
criterion_main!(benches);
