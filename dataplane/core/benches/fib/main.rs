//! The table at a million labels: nanoseconds of a lookup, bytes of a label, time to live of a snapshot and of a
//! delta, and for how long a worker stands still when it takes one.
//!
//! `cargo bench -p caplane-core --bench fib` prints medians of the runs with the lowest and the highest.

#[path = "../counting.rs"]
mod counting;
mod labels;

use std::hint::black_box;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use caplane_core::Forwarder;
use caplane_core::fib::{Delta, Fib, Generation, Serving, line_bytes};
use caplane_core::forward::{PeerKey, PeerRole};
use counting::heap;
use labels::*;

const RUNS: usize = 7;
const BATCH: usize = 32;
const QUESTIONS: usize = 1 << 20;
/// Over all questions in one run, so that a run is long against the CPU clock's resolution.
const PASSES: usize = 4;

/// Prints the median of the runs with the lowest and the highest, against a bar where there is one.
fn row(what: &str, mut runs: Vec<f64>, unit: &str, bar: Option<f64>) {
    runs.sort_by(f64::total_cmp);
    let median = runs[runs.len() / 2];
    let bar = bar.map_or(String::new(), |bar| {
        let verdict = if median <= bar { "met" } else { "MISSED" };
        format!("  bar {bar} {unit}: {verdict}")
    });
    println!(
        "{what:<58} {median:>9.2} {unit:<2} ({:.2} to {:.2}, {} runs){bar}",
        runs[0],
        runs[runs.len() - 1],
        runs.len()
    );
}

fn applied(fib: &Fib, delta: &Delta) -> Fib {
    match fib.apply(delta) {
        Ok(fib) => fib,
        Err(rejections) => panic!("{}", rejections[0]),
    }
}

fn empty() -> Fib {
    Fib::empty(1, router(1))
}

/// CPU time of this thread: what other programs take of the core does not count. Its resolution is a tick of the
/// kernel, 1 to 4 ms; where the kernel does not tell, the time that passes stands in.
fn cpu() -> Duration {
    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat");
    let ns = stat
        .ok()
        .and_then(|stat| stat.split(' ').next()?.parse().ok());
    ns.map_or_else(|| BEGUN.elapsed(), Duration::from_nanos)
}

