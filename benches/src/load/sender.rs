//! A sending thread: hands messages to its connection when they are due.

use super::attach::Seat;
use super::message::{Flow, Layout, MessageWriter};
use super::pace::{self, Schedule};
use super::receiver::{Progress, histogram};
use super::under_way::{Gate, UnderWay};
use super::window::Window;
use super::{Carrier, Plan, Rate};
use bytes::Bytes;
use caplane_transport::{BulkTx, DatagramRefused, Event, LaneTx, SendError};
use caplane_wire::header::Header;
use caplane_wire::{HeaderRepr, Kind, LANE_MESSAGE_MAX, Notice, message_len};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Shortest time between two turns of an open loop where messages are due more often: they go in groups, so that the
/// generator leaves the machine to the router. At lower rates each goes when it is due.
const TURN_MIN: Duration = Duration::from_micros(100);
/// Batches handed over in one turn at full speed, so that the connection's acknowledgements are read in between.
const BATCHES_PER_TURN: usize = 16;

/// A message due at the end of the window may be handed over this long after it and still counts as offered.
const HAND_OVER_GRACE_NS: u64 = 100_000_000;

/// What one sender did.
#[derive(Clone, Debug)]
pub struct SenderTotals {
    /// Messages handed to the transport.
    pub sent: u64,
    /// Of these, due within the measured window.
    pub sent_measured: u64,
    /// Datagrams that did not fit the path.
    pub too_large: u64,
    /// Answers that came back.
    pub replies: u64,
    /// From the time a message was due to its answer (ns), within the measured window.
    pub round_trip_ns: Histogram<u64>,
    /// Notices that came back, by code name.
    pub notices: BTreeMap<String, u64>,
    /// How late messages were handed over while the transport would have taken them (ns): the generator's own fault.
    pub lateness_ns: Histogram<u64>,
    /// Time during which messages were due and the transport took none (ns): flow control, the router's doing.
    pub blocked_ns: u64,
    /// Largest UDP payload the path took (bytes).
    pub udp_payload: usize,
}

/// Messages of some flows on one carrier.
struct Channel {
    lane: Option<LaneTx>,
    flows: Vec<Flow>,
    cursor: usize,
    schedule: Schedule,
    writer: MessageWriter,
    /// Since when messages are due that the transport does not take.
    blocked_since: Option<u64>,
    /// A whole message written but not taken yet (bulk, datagram).
    waiting: Option<Bytes>,
    /// A bulk stream that was opened while the connection took nothing: its preface goes first.
    opened: Option<BulkTx>,
}

/// The sending thread's state.
pub(super) struct Sender {
    seat: Seat,
    plan: Plan,
    channels: Vec<Channel>,
    window: Arc<Window>,
    progress: Arc<Progress>,
    /// Bounds what is under way, if the plan wants it.
    pub(super) under_way: Option<Arc<UnderWay>>,
    gate: Option<Gate>,
    measured: (u64, u64),
    start: u64,
    totals: SenderTotals,
    closed: Option<String>,
    /// Upper half of every flow id of this run.
    tag: u32,
}

impl Sender {
    /// A sender of the flows `n` with `n % senders == number`.
    pub(super) fn new(
        seat: Seat,
        plan: &Plan,
        number: usize,
        tag: u32,
        window: Arc<Window>,
        progress: Arc<Progress>,
    ) -> Result<Sender, SendError> {
        let lanes = if plan.carrier == Carrier::Lane {
            plan.lanes
        } else {
            1
        };
        let mut sender = Sender {
            seat,
            plan: plan.clone(),
            channels: Vec::new(),
            window,
            progress,
            under_way: None,
            gate: None,
            measured: (0, 0),
            start: 0,
            totals: SenderTotals {
                sent: 0,
                sent_measured: 0,
                too_large: 0,
                replies: 0,
                round_trip_ns: histogram(),
                notices: BTreeMap::new(),
                lateness_ns: histogram(),
                blocked_ns: 0,
                udp_payload: 0,
            },
            closed: None,
            tag,
        };
        for lane in 0..lanes {
            let channel = sender.channel(number, lane, lanes, tag)?;
            sender.channels.push(channel);
        }
        Ok(sender)
    }

