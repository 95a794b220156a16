//! `caplane class` and `caplane resolve`.

use caplane_proto::v1;
use caplane_proto::v1::resolve::Target;
use serde_json::{Value, json};

use super::label;
use crate::arguments::{ClassCommand, ResolveArguments};
use crate::failure::{Exit, Failure};
use crate::output::{Output, Table, clean};
use crate::settings::Settings;

pub(super) async fn run(settings: &Settings, command: ClassCommand) -> Result<Output, Failure> {
    match command {
        ClassCommand::List { under } => list(settings, &under).await,
        ClassCommand::Find { text, limit } => {
            let answer = settings
                .api()
                .await?
                .resolve(Target::Text(text.clone()), limit, "", None)
                .await?;
            candidates(&answer, &text)
        }
    }
}

async fn list(settings: &Settings, under: &str) -> Result<Output, Failure> {
    let under = under.trim_end_matches('/');
    let below = |path: &str| {
        under.is_empty()
            || path
                .strip_prefix(under)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mut classes = settings.api().await?.classes().await?;
    classes.retain(|class| below(&class.path));
    let mut table = Table::new(&["LABEL", "PATH", "AGENTS", "INSTANCES", "CAPTION"]);
    for class in &classes {
        table.row([
            label(class.label),
            class.path.clone(),
            class.agents.to_string(),
            class.instances.to_string(),
            class.caption.clone(),
        ]);
    }
    let all: Vec<Value> = classes
        .iter()
        .map(|class| {
            json!({
                "path": class.path, "label": label(class.label), "caption": class.caption,
                "description": class.description, "aliases": class.aliases,
                "agents": class.agents, "instances": class.instances,
            })
        })
        .collect();
    let nothing = format!("no class is called {under:?}; `caplane class find TEXT` searches");
    if classes.is_empty() && !under.is_empty() {
        return Err(Failure::new(Exit::NotFound, nothing));
    }
    Ok(Output::new(
        "caplane.classes/1",
        json!({ "classes": all }),
        table.render(&nothing),
    ))
}

pub(super) async fn resolve(
    settings: &Settings,
    arguments: &ResolveArguments,
) -> Result<Output, Failure> {
    let api = settings.api().await?;
    let constraints = arguments.constraints();
    let need = target(&arguments.need);
    let answer = api
        .resolve(need, arguments.limit, &arguments.asker, constraints)
        .await?;
    candidates(&answer, &arguments.need)
}

/// What a need is: an agent's URI, a label or class path, or words.
pub(super) fn target(need: &str) -> Target {
    let is_label = need.parse::<caplane_client::Label>().is_ok();
    if need.contains("://") {
        Target::AgentId(need.to_owned())
    } else if is_label || (need.contains('/') && !need.contains(' ')) {
        Target::Path(need.to_owned())
    } else {
        Target::Text(need.to_owned())
    }
}

fn candidates(answer: &v1::ResolveResponse, need: &str) -> Result<Output, Failure> {
    if answer.candidates.is_empty() {
        let text = format!("nothing matches {need:?}; try other words, or `caplane class list`");
        return Err(Failure::new(Exit::NotFound, text));
    }
    let mut table = Table::new(&[
        "SCORE", "BY", "LABEL", "TENANT", "MEMBERS", "NAME", "CAPTION",
    ]);
    for candidate in &answer.candidates {
        table.row([
            format!("{:.2}", candidate.score),
            candidate.matched_by.clone(),
            label(candidate.label),
            candidate.tenant.to_string(),
            candidate.members.to_string(),
            candidate.name.clone(),
            candidate.caption.clone(),
        ]);
    }
    let all: Vec<Value> = answer
        .candidates
        .iter()
        .map(|candidate| {
            json!({
                "label": label(candidate.label), "tenant": candidate.tenant, "name": candidate.name,
                "caption": candidate.caption, "score": candidate.score,
                "matched_by": candidate.matched_by, "members": candidate.members,
                "provenance": candidate.provenance, "endpoints": candidate.endpoints,
                "locality": candidate.locality, "cost": candidate.cost, "version": candidate.version,
            })
        })
        .collect();
    let json = json!({ "candidates": all, "generation": answer.generation });
    let mut text = table.render("");
    // Of the best one why, and where: what a person asks next.
    if let Some(best) = answer.candidates.first() {
        if !best.provenance.is_empty() {
            text.push_str(&format!("\nbest: {}\n", clean(&best.provenance)));
        }
        for endpoint in &best.endpoints {
            text.push_str(&format!("directly at {}\n", clean(endpoint)));
        }
    }
    Ok(Output::new("caplane.candidates/1", json, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_need_is_read_as_it_looks() {
        assert_eq!(
            target("spiffe://a/b"),
            Target::AgentId("spiffe://a/b".into())
        );
        assert_eq!(
            target("acps://1.2.156"),
            Target::AgentId("acps://1.2.156".into())
        );
        assert_eq!(target("class:112.1"), Target::Path("class:112.1".into()));
        assert_eq!(
            target("travel/accommodation"),
            Target::Path("travel/accommodation".into())
        );
        assert_eq!(target("book a hotel"), Target::Text("book a hotel".into()));
        assert_eq!(
            target("hotel and/or flight"),
            Target::Text("hotel and/or flight".into())
        );
    }
}
