//! Names and text of the router's metrics, from one snapshot per worker.
//!
//! Base units, no label per agent or peer. Everything is declared in one table
//! per kind, so that a name is found by searching for it.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use caplane_core::DropReason;
use caplane_proto::v1::ByeCode;
use caplane_transport::RefuseReason;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::southbound::SessionCounts;
use crate::worker::{BYE_CODES, WorkerSnapshot};

/// Everything one scrape shows.
#[derive(Debug)]
pub struct Scene<'a> {
    /// One per worker, in order.
    pub workers: &'a [WorkerSnapshot],
    /// The southbound session.
    pub session: &'a SessionCounts,
    /// Generation of the table in force.
    pub generation: u64,
    /// The router runs without a controller.
    pub stale: bool,
    /// Instances attached.
    pub attachments: usize,
}

/// The metrics as OpenMetrics text.
pub fn text(scene: &Scene<'_>) -> String {
    let rows = rows(scene);
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Rows(Mutex::new(rows))));
    let mut text = String::with_capacity(16 * 1024);
    // Writing to a String does not fail.
    let _ = encode(&mut text, &registry);
    text
}

/// One family: name without unit and `_total`, help, unit, and its samples by label value.
struct Row {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    samples: Samples,
}

enum Samples {
    Counter(u64),
    CounterBy(&'static str, Vec<(&'static str, u64)>),
    Gauge(i64),
    GaugeSeconds(f64),
    GaugeBy(&'static str, Vec<(&'static str, i64)>),
}

fn rows(scene: &Scene<'_>) -> Vec<Row> {
    let mut rows = Vec::with_capacity(64);
    forwarding(scene, &mut rows);
    connections(scene, &mut rows);
    packets(scene, &mut rows);
    tables(scene, &mut rows);
    rows
}

fn counter(name: &'static str, help: &'static str, value: u64) -> Row {
    Row {
        name,
        help,
        unit: None,
        samples: Samples::Counter(value),
    }
}

fn bytes(name: &'static str, help: &'static str, value: u64) -> Row {
    Row {
        unit: Some(Unit::Bytes),
        ..counter(name, help, value)
    }
}

fn gauge(name: &'static str, help: &'static str, value: u64) -> Row {
    Row {
        name,
        help,
        unit: None,
        samples: Samples::Gauge(value as i64),
    }
}

fn gauge_bytes(name: &'static str, help: &'static str, value: u64) -> Row {
    Row {
        unit: Some(Unit::Bytes),
        ..gauge(name, help, value)
    }
}

