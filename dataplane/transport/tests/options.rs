//! Options of an endpoint: kinds of keys, the interface, the address it answers from, busy polling, slabs for a neighbour.

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use caplane_transport::{Credentials, Endpoint, EndpointConfig};
use support::*;

#[test]
fn a_wildcard_socket_answers_from_the_address_that_was_asked() {
    for (listen, dual_stack, from, hosts) in [
        (
            "0.0.0.0:0",
            false,
            "127.0.0.1:0",
            &["127.0.0.1", "127.0.0.2", "127.9.8.7"][..],
        ),
        ("[::]:0", true, "127.0.0.1:0", &["127.0.0.1", "127.0.0.3"]),
        ("[::]:0", true, "[::1]:0", &["[::1]"]),
    ] {
        for workers in [1, 2] {
            let ca = Ca::new("test root");
            let listen = listen.parse().expect("an address");
            let mut config = EndpointConfig::new(listen, ca.credentials("router/one"));
            config.dual_stack = dual_stack;
            // Every new connection is asked to prove its address: that answer, too, must come from the right one.
            config.retry_threshold = 0;
            let group = Endpoint::bind_group(config, workers).expect("bind");
            let mut group: Vec<Node> = group.into_iter().map(Node::new).collect();
            let port = group[0].address().port();
            let from: SocketAddr = from.parse().expect("an address");
            let mut client = Node::bind(EndpointConfig::new(from, ca.credentials("agent/one")));
            for host in hosts {
                let to = format!("{host}:{port}").parse().expect("an address");
                let peer = client.endpoint.connect(to, None).expect("connect");
                let mut all: Vec<&mut Node> = vec![&mut client];
                all.extend(&mut group);
                drive_all(&mut all, host, |all| {
                    all[0].endpoint.peer_uri(peer).is_some()
                });
                assert_eq!(client.endpoint.peer_address(peer), Some(to));
            }
        }
    }
}

#[test]
fn an_interface_is_bound_to_and_a_missing_one_is_named() {
    let mut pair = Pair::new(v4(), |config| config.interface = Some("lo".into()));
    let (lane, to_server) = (pair.lane(), pair.to_server);
    let sent = pair
        .client
        .endpoint
        .send_lane(to_server, lane, message(0, 1_000));
    sent.expect("send");
    pair.drive("the message", |_, server| server.messages.len() == 1);
    for workers in [1, 3] {
        let ca = Ca::new("test root");
        let mut config = EndpointConfig::new(v4(), ca.credentials("router/one"));
        config.interface = Some("no-such-device".into());
        let error = Endpoint::bind_group(config, workers).err();
        let error = error.expect("no such device").to_string();
        assert!(error.contains("interface no-such-device"), "{error}");
    }
}

#[test]
fn busy_polling_takes_what_comes_and_still_sleeps() {
    let mut pair = Pair::new(v4(), |config| config.busy_poll = Duration::from_millis(1));
    let (lane, to_server) = (pair.lane(), pair.to_server);
    for n in 0..50 {
        let sent = pair
            .client
            .endpoint
            .send_lane(to_server, lane, message(n, 1_000));
        sent.expect("send");
        pair.drive("the message", |_, server| {
            server.messages.len() == n as usize + 1
        });
    }
    pair.drive("silence", |client, server| {
        client.endpoint.acked(to_server)
            && server
                .endpoint
                .acked(server.endpoint.peers().next().expect("a peer"))
    });
    // What a wait in silence costs: as long as it is to look, no longer, and next to nothing without.
    for (busy_poll_ms, cpu_ms) in [(100, 30..=150), (0, 0..=20)] {
        let busy_poll = Duration::from_millis(busy_poll_ms);
        let mut pair = Pair::new(v4(), |config| config.busy_poll = busy_poll);
        let to_server = pair.to_server;
        pair.drive("silence", |client, _| client.endpoint.acked(to_server));
        let (begun, before) = (Instant::now(), thread_cpu());
        while begun.elapsed() < Duration::from_millis(400) {
            // Timers may end a wait sooner, and the next one looks anew.
            pair.server
                .tick(Duration::from_millis(400) - begun.elapsed().min(Duration::from_millis(400)));
        }
        let spent = (thread_cpu() - before).as_millis();
        assert!(
            cpu_ms.contains(&spent),
            "{busy_poll_ms} ms of looking: {spent} ms"
        );
    }
}

/// CPU time of this thread.
fn thread_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("schedstat");
    let ns = stat.split(' ').next().and_then(|ns| ns.parse().ok());
    Duration::from_nanos(ns.expect("nanoseconds"))
}

#[test]
fn a_peer_may_be_given_more_slabs_than_the_others() {
    let mut pair = Pair::new(v4(), |config| config.slabs_per_peer_max = 2);
    pair.server.hold = true;
    let (to_client, to_server) = (pair.to_client, pair.to_server);
    for n in 0..6 {
        let lane = pair.lane();
        let sent = pair
            .client
            .endpoint
            .send_lane(to_server, lane, message(n, 1_000));
        sent.expect("send");
    }
    pair.drive("acknowledged", |client, _| client.endpoint.acked(to_server));
    let taken = |node: &Node| node.endpoint.counters().lane_bytes_received;
    pair.drive("two lanes", |_, server| taken(server) >= 2_000);
    for _ in 0..20 {
        pair.server.tick(Duration::ZERO);
    }
    assert_eq!(taken(&pair.server), 2_000);
    pair.server.endpoint.set_slabs_max(to_client, 6);
    pair.drive("six lanes", |_, server| taken(server) == 6_000);
}

#[test]
fn identities_may_have_keys_of_any_usual_kind() {
    let ca = Ca::new("test root");
    let edwards = Ca::with_keys("another root", KeyKind::Ed25519);
    let mut trust = ca.trust();
    trust
        .add_pem(DOMAIN, edwards.pem.as_bytes())
        .expect("a second root");
    let name = [&uri("agent/one")[..]];
    let identities = [
        ca.issue(&name, |_| {}),
        edwards.issue(&name, |_| {}),
        ca.issue_rsa(&name, |_| {}),
    ]
    .map(|(chain, key)| {
        Credentials::from_pem(chain.as_bytes(), key.as_bytes(), trust.clone()).expect("credentials")
    });
    for accepting in &identities {
        for dialling in &identities {
            let mut server = Node::bind(EndpointConfig::new(v4(), accepting.clone()));
            let mut client = Node::bind(EndpointConfig::new(v4(), dialling.clone()));
            let dialled = client.endpoint.connect(server.address(), None);
            let peer = dialled.expect("connect");
            drive([&mut client, &mut server], "connected", |[client, _]| {
                client.endpoint.peer_uri(peer).is_some()
            });
        }
    }
}
