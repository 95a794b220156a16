//! Messages coming in: lanes, datagrams and the heads of bulk streams. Walks whole messages, asks
//! for each decision, edits headers in place, and cuts the buffer into runs. Refuses to know how a
//! decision is made.

use bytes::{Buf, BytesMut};
use caplane_wire::{
    FrameError, HEADER_LEN, Header, Kind, LANE_MESSAGE_MAX, LabelKind, Messages, TrafficClass,
    check_class, message_len,
};

use super::decide::{Sender, Step};
use super::egress::{GATHER_BYTES, Run, Slab, Walk};
use super::peers::{PeerIdx, Role};
use super::replicate::Copies;
use super::{BulkEnd, BulkVerdict, Carrier, Forwarder, PeerKey, Progress, StreamFault, Unblocked};
use crate::fib::BATCH;
use crate::mix::mix_pair;
use crate::{DropReason, Now};

/// A run being extended: messages at the front of the buffer that go the same way.
struct Open {
    to: PeerIdx,
    bytes: usize,
    messages: u32,
    /// They are for a group, and `to` is nobody.
    copies: Option<Copies>,
}

/// What becomes of a message of a walk.
enum Turn {
    /// It joined the open run.
    Next,
    /// It waits for room at this peer, and the lane with it.
    Wait(PeerIdx),
    Refuse(DropReason),
}

/// Where a run's bytes stand, and what pinning them costs.
#[derive(Clone, Copy)]
pub(super) struct Origin {
    pub slab: Slab,
    pub charge: usize,
    pub lane: u32,
    pub carrier: Carrier,
    /// Which walk over a lane's bytes this is; 0 = none.
    pub walk: u64,
}

impl Origin {
    fn walk(&self) -> Walk {
        Walk {
            number: self.walk,
            lane: self.lane,
        }
    }
}

/// Is there room for another run?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Admission {
    Yes,
    Wait,
    Full,
}

impl Forwarder {
    /// Forwards every whole message at the front of `data`, leaving the tail. `lane_hint` names the
    /// ingress lane within the peer: messages of one lane keep their order. Give the buffer with all
    /// of its slab's spare room behind it (do not split that off): a slab is told by its end.
    ///
    /// # Errors
    ///
    /// [`StreamFault`] when the bytes cannot be a message: reset the lane.
    pub fn lane(
        &mut self,
        now: Now,
        from: PeerKey,
        lane_hint: u32,
        class: TrafficClass,
        data: &mut BytesMut,
    ) -> Result<Progress, StreamFault> {
        let mut progress = Progress::default();
        let Some(at) = self.peers.find(from) else {
            self.counters.received += 1;
            let reason = DropReason::UnknownPeer;
            self.counters.dropped[reason as usize] += 1;
            return Err(StreamFault { reason, progress });
        };
        self.walks += 1;
        let origin = Origin {
            slab: data.as_ptr() as usize + data.capacity(),
            charge: self.config.slab_bytes.max(data.capacity()),
            lane: self.egress_lane(from, lane_hint),
            carrier: Carrier::Lane,
            walk: self.walks,
        };
        let lane = Unblocked {
            peer: from,
            lane_hint,
        };
        let sender = self.sender(at, class);
        let fault = self.walk(now, (&sender, class), lane, origin, data, &mut progress);
        self.counters.received += u64::from(progress.messages);
        self.counters.received_bytes += progress.bytes as u64;
        match fault {
            None => Ok(progress),
            Some(error) => Err(self.fault(now, at, error, data, progress)),
        }
    }

    /// Message by message, until the bytes, the room or the sense end.
    fn walk(
        &mut self,
        now: Now,
        (sender, class): (&Sender, TrafficClass),
        lane: Unblocked,
        origin: Origin,
        data: &mut BytesMut,
        progress: &mut Progress,
    ) -> Option<FrameError> {
        let at = sender.at;
        let policed = self.peers.get(at).policer.is_some();
        let mut open = Open::none();
        let mut batch = 0;
        let fault = loop {
            if batch == 0 {
                batch = BATCH;
                // Labels that are remembered need none of the tables.
                if sender.is_instance && self.recall.missed() {
                    self.look_ahead(&data[open.bytes..]);
                }
            }
            batch -= 1;
            let rest = &mut data[open.bytes..];
            let total = match message_len(rest, LANE_MESSAGE_MAX) {
                Ok(Some(total)) if total <= rest.len() => total,
                Ok(_) => break None,
                Err(error) => break Some(error),
            };
            let Some((head, body)) = rest[..total].split_first_chunk_mut::<HEADER_LEN>() else {
                break None;
            };
            if let Err(error) = check_class(&Header::new_unchecked(&*head), class) {
                break Some(error);
            }
            let decided = match policed && !self.within_rate(now, at, head, total) {
                true => Err(DropReason::RateLimited),
                false => self.decide(now, sender, head, body),
            };
            let turn = match decided {
                Ok(step) if step.to == open.to => {
                    self.edit(sender, &step, &mut data[open.bytes..]);
                    Turn::Next
                }
                Ok(step) => self.turn(now, (sender, &step), &mut open, data, origin),
                Err(reason) => Turn::Refuse(reason),
            };
            match turn {
                Turn::Next => {
                    open.bytes += total;
                    open.messages += 1;
                    progress.messages += 1;
                    progress.bytes += total;
                }
                Turn::Wait(to) => {
                    self.wait(to, sender.class, lane);
                    self.not_yet(at, data, total);
                    progress.blocked = true;
                    break None;
                }
                Turn::Refuse(reason) => {
                    self.close_run(now, sender, &mut open, data, origin);
                    self.refuse_front(now, at, reason, total, data, progress);
                }
            }
        };
        self.close_run(now, sender, &mut open, data, origin);
        fault
    }

