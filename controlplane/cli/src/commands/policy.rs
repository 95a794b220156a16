//! `caplane grant`, `caplane tenant` and `caplane permission`: who may serve and reach what.

use caplane_proto::v1;
use caplane_proto::v1::entity::Entity as Kind;
use caplane_proto::v1::read_request::Kind as ReadKind;
use serde_json::{Value, json};

use super::entities::{add, list, remove};
use crate::arguments::{GrantCommand, PermissionArguments, PermissionCommand, TenantCommand};
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::Settings;

pub(super) async fn grants(settings: &Settings, command: GrantCommand) -> Result<Output, Failure> {
    match command {
        GrantCommand::Add {
            agent,
            class,
            weight,
        } => {
            let weight = weight.unwrap_or_default();
            let grant = v1::Grant {
                agent_uri: agent.clone(),
                class_path: class.clone(),
                weight,
            };
            add(
                settings,
                Kind::Grant(grant),
                "grant",
                &format!("{agent} may serve {class}"),
            )
            .await
        }
        GrantCommand::Remove { agent, class } => {
            let key = v1::Grant {
                agent_uri: agent.clone(),
                class_path: class.clone(),
                weight: 0,
            };
            remove(
                settings,
                Kind::Grant(key),
                "grant",
                &format!("{class} of {agent}"),
            )
            .await
        }
        GrantCommand::List => {
            list(
                settings,
                ReadKind::Grant,
                "",
                "grants",
                &["AGENT", "CLASS", "WEIGHT"],
                |entity| match entity {
                    Kind::Grant(grant) => {
                        let weight = match grant.weight {
                            0 => "the agent's".to_owned(),
                            weight => weight.to_string(),
                        };
                        let json = grant_json(&grant);
                        Some((vec![grant.agent_uri, grant.class_path, weight], json))
                    }
                    _ => None,
                },
            )
            .await
        }
    }
}

pub(super) async fn tenants(
    settings: &Settings,
    command: TenantCommand,
) -> Result<Output, Failure> {
    match command {
        TenantCommand::Add { name } => {
            let tenant = v1::Tenant {
                name: name.clone(),
                ..Default::default()
            };
            add(settings, Kind::Tenant(tenant), "tenant", &name).await
        }
        TenantCommand::Remove { name } => {
            let key = v1::Tenant {
                name: name.clone(),
                ..Default::default()
            };
            remove(settings, Kind::Tenant(key), "tenant", &name).await
        }
        TenantCommand::List => {
            list(
                settings,
                ReadKind::Tenant,
                "",
                "tenants",
                &["ID", "NAME"],
                |entity| match entity {
                    Kind::Tenant(tenant) => {
                        let json = tenant_json(&tenant);
                        Some((vec![tenant.id.to_string(), tenant.name], json))
                    }
                    _ => None,
                },
            )
            .await
        }
    }
}

pub(super) async fn permissions(
    settings: &Settings,
    command: PermissionCommand,
) -> Result<Output, Failure> {
    let entity = |arguments: PermissionArguments| {
        let class = if arguments.class.is_empty() {
            "everything"
        } else {
            &arguments.class
        };
        let what = format!("{} -> {class} of {}", arguments.from, arguments.to);
        let PermissionArguments { from, to, class } = arguments;
        (
            Kind::Permission(v1::Permission {
                from,
                to,
                class_path: class,
            }),
            what,
        )
    };
    match command {
        PermissionCommand::Add(arguments) => {
            let (entity, what) = entity(arguments);
            add(settings, entity, "permission", &what).await
        }
        PermissionCommand::Remove(arguments) => {
            let (entity, what) = entity(arguments);
            remove(settings, entity, "permission", &what).await
        }
        PermissionCommand::List => {
            let heading = ["FROM", "TO", "CLASS"];
            list(
                settings,
                ReadKind::Permission,
                "",
                "permissions",
                &heading,
                |entity| match entity {
                    Kind::Permission(permission) => {
                        let json = permission_json(&permission);
                        let v1::Permission {
                            from,
                            to,
                            class_path,
                        } = permission;
                        let class = if class_path.is_empty() {
                            "everything".to_owned()
                        } else {
                            class_path
                        };
                        Some((vec![from, to, class], json))
                    }
                    _ => None,
                },
            )
            .await
        }
    }
}

pub(super) fn grant_json(grant: &v1::Grant) -> Value {
    json!({ "agent_uri": grant.agent_uri, "class_path": grant.class_path, "weight": grant.weight })
}

pub(super) fn tenant_json(tenant: &v1::Tenant) -> Value {
    json!({ "id": tenant.id, "name": tenant.name })
}

pub(super) fn permission_json(permission: &v1::Permission) -> Value {
    json!({ "from": permission.from, "to": permission.to, "class_path": permission.class_path })
}
