//! A result: what was asked, what happened, on what machine; as JSON and as text.

use super::export::{Histograms, percentiles};
use super::process::{Machine, ProcessSample, ProcessWatch};
use super::receiver::ReceiverTotals;
use super::sender::SenderTotals;
use super::silence::Timeline;
use super::{Carrier, Plan, Rate};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

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

/// Median and largest of some times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Span {
    /// Median.
    pub p50: f64,
    /// Largest.
    pub max: f64,
}

impl From<Vec<f64>> for Span {
    fn from(mut times: Vec<f64>) -> Span {
        times.sort_by(f64::total_cmp);
        Span {
            p50: times.get(times.len() / 2).copied().unwrap_or_default(),
            max: times.last().copied().unwrap_or_default(),
        }
    }
}

/// Instances that came and went during the measurement.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ConnectionChurn {
    /// Asked for, a second.
    pub wanted_per_s: f64,
    /// Attached and left again.
    pub attached: u32,
    /// The same, a second.
    pub attached_per_s: f64,
    /// Refused, or lost on the way.
    pub failed: u32,
    /// From the first packet to Welcome (milliseconds).
    pub attach_ms: Span,
}

/// Tables rewritten during the measurement.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct TableChurn {
    /// Changes pushed.
    pub deltas: u32,
    /// Class entries in each.
    pub entries: usize,
    /// From an update, made and complete at the controller, to the report that it is live on all workers; the slowest router's (milliseconds).
    pub live_ms: Span,
    /// The part of it that the slowest router reports: from the update's last part to live (milliseconds).
    pub router_ms: Span,
    /// Time a change blocked traffic, as FD.io counts it: lost / offered rate (milliseconds a change); absent in a closed loop.
    pub blocked_ms: Option<f64>,
    /// Longest silence of a receiver while a change came into force, from its push until a moment after it was live; mean of the
    /// changes that could be judged (milliseconds). Absent when none could: the window ended first, or changes followed too closely.
    pub silence_during_ms: Option<f64>,
    /// The same of equally long stretches right before the making of each change (milliseconds).
    pub silence_before_ms: Option<f64>,
}

impl TableChurn {
    /// How much longer nothing came while a change came into force than right before it (milliseconds, mean of the changes; below
    /// zero by chance).
    pub fn stood_ms(&self) -> Option<f64> {
        Some(self.silence_during_ms? - self.silence_before_ms?)
    }
}

/// What the generator carried alone before the run, sender to receiver.
#[derive(Clone, Debug, Serialize)]
pub struct SelfTest {
    /// Messages a second asked of it; absent when closed by flow control.
    pub offered_per_s: Option<f64>,
    /// Messages a second it received.
    pub received_per_s: f64,
    /// Whether it offered them.
    pub verdict: Verdict,
    /// What of the run's load it leaves out, in words; empty when nothing.
    pub left_out: Vec<&'static str>,
}

/// A payload size of a mix.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Weighted {
    /// Payload bytes.
    pub payload_bytes: usize,
    /// How often it comes, against the others.
    pub weight: u32,
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
    /// Payload bytes of a message; of a mix, the mean.
    pub payload_bytes: usize,
    /// Sizes of a mix; empty when all are of `payload_bytes`.
    pub mix: Vec<Weighted>,
    /// Each message was to reach every receiver.
    pub fan_out: bool,
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
    /// Copies that were to arrive: `sent`, with fan-out times the receivers.
    pub expected: u64,
    /// All copies received once, warm-up included.
    pub received: u64,
    /// `expected - received`.
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
    /// Answers that came back, warm-up included; 0 unless asked for.
    pub replies: u64,
    /// From the intended time of a message to its answer, open loop.
    pub round_trip_us: Option<Distribution>,
    /// Quantile (0 to 1) and latency (us), for plots: from the intended time, in a closed loop from the time of sending.
    pub latency_percentiles_us: Vec<(f64, f64)>,
    /// Longest time within the window in which a receiver got nothing (milliseconds), the generator's own stalls included.
    pub longest_silence_ms: f64,
    /// Instances that came and went meanwhile.
    pub connection_churn: Option<ConnectionChurn>,
    /// Tables that changed meanwhile.
    pub table_churn: Option<TableChurn>,
    /// The generator alone, before the run; absent when that was left out.
    pub self_test: Option<SelfTest>,
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
    /// When receivers got nothing.
    #[serde(skip)]
    pub silences: Timeline,
    /// All latencies, for `.hlog`.
    #[serde(skip)]
    pub histograms: Histograms,
}

