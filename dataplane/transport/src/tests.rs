//! Tests that need a driver of their own: a first link whose size falls, as a route that changes makes it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use caplane_wire::{CongestionAction, StreamKind, TrafficClass};

use crate::config::CONNECTION_IDS;
use crate::connection::{Connection, UDP_PAYLOAD_MIN};
use crate::io::{Batch, Driver, Port, Sent, Waker, Way};
use support::{Pair, message, v4};

#[path = "../tests/support/mod.rs"]
pub(crate) mod support;

/// Refuses what is longer than the link takes, as the system does with EMSGSIZE.
struct Link {
    inner: Box<dyn Driver>,
    limit: Arc<AtomicUsize>,
}

impl Driver for Link {
    fn local_addr(&self, port: Port) -> SocketAddr {
        self.inner.local_addr(port)
    }

    fn dialling_port(&self) -> Port {
        self.inner.dialling_port()
    }

    fn waker(&self) -> Waker {
        self.inner.waker()
    }

    fn wait(&mut self, timeout: Option<Duration>, writable: Option<Port>) -> io::Result<bool> {
        self.inner.wait(timeout, writable)
    }

    fn receive(&mut self) -> io::Result<Option<Batch<'_>>> {
        self.inner.receive()
    }

    fn send(&mut self, way: &Way, segment: usize, data: &[u8]) -> Sent {
        if segment.min(data.len()) > self.limit.load(Ordering::Relaxed) {
            return Sent::TooLarge;
        }
        self.inner.send(way, segment, data)
    }

    fn trains(&self) -> bool {
        self.inner.trains()
    }
}

#[test]
fn a_first_link_that_shrinks_is_followed_at_once() {
    let mut pair = Pair::new(v4(), |config| config.udp_payload_max = 9_000);
    let (lane, to_server) = (pair.lane(), pair.to_server);
    let limit = Arc::new(AtomicUsize::new(usize::MAX));
    pair.client.endpoint.replace_driver(|inner| {
        Box::new(Link {
            inner,
            limit: Arc::clone(&limit),
        })
    });
    let mut next = 0;
    for (size, largest) in [(usize::MAX, 9_000), (1_472, 1_472), (1_300, 1_300)] {
        limit.store(size, Ordering::Relaxed);
        let goal = next + 1_000;
        pair.drive("1,000 messages", |client, server| {
            while next < goal && client.endpoint.lane_ready(to_server, lane) {
                client
                    .endpoint
                    .send_lane(to_server, lane, message(next, 2_000))
                    .expect("send");
                next += 1;
            }
            let payload = client.endpoint.peer_udp_payload(to_server).unwrap_or(0);
            server.messages.len() == goal as usize && payload <= largest && payload > 1_200
        });
    }
    for (n, (_, _, bytes)) in pair.server.messages.iter().enumerate() {
        assert_eq!(bytes, &message(n as u32, 2_000));
    }
    let counters = pair.client.endpoint.counters();
    assert!(counters.sends_too_large > 0);
    assert_eq!(pair.client.endpoint.peers().count(), 1);
}

#[test]
fn spare_connection_ids_are_supplied_and_replaced() {
    let mut pair = Pair::new(v4(), |config| config.worker = 9);
    let (to_client, to_server) = (pair.to_client, pair.to_server);
    for round in 0..2 * CONNECTION_IDS {
        pair.drive("all spare ids", |client, _| {
            let connection = client.endpoint.connection(to_server);
            connection.quic.available_dcids() == CONNECTION_IDS as usize - 1
        });
        let client = pair.client.endpoint.connection(to_server);
        // The oldest spare one is used up.
        client.quic.retire_dcid(round + 1).expect("an id to retire");
        let server = pair.server.endpoint.connection(to_client);
        let ids: Vec<Vec<u8>> = server.quic.source_ids().map(|id| id.to_vec()).collect();
        assert_eq!(ids.len(), CONNECTION_IDS as usize);
        assert!(ids.iter().all(|id| id[0] == 9), "the worker's byte");
    }
}

/// The packet that a connection has for its peer, of at most so many bytes, and the way it goes.
fn packet(connection: &mut Connection, room: usize) -> Option<(Vec<u8>, quiche::SendInfo)> {
    let mut packet = vec![0; room];
    let (length, info) = connection.quic.send(&mut packet).ok()?;
    packet.truncate(length);
    Some((packet, info))
}

