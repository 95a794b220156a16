//! Paths that lose, reorder and move, sockets that are full, systems without offload.

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use caplane_transport::{EndpointConfig, PeerId};
use support::relay::Relay;
use support::*;

fn send_all(
    node: &mut Node,
    peer: PeerId,
    lane: caplane_transport::LaneTx,
    next: &mut u32,
    goal: u32,
) {
    while *next < goal && node.endpoint.lane_ready(peer, lane) {
        node.endpoint
            .send_lane(peer, lane, message(*next, 1_000))
            .expect("send");
        *next += 1;
    }
}

fn assert_in_order(node: &Node) {
    for (n, (_, _, bytes)) in node.messages.iter().enumerate() {
        assert_eq!(bytes, &message(n as u32, 1_000));
    }
}

#[test]
fn small_socket_buffers_and_missing_offload_slow_down_and_lose_nothing() {
    for (offload, buffer) in [(true, 16_384), (false, 4 << 20), (false, 16_384)] {
        let mut pair = Pair::new(v4(), |config| {
            config.offload = offload;
            config.socket_buffer_bytes = buffer;
            config.silence = Some(Duration::from_secs(10));
        });
        let (lane, to_server) = (pair.lane(), pair.to_server);
        let mut next = 0;
        pair.drive("3,000 messages", |client, server| {
            send_all(client, to_server, lane, &mut next, 3_000);
            server.messages.len() == 3_000
        });
        assert_in_order(&pair.server);
        let counters = pair.client.endpoint.counters();
        if !offload {
            assert_eq!(counters.send_calls, counters.packets_sent);
        }
    }
}

struct Relayed {
    client: Node,
    server: Node,
    relay: Relay,
    to_server: PeerId,
}

fn relayed(lose: u32, reorder: u32) -> Relayed {
    let ca = Ca::new("test root");
    let config = |name: &str| {
        let mut config = EndpointConfig::new(v4(), ca.credentials(name));
        config.stream_window = 128 << 10;
        config.connection_window = 128 << 10;
        config.udp_payload_max = 1_400;
        config.silence = Some(Duration::from_secs(10));
        config
    };
    let mut server = Node::bind(config("router/one"));
    let mut client = Node::bind(config("agent/one"));
    let mut relay = Relay::new(server.address(), lose, reorder);
    let through = relay.inside.local_addr().expect("an address");
    let to_server = client
        .endpoint
        .connect(through, Some(&uri("router/one")))
        .expect("connect");
    drive([&mut client, &mut server], "connected", |[client, _]| {
        relay.pump();
        client.endpoint.peer_uri(to_server).is_some()
    });
    Relayed {
        client,
        server,
        relay,
        to_server,
    }
}

#[test]
fn loss_and_reordering_delay_and_lose_nothing() {
    let Relayed {
        mut client,
        mut server,
        mut relay,
        to_server,
    } = relayed(20, 7);
    let lane = client.endpoint.open_lane(to_server, CLASS).expect("open");
    let mut next = 0;
    drive(
        [&mut client, &mut server],
        "2,000 messages",
        |[client, server]| {
            relay.pump();
            send_all(client, to_server, lane, &mut next, 2_000);
            server.messages.len() == 2_000
        },
    );
    assert_in_order(&server);
    assert_eq!(server.endpoint.counters().copied_bytes, 0);
}

#[test]
fn a_peer_whose_address_changes_stays_the_same_peer() {
    let Relayed {
        mut client,
        mut server,
        mut relay,
        to_server,
    } = relayed(0, 0);
    let lane = client.endpoint.open_lane(to_server, CLASS).expect("open");
    let mut next = 0;
    for goal in [500, 1_000, 1_500] {
        drive(
            [&mut client, &mut server],
            "500 messages",
            |[client, server]| {
                relay.pump();
                send_all(client, to_server, lane, &mut next, goal);
                server.messages.len() == goal as usize
            },
        );
        relay.rebind();
    }
    assert_in_order(&server);
    let peers: Vec<_> = server.endpoint.peers().collect();
    assert_eq!(peers.len(), 1);
    assert_eq!(server.endpoint.counters().connected, 1);
}

