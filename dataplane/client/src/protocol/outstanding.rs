//! One message that was numbered and is not settled: how often it was sent, where to, and when to look at it again.

use std::time::Duration;

use caplane_wire::{NoticeCode, TrafficClass};

use super::queues::Queue;
use super::rtt::{ResendBounds, Rtt};
use super::{Address, Message, Mode, Now};
use crate::error::SendError;

/// Where the message is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// In a queue, to be sent or sent again.
    Queued,
    /// A bulk stream whose last byte is not handed over yet: no resend timer runs.
    Writing,
    /// Handed over whole; without a receipt it is sent again in time.
    Sent { at: Duration },
    /// A request whose delivery is confirmed: only its reply is missing. It keeps its place in the window, so that the reply
    /// stays inside ours (WF-82).
    Receipted,
}

#[derive(Debug)]
pub(crate) struct Outstanding<T> {
    pub(crate) message: Message<T>,
    pub(crate) queue: Queue,
    pub(crate) class: TrafficClass,
    pub(crate) phase: Phase,
    pub(crate) attempts: u32,
    /// The first and the last attempt's place among all hand-overs of the flow's carrier.
    pub(crate) first_order: u64,
    pub(crate) order: u64,
    /// Number of the attachment that the last attempt went by.
    pub(crate) epoch: u32,
    /// Lengthens the wait for the receipt, 1 to 1.125 and random, so that resends do not come in step.
    pub(crate) patience: f64,
    /// What the last attempt asked for.
    pub(crate) sent_to: Option<Address>,
    pub(crate) last_notice: Option<NoticeCode>,
}

impl<T> Outstanding<T> {
    pub(crate) fn new(message: Message<T>, queue: Queue, class: TrafficClass) -> Self {
        Self {
            message,
            queue,
            class,
            phase: Phase::Queued,
            attempts: 0,
            first_order: 0,
            order: 0,
            epoch: 0,
            patience: 1.0,
            sent_to: None,
            last_notice: None,
        }
    }

    /// A bulk message that nobody waits for still asks for a receipt, so that the flow's next one can start after it and
    /// order holds; it is never sent twice.
    pub(crate) fn paces_only(&self) -> bool {
        self.message.mode == Mode::Forget
    }

    /// Whether a copy is on its way, or was and another is to follow.
    pub(crate) fn is_under_way(&self) -> bool {
        self.attempts > 0 && self.phase != Phase::Receipted
    }

    /// When a reply is to be looked at. Replies go to many askers, so each has its own timer: never early, and later once
    /// receipts are known to take longer.
    pub(crate) fn reply_due(&self, rtt: &Rtt, bounds: &ResendBounds) -> Duration {
        let bounds = ResendBounds {
            least: bounds.initial,
            ..*bounds
        };
        let bounds = match self.queue {
            Queue::Bulk => bounds.for_bulk(),
            Queue::Lane(_) | Queue::Datagram => bounds,
        };
        match self.phase {
            Phase::Sent { at } => {
                let wait = rtt.wait(self.attempts - 1, &bounds).mul_f64(self.patience);
                self.message.deadline.min(at + wait)
            }
            Phase::Queued | Phase::Writing | Phase::Receipted => self.message.deadline,
        }
    }

    /// It is handed to the transport; of a bulk message, its first bytes are.
    pub(crate) fn leave(&mut self, now: Now, order: u64, epoch: u32, to: Address, patience: f64) {
        if self.attempts == 0 {
            self.first_order = order;
        }
        self.order = order;
        self.attempts += 1;
        self.epoch = epoch;
        self.sent_to = Some(to);
        self.patience = patience;
        self.phase = match self.queue {
            Queue::Bulk => Phase::Writing,
            Queue::Lane(_) | Queue::Datagram => Phase::Sent { at: now.mono },
        };
    }

    /// All of a bulk message is handed over. False when that is of no interest any more.
    pub(crate) fn written(&mut self, now: Now) -> bool {
        let writing = self.phase == Phase::Writing;
        if writing {
            self.phase = Phase::Sent { at: now.mono };
        }
        writing
    }

    /// Delivery of a request is confirmed. Answers what of its charge is free now: the payload is not needed any more.
    pub(crate) fn receipted(&mut self) -> usize {
        self.phase = Phase::Receipted;
        let payload = std::mem::take(&mut self.message.payload);
        let freed = payload.len().min(self.message.charge);
        self.message.charge -= freed;
        freed
    }

    /// From the last hand-over until now.
    pub(crate) fn round_trip(&self, now: Now) -> Duration {
        match self.phase {
            Phase::Sent { at } => now.mono.saturating_sub(at),
            Phase::Queued | Phase::Writing | Phase::Receipted => {
                now.mono.saturating_sub(self.message.submitted)
            }
        }
    }

    /// Whether it was handed to a link that is lost now.
    pub(crate) fn rode_on(&self, lost: u32) -> bool {
        match self.phase {
            Phase::Queued | Phase::Receipted => false,
            Phase::Writing | Phase::Sent { .. } => self.epoch <= lost,
        }
    }

    /// Whether an answer to the last attempt may still come by the link of this attachment, or an earlier one.
    pub(crate) fn waits_on(&self, epoch: u32) -> bool {
        self.phase != Phase::Queued && self.epoch <= epoch
    }

    /// Why it failed, when its time is over.
    pub(crate) fn expiry(&self, now: Now) -> SendError {
        let waited = now.mono.saturating_sub(self.message.submitted);
        match self.message.mode {
            Mode::Request => SendError::NoReply {
                receipted: self.phase == Phase::Receipted,
                waited,
            },
            Mode::Forget | Mode::Receipt => SendError::NoReceipt {
                attempts: self.attempts,
                waited,
                last_notice: self.last_notice,
            },
        }
    }
}