    fn channel(
        &mut self,
        number: usize,
        lane: usize,
        lanes: usize,
        tag: u32,
    ) -> Result<Channel, SendError> {
        let plan = &self.plan;
        let (channel, channels) = (number * lanes + lane, plan.senders * lanes);
        let mut flows: Vec<Flow> = (channel..plan.flows)
            .step_by(channels)
            .map(|n| self.flow(n, tag))
            .collect();
        shuffle(&mut flows, plan.seed ^ channel as u64);
        let largest = plan.sizes().into_iter().max().unwrap_or(0);
        let layout = match plan.carrier {
            Carrier::Lane => Layout::new(largest),
            Carrier::Bulk | Carrier::Datagram => Layout {
                payload: largest,
                per_batch: 1,
            },
        };
        let writer = if plan.mix.is_empty() {
            MessageWriter::new(layout)
        } else {
            MessageWriter::mixed(layout, plan.size_sequence())
        };
        let rate = match plan.rate {
            Rate::PerSecond(rate) => Rate::PerSecond(rate / channels as f64),
            Rate::Max => Rate::Max,
        };
        let lane = match plan.carrier {
            Carrier::Lane => Some(self.seat.endpoint.open_lane(self.seat.peer, plan.class)?),
            Carrier::Bulk | Carrier::Datagram => None,
        };
        Ok(Channel {
            lane,
            flows,
            cursor: 0,
            schedule: Schedule::new(rate, channel as f64 / channels as f64),
            writer,
            blocked_since: None,
            waiting: None,
            opened: None,
        })
    }

    fn flow(&self, n: usize, tag: u32) -> Flow {
        let plan = &self.plan;
        let label = plan.classes[n % plan.classes.len()];
        let header = HeaderRepr {
            flow: u64::from(tag) << 32 | n as u64,
            ..self.seat.header(plan, label, plan.payload)
        };
        Flow {
            header: header.to_bytes(),
            sequence: 0,
        }
    }

