//! Routers of four workers: peers of one worker reach those of another, in order and exactly once, by lanes, bulk
//! and datagrams; and nothing changes for them when one is killed.

use std::collections::BTreeMap;

use caplane::fabric::FabricConfig;
use caplane_client::{Client, ClientEvent, Flow, FlowOptions};
use caplane_load::impair::{Command, ImpairConfig, Impairer, Scope};
use tokio::task::JoinSet;

use crate::stage::{CONVERSION, Stage, answer, within};

const WORKERS: u8 = 4;
const SERVERS: usize = 6;
const ASKERS: usize = 6;

async fn stage(routers: usize) -> Stage {
    Stage::with(|folder| {
        let config = FabricConfig::line(folder, routers).expect("programs are built");
        config.workers(WORKERS)
    })
    .await
}

async fn cast(stage: &mut Stage, server_at: &str, asker_at: &str) -> (Vec<Client>, Vec<Client>) {
    let server = stage.register("shared", "server", CONVERSION, 100).await;
    let asker = stage.register("shared", "asker", "", 0).await;
    let (mut servers, mut askers) = (Vec::new(), Vec::new());
    for n in 0..SERVERS {
        servers.push(stage.attach(&server, server_at, &format!("s{n}")).await);
    }
    for n in 0..ASKERS {
        askers.push(stage.attach(&asker, asker_at, &format!("a{n}")).await);
    }
    stage.settled((SERVERS + ASKERS) as u32).await;
    (servers, askers)
}

/// Requests of several sizes on several flows of every asker; who answered must stay the same on a flow.
async fn converse(stage: &Stage, askers: &[Client], rounds: usize) {
    let destination = stage.destination(&askers[0], CONVERSION).await;
    let mut talks = JoinSet::new();
    for asker in askers {
        for n in 0..4_usize {
            let flow: Flow = asker.flow(destination, FlowOptions::default());
            talks.spawn(async move {
                let mut served = None;
                for round in 0..rounds {
                    let size = [10, 2_000, 60_000, 300_000][(n + round) % 4];
                    let reply = flow.request(vec![n as u8; size]).await.expect("answered");
                    let from = reply.source();
                    assert_eq!(*served.get_or_insert(from), from, "the flow moved");
                }
                served.map(|from| from.label)
            });
        }
    }
    let served = within("every request is answered", talks.join_all()).await;
    let mut share = BTreeMap::new();
    for label in served {
        *share.entry(label).or_insert(0) += 1;
    }
    assert!(share.len() > 1, "one server had it all: {share:?}");
}

async fn sum(stage: &Stage, routers: &[&str], metric: &str) -> f64 {
    let mut sum = 0.0;
    for router in routers {
        sum += stage.metric(router, metric, &[]).await;
    }
    sum
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_of_different_workers_talk_through_one_router() {
    let mut stage = stage(1).await;
    let (servers, askers) = cast(&mut stage, "r1", "r1").await;
    for server in &servers {
        answer(server, "here");
    }
    converse(&stage, &askers, 12).await;
    let handed = sum(&stage, &["r1"], "router_messages_handed_over_total").await;
    assert!(
        handed > 100.0,
        "{handed} messages went from worker to worker"
    );
    let dropped = sum(&stage, &["r1"], "router_drops_total").await;
    assert_eq!(dropped, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_worker_has_a_link_and_who_comes_and_goes_is_known_to_all() {
    let mut stage = stage(2).await;
    let (mut servers, askers) = cast(&mut stage, "r2", "r1").await;
    for server in &servers {
        answer(server, "there");
    }
    for router in ["r1", "r2"] {
        let links = stage.metric(router, "router_links_alive", &[]).await;
        assert_eq!(links, f64::from(WORKERS), "{router}");
    }
    converse(&stage, &askers, 8).await;
    // One leaves, another attaches again under its name, most likely at another worker.
    servers.remove(0).close().await;
    let server = stage.fabric.issue_agent("shared", "server").expect("again");
    for name in ["s1", "s2", "s3"] {
        let again = stage.attach(&server, "r2", name).await;
        answer(&again, "again");
        servers.push(again);
    }
    stage.settled((SERVERS - 1 + ASKERS) as u32).await;
    converse(&stage, &askers, 8).await;
    let gone = sum(&stage, &["r1", "r2"], "router_packets_unknown_total").await;
    assert!(gone < 1_000.0, "{gone} packets found no connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_address_changes_stays_attached() {
    let mut stage = stage(1).await;
    let server = stage.register("shared", "server", CONVERSION, 0).await;
    let asker = stage.register("shared", "asker", "", 0).await;
    let server = stage.attach(&server, "r1", "one").await;
    answer(&server, "here");
    let router = stage.fabric.router_address("r1").expect("a router");
    let nat = ImpairConfig::to(router.parse().expect("an address"), 7);
    let nat = Impairer::start(nat).expect("a relay");
    let mut config = stage.client_config(&asker, "r1", "roaming");
    config.routers = vec![nat.local_addr().to_string()];
    stage.fabric.wait_live().await.expect("tables are live");
    let asker = Client::attach(config).await.expect("attached");
    let mut events = asker.events();
    stage.settled(2).await;
    let flow = asker.flow(
        stage.destination(&asker, CONVERSION).await,
        FlowOptions::default(),
    );
    for n in 0..60 {
        // Most new ports would be another worker's, were it for the kernel's own choice by address.
        if n % 10 == 9 {
            nat.command(Scope::Both, Command::Rebind);
        }
        let reply = within("answered", flow.request("who?"))
            .await
            .expect("answered");
        assert_eq!(reply.payload().as_ref(), b"here");
    }
    asker.close().await;
    while let Some(event) = events.next().await {
        let lost = matches!(event, ClientEvent::Detached { .. });
        assert!(!lost, "the connection was lost: {event:?}");
        if matches!(event, ClientEvent::Closed(_)) {
            break;
        }
    }
    for metric in ["router_drops_total", "router_packets_missteered_total"] {
        assert_eq!(stage.metric("r1", metric, &[]).await, 0.0, "{metric}");
    }
}
