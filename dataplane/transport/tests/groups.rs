//! Groups of endpoints on one port: who gets which packet, and what of those that the system cannot tell apart.

mod support;

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use caplane_transport::{Endpoint, EndpointConfig, EndpointError, PeerId};
use socket2::{MsgHdr, SockAddr, Socket};
use support::relay::Relay;
use support::*;

fn group(ca: &Ca, listen: SocketAddr, workers: u8, dual_stack: bool) -> Vec<Node> {
    group_with_window(ca, listen, workers, dual_stack, 128 << 10)
}

/// `window`: of a stream and of a connection. The relays' socket buffers are the system's default, 208 KB: all windows must fit.
fn group_with_window(
    ca: &Ca,
    listen: SocketAddr,
    workers: u8,
    dual_stack: bool,
    window: u64,
) -> Vec<Node> {
    let mut config = EndpointConfig::new(listen, ca.credentials("router/one"));
    config.dual_stack = dual_stack;
    (config.stream_window, config.connection_window) = (window, window);
    // What is lost all the same may take a while on a busy machine.
    config.silence = Some(Duration::from_secs(10));
    let group = Endpoint::bind_group(config, workers).expect("bind a group");
    group.into_iter().map(Node::new).collect()
}

fn client(ca: &Ca, listen: SocketAddr) -> Node {
    let mut config = EndpointConfig::new(listen, ca.credentials("agent/one"));
    config.accept = false;
    config.udp_payload_max = 1_400;
    config.silence = Some(Duration::from_secs(10));
    Node::bind(config)
}

fn connected(nodes: &[Node]) -> Vec<u64> {
    let count = |node: &Node| node.endpoint.counters().connected;
    nodes.iter().map(count).collect()
}

/// Drives both, and `also` between ticks.
fn run(
    client: &mut Node,
    group: &mut [Node],
    what: &str,
    mut done: impl FnMut(&mut Node, &mut [&mut Node]) -> bool,
) {
    let mut all: Vec<&mut Node> = Vec::new();
    all.push(client);
    all.extend(group);
    drive_all(&mut all, what, |all| {
        let (client, group) = all.split_first_mut().expect("a client");
        done(client, group)
    });
}

#[test]
fn connections_go_to_the_worker_that_their_first_id_names() {
    for (listen, dial, dual_stack) in [
        ("127.0.0.1:0", "127.0.0.1:0", false),
        ("[::1]:0", "[::1]:0", false),
        ("[::]:0", "127.0.0.1:0", true),
        ("[::]:0", "[::1]:0", true),
    ] {
        let ca = Ca::new("test root");
        let mut workers = group(&ca, listen.parse().expect("an address"), 4, dual_stack);
        let dial: SocketAddr = dial.parse().expect("an address");
        let to = SocketAddr::new(dial.ip(), workers[0].address().port());
        for node in &workers {
            assert_eq!(node.address(), workers[0].address());
        }
        let mut expected = vec![0; 4];
        for byte in [3, 0, 1, 2, 2, 5, 255] {
            let mut client = client(&ca, dial);
            let name = uri("router/one");
            let dialled = client.endpoint.connect_to_worker(to, Some(&name), byte);
            let peer = dialled.expect("connect");
            run(&mut client, &mut workers, "connected", |client, _| {
                client.endpoint.peer_uri(peer).is_some()
            });
            expected[usize::from(byte) % 4] += 1;
            assert_eq!(connected(&workers), expected, "{listen} from {dial}");
        }
        // Without a wish the first id is random: 64 of them reach every worker, but for one run in 10 million.
        let mut client = client(&ca, dial);
        for _ in 0..64 {
            client.endpoint.connect(to, None).expect("connect");
        }
        run(&mut client, &mut workers, "64 connected", |client, _| {
            client.endpoint.counters().connected == 64
        });
        for (node, before) in workers.iter().zip(&expected) {
            assert!(node.endpoint.counters().connected > *before);
        }
    }
}

