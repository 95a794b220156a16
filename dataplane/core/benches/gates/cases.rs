//! What is counted: small fixed inputs through the real code. Refuses to know how it is counted.

use std::hint::black_box;

use bytes::BytesMut;
use caplane_core::fib::{Fib, Serving};
use caplane_core::forward::Forwarder;
use caplane_wire::{Header, LANE_MESSAGE_MAX, Messages};

use crate::labels::{Class, Members, questions, snapshot};
use crate::load::*;

/// Every case, in the table's order.
pub const NAMES: &[&str] = &[
    "header_check",
    "fib_lookup",
    "fib_lookup_batched",
    "forward_one_to_one",
    "forward_by_tables",
    "forward_metered",
    "forward_to_router",
    "forward_from_router",
    "forward_10x10x10",
    "fan_out_copy",
];

/// Only what runs in here is counted.
#[inline(never)]
fn measured<R>(work: impl FnOnce() -> R) -> R {
    black_box(work())
}

/// Runs one case; the number of messages (lookups, copies) its count stands for.
///
/// # Panics
///
/// When there is no such case.
pub fn run(case: &str) -> u64 {
    match case {
        "header_check" => header_check(),
        "fib_lookup" => fib_lookup(false),
        "fib_lookup_batched" => fib_lookup(true),
        "forward_one_to_one" => forward(forwarder(1, false), 1, &slabs(class)),
        "forward_by_tables" => forward(forgetful(), 1, &slabs(class)),
        "forward_metered" => forward(metered(), 1, &slabs(class)),
        "forward_to_router" => forward(forwarder(1, true), 1, &slabs(class)),
        "forward_from_router" => forward(forwarder(1, false), 0, &slabs(|_| router(1))),
        "forward_10x10x10" => crowded(),
        "fan_out_copy" => {
            let (forwarder, slabs) = group();
            10 * forward(forwarder, 1, &slabs)
        }
        _ => panic!("no case {case}; there are {NAMES:?}"),
    }
}

/// The walk over a lane's headers, and what every router reads of each.
fn header_check() -> u64 {
    let slabs = slabs(class);
    measured(|| {
        let mut sum = 0;
        for message in Messages::new(&slabs[0], LANE_MESSAGE_MAX).flatten() {
            if let Ok((header, _)) = Header::split(message) {
                sum ^= header.label().bits() ^ header.source_label().bits();
            }
        }
        sum
    });
    BATCH as u64
}

fn fib_lookup(batched: bool) -> u64 {
    let labels = 50_000;
    let fib = Fib::empty(1, router(1)).apply(&snapshot(labels, Members::Mixed, 1));
    let fib = fib.unwrap_or_else(|rejections| panic!("{}", rejections[0]));
    let asked: Vec<Class> = questions(labels, BATCH).iter().map(|(q, _)| *q).collect();
    let mut found: Vec<Option<Serving>> = vec![None; BATCH];
    measured(|| match batched {
        true => fib.serving_all(&asked, &mut found),
        false => {
            for (found, (tenant, label)) in found.iter_mut().zip(&asked) {
                *found = fib.serving(*tenant, *label);
            }
        }
    });
    assert!(found.iter().all(Option::is_some));
    BATCH as u64
}

/// All labels once to warm up, then a slab that counts.
fn forward(mut forwarder: Forwarder, from: u32, slabs: &[Vec<u8>]) -> u64 {
    for slab in slabs {
        pass(&mut forwarder, from, BytesMut::from(&slab[..]));
    }
    let data = BytesMut::from(&slabs[slabs.len() - 1][..]);
    measured(|| pass(&mut forwarder, from, data));
    assert_eq!(forwarder.counters().dropped_total(), 0);
    BATCH as u64
}

fn crowded() -> u64 {
    let Crowd {
        mut forwarder,
        lanes,
    } = crowd();
    let lanes = || lanes.iter().map(|lane| BytesMut::from(&lane[..])).collect();
    crowd_pass(&mut forwarder, lanes());
    let lanes = lanes();
    measured(|| crowd_pass(&mut forwarder, lanes));
    assert_eq!(forwarder.counters().dropped_total(), 0);
    (CROWD * CROWD_BATCH) as u64
}
