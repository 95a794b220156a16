//! When something must be looked at again: resends and deadlines. One armed moment per flow, so that a receipt costs no
//! timer work; a look walks that flow's window, at most 1,023 messages, as often as its resend timer fires.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::messenger::Messenger;
use super::outstanding::{Outstanding, Phase};
use super::queues::{Queue, Waiting};
use super::{Message, Now, ReplyKey, Tag};

/// Unanswered resends after which a flow lets go of the instance it is pinned to (WF-88).
const SILENT_RESENDS: u32 = 3;

/// What a timer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Flow(u64),
    Reply(ReplyKey),
}

/// Earliest first. Entries that were overtaken by an earlier one stay and are ignored when they come up.
#[derive(Debug, Default)]
pub(crate) struct Timers(BinaryHeap<Reverse<(Duration, Timer)>>);

impl<T> Messenger<T> {
    /// Makes sure that the flow is looked at no later than `at`.
    pub(super) fn arm_flow(&mut self, id: u64, at: Duration) {
        if let Some(flow) = self.flows.get_mut(&id)
            && flow.armed.is_none_or(|armed| at < armed)
        {
            flow.armed = Some(at);
            self.timers.0.push(Reverse((at, Timer::Flow(id))));
        }
    }

    pub(super) fn arm_reply(&mut self, key: ReplyKey, at: Duration) {
        self.timers.0.push(Reverse((at, Timer::Reply(key))));
    }

    /// When `tick` has something to do, at the earliest.
    pub(crate) fn next_timer(&self) -> Option<Duration> {
        self.timers.0.peek().map(|Reverse((at, _))| *at)
    }

    /// Runs what is due.
    pub(crate) fn tick(&mut self, now: Now) {
        while let Some(&Reverse((at, timer))) = self.timers.0.peek() {
            if at > now.mono {
                break;
            }
            self.timers.0.pop();
            match timer {
                Timer::Flow(id) => self.look_at_flow(now, at, id),
                Timer::Reply(key) => self.look_at_reply(now, key),
            }
        }
    }

    fn look_at_flow(&mut self, now: Now, at: Duration, id: u64) {
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        if flow.armed != Some(at) {
            return; // overtaken
        }
        flow.armed = None;
        let bounds = &self.limits.resend;
        let next = flow.look(now, &self.lane_states, bounds, &mut self.found);
        let mut silent = None;
        for (sequence, timeout) in self.found.resend.drain(..) {
            let Some(out) = flow.window.get_mut(sequence) else {
                continue;
            };
            if out.attempts > SILENT_RESENDS {
                silent = out.sent_to;
            }
            out.phase = Phase::Queued;
            let queue = out.queue;
            self.queues
                .push(queue, Waiting::Flow { flow: id, sequence });
            if timeout {
                flow.receipts_of(queue).timed_out();
            }
        }
        if let Some(pinned) = silent.filter(|silent| flow.pin == Some(*silent)) {
            self.unpin(id, None, pinned);
        }
        self.expire_window(now, id);
        self.expire_pending(now, id);
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.admit(&mut self.queues);
        }
        if let Some(next) = next {
            self.arm_flow(id, next);
        }
        self.forget_if_over(id);
    }

    fn expire_window(&mut self, now: Now, id: u64) {
        let mut expired = std::mem::take(&mut self.found.expired);
        for sequence in expired.drain(..) {
            let Some(out) = self
                .flows
                .get_mut(&id)
                .and_then(|flow| flow.settle(sequence))
            else {
                continue;
            };
            if out.paces_only() && out.attempts > 0 {
                self.release(out.message.charge); // sent once, as was asked
            } else {
                let error = out.expiry(now);
                self.fail(out.message, id, Some(sequence), error);
            }
        }
        self.found.expired = expired;
    }

    /// Messages that never got a number: the window was full, or nothing was attached, for all of their time.
    fn expire_pending(&mut self, now: Now, id: u64) {
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        let mut late: Vec<Message<T>> = Vec::new();
        for pending in [&mut flow.pending, &mut flow.pending_bulk] {
            if pending.iter().any(|message| message.deadline <= now.mono) {
                for message in std::mem::take(pending) {
                    if message.deadline <= now.mono {
                        late.push(message);
                    } else {
                        pending.push_back(message);
                    }
                }
            }
        }
        let class = flow.options.class;
        for message in late {
            let never_sent = Outstanding::new(message, Queue::Bulk, class);
            let error = never_sent.expiry(now);
            self.fail(never_sent.message, id, None, error);
        }
    }

    fn look_at_reply(&mut self, now: Now, key: ReplyKey) {
        let Some(out) = self.replies.get_mut(&key) else {
            return;
        };
        if out.message.deadline <= now.mono {
            let error = out.expiry(now);
            self.give_up(Tag::Reply(key), error);
        } else if out.reply_due(&self.reply_rtt, &self.limits.resend) <= now.mono {
            out.phase = Phase::Queued;
            self.queues.push(out.queue, Waiting::Reply(key));
        } else if let Phase::Sent { .. } = out.phase {
            // Receipts have turned out to take longer since this was set.
            let look_at = out.reply_due(&self.reply_rtt, &self.limits.resend);
            self.arm_reply(key, look_at);
        }
    }
}