#[test]
fn a_peer_whose_address_changes_stays_with_its_worker() {
    let ca = Ca::new("test root");
    let mut workers = group(&ca, v4(), 4, false);
    let mut client = client(&ca, v4());
    let mut relay = Relay::new(workers[0].address(), 0, 0);
    let through = relay.inside.local_addr().expect("an address");
    let dialled = client.endpoint.connect_to_worker(through, None, 2);
    let peer = dialled.expect("connect");
    run(&mut client, &mut workers, "connected", |client, _| {
        relay.pump();
        client.endpoint.peer_uri(peer).is_some()
    });
    let lane = client.endpoint.open_lane(peer, CLASS).expect("open");
    let mut sent = 0_u32;
    for address in 1..=7 {
        let goal = sent + 300;
        run(
            &mut client,
            &mut workers,
            "300 messages",
            |client, workers| {
                relay.pump();
                while sent < goal && client.endpoint.lane_ready(peer, lane) {
                    let taken = client.endpoint.send_lane(peer, lane, message(sent, 1_000));
                    taken.expect("send");
                    sent += 1;
                }
                workers[2].messages.len() == goal as usize
            },
        );
        assert_eq!(connected(&workers), [0, 0, 1, 0], "address {address}");
        relay.rebind();
    }
    for (n, (_, _, bytes)) in workers[2].messages.iter().enumerate() {
        assert_eq!(bytes, &message(n as u32, 1_000));
    }
    for node in &workers {
        assert_eq!(node.endpoint.counters().packets_missteered, 0);
    }
}

/// Sends a client's packets on as trains that mix connections: what GRO makes of packets of one address.
struct Merger {
    socket: UdpSocket,
    server: SocketAddr,
    client: Option<SocketAddr>,
    kept: Vec<Vec<u8>>,
    mixed: usize,
}

impl Merger {
    fn new(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        socket.set_nonblocking(true).expect("non-blocking");
        Self {
            socket,
            server,
            client: None,
            kept: Vec::new(),
            mixed: 0,
        }
    }

    fn pump(&mut self) {
        let mut buffer = vec![0; 65_536];
        while let Ok((length, from)) = self.socket.recv_from(&mut buffer) {
            let packet = &buffer[..length];
            if from == self.server {
                let client = self.client.expect("the client spoke first");
                let _ = self.socket.send_to(packet, client);
            } else {
                self.client = Some(from);
                self.kept.push(packet.to_vec());
            }
        }
        // Equal ones together, and of those the ids in turn.
        self.kept
            .sort_by_key(|packet| (packet.len(), packet[packet.len() - 1]));
        let kept = std::mem::take(&mut self.kept);
        for train in kept.chunk_by(|a, b| a.len() == b.len()) {
            let most = (65_000 / train[0].len()).min(64);
            for train in train.chunks(most) {
                self.mixed += usize::from(train.iter().any(|p| p[1] != train[0][1]));
                self.send(train).expect("send a train");
            }
        }
    }

    fn send(&self, train: &[Vec<u8>]) -> io::Result<usize> {
        const SOL_UDP: i32 = 17;
        const UDP_SEGMENT: i32 = 103;
        let mut control = Vec::new();
        control.extend_from_slice(&18_usize.to_ne_bytes());
        control.extend_from_slice(&SOL_UDP.to_ne_bytes());
        control.extend_from_slice(&UDP_SEGMENT.to_ne_bytes());
        control.extend_from_slice(&(train[0].len() as u16).to_ne_bytes());
        control.resize(24, 0);
        let to = SockAddr::from(self.server);
        let data = train.concat();
        let buffers = [io::IoSlice::new(&data)];
        let message = MsgHdr::new()
            .with_addr(&to)
            .with_buffers(&buffers)
            .with_control(&control);
        Socket::from(self.socket.try_clone()?).sendmsg(&message, 0)
    }
}

