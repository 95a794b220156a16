//! Policies and policers of a file.

use std::collections::{BTreeMap, BTreeSet};

use caplane_proto::v1;
use caplane_proto::v1::policy::Base;
use serde::Deserialize;
use toml::Spanned;

use super::{Fault, class, shared, tenant};

/// `[[policy]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Policy {
    pub(super) name: Spanned<String>,
    #[serde(default = "shared", deserialize_with = "tenant")]
    tenant: String,
    /// It allows nothing else.
    #[serde(default)]
    only: bool,
    #[serde(default)]
    allow: Vec<Allowed>,
    priority_max: Option<u32>,
    #[serde(default)]
    policer: String,
    #[serde(default)]
    direct: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Allowed {
    #[serde(default = "shared", deserialize_with = "tenant")]
    tenant: String,
    class: Option<Spanned<String>>,
}

/// `[[policer]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Policer {
    pub(super) name: Spanned<String>,
    rate: Option<Rate>,
    #[serde(default)]
    classes: Vec<Limited>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Rate {
    messages_per_second: u64,
    bytes_per_second: u64,
    burst_ms: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limited {
    #[serde(default = "shared", deserialize_with = "tenant")]
    tenant: String,
    class: Spanned<String>,
    rate: Rate,
}

impl Policy {
    pub(super) fn entity(self) -> Result<v1::Policy, Fault> {
        // In the order in which the controller keeps them, each once.
        let mut allow = BTreeSet::new();
        for allowed in &self.allow {
            let path = allowed.class.as_ref().map(class).transpose()?;
            allow.insert((allowed.tenant.clone(), path.unwrap_or_default()));
        }
        let allow = allow
            .into_iter()
            .map(|(tenant, class_path)| v1::ClassSelector { tenant, class_path });
        let base = match self.only {
            true => Base::Nothing,
            false => Base::Tenant,
        };
        Ok(v1::Policy {
            name: self.name.into_inner(),
            tenant: self.tenant,
            base: base.into(),
            allow: allow.collect(),
            priority_max: self.priority_max,
            policer: self.policer,
            direct: self.direct,
            id: 0,
        })
    }
}

impl Policer {
    pub(super) fn entity(self) -> Result<v1::Policer, Fault> {
        let mut classes: BTreeMap<(String, String), v1::Rate> = BTreeMap::new();
        for limited in &self.classes {
            let place = (limited.tenant.clone(), class(&limited.class)?);
            if classes.insert(place, limited.rate.entity()).is_some() {
                let text = "the class stands twice in this policer";
                return Err(Fault::at(&limited.class, text));
            }
        }
        let classes = classes
            .into_iter()
            .map(|((tenant, class_path), rate)| v1::PolicerClass {
                tenant,
                class_path,
                rate: Some(rate),
            });
        Ok(v1::Policer {
            name: self.name.into_inner(),
            rate: self.rate.as_ref().map(Rate::entity),
            classes: classes.collect(),
        })
    }
}

impl Rate {
    fn entity(&self) -> v1::Rate {
        v1::Rate {
            messages_per_second: self.messages_per_second,
            bytes_per_second: self.bytes_per_second,
            burst_ms: self.burst_ms,
        }
    }
}
