//! A receiving thread: takes messages off its connection and judges each.

use super::flow::{Arrival, FlowLedger};
use super::message::{Pattern, STAMP_LEN, Stamp};
use super::respond::Responder;
use super::silence::Silences;
use super::under_way::UnderWay;
use super::window::Window;
use bytes::BytesMut;
use caplane_transport::{BulkRx, Endpoint, Event, LaneRx, PeerId};
use caplane_wire::header::Header;
use caplane_wire::{HEADER_LEN, Kind, LANE_MESSAGE_MAX, Label, message_len};
use hdrhistogram::Histogram;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What one receiver saw.
#[derive(Clone, Debug)]
pub struct ReceiverTotals {
    /// Messages seen for the first time.
    pub unique: u64,
    /// Payload bytes of `unique`.
    pub payload_bytes: u64,
    /// Messages seen again.
    pub duplicated: u64,
    /// Messages that came after a later one of their flow.
    pub reordered: u64,
    /// Messages whose stamp, body or header does not fit.
    pub corrupted: u64,
    /// Messages of classes this receiver does not serve.
    pub misrouted: u64,
    /// Messages of another run, or that are none.
    pub foreign: u64,
    /// Latency from the time a message was due (ns), within the measured window.
    pub corrected_ns: Histogram<u64>,
    /// Latency from the time it was handed to the transport (ns).
    pub uncorrected_ns: Histogram<u64>,
    /// Longest time within the measured window in which nothing came (ns).
    pub silence_ns: u64,
    /// Each of these times that is worth keeping.
    pub silences: Silences,
}

impl ReceiverTotals {
    /// Nothing seen.
    pub fn new() -> ReceiverTotals {
        ReceiverTotals {
            unique: 0,
            payload_bytes: 0,
            duplicated: 0,
            reordered: 0,
            corrupted: 0,
            misrouted: 0,
            foreign: 0,
            corrected_ns: histogram(),
            uncorrected_ns: histogram(),
            silence_ns: 0,
            silences: Silences::default(),
        }
    }
}

impl Default for ReceiverTotals {
    fn default() -> Self {
        Self::new()
    }
}

/// 1 us to 100 s at three digits; what is outside is counted at the edge.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 100_000_000_000, 3)
        .expect("bounds and digits are within what HdrHistogram takes")
}

/// Whether receiver `r` of `receivers` serves class number `k` of `classes`.
pub fn serves(r: usize, receivers: usize, k: usize, classes: usize) -> bool {
    let fewer = receivers.min(classes);
    r % fewer == k % fewer
}

/// Everything a receiver must know to judge a message.
pub(super) struct Expectation {
    /// Upper half of every flow id of this run.
    pub(super) tag: u32,
    pub(super) classes: Arc<[Label]>,
    pub(super) flows: usize,
    pub(super) receiver: usize,
    pub(super) receivers: usize,
    /// Payload sizes there may be.
    pub(super) sizes: Vec<usize>,
    /// Every receiver is to get every message.
    pub(super) fan_out: bool,
}

/// Judges messages; knows nothing of connections.
pub(super) struct Judge {
    expected: Expectation,
    pattern: Pattern,
    ledgers: Vec<FlowLedger>,
    measured: (u64, u64),
    pub(super) totals: ReceiverTotals,
}

impl Judge {
    pub(super) fn new(expected: Expectation) -> Judge {
        Judge {
            pattern: Pattern::new(expected.sizes.iter().copied().max().unwrap_or(0)),
            ledgers: vec![FlowLedger::default(); expected.flows],
            measured: (0, 0),
            totals: ReceiverTotals::new(),
            expected,
        }
    }

    /// One whole message that arrived at `now_ns`.
    fn message(&mut self, message: &[u8], now_ns: u64) {
        let Ok((header, payload)) = Header::split(message) else {
            self.totals.foreign += 1;
            return;
        };
        let (flow, classes) = (header.flow(), &self.expected.classes);
        let n = flow as u32 as usize;
        if header.kind() != Kind::Data
            || (flow >> 32) as u32 != self.expected.tag
            || n >= self.ledgers.len()
        {
            self.totals.foreign += 1;
            return;
        }
        let class = n % classes.len();
        if header.requested_label() != classes[class]
            || !self.expected.sizes.contains(&payload.len())
        {
            self.totals.corrupted += 1;
            return;
        }
        let expected = &self.expected;
        let ours =
            expected.fan_out || serves(expected.receiver, expected.receivers, class, classes.len());
        if !ours {
            self.totals.misrouted += 1;
            return;
        }
        let stamp = if payload.len() >= STAMP_LEN {
            let Some(stamp) = Stamp::verify(message, &self.pattern) else {
                self.totals.corrupted += 1;
                return;
            };
            Some(stamp)
        } else {
            None
        };
        match self.ledgers[n].note(header.sequence()) {
            Arrival::Duplicate => {
                self.totals.duplicated += 1;
                return;
            }
            Arrival::Reordered => self.totals.reordered += 1,
            Arrival::InOrder => {}
        }
        self.totals.unique += 1;
        self.totals.payload_bytes += payload.len() as u64;
        if let Some(stamp) = stamp
            && (self.measured.0..self.measured.1).contains(&stamp.due_ns)
        {
            let totals = &mut self.totals;
            totals
                .corrected_ns
                .saturating_record(now_ns.saturating_sub(stamp.due_ns));
            totals
                .uncorrected_ns
                .saturating_record(now_ns.saturating_sub(stamp.sent_ns));
        }
    }

