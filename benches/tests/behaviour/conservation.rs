//! An agent is killed under traffic, and every message is accounted for.
//!
//! **The rule.** A *copy* is one hand-over of a data message by the sending client: resends count again. Of each copy exactly one
//! holds:
//!
//! 1. a router dropped it: counted in `router_drops_total` of that router under one reason, and noticed to the sender, or, beyond
//!    the rate of notices, counted in `router_notices_suppressed_total`;
//! 2. it reached the surviving instance: its client counts it as delivered or as a duplicate;
//! 3. the egress router handed it to the connection of the instance that was killed. The router counts it as delivered
//!    (`router_messages_delivered_total`), and when the connection ends, as unacknowledged (`router_messages_unacknowledged_total`)
//!    unless QUIC has heard that its bytes arrived. An acknowledgement does not say that the application had them.
//!
//! So copies = drops + survivor's + handed to the dead, and drops = notices + suppressed ones: checked to the message. A message
//! without a receipt that nobody has and nobody was told of is counted: as unacknowledged, or as a notice suppressed; and it was sent
//! before the router noticed (0.9 s of silence under traffic). Only what had arrived and was not printed when the process died
//! is beyond what a router can know. Messages with receipts are never lost: they are sent again until somebody has them.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use caplane_client::{Client, ClientEvent, Events, Flow, FlowOptions};
use tokio::task::{JoinHandle, JoinSet};

use crate::stage::{CONVERSION, Stage, eventually, within};

/// Flow and sequence: what a delivery, a notice and a line of the killed one have in common.
type Name = (u64, u32);

/// Messages that had arrived at the killed process and that it had not printed: what it reads in one go. Below one read of
/// its socket, 64 KiB of 2,048 bytes each.
const UNPRINTED_MAX: u64 = 32;

const FLOWS: usize = 10;
const EVERY: Duration = Duration::from_millis(25);
const BEFORE: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(3);
/// A silent peer is gone after 0.9 s; the rest is for a busy machine.
const NOTICED_AFTER: Duration = Duration::from_millis(1_800);

fn body() -> Vec<u8> {
    vec![b'x'; 2_000]
}

/// Sends on each of `flows` at a steady pace until `end`; names and times of what was sent.
fn unreceipted(flow: Flow, end: Instant) -> JoinHandle<Vec<(Name, Instant)>> {
    tokio::spawn(async move {
        let mut pace = tokio::time::interval(EVERY);
        let mut sent = Vec::new();
        while Instant::now() < end {
            pace.tick().await;
            flow.send(body()).await.expect("taken");
            // A flow numbers its messages from 0.
            sent.push(((flow.id(), sent.len() as u32), Instant::now()));
        }
        sent
    })
}

/// The same with receipts: all of them must come.
fn receipted(flow: Flow, end: Instant) -> JoinHandle<Vec<Name>> {
    tokio::spawn(async move {
        let mut pace = tokio::time::interval(EVERY);
        let mut pending = JoinSet::new();
        while Instant::now() < end {
            pace.tick().await;
            let receipt = flow.send_receipted(body()).await.expect("taken");
            pending.spawn(receipt.into_future());
        }
        let receipts = pending.join_all().await.into_iter();
        let name = |receipt: caplane_client::Receipt| (receipt.flow, receipt.sequence);
        receipts
            .map(|receipt| name(receipt.expect("a receipt")))
            .collect()
    })
}

/// Names of what `client` receives until it is closed.
fn collect(client: &Client) -> JoinHandle<HashSet<Name>> {
    let client = client.clone();
    tokio::spawn(async move {
        let mut seen = HashSet::new();
        while let Ok(delivery) = client.recv().await {
            assert!(
                seen.insert((delivery.flow(), delivery.sequence())),
                "delivered twice"
            );
        }
        seen
    })
}

/// Names of what was noticed, until the client is closed.
fn notices(mut events: Events) -> JoinHandle<Vec<Name>> {
    tokio::spawn(async move {
        let mut noticed = Vec::new();
        while let Some(event) = events.next().await {
            match event {
                ClientEvent::Notice { flow, sequence, .. } => noticed.push((flow, sequence)),
                ClientEvent::Closed(_) => break,
                ClientEvent::Missed(count) => panic!("{count} events were not read in time"),
                _ => {}
            }
        }
        noticed
    })
}

/// What the routers say.
struct Routers {
    dropped: u64,
    suppressed: u64,
    /// Handed to instances at r2 and not taken back.
    delivered: u64,
    /// The part of these that was not acknowledged when their connection ended.
    unacknowledged: u64,
}