#[test]
fn packets_in_the_wrong_batch_reach_their_worker() {
    let ca = Ca::new("test root");
    let mut workers = group_with_window(&ca, v4(), 4, false, 12 << 10);
    let mut client = client(&ca, v4());
    let mut merger = Merger::new(workers[0].address());
    let through = merger.socket.local_addr().expect("an address");
    let peers: Vec<PeerId> = (0..16)
        .map(|n| {
            let dialled = client.endpoint.connect_to_worker(through, None, n);
            dialled.expect("connect")
        })
        .collect();
    run(&mut client, &mut workers, "connected", |client, _| {
        merger.pump();
        client.endpoint.counters().connected == 16
    });
    // First packets that came by way of another worker, and perhaps again, made one connection each.
    assert_eq!(connected(&workers), [4; 4]);
    let mut lanes: Vec<_> = peers
        .iter()
        .map(|peer| {
            let lane = client.endpoint.open_lane(*peer, CLASS).expect("open");
            (*peer, lane, 0_u32)
        })
        .collect();
    run(
        &mut client,
        &mut workers,
        "200 messages each",
        |client, workers| {
            merger.pump();
            for (peer, lane, sent) in &mut lanes {
                while *sent < 200 && client.endpoint.lane_ready(*peer, *lane) {
                    let taken = client
                        .endpoint
                        .send_lane(*peer, *lane, message(*sent, 1_000));
                    taken.expect("send");
                    *sent += 1;
                }
            }
            workers.iter().all(|node| node.messages.len() == 4 * 200)
        },
    );
    // What was sent on last may still be on its way.
    run(&mut client, &mut workers, "taken over", |_, workers| {
        let counters = workers.iter().map(|node| node.endpoint.counters());
        let (on, over) = counters.fold((0, 0), |(on, over), c| {
            (on + c.packets_missteered, over + c.packets_taken_over)
        });
        on > 0 && on == over
    });
    assert!(merger.mixed > 0, "trains that mix workers were sent");
    let sum = |count: fn(&caplane_transport::Counters) -> u64| -> u64 {
        workers
            .iter()
            .map(|node| count(node.endpoint.counters()))
            .sum()
    };
    assert_eq!(sum(|c| c.packets_ring_full), 0);
    for node in &workers {
        let from: HashSet<PeerId> = node.messages.iter().map(|(peer, ..)| *peer).collect();
        assert_eq!(from.len(), 4);
    }
}

#[test]
fn two_groups_dial_each_other_worker_to_worker() {
    let ca = Ca::new("test root");
    let mut one = group(&ca, v4(), 2, false);
    let mut two = group(&ca, v4(), 3, false);
    let to = two[0].address();
    let mut dialled = Vec::new();
    for (here, node) in one.iter_mut().enumerate() {
        for there in 0..3 {
            let name = uri("router/one");
            let peer = node
                .endpoint
                .connect_to_worker(to, Some(&name), there)
                .expect("connect");
            dialled.push((here, peer));
        }
    }
    let mut all: Vec<&mut Node> = one.iter_mut().chain(two.iter_mut()).collect();
    drive_all(&mut all, "connected", |all| {
        all.iter()
            .map(|n| n.endpoint.counters().connected)
            .eq([3, 3, 2, 2, 2])
    });
    for (here, peer) in dialled {
        let node = &mut all[here];
        let lane = node.endpoint.open_lane(peer, CLASS).expect("open");
        let run: Vec<u8> = (0..20).flat_map(|n| message(n, 1_000)).collect();
        let taken = node.endpoint.send_lane(peer, lane, run.into());
        taken.expect("send");
    }
    drive_all(&mut all, "20 messages each", |all| {
        all[2..].iter().all(|node| node.messages.len() == 40)
    });
    // The two workers dial from ports of their own, which are not the one they listen on.
    let mut ports: HashSet<SocketAddr> = HashSet::new();
    for node in &all[2..] {
        let endpoint = &node.endpoint;
        ports.extend(endpoint.peers().filter_map(|p| endpoint.peer_address(p)));
    }
    assert_eq!(ports.len(), 2);
    assert!(!ports.contains(&all[0].address()));
    for node in &all {
        assert_eq!(node.endpoint.counters().packets_missteered, 0);
    }
}

#[test]
fn a_port_in_use_is_refused_and_never_joined() {
    let ca = Ca::new("test root");
    let in_use = |result: Result<(), EndpointError>| {
        let error = result.expect_err("the port is in use");
        assert!(matches!(
            &error,
            EndpointError::Io { source, .. } if source.kind() == io::ErrorKind::AddrInUse
        ));
        assert!(error.to_string().starts_with("bind 127.0.0.1:"), "{error}");
    };
    let config = |listen| EndpointConfig::new(listen, ca.credentials("router/one"));
    let bind = |listen| Endpoint::bind(config(listen)).map(drop);
    let bind_group = |listen| Endpoint::bind_group(config(listen), 4).map(drop);

    let group = Endpoint::bind_group(config(v4()), 4).expect("bind a group");
    in_use(bind_group(group[0].local_addr()));
    in_use(bind(group[0].local_addr()));
    let alone = Endpoint::bind_group(config(v4()), 1).expect("bind a group of one");
    assert_eq!(alone.len(), 1);
    in_use(bind_group(alone[0].local_addr()));
    in_use(bind(alone[0].local_addr()));
    // Once they are gone the port is free at once.
    let address = group[0].local_addr();
    drop(group);
    bind_group(address).expect("bind a group again");
    assert!(Endpoint::bind_group(config(v4()), 0).is_err());
}
