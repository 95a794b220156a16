//! Whatever arrives on the port, the endpoint stays up, counts it, and serves its peers.

mod support;

use std::net::UdpSocket;
use std::time::Duration;

use caplane_transport::EndpointConfig;
use proptest::prelude::*;
use support::*;

/// Datagrams that look like QUIC in their first bytes more often than chance would have it.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        Just(0xc0_u8),
        Just(0x40),
        Just(0xf0),
        Just(0xd0),
        any::<u8>()
    ];
    let version = prop_oneof![
        Just(vec![0, 0, 0, 1]),
        Just(vec![0, 0, 0, 0]),
        Just(vec![0x1a, 0x1a, 0x1a, 0x1a]),
        prop::collection::vec(any::<u8>(), 4),
    ];
    let length = prop_oneof![Just(1_200_usize), 0_usize..60, 60_usize..3_000];
    (first, version, 0_u8..24, any::<u64>(), length).prop_map(
        |(first, version, cid_length, seed, length)| {
            let mut bytes = vec![first];
            bytes.extend(version);
            bytes.push(cid_length);
            let noise = (0..).map(|n: u64| (seed.wrapping_mul(n + 1) >> 32) as u8);
            bytes.extend(noise.take(length));
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 40,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn noise_is_counted_and_nothing_else_happens(
        datagrams in prop::collection::vec(datagram(), 1..40),
    ) {
        let mut pair = Pair::new(v4(), |_| {});
        let stranger = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let before = pair.server.endpoint.counters().packets_received;
        for bytes in &datagrams {
            stranger.send_to(bytes, pair.server.address()).expect("send");
        }
        let (lane, to_server) = (pair.lane(), pair.to_server);
        pair.client
            .endpoint
            .send_lane(to_server, lane, message(1, 1_000))
            .expect("send");
        pair.drive("the noise is read and the message is there", |_, server| {
            let read = server.endpoint.counters().packets_received - before;
            read >= datagrams.len() as u64 && server.messages.len() == 1
        });
        let counters = pair.server.endpoint.counters();
        prop_assert_eq!(counters.connected, 1);
        prop_assert_eq!(counters.closed, 0);
        prop_assert_eq!(pair.server.endpoint.peers().count(), 1);
    }
}

#[test]
fn an_unknown_version_is_answered_with_the_versions_there_are() {
    let ca = Ca::new("test root");
    let mut server = Node::bind(EndpointConfig::new(v4(), ca.credentials("router/one")));
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("bind");
    stranger
        .set_read_timeout(Some(Duration::from_millis(1)))
        .expect("a timeout");
    let mut initial = vec![0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8];
    initial.extend([1; 8]);
    initial.push(8);
    initial.extend([2; 8]);
    initial.resize(1_200, 0);
    stranger.send_to(&initial, server.address()).expect("send");
    // Shorter ones are not answered: an answer must not be longer than the question.
    stranger
        .send_to(&initial[..100], server.address())
        .expect("send");
    let mut answer = [0; 1_500];
    let mut length = 0;
    drive([&mut server], "version negotiation", |[_]| {
        length = length.max(stranger.recv(&mut answer).unwrap_or(0));
        length > 0
    });
    // Version 0, the connection ids swapped, then the versions.
    assert_eq!(&answer[1..5], &[0; 4]);
    assert_eq!(&answer[6..14], &[2; 8]);
    assert!(answer[..length].ends_with(&[0, 0, 0, 1]));
    assert_eq!(server.endpoint.counters().versions_negotiated, 1);
}
