//! `caplane override` and `caplane group`: an operator's word on skills, and labels for many agents.

use caplane_proto::v1;
use caplane_proto::v1::entity::Entity as Kind;
use caplane_proto::v1::read_request::Kind as ReadKind;
use serde_json::{Value, json};

use super::entities::{list, remove};
use super::{label, written};
use crate::api::{Api, ApiError, Written};
use crate::arguments::{GroupCommand, OverrideCommand};
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::Settings;

pub(super) async fn overrides(
    settings: &Settings,
    command: OverrideCommand,
) -> Result<Output, Failure> {
    match command {
        OverrideCommand::Add {
            agent,
            skill,
            class,
            replace,
        } => {
            let told = Kind::Override(v1::SkillOverride {
                agent_uri: agent,
                skill_id: skill,
                class_path: class,
            });
            let written = put(&settings.api().await?, told, replace).await?;
            let Kind::Override(told) = &written.entity else {
                return Err(not_there("the override written").into());
            };
            let place = written::place(&written);
            let text = format!(
                "added: override {} of {} -> {} {place}\n",
                told.skill_id, told.agent_uri, told.class_path
            );
            let json = json!({ "override": override_json(told) });
            written::output("caplane.override/1", &written, json, text)
        }
        OverrideCommand::Remove { agent, skill } => {
            let what = format!("{skill} of {agent}");
            let key = v1::SkillOverride {
                agent_uri: agent,
                skill_id: skill,
                class_path: String::new(),
            };
            remove(settings, Kind::Override(key), "override", &what).await
        }
        OverrideCommand::List { agent } => {
            let heading = ["AGENT", "SKILL", "CLASS"];
            let kind = ReadKind::SkillOverride;
            list(
                settings,
                kind,
                &agent,
                "overrides",
                &heading,
                |entity| match entity {
                    Kind::Override(told) => {
                        let json = override_json(&told);
                        Some((vec![told.agent_uri, told.skill_id, told.class_path], json))
                    }
                    _ => None,
                },
            )
            .await
        }
    }
}

pub(super) async fn groups(settings: &Settings, command: GroupCommand) -> Result<Output, Failure> {
    match command {
        GroupCommand::Add {
            name,
            agents,
            tenant,
            replace,
        } => {
            let group = Kind::Group(v1::Group {
                name,
                tenant,
                agent_uris: agents,
                label: 0,
            });
            let written = put(&settings.api().await?, group, replace).await?;
            let Kind::Group(group) = &written.entity else {
                return Err(not_there("the group written").into());
            };
            let text = format!(
                "added: group {} {} of {} agents {}\n",
                group.name,
                label(group.label),
                group.agent_uris.len(),
                written::place(&written)
            );
            let json = json!({ "group": group_json(group) });
            written::output("caplane.group/1", &written, json, text)
        }
        GroupCommand::Remove { name } => {
            let key = v1::Group {
                name: name.clone(),
                ..Default::default()
            };
            remove(settings, Kind::Group(key), "group", &name).await
        }
        GroupCommand::List => {
            let heading = ["LABEL", "NAME", "TENANT", "AGENTS"];
            list(
                settings,
                ReadKind::Group,
                "",
                "groups",
                &heading,
                |entity| match entity {
                    Kind::Group(group) => {
                        let json = group_json(&group);
                        let agents = group.agent_uris.join(" ");
                        Some((
                            vec![label(group.label), group.name, group.tenant, agents],
                            json,
                        ))
                    }
                    _ => None,
                },
            )
            .await
        }
    }
}

async fn put(api: &Api, entity: Kind, replace: bool) -> Result<Written, ApiError> {
    if replace {
        api.upsert(entity).await
    } else {
        api.insert(entity).await
    }
}

fn not_there(missing: &'static str) -> ApiError {
    ApiError::Nonsense {
        call: "Write",
        missing,
    }
}

pub(super) fn override_json(told: &v1::SkillOverride) -> Value {
    json!({ "agent_uri": told.agent_uri, "skill_id": told.skill_id, "class_path": told.class_path })
}

pub(super) fn group_json(group: &v1::Group) -> Value {
    json!({
        "name": group.name, "label": label(group.label), "tenant": group.tenant,
        "agent_uris": group.agent_uris,
    })
}