/// What is measured, as far as a report tells.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) name: &'a str,
    /// Processes whose CPU time counts.
    pub(super) watch: &'a ProcessWatch,
    /// It shares this machine's CPUs.
    pub(super) co_located: bool,
}

/// What a run leaves behind.
pub(super) struct Outcome {
    pub(super) senders: Vec<SenderTotals>,
    pub(super) receivers: Vec<ReceiverTotals>,
    pub(super) sampled: Sampled,
    /// When the run's clock began, and what of it was measured (ns).
    pub(super) epoch: Instant,
    pub(super) measured: (u64, u64),
}

impl Report {
    pub(super) fn new(plan: &Plan, subject: &Subject<'_>, outcome: &Outcome) -> Report {
        let watch = subject.watch;
        let (senders, receivers) = (&outcome.senders, &outcome.receivers);
        let sent: u64 = senders.iter().map(|s| s.sent).sum();
        let sum = |of: fn(&ReceiverTotals) -> u64| receivers.iter().map(of).sum::<u64>();
        let received = sum(|r| r.unique);
        let expected = sent * plan.copies();
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
        let longest_silence_ns = receivers.iter().map(|r| r.silence_ns).max().unwrap_or(0);
        let round_trip = merged(senders.iter().map(|s| &s.round_trip_ns));
        let mut report = Report {
            schema: "caplane-load.run.1",
            target: subject.name.to_owned(),
            verdict: Verdict::Valid,
            carrier: plan.carrier,
            payload_bytes: mean(&plan.size_sequence()),
            mix: plan
                .mix
                .iter()
                .map(|(payload_bytes, weight)| Weighted {
                    payload_bytes: *payload_bytes,
                    weight: *weight,
                })
                .collect(),
            fan_out: plan.fan_out,
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
            expected,
            received,
            lost: expected.saturating_sub(received),
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
            replies: senders.iter().map(|s| s.replies).sum(),
            round_trip_us: (open && !round_trip.is_empty()).then(|| Distribution::of(&round_trip)),
            latency_percentiles_us: percentiles(if open { &corrected } else { &uncorrected }),
            longest_silence_ms: longest_silence_ns as f64 / 1e6,
            connection_churn: None,
            table_churn: None,
            self_test: None,
            blocked_part: blocked_ns as f64 / 1e9 / run_s,
            router_cpu: (!watch.is_empty()).then(|| Cpu::of(&outcome.sampled, watch.resolution())),
            udp_payload: senders
                .iter()
                .map(|s| s.udp_payload)
                .max()
                .unwrap_or_default(),
            co_located: subject.co_located,
            tls: tls(),
            machine: Machine::read(),
            silences: Timeline::new(
                outcome.epoch,
                outcome.measured,
                receivers.iter().map(|r| r.silences.clone()).collect(),
            ),
            histograms: Histograms {
                corrected,
                uncorrected,
            },
        };
        report.verdict = report.judge();
        report
    }

    /// Part of the expected copies that did not arrive, 0 to 1.
    pub fn loss(&self) -> f64 {
        self.lost as f64 / self.expected.max(1) as f64
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

fn mean(sizes: &[usize]) -> usize {
    sizes.iter().sum::<usize>() / sizes.len().max(1)
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

#[cfg(test)]
mod tests;
