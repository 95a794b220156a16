//! `caplane policy` and `caplane policer`: what agents may reach and send.

use caplane_proto::v1;
use caplane_proto::v1::entity::Entity as Kind;
use caplane_proto::v1::policy::Base;
use caplane_proto::v1::read_request::Kind as ReadKind;
use serde_json::{Value, json};

use super::entities::{list, put, remove};
use crate::arguments::{PolicerArguments, PolicerCommand, PolicyArguments, PolicyCommand};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::settings::Settings;

pub(super) async fn policies(
    settings: &Settings,
    command: PolicyCommand,
) -> Result<Output, Failure> {
    match command {
        PolicyCommand::Add(arguments) => {
            let replace = arguments.replace;
            let policy = policy(arguments);
            let name = policy.name.clone();
            let json = |kind: &Kind| match kind {
                Kind::Policy(policy) => policy_json(policy),
                _ => Value::Null,
            };
            put(
                settings,
                Kind::Policy(policy),
                replace,
                "policy",
                &name,
                json,
            )
            .await
        }
        PolicyCommand::Remove { name } => {
            let key = v1::Policy {
                name: name.clone(),
                ..v1::Policy::default()
            };
            remove(settings, Kind::Policy(key), "policy", &name).await
        }
        PolicyCommand::List => {
            let heading = ["NAME", "TENANT", "REACHES", "PRIORITY", "POLICER", "DIRECT"];
            let kind = ReadKind::Policy;
            list(
                settings,
                kind,
                "",
                "policies",
                &heading,
                |entity| match entity {
                    Kind::Policy(policy) => Some((policy_row(&policy), policy_json(&policy))),
                    _ => None,
                },
            )
            .await
        }
    }
}

pub(super) async fn policers(
    settings: &Settings,
    command: PolicerCommand,
) -> Result<Output, Failure> {
    match command {
        PolicerCommand::Add(arguments) => {
            let replace = arguments.replace;
            let policer = policer(arguments)?;
            let name = policer.name.clone();
            let json = |kind: &Kind| match kind {
                Kind::Policer(policer) => policer_json(policer),
                _ => Value::Null,
            };
            let kind = Kind::Policer(policer);
            put(settings, kind, replace, "policer", &name, json).await
        }
        PolicerCommand::Remove { name } => {
            let key = v1::Policer {
                name: name.clone(),
                ..v1::Policer::default()
            };
            remove(settings, Kind::Policer(key), "policer", &name).await
        }
        PolicerCommand::List => {
            let heading = ["NAME", "IN ALL", "CLASSES"];
            let kind = ReadKind::Policer;
            list(
                settings,
                kind,
                "",
                "policers",
                &heading,
                |entity| match entity {
                    Kind::Policer(policer) => Some((policer_row(&policer), policer_json(&policer))),
                    _ => None,
                },
            )
            .await
        }
    }
}

fn policy(arguments: PolicyArguments) -> v1::Policy {
    let allow = arguments.allow.iter().map(|allowed| {
        let (tenant, class_path) = allowed.split_once(':').unwrap_or((allowed, ""));
        v1::ClassSelector {
            tenant: tenant.to_owned(),
            class_path: class_path.to_owned(),
        }
    });
    let base = match arguments.only {
        true => Base::Nothing,
        false => Base::Tenant,
    };
    v1::Policy {
        allow: allow.collect(),
        name: arguments.name,
        tenant: arguments.tenant,
        base: base.into(),
        priority_max: arguments.priority_max,
        policer: arguments.policer,
        direct: arguments.direct,
        id: 0,
    }
}

fn policer(arguments: PolicerArguments) -> Result<v1::Policer, Failure> {
    let burst_ms = arguments.burst_ms.unwrap_or_default();
    let limits = arguments.messages.is_some() || arguments.bytes.is_some();
    let rate = (limits || arguments.unlimited).then(|| v1::Rate {
        messages_per_second: arguments.messages.unwrap_or_default(),
        bytes_per_second: arguments.bytes.unwrap_or_default(),
        burst_ms,
    });
    let classes = arguments.classes.iter().map(|text| {
        class_limit(text, burst_ms).ok_or_else(|| {
            let text = format!(
                "--class {text:?}: write TENANT:CLASS=MESSAGES or TENANT:CLASS=MESSAGES,BYTES"
            );
            Failure::new(Exit::Usage, text)
        })
    });
    Ok(v1::Policer {
        name: arguments.name,
        rate,
        classes: classes.collect::<Result<_, _>>()?,
    })
}

