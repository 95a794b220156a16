//! Names and text of the router's metrics, from one snapshot per worker.
//!
//! Base units, no label per agent or peer. Everything is declared once, as data, so
//! that a name is found by searching for it.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

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
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Rows(Mutex::new(rows(scene)))));
    let mut text = String::with_capacity(16 * 1024);
    // Writing to a String does not fail.
    let _ = encode(&mut text, &registry);
    text
}

/// A number without labels, read from a `T`.
struct Field<T: 'static> {
    /// Without unit and `_total`, which the exposition adds.
    name: &'static str,
    help: &'static str,
    kind: Kind,
    of: fn(&T) -> u64,
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    CounterBytes,
    Gauge,
    GaugeBytes,
}

/// What every worker counts; shown as the sum.
#[rustfmt::skip] // One line each: a table to be read.
static WORKER: [Field<WorkerSnapshot>; FIELDS] = {
    use Kind::{Counter, CounterBytes, Gauge, GaugeBytes};
    const fn field(kind: Kind, name: &'static str, of: fn(&WorkerSnapshot) -> u64, help: &'static str) -> Field<WorkerSnapshot> {
        Field { name, help, kind, of }
    }
    [
        field(Counter, "router_messages_received", |w| w.forwarder.received, "Whole messages taken from peers"),
        field(CounterBytes, "router_received", |w| w.forwarder.received_bytes, "Bytes of those messages, header included"),
        field(Counter, "router_messages_forwarded", |w| w.forwarder.forwarded, "Messages handed to the transport"),
        field(CounterBytes, "router_forwarded", |w| w.forwarder.forwarded_bytes, "Bytes of those messages, header included"),
        field(Counter, "router_messages_delivered", |w| w.forwarder.delivered, "The forwarded messages that went to attached instances"),
        field(Counter, "router_messages_returned", |w| w.forwarder.returned, "Messages handed to the transport and taken back"),
        field(Counter, "router_messages_handed_over", |w| w.forwarder.handed_over, "Messages handed to another worker, whose peer they go to"),
        field(Counter, "router_messages_taken_over", |w| w.forwarder.taken_over, "Messages taken from another worker"),
        field(Counter, "router_messages_unacknowledged", |w| w.transport.messages_unacknowledged, "Messages forwarded to peers that went away before they acknowledged them (upper bound)"),
        field(Counter, "router_messages_replicated", |w| w.forwarder.replicated, "Extra copies made of group messages"),
        field(Counter, "router_messages_rerouted", |w| w.forwarder.rerouted, "Messages sent on to a second egress router"),
        field(Counter, "router_priority_capped", |w| w.forwarder.priority_capped, "Messages whose priority was lowered to their policy group's cap"),
        field(Counter, "router_notices", |w| w.forwarder.notices, "Notices made"),
        field(Counter, "router_notices_suppressed", |w| w.forwarder.notices_suppressed, "Notices not made because the peer's notice rate was used up"),
        field(Counter, "router_lanes_blocked", |w| w.forwarder.blocked, "Times an ingress lane was stopped for a full queue"),
        field(Counter, "router_runs", |w| w.forwarder.runs, "Slices appended to egress queues: forwarded per run says how well runs merge"),
        field(CounterBytes, "router_copied", |w| w.forwarder.copied_bytes + w.transport.copied_bytes, "Message bytes copied by our code between QUIC's receive call and its send call"),
        field(Gauge, "router_queue_messages", |w| w.forwarder.queued, "Messages in egress queues"),
        field(GaugeBytes, "router_queue", |w| w.forwarder.queued_bytes, "Bytes of the messages in egress queues"),
        field(GaugeBytes, "router_queue_charged", |w| w.forwarder.charged_bytes, "Slab bytes the egress queues are charged for"),
        field(Gauge, "router_bulk_active", |w| w.forwarder.bulk_active, "Bulk messages under way"),
        field(Gauge, "router_neighbours", |w| w.worker.neighbours, "Neighbours in the table"),
        field(Gauge, "router_links_alive", |w| w.worker.links_alive, "Neighbour links that answer probes"),
        field(Counter, "router_handshakes", |w| w.transport.connected, "Connections established"),
        field(Counter, "router_control_faults", |w| w.worker.control_faults, "Control frames that could not be understood"),
        field(Counter, "router_resolves_answered", |w| w.worker.resolves_answered, "Resolves answered from the table"),
        field(Counter, "router_resolves_relayed", |w| w.worker.resolves_relayed, "Resolves passed to the controller"),
        field(Counter, "router_resolves_refused", |w| w.worker.resolves_refused, "Resolves refused because too many wait"),
        field(Counter, "router_packets_received", |w| w.transport.packets_received, "UDP datagrams received"),
        field(CounterBytes, "router_packets_received", |w| w.transport.bytes_received, "UDP payload bytes received"),
        field(Counter, "router_packets_sent", |w| w.transport.packets_sent, "UDP datagrams sent"),
        field(CounterBytes, "router_packets_sent", |w| w.transport.bytes_sent, "UDP payload bytes sent"),
        field(Counter, "router_receive_calls", |w| w.transport.receive_calls, "Receive system calls that returned data"),
        field(Counter, "router_send_calls", |w| w.transport.send_calls, "Send system calls"),
        field(Counter, "router_packets_too_large", |w| w.transport.sends_too_large, "Sends refused with EMSGSIZE: lost probes and path MTU drops"),
        field(Counter, "router_packets_unknown", |w| w.transport.packets_unknown, "Received datagrams of no connection"),
        field(Counter, "router_datagrams_refused", |w| w.transport.datagrams_too_large + w.transport.datagrams_queue_full, "DATAGRAM frames refused by the transport"),
        field(Counter, "router_streams_refused", |w| w.transport.streams_refused, "Streams refused for their preface, type or length"),
        field(Gauge, "router_slabs", |w| w.transport.slabs, "Receive slabs that exist"),
        field(Counter, "router_slabs_exhausted", |w| w.transport.slabs_exhausted, "Times a lane was not read because every slab was in use"),
        field(Counter, "router_packets_missteered", |w| w.transport.packets_missteered, "Packets sent on to the worker whose connection they name"),
        field(Counter, "router_ticks", |w| w.worker.ticks, "Turns of the workers' loops"),
    ]
};
const FIELDS: usize = 42;