fn deliver(connection: &mut Connection, packet: Option<(Vec<u8>, quiche::SendInfo)>) {
    let (mut packet, info) = packet.expect("a packet");
    let (from, to) = (info.from, info.to);
    let info = quiche::RecvInfo { from, to };
    connection.quic.recv(&mut packet, info).expect("received");
}

fn write(connection: &mut Connection, lane: u64, length: usize) {
    let (tx, quic) = (&mut connection.tx, &mut connection.quic);
    let bytes = Bytes::from(vec![7; length]);
    tx.send(lane, bytes, 1, false, quic).expect("written");
}

/// A lane whose bytes QUIC believed lost, and that then were acknowledged before they were sent again, with nothing more to say.
#[test]
fn a_lane_with_nothing_to_send_holds_up_no_less_urgent_one() {
    const SIZE: usize = UDP_PAYLOAD_MIN;
    let mut pair = Pair::new(v4(), |_| {});
    let (to_client, to_server) = (pair.to_client, pair.to_server);
    let client = pair.client.endpoint.connection(to_server);
    let server = pair.server.endpoint.connection(to_client);
    let [urgent, other] = [7, 0].map(|priority| {
        let class = TrafficClass::new(priority, CongestionAction::Drop);
        let (tx, quic) = (&mut client.tx, &mut client.quic);
        tx.open(StreamKind::Lane, class, quic).expect("a lane")
    });
    let pass = |client: &mut Connection, server: &mut Connection| {
        while let Some(sent) = packet(client, SIZE) {
            deliver(server, Some(sent));
        }
        let mut came = Vec::new();
        while let Some(stream) = server.quic.stream_readable_next() {
            let mut bytes = [0; 4_096];
            while server.quic.stream_recv(stream, &mut bytes).is_ok() {}
            came.push(stream);
        }
        came
    };
    assert_eq!(pass(client, server).len(), 2, "the prefaces");
    while let Some(acknowledgement) = packet(server, SIZE) {
        deliver(client, Some(acknowledgement));
    }
    client.tx.park_acknowledged(&mut client.quic);

    write(client, urgent, 100);
    let late = packet(client, SIZE);
    while client.quic.timeout_instant() > Some(Instant::now()) {
        std::thread::yield_now();
    }
    client.quic.on_timeout();
    // It is to be sent again, and what is sent has no room for it.
    assert!(packet(client, 40).is_some());
    assert_eq!(client.quic.stats().stream_retrans_bytes, 100);
    deliver(server, late);
    deliver(client, packet(server, SIZE));

    write(client, other, 100);
    assert!(
        !pass(client, server).contains(&other),
        "QUIC does better: park_acknowledged can go"
    );
    client.tx.park_acknowledged(&mut client.quic);
    assert_eq!(pass(client, server), [other]);

    // Written to again, it is as urgent as before.
    write(client, other, 2 * SIZE);
    write(client, urgent, SIZE);
    deliver(server, packet(client, SIZE));
    assert_eq!(server.quic.stream_readable_next(), Some(urgent));
    assert_eq!(server.quic.stream_readable_next(), None);
}

/// QUIC alone asks after 24 of them, each of which it remembers until then.
#[test]
fn one_of_few_keepalives_has_the_acknowledgements_acknowledged() {
    let mut pair = Pair::new(v4(), |config| {
        config.keepalive = Some(Duration::from_millis(4));
    });
    let (to_client, to_server) = (pair.to_client, pair.to_server);
    let sent = |peer: &mut support::Node, id| peer.endpoint.connection(id).quic.stats().sent;
    let before = (
        sent(&mut pair.client, to_server),
        sent(&mut pair.server, to_client),
    );
    pair.drive("70 keepalives", |_, server| {
        sent(server, to_client) >= before.1 + 70
    });
    let answered = sent(&mut pair.server, to_client) - before.1;
    let said = sent(&mut pair.client, to_server) - before.0;
    let acknowledged = said.saturating_sub(answered);
    assert!(
        (answered / 10..=answered / 5).contains(&acknowledged),
        "{said} packets for {answered}"
    );
}
