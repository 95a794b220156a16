//! After warm-up what the transport takes from the heap grows with slabs and packets, never with messages.

#[path = "../../core/benches/counting.rs"]
mod counting;
mod support;

use bytes::Bytes;
use counting::heap;
use support::*;

/// Messages of a slab.
const MESSAGES: usize = 4_000;

/// Allocations and packets of so many slabs, each of messages of `length` bytes, from a client to a server, acknowledgements
/// included.
fn allocations(pair: &mut Pair, slab: &Bytes, slabs: u64) -> (u64, u64) {
    let (lane, to_server) = (pair.lane(), pair.to_server);
    let packets = |pair: &Pair| {
        [&pair.client, &pair.server]
            .map(|node| node.endpoint.counters().packets_received)
            .iter()
            .sum::<u64>()
    };
    let mut measured = (0, 0);
    for warm in [true, false] {
        let goal = pair.server.consumed + slabs * slab.len() as u64;
        let before = (heap().calls, packets(pair));
        let mut sent = 0;
        pair.drive("all slabs", |client, server| {
            while sent < slabs && client.endpoint.lane_ready(to_server, lane) {
                let sending = client.endpoint.send_lane(to_server, lane, slab.clone());
                sending.expect("send");
                sent += 1;
            }
            server.consumed == goal && client.endpoint.acked(to_server)
        });
        if !warm {
            measured = (heap().calls - before.0, packets(pair) - before.1);
        }
    }
    measured
}

/// One test, since the counts are of the whole process. What is left is QUIC's own, at both ends: some four a packet.
#[test]
fn the_transport_allocates_by_the_packet_and_not_by_the_message() {
    let [small, large] = [(64, 100), (512, 12)].map(|(length, slabs)| {
        let mut pair = Pair::new(v4(), |config| config.udp_payload_max = 1_350);
        pair.server.keep = false;
        let slab: Vec<u8> = (0..MESSAGES as u32)
            .flat_map(|n| message(n, length))
            .collect();
        let (calls, packets) = allocations(&mut pair, &Bytes::from(slab), slabs);
        let messages = slabs * MESSAGES as u64;
        println!("{length} bytes: {calls} allocations, {packets} packets, {messages} messages");
        calls as f64 / packets as f64
    });
    assert!(small < 6.0, "{small} allocations a packet");
    // Eight times as many messages in as many bytes.
    let ratio = small / large;
    assert!((0.85..1.15).contains(&ratio), "{small} against {large}");
}