    /// A message that does not go where the one before it went: closes the open run and begins another.
    fn turn(
        &mut self,
        now: Now,
        (sender, step): (&Sender, &Step),
        open: &mut Open,
        data: &mut BytesMut,
        origin: Origin,
    ) -> Turn {
        if step.to == PeerIdx::MEMBERS {
            let routers = sender.is_instance;
            let copies = Copies::of(&data[open.bytes..], sender.class, routers);
            if !self.go_together(open.copies, copies) {
                self.close_run(now, sender, open, data, origin);
                open.copies = Some(copies);
            }
            return Turn::Next;
        }
        self.close_run(now, sender, open, data, origin);
        let may_wait = sender.is_instance && sender.class.blocking();
        match self.admission(now, step.to, sender.class, origin.slab, may_wait) {
            Admission::Yes => {}
            Admission::Wait => return Turn::Wait(step.to),
            Admission::Full => return Turn::Refuse(DropReason::Overloaded),
        }
        open.to = step.to;
        self.edit(sender, step, data);
        Turn::Next
    }

    /// A lane ended inside a message (FIN or RESET with part of one unread): counted as one message
    /// received and cut short.
    pub fn lane_cut(&mut self, _from: PeerKey) {
        self.counters.received += 1;
        self.counters.dropped[DropReason::CutShort as usize] += 1;
    }

    /// Forwards one datagram: exactly one whole message.
    pub fn datagram(&mut self, now: Now, from: PeerKey, mut data: BytesMut) {
        self.counters.received += 1;
        self.counters.received_bytes += data.len() as u64;
        let Some(at) = self.peers.find(from) else {
            self.counters.dropped[DropReason::UnknownPeer as usize] += 1;
            return;
        };
        let whole = message_len(&data, LANE_MESSAGE_MAX) == Ok(Some(data.len()));
        let Some((head, body)) = data.split_first_chunk_mut::<HEADER_LEN>().filter(|_| whole)
        else {
            self.counters.dropped[DropReason::Malformed as usize] += 1;
            return;
        };
        let bytes = head.len() + body.len();
        let sender = self.sender(at, Header::new_unchecked(&*head).class());
        let decided = match self.within_rate(now, at, head, bytes) {
            true => self.decide(now, &sender, head, body),
            false => Err(DropReason::RateLimited),
        };
        // Datagrams come in buffers of their own: nothing else is pinned.
        let origin = Origin {
            slab: 0,
            charge: data.len(),
            lane: 0,
            carrier: Carrier::Datagram,
            walk: 0,
        };
        let class = sender.class;
        let reason = match decided {
            Err(reason) => reason,
            Ok(step) if step.to == PeerIdx::MEMBERS => {
                let copies = Copies::of(&data, class, sender.is_instance);
                return self.replicate(now, at, copies, data, 1, origin);
            }
            Ok(step) if data.len() > self.peers.get(step.to).datagram_max => DropReason::TooLarge,
            Ok(step) if !self.has_room(now, step.to, class, 0) => DropReason::Overloaded,
            Ok(step) => {
                self.edit(&sender, &step, &mut data);
                let mut open = Open {
                    to: step.to,
                    bytes: data.len(),
                    messages: 1,
                    copies: None,
                };
                return self.close_run(now, &sender, &mut open, &mut data, origin);
            }
        };
        self.refuse_copy(now, at, reason, &data);
    }

