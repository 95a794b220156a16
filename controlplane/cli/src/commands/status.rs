//! `caplane status`: which controller answers, which one leads, and where its store stands.

use caplane_proto::v1;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::{Output, clean};
use crate::settings::Settings;

/// Asks the first controller that can be reached.
pub(super) async fn show(settings: &Settings) -> Result<Output, Failure> {
    let status = settings.api().await?.status().await?;
    Ok(Output::new(
        "caplane.status/1",
        as_json(&status),
        text(&status),
    ))
}

fn as_json(status: &v1::StatusResponse) -> Value {
    let leader = status.leader.as_ref().map(|leader| {
        json!({
            "name": leader.name, "northbound": leader.northbound, "southbound": leader.southbound,
        })
    });
    json!({
        "name": status.name, "leading": status.leading, "leader": leader,
        "election_id": status.election_id, "store": status.store, "store_id": status.store_id,
        "generation": status.generation, "intent_generation": status.intent_generation,
    })
}

fn text(status: &v1::StatusResponse) -> String {
    let name = clean(&status.name);
    let role = match (&status.leader, status.leading) {
        (_, true) => format!("{name} leads, by election id {}", status.election_id),
        (Some(leader), false) => format!(
            "{name} follows {} (operators: {}, routers: {})",
            clean(&leader.name),
            clean(&leader.northbound),
            clean(&leader.southbound),
        ),
        (None, false) => format!("{name} follows; nobody is known to lead"),
    };
    format!(
        "{role}\nstore {} in {}, generation {}, last write in {}\n",
        status.store_id, status.store, status.generation, status.intent_generation,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_leads_is_named() {
        let mut status = v1::StatusResponse {
            name: "c1".into(),
            leading: true,
            election_id: 9,
            store: "etcd".into(),
            ..v1::StatusResponse::default()
        };
        assert!(text(&status).starts_with("c1 leads, by election id 9\n"));
        status.leading = false;
        assert!(text(&status).starts_with("c1 follows; nobody is known to lead\n"));
        assert_eq!(as_json(&status)["leader"], Value::Null);
        status.leader = Some(v1::NotLeader {
            name: "c2".into(),
            northbound: "a:1".into(),
            southbound: "a:2".into(),
        });
        let told = text(&status);
        assert!(
            told.starts_with("c1 follows c2 (operators: a:1, routers: a:2)\n"),
            "{told}"
        );
        assert_eq!(as_json(&status)["leader"]["northbound"], "a:1");
    }
}
