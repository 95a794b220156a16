//! `caplane agent`.

use caplane_proto::v1;
use caplane_proto::v1::entity::Entity as Kind;
use caplane_proto::v1::read_request::Kind as ReadKind;
use caplane_proto::v1::update::Type as UpdateType;
use serde_json::{Value, json};

use super::{agent_uri, label, written};
use crate::api::{Api, ApiError, Written};
use crate::arguments::{AgentCommand, RegisterArguments};
use crate::failure::{Exit, Failure};
use crate::output::{Output, Table, clean};
use crate::settings::Settings;

pub(super) async fn run(settings: &Settings, command: AgentCommand) -> Result<Output, Failure> {
    match command {
        AgentCommand::Register(arguments) => register(settings, arguments).await,
        AgentCommand::List => list(settings).await,
        AgentCommand::Show { agent, tenant } => {
            let uri = agent_uri(settings, &agent, &tenant)?;
            let agent = read_one(settings, &uri).await?;
            Ok(Output::new(
                "caplane.agent/1",
                json!({ "agent": as_json(&agent) }),
                describe(&agent),
            ))
        }
        AgentCommand::Withdraw { agent, tenant } => {
            let uri = agent_uri(settings, &agent, &tenant)?;
            let key = v1::Agent {
                uri: uri.clone(),
                ..Default::default()
            };
            let written = settings.api().await?.delete(Kind::Agent(key)).await?;
            let text = format!("withdrawn: {uri} {}\n", written::place(&written));
            let json = json!({ "uri": uri });
            written::output("caplane.withdrawn/1", &written, json, text)
        }
    }
}

async fn register(settings: &Settings, arguments: RegisterArguments) -> Result<Output, Failure> {
    let named = arguments.uri.or(arguments.name).unwrap_or_default();
    let uri = agent_uri(settings, &named, &arguments.tenant)?;
    let card = std::fs::read(&arguments.card).map_err(|error| {
        let path = arguments.card.display();
        Failure::new(
            Exit::Usage,
            format!("cannot read the agent card {path}: {error}"),
        )
    })?;
    let agent = v1::Agent {
        uri: uri.clone(),
        card,
        tenant: arguments.tenant,
        weight: arguments.weight.unwrap_or_default(),
        lease_seconds: arguments.lease.unwrap_or_default(),
        priority_max: arguments.priority_max,
        policy: arguments.policy,
        locality: arguments.locality,
        cost: arguments.cost,
        out_of_service: arguments.out_of_service,
        ..Default::default()
    };
    let api = settings.api().await?;
    let written = write(&api, agent, arguments.replace, !arguments.no_grant).await?;
    let Kind::Agent(agent) = &written.entity else {
        return Err(ApiError::Nonsense {
            call: "Write",
            missing: "the agent written",
        }
        .into());
    };
    let mut text = describe(agent);
    if written.dry_run.is_some() || written.repeated {
        text.push_str(&format!("{}\n", written::place(&written)));
    }
    if agent.skills.iter().any(|skill| skill.class_path.is_empty()) {
        text.push_str("\nA skill waits: `caplane class find TEXT` shows classes, `caplane override add URI SKILL CLASS` puts it in one.\n");
    }
    let json = json!({ "agent": as_json(agent) });
    written::output("caplane.agent/1", &written, json, text)
}

/// Registers an agent and, when asked to, grants what its skills are classified as. One that is replaced keeps the grants
/// that it has; it may have none, having been withdrawn or registered without.
async fn write(
    api: &Api,
    agent: v1::Agent,
    replace: bool,
    granting: bool,
) -> Result<Written, ApiError> {
    let uri = agent.uri.clone();
    let (mut there, mut granted) = (false, false);
    if replace {
        there = !api.read(ReadKind::Agent, &uri).await?.entities.is_empty();
        granted = !api.read(ReadKind::Grant, &uri).await?.entities.is_empty();
    }
    let action = if there {
        UpdateType::Modify
    } else {
        UpdateType::Insert
    };
    let mut updates = vec![(action, Kind::Agent(agent))];
    if granting && !granted {
        let grant = v1::Grant {
            agent_uri: uri.clone(),
            class_path: "*".to_owned(),
            ..Default::default()
        };
        updates.push((UpdateType::Insert, Kind::Grant(grant)));
    }
    api.write_first(updates).await
}

async fn list(settings: &Settings) -> Result<Output, Failure> {
    let agents = settings.api().await?.agents().await?;
    let mut table = Table::new(&["LABEL", "NAME", "TENANT", "INSTANCES", "CLASSES", "URI"]);
    for agent in &agents {
        let classes = agent
            .skills
            .iter()
            .map(|skill| match skill.class_path.as_str() {
                "" => format!("({} waits)", skill.id),
                path => path.to_owned(),
            });
        table.row([
            label(agent.label),
            agent.name.clone(),
            agent.tenant.clone(),
            agent.instances.len().to_string(),
            classes.collect::<Vec<_>>().join(" "),
            agent.uri.clone(),
        ]);
    }
    let json = json!({ "agents": agents.iter().map(as_json).collect::<Vec<_>>() });
    let nothing = "no agents; register one with `caplane agent register --name NAME --card FILE`";
    Ok(Output::new("caplane.agents/1", json, table.render(nothing)))
}

