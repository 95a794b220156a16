//! Policy groups: what agents of one tenant, or of one policy, and of one priority may reach and send.

use caplane_core::fib::{Allow, ClassRate, PolicyEntry, Rate};
use caplane_wire::Label;

use crate::record::{
    GroupOf, PolicerRecord, PolicyRecord, RateRecord, SelectorRecord, policy_group_parts,
};
use crate::rib::Rib;

/// A tenant's agents reach their own tenant, the shared one and what permissions say; a policy of it says more, or only
/// what it says itself. Both answer the tenants that have a permission towards theirs. Every tenant may reach the shared
/// one, so its agents may answer all (R13).
pub(super) fn entry(rib: &Rib, id: u32) -> Option<PolicyEntry> {
    if !rib.policy_used(id) {
        return None;
    }
    let (of, priority) = policy_group_parts(id);
    let (tenant, policy) = match of {
        GroupOf::Tenant(tenant) => (tenant, None),
        GroupOf::Policy(number) => {
            let policy = rib.policy_by_number(number)?;
            (policy.tenant, Some(policy.as_ref()))
        }
    };
    let policer = rib.policer_of(tenant, policy);
    let most = policy.and_then(|policy| policy.priority_max).unwrap_or(7);
    Some(PolicyEntry {
        id,
        tenant,
        allow: allow(rib, tenant, policy),
        reply_tenants: match tenant {
            0 => Vec::new(),
            _ => {
                // Whoever may reach all of its tenant may answer it; who reaches less answers all the same.
                let own = policy.filter(|policy| policy.nothing_else).map(|_| tenant);
                rib.permissions_to(tenant).chain(own).collect()
            }
        },
        reply_all: tenant == 0,
        priority_max: priority.min(most.min(7) as u8),
        rate: policer.and_then(|policer| policer.rate).map(rate),
        class_rates: policer.map_or_else(Vec::new, |policer| class_rates(policer)),
    })
}

fn allow(rib: &Rib, tenant: u32, policy: Option<&PolicyRecord>) -> Vec<Allow> {
    let whole = |tenant| Allow {
        tenant,
        label: Label::NONE,
    };
    let mut allow = Vec::new();
    if policy.is_none_or(|policy| !policy.nothing_else) {
        allow.push(whole(tenant));
        if tenant != 0 {
            allow.push(whole(0));
        }
        for permission in rib.permissions_from(tenant) {
            if permission.class_path.is_empty() {
                allow.push(whole(permission.to));
            } else if permission.class != 0 {
                allow.push(Allow {
                    tenant: permission.to,
                    label: Label::from_bits(permission.class),
                });
            }
        }
    }
    let named = policy.map_or(&[][..], |policy| &policy.allow);
    for allowed in named.iter().filter_map(selected) {
        if !allow.contains(&allowed) {
            allow.push(allowed);
        }
    }
    allow
}

/// `None` = the taxonomy lost the class.
fn selected(selector: &SelectorRecord) -> Option<Allow> {
    Some(Allow {
        tenant: selector.tenant,
        label: selector.label()?,
    })
}

fn class_rates(policer: &PolicerRecord) -> Vec<ClassRate> {
    let limits = policer.classes.iter().filter_map(|limit| {
        let class = selected(&limit.class)?;
        let named = !class.label.is_none();
        named.then(|| ClassRate {
            tenant: class.tenant,
            label: class.label,
            rate: rate(limit.rate),
        })
    });
    limits.collect()
}

fn rate(record: RateRecord) -> Rate {
    Rate {
        messages_per_second: record.messages_per_second,
        bytes_per_second: record.bytes_per_second,
        burst_ms: record.burst_ms,
    }
}
