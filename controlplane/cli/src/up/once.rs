//! `caplane up --once`: a fixed set of messages, every byte checked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use caplane_client::{Carrier, Client, Flow, FlowOptions, SendError};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::cast::Cast;
use super::ledger::{Ledger, Totals};
use super::reading::Reading;
use crate::arguments::UpArguments;
use crate::fabric::Fabric;
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// Flows to each agent.
const FLOWS: usize = 4;
/// Bytes of receipted messages under way at a time: the largest message, and a quarter of what
/// one router queue holds for one peer and class (4 MiB), so that nothing is dropped on the way
/// and order can be judged.
const UNDER_WAY_BYTES: usize = super::body::BODY_BYTES_MAX;
/// Datagrams handed over before the sender lets the others work.
const DATAGRAM_BURST: u64 = 8;
/// How long a message may be resent.
const RECEIPT_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) async fn run(
    fabric: &mut Fabric,
    cast: &Cast,
    arguments: &UpArguments,
    as_json: bool,
) -> Result<(), Failure> {
    let ledger = Arc::new(Ledger::new(arguments.messages, arguments.datagrams));
    let mut receivers = JoinSet::new();
    for agent in &cast.agents {
        receivers.spawn(receive(agent.client.clone(), ledger.clone()));
    }
    let before = Reading::take(fabric).await?;
    let begun = Instant::now();
    let failures = send_receipted(cast, &ledger, arguments.messages).await;
    let took = begun.elapsed();
    send_datagrams(cast, &ledger, arguments.messages, arguments.datagrams).await?;
    ledger.datagrams_settled().await;
    let routed = Reading::take(fabric).await?.since(&before);
    fabric.check_running()?;
    receivers.abort_all();

    let result = RunResult {
        totals: ledger.totals(),
        routed,
        failures,
        took,
    };
    result.output(fabric, cast, arguments).print(as_json)?;
    result.verdict(arguments.messages)
}

/// Takes what arrives until the client closes.
async fn receive(client: Client, ledger: Arc<Ledger>) {
    while let Ok(batch) = client.recv_many(64).await {
        for delivery in batch {
            ledger.arrived(
                delivery.payload(),
                delivery.flow(),
                delivery.sequence(),
                delivery.carried_by(),
            );
        }
    }
}

/// Sends messages 0..count over all flows in turn; returns why some have no receipt.
async fn send_receipted(cast: &Cast, ledger: &Arc<Ledger>, count: u64) -> Vec<SendError> {
    let under_way = Arc::new(Semaphore::new(UNDER_WAY_BYTES));
    let options = FlowOptions::default().receipt_timeout(RECEIPT_TIMEOUT);
    let flows: Vec<Flow> = (0..FLOWS)
        .flat_map(|_| {
            cast.agents
                .iter()
                .map(|agent| cast.requester.flow(agent.destination, options))
        })
        .collect();
    let mut receipts: JoinSet<Result<(), SendError>> = JoinSet::new();
    let mut failures = Vec::new();
    for id in 0..count {
        let body = ledger.body(id);
        let charge = body.len().min(UNDER_WAY_BYTES) as u32;
        let permit: Option<OwnedSemaphorePermit> =
            under_way.clone().acquire_many_owned(charge).await.ok();
        let flow = &flows[id as usize % flows.len()];
        ledger.sent(id);
        match flow.send_receipted(body).await {
            Ok(pending) => {
                receipts.spawn(async move {
                    let receipt = pending.await;
                    drop(permit);
                    receipt.map(|_| ())
                });
            }
            Err(error) => failures.push(error),
        }
        while let Some(Ok(settled)) = receipts.try_join_next() {
            failures.extend(settled.err());
        }
    }
    while let Some(Ok(settled)) = receipts.join_next().await {
        failures.extend(settled.err());
    }
    failures
}

/// Sends datagrams `first..first + count`, one flow an agent.
async fn send_datagrams(
    cast: &Cast,
    ledger: &Ledger,
    first: u64,
    count: u64,
) -> Result<(), Failure> {
    let options = FlowOptions::default().carrier(Carrier::Datagram);
    let flows: Vec<Flow> = cast
        .agents
        .iter()
        .map(|agent| cast.requester.flow(agent.destination, options))
        .collect();
    let mut pace = tokio::time::interval(Duration::from_millis(1));
    for id in first..first + count {
        if id % DATAGRAM_BURST == 0 {
            pace.tick().await;
        }
        ledger.sent(id);
        flows[id as usize % flows.len()]
            .send(ledger.body(id))
            .await?;
    }
    // A flow that is dropped takes back nothing: what was handed over leaves.
    Ok(())
}

