//! A result: what was asked, what happened, on what machine; as JSON and as text.

use super::process::{Machine, ProcessSample, ProcessWatch};
use super::receiver::ReceiverTotals;
use super::sender::SenderTotals;
use super::{Carrier, Plan, Rate};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Whether the figures mean what they say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The offered load was offered.
    Valid,
    /// The router's flow control held the generator back: the rate is the router's, the latency that of an overload.
    HeldBack,
    /// The generator could not keep up: the result is invalid.
    GeneratorSaturated,
    /// Nothing came through.
    NothingReceived,
    /// Messages came through corrupted or reached the wrong receiver.
    Faulty,
}

/// Part of the offered rate that must really be offered.
const OFFERED_PART: f64 = 0.99;
/// Part of the time that flow control may hold messages back before the shortfall is the router's.
const BLOCKED_PART: f64 = 0.05;

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Distribution {
    /// Messages.
    pub count: u64,
    /// Smallest.
    pub min: f64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// 99.99th percentile.
    pub p9999: f64,
    /// Largest.
    pub max: f64,
}

impl Distribution {
    pub(super) fn of(histogram: &Histogram<u64>) -> Distribution {
        let us = |ns: u64| ns as f64 / 1e3;
        let at = |q| us(histogram.value_at_quantile(q));
        if histogram.is_empty() {
            return Distribution::default();
        }
        Distribution {
            count: histogram.len(),
            min: us(histogram.min()),
            mean: histogram.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: us(histogram.max()),
        }
    }
}

/// CPU of the watched processes within the measured window.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cpu {
    /// User plus system time (seconds).
    pub cpu_s: f64,
    /// Resolution of that (seconds).
    pub resolution_s: f64,
    /// Messages that came through meanwhile.
    pub messages: u64,
    /// CPU time a message (nanoseconds).
    pub ns_per_message: f64,
    /// Messages one second of CPU carries.
    pub messages_per_core_second: f64,
    /// Payload gigabits one second of CPU carries.
    pub gbit_per_core_second: f64,
    /// CPU seconds a million messages.
    pub cpu_s_per_million_messages: f64,
    /// Context switches a message.
    pub context_switches_per_message: f64,
    /// Resident memory at the end (bytes).
    pub resident_bytes: u64,
}

/// Samples at both ends of the measured window.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sampled {
    pub(super) elapsed: Duration,
    pub(super) before: ProcessSample,
    pub(super) after: ProcessSample,
    pub(super) messages: u64,
    pub(super) payload_bytes: u64,
}

impl Cpu {
    fn of(sampled: &Sampled, resolution: Duration) -> Cpu {
        let cpu_s = (sampled.after.cpu.saturating_sub(sampled.before.cpu)).as_secs_f64();
        let messages = sampled.messages.max(1) as f64;
        let switches = sampled
            .after
            .context_switches
            .saturating_sub(sampled.before.context_switches);
        let per_core_second = |amount: f64| if cpu_s > 0.0 { amount / cpu_s } else { 0.0 };
        Cpu {
            cpu_s,
            resolution_s: resolution.as_secs_f64(),
            messages: sampled.messages,
            ns_per_message: cpu_s * 1e9 / messages,
            messages_per_core_second: per_core_second(sampled.messages as f64),
            gbit_per_core_second: per_core_second(sampled.payload_bytes as f64 * 8.0 / 1e9),
            cpu_s_per_million_messages: cpu_s * 1e6 / messages,
            context_switches_per_message: switches as f64 / messages,
            resident_bytes: sampled.after.resident_bytes,
        }
    }
}

/// Everything about one run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this object's shape.
    pub schema: &'static str,
    /// What was measured.
    pub target: String,
    /// Whether the figures mean what they say.
    pub verdict: Verdict,
    /// What carried the messages.
    pub carrier: Carrier,
    /// Payload bytes of a message.
    pub payload_bytes: usize,
    /// Sending connections.
    pub senders: usize,
    /// Receiving connections.
    pub receivers: usize,
    /// Destination classes.
    pub classes: usize,
    /// Flows.
    pub flows: usize,
    /// Lanes a sender.
    pub lanes: usize,
    /// Seed of flow ids and order.
    pub seed: u64,
    /// Seconds measured.
    pub measured_s: f64,
    /// Messages a second asked for; absent when closed by flow control.
    pub offered_per_s: Option<f64>,
    /// "open" or "closed by flow control".
    pub loop_kind: &'static str,
    /// Messages a second handed to the transport within the window.
    pub sent_per_s: f64,
    /// Messages a second received within the window.
    pub received_per_s: f64,
    /// Payload gigabits a second received within the window.
    pub received_gbit_per_s: f64,
    /// All messages handed over, warm-up included.
    pub sent: u64,
    /// All messages received once, warm-up included.
    pub received: u64,
    /// `sent - received`.
    pub lost: u64,
    /// Received again.
    pub duplicated: u64,
    /// Received after a later one of the flow.
    pub reordered: u64,
    /// Stamp, body or header changed.
    pub corrupted: u64,
    /// Received by one that does not serve the class.
    pub misrouted: u64,
    /// Messages of nobody here.
    pub foreign: u64,
    /// Datagrams that did not fit the path.
    pub too_large: u64,
    /// Notices received by senders, by name.
    pub notices: BTreeMap<String, u64>,
    /// From the intended time; absent when closed by flow control or without stamps.
    pub latency_us: Option<Distribution>,
    /// From the time of sending.
    pub latency_uncorrected_us: Option<Distribution>,
    /// How late the generator itself was.
    pub generator_lateness_us: Distribution,
    /// Part of the time in which flow control held messages back, averaged over the senders' lanes.
    pub blocked_part: f64,
    /// CPU of the router's processes.
    pub router_cpu: Option<Cpu>,
    /// Largest UDP payload on the senders' paths (bytes), as discovered.
    pub udp_payload: usize,
    /// Generator and router share this machine's CPUs.
    pub co_located: bool,
    /// TLS suite of the connections.
    pub tls: String,
    /// What it ran on.
    pub machine: Machine,
}

