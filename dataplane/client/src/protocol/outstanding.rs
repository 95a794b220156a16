//! One message that was numbered and is not settled: how often it was sent, where to, and when to look at it again.

use std::time::Duration;

use caplane_wire::{NoticeCode, TrafficClass};

use super::queues::Queue;
use super::rtt::{Pace, Rtt};
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
    /// Number of the attachment that the last attempt went by.
    pub(crate) epoch: u32,
    /// Lengthens the wait for the receipt, 1 to 1.125 and random, so that resends do not come in step.
    pub(crate) patience: f64,
    /// What the last attempt asked for.
    pub(crate) sent_to: Option<Address>,
    pub(crate) last_notice: Option<NoticeCode>,
}

/// What a look at an outstanding message found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nothing to do yet.
    Later,
    /// Send it again now.
    Resend,
    /// Its time is over.
    Expired,
}

impl<T> Outstanding<T> {
    pub(crate) fn new(message: Message<T>, queue: Queue, class: TrafficClass) -> Self {
        Self {
            message,
            queue,
            class,
            phase: Phase::Queued,
            attempts: 0,
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

    /// When the resend timer fires, or the message's time is over. It is reckoned anew at each look from what is known of
    /// the round trip by then: while a queue on the way grows, receipts tell so, and nothing is sent twice for it.
    pub(crate) fn look_at(&self, pace: Pace<'_>) -> Duration {
        let deadline = self.message.deadline;
        match self.phase {
            Phase::Sent { at } => {
                let wait = pace.resend_after(self.attempts).mul_f64(self.patience);
                deadline.min(at + wait)
            }
            Phase::Queued | Phase::Writing | Phase::Receipted => deadline,
        }
    }

    pub(crate) fn look(&self, now: Now, pace: Pace<'_>) -> Look {
        let at = self.look_at(pace);
        if at > now.mono {
            Look::Later
        } else if self.message.deadline <= now.mono || self.paces_only() {
            Look::Expired
        } else {
            Look::Resend
        }
    }

    /// It is handed to the transport; of a bulk message, its first bytes are.
    pub(crate) fn leave(&mut self, now: Now, epoch: u32, to: Address, patience: f64) {
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

    /// Teaches the round trip, when it is known which attempt was receipted (Karn).
    pub(crate) fn sample(&self, now: Now, rtt: &mut Rtt) {
        if self.attempts == 1
            && let Phase::Sent { at } = self.phase
        {
            rtt.sample(now.mono.saturating_sub(at));
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