/// What the control thread counts of its session.
#[rustfmt::skip] // One line each: a table to be read.
static SESSION: [Field<SessionCounts>; SESSION_FIELDS] = {
    use Kind::{Counter, Gauge};
    const fn field(kind: Kind, name: &'static str, of: fn(&SessionCounts) -> u64, help: &'static str) -> Field<SessionCounts> {
        Field { name, help, kind, of }
    }
    [
        field(Counter, "router_table_updates", |s| read(&s.updates_applied), "Table updates put in force"),
        field(Counter, "router_table_snapshots", |s| read(&s.snapshots_applied), "Table updates put in force that replaced everything"),
        field(Counter, "router_table_updates_rejected", |s| read(&s.updates_rejected), "Table updates refused; the last good table stayed"),
        field(Gauge, "router_controller_connected", |s| read(&s.connected), "1 while a controller session is open"),
        field(Counter, "router_controller_sessions", |s| read(&s.accepted), "Controller sessions accepted"),
        field(Counter, "router_resolves_failed", |s| read(&s.resolves_failed), "Relayed Resolves without an answer"),
        field(Counter, "router_commands_lost", |s| read(&s.commands_lost), "Commands a worker's full channel did not take"),
    ]
};
const SESSION_FIELDS: usize = 7;

fn read(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

/// One family with its samples.
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

impl Row {
    fn new(name: &'static str, help: &'static str, samples: Samples) -> Self {
        Self {
            name,
            help,
            unit: None,
            samples,
        }
    }

    fn of_field<T>(field: &Field<T>, value: u64) -> Self {
        let (unit, samples) = match field.kind {
            Kind::Counter => (None, Samples::Counter(value)),
            Kind::CounterBytes => (Some(Unit::Bytes), Samples::Counter(value)),
            Kind::Gauge => (None, Samples::Gauge(value as i64)),
            Kind::GaugeBytes => (Some(Unit::Bytes), Samples::Gauge(value as i64)),
        };
        Self {
            unit,
            ..Self::new(field.name, field.help, samples)
        }
    }
}

fn rows(scene: &Scene<'_>) -> Vec<Row> {
    let workers = WORKER.iter().map(|field| {
        let sum = scene.workers.iter().map(field.of).sum();
        Row::of_field(field, sum)
    });
    let session = SESSION
        .iter()
        .map(|field| Row::of_field(field, (field.of)(scene.session)));
    workers
        .chain(session)
        .chain(by_reason(scene))
        .chain(table(scene))
        .collect()
}

fn by_reason(scene: &Scene<'_>) -> [Row; 3] {
    let sum = |of: &dyn Fn(&WorkerSnapshot) -> u64| scene.workers.iter().map(of).sum::<u64>();
    let drops = DropReason::ALL
        .iter()
        .map(|&reason| (reason.name(), sum(&|w| w.forwarder.dropped(reason))))
        .collect();
    let refused = RefuseReason::ALL
        .iter()
        .map(|&reason| (reason.name(), sum(&|w| w.transport.refused_for(reason))))
        .collect();
    let byes = (0..BYE_CODES)
        .map(|index| (bye_name(index), sum(&|w| w.worker.byes[index])))
        .collect();
    [
        Row::new(
            "router_drops",
            "Messages dropped, by reason",
            Samples::CounterBy("reason", drops),
        ),
        Row::new(
            "router_handshakes_refused",
            "Connections refused before they became a peer, by reason",
            Samples::CounterBy("reason", refused),
        ),
        Row::new(
            "router_byes",
            "Authenticated connections refused or ended by this router, by code",
            Samples::CounterBy("code", byes),
        ),
    ]
}

fn table(scene: &Scene<'_>) -> [Row; 4] {
    let links_up: u64 = scene.workers.iter().map(|w| w.worker.links_up).sum();
    let roles = vec![
        ("instance", scene.attachments as i64),
        ("neighbour", links_up as i64),
    ];
    let live_seconds = read(&scene.session.live_took_us) as f64 / 1e6;
    let mut live = Row::new(
        "router_table_live",
        "From the arrival of the last update until it was live on every worker",
        Samples::GaugeSeconds(live_seconds),
    );
    live.unit = Some(Unit::Seconds);
    [
        Row::new(
            "router_peers",
            "Connections in use, by role",
            Samples::GaugeBy("role", roles),
        ),
        Row::new(
            "router_table_generation",
            "Generation of the table in force",
            Samples::Gauge(scene.generation as i64),
        ),
        Row::new(
            "router_table_stale",
            "1 while the router runs without a controller",
            Samples::Gauge(i64::from(scene.stale)),
        ),
        live,
    ]
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
