//! Applies what is said of tenants, permissions, policies and policers.

use std::sync::Arc;

use super::{expect, full, tenant_id};
use crate::change::parse::{PolicerSpec, PolicySpec, Selector};
use crate::change::{Action, AgentSpec, ClassRef, Fault, Refusal};
use crate::commit::Transaction;
use crate::record::{
    ClassRateRecord, CounterKind, Object, ObjectKey, PermissionRecord, PolicerRecord, PolicyRecord,
    SHARED_TENANT, SelectorRecord, TenantRecord,
};
use crate::rib::Rib;

pub(super) fn tenant(
    tx: &mut Transaction<'_>,
    action: Action,
    name: &str,
    policer: &str,
    direct: bool,
) -> Result<(), Refusal> {
    let there = tx.rib.tenant(name).map(|tenant| tenant.id);
    expect(action, there.is_some(), "name", name, "caplane tenant list")?;
    if let (Action::Delete, Some(id)) = (action, there) {
        if name == SHARED_TENANT || tx.rib.tenant_in_use(id) {
            return Err(Refusal::new(
                Fault::State,
                "name",
                name,
                "has agents, groups, permissions or policies, or is named by some, or is the shared tenant",
                "DELETE those first; they may stand earlier in the same batch",
            ));
        }
        tx.rib.remove(&ObjectKey::Tenant(name.to_owned()));
        return Ok(());
    }
    known_policer(tx.rib, policer)?;
    let id = match there {
        Some(id) => id,
        None => tx
            .rib
            .allocate(CounterKind::Tenant)
            .map_err(|e| full("name", e))?,
    };
    let record = TenantRecord {
        name: name.to_owned(),
        id,
        policer: policer.to_owned(),
        direct,
    };
    if tx.rib.tenant(name) != Some(&record) {
        tx.rib.put(Object::Tenant(record));
    }
    Ok(())
}

pub(super) fn permission(
    tx: &mut Transaction<'_>,
    action: Action,
    from: &str,
    to: &str,
    class: &ClassRef,
) -> Result<(), Refusal> {
    let from_id = tenant_id(tx.rib, "from", from)?;
    let to_id = tenant_id(tx.rib, "to", to)?;
    let there = tx.rib.permission(from_id, to_id, &class.path).is_some();
    let shown = format!("{from} {to} {}", class.path);
    expect(action, there, "from", &shown, "caplane permission list")?;
    if action == Action::Delete {
        let key = ObjectKey::Permission(from_id, to_id, class.path.clone());
        tx.rib.remove(&key);
        return Ok(());
    }
    tx.rib.put(Object::Permission(PermissionRecord {
        from: from_id,
        to: to_id,
        class_path: class.path.clone(),
        class: class.label.bits(),
    }));
    Ok(())
}

pub(super) fn policy(
    tx: &mut Transaction<'_>,
    action: Action,
    spec: &PolicySpec,
) -> Result<(), Refusal> {
    let name = spec.name.as_str();
    let there = tx.rib.policy(name).cloned();
    expect(action, there.is_some(), "name", name, "caplane policy list")?;
    if let (Action::Delete, Some(policy)) = (action, &there) {
        if tx.rib.policy_in_use(policy) {
            return Err(Refusal::new(
                Fault::State,
                "name",
                name,
                "is named by agents",
                "MODIFY those first; they may stand earlier in the same batch",
            ));
        }
        tx.rib.remove(&ObjectKey::Policy(name.to_owned()));
        return Ok(());
    }
    let tenant = tenant_id(tx.rib, "tenant", &spec.tenant)?;
    if let Some(policy) = &there
        && policy.tenant != tenant
    {
        let owner = tx.rib.tenant_name(policy.tenant).unwrap_or_default();
        let reason = format!("is not tenant \"{owner}\", whose it is for good");
        let remedy = "INSERT a policy of another name";
        return Err(Refusal::new(
            Fault::State,
            "tenant",
            &spec.tenant,
            reason,
            remedy,
        ));
    }
    known_policer(tx.rib, &spec.policer)?;
    let allow = spec.allow.iter().enumerate();
    let allow: Result<Vec<SelectorRecord>, Refusal> = allow
        .map(|(i, allowed)| selector(tx.rib, &format!("allow[{i}]"), allowed))
        .collect();
    let allow = allow?;
    let number = match &there {
        Some(policy) => policy.number,
        None => tx
            .rib
            .allocate(CounterKind::Policy)
            .map_err(|e| full("name", e))?,
    };
    tx.rib.put(Object::Policy(Arc::new(PolicyRecord {
        name: name.to_owned(),
        tenant,
        number,
        nothing_else: spec.nothing_else,
        allow,
        priority_max: spec.priority_max,
        policer: spec.policer.clone(),
        direct: spec.direct,
    })));
    Ok(())
}