fn forwarding(scene: &Scene<'_>, rows: &mut Vec<Row>) {
    let mut total = caplane_core::Counters::default();
    for worker in scene.workers {
        total.add(&worker.forwarder);
    }
    let tails: u64 = scene.workers.iter().map(|w| w.transport.copied_bytes).sum();
    let drops = DropReason::ALL
        .iter()
        .map(|&reason| (reason.name(), total.dropped(reason)))
        .collect();
    rows.extend([
        counter(
            "router_messages_received",
            "Whole messages taken from peers",
            total.received,
        ),
        bytes(
            "router_received",
            "Bytes of those messages, header included",
            total.received_bytes,
        ),
        counter(
            "router_messages_forwarded",
            "Messages handed to the transport",
            total.forwarded,
        ),
        bytes(
            "router_forwarded",
            "Bytes of those messages, header included",
            total.forwarded_bytes,
        ),
        counter(
            "router_messages_delivered",
            "The forwarded messages that went to attached instances",
            total.delivered,
        ),
        counter(
            "router_messages_returned",
            "Messages handed to the transport and taken back",
            total.returned,
        ),
        counter(
            "router_messages_replicated",
            "Extra copies made of group messages",
            total.replicated,
        ),
        counter(
            "router_messages_rerouted",
            "Messages sent on to a second egress router",
            total.rerouted,
        ),
        counter(
            "router_priority_capped",
            "Messages whose priority was lowered to their policy group's cap",
            total.priority_capped,
        ),
        Row {
            name: "router_drops",
            help: "Messages dropped, by reason",
            unit: None,
            samples: Samples::CounterBy("reason", drops),
        },
        counter("router_notices", "Notices made", total.notices),
        counter(
            "router_notices_suppressed",
            "Notices not made because the peer's notice rate was used up",
            total.notices_suppressed,
        ),
        counter(
            "router_lanes_blocked",
            "Times an ingress lane was stopped for a full queue",
            total.blocked,
        ),
        counter(
            "router_runs",
            "Slices appended to egress queues; forwarded per run says how well runs merge",
            total.runs,
        ),
        Row {
            name: "router_copied",
            help: "Message bytes copied by our code between QUIC's receive call and its send call",
            unit: Some(Unit::Bytes),
            samples: Samples::Counter(total.copied_bytes + tails),
        },
        gauge(
            "router_queue_messages",
            "Messages in egress queues",
            total.queued,
        ),
        gauge_bytes(
            "router_queue",
            "Bytes of the messages in egress queues",
            total.queued_bytes,
        ),
        gauge_bytes(
            "router_queue_charged",
            "Slab bytes the egress queues are charged for",
            total.charged_bytes,
        ),
        gauge(
            "router_bulk_active",
            "Bulk messages under way",
            total.bulk_active,
        ),
    ]);
}

fn connections(scene: &Scene<'_>, rows: &mut Vec<Row>) {
    let sum = |of: fn(&WorkerSnapshot) -> u64| scene.workers.iter().map(of).sum::<u64>();
    let refused = RefuseReason::ALL
        .iter()
        .map(|&reason| {
            let count = scene
                .workers
                .iter()
                .map(|w| w.transport.refused_for(reason));
            (reason.name(), count.sum())
        })
        .collect();
    let byes = (0..BYE_CODES)
        .map(|index| {
            (
                bye_name(index),
                scene.workers.iter().map(|w| w.worker.byes[index]).sum(),
            )
        })
        .collect();
    let links_up = sum(|w| w.worker.links_up);
    rows.extend([
        Row {
            name: "router_peers",
            help: "Connections in use, by role",
            unit: None,
            samples: Samples::GaugeBy(
                "role",
                vec![
                    ("instance", scene.attachments as i64),
                    ("neighbour", links_up as i64),
                ],
            ),
        },
        gauge(
            "router_neighbours",
            "Neighbours in the table",
            sum(|w| w.worker.neighbours),
        ),
        gauge(
            "router_links_alive",
            "Neighbour links that answer probes",
            sum(|w| w.worker.links_alive),
        ),
        counter(
            "router_handshakes",
            "Connections established",
            sum(|w| w.transport.connected),
        ),
        Row {
            name: "router_handshakes_refused",
            help: "Connections refused before they became a peer, by reason",
            unit: None,
            samples: Samples::CounterBy("reason", refused),
        },
        Row {
            name: "router_byes",
            help: "Authenticated connections refused or ended by this router, by code",
            unit: None,
            samples: Samples::CounterBy("code", byes),
        },
        counter(
            "router_control_faults",
            "Control frames that could not be understood",
            sum(|w| w.worker.control_faults),
        ),
        counter(
            "router_resolves_answered",
            "Resolves answered from the table",
            sum(|w| w.worker.resolves_answered),
        ),
        counter(
            "router_resolves_relayed",
            "Resolves passed to the controller",
            sum(|w| w.worker.resolves_relayed),
        ),
        counter(
            "router_resolves_refused",
            "Resolves refused because too many wait",
            sum(|w| w.worker.resolves_refused),
        ),
    ]);
}

