//! `caplane watch`: what changes, a line each.

use std::io::Write;

use caplane_proto::v1;
use caplane_proto::v1::entity::Entity as Kind;
use caplane_proto::v1::watch_response::Message;
use serde_json::{Value, json};

use super::{agents, commits, overrides, policies, policy, topology};
use crate::arguments::WatchArguments;
use crate::failure::{Exit, Failure};
use crate::output::{Output, clean};
use crate::settings::Settings;

/// Watches until it is interrupted, enough was told, or nobody reads.
pub(super) async fn watch(
    settings: &Settings,
    arguments: &WatchArguments,
    as_json: bool,
) -> Result<(), Failure> {
    let kinds = arguments.kinds.iter().map(|kind| kind.kind().into());
    let request = v1::WatchRequest {
        kinds: kinds.collect(),
        key: arguments.only.clone(),
        resume: arguments.resume.clone().unwrap_or_default(),
        initial: arguments.initial,
        omit_cards: true,
    };
    let mut watch = settings.api().await?.watch(request).await?;
    let mut left = arguments.count.unwrap_or(u64::MAX);
    let mut resume = arguments.resume.clone().unwrap_or_default();
    // Before everything has been told there is nothing to go on from.
    let mut partial = arguments.initial;
    while left > 0 || partial {
        let message = tokio::select! {
            message = watch.next() => message?,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let message = message.ok_or_else(|| ended(&resume))?;
        if !print(&message, as_json)? {
            return Ok(());
        }
        match message {
            Message::Changes(told) => {
                left = left.saturating_sub(told.changes.len() as u64);
                resume = told.resume;
            }
            Message::Synced(told) => {
                resume = told.resume;
                partial = false;
            }
            Message::Gone(gone) => return Err(missed(&gone)),
        }
    }
    Ok(())
}

fn ended(resume: &str) -> Failure {
    let on = match resume {
        "" => "watch again".to_owned(),
        token => format!("go on with `caplane watch --resume {token}`"),
    };
    Failure::new(
        Exit::Unreachable,
        format!("the controller ended the watch; {on}"),
    )
}

fn missed(gone: &v1::WatchGone) -> Failure {
    let reason = clean(&gone.reason);
    let text = format!("changes were missed: {reason}; watch again with --initial");
    Failure::new(Exit::Failed, text)
}

/// Prints a message. False when nobody reads any more.
fn print(message: &Message, as_json: bool) -> Result<bool, Failure> {
    let text = if as_json {
        format!(
            "{}\n",
            Output::new("caplane.watch/1", message_json(message), "").json
        )
    } else {
        match message {
            Message::Changes(told) => told.changes.iter().map(line).collect(),
            Message::Synced(told) => format!("= up to generation {}\n", told.generation),
            // It is told as the failure that ends the command.
            Message::Gone(_) => String::new(),
        }
    };
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn message_json(message: &Message) -> Value {
    match message {
        Message::Changes(told) => json!({
            "event": "changes", "generation": told.generation, "resume": told.resume,
            "changes": told.changes.iter().filter_map(change_json).collect::<Vec<_>>(),
        }),
        Message::Synced(told) => json!({
            "event": "synced", "generation": told.generation, "resume": told.resume,
        }),
        Message::Gone(gone) => json!({
            "event": "gone", "generation": gone.generation, "reason": gone.reason,
        }),
    }
}

/// Entities of kinds that this command does not know are passed over.
fn change_json(change: &v1::WatchChange) -> Option<Value> {
    let (kind, key, entity) = described(change)?;
    let entity = if change.removed { Value::Null } else { entity };
    Some(json!({ "kind": kind, "key": key, "removed": change.removed, "entity": entity }))
}

fn line(change: &v1::WatchChange) -> String {
    let Some((kind, key, _)) = described(change) else {
        return String::new();
    };
    let sign = if change.removed { '-' } else { '+' };
    let state = match change
        .entity
        .as_ref()
        .and_then(|entity| entity.entity.as_ref())
    {
        Some(entity) if !change.removed => state(entity),
        _ => String::new(),
    };
    let line = format!("{sign} {kind} {key} {state}");
    format!("{}\n", clean(line.trim_end()))
}

/// Its kind, what names it, and all of it as the `list` commands tell it.
fn described(change: &v1::WatchChange) -> Option<(&'static str, String, Value)> {
    let entity = change.entity.as_ref()?.entity.as_ref()?;
    Some(match entity {
        Kind::Agent(agent) => ("agent", agent.uri.clone(), agents::as_json(agent)),
        Kind::Grant(grant) => (
            "grant",
            format!("{} {}", grant.agent_uri, grant.class_path),
            policy::grant_json(grant),
        ),
        Kind::Router(router) => ("router", router.name.clone(), topology::router_json(router)),
        Kind::Link(link) => (
            "link",
            format!("{} {}", link.a, link.b),
            topology::link_json(link),
        ),
        Kind::Tenant(tenant) => ("tenant", tenant.name.clone(), policy::tenant_json(tenant)),
        Kind::Permission(permission) => (
            "permission",
            format!(
                "{} {} {}",
                permission.from, permission.to, permission.class_path
            )
            .trim_end()
            .to_owned(),
            policy::permission_json(permission),
        ),
        Kind::Group(group) => ("group", group.name.clone(), overrides::group_json(group)),
        Kind::Override(told) => (
            "override",
            format!("{} {}", told.agent_uri, told.skill_id),
            overrides::override_json(told),
        ),
        Kind::Policy(policy) => ("policy", policy.name.clone(), policies::policy_json(policy)),
        Kind::Policer(policer) => (
            "policer",
            policer.name.clone(),
            policies::policer_json(policer),
        ),
        Kind::PendingCommit(pending) => ("commit", pending.id.clone(), commits::as_json(pending)),
        Kind::Class(_) => return None,
    })
}

/// What a person wants to know of it at a glance.
fn state(entity: &Kind) -> String {
    match entity {
        Kind::Agent(agent) => {
            let granted = agent.skills.iter().filter(|skill| skill.granted).count();
            format!(
                "({granted} of {} skills granted, {} instances)",
                agent.skills.len(),
                agent.instances.len()
            )
        }
        Kind::Router(router) => {
            let here = if router.connected { "here" } else { "away" };
            let (live, instances) = (router.live_generation, router.instances);
            format!("({here}, generation {live} live, {instances} instances)")
        }
        Kind::Link(link) => format!("(cost {})", link.cost),
        Kind::Group(group) => format!("({} members)", group.agent_uris.len()),
        Kind::Override(told) => format!("(means {})", told.class_path),
        Kind::PendingCommit(pending) => format!("({})", commits::standing(pending)),
        Kind::Policy(policy) => format!("(of tenant {})", policy.tenant),
        Kind::Grant(_)
        | Kind::Tenant(_)
        | Kind::Permission(_)
        | Kind::Policer(_)
        | Kind::Class(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(entity: Kind, removed: bool) -> v1::WatchChange {
        v1::WatchChange {
            entity: Some(v1::Entity {
                entity: Some(entity),
            }),
            removed,
        }
    }

    #[test]
    fn a_change_is_a_line() {
        let router = v1::Router {
            name: "r1".into(),
            connected: true,
            live_generation: 7,
            ..v1::Router::default()
        };
        let there = change(Kind::Router(router.clone()), false);
        assert_eq!(
            line(&there),
            "+ router r1 (here, generation 7 live, 0 instances)\n"
        );
        let gone = change(Kind::Router(router), true);
        assert_eq!(line(&gone), "- router r1\n");
        let told = change_json(&gone).expect("known");
        assert_eq!(told["key"], "r1");
        assert_eq!(told["entity"], Value::Null);
        let permission = v1::Permission {
            from: "a".into(),
            to: "b\n".into(),
            class_path: String::new(),
        };
        let line = line(&change(Kind::Permission(permission), false));
        assert_eq!(line.matches('\n').count(), 1, "one line: {line:?}");
        let newer = v1::WatchChange::default();
        assert_eq!(change_json(&newer), None);
    }
}
