//! `caplane grant`, `caplane tenant` and `caplane permission`: who may serve and reach what.

use caplane_proto::v1;
use caplane_proto::v1::entity::Entity as Kind;
use caplane_proto::v1::read_request::Kind as ReadKind;
use serde_json::{Value, json};

use super::entities::{add, change, list, remove};
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
            out_of_service,
            replace,
        } => {
            let what = match out_of_service {
                true => format!("{agent} may serve {class}, and does not now"),
                false => format!("{agent} may serve {class}"),
            };
            let grant = v1::Grant {
                agent_uri: agent,
                class_path: class,
                weight: weight.unwrap_or_default(),
                out_of_service,
            };
            change(settings, Kind::Grant(grant), replace, "grant", &what).await
        }
        GrantCommand::Remove { agent, class } => {
            let key = v1::Grant {
                agent_uri: agent.clone(),
                class_path: class.clone(),
                weight: 0,
                ..v1::Grant::default()
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
                &["AGENT", "CLASS", "WEIGHT", "IN SERVICE"],
                |entity| match entity {
                    Kind::Grant(grant) => {
                        let weight = match grant.weight {
                            0 => "the agent's".to_owned(),
                            weight => weight.to_string(),
                        };
                        let json = grant_json(&grant);
                        let serves = if grant.out_of_service { "no" } else { "yes" };
                        let serves = serves.to_owned();
                        Some((
                            vec![grant.agent_uri, grant.class_path, weight, serves],
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

pub(super) async fn tenants(
    settings: &Settings,
    command: TenantCommand,
) -> Result<Output, Failure> {
    match command {
        TenantCommand::Add {
            name,
            policer,
            direct,
            replace,
        } => {
            let tenant = v1::Tenant {
                name: name.clone(),
                policer,
                direct,
                ..Default::default()
            };
            change(settings, Kind::Tenant(tenant), replace, "tenant", &name).await
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
                &["ID", "NAME", "POLICER", "DIRECT"],
                |entity| match entity {
                    Kind::Tenant(tenant) => {
                        let json = tenant_json(&tenant);
                        let direct = if tenant.direct { "yes" } else { "no" };
                        let policer = match tenant.policer.as_str() {
                            "" => "-".to_owned(),
                            name => name.to_owned(),
                        };
                        let id = tenant.id.to_string();
                        Some((vec![id, tenant.name, policer, direct.to_owned()], json))
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
    json!({
        "agent_uri": grant.agent_uri, "class_path": grant.class_path, "weight": grant.weight,
        "out_of_service": grant.out_of_service,
    })
}

pub(super) fn tenant_json(tenant: &v1::Tenant) -> Value {
    json!({
        "id": tenant.id, "name": tenant.name, "policer": tenant.policer, "direct": tenant.direct,
    })
}

pub(super) fn permission_json(permission: &v1::Permission) -> Value {
    json!({ "from": permission.from, "to": permission.to, "class_path": permission.class_path })
}
