//! What comes in: data for the application, replies to our requests, receipts and notices for what we sent.

use bytes::{Buf, Bytes, BytesMut};
use caplane_wire::receipt;
use caplane_wire::{
    Flags, HEADER_LEN, Header, Kind, KnownExtensions, Label, LabelKind, Notice, NoticeCode,
};

use super::dedup::{FlowKey, Seen};
use super::messenger::Messenger;
use super::outstanding::{Outstanding, Phase};
use super::queues::{Queue, Waiting};
use super::{Address, CarriedBy, Effect, Mode, Now, Receipt, Received, ReplyKey, Settled, Tag};
use crate::error::SendError;
use crate::event::ClientEvent;

/// What became of a message that came in.
#[derive(Debug)]
pub(crate) enum Disposition {
    /// For the application's queue; its receipt, when wanted, is queued already and must leave after it got there.
    Deliver(Received),
    /// Dealt with.
    Consumed,
    /// Data, and no room for it: nothing was taken or changed, offer it again later.
    NoRoom,
}

type View = Header<[u8; HEADER_LEN]>;

impl<T> Messenger<T> {
    /// Takes the whole message that the first `total` bytes of `buffer` are, as `caplane_wire::message_len` measured it.
    /// `room` says whether the application's queue has room for it.
    pub(crate) fn receive(
        &mut self,
        now: Now,
        carried_by: CarriedBy,
        buffer: &mut BytesMut,
        total: usize,
        room: bool,
    ) -> Disposition {
        let Ok((header, _)) = Header::split(&buffer[..total]) else {
            debug_assert!(false, "message_len looked at this header");
            buffer.advance(total);
            return Disposition::Consumed;
        };
        let header: View = Header::new_unchecked(*header.into_inner());
        match header.kind() {
            Kind::Data => self.data(now, carried_by, header, buffer, total, room),
            Kind::Receipt => {
                buffer.advance(total);
                self.receipt(now, &header);
                Disposition::Consumed
            }
            Kind::Notice => {
                let payload = HEADER_LEN + usize::from(header.extension_len());
                let notice = Notice::parse(&buffer[payload..total]);
                buffer.advance(total);
                self.notice(now, &header, notice.ok());
                Disposition::Consumed
            }
            Kind::Probe => {
                buffer.advance(total);
                self.confirm(&header);
                Disposition::Consumed
            }
        }
    }

    fn data(
        &mut self,
        now: Now,
        carried_by: CarriedBy,
        header: View,
        buffer: &mut BytesMut,
        total: usize,
        room: bool,
    ) -> Disposition {
        let source = source_of(&header);
        let key = FlowKey {
            source,
            flow: header.flow(),
        };
        let payload_at = HEADER_LEN + usize::from(header.extension_len());
        let known = KnownExtensions::parse(&buffer[HEADER_LEN..payload_at]);
        let Ok(KnownExtensions {
            deadline_unix_us, ..
        }) = known
        else {
            self.counters.malformed += 1;
            buffer.advance(total);
            return Disposition::Consumed;
        };
        match self.dedup.look(&key, header.sequence()) {
            Seen::New => {}
            Seen::Before => {
                self.counters.duplicates += 1;
                buffer.advance(total);
                self.confirm(&header); // the receipt before this one may be lost
                return Disposition::Consumed;
            }
            Seen::TooOld => {
                self.counters.too_old += 1;
                buffer.advance(total);
                self.confirm(&header); // counts as delivered (WF-83)
                return Disposition::Consumed;
            }
        }
        if deadline_unix_us.is_some_and(|deadline| deadline < now.unix_us) {
            self.counters.expired += 1;
            buffer.advance(total);
            return Disposition::Consumed;
        }
        let reply = self.is_answer(&header, source);
        if !reply && (!room || self.queues.receipts() >= self.limits.receipts_max) {
            return Disposition::NoRoom;
        }
        let payload = buffer.split_to(total).freeze().slice(payload_at..);
        let received = read(&header, source, payload, deadline_unix_us, carried_by);
        if reply {
            // The reply to a request that was given up is not delivered, so it gets no receipt either.
            if self.answer(now, received) {
                self.dedup.mark(key, header.sequence());
                self.confirm(&header);
            } else {
                self.counters.late_replies += 1;
            }
            return Disposition::Consumed;
        }
        self.dedup.mark(key, header.sequence());
        self.confirm(&header);
        self.counters.delivered += 1;
        Disposition::Deliver(received)
    }