async fn read_one(settings: &Settings, uri: &str) -> Result<v1::Agent, Failure> {
    let read = settings.api().await?.read(ReadKind::Agent, uri).await?;
    match read.entities.into_iter().next() {
        Some(Kind::Agent(agent)) => Ok(agent),
        _ => {
            let text =
                format!("no agent {uri} is registered; `caplane agent list` shows those that are");
            Err(Failure::new(Exit::NotFound, text))
        }
    }
}

fn describe(agent: &v1::Agent) -> String {
    let mut text = format!(
        "{}  {}\n  uri       {}\n  tenant    {}\n",
        label(agent.label),
        clean(&agent.name),
        agent.uri,
        agent.tenant,
    );
    if !agent.provider.is_empty() {
        text.push_str(&format!("  provider  {}\n", clean(&agent.provider)));
    }
    let checked = match agent.identity_check() {
        v1::agent::IdentityCheck::Unspecified => None,
        v1::agent::IdentityCheck::NotChecked => Some("not checked: its issuer's salt is not known"),
        v1::agent::IdentityCheck::Passed => Some("passed"),
        v1::agent::IdentityCheck::Failed => Some("FAILED: registered before the salt was known"),
    };
    if let Some(checked) = checked {
        text.push_str(&format!("  AIC check {checked}\n"));
    }
    if agent.inactive {
        text.push_str("  inactive: serves nothing, as its capability specification says\n");
    }
    if agent.out_of_service {
        text.push_str("  out of service: serves nothing, as an operator says\n");
    }
    for (name, value) in [
        ("policy", &agent.policy),
        ("version", &agent.version),
        ("locality", &agent.locality),
    ] {
        if !value.is_empty() {
            text.push_str(&format!("  {name:<9} {}\n", clean(value)));
        }
    }
    if agent.cost > 0 {
        text.push_str(&format!("  cost      {}\n", agent.cost));
    }
    for endpoint in &agent.endpoints {
        text.push_str(&format!("  endpoint  {}\n", clean(endpoint)));
    }
    for instance in &agent.instances {
        let name = clean(&instance.instance_name);
        text.push_str(&format!(
            "  instance  {} {name} at {}\n",
            label(instance.label),
            instance.router
        ));
    }
    for skill in &agent.skills {
        let (class, route) = match (skill.class_path.as_str(), skill.granted) {
            ("", _) => ("waits for an operator".to_owned(), ""),
            (path, true) => (format!("{path} {}", label(skill.class_label)), ", granted"),
            (path, false) => (
                format!("{path} {}", label(skill.class_label)),
                ", not granted",
            ),
        };
        text.push_str(&format!(
            "  skill     {} -> {class}{route}\n",
            clean(&skill.id)
        ));
        text.push_str(&format!("            {}\n", clean(&skill.provenance)));
    }
    text
}

pub(super) fn as_json(agent: &v1::Agent) -> Value {
    let skills: Vec<Value> = agent
        .skills
        .iter()
        .map(|skill| {
            json!({
                "id": skill.id, "name": skill.name, "class_path": skill.class_path,
                "class_label": label(skill.class_label), "matched_by": skill.matched_by,
                "score": skill.score, "provenance": skill.provenance, "granted": skill.granted,
            })
        })
        .collect();
    let instances: Vec<Value> = agent
        .instances
        .iter()
        .map(|instance| {
            json!({
                "label": label(instance.label), "instance_name": instance.instance_name,
                "router": instance.router,
            })
        })
        .collect();
    json!({
        "uri": agent.uri, "label": label(agent.label), "name": agent.name, "tenant": agent.tenant,
        "provider": agent.provider, "weight": agent.weight, "lease_seconds": agent.lease_seconds,
        "lease_expires_unix_ms": agent.lease_expires_unix_ms, "priority_max": agent.priority_max,
        "identity_check": identity_check(agent), "aic": agent.aic, "inactive": agent.inactive,
        "policy": agent.policy, "out_of_service": agent.out_of_service, "locality": agent.locality,
        "cost": agent.cost, "version": agent.version, "endpoints": agent.endpoints, "tags": agent.tags,
        "skills": skills, "instances": instances,
    })
}

/// As the API names it; `null` = the agent has no AIC.
fn identity_check(agent: &v1::Agent) -> Option<&'static str> {
    match agent.identity_check() {
        v1::agent::IdentityCheck::Unspecified => None,
        checked => Some(checked.as_str_name()),
    }
}
