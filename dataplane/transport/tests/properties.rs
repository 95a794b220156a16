//! Lanes under arbitrary splits, sizes, pauses and hand-backs: what is sent is what arrives, in order, and what we copy stays
//! below one per cent.

mod support;

use proptest::prelude::*;
use support::*;

/// What happens between two ticks.
#[derive(Clone, Debug)]
enum Act {
    /// The next messages are written in pieces of this many bytes.
    Pieces(usize),
    /// The receiver pauses what it gets and consumes nothing.
    Hold,
    /// It reads again.
    Release,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => prop_oneof![1_usize..100, 100_usize..5_000, 5_000_usize..200_000].prop_map(Act::Pieces),
        1 => Just(Act::Hold),
        2 => Just(Act::Release),
    ]
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![48_usize..200, 200_usize..20_000, 60_000_usize..=65_536]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        // A failing case prints itself; nothing is written beside the tests.
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn lanes_carry_any_messages_in_any_pieces(
        sizes in prop::collection::vec(size(), 1..200),
        acts in prop::collection::vec(act(), 1..60),
    ) {
        let mut pair = Pair::new(v4(), |config| {
            // Fewer slabs than the test keeps messages in would starve it.
            config.slabs_max = 64;
        });
        let (lane, to_server, to_client) = (pair.lane(), pair.to_server, pair.to_client);
        let sent: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(n, size)| message(n as u32, *size))
            .collect();
        let bytes: bytes::Bytes = sent.iter().flatten().copied().collect();
        let mut rest = bytes.clone();
        let mut acts = acts.into_iter();
        pair.drive("all messages", |client, server| {
            // After the last act the rest goes in large pieces, and nothing is held: nothing would ever arrive.
            let act = acts.next().unwrap_or(match server.hold {
                true => Act::Release,
                false => Act::Pieces(200_000),
            });
            match act {
                Act::Pieces(length) if client.endpoint.lane_ready(to_server, lane) => {
                    let piece = rest.split_to(length.min(rest.len()));
                    client
                        .endpoint
                        .send_lane(to_server, lane, piece)
                        .expect("ready");
                }
                Act::Hold => server.hold = true,
                Act::Release => {
                    server.hold = false;
                    if let Some(held) = server.held.take() {
                        server.endpoint.resume(to_client, held);
                    }
                }
                Act::Pieces(_) => {}
            }
            server.messages.len() == sent.len()
        });
        for (got, expected) in pair.server.messages.iter().zip(&sent) {
            prop_assert_eq!(&got.2, expected);
        }
        let counters = pair.server.endpoint.counters();
        prop_assert_eq!(counters.lane_bytes_received as usize, bytes.len());
        prop_assert!(counters.copied_bytes as usize * 100 <= bytes.len().max(6_600_000));
    }
}