#[test]
fn slots_are_reused_and_stale_names_are_refused() {
    let mut pair = Pair::new(v4(), |config| config.peers_max = 2);
    let first = pair.to_server;
    for round in 1..=5 {
        pair.client.endpoint.close(pair.to_server, 0, "again");
        let server = pair.server.address();
        let mut again = None;
        pair.drive("the slot is free", |client, _| {
            again = again.or_else(|| client.endpoint.connect(server, None).ok());
            again.is_some_and(|peer| client.endpoint.peer_uri(peer).is_some())
        });
        pair.to_server = again.expect("connected");
        assert_ne!(pair.to_server, first);
        assert!(
            pair.client.endpoint.peer_uri(first).is_none(),
            "round {round}"
        );
        assert!(pair.client.endpoint.open_lane(first, CLASS).is_err());
    }
    assert_eq!(pair.client.endpoint.peers().count(), 1);
}

#[test]
fn a_hundred_peers_send_at_once() {
    let ca = Ca::new("test root");
    let mut server = Node::bind(EndpointConfig::new(v4(), ca.credentials("router/one")));
    let mut client = Node::bind(EndpointConfig::new(v4(), ca.credentials("agent/one")));
    let peers: Vec<_> = (0..100)
        .map(|_| {
            client
                .endpoint
                .connect(server.address(), None)
                .expect("connect")
        })
        .collect();
    drive(
        [&mut client, &mut server],
        "connected",
        |[client, server]| {
            client.endpoint.counters().connected == 100
                && server.endpoint.counters().connected == 100
        },
    );
    for peer in &peers {
        let lane = client.endpoint.open_lane(*peer, CLASS).expect("open");
        let run: Vec<u8> = (0..10).flat_map(|n| message(n, 1_000)).collect();
        client
            .endpoint
            .send_lane(*peer, lane, run.into())
            .expect("send");
    }
    drive(
        [&mut client, &mut server],
        "1,000 messages",
        |[_, server]| server.messages.len() == 1_000,
    );
    // Whoever reads next continues in the slab of who read last: a hundred small readers do not need a hundred slabs.
    server.messages.clear();
    assert!(server.endpoint.counters().slabs < 20);
}

