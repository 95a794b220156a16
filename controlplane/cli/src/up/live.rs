//! `caplane up` without `--once`: requests at a steady rate and a line a second.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use caplane_client::{Client, Flow, FlowOptions};
use hdrhistogram::Histogram;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::body;
use super::cast::Cast;
use super::reading::Reading;
use crate::arguments::UpArguments;
use crate::fabric::Fabric;
use crate::failure::Failure;
use crate::output::Output;

/// Requests without a reply that may be under way; beyond, new ones wait and the rate falls.
const UNDER_WAY: usize = 4_096;
/// How often requests are started: each time those that are due.
const TICK: Duration = Duration::from_millis(5);
/// Longest latency told apart (microseconds): a minute.
const LATENCY_US_MAX: u64 = 60_000_000;

/// What happened since the last line.
struct Second {
    sent: AtomicU64,
    replied: AtomicU64,
    failed: AtomicU64,
    latency_us: Mutex<Histogram<u64>>,
}

pub(super) async fn run(
    fabric: &mut Fabric,
    cast: &Cast,
    arguments: &UpArguments,
    as_json: bool,
) -> Result<(), Failure> {
    print_next_steps(fabric, cast);
    let second = Arc::new(Second::new());
    let mut tasks = JoinSet::new();
    for agent in &cast.agents {
        tasks.spawn(answer(agent.client.clone()));
    }
    let flows: Vec<Arc<Flow>> = cast
        .agents
        .iter()
        .map(|agent| {
            Arc::new(
                cast.requester
                    .flow(agent.destination, FlowOptions::default()),
            )
        })
        .collect();
    tasks.spawn(ask(flows, arguments.rate, second.clone()));

    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    seconds.tick().await;
    let mut before = (Instant::now(), Reading::take(fabric).await?);
    let mut left = arguments.seconds.unwrap_or(u64::MAX);
    while left > 0 {
        tokio::select! {
            _ = &mut interrupted => break,
            _ = seconds.tick() => left -= 1,
        }
        fabric.check_running()?;
        let now = (Instant::now(), Reading::take(fabric).await?);
        second
            .line(&now.1.since(&before.1), now.0 - before.0)
            .print(as_json)?;
        before = now;
    }
    tasks.abort_all();
    Ok(())
}

fn print_next_steps(fabric: &Fabric, cast: &Cast) {
    let state = fabric.folder().display();
    let need = cast
        .agents
        .first()
        .map_or("convert currency", |agent| agent.need.as_str());
    eprintln!("\ntry in another terminal (export CAPLANE_STATE={state}):");
    eprintln!("  caplane class find {need:?}");
    eprintln!("  caplane agent list; caplane router list");
    eprintln!("  caplane request --as requester {need:?} --body hello");
    eprintln!("Ctrl-C ends everything\n");
}

/// Answers every request with a JSON-RPC result of the same id.
async fn answer(client: Client) {
    while let Ok(batch) = client.recv_many(64).await {
        for delivery in batch {
            let id = body::number(delivery.payload()).unwrap_or_default();
            let result = format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"kind\":\"task\",\"status\":{{\"state\":\"completed\"}}}}}}"
            );
            // The asker sees a failure as a missing reply.
            let _ = delivery.reply(Bytes::from(result)).await;
        }
    }
}

/// Starts requests when they are due, whether or not earlier ones were answered.
async fn ask(flows: Vec<Arc<Flow>>, rate: u32, second: Arc<Second>) {
    let room = Arc::new(Semaphore::new(UNDER_WAY));
    let begun = Instant::now();
    let mut tick = tokio::time::interval(TICK);
    let mut asked = 0_u64;
    loop {
        tick.tick().await;
        let due = (begun.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        while asked < due {
            let Ok(permit) = room.clone().acquire_owned().await else {
                return;
            };
            let flow = flows[asked as usize % flows.len()].clone();
            let payload = body::request(asked, body::size(asked + 2).min(4_096));
            let second = second.clone();
            asked += 1;
            second.sent.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let sent = Instant::now();
                match flow.request(payload).await {
                    Ok(_) => second.replied(sent.elapsed()),
                    Err(_) => {
                        second.failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
                drop(permit);
            });
        }
    }
}

impl Second {
    fn new() -> Self {
        let latency = Histogram::new_with_max(LATENCY_US_MAX, 3);
        Self {
            sent: AtomicU64::new(0),
            replied: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            latency_us: Mutex::new(latency.expect("3 digits up to a minute is a valid range")),
        }
    }

    fn replied(&self, took: Duration) {
        self.replied.fetch_add(1, Ordering::Relaxed);
        let micros = (took.as_micros() as u64).clamp(1, LATENCY_US_MAX);
        self.latency_us
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .saturating_record(micros);
    }

    /// The line, and a clean slate.
    fn line(&self, routed: &Reading, period: Duration) -> Output {
        let seconds = period.as_secs_f64().max(1e-9);
        let rate = |count: &AtomicU64| count.swap(0, Ordering::Relaxed) as f64 / seconds;
        let (sent, replied, failed) = (rate(&self.sent), rate(&self.replied), rate(&self.failed));
        let mut latency = self
            .latency_us
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (p50, p99) = (
            latency.value_at_quantile(0.5),
            latency.value_at_quantile(0.99),
        );
        latency.reset();
        drop(latency);
        let forwarded = routed.forwarded / seconds;
        let megabits = routed.forwarded_bytes * 8.0 / 1e6 / seconds;
        let cpu = routed.cpu.as_secs_f64() / seconds * 100.0;
        let drops: Vec<String> = routed
            .drops
            .iter()
            .map(|(reason, count)| format!("{reason} {count}"))
            .collect();
        let drops = if drops.is_empty() {
            "0".to_owned()
        } else {
            drops.join(", ")
        };
        let text = format!(
            "requests {sent:>6.0}/s  replies {replied:>6.0}/s  failed {failed:.0}/s  round trip p50 {p50} us p99 {p99} us  \
             routers {forwarded:.0} msg/s {megabits:.1} Mb/s {cpu:.0} % CPU  drops {drops}\n"
        );
        let json = json!({
            "requests_per_second": sent.round(), "replies_per_second": replied.round(),
            "failed_per_second": failed.round(), "round_trip_us": { "p50": p50, "p99": p99 },
            "forwarded_per_second": forwarded.round(), "forwarded_bytes": routed.forwarded_bytes as u64,
            "router_cpu_percent": cpu.round(), "drops": routed.drops_total() as u64,
        });
        Output::new("caplane.up.second/1", json, text)
    }
}