pub(super) fn policer(
    tx: &mut Transaction<'_>,
    action: Action,
    spec: &PolicerSpec,
) -> Result<(), Refusal> {
    let name = spec.name.as_str();
    let there = tx.rib.policer(name).is_some();
    expect(action, there, "name", name, "caplane policer list")?;
    if action == Action::Delete {
        if tx.rib.policer_in_use(name) {
            return Err(Refusal::new(
                Fault::State,
                "name",
                name,
                "is named by policies or tenants",
                "MODIFY those first; they may stand earlier in the same batch",
            ));
        }
        tx.rib.remove(&ObjectKey::Policer(name.to_owned()));
        return Ok(());
    }
    let classes = spec.classes.iter().enumerate();
    let classes: Result<Vec<ClassRateRecord>, Refusal> = classes
        .map(|(i, (limited, rate))| {
            Ok(ClassRateRecord {
                class: selector(tx.rib, &format!("classes[{i}]"), limited)?,
                rate: *rate,
            })
        })
        .collect();
    tx.rib.put(Object::Policer(Arc::new(PolicerRecord {
        name: name.to_owned(),
        rate: spec.rate,
        classes: classes?,
    })));
    Ok(())
}

/// Number of the policy that an agent of a tenant names; 0 = it names none.
pub(super) fn named(rib: &Rib, tenant: u32, spec: &AgentSpec) -> Result<u32, Refusal> {
    if spec.policy.is_empty() {
        return Ok(0);
    }
    let of_tenant = || {
        rib.policies_after("")
            .filter(|policy| policy.tenant == tenant)
    };
    if let Some(policy) = rib.policy(&spec.policy)
        && policy.tenant == tenant
    {
        return Ok(policy.number);
    }
    // The same whether another tenant has one of this name: whoever is bound to this one is not told.
    let refusal = Refusal::new(
        Fault::Missing,
        "policy",
        &spec.policy,
        "is not a policy of the agent's tenant",
        "name one of its tenant's or none, or INSERT it first; it may stand earlier in the same batch",
    );
    Err(refusal.accepting(of_tenant().map(|policy| policy.name.as_str())))
}

fn known_policer(rib: &Rib, name: &str) -> Result<(), Refusal> {
    if name.is_empty() || rib.policer(name).is_some() {
        return Ok(());
    }
    Err(Refusal::new(
        Fault::Missing,
        "policer",
        name,
        "there is no such policer",
        "INSERT the policer first; it may stand earlier in the same batch",
    )
    .accepting(rib.policers_after("").map(|policer| policer.name.as_str())))
}

fn selector(rib: &Rib, field: &str, selector: &Selector) -> Result<SelectorRecord, Refusal> {
    Ok(SelectorRecord {
        tenant: tenant_id(rib, &format!("{field}.tenant"), &selector.tenant)?,
        class_path: selector.class.path.clone(),
        class: selector.class.label.bits(),
    })
}

#[cfg(test)]
mod tests {
    use caplane_proto::v1;
    use caplane_proto::v1::entity::Entity as Body;

    use super::*;
    use crate::testbed::{
        agent, agent_uri, apply, delete, insert, modify, policer, policy, tenant,
    };

    fn named(name: &str, tenant: &str, policy: &str) -> Body {
        Body::Agent(v1::Agent {
            uri: agent_uri(name),
            tenant: tenant.into(),
            policy: policy.into(),
            ..v1::Agent::default()
        })
    }

    fn held(name: &str, policer: &str) -> Body {
        Body::Tenant(v1::Tenant {
            name: name.into(),
            policer: policer.into(),
            ..v1::Tenant::default()
        })
    }

    fn fabric() -> Rib {
        let mut rib = Rib::new();
        let updates = [
            insert(tenant("t")),
            insert(tenant("u")),
            insert(Body::Policer(policer("slow", 5, "t", "travel"))),
            insert(Body::Policy(v1::Policy {
                policer: "slow".into(),
                ..policy("p", "t", "u", "travel")
            })),
            insert(named("a", "t", "p")),
        ];
        apply(&mut rib, &updates).expect("accepted");
        rib
    }

