//! What every command that writes says beside its own words: the generation, or what a dry run found.

use caplane_client::Label;
use caplane_proto::v1;
use caplane_proto::v1::pending_commit::State;
use caplane_proto::v1::resource::Resource as Body;
use serde_json::{Value, json};

use super::commits::{as_json, left, standing};
use super::policies::rate_json;
use super::rollout;
use crate::api::Written;
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// Entries of a dry run shown as text; JSON has all that the controller spells out.
const SHOWN_MAX: usize = 40;

/// Where a change is: for the end of a line.
pub(super) fn place(written: &Written) -> String {
    let generation = written.generation;
    match (&written.dry_run, written.repeated) {
        (Some(_), _) => format!("(dry run on generation {generation}: nothing was changed)"),
        (None, true) => format!("(generation {generation}, by an earlier request with this key)"),
        (None, false) => format!("(generation {generation})"),
    }
}

/// What must be done for a change to stay, or what became of it since; empty when nothing.
///
/// # Errors
/// It was taken back: a request that is repeated is not done again.
fn stays(written: &Written) -> Result<String, Failure> {
    let Some(pending) = &written.pending else {
        return Ok(String::new());
    };
    let id = &pending.id;
    match pending.state() {
        State::Waiting => Ok(format!(
            "taken back in {} unless confirmed: caplane commit confirm {id}\n",
            left(pending)
        )),
        State::Confirmed | State::Unspecified => {
            Ok(format!("commit {id}: {}\n", standing(pending)))
        }
        State::Cancelled | State::Expired => {
            let text = format!(
                "commit {id}, of an earlier request with this key, does not hold: {}; write it again with another key",
                standing(pending)
            );
            Err(Failure::new(Exit::Failed, text))
        }
    }
}

/// A command's own words, and what a dry run found.
///
/// # Errors
/// What was asked for was done by an earlier request with the same key, and taken back since.
pub(super) fn output(
    schema: &str,
    written: &Written,
    mut json: Value,
    mut text: String,
) -> Result<Output, Failure> {
    let stays = stays(written)?;
    if let Value::Object(fields) = &mut json {
        fields.insert("generation".to_owned(), written.generation.into());
        if written.repeated {
            fields.insert("repeated_request".to_owned(), true.into());
        }
        if let Some(pending) = &written.pending {
            fields.insert("pending".to_owned(), as_json(pending));
        }
        if let Some(summary) = &written.rollout {
            fields.insert("rollout".to_owned(), rollout::as_json(summary));
        }
        if let Some(diff) = &written.dry_run {
            fields.insert("dry_run".to_owned(), true.into());
            let tables = diff.iter().map(table_json).collect::<Vec<_>>();
            fields.insert("diff".to_owned(), tables.into());
        }
    }
    if let Some(diff) = &written.dry_run {
        text.push_str(&describe(diff));
    }
    text.push_str(&stays);
    if let Some(summary) = &written.rollout {
        text.push_str(&rollout::reach(summary));
    }
    Ok(Output::new(schema, json, text))
}

fn describe(diff: &[v1::RouterDiff]) -> String {
    if diff.is_empty() {
        return "no router's table would differ\n".to_owned();
    }
    let mut text = String::new();
    let mut shown = 0;
    for table in diff {
        let whose = match table.router.as_str() {
            "" => "every router".to_owned(),
            name => format!("router {name}"),
        };
        let (upserts, removes) = (table.upserts, table.removes);
        text.push_str(&format!(
            "{whose}: {upserts} entries set, {removes} removed\n"
        ));
        let room = SHOWN_MAX - shown;
        for entry in table.entries.iter().take(room) {
            text.push_str(&format!("  {} {}\n", sign(entry), entry.entry));
            shown += 1;
        }
        let all = (upserts as usize).saturating_add(removes as usize);
        let rest = all.saturating_sub(table.entries.len().min(room));
        if rest > 0 {
            text.push_str(&format!("  and {rest} more\n"));
        }
    }
    text
}

fn sign(entry: &v1::EntryDiff) -> char {
    match (&entry.before, &entry.after) {
        (None, _) => '+',
        (_, None) => '-',
        _ => '~',
    }
}

fn table_json(table: &v1::RouterDiff) -> Value {
    let entries: Vec<Value> = table
        .entries
        .iter()
        .map(|entry| {
            json!({
                "entry": entry.entry,
                "before": entry.before.as_ref().map(entry_json),
                "after": entry.after.as_ref().map(entry_json),
            })
        })
        .collect();
    json!({
        "router": table.router, "upserts": table.upserts, "removes": table.removes,
        "entries": entries,
    })
}

