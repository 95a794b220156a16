//! The sender's half: flows, replies, queues and timers. What comes in is in `receive`.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

use caplane_wire::{Flags, TrafficClass};

use super::dedup::Dedup;
use super::flow::{FlowState, Found};
use super::outstanding::{Outstanding, Phase};
use super::queues::{Queue, Queues, Waiting};
use super::random::Jitter;
use super::receipts::LaneStates;
use super::rtt::{ResendBounds, Rtt};
use super::timers::Timers;
use super::{
    Address, CarriedBy, Effect, Message, Mode, Now, Receipt, Received, ReplyKey, Settled,
    Submission, Tag,
};
use crate::address::Destination;
use crate::error::{CloseReason, SendError};
use crate::event::ClientEvent;
use crate::options::FlowOptions;

/// Bounds of what is remembered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Lanes per traffic class, receipts' lane excluded.
    pub(crate) lanes_per_class: usize,
    /// Flows of others whose sequences are remembered.
    pub(crate) dedup_flows_max: usize,
    /// Receipts not yet handed over, beyond which nothing more is delivered.
    pub(crate) receipts_max: usize,
    pub(crate) resend: ResendBounds,
}

/// Who we are, as the router that we are attached to said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Me {
    pub(crate) address: Address,
    /// Counts attachments.
    pub(crate) epoch: u32,
}

/// What happened, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages handed to the transport, resends and receipts included.
    pub sent: u64,
    /// Of those, messages sent before.
    pub resent: u64,
    /// Messages delivered to the application.
    pub delivered: u64,
    /// Messages that were delivered before and came again.
    pub duplicates: u64,
    /// Messages older than the deduplication window: dropped.
    pub too_old: u64,
    /// Messages whose deadline had passed when they came: dropped.
    pub expired: u64,
    /// Messages whose extensions or payload broke a rule: dropped.
    pub malformed: u64,
    /// Replies that came after their request was given up: dropped.
    pub late_replies: u64,
    /// Receipts and notices for messages already settled, or never sent.
    pub unmatched: u64,
    /// Notices that came from something else than a router: dropped.
    pub forged_notices: u64,
    /// Datagrams dropped because the application's queue was full, or because they were no message.
    pub datagrams_dropped: u64,
    /// Flows of others forgotten to make room; a resend on one would be delivered again.
    pub flows_forgotten: u64,
}

/// Flow ids are random already.
#[derive(Default)]
pub(crate) struct FlowIdHasher(u64);

impl Hasher for FlowIdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }
    fn write_u64(&mut self, id: u64) {
        self.0 = id;
    }
}

pub(crate) type FlowTable<T> = HashMap<u64, FlowState<T>, BuildHasherDefault<FlowIdHasher>>;

/// The sender's and receiver's state of one client. `T` names who waits for a message.
pub(crate) struct Messenger<T> {
    pub(super) me: Option<Me>,
    /// Who we are or were last.
    pub(super) last_me: Option<Address>,
    /// Who we were before that: messages sent as such may still be on their way.
    pub(super) me_before: Option<Address>,
    pub(super) flows: FlowTable<T>,
    pub(super) replies: HashMap<ReplyKey, Outstanding<T>>,
    pub(super) queues: Queues<T>,
    pub(super) timers: Timers,
    pub(super) effects: Vec<Effect<T>>,
    pub(super) released: usize,
    pub(super) dedup: Dedup,
    pub(super) limits: Limits,
    pub(super) counters: Counters,
    pub(super) jitter: Jitter,
    /// How soon replies are receipted, whoever asked.
    pub(super) reply_rtt: Rtt,
    /// What the transport has taken.
    pub(super) lane_states: LaneStates,
    /// Scratch of a look at one flow.
    pub(super) found: Found,
}

impl<T> Messenger<T> {
    pub(crate) fn new(limits: Limits, jitter: Jitter) -> Self {
        assert!(limits.lanes_per_class > 0, "a class needs a lane");
        Self {
            me: None,
            last_me: None,
            me_before: None,
            flows: HashMap::default(),
            replies: HashMap::new(),
            lane_states: LaneStates::default(),
            reply_rtt: Rtt::default(),
            queues: Queues::new(limits.lanes_per_class),
            timers: Timers::default(),
            effects: Vec::new(),
            released: 0,
            dedup: Dedup::new(limits.dedup_flows_max),
            limits,
            counters: Counters::default(),
            jitter,
            found: Found::default(),
        }
    }

    /// A router granted this address; what is sent from now on is sent from it.
    pub(crate) fn attached(&mut self, me: Me) {
        if self.last_me != Some(me.address) {
            self.me_before = self.last_me.replace(me.address);
        }
        self.me = Some(me);
        self.lane_states = LaneStates::default();
    }

    /// Whether the transport has taken all that was handed to a lane, as seen after handing over what it took now.
    pub(crate) fn lane_is_clear(&mut self, now: Now, lane: usize, clear: bool) {
        self.lane_states.tell(lane, now.mono, clear);
    }