fn class_limit(text: &str, burst_ms: u32) -> Option<v1::PolicerClass> {
    let (place, rates) = text.rsplit_once('=')?;
    let (tenant, class_path) = place.split_once(':')?;
    let (messages, bytes) = rates.split_once(',').unwrap_or((rates, "0"));
    Some(v1::PolicerClass {
        tenant: tenant.to_owned(),
        class_path: class_path.to_owned(),
        rate: Some(v1::Rate {
            messages_per_second: messages.parse().ok()?,
            bytes_per_second: bytes.parse().ok()?,
            burst_ms,
        }),
    })
}

fn policy_row(policy: &v1::Policy) -> Vec<String> {
    let place = |allowed: &v1::ClassSelector| place(&allowed.tenant, &allowed.class_path);
    let mut reaches: Vec<String> = policy.allow.iter().map(place).collect();
    if policy.base() != Base::Nothing {
        reaches.insert(0, "what its tenant reaches".to_owned());
    }
    vec![
        policy.name.clone(),
        policy.tenant.clone(),
        reaches.join(", "),
        policy
            .priority_max
            .map_or_else(|| "-".to_owned(), |p| p.to_string()),
        match policy.policer.as_str() {
            "" => "the tenant's".to_owned(),
            name => name.to_owned(),
        },
        if policy.direct { "yes" } else { "no" }.to_owned(),
    ]
}

fn policer_row(policer: &v1::Policer) -> Vec<String> {
    let all = match &policer.rate {
        Some(rate) => words(rate),
        None => "the router's default".to_owned(),
    };
    let classes = policer.classes.iter().map(|limit| {
        let rate = limit.rate.unwrap_or_default();
        format!(
            "{} {}",
            place(&limit.tenant, &limit.class_path),
            words(&rate)
        )
    });
    vec![
        policer.name.clone(),
        all,
        classes.collect::<Vec<_>>().join("; "),
    ]
}

fn place(tenant: &str, class_path: &str) -> String {
    match class_path {
        "" => tenant.to_owned(),
        path => format!("{tenant}:{path}"),
    }
}

fn words(rate: &v1::Rate) -> String {
    let each = [
        (rate.messages_per_second, "messages/s"),
        (rate.bytes_per_second, "bytes/s"),
    ];
    let each = each.into_iter().filter(|(most, _)| *most > 0);
    let each: Vec<String> = each.map(|(most, unit)| format!("{most} {unit}")).collect();
    match each.is_empty() {
        true => "no limit".to_owned(),
        false => each.join(", "),
    }
}

pub(super) fn policy_json(policy: &v1::Policy) -> Value {
    let allow = policy.allow.iter();
    let allow = allow.map(|a| json!({ "tenant": a.tenant, "class_path": a.class_path }));
    json!({
        "name": policy.name, "tenant": policy.tenant, "base": policy.base().as_str_name(),
        "allow": allow.collect::<Vec<_>>(), "priority_max": policy.priority_max,
        "policer": policy.policer, "direct": policy.direct, "id": policy.id,
    })
}

pub(super) fn policer_json(policer: &v1::Policer) -> Value {
    let classes = policer.classes.iter().map(|limit| {
        let rate = limit.rate.unwrap_or_default();
        json!({ "tenant": limit.tenant, "class_path": limit.class_path, "rate": rate_json(&rate) })
    });
    json!({
        "name": policer.name, "rate": policer.rate.as_ref().map(rate_json),
        "classes": classes.collect::<Vec<_>>(),
    })
}

pub(super) fn rate_json(rate: &v1::Rate) -> Value {
    json!({
        "messages_per_second": rate.messages_per_second,
        "bytes_per_second": rate.bytes_per_second, "burst_ms": rate.burst_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_limit_is_read_as_it_is_written() {
        let read = |text: &str| {
            class_limit(text, 7).map(|limit| {
                let rate = limit.rate.expect("set");
                let numbers = (
                    rate.messages_per_second,
                    rate.bytes_per_second,
                    rate.burst_ms,
                );
                (limit.tenant, limit.class_path, numbers)
            })
        };
        let told = |class: &str, numbers| Some(("t".to_owned(), class.to_owned(), numbers));
        assert_eq!(read("t:travel/hotels=5"), told("travel/hotels", (5, 0, 7)));
        assert_eq!(read("t:class:1.2=5,9"), told("class:1.2", (5, 9, 7)));
        for text in ["travel=5", "t:travel", "t:travel=x", "t:travel=5,"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