    /// Whether a data message answers one of our own flows. A message of our own that came back to us is none: the flow's
    /// destination is a class that we serve ourselves.
    fn is_answer(&self, header: &View, source: Address) -> bool {
        !self.is_me(source)
            && self
                .flows
                .get(&header.flow())
                .is_some_and(|flow| flow.destination.may_be_answered_by(source.label))
    }

    /// Hands a reply to whoever waits for it; false when nobody does.
    pub(super) fn answer(&mut self, now: Now, reply: Received) -> bool {
        let (id, sequence, source) = (reply.flow, reply.sequence, reply.source);
        let Some(flow) = self.flows.get_mut(&id) else {
            return false;
        };
        let asked = flow.window.get(sequence);
        if asked.is_none_or(|out| out.message.mode != Mode::Request) {
            return false;
        }
        let Some(out) = flow.settle(sequence) else {
            return false;
        };
        if out.phase != Phase::Receipted {
            flow.receipts_of(out.queue).came(now.mono, &out);
        }
        flow.pin_to(source);
        flow.admit(&mut self.queues);
        self.release(out.message.charge);
        if let Some(ticket) = out.message.ticket {
            self.effects.push(Effect::Settled {
                ticket,
                outcome: Ok(Settled::Reply(reply)),
            });
        }
        self.forget_if_over(id);
        true
    }

    /// Queues a receipt when one is wanted.
    fn confirm(&mut self, header: &View) {
        let group = header.requested_label().kind() == LabelKind::Group;
        if header.flags().contains(Flags::RECEIPT) && !group {
            // The source is filled in when it leaves: we may be somebody else by then.
            self.queues
                .push_receipt(receipt::receipt(header, Label::NONE, 0));
        }
    }

    fn receipt(&mut self, now: Now, header: &View) {
        let source = source_of(header);
        let (id, sequence) = (header.flow(), header.sequence());
        let Some(flow) = self.flows.get_mut(&id) else {
            let key = ReplyKey {
                to: source,
                flow: id,
                sequence,
            };
            return match self.replies.remove(&key) {
                Some(out) => {
                    // The first copy at the latest: a wait that is too long does less harm than one too short.
                    self.reply_rtt.sample(out.round_trip(now));
                    self.settle_receipt(now, id, sequence, source, out);
                }
                None => self.counters.unmatched += 1,
            };
        };
        if !flow.destination.may_be_answered_by(source.label) {
            self.counters.unmatched += 1;
            return;
        }
        let Some(out) = flow.window.get_mut(sequence) else {
            self.counters.unmatched += 1;
            return;
        };
        let receipts = match out.queue {
            Queue::Bulk => &mut flow.bulk_receipts,
            Queue::Lane(_) | Queue::Datagram => &mut flow.receipts,
        };
        if out.phase != Phase::Receipted {
            receipts.came(now.mono, out);
        }
        if out.message.mode == Mode::Request {
            self.released += out.receipted();
            flow.pin_to(source);
            if flow.bulk == Some(sequence) {
                flow.bulk = None; // it arrived: the next one cannot overtake it
                flow.admit(&mut self.queues);
            }
            return;
        }
        flow.pin_to(source);
        let settled = flow.settle(sequence);
        flow.admit(&mut self.queues);
        if let Some(at) = flow.passed_by(&self.limits.resend) {
            self.arm_flow(id, at);
        }
        if let Some(out) = settled {
            self.settle_receipt(now, id, sequence, source, out);
        }
        self.forget_if_over(id);
    }

    fn settle_receipt(
        &mut self,
        now: Now,
        flow: u64,
        sequence: u32,
        from: Address,
        out: Outstanding<T>,
    ) {
        self.release(out.message.charge);
        let round_trip = out.round_trip(now);
        if let Some(ticket) = out.message.ticket {
            let receipt = Receipt {
                from,
                flow,
                sequence,
                attempts: out.attempts,
                round_trip,
            };
            self.effects.push(Effect::Settled {
                ticket,
                outcome: Ok(Settled::Receipt(receipt)),
            });
        }
    }

