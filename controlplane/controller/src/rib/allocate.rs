//! Numbers for agents, routers, groups, tenants and policies.
//!
//! Next fit: the number after the last one handed out that is free, going round
//! at the end. The same writes in the same order give the same numbers, and a
//! number that was given back is the *last* to be tried again: a message still
//! under way to a withdrawn agent meets NO_ROUTE, not a stranger. Numbers that a commit
//! would need back when it is rolled back are not handed out.

use super::Rib;
use crate::record::{CounterKind, CounterRecord, Object};

/// Every number of a kind is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhausted {
    /// The kind.
    pub kind: CounterKind,
    /// How many there are.
    pub limit: u32,
}

impl CounterKind {
    /// The largest number of the kind; the smallest is 1.
    #[must_use]
    pub const fn largest(self) -> u32 {
        match self {
            Self::Agent => (1 << 24) - 1,
            Self::Router | Self::Group => (1 << 30) - 1,
            Self::Tenant | Self::Policy => (1 << 28) - 1,
        }
    }
}

impl Rib {
    /// Takes the next free number of a kind; [`rollback`](Rib::rollback) gives it back.
    ///
    /// # Errors
    /// All are in use.
    pub fn allocate(&mut self, kind: CounterKind) -> Result<u32, Exhausted> {
        let limit = kind.largest();
        let exhausted = Exhausted { kind, limit };
        if self.in_use(kind) >= limit as usize {
            return Err(exhausted);
        }
        let mut number = self.counters.get(&kind).copied().unwrap_or(1);
        for _ in 0..limit {
            if number == 0 || number > limit {
                number = 1;
            }
            if !self.is_taken(kind, number) && !self.is_set_aside(kind, number) {
                self.put(Object::Counter(CounterRecord {
                    kind: kind as u32,
                    next: number + 1,
                }));
                return Ok(number);
            }
            number += 1;
        }
        Err(exhausted)
    }

    fn in_use(&self, kind: CounterKind) -> usize {
        match kind {
            CounterKind::Agent => self.agent_numbers.len(),
            CounterKind::Router => self.router_labels.len(),
            CounterKind::Group => self.group_numbers.len(),
            CounterKind::Tenant => self.tenant_names.len() - 1,
            CounterKind::Policy => self.policies.count(),
        }
    }

    fn is_taken(&self, kind: CounterKind, number: u32) -> bool {
        match kind {
            CounterKind::Agent => self.agent_numbers.contains_key(&number),
            CounterKind::Router => self
                .router_labels
                .contains_key(&crate::record::router_label(number)),
            CounterKind::Group => self.group_numbers.contains_key(&number),
            CounterKind::Tenant => self.tenant_names.contains_key(&number),
            CounterKind::Policy => self.policies.has_number(number),
        }
    }
}
