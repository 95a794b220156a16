//! Numbered messages whose every byte is known: sent, collected and accounted for. Refuses to know the path.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use caplane_client::{CarriedBy, Client, Destination, FlowOptions};
use tokio::task::{JoinHandle, JoinSet};

/// Flow and number of a message, as its payload says.
pub type Number = (u32, u32);

/// A message that reached its receiver with every byte right.
pub struct Arrival {
    pub number: Number,
    pub carried_by: CarriedBy,
}

/// What message `n` of `flow` carries, at least 12 bytes.
pub fn payload((flow, n): Number, bytes: usize) -> Bytes {
    let mut payload = BytesMut::with_capacity(bytes + 8);
    payload.put_u32(flow);
    payload.put_u32(n);
    payload.put_u32(bytes as u32);
    let mut state = u64::from(flow) << 32 | u64::from(n) | 1 << 63;
    while payload.len() < bytes {
        // Xorshift: any byte moved, lost or doubled shows.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        payload.put_u64(state);
    }
    payload.truncate(bytes);
    payload.freeze()
}

fn number(received: &Bytes) -> Number {
    let word = |at: usize| u32::from_be_bytes(received[at..at + 4].try_into().expect("four bytes"));
    let number = (word(0), word(4));
    assert_eq!(word(8) as usize, received.len(), "length of {number:?}");
    assert!(
        payload(number, received.len()) == received,
        "bytes of {number:?}"
    );
    number
}

/// Takes what `client` receives until it is closed.
pub fn collect(client: &Client) -> JoinHandle<Vec<Arrival>> {
    let client = client.clone();
    tokio::spawn(async move {
        let mut arrivals = Vec::new();
        while let Ok(delivery) = client.recv().await {
            arrivals.push(Arrival {
                number: number(delivery.payload()),
                carried_by: delivery.carried_by(),
            });
        }
        arrivals
    })
}

/// Sends `count` receipted messages on each of `flows` flows, as many at a time as the flows' windows let. The longest time
/// from a send to its receipt.
pub async fn send(
    client: &Client,
    to: Destination,
    flows: u32,
    count: u32,
    bytes: fn(Number) -> usize,
) -> Duration {
    let mut senders = JoinSet::new();
    for flow_number in 0..flows {
        let flow = client.flow(to, FlowOptions::default());
        senders.spawn(async move {
            let mut receipts = JoinSet::new();
            for n in 0..count {
                let number = (flow_number, n);
                let payload = payload(number, bytes(number));
                let begun = Instant::now();
                let pending = flow.send_receipted(payload).await.expect("sent");
                receipts.spawn(async move {
                    pending
                        .await
                        .unwrap_or_else(|error| panic!("{number:?}: {error}"));
                    begun.elapsed()
                });
            }
            receipts.join_all().await.into_iter().max()
        });
    }
    let longest = senders.join_all().await.into_iter().flatten().max();
    longest.unwrap_or_default()
}

/// Every message exactly once, and those of each flow that came by lane in order.
pub fn check(arrivals: &[Arrival], flows: u32, count: u32) {
    let mut times = HashMap::<Number, u32>::new();
    let mut last_by_lane = HashMap::<u32, u32>::new();
    for arrival in arrivals {
        let (flow, n) = arrival.number;
        *times.entry(arrival.number).or_default() += 1;
        if arrival.carried_by == CarriedBy::Lane {
            let before = last_by_lane.insert(flow, n);
            assert!(before < Some(n), "flow {flow}: {n} came after {before:?}");
        }
    }
    for number in (0..flows).flat_map(|flow| (0..count).map(move |n| (flow, n))) {
        assert_eq!(
            times.remove(&number),
            Some(1),
            "times {number:?} was delivered"
        );
    }
    assert!(times.is_empty(), "nobody sent {times:?}");
}
