//! A table of a million class labels, and questions to it: 70 % find the class itself, 20 % its parent, 10 %
//! the shared tenant's class of the same label. Refuses to know how a table stores them.

use caplane_core::fib::*;
use caplane_wire::Label;

pub const LABELS: usize = 1_000_000;
/// Tenant 0, the shared one, and nine others have as many each.
const TENANTS: usize = 10;
/// A class of the second level and four of the third below it, so that parents are as scattered as leaves.
const FAMILY: usize = 5;
/// Egress routers.
const ROUTERS: usize = 50;

pub fn router(number: usize) -> Label {
    Label::router(number as u32).expect("small numbers")
}

/// Tenant and label.
pub type Class = (u32, Label);

/// Class `n` of the table.
fn class(n: usize) -> Class {
    let (tenant, n) = (n % TENANTS, n / TENANTS);
    (tenant as u32, label(n / FAMILY, n % FAMILY))
}

/// Member `child` of a family: 0 is the parent.
fn label(family: usize, child: usize) -> Label {
    let (first, second) = (1 + family / 500, 1 + family % 500);
    Label::class(first as u16, second as u16, child as u16).expect("three levels of ten bits")
}

/// Who serves a class: one egress router for three classes of four, two to four for the others.
#[derive(Clone, Copy)]
pub enum Members {
    /// One each.
    One,
    /// As above.
    Mixed,
}

fn members(n: usize, how: Members) -> Vec<Egress> {
    let count = match how {
        Members::Mixed if n % 4 == 3 => 2 + n / 4 % 3,
        _ => 1,
    };
    let seed = mix(n as u64) as usize;
    (0..count)
        .map(|at| Egress {
            router: router(2 + (seed + at * 7) % ROUTERS),
            weight: 100 * (1 + (seed >> 20) as u32 % 3),
        })
        .collect()
}

fn entry(n: usize, how: Members) -> Entry {
    let (tenant, label) = class(n);
    Entry::Class(ClassEntry {
        tenant,
        label,
        own: members(n, how),
        subtree: members(n, how),
    })
}

/// The whole table as a snapshot of this generation.
pub fn snapshot(labels: usize, how: Members, generation: u64) -> Delta {
    Delta {
        generation: Generation(generation),
        upserts: (0..labels).map(|n| entry(n, how)).collect(),
        ..Delta::default()
    }
}

/// A change of `count` scattered classes of `labels`.
pub fn difference(fib: &Fib, labels: usize, count: usize) -> Delta {
    let base = fib.generation();
    Delta {
        base,
        generation: Generation(base.0 + 1),
        // Their members become those of others.
        upserts: (0..count)
            .map(|at| ((at * 997 + mix(at as u64) as usize % 997) % labels, at))
            .map(
                |(n, at)| match (entry(n, Members::Mixed), entry(at, Members::Mixed)) {
                    (Entry::Class(mut changed), Entry::Class(other)) => {
                        (changed.own, changed.subtree) = (other.own, other.subtree);
                        Entry::Class(changed)
                    }
                    (entry, _) => entry,
                },
            )
            .collect(),
        ..Delta::default()
    }
}

/// A policy group, and so many identities of it that serve one class each, `shift` further than by their number.
pub fn identities(count: usize, shift: usize) -> Vec<Entry> {
    let policy = Entry::Policy(PolicyEntry {
        id: 1,
        tenant: 1,
        allow: vec![],
        reply_tenants: vec![],
        reply_all: false,
        priority_max: 6,
        rate: None,
        class_rates: vec![],
    });
    let identity = |n: usize| {
        Entry::Identity(IdentityEntry {
            uri: uri(n),
            agent: agent(n, 0),
            tenant: 1,
            policy: 1,
            classes: vec![Membership {
                tenant: 1,
                label: label(n + shift, 1),
                weight: 100,
            }],
            groups: vec![],
        })
    };
    (0..count).map(identity).chain([policy]).collect()
}

pub fn uri(n: usize) -> String {
    format!("spiffe://caplane.local/agent/{n}")
}

pub fn agent(n: usize, instance: u8) -> Label {
    Label::agent(1 + n as u32, instance).expect("small numbers")
}

/// SplitMix64: scatters numbers, the same way on every machine.
pub fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// `count` random questions, and the classes that must be found.
pub fn questions(labels: usize, count: usize) -> Vec<(Class, Class)> {
    (0..count as u64)
        .map(|n| {
            let (random, sort) = (mix(n << 1) as usize, mix(n << 1 | 1) % 100);
            let families = labels / TENANTS / FAMILY;
            let (family, child) = (random % families, (random >> 32) % FAMILY);
            let tenant = 1 + (random >> 48) % (TENANTS - 1);
            let exact = (tenant as u32, label(family, child));
            match sort {
                0..70 => (exact, exact),
                // A leaf that nobody serves: its parent does.
                70..90 => (
                    (exact.0, label(family, 5 + child)),
                    (exact.0, label(family, 0)),
                ),
                // A tenant without classes of its own.
                _ => ((1_000 + exact.0, exact.1), (0, exact.1)),
            }
        })
        .collect()
}
