//! Tests that need a driver of their own: a first link whose size falls, as a route that changes makes it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::io::{Batch, Driver, Sent, Waker};
use support::{Pair, message, v4};

#[path = "../tests/support/mod.rs"]
mod support;

/// Refuses what is longer than the link takes, as the system does with EMSGSIZE.
struct Link {
    inner: Box<dyn Driver>,
    limit: Arc<AtomicUsize>,
}

impl Driver for Link {
    fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr()
    }

    fn waker(&self) -> Waker {
        self.inner.waker()
    }

    fn wait(&mut self, timeout: Option<Duration>, writable: bool) -> io::Result<()> {
        self.inner.wait(timeout, writable)
    }

    fn receive(&mut self) -> io::Result<Option<Batch<'_>>> {
        self.inner.receive()
    }

    fn send(&mut self, to: SocketAddr, segment: usize, data: &[u8]) -> Sent {
        if segment.min(data.len()) > self.limit.load(Ordering::Relaxed) {
            return Sent::TooLarge;
        }
        self.inner.send(to, segment, data)
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