async fn routers(stage: &Stage) -> Routers {
    let mut said = Routers {
        dropped: 0,
        suppressed: 0,
        delivered: 0,
        unacknowledged: 0,
    };
    for router in ["r1", "r2"] {
        let sum = async |name| stage.metric(router, name, &[]).await as u64;
        said.dropped += sum("router_drops_total").await;
        said.suppressed += sum("router_notices_suppressed_total").await;
        if router == "r2" {
            said.delivered = sum("router_messages_delivered_total").await
                - sum("router_messages_returned_total").await;
            said.unacknowledged = sum("router_messages_unacknowledged_total").await;
        }
    }
    said
}

/// Copies that reached a client.
fn arrived(client: &Client) -> u64 {
    let counters = client.counters();
    counters.delivered + counters.duplicates + counters.too_old
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_is_accounted_for_when_an_agent_is_killed_under_traffic() {
    let mut stage = Stage::line(2).await;
    let doomed = stage.register("shared", "doomed", CONVERSION, 100).await;
    let survivor = stage.register("shared", "survivor", CONVERSION, 100).await;
    let sender = stage.register("shared", "sender", "", 0).await;
    let doomed = stage.hearer(&doomed, "r2").await;
    let survivor = stage.attach(&survivor, "r2", "one").await;
    let sender = stage.attach(&sender, "r1", "one").await;
    stage.settled(3).await;
    let survived = collect(&survivor);
    let noticed = notices(sender.events());
    let destination = stage.destination(&sender, CONVERSION).await;

    let kill_at = Instant::now() + BEFORE;
    let flow = || sender.flow(destination, FlowOptions::default());
    let loose: Vec<_> = (0..FLOWS)
        .map(|_| unreceipted(flow(), kill_at + AFTER))
        .collect();
    let safe: Vec<_> = (0..FLOWS)
        .map(|_| receipted(flow(), kill_at + AFTER))
        .collect();
    tokio::time::sleep_until(kill_at.into()).await;
    let killed = Instant::now();
    let heard = doomed.kill().await;
    let mut sent = Vec::new();
    for flow in loose {
        sent.extend(within("a flow's end", flow).await.expect("sent"));
    }
    let mut confirmed = Vec::new();
    for flow in safe {
        confirmed.extend(within("a flow's receipts", flow).await.expect("receipts"));
    }

    let copies = sender.counters().sent;
    eventually("the last message is where it goes", async || {
        let said = routers(&stage).await;
        let rest = copies.checked_sub(said.dropped + said.delivered);
        rest == Some(0) && arrived(&survivor) <= said.delivered
    })
    .await;
    let said = routers(&stage).await;
    for client in [&sender, &survivor] {
        client.close().await;
    }
    let name = |line: &serde_json::Value| {
        let flow = line["flow"].as_str().expect("a flow");
        let flow = u64::from_str_radix(flow, 16).expect("hexadecimal");
        let sequence = line["sequence"].as_u64().expect("a sequence");
        (flow, sequence as u32)
    };
    let heard: HashSet<Name> = heard.iter().map(name).collect();
    drop(sender);
    let noticed = noticed.await.expect("all notices");
    let survived = survived.await.expect("all deliveries");
    let handed_to_dead = said.delivered - arrived(&survivor);

    assert_eq!(
        said.dropped,
        noticed.len() as u64 + said.suppressed,
        "drops and notices"
    );
    let noticed: HashSet<Name> = noticed.into_iter().collect();
    let lost: Vec<_> = sent
        .iter()
        .filter(|(name, _)| {
            !survived.contains(name) && !heard.contains(name) && !noticed.contains(name)
        })
        .collect();
    eprintln!(
        "{} without and {} with receipts, {copies} copies: {} to the survivor, {handed_to_dead} to the killed one ({} printed, \
         {} unacknowledged), {} dropped, {} of them without a notice; lost without a word {}, sent again {}",
        sent.len(),
        confirmed.len(),
        arrived(&survivor),
        heard.len(),
        said.unacknowledged,
        said.dropped,
        said.suppressed,
        lost.len(),
        copies - (sent.len() + confirmed.len()) as u64,
    );
    assert!(
        !heard.is_empty() && !survived.is_empty(),
        "both had a share"
    );
    assert!(
        lost.len() as u64 + heard.len() as u64 <= handed_to_dead + said.suppressed,
        "more is missing than was handed to the dead or dropped without a notice"
    );
    assert!(said.unacknowledged <= handed_to_dead);
    assert!(
        lost.len() as u64 <= said.unacknowledged + said.suppressed + UNPRINTED_MAX,
        "messages are lost that nobody counts"
    );
    for (name, at) in lost {
        let since = at.saturating_duration_since(killed);
        assert!(
            since < NOTICED_AFTER,
            "{name:?} sent {since:?} after the kill"
        );
        let early = killed.saturating_duration_since(*at);
        assert!(
            early < Duration::from_millis(500),
            "{name:?} {early:?} before"
        );
    }
}
