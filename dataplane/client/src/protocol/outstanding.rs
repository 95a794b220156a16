//! One message that was numbered and is not settled: how often it was sent, where to, and when to look at it again.

use std::time::Duration;

use caplane_wire::{NoticeCode, TrafficClass};

use super::queues::Queue;
use super::rtt::Rtt;
use super::{Address, Message, Mode, Now};
use crate::error::SendError;

/// Where the message is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// In a queue, to be sent or sent again.
    Queued,
    /// A bulk stream whose last byte is not handed over yet: no resend timer runs.
    Writing,
    /// Handed over whole; at `due` it is sent again.
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
    /// When the resend timer fires; meaningful in `Phase::Sent`.
    pub(crate) due: Duration,
    /// What the last attempt asked for.
    pub(crate) sent_to: Option<Address>,
    pub(crate) last_notice: Option<NoticeCode>,
}

/// What a look at an outstanding message found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nothing to do until then.
    Later(Duration),
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
            due: Duration::MAX,
            sent_to: None,
            last_notice: None,
        }
    }

    /// A bulk message that nobody waits for still asks for a receipt, so that the flow's next one can start after it and
    /// order holds; it is never sent twice.
    pub(crate) fn paces_only(&self) -> bool {
        self.message.mode == Mode::Forget
    }

    pub(crate) fn look(&self, now: Now) -> Look {
        let deadline = self.message.deadline;
        match self.phase {
            _ if deadline <= now.mono => Look::Expired,
            Phase::Sent { .. } if self.due <= now.mono && self.paces_only() => Look::Expired,
            Phase::Sent { .. } if self.due <= now.mono => Look::Resend,
            Phase::Sent { .. } => Look::Later(self.due.min(deadline)),
            Phase::Queued | Phase::Writing | Phase::Receipted => Look::Later(deadline),
        }
    }

    /// It is handed to the transport, and should be receipted within `wait`. Answers when to look at it again.
    pub(crate) fn leave(&mut self, now: Now, epoch: u32, to: Address, wait: Duration) -> Duration {
        self.attempts += 1;
        self.epoch = epoch;
        self.sent_to = Some(to);
        if self.queue == Queue::Bulk {
            self.phase = Phase::Writing;
            return self.message.deadline;
        }
        self.phase = Phase::Sent { at: now.mono };
        self.due = now.mono + wait;
        self.due.min(self.message.deadline)
    }

    /// All of a bulk message is handed over. Answers when to look at it again.
    pub(crate) fn written(&mut self, now: Now, wait: Duration) -> Option<Duration> {
        if self.phase != Phase::Writing {
            return None;
        }
        self.phase = Phase::Sent { at: now.mono };
        self.due = now.mono + wait;
        Some(self.due.min(self.message.deadline))
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
