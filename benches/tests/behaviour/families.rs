//! Agents attach over IPv6 and IPv4 to one router, by lists of addresses of which some are dead.

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

use caplane::fabric::FabricConfig;
use caplane_client::{Client, FlowOptions};

use crate::stage::{CONVERSION, Stage, answer, within};

/// Sends one receipted message to the conversion class and gives the reply's text.
async fn ask(stage: &Stage, client: &Client) -> String {
    let destination = stage.destination(client, CONVERSION).await;
    let flow = client.flow(destination, FlowOptions::default());
    let reply = within("an answer", flow.request("who?")).await;
    String::from_utf8_lossy(reply.expect("answered").payload()).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_routers_is_tried_in_turn_over_both_families() {
    let mut stage = Stage::with(|folder| {
        let mut config = FabricConfig::line(folder, 1).expect("programs are built");
        config.routers[0].listen = Some((Ipv6Addr::UNSPECIFIED, 0).into());
        config.routers[0].advertise = Some("localhost:4433".into()); // it has no neighbours
        config
    })
    .await;
    let bound = stage.fabric.router_address("r1").expect("a router");
    let port: u16 = bound
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok())
        .expect("a port");
    let (v6, v4) = (format!("[::1]:{port}"), format!("127.0.0.1:{port}"));
    // Somebody who never answers, and a port that nobody holds any more.
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let silent_at = silent.local_addr().expect("an address").to_string();
    let closed = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).expect("bind");
    let closed_at = closed.local_addr().expect("an address").to_string();
    drop(closed);

    let server = stage.register("shared", "server", CONVERSION, 0).await;
    let asker = stage.register("shared", "asker", "", 0).await;
    stage.fabric.wait_live().await.expect("tables are live");
    let attach = async |identity, name: &str, routers: [&String; 3]| {
        let mut config = stage.client_config(identity, "r1", name);
        config.routers = routers.map(String::clone).to_vec();
        config.attach_timeout = Duration::from_secs(25);
        let begun = Instant::now();
        let client = Client::attach(config).await.expect("attached");
        let at = client.attachment().expect("attached").router.clone();
        eprintln!("{name} is attached at {at} after {:?}", begun.elapsed());
        (client, at)
    };
    // First a dead one, then IPv6, then IPv4.
    let (server, at) = attach(&server, "six", [&silent_at, &v6, &v4]).await;
    assert_eq!(at, v6);
    // The same where nobody is at the IPv6 address either.
    let (asker, at) = attach(&asker, "four", [&silent_at, &closed_at, &v4]).await;
    assert_eq!(at, v4);
    stage.settled(2).await;
    let _served = answer(&server, "over both");
    assert_eq!(ask(&stage, &asker).await, "over both");
    for client in [server, asker] {
        client.close().await;
    }
}