    fn notice(&mut self, now: Now, header: &View, notice: Option<Notice>) {
        if header.source_label().kind() != LabelKind::Router {
            self.counters.forged_notices += 1;
            return;
        }
        let Some(notice) = notice else {
            self.counters.malformed += 1;
            return;
        };
        let offending = notice.offending();
        if !self.is_me(source_of(&offending)) {
            self.counters.unmatched += 1; // not about a message of ours (WF-92)
            return;
        }
        let asked = Address {
            domain: offending.destination_domain(),
            label: offending.requested_label(),
        };
        self.effects.push(Effect::Event(ClientEvent::Notice {
            code: notice.code,
            router: notice.router,
            flow: offending.flow(),
            sequence: offending.sequence(),
            requested: asked.label,
        }));
        let (flow, sequence) = (offending.flow(), offending.sequence());
        let tag = if self.flows.contains_key(&flow) {
            Tag::Flow { flow, sequence }
        } else {
            Tag::Reply(ReplyKey {
                to: asked,
                flow,
                sequence,
            })
        };
        self.rejected(now, tag, Some(asked), notice.code, notice.router);
    }

    /// A router did not carry a message: by a notice, or by stopping its bulk stream (`asked` is then what the last
    /// attempt asked for).
    pub(crate) fn rejected(
        &mut self,
        now: Now,
        tag: Tag,
        asked: Option<Address>,
        code: NoticeCode,
        router: Label,
    ) {
        match tag {
            Tag::Flow { flow, sequence } => {
                self.flow_rejected(now, flow, sequence, asked, code, router);
            }
            Tag::Reply(key) => match self.replies.get_mut(&key) {
                None => self.counters.unmatched += 1,
                Some(_) if code.stops_resend() => {
                    self.give_up(tag, SendError::Refused { code, router });
                }
                Some(out) => {
                    out.last_notice = Some(code);
                    self.bulk_written(now, tag); // a stopped stream is written no further
                }
            },
        }
    }

    fn flow_rejected(
        &mut self,
        now: Now,
        id: u64,
        sequence: u32,
        asked: Option<Address>,
        code: NoticeCode,
        router: Label,
    ) {
        let Some(flow) = self.flows.get_mut(&id) else {
            self.counters.unmatched += 1;
            return;
        };
        let asked = asked.or_else(|| flow.window.get(sequence).and_then(|out| out.sent_to));
        // Sent to a pinned instance, not to what the flow asks for: its class may still have others.
        let by_pin = asked.filter(|asked| asked.label != flow.destination.label);
        let lets_go = code.unpins() || code == NoticeCode::PolicyDenied;
        if let Some(from) = by_pin
            && lets_go
        {
            flow.pin_refused |= code == NoticeCode::PolicyDenied;
            return self.unpin(id, Some(sequence), from);
        }
        let Some(out) = flow.window.get_mut(sequence) else {
            return; // nobody waits for it; the event says what became of it
        };
        if out.paces_only() {
            // Never sent twice; the notice itself was passed on.
            let charge = out.message.charge;
            flow.settle(sequence);
            flow.admit(&mut self.queues);
            self.release(charge);
            self.forget_if_over(id);
        } else if code.stops_resend() {
            let tag = Tag::Flow { flow: id, sequence };
            self.give_up(tag, SendError::Refused { code, router });
        } else {
            out.last_notice = Some(code); // the timer runs on (WF-84)
            self.bulk_written(now, Tag::Flow { flow: id, sequence });
        }
    }

    /// Lets go of an instance: everything unsettled that was sent to it goes to the flow's destination again, at once.
    pub(super) fn unpin(&mut self, id: u64, noticed: Option<u32>, from: Address) {
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        let was_pinned = flow.pin == Some(from);
        if was_pinned {
            flow.pin = None;
            flow.receipts.another_way();
            flow.bulk_receipts.another_way();
        }
        for (sequence, out) in flow.window.iter_mut().rev() {
            let lost = noticed == Some(sequence) || (was_pinned && out.sent_to == Some(from));
            let sent = matches!(out.phase, Phase::Sent { .. } | Phase::Writing);
            if lost && sent && !out.paces_only() {
                out.phase = Phase::Queued;
                self.queues
                    .push_front(out.queue, Waiting::Flow { flow: id, sequence });
            }
        }
        if was_pinned {
            self.effects.push(Effect::Event(ClientEvent::Unpinned {
                flow: id,
                from,
                to: flow.destination,
            }));
        }
    }
}

fn source_of<B: AsRef<[u8]>>(header: &Header<B>) -> Address {
    Address {
        domain: header.source_domain(),
        label: header.source_label(),
    }
}

fn read(
    header: &View,
    source: Address,
    payload: Bytes,
    deadline_unix_us: Option<u64>,
    carried_by: CarriedBy,
) -> Received {
    Received {
        payload,
        source,
        flow: header.flow(),
        sequence: header.sequence(),
        class: header.class(),
        flags: header.flags(),
        requested: header.requested_label(),
        tenant: header.tenant(),
        deadline_unix_us,
        carried_by,
    }
}
