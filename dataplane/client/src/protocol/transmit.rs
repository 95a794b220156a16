//! What leaves: the next message of a queue, its header written as late as possible, so that it carries the source label
//! and the pin of the moment.

use caplane_wire::{
    Flags, HEADER_LEN, HOP_LIMIT_DEFAULT, HeaderRepr, Kind, KnownExtensions, TrafficClass,
};

use super::messenger::{Me, Messenger};
use super::outstanding::Phase;
use super::queues::{Queue, Waiting};
use super::{Address, DEADLINE_LEN, Head, Message, Now, Outgoing, ReplyKey, Tag};
use crate::error::SendError;

impl<T> Messenger<T> {
    /// The next message for one queue; `None` when there is nothing more, or nobody to send as while detached.
    pub(crate) fn next(&mut self, now: Now, queue: Queue) -> Option<Outgoing> {
        let me = self.me?;
        loop {
            let outgoing = match self.queues.pop(queue)? {
                Waiting::Flow { flow, sequence } => self.next_tracked(now, me, flow, sequence),
                Waiting::Reply(key) => self.next_reply(now, me, key),
                Waiting::Loose {
                    flow,
                    sequence,
                    message,
                } => self.next_loose(now, me, flow, sequence, message),
                Waiting::LooseReply {
                    key,
                    class,
                    message,
                } => {
                    self.release(message.charge);
                    Some(Envelope::reply(key, class, Flags::AFFINITY).seal(me, &message))
                }
                Waiting::Receipt(receipt) => Some(receipt_out(me, receipt)),
            };
            if outgoing.is_some() {
                self.counters.sent += 1;
                return outgoing;
            }
        }
    }

    fn next_tracked(&mut self, now: Now, me: Me, id: u64, sequence: u32) -> Option<Outgoing> {
        let flow = self.flows.get_mut(&id)?;
        let (target, tenant) = (flow.target(), flow.tenant());
        let out = flow.window.get_mut(sequence)?;
        if out.phase != Phase::Queued || out.message.deadline <= now.mono {
            return None; // settled by another copy's receipt, or the timer ends it
        }
        let patience = 1.0 + self.jitter.fraction() / 8.0;
        let receipts = match out.queue {
            Queue::Bulk => &mut flow.bulk_receipts,
            Queue::Lane(_) | Queue::Datagram => &mut flow.receipts,
        };
        out.leave(now, receipts.leave(), me.epoch, target, patience);
        let look_at = now.mono + receipts.wait(1, &self.limits.resend).mul_f64(patience);
        self.counters.resent += u64::from(out.attempts > 1);
        let envelope = Envelope {
            to: target,
            tenant,
            class: out.class,
            flags: flow.options.flags() | Flags::RECEIPT,
            tag: Tag::Flow { flow: id, sequence },
        };
        let outgoing = envelope.seal(me, &out.message);
        self.arm_flow(id, look_at);
        Some(outgoing)
    }

    fn next_reply(&mut self, now: Now, me: Me, key: ReplyKey) -> Option<Outgoing> {
        let out = self.replies.get_mut(&key)?;
        if out.phase != Phase::Queued || out.message.deadline <= now.mono {
            return None;
        }
        let patience = 1.0 + self.jitter.fraction() / 8.0;
        out.leave(now, 0, me.epoch, key.to, patience);
        let look_at = out.reply_due(&self.reply_rtt, &self.limits.resend);
        self.counters.resent += u64::from(out.attempts > 1);
        let flags = Flags::AFFINITY | Flags::RECEIPT;
        let outgoing = Envelope::reply(key, out.class, flags).seal(me, &out.message);
        self.arm_reply(key, look_at);
        Some(outgoing)
    }