    /// Decides a bulk message from its head (header and extensions, complete), rewriting the header
    /// in place.
    pub fn bulk_open(
        &mut self,
        now: Now,
        from: PeerKey,
        class: TrafficClass,
        head: &mut [u8],
    ) -> BulkVerdict {
        self.counters.received += 1;
        let Some(at) = self.peers.find(from) else {
            let reason = DropReason::UnknownPeer;
            self.counters.dropped[reason as usize] += 1;
            return BulkVerdict::Refuse { reason };
        };
        let limit = usize::try_from(self.config.bulk_message_bytes_max).unwrap_or(usize::MAX);
        let reason = match message_len(head, limit) {
            Ok(Some(bytes)) => match self.bulk_step(now, at, class, head, bytes) {
                Ok((sender, step)) => {
                    self.edit(&sender, &step, head);
                    self.counters.bulk_active += 1;
                    let to = self.peers.get(step.to).key;
                    return BulkVerdict::Forward {
                        to,
                        class: sender.class,
                    };
                }
                Err(reason) => reason,
            },
            Ok(None) => DropReason::Malformed,
            Err(error) => reason_of(&error),
        };
        self.refuse_copy(now, at, reason, head);
        BulkVerdict::Refuse { reason }
    }

    /// A bulk message that [`Forwarder::bulk_open`] let through ended; `bytes` = its bytes sent on.
    /// Due exactly once for each, also when a peer went down meanwhile.
    pub fn bulk_end(&mut self, to: PeerKey, end: BulkEnd, bytes: u64) {
        self.counters.bulk_active -= 1;
        match end {
            BulkEnd::Complete => {
                self.counters.received_bytes += bytes;
                self.counters.forwarded += 1;
                self.counters.forwarded_bytes += bytes;
                let to = self.peers.find(to).map(|to| self.peers.get(to));
                let delivered = to.is_some_and(|peer| peer.instance().is_some());
                self.counters.delivered += u64::from(delivered);
            }
            BulkEnd::Cut => self.counters.dropped[DropReason::CutShort as usize] += 1,
        }
    }
}

/// Headers that are worth a look ahead: of fewer the loads overlap by themselves.
const AHEAD_MIN: usize = 4;

impl Forwarder {
    /// Loads what the next messages' lookups will look at, so that a large table's memory is waited for once for all of
    /// them and not once for each.
    fn look_ahead(&self, data: &[u8]) {
        if data.len() < AHEAD_MIN * HEADER_LEN {
            return;
        }
        let messages = Messages::new(data, LANE_MESSAGE_MAX);
        self.fib.warm(messages.map_while(Result::ok).map(|message| {
            let header = Header::new_unchecked(message);
            let label = header.requested_label();
            match label.kind() {
                LabelKind::Class => (header.tenant(), label),
                LabelKind::Agent => (0, label.any_instance()),
                LabelKind::Group | LabelKind::Router => (0, label),
            }
        }));
    }

    /// Like [`Forwarder::bulk_end`] with `Cut`, when it is the way on that is gone: the source, whose
    /// message began with `head`, gets a notice.
    pub fn bulk_gone(&mut self, now: Now, from: PeerKey, head: &[u8]) {
        self.bulk_refused(now, from, DropReason::CutShort, head);
    }

    /// As [`Forwarder::bulk_gone`], for a reason that the caller saw after [`Forwarder::bulk_open`] had let the message
    /// through.
    pub fn bulk_refused(&mut self, now: Now, from: PeerKey, reason: DropReason, head: &[u8]) {
        self.counters.bulk_active -= 1;
        match self.peers.find(from) {
            Some(at) => self.refuse_copy(now, at, reason, head),
            None => self.counters.dropped[reason as usize] += 1,
        }
    }

    fn bulk_step(
        &mut self,
        now: Now,
        from: PeerIdx,
        class: TrafficClass,
        head: &[u8],
        bytes: usize,
    ) -> Result<(Sender, Step), DropReason> {
        let (head, extensions) = head
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(DropReason::Malformed)?;
        let header = Header::new_unchecked(head);
        check_class(&header, class).map_err(|_| DropReason::Malformed)?;
        if !self.within_rate(now, from, head, bytes) {
            return Err(DropReason::RateLimited);
        }
        let sender = self.sender(from, class);
        match self.decide(now, &sender, head, extensions)? {
            // A group's copies would each need the whole message held: groups take lane messages only.
            step if step.to == PeerIdx::MEMBERS => Err(DropReason::TooLarge),
            step => Ok((sender, step)),
        }
    }

    /// Egress lane of an ingress lane: the same for all its messages, so that they keep their order and
    /// stand in one run.
    fn egress_lane(&self, from: PeerKey, lane_hint: u32) -> u32 {
        let lane = u64::from(from.slot) << 32 | u64::from(lane_hint);
        let hash = mix_pair(u64::from(from.worker), lane);
        (((hash >> 32) * u64::from(self.config.lanes_per_class.max(1))) >> 32) as u32
    }