struct RunResult {
    totals: Totals,
    routed: Reading,
    failures: Vec<SendError>,
    took: Duration,
}

impl RunResult {
    fn output(&self, fabric: &Fabric, cast: &Cast, arguments: &UpArguments) -> Output {
        let Self {
            totals,
            routed,
            failures,
            took,
        } = self;
        let [p50, p99, max] = totals.latency_us;
        let rounded = |value: f64| (value * 100.0).round() / 100.0;
        let drops: serde_json::Map<String, serde_json::Value> = routed
            .drops
            .iter()
            .map(|(reason, count)| (reason.clone(), (*count as u64).into()))
            .collect();
        let reasons: Vec<String> = failures.iter().take(5).map(ToString::to_string).collect();
        let json = json!({
            "routers": fabric.routers().count(),
            "agents": cast.agents.len() + 1,
            "classes": cast.classes,
            "needs": cast.agents.iter().map(|agent| json!({
                "need": agent.need, "class": agent.class,
                "destination": agent.destination.to_string(), "agent": agent.name,
            })).collect::<Vec<_>>(),
            "sent": arguments.messages,
            "receipted": arguments.messages - (failures.len() as u64).min(arguments.messages),
            "delivered": totals.delivered,
            "duplicated": totals.duplicated,
            "corrupted": totals.corrupted,
            "out_of_order": totals.out_of_order,
            "datagrams": { "sent": arguments.datagrams, "delivered": totals.datagrams },
            "hops": rounded(routed.hops()),
            "latency_us": { "p50": p50, "p99": p99, "max": max },
            "seconds": rounded(took.as_secs_f64()),
            "router_cpu_ns_per_message": routed.cpu_ns_per_message().round(),
            "copied_bytes": routed.copied_bytes as u64,
            "forwarded_bytes": routed.forwarded_bytes as u64,
            "drops": routed.drops_total() as u64,
            "drops_by_reason": drops,
            "generation": cast.generation,
            "failures": reasons,
        });
        let text = format!(
            "receipted  {delivered} of {sent} delivered exactly once over {hops} routers in {seconds:.2} s\n\
             checks     {duplicated} duplicated, {corrupted} corrupted, {out_of_order} out of order\n\
             datagrams  {datagrams} of {offered} delivered\n\
             latency    p50 {p50} us, p99 {p99} us, max {max} us, from send to the receiving application, with up to 1 MiB under way\n\
             routers    {cpu:.0} ns of CPU a message and router, {copied:.2} % of bytes copied, {drops} drops\n\
             next       caplane up            the same fabric, live\n",
            delivered = totals.delivered.saturating_sub(totals.duplicated),
            sent = arguments.messages,
            hops = rounded(routed.hops()),
            seconds = took.as_secs_f64(),
            duplicated = totals.duplicated,
            corrupted = totals.corrupted,
            out_of_order = totals.out_of_order,
            datagrams = totals.datagrams,
            offered = arguments.datagrams,
            cpu = routed.cpu_ns_per_message(),
            copied = 100.0 * routed.copied_bytes / routed.forwarded_bytes.max(1.0),
            drops = routed.drops_total(),
        );
        Output::new("caplane.up/1", json, text)
    }

    fn verdict(&self, sent: u64) -> Result<(), Failure> {
        let Totals {
            delivered,
            duplicated,
            corrupted,
            out_of_order,
            ..
        } = self.totals;
        let first = self
            .failures
            .first()
            .map_or_else(String::new, |error| format!("; first failure: {error}"));
        let whole = delivered == sent && self.failures.is_empty();
        if whole && duplicated == 0 && corrupted == 0 && out_of_order == 0 {
            return Ok(());
        }
        let text = format!(
            "the check failed: {delivered} of {sent} delivered, {} without a receipt, {duplicated} duplicated, \
             {corrupted} corrupted, {out_of_order} out of order{first}",
            self.failures.len()
        );
        Err(Failure::new(Exit::CheckFailed, text))
    }
}