fn entry_json(resource: &v1::Resource) -> Value {
    let text = |bits: u32| Label::from_bits(bits).to_string();
    let texts = |labels: &[u32]| labels.iter().map(|bits| text(*bits)).collect::<Vec<_>>();
    let shares = |egress: &[v1::Egress]| {
        let share =
            |egress: &v1::Egress| json!({ "router": text(egress.router), "weight": egress.weight });
        egress.iter().map(share).collect::<Vec<_>>()
    };
    match &resource.resource {
        Some(Body::Class(class)) => {
            json!({ "own": shares(&class.own), "subtree": shares(&class.subtree) })
        }
        Some(Body::Agent(agent)) => {
            let instance = |at: &v1::InstanceAt| json!({ "instance": at.instance, "router": text(at.router), "weight": at.weight });
            let instances: Vec<Value> = agent.instances.iter().map(instance).collect();
            json!({ "tenant": agent.tenant, "instances": instances })
        }
        Some(Body::Group(group)) => {
            json!({ "tenant": group.tenant, "routers": texts(&group.routers) })
        }
        Some(Body::Identity(identity)) => {
            let member = |class: &v1::Membership| json!({ "tenant": class.tenant, "label": text(class.label), "weight": class.weight });
            let classes: Vec<Value> = identity.classes.iter().map(member).collect();
            json!({
                "uri": identity.uri, "agent": text(identity.agent), "tenant": identity.tenant,
                "policy": identity.policy, "classes": classes, "groups": texts(&identity.groups),
            })
        }
        Some(Body::Policy(policy)) => {
            let allow =
                |allow: &v1::Allow| json!({ "tenant": allow.tenant, "label": text(allow.label) });
            let limit = |limit: &v1::ClassRate| {
                let rate = limit.rate.as_ref().map(rate_json);
                json!({ "tenant": limit.tenant, "label": text(limit.label), "rate": rate })
            };
            json!({
                "tenant": policy.tenant, "allow": policy.allow.iter().map(allow).collect::<Vec<_>>(),
                "reply_tenants": policy.reply_tenants, "reply_all": policy.reply_all,
                "priority_max": policy.priority_max, "rate": policy.rate.as_ref().map(rate_json),
                "class_rates": policy.class_rates.iter().map(limit).collect::<Vec<_>>(),
            })
        }
        Some(Body::Transit(route)) => {
            json!({ "next_hops": texts(&route.next_hops), "alternates": texts(&route.alternates) })
        }
        Some(Body::Neighbour(router)) => json!({
            "name": router.name, "uri": router.uri, "address": router.address,
            "dial": router.dial, "cost": router.cost,
        }),
        None => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_write_says_what_became_of_it() {
        let said = |state: State| {
            let written = Written {
                entity: v1::entity::Entity::Tenant(v1::Tenant::default()),
                generation: 41,
                dry_run: None,
                repeated: true,
                pending: Some(v1::PendingCommit {
                    id: "41".into(),
                    state: state.into(),
                    ended_generation: 43,
                    ended_by: "ada".into(),
                    ..v1::PendingCommit::default()
                }),
                rollout: None,
            };
            stays(&written)
        };
        let text = said(State::Waiting).expect("holds");
        assert_eq!(
            text,
            "taken back in 0 s unless confirmed: caplane commit confirm 41\n"
        );
        let text = said(State::Confirmed).expect("holds");
        assert_eq!(text, "commit 41: confirmed by ada in generation 43\n");
        for (state, words) in [
            (State::Cancelled, "cancelled by ada in generation 43"),
            (
                State::Expired,
                "not confirmed in time, taken back in generation 43",
            ),
        ] {
            let failure = said(state).expect_err("does not hold");
            assert_eq!(failure.exit, Exit::Failed);
            assert!(failure.text.contains(words), "{failure}");
        }
    }

    fn entry(name: &str, before: bool, after: bool) -> v1::EntryDiff {
        let there = |there: bool| there.then(v1::Resource::default);
        v1::EntryDiff {
            entry: name.into(),
            before: there(before),
            after: there(after),
        }
    }

    #[test]
    fn a_diff_shows_what_comes_changes_and_goes_and_how_much_is_not_shown() {
        let shared = v1::RouterDiff {
            router: String::new(),
            upserts: 2,
            removes: 1,
            entries: vec![
                entry("a", false, true),
                entry("b", true, true),
                entry("c", true, false),
            ],
        };
        let own = v1::RouterDiff {
            router: "r1".into(),
            upserts: 900,
            removes: 0,
            entries: (0..50)
                .map(|i| entry(&format!("t{i}"), false, true))
                .collect(),
        };
        let text = describe(&[shared, own]);
        assert!(
            text.starts_with("every router: 2 entries set, 1 removed\n  + a\n  ~ b\n  - c\nrouter r1: 900 entries set, 0 removed\n  + t0\n"),
            "{text}"
        );
        assert!(text.ends_with("  + t36\n  and 863 more\n"), "{text}");
        assert_eq!(describe(&[]), "no router's table would differ\n");
    }
}