fn runs(mut run: impl FnMut() -> f64) -> Vec<f64> {
    run();
    (0..RUNS).map(|_| run()).collect()
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Bytes that a label takes of the heap, as they were asked for, and of huge pages; the delta it came by is gone by then.
fn memory(members: Members) -> f64 {
    let held = || heap().bytes + line_bytes() as u64;
    let before = held();
    let fib = applied(&empty(), &snapshot(LABELS, members, 1));
    let bytes = held() - before;
    assert_eq!(fib.labels(), LABELS);
    bytes as f64 / LABELS as f64
}

fn lookups(fib: &Fib) {
    let all = questions(LABELS, QUESTIONS);
    let asked: Vec<Class> = all.iter().map(|(asked, _)| *asked).collect();
    // What is measured gives the right answers.
    let mut found: Vec<Option<Serving>> = vec![None; QUESTIONS];
    fib.serving_all(&asked, &mut found);
    for (found, (asked, due)) in found.iter().zip(&all) {
        let matched = found.map(|found| (found.tenant, found.label));
        assert_eq!(
            (matched, *found),
            (Some(*due), fib.serving(asked.0, asked.1))
        );
    }
    let batched = runs(|| {
        let begun = cpu();
        let mut found = [None; BATCH];
        for batch in (0..PASSES).flat_map(|_| asked.chunks(BATCH)) {
            fib.serving_all(batch, &mut found);
            black_box(&found);
        }
        (cpu() - begun).as_nanos() as f64 / (PASSES * QUESTIONS) as f64
    });
    row("lookup, batches of 32, 70/20/10", batched, "ns", Some(25.0));
    let single = runs(|| {
        let begun = cpu();
        for (tenant, label) in (0..PASSES).flat_map(|_| &asked) {
            black_box(fib.serving(*tenant, *label));
        }
        (cpu() - begun).as_nanos() as f64 / (PASSES * QUESTIONS) as f64
    });
    row("lookup, one at a time", single, "ns", None);
}

/// What the machine does at best: one random cache line of as much memory, many loads under way, and each waiting
/// for the one before. The table needs one and a half of them a lookup, and has them in huge pages; these lie in
/// whatever the allocator gives.
fn memory_of_the_machine() {
    let lines = vec![[1u64; 8]; 1 << 19];
    let line = |n: u64| lines[mix(n) as usize % lines.len()][0];
    let each = |time: Duration| time.as_nanos() as f64 / QUESTIONS as f64;
    let overlapped = runs(|| {
        let begun = cpu();
        let sum: u64 = (0..(PASSES * QUESTIONS) as u64).map(line).sum();
        black_box(sum);
        each(cpu() - begun) / PASSES as f64
    });
    row(
        "a random cache line of 32 MB, overlapped",
        overlapped,
        "ns",
        None,
    );
    let waiting = runs(|| {
        let begun = cpu();
        black_box((0..QUESTIONS as u64).fold(0, |last, n| line(n << 8 | last)));
        each(cpu() - begun)
    });
    row(
        "a random cache line of 32 MB, one after the other",
        waiting,
        "ns",
        None,
    );
}

/// A worker's part of a change: the call that puts the table in force, and the last reference to the old one.
fn blocked(forwarder: &mut Forwarder, fib: Arc<Fib>) -> f64 {
    let begun = Instant::now();
    black_box(forwarder.set_fib(fib));
    ms(begun.elapsed())
}

/// With 10,000 instances attached, and deltas that move one and 1,000 of them to other classes.
fn blocked_with_instances() {
    let fib = |entries, base: &Fib| {
        let delta = Delta {
            base: base.generation(),
            generation: Generation(base.generation().0 + 1),
            upserts: entries,
            removes: vec![],
        };
        Arc::new(applied(base, &delta))
    };
    let before = fib(identities(10_000, 0), &empty());
    let mut forwarder = Forwarder::new(Default::default(), before.clone());
    for n in 0..10_000 {
        let key = PeerKey {
            worker: 0,
            slot: n as u32,
        };
        let role = PeerRole::Instance {
            uri: uri(n),
            label: agent(n, 1),
        };
        if let Err(error) = forwarder.peer_up(key, role) {
            panic!("{error}");
        }
    }
    for (changed, what) in [
        (1, "1 of 10,000 attached identities changed, blocked"),
        (
            1_000,
            "1,000 of 10,000 attached identities changed, blocked",
        ),
    ] {
        let after = fib(identities(changed, 10_000), &before);
        let still = runs(|| {
            let there = blocked(&mut forwarder, after.clone());
            there.max(blocked(&mut forwarder, before.clone()))
        });
        row(what, still, "ms", Some(1.0));
    }
}

fn changes(fib: Fib) {
    let fib = Arc::new(fib);
    let delta = difference(&fib, LABELS, 1_000);
    let live = runs(|| {
        let begun = Instant::now();
        let next = applied(&fib, &delta);
        let time = ms(begun.elapsed());
        black_box(next);
        time
    });
    row("delta of 1,000 entries, applied", live, "ms", Some(10.0));
    let next = Arc::new(applied(&fib, &delta));
    let mut forwarder = Forwarder::new(Default::default(), fib.clone());
    let still = runs(|| {
        let there = blocked(&mut forwarder, next.clone());
        there.max(blocked(&mut forwarder, fib.clone()))
    });
    row(
        "delta of 1,000 entries, a worker blocked",
        still,
        "ms",
        Some(1.0),
    );
    let again = snapshot(LABELS, Members::Mixed, 2);
    let mut next = None;
    let live = runs(|| {
        next = None;
        let begun = Instant::now();
        next = Some(Arc::new(applied(&fib, &again)));
        ms(begun.elapsed())
    });
    row("snapshot of 1 M labels, applied", live, "ms", Some(3_000.0));
    if let Some(next) = next {
        let still = runs(|| {
            let there = blocked(&mut forwarder, next.clone());
            there.max(blocked(&mut forwarder, fib.clone()))
        });
        row(
            "snapshot of 1 M labels, a worker blocked",
            still,
            "ms",
            Some(1.0),
        );
    }
    let dropped = (0..RUNS).map(|_| {
        let old = applied(&empty(), &again);
        let begun = Instant::now();
        drop(old);
        ms(begun.elapsed())
    });
    row(
        "last reference to a table of 1 M labels let go",
        dropped.collect(),
        "ms",
        None,
    );
}

fn main() {
    println!("{LABELS} labels; medians (lowest to highest)");
    for (name, members) in [
        ("memory of a label, one egress router each", Members::One),
        (
            "memory of a label, a quarter with two to four",
            Members::Mixed,
        ),
    ] {
        row(
            name,
            (0..5).map(|_| memory(members)).collect(),
            "B",
            Some(64.0),
        );
    }
    let fib = applied(&empty(), &snapshot(LABELS, Members::Mixed, 1));
    memory_of_the_machine();
    lookups(&fib);
    changes(fib);
    blocked_with_instances();
}