/// What a run leaves behind.
pub(super) struct Outcome {
    pub(super) senders: Vec<SenderTotals>,
    pub(super) receivers: Vec<ReceiverTotals>,
    pub(super) sampled: Sampled,
}

impl Report {
    pub(super) fn new(
        plan: &Plan,
        target: &str,
        watch: &ProcessWatch,
        outcome: &Outcome,
    ) -> Report {
        let (senders, receivers) = (&outcome.senders, &outcome.receivers);
        let sent: u64 = senders.iter().map(|s| s.sent).sum();
        let sum = |of: fn(&ReceiverTotals) -> u64| receivers.iter().map(of).sum::<u64>();
        let received = sum(|r| r.unique);
        let measured_s = plan.duration.as_secs_f64();
        let elapsed_s = outcome.sampled.elapsed.as_secs_f64().max(1e-9);
        let sent_measured: u64 = senders.iter().map(|s| s.sent_measured).sum();
        let blocked_ns: u64 = senders.iter().map(|s| s.blocked_ns).sum();
        let lanes = if plan.carrier == Carrier::Lane {
            plan.lanes
        } else {
            1
        };
        let run_s = (plan.warm_up + plan.duration).as_secs_f64() * (plan.senders * lanes) as f64;
        let (offered, open) = match plan.rate {
            Rate::PerSecond(rate) => (Some(rate), true),
            Rate::Max => (None, false),
        };
        let mut notices = BTreeMap::new();
        for (name, count) in senders.iter().flat_map(|s| &s.notices) {
            *notices.entry(name.clone()).or_default() += count;
        }
        let corrected = merged(receivers.iter().map(|r| &r.corrected_ns));
        let uncorrected = merged(receivers.iter().map(|r| &r.uncorrected_ns));
        let mut report = Report {
            schema: "caplane-load.run.1",
            target: target.to_owned(),
            verdict: Verdict::Valid,
            carrier: plan.carrier,
            payload_bytes: plan.payload,
            senders: plan.senders,
            receivers: plan.receivers,
            classes: plan.classes.len(),
            flows: plan.flows,
            lanes,
            seed: plan.seed,
            measured_s,
            offered_per_s: offered,
            loop_kind: if open {
                "open"
            } else {
                "closed by flow control"
            },
            sent_per_s: sent_measured as f64 / measured_s,
            received_per_s: outcome.sampled.messages as f64 / elapsed_s,
            received_gbit_per_s: outcome.sampled.payload_bytes as f64 * 8.0 / 1e9 / elapsed_s,
            sent,
            received,
            lost: sent.saturating_sub(received),
            duplicated: sum(|r| r.duplicated),
            reordered: sum(|r| r.reordered),
            corrupted: sum(|r| r.corrupted),
            misrouted: sum(|r| r.misrouted),
            foreign: sum(|r| r.foreign),
            too_large: senders.iter().map(|s| s.too_large).sum(),
            notices,
            latency_us: (open && !corrected.is_empty()).then(|| Distribution::of(&corrected)),
            latency_uncorrected_us: (!uncorrected.is_empty())
                .then(|| Distribution::of(&uncorrected)),
            generator_lateness_us: Distribution::of(&merged(
                senders.iter().map(|s| &s.lateness_ns),
            )),
            blocked_part: blocked_ns as f64 / 1e9 / run_s,
            router_cpu: (!watch.is_empty()).then(|| Cpu::of(&outcome.sampled, watch.resolution())),
            udp_payload: senders
                .iter()
                .map(|s| s.udp_payload)
                .max()
                .unwrap_or_default(),
            co_located: true,
            tls: tls(),
            machine: Machine::read(),
        };
        report.verdict = report.judge();
        report
    }