#[test]
fn a_restarted_endpoint_tells_its_old_peers_at_once() {
    let ca = Ca::new("test root");
    let credentials = ca.credentials("router/one");
    let mut server = Node::bind(EndpointConfig::new(v4(), credentials.clone()));
    let address = server.address();
    let mut config = EndpointConfig::new(v4(), ca.credentials("agent/one"));
    config.silence = None;
    let mut client = Node::bind(config);
    let peer = client.endpoint.connect(address, None).expect("connect");
    drive([&mut client, &mut server], "connected", |[client, _]| {
        client.endpoint.peer_uri(peer).is_some()
    });
    let lane = client.endpoint.open_lane(peer, CLASS).expect("open");
    // As by SIGKILL: no goodbye, and the same port and key again.
    drop(server);
    let mut server = Node::bind(EndpointConfig::new(address, credentials));
    client
        .endpoint
        .send_lane(peer, lane, message(0, 1_000))
        .expect("send");
    let started = std::time::Instant::now();
    drive([&mut client, &mut server], "told", |[client, _]| {
        client.endpoint.peer_uri(peer).is_none()
    });
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_peer_that_leaves_many_messages_unfinished_does_not_starve_the_others() {
    let ca = Ca::new("test root");
    let mut config = EndpointConfig::new(v4(), ca.credentials("router/one"));
    config.slabs_max = 6;
    config.slabs_per_peer_max = 4;
    let mut server = Node::bind(config);
    // Messages kept would keep their slabs.
    server.keep = false;
    let mut client = Node::bind(EndpointConfig::new(v4(), ca.credentials("agent/one")));
    let greedy = client
        .endpoint
        .connect(server.address(), None)
        .expect("connect");
    let modest = client
        .endpoint
        .connect(server.address(), None)
        .expect("connect");
    drive(
        [&mut client, &mut server],
        "connected",
        |[client, server]| {
            client.endpoint.counters().connected == 2 && server.endpoint.counters().connected == 2
        },
    );
    let lanes: Vec<_> = (0..12)
        .map(|n| {
            let lane = client.endpoint.open_lane(greedy, CLASS).expect("open");
            let begun = message(n, 60_000).slice(..10_000);
            client
                .endpoint
                .send_lane(greedy, lane, begun)
                .expect("send");
            lane
        })
        .collect();
    drive([&mut client, &mut server], "begun", |[client, _]| {
        client.endpoint.acked(greedy)
    });
    let lane = client.endpoint.open_lane(modest, CLASS).expect("open");
    for n in 0..20 {
        drive([&mut client, &mut server], "room", |[client, _]| {
            client.endpoint.lane_ready(modest, lane)
        });
        client
            .endpoint
            .send_lane(modest, lane, message(n, 50_000))
            .expect("send");
    }
    drive([&mut client, &mut server], "20 messages", |[_, server]| {
        server.consumed == 20 * 50_000
    });
    // In the end every lane comes to its turn: idle tails are moved out of their slabs, and finished messages free them.
    for (n, lane) in lanes.iter().enumerate() {
        drive([&mut client, &mut server], "room", |[client, _]| {
            client.endpoint.lane_ready(greedy, *lane)
        });
        let rest = message(n as u32, 60_000).slice(10_000..);
        client
            .endpoint
            .send_lane(greedy, *lane, rest)
            .expect("send");
    }
    drive([&mut client, &mut server], "all messages", |[_, server]| {
        server.consumed == 20 * 50_000 + 12 * 60_000
    });
    assert!(server.endpoint.counters().slabs <= 6);
}

#[test]
fn one_dual_stack_socket_serves_and_dials_both_families() {
    let ca = Ca::new("test root");
    let any = "[::]:0".parse().expect("an address");
    let mut config = EndpointConfig::new(any, ca.credentials("router/one"));
    config.dual_stack = true;
    let mut server = Node::bind(config);
    let port = server.address().port();
    let mut config = EndpointConfig::new(any, ca.credentials("agent/one"));
    config.dual_stack = true;
    let mut client = Node::bind(config);
    for host in ["127.0.0.1", "[::1]"] {
        let remote: SocketAddr = format!("{host}:{port}").parse().expect("an address");
        let peer = client
            .endpoint
            .connect(remote, Some(&uri("router/one")))
            .expect("connect");
        let mut seen = None;
        drive(
            [&mut client, &mut server],
            "connected",
            |[client, server]| {
                seen = seen.or_else(|| {
                    server.take(|event| match event {
                        caplane_transport::Event::Connected { address, .. } => Some(*address),
                        _ => None,
                    })
                });
                seen.is_some() && client.endpoint.peer_uri(peer).is_some()
            },
        );
        // An IPv4 peer is shown as one, not as a mapped address.
        assert_eq!(seen.expect("connected").is_ipv4(), remote.is_ipv4());
        let lane = client.endpoint.open_lane(peer, CLASS).expect("open");
        client
            .endpoint
            .send_lane(peer, lane, message(0, 20_000))
            .expect("send");
        server.messages.clear();
        drive([&mut client, &mut server], "the message", |[_, server]| {
            server.messages.len() == 1
        });
    }
    // Without dual stack the other family cannot be reached, and that is said at once.
    let mut client = Node::bind(EndpointConfig::new(v6(), ca.credentials("agent/one")));
    let remote = format!("127.0.0.1:{port}").parse().expect("an address");
    let error = client
        .endpoint
        .connect(remote, None)
        .expect_err("another family");
    assert!(error.to_string().contains("dual_stack"), "{error}");
}
