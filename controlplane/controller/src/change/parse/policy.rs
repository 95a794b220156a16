//! Tenants, permissions, policies and policers, checked in themselves.

use std::collections::BTreeSet;

use caplane_core::fib::Rate;
use caplane_proto::v1;
use caplane_wire::Label;

use super::fields::{invalid, name, optional_name, priority, tenant};
use super::{Check, ClassRef, Target, every_class};
use crate::change::{Fault, Refusal};
use crate::record::{RateRecord, SHARED_TENANT};

/// What one policy allows, and classes that one policer limits, at most: both stand in one table entry.
pub const SELECTORS_MAX: usize = 256;

/// Classes of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// Tenant name.
    pub tenant: String,
    /// The class; every class when its path is empty.
    pub class: ClassRef,
}

/// A policy, as it is to be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PolicySpec {
    /// Unique name.
    pub name: String,
    /// Tenant name.
    pub tenant: String,
    /// It allows only what `allow` says.
    pub nothing_else: bool,
    /// In order of tenant and path, each once.
    pub allow: Vec<Selector>,
    /// 0..=7; `None` = the agent's own.
    pub priority_max: Option<u32>,
    /// Name of a policer; may be empty.
    pub policer: String,
    /// Its agents may connect directly.
    pub direct: bool,
}

/// A policer, as it is to be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PolicerSpec {
    /// Unique name.
    pub name: String,
    /// In all; `None` = the routers' default.
    pub rate: Option<RateRecord>,
    /// To single classes, in order of tenant and path, each once.
    pub classes: Vec<(Selector, RateRecord)>,
}

impl Check<'_> {
    pub(super) fn tenant(&self, tenant: &v1::Tenant) -> Result<Target, Refusal> {
        let policer = match self.deleting() {
            true => String::new(),
            false => optional_name("policer", &tenant.policer)?,
        };
        Ok(Target::Tenant {
            name: name("name", &tenant.name)?,
            policer,
            direct: tenant.direct,
        })
    }

    pub(super) fn permission(&self, permission: &v1::Permission) -> Result<Target, Refusal> {
        let (from, to) = (
            tenant("from", &permission.from)?,
            tenant("to", &permission.to)?,
        );
        if from == to {
            return Err(invalid(
                "to",
                &to,
                "a tenant reaches itself anyway",
                "name two tenants",
            ));
        }
        if to == SHARED_TENANT {
            return Err(invalid(
                "to",
                &to,
                "every tenant reaches the shared one anyway",
                "name another tenant",
            ));
        }
        let class = if permission.class_path.is_empty() {
            every_class()
        } else {
            self.class("class_path", &permission.class_path)?
        };
        Ok(Target::Permission { from, to, class })
    }

    pub(super) fn policy(&self, policy: &v1::Policy) -> Result<Target, Refusal> {
        use v1::policy::Base;
        let mut spec = PolicySpec {
            name: name("name", &policy.name)?,
            ..PolicySpec::default()
        };
        if self.deleting() {
            return Ok(Target::Policy(spec));
        }
        spec.tenant = tenant("tenant", &policy.tenant)?;
        spec.nothing_else = match Base::try_from(policy.base) {
            Ok(Base::Unspecified | Base::Tenant) => false,
            Ok(Base::Nothing) => true,
            Err(_) => {
                let remedy = "use TENANT or NOTHING";
                let refusal = invalid("base", policy.base, "is no base", remedy);
                return Err(refusal.accepting(["TENANT", "NOTHING"]));
            }
        };
        few("allow", policy.allow.len())?;
        let mut seen = BTreeSet::new();
        for (i, selector) in policy.allow.iter().enumerate() {
            let field = format!("allow[{i}]");
            let selector = self.selector(&field, &selector.tenant, &selector.class_path)?;
            once(&mut seen, &field, &selector)?;
            spec.allow.push(selector);
        }
        spec.allow.sort_by(|a, b| place(a).cmp(&place(b)));
        spec.priority_max = priority("priority_max", policy.priority_max, "the agents' own")?;
        spec.policer = optional_name("policer", &policy.policer)?;
        spec.direct = policy.direct;
        Ok(Target::Policy(spec))
    }

    pub(super) fn policer(&self, policer: &v1::Policer) -> Result<Target, Refusal> {
        let mut spec = PolicerSpec {
            name: name("name", &policer.name)?,
            ..PolicerSpec::default()
        };
        if self.deleting() {
            return Ok(Target::Policer(spec));
        }
        let given = policer.rate.as_ref();
        spec.rate = given.map(|given| rate("rate", given)).transpose()?;
        few("classes", policer.classes.len())?;
        let mut seen = BTreeSet::new();
        for (i, limit) in policer.classes.iter().enumerate() {
            let field = format!("classes[{i}]");
            let selector = self.selector(&field, &limit.tenant, &limit.class_path)?;
            if selector.class.path.is_empty() {
                return Err(invalid(
                    &format!("{field}.class_path"),
                    "",
                    "names no class",
                    "name one, or limit all of them by `rate`",
                ));
            }
            once(&mut seen, &field, &selector)?;
            let given = limit.rate.unwrap_or_default();
            spec.classes
                .push((selector, rate(&format!("{field}.rate"), &given)?));
        }
        spec.classes
            .sort_by(|(a, _), (b, _)| place(a).cmp(&place(b)));
        Ok(Target::Policer(spec))
    }

    fn selector(&self, field: &str, of: &str, path: &str) -> Result<Selector, Refusal> {
        Ok(Selector {
            tenant: tenant(&format!("{field}.tenant"), of)?,
            class: match path {
                "" => every_class(),
                path => self.class(&format!("{field}.class_path"), path)?,
            },
        })
    }
}

fn place(selector: &Selector) -> (&str, &str) {
    (&selector.tenant, &selector.class.path)
}

fn few(field: &str, given: usize) -> Result<(), Refusal> {
    if given <= SELECTORS_MAX {
        return Ok(());
    }
    Err(Refusal::new(
        Fault::Full,
        field,
        given,
        format!("at most {SELECTORS_MAX} may stand here"),
        "name classes above several of them",
    )
    .accepting([format!("0..={SELECTORS_MAX}")]))
}

/// Two of one class would leave open which of them counts.
fn once(
    seen: &mut BTreeSet<(String, Label)>,
    field: &str,
    selector: &Selector,
) -> Result<(), Refusal> {
    if seen.insert((selector.tenant.clone(), selector.class.label)) {
        return Ok(());
    }
    let shown = format!("{} {}", selector.tenant, selector.class.path);
    Err(invalid(
        field,
        shown.trim_end(),
        "stands there twice",
        "name it once",
    ))
}

fn rate(field: &str, rate: &v1::Rate) -> Result<RateRecord, Refusal> {
    let bound = |name: &str, given: u64, most: u64| {
        if given <= most {
            return Ok(());
        }
        let field = format!("{field}.{name}");
        let refusal = invalid(&field, given, "is too large", format!("use 0 to {most}"));
        Err(refusal.accepting([format!("0..={most}")]))
    };
    bound("messages_per_second", rate.messages_per_second, Rate::MAX)?;
    bound("bytes_per_second", rate.bytes_per_second, Rate::MAX)?;
    bound("burst_ms", rate.burst_ms.into(), Rate::BURST_MS_MAX.into())?;
    Ok(RateRecord {
        messages_per_second: rate.messages_per_second,
        bytes_per_second: rate.bytes_per_second,
        burst_ms: rate.burst_ms,
    })
}