    /// The links up to attachment number `epoch` are gone: what was sent on them and is not settled goes first on the next.
    pub(crate) fn link_lost(&mut self, epoch: u32) {
        if self.me.is_some_and(|me| me.epoch <= epoch) {
            self.me = None;
        }
        let Self {
            flows,
            replies,
            queues,
            ..
        } = self;
        for flow in flows.values_mut() {
            let id = flow.id;
            flow.receipts.another_way();
            flow.bulk_receipts.another_way();
            for (sequence, out) in flow.window.iter_mut().rev() {
                // What is sent once only goes again when it was cut short: nobody can have it then.
                let cut_short = matches!(out.phase, Phase::Writing);
                if out.rode_on(epoch) && (cut_short || !out.paces_only()) {
                    out.phase = Phase::Queued;
                    queues.push_front(out.queue, Waiting::Flow { flow: id, sequence });
                }
            }
        }
        for (key, out) in replies {
            if out.rode_on(epoch) {
                out.phase = Phase::Queued;
                queues.push_front(out.queue, Waiting::Reply(*key));
            }
        }
    }

    /// Whether a message from `address` is one of our own.
    pub(super) fn is_me(&self, address: Address) -> bool {
        self.last_me == Some(address) || self.me_before == Some(address)
    }

    /// Begins a flow under an id of the caller's choice.
    pub(crate) fn open_flow(&mut self, id: u64, destination: Destination, options: FlowOptions) {
        self.flows
            .insert(id, FlowState::new(id, destination, options));
    }