    #[test]
    fn each_refusal_names_field_value_and_remedy() {
        let too_fast = v1::Policer {
            rate: Some(v1::Rate {
                bytes_per_second: 100_000_000_001,
                ..v1::Rate::default()
            }),
            ..policer("fast", 1, "", "travel")
        };
        let twice = |class_path: &str| {
            let mut twice = policy("q", "", "", "travel");
            let again = policy("q", "", "shared", class_path);
            twice.allow.extend(again.allow);
            twice
        };
        let cases: Vec<(v1::Update, Fault, &str)> = vec![
            (
                insert(Body::Policy(policy("p", "t", "", ""))),
                Fault::Exists,
                "updates[0].policy.name \"p\": is there already; use MODIFY",
            ),
            (
                insert(Body::Policy(policy("q", "t", "nowhere", ""))),
                Fault::Missing,
                "updates[0].policy.allow[0].tenant \"nowhere\": there is no such tenant",
            ),
            (
                insert(Body::Policy(policy("q", "t", "", "travel/trains"))),
                Fault::Invalid,
                "updates[0].policy.allow[0].class_path \"travel/trains\": the taxonomy has no",
            ),
            (
                insert(Body::Policy(twice("class:1"))),
                Fault::Invalid,
                "updates[0].policy.allow[1] \"shared travel\": stands there twice",
            ),
            (
                insert(Body::Policy(v1::Policy {
                    base: 9,
                    ..policy("q", "t", "", "")
                })),
                Fault::Invalid,
                "updates[0].policy.base \"9\": is no base; use TENANT or NOTHING",
            ),
            (
                modify(Body::Policy(policy("p", "u", "", ""))),
                Fault::State,
                "updates[0].policy.tenant \"u\": is not tenant \"t\", whose it is for good",
            ),
            (
                modify(Body::Policy(v1::Policy {
                    policer: "none".into(),
                    ..policy("p", "t", "", "")
                })),
                Fault::Missing,
                "updates[0].policy.policer \"none\": there is no such policer; INSERT",
            ),
            (
                delete(Body::Policy(policy("p", "", "", ""))),
                Fault::State,
                "updates[0].policy.name \"p\": is named by agents; MODIFY those",
            ),
            (
                insert(Body::Policer(too_fast)),
                Fault::Invalid,
                "updates[0].policer.rate.bytes_per_second \"100000000001\": is too large; use 0 to",
            ),
            (
                insert(Body::Policer(policer("q", 1, "", ""))),
                Fault::Invalid,
                "updates[0].policer.classes[0].class_path \"\": names no class",
            ),
            (
                delete(Body::Policer(policer("slow", 1, "", ""))),
                Fault::State,
                "updates[0].policer.name \"slow\": is named by policies or tenants",
            ),
            (
                insert(named("b", "u", "p")),
                Fault::Missing,
                "updates[0].agent.policy \"p\": is not a policy of the agent's tenant",
            ),
            (
                insert(named("b", "t", "q")),
                Fault::Missing,
                "updates[0].agent.policy \"q\": is not a policy of the agent's tenant; name one",
            ),
            (
                modify(held("u", "none")),
                Fault::Missing,
                "updates[0].tenant.policer \"none\": there is no such policer",
            ),
            (
                // What a policy allows is known by number: another tenant of that number would be reached.
                delete(tenant("u")),
                Fault::State,
                "updates[0].tenant.name \"u\": has agents, groups, permissions or policies, or is named",
            ),
            (
                insert(Body::Agent(v1::Agent {
                    uri: agent_uri("b"),
                    locality: "eu//fra".into(),
                    ..v1::Agent::default()
                })),
                Fault::Invalid,
                "updates[0].agent.locality \"eu//fra\": is no place",
            ),
        ];
        let mut rib = fabric();
        for (update, fault, text) in cases {
            let refusal = apply(&mut rib, &[update]).expect_err(text);
            assert_eq!(refusal.fault, fault, "{refusal}");
            assert!(refusal.to_string().contains(text), "{refusal}\n{text}");
        }
    }

    #[test]
    fn what_nobody_names_any_more_can_go() {
        let mut rib = fabric();
        let updates = [
            modify(named("a", "t", "")),
            delete(Body::Policy(policy("p", "", "", ""))),
            modify(held("u", "slow")),
            modify(held("u", "")),
            delete(Body::Policer(policer("slow", 1, "", ""))),
            delete(tenant("u")),
        ];
        apply(&mut rib, &updates).expect("accepted");
        let refusal = apply(&mut rib, &[delete(tenant("t"))]).expect_err("it has an agent");
        assert_eq!(refusal.fault, Fault::State);
        // Of a policy's number another policy may have it later, an agent never without its word.
        let again = [
            insert(Body::Policy(policy("p2", "t", "", ""))),
            insert(agent("b", "t", &[])),
        ];
        apply(&mut rib, &again).expect("accepted");
        let b = rib.agent(&agent_uri("b")).expect("there");
        assert_eq!(b.policy, 0);
    }
}