fn packets(scene: &Scene<'_>, rows: &mut Vec<Row>) {
    let sum = |of: fn(&caplane_transport::Counters) -> u64| {
        scene.workers.iter().map(|w| of(&w.transport)).sum::<u64>()
    };
    rows.extend([
        counter(
            "router_packets_received",
            "UDP datagrams received",
            sum(|t| t.packets_received),
        ),
        bytes(
            "router_packets_received",
            "UDP payload bytes received",
            sum(|t| t.bytes_received),
        ),
        counter(
            "router_packets_sent",
            "UDP datagrams sent",
            sum(|t| t.packets_sent),
        ),
        bytes(
            "router_packets_sent",
            "UDP payload bytes sent",
            sum(|t| t.bytes_sent),
        ),
        counter(
            "router_receive_calls",
            "Receive system calls that returned data",
            sum(|t| t.receive_calls),
        ),
        counter(
            "router_send_calls",
            "Send system calls",
            sum(|t| t.send_calls),
        ),
        counter(
            "router_packets_too_large",
            "Sends refused with EMSGSIZE: lost probes and path MTU drops",
            sum(|t| t.sends_too_large),
        ),
        counter(
            "router_packets_unknown",
            "Received datagrams of no connection",
            sum(|t| t.packets_unknown),
        ),
        counter(
            "router_datagrams_refused",
            "DATAGRAM frames refused by the transport",
            sum(|t| t.datagrams_too_large + t.datagrams_queue_full),
        ),
        counter(
            "router_streams_refused",
            "Streams refused for their preface, type or length",
            sum(|t| t.streams_refused),
        ),
        gauge("router_slabs", "Receive slabs that exist", sum(|t| t.slabs)),
        counter(
            "router_slabs_exhausted",
            "Times a lane was not read because every slab was in use",
            sum(|t| t.slabs_exhausted),
        ),
        counter(
            "router_ticks",
            "Turns of the worker's loop",
            scene.workers.iter().map(|w| w.worker.ticks).sum(),
        ),
    ]);
}

fn tables(scene: &Scene<'_>, rows: &mut Vec<Row>) {
    let session = |of: &std::sync::atomic::AtomicU64| of.load(Ordering::Relaxed);
    let s = scene.session;
    rows.extend([
        gauge(
            "router_table_generation",
            "Generation of the table in force",
            scene.generation,
        ),
        gauge(
            "router_table_stale",
            "1 while the router runs without a controller",
            u64::from(scene.stale),
        ),
        counter(
            "router_table_updates",
            "Table updates put in force",
            session(&s.updates_applied),
        ),
        counter(
            "router_table_snapshots",
            "Table updates put in force that replaced everything",
            session(&s.snapshots_applied),
        ),
        counter(
            "router_table_updates_rejected",
            "Table updates refused; the last good table stayed",
            session(&s.updates_rejected),
        ),
        Row {
            name: "router_table_live",
            help: "From the arrival of the last update until it was live on every worker",
            unit: Some(Unit::Seconds),
            samples: Samples::GaugeSeconds(session(&s.live_took_us) as f64 / 1e6),
        },
        gauge(
            "router_controller_connected",
            "1 while a controller session is open",
            session(&s.connected),
        ),
        counter(
            "router_controller_sessions",
            "Controller sessions accepted",
            session(&s.accepted),
        ),
        counter(
            "router_resolves_failed",
            "Relayed Resolves without an answer",
            session(&s.resolves_failed),
        ),
        counter(
            "router_commands_lost",
            "Commands a worker's full channel did not take",
            session(&s.commands_lost),
        ),
    ]);
}

