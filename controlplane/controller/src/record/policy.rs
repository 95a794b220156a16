//! Records of policies and policers, and the numbers of policy groups.

use caplane_wire::Label;
use prost::Message;

/// What the agents that name it may reach.
#[derive(Clone, PartialEq, Message)]
pub struct PolicyRecord {
    /// Unique name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Number of the tenant whose agents may name it, for good.
    #[prost(uint32, tag = "2")]
    pub tenant: u32,
    /// 1..=2^28-1.
    #[prost(uint32, tag = "3")]
    pub number: u32,
    /// [`SelectorRecord`]s only; otherwise what the tenant's agents reach too.
    #[prost(bool, tag = "4")]
    pub nothing_else: bool,
    /// What it allows, in order, each once.
    #[prost(message, repeated, tag = "5")]
    pub allow: Vec<SelectorRecord>,
    /// 0..=7; `None` = the agent's own.
    #[prost(uint32, optional, tag = "6")]
    pub priority_max: Option<u32>,
    /// Name of a policer; empty = the tenant's.
    #[prost(string, tag = "7")]
    pub policer: String,
    /// Its agents may connect to others directly.
    #[prost(bool, tag = "8")]
    pub direct: bool,
}

/// Classes of a tenant.
#[derive(Clone, PartialEq, Message)]
pub struct SelectorRecord {
    /// Tenant number.
    #[prost(uint32, tag = "1")]
    pub tenant: u32,
    /// Class path; empty = all.
    #[prost(string, tag = "2")]
    pub class_path: String,
    /// Label of the path; 0 for all, and for a path the taxonomy lost.
    #[prost(uint32, tag = "3")]
    pub class: u32,
}

/// What each attached instance may send.
#[derive(Clone, PartialEq, Message)]
pub struct PolicerRecord {
    /// Unique name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// In all; `None` = the routers' default.
    #[prost(message, optional, tag = "2")]
    pub rate: Option<RateRecord>,
    /// To single classes, in order, each once.
    #[prost(message, repeated, tag = "3")]
    pub classes: Vec<ClassRateRecord>,
}

/// A limit.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct RateRecord {
    /// 0 = no limit.
    #[prost(uint64, tag = "1")]
    pub messages_per_second: u64,
    /// 0 = no limit.
    #[prost(uint64, tag = "2")]
    pub bytes_per_second: u64,
    /// 0 = the routers' default.
    #[prost(uint32, tag = "3")]
    pub burst_ms: u32,
}

/// A limit of what goes to a class and everything below it.
#[derive(Clone, PartialEq, Message)]
pub struct ClassRateRecord {
    /// Which; its path is never empty.
    #[prost(message, required, tag = "1")]
    pub class: SelectorRecord,
    /// The limit.
    #[prost(message, required, tag = "2")]
    pub rate: RateRecord,
}

/// Whose agents are in a policy group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupOf {
    /// Those of this tenant that name no policy.
    Tenant(u32),
    /// Those that name the policy of this number.
    Policy(u32),
}

/// Set in the numbers of the groups of policies.
const POLICY_BIT: u32 = 1 << 31;

/// Number of the policy group of agents with one priority: the number says it all, so none is stored.
#[must_use]
pub fn policy_group(of: GroupOf, priority: u8) -> u32 {
    let (bit, number) = match of {
        GroupOf::Tenant(tenant) => (0, tenant),
        GroupOf::Policy(number) => (POLICY_BIT, number),
    };
    bit | number << 3 | u32::from(priority & 7)
}

/// Whose agents are in a policy group, and their priority.
#[must_use]
pub fn policy_group_parts(id: u32) -> (GroupOf, u8) {
    let number = (id & !POLICY_BIT) >> 3;
    let of = match id & POLICY_BIT {
        0 => GroupOf::Tenant(number),
        _ => GroupOf::Policy(number),
    };
    (of, (id & 7) as u8)
}

impl SelectorRecord {
    /// The class; [`Label::NONE`] for all. `None` = the taxonomy lost it.
    #[must_use]
    pub fn label(&self) -> Option<Label> {
        let lost = self.class == 0 && !self.class_path.is_empty();
        (!lost).then(|| Label::from_bits(self.class))
    }
}

impl PolicyRecord {
    /// Every tenant that it names, its own first.
    pub fn tenants(&self) -> impl Iterator<Item = u32> {
        let allowed = self.allow.iter().map(|allowed| allowed.tenant);
        std::iter::once(self.tenant).chain(allowed)
    }
}

impl PolicerRecord {
    /// Every tenant that it names.
    pub fn tenants(&self) -> impl Iterator<Item = u32> {
        self.classes.iter().map(|limit| limit.class.tenant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_groups_number_says_whose_it_is() {
        let largest = (1 << 28) - 1;
        let mut seen = std::collections::HashSet::new();
        for of in [
            GroupOf::Tenant(0),
            GroupOf::Tenant(largest),
            GroupOf::Policy(1),
            GroupOf::Policy(largest),
        ] {
            for priority in 0..8 {
                let id = policy_group(of, priority);
                assert_eq!(policy_group_parts(id), (of, priority));
                assert!(seen.insert(id));
            }
        }
    }
}
