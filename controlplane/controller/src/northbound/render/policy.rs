//! Tenants, permissions, policies and policers as entities.

use caplane_proto::v1;

use super::View;
use crate::record::{
    PermissionRecord, PolicerRecord, PolicyRecord, RateRecord, SelectorRecord, TenantRecord,
};

impl View<'_> {
    pub(in crate::northbound) fn tenant(tenant: &TenantRecord) -> v1::Tenant {
        v1::Tenant {
            name: tenant.name.clone(),
            id: tenant.id,
            policer: tenant.policer.clone(),
            direct: tenant.direct,
        }
    }

    pub(in crate::northbound) fn permission(
        &self,
        permission: &PermissionRecord,
    ) -> v1::Permission {
        v1::Permission {
            from: self.tenant_name(permission.from),
            to: self.tenant_name(permission.to),
            class_path: permission.class_path.clone(),
        }
    }

    pub(in crate::northbound) fn policy(&self, policy: &PolicyRecord) -> v1::Policy {
        use v1::policy::Base;
        let base = match policy.nothing_else {
            true => Base::Nothing,
            false => Base::Tenant,
        };
        let allow = policy.allow.iter().map(|allowed| self.selector(allowed));
        v1::Policy {
            name: policy.name.clone(),
            tenant: self.tenant_name(policy.tenant),
            base: base.into(),
            allow: allow.collect(),
            priority_max: policy.priority_max,
            policer: policy.policer.clone(),
            direct: policy.direct,
            id: policy.number,
        }
    }

    pub(in crate::northbound) fn policer(&self, policer: &PolicerRecord) -> v1::Policer {
        let classes = policer.classes.iter().map(|limit| {
            let v1::ClassSelector { tenant, class_path } = self.selector(&limit.class);
            v1::PolicerClass {
                tenant,
                class_path,
                rate: Some(rate(limit.rate)),
            }
        });
        v1::Policer {
            name: policer.name.clone(),
            rate: policer.rate.map(rate),
            classes: classes.collect(),
        }
    }

    fn selector(&self, selector: &SelectorRecord) -> v1::ClassSelector {
        v1::ClassSelector {
            tenant: self.tenant_name(selector.tenant),
            class_path: selector.class_path.clone(),
        }
    }
}

fn rate(rate: RateRecord) -> v1::Rate {
    v1::Rate {
        messages_per_second: rate.messages_per_second,
        bytes_per_second: rate.bytes_per_second,
        burst_ms: rate.burst_ms,
    }
}