/// `BYE_CODE_UNKNOWN_IDENTITY` -> `unknown_identity`: the label must live as long as the program.
fn bye_name(index: usize) -> &'static str {
    match ByeCode::try_from(index as i32) {
        Ok(ByeCode::Normal) => "normal",
        Ok(ByeCode::Drained) => "drained",
        Ok(ByeCode::UnknownIdentity) => "unknown_identity",
        Ok(ByeCode::NotAllowed) => "not_allowed",
        Ok(ByeCode::InstanceLimit) => "instance_limit",
        Ok(ByeCode::InstanceConflict) => "instance_conflict",
        Ok(ByeCode::Protocol) => "protocol",
        Ok(ByeCode::Withdrawn) => "withdrawn",
        Ok(ByeCode::Overloaded) => "overloaded",
        Ok(ByeCode::Replaced) => "replaced",
        Err(_) => "other",
    }
}

/// prometheus-client's view of the rows.
struct Rows(Mutex<Vec<Row>>);

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rows")
    }
}

impl Collector for Rows {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let rows = self.0.lock().map_err(|_| fmt::Error)?;
        for row in rows.iter() {
            let kind = match row.samples {
                Samples::Counter(_) | Samples::CounterBy(..) => MetricType::Counter,
                Samples::Gauge(_) | Samples::GaugeSeconds(_) | Samples::GaugeBy(..) => {
                    MetricType::Gauge
                }
            };
            let metric = encoder.encode_descriptor(row.name, row.help, row.unit.as_ref(), kind)?;
            row.samples.encode(metric)?;
        }
        Ok(())
    }
}

impl Samples {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        match self {
            Samples::Counter(value) => ConstCounter::new(*value).encode(encoder),
            Samples::Gauge(value) => ConstGauge::new(*value).encode(encoder),
            Samples::GaugeSeconds(value) => ConstGauge::new(*value).encode(encoder),
            Samples::CounterBy(label, values) => {
                for (name, value) in values {
                    let labels = [(*label, *name)];
                    let family = encoder.encode_family(&labels)?;
                    ConstCounter::new(*value).encode(family)?;
                }
                Ok(())
            }
            Samples::GaugeBy(label, values) => {
                for (name, value) in values {
                    let labels = [(*label, *name)];
                    let family = encoder.encode_family(&labels)?;
                    ConstGauge::new(*value).encode(family)?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn scene_text() -> String {
        let mut snapshot = WorkerSnapshot {
            forwarder: caplane_core::Counters::default(),
            transport: caplane_transport::Counters::default(),
            worker: crate::worker::WorkerCounts::default(),
        };
        snapshot.forwarder.forwarded_bytes = 1_000;
        snapshot.forwarder.copied_bytes = 3;
        snapshot.transport.copied_bytes = 4;
        snapshot.forwarder.dropped[DropReason::NoRoute as usize] = 7;
        text(&Scene {
            workers: &[snapshot.clone(), snapshot],
            session: &SessionCounts::default(),
            generation: 17,
            stale: true,
            attachments: 3,
        })
    }

    #[test]
    fn names_that_others_rely_on_are_there() {
        let text = scene_text();
        for line in [
            "router_copied_bytes_total 14",
            "router_forwarded_bytes_total 2000",
            "router_drops_total{reason=\"no_route\"} 14",
            "router_table_generation 17",
            "router_table_stale 1",
            "router_peers{role=\"instance\"} 3",
            "router_queue_bytes 0",
            "router_notices_total 0",
            "router_handshakes_refused_total{reason=\"expired\"} 0",
            "router_byes_total{code=\"unknown_identity\"} 0",
        ] {
            assert!(
                text.lines().any(|l| l == line),
                "no line {line:?} in\n{text}"
            );
        }
        assert!(text.ends_with("# EOF\n"));
    }

    /// Every family is declared once, and every sample belongs to the family above it.
    #[test]
    fn families_are_unique_and_whole() {
        let text = scene_text();
        let mut seen = BTreeSet::new();
        let mut family = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                family = rest.split(' ').next().unwrap().to_owned();
                assert!(seen.insert(family.clone()), "{family} is declared twice");
            } else if !line.starts_with('#') {
                assert!(line.starts_with(&family), "{line} is not of {family}");
            }
        }
        assert!(seen.len() > 40);
    }
}
