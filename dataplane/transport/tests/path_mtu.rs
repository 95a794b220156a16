//! Path MTU: found on loopback, lost and found again behind a relay that swallows large packets.

mod support;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use caplane_transport::EndpointConfig;
use support::*;

#[test]
fn discovery_reaches_the_largest_packet_on_loopback() {
    for listen in [v4(), v6()] {
        let mut pair = Pair::new(listen, |_| {});
        let (to_server, to_client) = (pair.to_server, pair.to_client);
        pair.drive("16,368 bytes both ways", |client, server| {
            client.endpoint.peer_udp_payload(to_server) == Some(16_368)
                && server.endpoint.peer_udp_payload(to_client) == Some(16_368)
        });
        assert_eq!(pair.client.endpoint.counters().sends_too_large, 0);
    }
}

#[test]
fn a_fixed_size_is_used_from_the_start() {
    let mut pair = Pair::new(v4(), |config| {
        config.pmtud = false;
        config.udp_payload_fixed = Some(1_350);
    });
    let (lane, to_server) = (pair.lane(), pair.to_server);
    let before = pair.client.endpoint.counters().clone();
    pair.client
        .endpoint
        .send_lane(to_server, lane, message(0, 60_000))
        .expect("send");
    pair.drive("the message", |_, server| server.messages.len() == 1);
    let counters = pair.client.endpoint.counters();
    let packets = counters.packets_sent - before.packets_sent;
    let bytes = counters.bytes_sent - before.bytes_sent;
    assert!(bytes / packets > 1_200 && bytes / packets <= 1_350);
    assert!(
        counters.send_calls - before.send_calls < packets / 4,
        "trains are used"
    );
}

/// A relay between two endpoints that drops what is longer than its limit, without a word.
struct Relay {
    socket: UdpSocket,
    server: SocketAddr,
    client: Option<SocketAddr>,
    limit: usize,
    dropped: usize,
}

impl Relay {
    fn new(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        socket.set_nonblocking(true).expect("non-blocking");
        Self {
            socket,
            server,
            client: None,
            limit: usize::MAX,
            dropped: 0,
        }
    }

    fn pump(&mut self) {
        let mut buffer = [0; 65_536];
        while let Ok((length, from)) = self.socket.recv_from(&mut buffer) {
            let to = if from == self.server {
                self.client
            } else {
                self.client = Some(from);
                Some(self.server)
            };
            if length > self.limit {
                self.dropped += 1;
                continue;
            }
            if let Some(to) = to {
                let _ = self.socket.send_to(&buffer[..length], to);
            }
        }
    }
}

#[test]
fn a_path_that_begins_to_swallow_large_packets_does_not_stall() {
    let ca = Ca::new("test root");
    let config = |name: &str| {
        let mut config = EndpointConfig::new(v4(), ca.credentials(name));
        // The relay's socket buffer is the system's default, 208 KB: leave room in it.
        config.connection_window = 128 << 10;
        config.stream_window = 128 << 10;
        config.udp_payload_max = 8_000;
        config.silence = Some(Duration::from_secs(10));
        config
    };
    let mut server = Node::bind(config("router/one"));
    let mut client = Node::bind(config("agent/one"));
    let mut relay = Relay::new(server.address());
    let through = relay.socket.local_addr().expect("an address");
    let to_server = client
        .endpoint
        .connect(through, Some(&uri("router/one")))
        .expect("connect");
    let mut sent = 0_u32;
    let mut lane = None;
    for (limit, largest) in [(usize::MAX, 8_000), (1_400, 1_400), (1_250, 1_250)] {
        relay.limit = limit;
        let goal = sent + 2_000;
        let started = std::time::Instant::now();
        drive(
            [&mut client, &mut server],
            "2,000 messages",
            |[client, server]| {
                relay.pump();
                if client.endpoint.peer_uri(to_server).is_some() {
                    let lane = *lane.get_or_insert_with(|| {
                        client.endpoint.open_lane(to_server, CLASS).expect("open")
                    });
                    while sent < goal && client.endpoint.lane_ready(to_server, lane) {
                        client
                            .endpoint
                            .send_lane(to_server, lane, message(sent, 1_000))
                            .expect("send");
                        sent += 1;
                    }
                }
                let size = client.endpoint.peer_udp_payload(to_server).unwrap_or(0);
                server.messages.len() == goal as usize
                    && size <= largest
                    && (limit == usize::MAX || size > 1_200)
            },
        );
        eprintln!(
            "limit {limit}: {:?}, payload {:?}, doubts {}, dropped {}",
            started.elapsed(),
            client.endpoint.peer_udp_payload(to_server),
            client.endpoint.counters().path_mtu_black_holes,
            relay.dropped,
        );
    }
    for (n, (_, _, bytes)) in server.messages.iter().enumerate() {
        assert_eq!(bytes, &message(n as u32, 1_000));
    }
    assert!(client.endpoint.counters().path_mtu_black_holes >= 1);
}