    fn judge(&self) -> Verdict {
        if self.corrupted + self.misrouted > 0 {
            return Verdict::Faulty;
        }
        if self.received == 0 {
            return Verdict::NothingReceived;
        }
        match self.offered_per_s {
            Some(offered) if self.sent_per_s < offered * OFFERED_PART => {
                if self.blocked_part > BLOCKED_PART {
                    Verdict::HeldBack
                } else {
                    Verdict::GeneratorSaturated
                }
            }
            _ => Verdict::Valid,
        }
    }
}

fn merged<'a>(parts: impl Iterator<Item = &'a Histogram<u64>>) -> Histogram<u64> {
    let mut sum = super::receiver::histogram();
    for part in parts {
        sum.add(part).expect("all histograms have the same bounds");
    }
    sum
}

/// BoringSSL prefers AES-128-GCM where the CPU has AES, ChaCha20-Poly1305 elsewhere; the
/// suite is not read from the connection.
fn tls() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let aes = cpuinfo
        .lines()
        .find(|line| line.starts_with("flags") || line.starts_with("Features"))
        .is_some_and(|line| line.split_whitespace().any(|flag| flag == "aes"));
    let suite = if aes {
        "TLS_AES_128_GCM_SHA256"
    } else {
        "TLS_CHACHA20_POLY1305_SHA256"
    };
    format!("{suite} (TLS 1.3, mutual; BoringSSL's preference on this CPU)")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let offered = self
            .offered_per_s
            .map_or("as fast as flow control admits".to_owned(), |rate| {
                format!("{rate:.0}/s offered")
            });
        writeln!(
            f,
            "{}: {:?}, {} B payload, {offered} ({} loop), {} senders, {} receivers, {} classes, {} flows, {:.1} s",
            self.target,
            self.carrier,
            self.payload_bytes,
            self.loop_kind,
            self.senders,
            self.receivers,
            self.classes,
            self.flows,
            self.measured_s,
        )?;
        writeln!(
            f,
            "  rate      sent {:.0}/s, received {:.0}/s = {:.3} Gbit/s of payload, UDP payload {} B",
            self.sent_per_s, self.received_per_s, self.received_gbit_per_s, self.udp_payload,
        )?;
        writeln!(
            f,
            "  messages  sent {}, received {}, lost {}, duplicated {}, reordered {}, corrupted {}, misrouted {}, foreign {}, too large {}",
            self.sent,
            self.received,
            self.lost,
            self.duplicated,
            self.reordered,
            self.corrupted,
            self.misrouted,
            self.foreign,
            self.too_large,
        )?;
        self.write_latency(f)?;
        self.write_machine(f)
    }
}

impl Report {
    fn write_latency(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.notices.is_empty() {
            writeln!(f, "  notices   {:?}", self.notices)?;
        }
        for (name, latency) in [
            ("latency  ", &self.latency_us),
            ("  from sending (uncorrected)", &self.latency_uncorrected_us),
        ] {
            if let Some(d) = latency {
                writeln!(f, "  {name} us: {d}")?;
            }
        }
        writeln!(
            f,
            "  generator late by p99 {:.0} us; held back by flow control {:.1} % of the time",
            self.generator_lateness_us.p99,
            self.blocked_part * 100.0
        )
    }

    fn write_machine(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(cpu) = &self.router_cpu {
            writeln!(
                f,
                "  router    {:.0} ns of CPU a message, {:.3} M messages and {:.2} Gbit a core-second, {:.4} context switches a message, {:.1} MiB resident ({:.2} s of CPU, resolution {:.0} ms)",
                cpu.ns_per_message,
                cpu.messages_per_core_second / 1e6,
                cpu.gbit_per_core_second,
                cpu.context_switches_per_message,
                cpu.resident_bytes as f64 / 1048576.0,
                cpu.cpu_s,
                cpu.resolution_s * 1e3,
            )?;
        }
        writeln!(
            f,
            "  on        {} ({} CPUs, co-located), Linux {}, commit {}, {}, seed {}",
            self.machine.cpu,
            self.machine.cpus,
            self.machine.kernel,
            self.machine.commit,
            self.tls,
            self.seed,
        )?;
        write!(
            f,
            "  verdict   {}",
            match self.verdict {
                Verdict::Valid => "valid",
                Verdict::HeldBack =>
                    "held back: the router took less than was offered; this is its limit, and the latency is that of an overload",
                Verdict::GeneratorSaturated => "generator saturated: result invalid",
                Verdict::NothingReceived => "NOTHING RECEIVED: result invalid",
                Verdict::Faulty => "FAULTY: corrupted or misrouted messages",
            }
        )
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "min {:.0}, mean {:.0}, p50 {:.0}, p90 {:.0}, p99 {:.0}, p99.9 {:.0}, p99.99 {:.0}, max {:.0}",
            self.min, self.mean, self.p50, self.p90, self.p99, self.p999, self.p9999, self.max
        )
    }
}