    fn next_loose(
        &mut self,
        now: Now,
        me: Me,
        id: u64,
        sequence: u32,
        message: Message<T>,
    ) -> Option<Outgoing> {
        let flow = self.flows.get_mut(&id)?;
        flow.loose -= 1;
        let over = !flow.open;
        let envelope = Envelope {
            to: flow.target(),
            tenant: flow.tenant(),
            class: flow.options.class,
            flags: flow.options.flags(),
            tag: Tag::Flow { flow: id, sequence },
        };
        let outgoing = if message.deadline > now.mono {
            self.release(message.charge);
            Some(envelope.seal(me, &message))
        } else {
            let error = SendError::NoReceipt {
                attempts: 0,
                waited: now.mono.saturating_sub(message.submitted),
                last_notice: None,
            };
            self.fail(message, id, Some(sequence), error);
            None
        };
        if over {
            self.forget_if_over(id);
        }
        outgoing
    }

    /// The last byte of a bulk message was handed over: only now does its resend timer start.
    pub(crate) fn bulk_written(&mut self, now: Now, tag: Tag) {
        match tag {
            Tag::Flow { flow: id, sequence } => {
                let Some(flow) = self.flows.get_mut(&id) else {
                    return;
                };
                let Some(out) = flow.window.get_mut(sequence) else {
                    return;
                };
                if out.written(now) {
                    let wait = flow.bulk_receipts.wait(1, &self.limits.resend);
                    self.arm_flow(id, now.mono + wait);
                }
            }
            Tag::Reply(key) => {
                let Some(out) = self.replies.get_mut(&key) else {
                    return;
                };
                if out.written(now) {
                    let look_at = out.reply_due(&self.reply_rtt, &self.limits.resend);
                    self.arm_reply(key, look_at);
                }
            }
        }
    }
}

/// What the header says beside the sender and the lengths.
struct Envelope {
    to: Address,
    tenant: u32,
    class: TrafficClass,
    flags: Flags,
    tag: Tag,
}

impl Envelope {
    fn reply(key: ReplyKey, class: TrafficClass, flags: Flags) -> Self {
        Self {
            to: key.to,
            tenant: 0,
            class,
            flags,
            tag: Tag::Reply(key),
        }
    }

    fn seal<T>(self, me: Me, message: &Message<T>) -> Outgoing {
        let (flow, sequence) = self.tag.numbers();
        let deadline = message.deadline_unix_us;
        let header = HeaderRepr {
            kind: Kind::Data,
            class: self.class,
            hop_limit: HOP_LIMIT_DEFAULT,
            flags: match deadline {
                Some(_) => self.flags | Flags::DEADLINE,
                None => self.flags,
            },
            label: self.to.label,
            destination_domain: self.to.domain,
            tenant: self.tenant,
            source_label: me.address.label,
            source_domain: me.address.domain,
            flow,
            sequence,
            // Bounded by the send buffer, which is checked against 2^31 when the client starts.
            payload_len: message.payload.len() as u32,
            requested_label: self.to.label,
            extension_len: message.extension_len() as u16,
        };
        let mut bytes = [0; HEADER_LEN + DEADLINE_LEN];
        header.emit(&mut bytes);
        let extensions = KnownExtensions {
            deadline_unix_us: deadline,
            trace_context: None,
        }
        .emit(&mut bytes[HEADER_LEN..])
        .expect("the head has room for a deadline, its only extension");
        Outgoing {
            head: Head {
                bytes,
                len: (HEADER_LEN + extensions) as u8,
            },
            payload: message.payload.clone(),
            class: self.class,
            tag: self.tag,
        }
    }
}

fn receipt_out(me: Me, receipt: HeaderRepr) -> Outgoing {
    let header = HeaderRepr {
        source_label: me.address.label,
        source_domain: me.address.domain,
        ..receipt
    };
    let mut bytes = [0; HEADER_LEN + DEADLINE_LEN];
    header.emit(&mut bytes);
    Outgoing {
        head: Head {
            bytes,
            len: HEADER_LEN as u8,
        },
        payload: bytes::Bytes::new(),
        class: receipt.class,
        tag: Tag::Flow {
            flow: receipt.flow,
            sequence: receipt.sequence,
        },
    }
}
