//! A link that loses, delays, reorders and doubles packets: messages with receipts arrive exactly once and in order all the
//! same.

use std::time::Duration;

use caplane_client::CarriedBy;
use caplane_load::impair::{Conditions, Direction, DirectionCounters};

use crate::relayed::Relayed;
use crate::stage::{CONVERSION, within};
use crate::traffic::{self, Number};

const FLOWS: u32 = 20;
const COUNT: u32 = 100;

/// One message in twenty is too long for a lane.
fn bytes((flow, n): Number) -> usize {
    match n % 20 {
        7 => 66_000 + 500 * flow as usize,
        _ => 12 + (n as usize * 131 + flow as usize * 17) % 1_500,
    }
}

/// 20 ms each way: twice what is asked of the whole path.
fn path(loss: f64) -> Conditions {
    Conditions::loss(loss)
        .with_delay(Duration::from_millis(20))
        .with_reorder(0.02)
        .with_duplicate(0.01)
}

async fn every_receipted_message_once_and_in_order(loss: f64) {
    let mut relayed = Relayed::start(path(loss), "").await;
    let stage = &mut relayed.stage;
    let receiver = stage.register("shared", "receiver", CONVERSION, 0).await;
    let sender = stage.register("shared", "sender", "", 0).await;
    let receiver = stage.attach(&receiver, "r2", "one").await;
    let sender = stage.attach(&sender, "r1", "one").await;
    stage.settled(2).await;
    let arrivals = traffic::collect(&receiver);
    let to = stage.destination(&sender, CONVERSION).await;

    let sending = traffic::send(&sender, to, FLOWS, COUNT, bytes);
    let longest = within("every message has its receipt", sending).await;

    let drops = relayed.drops().await;
    sender.close().await;
    receiver.close().await;
    let arrivals = arrivals.await.expect("every byte is right");
    let counters = relayed.link.counters();
    eprintln!(
        "loss {loss}: longest wait for a receipt {longest:?}, resent {}\n{counters}",
        sender.counters().resent
    );
    assert!(drops.is_empty(), "routers dropped {drops:?}");
    // Each hop repairs its own losses, so every resend here was a mistake: the message waited behind others.
    let resent = sender.counters().resent;
    assert!(
        resent < u64::from(FLOWS * COUNT) / 20,
        "{resent} of {} messages were sent again",
        FLOWS * COUNT
    );
    traffic::check(&arrivals, FLOWS, COUNT);
    let bulk = arrivals.iter().filter(|a| a.carried_by == CarriedBy::Bulk);
    assert_eq!(bulk.count() as u32, FLOWS * COUNT / 20);
    let suffered = Direction::BOTH.map(|way| *counters.direction(way));
    let sum = |of: fn(&DirectionCounters) -> u64| suffered.iter().map(of).sum::<u64>();
    let sums = [
        sum(|way| way.lost),
        sum(|way| way.reordered),
        sum(|way| way.duplicated),
    ];
    assert!(sums.into_iter().all(|packets| packets > 0), "{counters}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_link_that_loses_one_packet_in_a_hundred() {
    every_receipted_message_once_and_in_order(0.01).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_link_that_loses_five_packets_in_a_hundred() {
    every_receipted_message_once_and_in_order(0.05).await;
}