    /// Writes the decision into the header at the front of `message`.
    #[inline]
    fn edit(&mut self, sender: &Sender, step: &Step, message: &mut [u8]) {
        if let Some(head) = message.first_chunk_mut::<HEADER_LEN>() {
            self.counters.rerouted += u64::from(step.rerouted);
            self.counters.priority_capped += u64::from(sender.is_capped);
            step.write(sender.class, head);
        }
    }

    /// Appends the open run, if there is one, to its queue.
    #[inline]
    fn close_run(
        &mut self,
        now: Now,
        sender: &Sender,
        open: &mut Open,
        data: &mut BytesMut,
        origin: Origin,
    ) {
        if open.messages == 0 {
            return;
        }
        let closed = core::mem::replace(open, Open::none());
        let (bytes, messages) = (closed.bytes, closed.messages);
        if let Some(copies) = closed.copies {
            let run = data.split_to(bytes);
            return self.replicate(now, sender.at, copies, run, messages, origin);
        }
        if bytes <= GATHER_BYTES
            && origin.carrier == Carrier::Lane
            && self.gather(
                closed.to,
                sender.class,
                &data[..bytes],
                messages,
                origin.walk(),
            )
        {
            return data.advance(bytes);
        }
        let run = Run {
            data: data.split_to(closed.bytes).freeze(),
            messages: closed.messages,
            lane: origin.lane,
            carrier: origin.carrier,
            slab: origin.slab,
            held: 0,
        };
        self.append(now, closed.to, sender.class, run, origin.charge);
    }

    #[inline]
    fn admission(
        &mut self,
        now: Now,
        to: PeerIdx,
        class: TrafficClass,
        slab: Slab,
        may_wait: bool,
    ) -> Admission {
        if may_wait {
            return match self.is_backed_up(now, to, class) {
                true => Admission::Wait,
                false => Admission::Yes,
            };
        }
        if self.has_room(now, to, class, slab) {
            return Admission::Yes;
        }
        self.settle(now, to, class);
        match self.has_room(now, to, class, slab) {
            true => Admission::Yes,
            false => Admission::Full,
        }
    }

    #[cold]
    fn wait(&mut self, to: PeerIdx, class: TrafficClass, lane: Unblocked) {
        self.counters.blocked += 1;
        self.peers.get_mut(to).egress.wait(class, lane);
    }

    /// Drops the whole message at the front of the buffer.
    #[cold]
    fn refuse_front(
        &mut self,
        now: Now,
        from: PeerIdx,
        reason: DropReason,
        total: usize,
        data: &mut BytesMut,
        progress: &mut Progress,
    ) {
        self.refuse_copy(now, from, reason, data);
        data.advance(total);
        progress.messages += 1;
        progress.bytes += total;
    }

    /// Counts and notices the message whose header is at the front of `message`.
    #[cold]
    fn refuse_copy(&mut self, now: Now, from: PeerIdx, reason: DropReason, message: &[u8]) {
        match message.first_chunk::<HEADER_LEN>() {
            Some(head) if is_group_copy(&self.peers.get(from).role, head) => {
                self.counters.dropped[reason as usize] += 1;
            }
            Some(head) => self.refuse(now, from, reason, head),
            None => self.counters.dropped[reason as usize] += 1,
        }
    }

    #[cold]
    fn fault(
        &mut self,
        now: Now,
        from: PeerIdx,
        error: FrameError,
        data: &[u8],
        progress: Progress,
    ) -> StreamFault {
        let reason = reason_of(&error);
        self.counters.received += 1;
        // Without a header that can be believed there is nobody to tell.
        match error {
            FrameError::TooLarge { .. } => self.refuse_copy(now, from, reason, data),
            _ => self.counters.dropped[reason as usize] += 1,
        }
        StreamFault { reason, progress }
    }
}

/// A group message from a neighbour is a copy; from an instance it is the original.
fn is_group_copy(role: &Role, head: &[u8; HEADER_LEN]) -> bool {
    let header = Header::new_unchecked(head);
    header.requested_label().kind() == LabelKind::Group
        && !(matches!(role, Role::Instance(_)) && header.kind() == Kind::Data)
}

pub(super) fn reason_of(error: &FrameError) -> DropReason {
    match error {
        FrameError::TooLarge { .. } => DropReason::TooLarge,
        _ => DropReason::Malformed,
    }
}

impl Open {
    #[inline]
    fn none() -> Open {
        Open {
            to: PeerIdx::NOBODY,
            bytes: 0,
            messages: 0,
            copies: None,
        }
    }
}