    /// Waits for the start, sends through the window, then serves the connection until stopped.
    pub(super) fn run(mut self) -> std::io::Result<(SenderTotals, Option<String>)> {
        if !self.seat.wait_for_start(&self.window)? {
            return Ok((self.totals, self.closed));
        }
        self.gate = self.under_way.as_ref().map(UnderWay::gate);
        pace::sleep_exactly();
        self.start = self.window.start().unwrap_or_default();
        self.measured = self.window.measured().unwrap_or_default();
        while !self.window.stopped() && self.closed.is_none() {
            let now = Instant::now();
            self.seat.endpoint.receive(now)?;
            while let Some(event) = self.seat.endpoint.next_event() {
                self.event(event);
            }
            self.send_due(self.window.at(now));
            self.seat.endpoint.flush(now)?;
            self.progress
                .messages
                .store(self.totals.sent, Ordering::Relaxed);
            if self.has_sent_all(self.window.at(now)) {
                self.progress.done.store(true, Ordering::Release);
            }
            let wait = self.time_to_next(self.window.now());
            let wait = wait.min(Duration::from_millis(20));
            self.seat.endpoint.wait(Some(wait))?;
        }
        let path = self.seat.endpoint.peer_udp_payload(self.seat.peer);
        self.totals.udp_payload = path.unwrap_or_default();
        Ok((self.totals, self.closed))
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Lane {
                peer,
                lane,
                mut data,
                ..
            } => {
                let mut at = 0;
                let now_ns = self.window.now();
                while let Ok(Some(len)) = message_len(&data[at..], LANE_MESSAGE_MAX) {
                    if at + len > data.len() {
                        break;
                    }
                    self.answer(&data[at..at + len], now_ns);
                    at += len;
                }
                drop(data.split_to(at));
                self.seat.endpoint.lane_rest(peer, lane, data);
            }
            Event::Closed { code, reason, .. } => {
                self.closed = Some(format!("connection closed with code {code}: {reason}"));
            }
            Event::LaneStopped { code, .. } => {
                self.closed = Some(format!("the router stopped our lane with code {code:#x}"));
            }
            _ => {}
        }
    }

    /// An answer, or a notice.
    fn answer(&mut self, message: &[u8], now_ns: u64) {
        match Header::split(message) {
            Ok((header, payload))
                if header.kind() == Kind::Data && (header.flow() >> 32) as u32 == self.tag =>
            {
                self.totals.replies += 1;
                let due = payload.first_chunk().map(|due| u64::from_be_bytes(*due));
                if let Some(due) = due
                    && (self.measured.0..self.measured.1).contains(&due)
                {
                    let took = now_ns.saturating_sub(due);
                    self.totals.round_trip_ns.saturating_record(took);
                }
            }
            _ => self.notice(message),
        }
    }

    fn notice(&mut self, message: &[u8]) {
        let name = match Header::split(message) {
            Ok((header, payload)) if header.kind() == Kind::Notice => {
                Notice::parse(payload).map_or("unreadable", |notice| notice.code.name())
            }
            _ => "no notice",
        };
        *self.totals.notices.entry(name.to_owned()).or_default() += 1;
    }

    /// Hands over what is due, as far as the transport takes it.
    fn send_due(&mut self, now_ns: u64) {
        if now_ns < self.start {
            return;
        }
        for n in 0..self.channels.len() {
            for _ in 0..BATCHES_PER_TURN {
                if !self.send_one(n, now_ns) {
                    break;
                }
            }
        }
    }

    /// One batch (lane) or message (bulk, datagram); false when nothing is due or nothing is taken.
    fn send_one(&mut self, n: usize, now_ns: u64) -> bool {
        let end = self.measured.1 - self.start;
        let since_start = now_ns - self.start;
        let start = self.start;
        let channel = &mut self.channels[n];
        let first_due = channel.schedule.next(since_start);
        if first_due > since_start || first_due >= end {
            return false;
        }
        let published = self.progress.messages.load(Ordering::Relaxed);
        let room = match &mut self.gate {
            Some(gate) => gate.room(self.totals.sent - published, Instant::now()) as usize,
            None => usize::MAX,
        };
        let ready = channel
            .lane
            .is_none_or(|lane| self.seat.endpoint.lane_ready(self.seat.peer, lane));
        let bytes = match channel.waiting.take() {
            Some(bytes) => Some((bytes, 1)),
            None if ready && room > 0 => {
                let due = channel
                    .schedule
                    .due(since_start)
                    .take_while(|due| *due < end)
                    .take(room)
                    .map(|due| due + start);
                channel
                    .writer
                    .write(&mut channel.flows, &mut channel.cursor, due, now_ns)
            }
            None => None,
        };
        let Some((bytes, messages)) = bytes else {
            channel.blocked_since.get_or_insert(now_ns);
            return false;
        };
        let outcome = hand_over(&mut self.seat, &self.plan, channel, bytes);
        if let Handed::Later(bytes) = outcome {
            channel.waiting = Some(bytes);
            channel.blocked_since.get_or_insert(now_ns);
            return false;
        }
        match channel.blocked_since.take() {
            Some(since) => self.totals.blocked_ns += now_ns - since,
            None => self
                .totals
                .lateness_ns
                .saturating_record(since_start - first_due),
        }
        channel.schedule.advance(messages);
        match outcome {
            Handed::Taken | Handed::Later(_) => {}
            Handed::TooLarge => {
                self.totals.too_large += 1;
                return true;
            }
            Handed::Failed(what) => {
                self.closed = Some(what);
                return false;
            }
        }
        self.totals.sent += messages as u64;
        // What is handed over long after the end was held back: it is no part of the offered rate.
        let in_time = now_ns <= self.measured.1 + HAND_OVER_GRACE_NS;
        if first_due + start >= self.measured.0 && in_time {
            self.totals.sent_measured += messages as u64;
        }
        true
    }

    /// True when nothing is due any more and nothing waits, so that the turn at `now_ns` was the last with messages in it.
    fn has_sent_all(&self, now_ns: u64) -> bool {
        let end = self.measured.1 - self.start;
        let since_start = now_ns.saturating_sub(self.start);
        let has = |channel: &Channel| {
            channel.waiting.is_none() && channel.schedule.next(since_start) >= end
        };
        self.channels.iter().all(has)
    }

    /// Zero when something may be sent at once.
    fn time_to_next(&self, now_ns: u64) -> Duration {
        let end = self.measured.1 - self.start;
        let since_start = now_ns.saturating_sub(self.start);
        let next = |channel: &Channel| {
            let next = channel.schedule.next(since_start);
            if next >= end || channel.blocked_since.is_some() {
                // Nothing to send, or an event will tell.
                return Duration::from_millis(20);
            }
            Duration::from_nanos(next.saturating_sub(since_start))
        };
        let wait = self.channels.iter().map(next).min().unwrap_or_default();
        match self.plan.rate {
            Rate::Max => wait,
            Rate::PerSecond(rate) if rate * TURN_MIN.as_secs_f64() > 1.0 => wait.max(TURN_MIN),
            Rate::PerSecond(_) => wait,
        }
    }
}

