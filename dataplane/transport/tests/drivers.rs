//! Both drivers do the same. Where the system refuses io_uring, the second is the first again.

mod support;

use std::thread;
use std::time::{Duration, Instant};

use caplane_transport::{Endpoint, EndpointConfig, Io, LaneTx, PeerId};
use support::*;

const DRIVERS: [Io; 2] = [Io::Mio, Io::Uring];

fn length(n: u32) -> usize {
    48 + (n as usize * 7_919) % 60_000
}

fn send(node: &mut Node, peer: PeerId, lane: LaneTx, next: &mut u32) {
    while *next < 1_000 && node.endpoint.lane_ready(peer, lane) {
        let sent = node
            .endpoint
            .send_lane(peer, lane, message(*next, length(*next)));
        sent.expect("send");
        *next += 1;
    }
}

#[test]
fn messages_of_all_sizes_pass_in_order_both_ways() {
    for listen in [v4(), v6()] {
        for io in DRIVERS {
            let mut pair = Pair::new(listen, |config| config.io = io);
            let (to_server, to_client) = (pair.to_server, pair.to_client);
            let lane = pair.lane();
            let back = pair.server.endpoint.open_lane(to_client, CLASS);
            let back = back.expect("open");
            let (mut there, mut here) = (0, 0);
            pair.drive("1,000 messages each way", |client, server| {
                send(client, to_server, lane, &mut there);
                send(server, to_client, back, &mut here);
                server.messages.len() == 1_000 && client.messages.len() == 1_000
            });
            for node in [&pair.client, &pair.server] {
                for (n, (_, _, bytes)) in (0..).zip(&node.messages) {
                    assert_eq!(bytes, &message(n, length(n)), "{io:?}");
                }
            }
        }
    }
}

#[test]
fn more_batches_than_a_driver_has_buffers_wait_in_the_socket() {
    for io in DRIVERS {
        let mut pair = Pair::new(v4(), |config| {
            config.io = io;
            config.udp_payload_max = 1_400;
            config.silence = Some(Duration::from_secs(10));
        });
        let lane = pair.lane();
        let to_server = pair.to_server;
        // A call per datagram at the sender makes batches of one: far more than there are buffers, before anyone reads.
        let lost_before = pair.client.endpoint.counters().packets_sent;
        for n in 0..100 {
            let sent = pair
                .client
                .endpoint
                .send_lane(to_server, lane, message(n, 1_000));
            sent.expect("send");
            pair.client.endpoint.flush(Instant::now()).expect("flush");
        }
        assert!(pair.client.endpoint.counters().packets_sent - lost_before >= 70);
        pair.drive("100 messages", |_, server| server.messages.len() == 100);
        for (n, (_, _, bytes)) in (0..).zip(&pair.server.messages) {
            assert_eq!(bytes, &message(n, 1_000));
        }
    }
}

#[test]
fn a_waker_ends_a_wait_from_another_thread() {
    for io in DRIVERS {
        let ca = Ca::new("test root");
        let mut config = EndpointConfig::new(v4(), ca.credentials("router/one"));
        config.io = io;
        let mut endpoint = Endpoint::bind(config).expect("bind");
        for _ in 0..3 {
            let waker = endpoint.waker();
            let begin = Instant::now();
            let waking = thread::spawn(move || waker.wake());
            // The first waits may end for other reasons; a lost wake-up would cost the whole minute.
            endpoint.wait(Some(Duration::from_secs(60))).expect("wait");
            waking.join().expect("no panic").expect("woken");
            assert!(begin.elapsed() < Duration::from_secs(30), "{io:?}");
        }
        // Wake-ups that nobody waits for are not lost either, however many there are.
        let waker = endpoint.waker();
        for _ in 0..1_000 {
            waker.wake().expect("woken");
        }
        let begin = Instant::now();
        endpoint.wait(Some(Duration::from_secs(60))).expect("wait");
        assert!(begin.elapsed() < Duration::from_secs(30), "{io:?}");
        // And a wait without any lasts as long as it is told to.
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(20) {
            endpoint
                .wait(Some(Duration::from_millis(20)))
                .expect("wait");
        }
    }
}

#[test]
fn an_endpoint_is_bound_here_and_runs_and_ends_there() {
    for io in DRIVERS {
        for workers in [1, 2] {
            let ca = Ca::new("test root");
            let mut config = EndpointConfig::new(v4(), ca.credentials("router/one"));
            config.io = io;
            let group = Endpoint::bind_group(config, workers).expect("bind");
            let address = group[0].local_addr();
            let threads: Vec<_> = group
                .into_iter()
                .map(|endpoint| {
                    thread::spawn(move || {
                        let mut node = Node::new(endpoint);
                        let until = Instant::now() + Duration::from_secs(20);
                        while node.messages.is_empty() && Instant::now() < until {
                            node.tick(Duration::from_millis(5));
                        }
                        node.messages.len()
                    })
                })
                .collect();
            let mut client = Node::bind(EndpointConfig::new(v4(), ca.credentials("agent/one")));
            for worker in 0..workers {
                let dialled = client.endpoint.connect_to_worker(address, None, worker);
                let peer = dialled.expect("connect");
                drive([&mut client], "connected", |[client]| {
                    client.endpoint.peer_uri(peer).is_some()
                });
                let lane = client.endpoint.open_lane(peer, CLASS).expect("open");
                let sent = client.endpoint.send_lane(peer, lane, message(0, 1_000));
                sent.expect("send");
            }
            for thread in threads {
                while !thread.is_finished() {
                    client.tick(Duration::from_millis(1));
                }
                assert_eq!(thread.join().expect("no panic"), 1, "{io:?}");
            }
        }
    }
}