    /// Whole messages at the front of `data`; leaves the tail.
    fn lane(&mut self, data: &mut BytesMut, now_ns: u64) {
        let mut at = 0;
        loop {
            match message_len(&data[at..], LANE_MESSAGE_MAX) {
                Ok(Some(len)) if at + len <= data.len() => {
                    self.message(&data[at..at + len], now_ns);
                    at += len;
                }
                Ok(_) => break,
                Err(_) => {
                    // The framing is lost: nothing after it can be read.
                    self.totals.corrupted += 1;
                    at = data.len();
                    break;
                }
            }
        }
        // Dropped at once: the slab goes back to the transport.
        drop(data.split_to(at));
    }
}

/// Counters that others may look at while the thread runs.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) messages: AtomicU64,
    pub(super) payload_bytes: AtomicU64,
    /// Latency so far (ns), median and 99th percentile; 0 while there is none.
    pub(super) p50_ns: AtomicU64,
    pub(super) p99_ns: AtomicU64,
    /// A sender has handed over all that was due, and `messages` counts it.
    pub(super) done: AtomicBool,
}

/// How often percentiles are brought up to date: finding them walks the histogram.
const PERCENTILES_EVERY: Duration = Duration::from_millis(500);

/// The receiving thread's loop.
pub(super) struct Receiver {
    pub(super) endpoint: Endpoint,
    pub(super) judge: Judge,
    pub(super) window: Arc<Window>,
    pub(super) progress: Arc<Progress>,
    /// Bulk messages under way.
    pub(super) bulk: HashMap<(PeerId, BulkRx), Vec<u8>>,
    pub(super) closed: Option<String>,
    /// When the last message came (ns of the run's clock).
    pub(super) heard_ns: u64,
    /// Answers, when the plan wants them.
    pub(super) responder: Option<Responder>,
    /// Who waits for what arrives here, if anyone does.
    pub(super) under_way: Option<Arc<UnderWay>>,
}

impl Receiver {
    /// Receives until the window is stopped or the connection ends.
    pub(super) fn run(mut self) -> std::io::Result<(ReceiverTotals, Option<String>)> {
        self.window.seat();
        let mut percentiles = Instant::now();
        while !self.window.stopped() && self.closed.is_none() {
            self.endpoint.wait(Some(Duration::from_millis(20)))?;
            let now = Instant::now();
            self.endpoint.receive(now)?;
            // What is handed over now was not seen before: latency counts to here.
            let now_ns = self.window.now();
            if let Some(measured) = self.window.measured() {
                self.judge.measured = measured;
            }
            let before = self.judge.totals.unique;
            while let Some(event) = self.endpoint.next_event() {
                self.event(event, now_ns);
            }
            self.endpoint.flush(now)?;
            if self.judge.totals.unique > before {
                self.heard(now_ns);
            }
            if now.duration_since(percentiles) > PERCENTILES_EVERY {
                percentiles = now;
                self.publish_percentiles();
            }
            let totals = &self.judge.totals;
            self.progress
                .messages
                .store(totals.unique, Ordering::Relaxed);
            self.progress
                .payload_bytes
                .store(totals.payload_bytes, Ordering::Relaxed);
            if totals.unique > before
                && let Some(under_way) = &self.under_way
            {
                under_way.moved();
            }
        }
        // Whatever did not come until the end of the window was not there either.
        self.heard(self.window.now());
        Ok((self.judge.totals, self.closed))
    }

    /// Something came: how long had nothing come before, within the measured window?
    fn heard(&mut self, now_ns: u64) {
        let (from, to) = self.judge.measured;
        let (begun, ended) = (self.heard_ns.max(from), now_ns.min(to));
        if begun < ended {
            let totals = &mut self.judge.totals;
            totals.silence_ns = totals.silence_ns.max(ended - begun);
            totals.silences.note(begun, ended);
        }
        self.heard_ns = now_ns;
    }

    fn publish_percentiles(&self) {
        let latency = &self.judge.totals.corrected_ns;
        if !latency.is_empty() {
            let at = |q| latency.value_at_quantile(q);
            self.progress.p50_ns.store(at(0.5), Ordering::Relaxed);
            self.progress.p99_ns.store(at(0.99), Ordering::Relaxed);
        }
    }