/// What became of bytes offered to the transport.
enum Handed {
    Taken,
    /// Flow control: offer these again.
    Later(Bytes),
    /// A datagram that does not fit the path; dropped.
    TooLarge,
    /// The connection is of no use any more.
    Failed(String),
}

fn hand_over(seat: &mut Seat, plan: &Plan, channel: &mut Channel, bytes: Bytes) -> Handed {
    let (endpoint, peer) = (&mut seat.endpoint, seat.peer);
    match (plan.carrier, channel.lane) {
        (Carrier::Lane, Some(lane)) => match endpoint.send_lane(peer, lane, bytes) {
            Ok(()) => Handed::Taken,
            Err(error) => Handed::Failed(format!("lane: {error}")),
        },
        (Carrier::Lane, None) => Handed::Failed("lane: none was opened".to_owned()),
        (Carrier::Bulk, _) => {
            let opened = match channel.opened.take() {
                Some(bulk) => Ok(bulk),
                None => endpoint.open_bulk(peer, plan.class),
            };
            match opened {
                Ok(bulk) if !endpoint.bulk_ready(peer, bulk) => {
                    channel.opened = Some(bulk);
                    Handed::Later(bytes)
                }
                Ok(bulk) => match endpoint.send_bulk(peer, bulk, bytes, true) {
                    Ok(()) => Handed::Taken,
                    Err(error) => Handed::Failed(format!("bulk: {error}")),
                },
                Err(SendError::StreamLimit) => Handed::Later(bytes),
                Err(error) => Handed::Failed(format!("bulk: {error}")),
            }
        }
        (Carrier::Datagram, _) => match endpoint.send_datagram(peer, bytes.clone()) {
            Ok(()) => Handed::Taken,
            Err(DatagramRefused::TooLarge { .. }) => Handed::TooLarge,
            Err(DatagramRefused::QueueFull) => Handed::Later(bytes),
            Err(error) => Handed::Failed(format!("datagram: {error}")),
        },
    }
}

/// Fisher-Yates with a small generator: neighbours in the table are not neighbours in time.
fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for n in (1..items.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        items.swap(n, (state % (n as u64 + 1)) as usize);
    }
}
