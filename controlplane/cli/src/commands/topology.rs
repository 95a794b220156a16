//! `caplane router` and `caplane link`.

use caplane_proto::v1;
use caplane_proto::v1::entity::Entity as Kind;
use caplane_proto::v1::read_request::Kind as ReadKind;
use serde_json::{Value, json};

use super::{label, written};
use crate::arguments::{LinkCommand, RouterCommand};
use crate::failure::Failure;
use crate::output::{Output, Table};
use crate::pki::{Role, uri_of};
use crate::settings::Settings;

pub(super) async fn routers(
    settings: &Settings,
    command: RouterCommand,
) -> Result<Output, Failure> {
    match command {
        RouterCommand::List => list_routers(settings).await,
        RouterCommand::Add { name, uri } => {
            let uri = match uri {
                Some(uri) => uri,
                None => uri_of(&settings.trust_domain()?, &Role::Router, &name)?,
            };
            let router = v1::Router {
                name: name.clone(),
                uri: uri.clone(),
                ..Default::default()
            };
            let written = settings.api().await?.insert(Kind::Router(router)).await?;
            let place = written::place(&written);
            let text = format!("registered: router {name} as {uri} {place}\n");
            let json = json!({ "name": name, "uri": uri });
            written::output("caplane.router/1", &written, json, text)
        }
    }
}

async fn list_routers(settings: &Settings) -> Result<Output, Failure> {
    let (routers, generation) = settings.api().await?.routers().await?;
    let mut table = Table::new(&[
        "LABEL",
        "NAME",
        "STATE",
        "LIVE",
        "PUSHED",
        "TOOK",
        "INSTANCES",
        "ADDRESS",
        "SOFTWARE",
    ]);
    let mut refusals = String::new();
    for router in &routers {
        let state = match (router.connected, router.live_generation == generation) {
            (false, _) => "away",
            (true, true) => "live",
            (true, false) => "behind",
        };
        table.row([
            label(router.label),
            router.name.clone(),
            state.to_owned(),
            router.live_generation.to_string(),
            router.pushed_generation.to_string(),
            format!("{:.1} ms", router.live_took_us as f64 / 1e3),
            router.instances.to_string(),
            router.address.clone(),
            router.software.clone(),
        ]);
        for reason in &router.rejected_reasons {
            let refused = router.rejected_generation;
            refusals.push_str(&format!(
                "{} refused generation {refused}: {reason}\n",
                router.name
            ));
        }
    }
    let live = routers
        .iter()
        .filter(|router| router.live_generation == generation)
        .count();
    let summary = format!(
        "generation {generation} is live on {live} of {}\n",
        routers.len()
    );
    let nothing = "no routers; register one with `caplane router add NAME`";
    let text = format!("{}{summary}{refusals}", table.render(nothing));
    let all: Vec<Value> = routers.iter().map(router_json).collect();
    let json = json!({ "routers": all, "generation": generation, "live": live });
    Ok(Output::new("caplane.routers/1", json, text))
}

pub(super) fn router_json(router: &v1::Router) -> Value {
    json!({
        "name": router.name, "uri": router.uri, "label": label(router.label),
        "address": router.address, "connected": router.connected,
        "live_generation": router.live_generation, "pushed_generation": router.pushed_generation,
        "live_took_us": router.live_took_us, "instances": router.instances,
        "software": router.software, "rejected_generation": router.rejected_generation,
        "rejected_reasons": router.rejected_reasons,
    })
}

pub(super) fn link_json(link: &v1::Link) -> Value {
    json!({ "a": link.a, "b": link.b, "cost": link.cost })
}

pub(super) async fn links(settings: &Settings, command: LinkCommand) -> Result<Output, Failure> {
    let api = settings.api().await?;
    match command {
        LinkCommand::Add { a, b, cost } => {
            let link = v1::Link {
                a: a.clone(),
                b: b.clone(),
                cost,
            };
            let written = api.insert(Kind::Link(link)).await?;
            let place = written::place(&written);
            let text = format!("linked: {a} - {b} at cost {cost} {place}\n");
            let json = json!({ "a": a, "b": b, "cost": cost });
            written::output("caplane.link/1", &written, json, text)
        }
        LinkCommand::Remove { a, b } => {
            let link = v1::Link {
                a: a.clone(),
                b: b.clone(),
                cost: 0,
            };
            let written = api.delete(Kind::Link(link)).await?;
            let text = format!("removed: link {a} - {b} {}\n", written::place(&written));
            let json = json!({ "a": a, "b": b });
            written::output("caplane.link/1", &written, json, text)
        }
        LinkCommand::List => {
            let read = api.read(ReadKind::Link, "").await?;
            let mut table = Table::new(&["A", "B", "COST"]);
            let mut all = Vec::new();
            for entity in &read.entities {
                let Kind::Link(link) = entity else { continue };
                table.row([link.a.clone(), link.b.clone(), link.cost.to_string()]);
                all.push(link_json(link));
            }
            let nothing = "no links; declare one with `caplane link add A B`";
            let json = json!({ "links": all, "generation": read.generation });
            Ok(Output::new("caplane.links/1", json, table.render(nothing)))
        }
    }
}