    fn event(&mut self, event: Event, now_ns: u64) {
        match event {
            Event::Lane {
                peer, lane, data, ..
            } => self.lane(peer, lane, data, now_ns),
            Event::Datagram { data, .. } => self.judge.message(&data, now_ns),
            Event::Bulk {
                peer,
                bulk,
                data,
                fin,
                ..
            } => self.bulk(peer, bulk, &data, fin, now_ns),
            Event::BulkReset { peer, bulk, .. } => {
                self.bulk.remove(&(peer, bulk));
            }
            Event::Closed {
                code,
                reason,
                by_peer: true,
                ..
            } => {
                self.closed = Some(format!("connection closed with code {code}: {reason}"));
            }
            _ => {}
        }
    }

    fn lane(&mut self, peer: PeerId, lane: LaneRx, mut data: BytesMut, now_ns: u64) {
        if let Some(responder) = &mut self.responder {
            responder.answer(&mut self.endpoint, peer, &data);
        }
        self.judge.lane(&mut data, now_ns);
        self.endpoint.lane_rest(peer, lane, data);
    }

    fn bulk(&mut self, peer: PeerId, bulk: BulkRx, data: &[u8], fin: bool, now_ns: u64) {
        if fin && !self.bulk.contains_key(&(peer, bulk)) {
            return self.judge.message(data, now_ns);
        }
        let largest = self.judge.expected.sizes.iter().max();
        let expected = HEADER_LEN + largest.copied().unwrap_or(0);
        let whole = self
            .bulk
            .entry((peer, bulk))
            .or_insert_with(|| Vec::with_capacity(expected));
        whole.extend_from_slice(data);
        if fin && let Some(whole) = self.bulk.remove(&(peer, bulk)) {
            self.judge.message(&whole, now_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{Flow, Layout, MessageWriter};
    use super::*;
    use caplane_wire::HeaderRepr;

    const TAG: u32 = 77;

    fn judge(payload: usize) -> Judge {
        let mut judge = Judge::new(Expectation {
            tag: TAG,
            classes: super::super::plan::class_labels(4).into(),
            flows: 8,
            receiver: 0,
            receivers: 2,
            sizes: vec![payload],
            fan_out: false,
        });
        judge.measured = (0, 1_000);
        judge
    }

    /// One message of each of the flows 0, 2, 4 and 6, which receiver 0 of 2 serves.
    fn messages(payload: usize) -> Vec<u8> {
        let classes = super::super::plan::class_labels(4);
        let mut flows: Vec<Flow> = [0u64, 2, 4, 6]
            .map(|n| Flow {
                header: HeaderRepr {
                    flow: u64::from(TAG) << 32 | n,
                    payload_len: payload as u32,
                    requested_label: classes[n as usize % 4],
                    ..HeaderRepr::default()
                }
                .to_bytes(),
                sequence: 0,
            })
            .into();
        let mut writer = MessageWriter::new(Layout::new(payload));
        let due = std::iter::repeat_n(100, 4);
        let (bytes, _) = writer.write(&mut flows, &mut 0, due, 200).expect("batch");
        bytes.to_vec()
    }

    #[test]
    fn a_lane_may_be_cut_anywhere() {
        let bytes = messages(64);
        for cut in 0..bytes.len() {
            let mut judge = judge(64);
            let mut data = BytesMut::from(&bytes[..cut]);
            judge.lane(&mut data, 500);
            data.extend_from_slice(&bytes[cut..]);
            judge.lane(&mut data, 600);
            assert_eq!((judge.totals.unique, data.len()), (4, 0), "cut at {cut}");
            assert_eq!(judge.totals.corrected_ns.len(), 4);
        }
    }

    #[test]
    fn each_fault_has_its_counter() {
        let len = HEADER_LEN + 64;
        let bytes = messages(64);
        let mut judge = judge(64);
        judge.message(&bytes[..len], 500);
        judge.message(&bytes[..len], 500);
        let mut body = bytes[len..2 * len].to_vec();
        body[len - 1] ^= 1;
        judge.message(&body, 500);
        let mut other_run = bytes[..len].to_vec();
        other_run[24] ^= 1;
        judge.message(&other_run, 500);
        judge.message(&bytes[..20], 500);
        judge.expected.receiver = 1;
        judge.message(&bytes[2 * len..3 * len], 500);
        let t = &judge.totals;
        assert_eq!(
            (t.unique, t.duplicated, t.corrupted, t.foreign, t.misrouted),
            (1, 1, 1, 2, 1)
        );
    }

    #[test]
    fn payloads_too_short_for_a_stamp_are_still_counted() {
        let mut judge = judge(8);
        judge.lane(&mut BytesMut::from(&messages(8)[..]), 500);
        assert_eq!(
            (judge.totals.unique, judge.totals.corrected_ns.len()),
            (4, 0)
        );
    }

    #[test]
    fn every_class_has_a_receiver_and_every_receiver_a_class() {
        for (receivers, classes) in [(1, 1), (1, 10), (3, 10), (10, 3), (4, 4)] {
            for k in 0..classes {
                assert!((0..receivers).any(|r| serves(r, receivers, k, classes)));
            }
            for r in 0..receivers {
                assert!((0..classes).any(|k| serves(r, receivers, k, classes)));
            }
        }
    }
}