    /// No more will be submitted on this flow; what was, goes on.
    pub(crate) fn close_flow(&mut self, id: u64) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.open = false;
            self.forget_if_over(id);
        }
    }

    pub(super) fn forget_if_over(&mut self, id: u64) {
        if self.flows.get(&id).is_some_and(FlowState::is_over) {
            self.flows.remove(&id);
        }
    }

    /// A message for a flow that is open.
    pub(crate) fn submit(&mut self, now: Now, id: u64, submission: Submission<T>) {
        let Some(flow) = self.flows.get_mut(&id) else {
            debug_assert!(false, "a handle submits on an open flow only");
            self.released += submission.charge;
            return;
        };
        let timeout = match submission.mode {
            Mode::Request => flow.options.request_timeout,
            Mode::Forget | Mode::Receipt => flow.options.receipt_timeout,
        };
        let message = stamp(now, submission, timeout, flow.options.deadline);
        let waited_for = message.mode != Mode::Forget;
        let deadline = message.deadline;
        flow.accept(message);
        flow.admit(&mut self.queues);
        if waited_for {
            self.arm_flow(id, deadline);
        }
    }

    /// A reply to the request that `key` names, in the request's traffic class.
    pub(crate) fn submit_reply(
        &mut self,
        now: Now,
        key: ReplyKey,
        class: TrafficClass,
        timeout: Duration,
        submission: Submission<T>,
    ) {
        if self.is_me(key.to) {
            return self.reply_to_self(now, key, class, submission);
        }
        let message = stamp(now, submission, timeout, false);
        let queue = if message.total_len() > caplane_wire::LANE_MESSAGE_MAX {
            Queue::Bulk
        } else {
            self.queues.lane_of(class, key.flow)
        };
        if message.mode == Mode::Forget {
            let waiting = Waiting::LooseReply {
                key,
                class,
                message,
            };
            return self.queues.push(queue, waiting);
        }
        self.arm_reply(key, message.deadline);
        self.queues.push(queue, Waiting::Reply(key));
        let out = Outstanding::new(message, queue, class);
        if let Some(former) = self.replies.insert(key, out) {
            // One request, one reply. It was delivered twice, the deduplication window having been forgotten.
            let error = former.expiry(now);
            self.fail(former.message, key.flow, Some(key.sequence), error);
        }
    }

    /// A request to a class that its sender serves itself: on the wire the reply would look like the request.
    fn reply_to_self(
        &mut self,
        now: Now,
        key: ReplyKey,
        class: TrafficClass,
        submission: Submission<T>,
    ) {
        let received = Received {
            payload: submission.payload,
            source: key.to,
            flow: key.flow,
            sequence: key.sequence,
            class,
            flags: Flags::NONE,
            requested: key.to.label,
            tenant: 0,
            deadline_unix_us: None,
            carried_by: CarriedBy::Lane,
        };
        self.released += submission.charge;
        if let Some(ticket) = submission.ticket {
            let receipt = Receipt {
                from: key.to,
                flow: key.flow,
                sequence: key.sequence,
                attempts: 1,
                round_trip: Duration::ZERO,
            };
            self.effects.push(Effect::Settled {
                ticket,
                outcome: Ok(Settled::Receipt(receipt)),
            });
        }
        if !self.answer(now, received) {
            self.counters.late_replies += 1;
        }
    }

    /// The transport will never take this message: it is too long for its carrier.
    pub(crate) fn too_large(&mut self, tag: Tag, bytes: usize, max: usize) {
        let error = SendError::TooLarge { bytes, max };
        self.give_up(tag, error);
    }

    /// Ends a message with an error, whoever waits for it.
    pub(super) fn give_up(&mut self, tag: Tag, error: SendError) {
        let (id, sequence) = tag.numbers();
        let out = match tag {
            Tag::Flow { .. } => self.flows.get_mut(&id).and_then(|flow| {
                let out = flow.settle(sequence);
                flow.admit(&mut self.queues);
                out
            }),
            Tag::Reply(key) => self.replies.remove(&key),
        };
        match out {
            Some(out) => self.fail(out.message, id, Some(sequence), error),
            None => self.undelivered(id, Some(sequence), error),
        }
        if let Tag::Flow { .. } = tag {
            self.forget_if_over(id);
        }
    }

    fn undelivered(&mut self, flow: u64, sequence: Option<u32>, error: SendError) {
        self.effects.push(Effect::Event(ClientEvent::Undelivered {
            flow,
            sequence,
            error,
        }));
    }

    /// Ends a message that was taken out already: by its ticket, or as an event when nobody holds one.
    pub(super) fn fail(
        &mut self,
        message: Message<T>,
        flow: u64,
        sequence: Option<u32>,
        error: SendError,
    ) {
        self.released += message.charge;
        match message.ticket {
            Some(ticket) => self.effects.push(Effect::Settled {
                ticket,
                outcome: Err(error),
            }),
            None => self.undelivered(flow, sequence, error),
        }
    }

    pub(super) fn release(&mut self, bytes: usize) {
        self.released += bytes;
    }

    /// Ends every wait: the client is closed. Messages nobody waits for are dropped without a word each.
    pub(crate) fn close(&mut self, reason: &CloseReason) {
        let mut tickets: Vec<T> = Vec::new();
        for mut flow in std::mem::take(&mut self.flows).into_values() {
            tickets.extend(
                flow.window
                    .iter_mut()
                    .filter_map(|(_, out)| out.message.ticket.take()),
            );
            tickets.extend(
                flow.pending
                    .into_iter()
                    .chain(flow.pending_bulk)
                    .filter_map(|message| message.ticket),
            );
        }
        let replies = std::mem::take(&mut self.replies);
        tickets.extend(replies.into_values().filter_map(|out| out.message.ticket));
        self.effects
            .extend(tickets.into_iter().map(|ticket| Effect::Settled {
                ticket,
                outcome: Err(SendError::Closed(reason.clone())),
            }));
    }

    /// Whether anything submitted is neither sent nor settled.
    pub(crate) fn is_busy(&self) -> bool {
        !self.queues.all_empty()
            || !self.replies.is_empty()
            || self.flows.values().any(FlowState::is_busy)
    }

    /// Whether something sent on the link of this attachment is not settled.
    pub(crate) fn is_out_on(&self, epoch: u32) -> bool {
        let mut flows = self.flows.values();
        flows.any(|flow| flow.window.iter().any(|(_, out)| out.waits_on(epoch)))
            || self.replies.values().any(|out| out.waits_on(epoch))
    }

    /// Bytes of the send buffer that were freed since the last call.
    pub(crate) fn take_released(&mut self) -> usize {
        std::mem::take(&mut self.released)
    }

    /// What is to be passed on since the last call.
    pub(crate) fn drain_effects(&mut self) -> std::vec::Drain<'_, Effect<T>> {
        self.effects.drain(..)
    }

    /// Lanes of all classes together.
    pub(crate) fn lane_count(&self) -> usize {
        self.queues.lane_count()
    }

    /// The class that a lane carries.
    pub(crate) fn lane_class(&self, lane: usize) -> TrafficClass {
        self.queues.lane_class(lane)
    }

    /// Whether `next` may have something for this queue.
    pub(crate) fn has(&self, queue: Queue) -> bool {
        !self.queues.is_empty(queue)
    }

    /// A datagram came that could not be taken.
    pub(crate) fn datagram_dropped(&mut self) {
        self.counters.datagrams_dropped += 1;
    }

    pub(crate) fn counters(&self) -> Counters {
        Counters {
            flows_forgotten: self.dedup.forgotten(),
            ..self.counters
        }
    }
}

fn stamp<T>(now: Now, submission: Submission<T>, timeout: Duration, on_wire: bool) -> Message<T> {
    Message {
        payload: submission.payload,
        mode: submission.mode,
        ticket: submission.ticket,
        charge: submission.charge,
        submitted: now.mono,
        deadline: now.mono + timeout,
        deadline_unix_us: on_wire.then(|| now.unix_us.saturating_add(timeout.as_micros() as u64)),
    }
}
