//! Policy groups, compiled for the question asked of every message: may this group reach that
//! destination? Default deny. Refuses to know senders and tables.

use std::collections::HashSet;

use caplane_wire::{Label, LabelKind};

use super::entry::{Allow, PolicyEntry};
use crate::mix::MixState;

/// One compiled policy group.
#[derive(Debug)]
pub struct Policy {
    entry: PolicyEntry,
    /// Tenants allowed as a whole.
    whole: Box<[u32]>,
    /// Classes allowed with everything below them, packed `tenant << 32 | label`.
    parts: HashSet<u64, MixState>,
    /// Tenants this group may answer.
    replies: Box<[u32]>,
}

impl Policy {
    pub(crate) fn compile(entry: PolicyEntry) -> Policy {
        let sorted = |mut tenants: Vec<u32>| {
            tenants.sort_unstable();
            tenants.dedup();
            tenants.into_boxed_slice()
        };
        let (whole, parts): (Vec<&Allow>, Vec<&Allow>) =
            entry.allow.iter().partition(|allow| allow.label.is_none());
        Policy {
            whole: sorted(whole.iter().map(|allow| allow.tenant).collect()),
            parts: parts.iter().map(|a| pack(a.tenant, a.label)).collect(),
            replies: sorted(entry.reply_tenants.clone()),
            entry,
        }
    }

    /// The group as it was written.
    pub fn entry(&self) -> &PolicyEntry {
        &self.entry
    }

    /// Highest priority its identities may use, 0..=7.
    #[inline]
    pub fn priority_max(&self) -> u8 {
        self.entry.priority_max
    }

    /// May it reach every class, agent and group of the tenant?
    #[inline]
    pub fn allows_tenant(&self, tenant: u32) -> bool {
        contains(&self.whole, tenant)
    }

    /// May it reach this class?
    #[inline]
    pub fn allows_class(&self, tenant: u32, class: Label) -> bool {
        if contains(&self.whole, tenant) {
            return true;
        }
        !self.parts.is_empty()
            && class.kind() == LabelKind::Class
            && core::iter::once(class)
                .chain(class.ancestors())
                .any(|label| self.parts.contains(&pack(tenant, label)))
    }

    /// May it answer agents of the tenant?
    #[inline]
    pub fn allows_reply(&self, tenant: u32) -> bool {
        self.entry.reply_all || contains(&self.replies, tenant)
    }
}

fn pack(tenant: u32, label: Label) -> u64 {
    u64::from(tenant) << 32 | u64::from(label.bits())
}

/// A group rarely names more than a few tenants: look at those in turn, search in long lists.
#[inline]
fn contains(sorted: &[u32], tenant: u32) -> bool {
    if sorted.len() <= 8 {
        sorted.contains(&tenant)
    } else {
        sorted.binary_search(&tenant).is_ok()
    }
}
