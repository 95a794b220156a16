//! Group messages: one copy per egress router with members, and local copies from one shared buffer: neighbours in a lane's
//! bytes are one slice for each member, also when they are for several groups with the same members.
//! Only headers of copies to other routers are written anew (and counted as copied); no notice is ever
//! sent about a copy. Refuses to know who may send to a group.

use bytes::{Bytes, BytesMut};
use caplane_wire::{
    HEADER_LEN, Header, LANE_MESSAGE_MAX, Label, Messages, TrafficClass, message_len,
};

use super::decide::hops_left;
use super::egress::Run;
use super::explain::{Candidate, Observe, Verdict};
use super::lanes::Origin;
use super::peers::PeerIdx;
use super::{Carrier, Forwarder};
use crate::mix::mix_pair;
use crate::{DropReason, Now};

/// Copies of one message and where they go; kept between messages for its allocations.
#[derive(Default)]
pub(super) struct Fanout {
    pub here: Vec<PeerIdx>,
    /// Egress router and next hop.
    pub routers: Vec<(Label, PeerIdx)>,
    /// Copies whose router cannot be reached, or whose hop limit is used up.
    pub unreachable: u64,
    pub hopless: u64,
}

impl Fanout {
    pub fn copies(&self) -> u64 {
        (self.here.len() + self.routers.len()) as u64 + self.unreachable + self.hopless
    }
}

/// What the copy for another router says besides what all copies share.
pub(super) fn write_copy(head: &mut [u8; HEADER_LEN], router: Label, hops: u8) {
    let mut header = Header::new_unchecked(head);
    header.set_label(router);
    header.set_hop_limit(hops.saturating_sub(1));
}

/// What all copies share.
pub(super) fn write_shared<T: AsRef<[u8]> + AsMut<[u8]>>(
    header: &mut Header<T>,
    class: TrafficClass,
) {
    header.set_class(class);
    let group = header.requested_label();
    header.set_label(group);
}

/// What messages have in common whose copies go to the same members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Copies {
    /// Of the first of them.
    group: Label,
    source: Label,
    /// After the cap.
    class: TrafficClass,
    /// To other routers too.
    routers: bool,
}

impl Copies {
    /// Those of the whole message at the front of `message`.
    pub fn of(message: &[u8], class: TrafficClass, routers: bool) -> Copies {
        let header = Header::new_unchecked(message);
        Copies {
            group: header.requested_label(),
            source: header.source_label(),
            class,
            routers,
        }
    }
}

impl Forwarder {
    /// Sends a run of whole messages, not yet edited, to the members of their group: those attached here and,
    /// if they are due there, one copy of each to every other egress router.
    pub(super) fn replicate(
        &mut self,
        now: Now,
        from: PeerIdx,
        copies: Copies,
        mut run: BytesMut,
        messages: u32,
        origin: Origin,
    ) {
        if messages == 1 || !copies.routers || !self.has_members_elsewhere(copies.group) {
            return self.replicate_run(now, from, copies, run, messages, origin);
        }
        // Each message's flow chooses its way, and each copy gets a header of its own.
        while let Ok(Some(len)) = message_len(&run, LANE_MESSAGE_MAX) {
            let message = run.split_to(len);
            self.replicate_run(now, from, copies, message, 1, origin);
        }
    }

    /// Do the next message's copies go where those of the open run go?
    pub(super) fn go_together(&self, open: Option<Copies>, next: Copies) -> bool {
        let Some(open) = open else {
            return false;
        };
        if open == next {
            return true;
        }
        let alike = Copies {
            group: next.group,
            ..open
        };
        alike == next
            && self.local.group(open.group) == self.local.group(next.group)
            && !(next.routers && self.has_members_elsewhere(open.group))
            && !(next.routers && self.has_members_elsewhere(next.group))
    }

    fn has_members_elsewhere(&self, group: Label) -> bool {
        self.fib.group_view(group).is_some_and(|view| {
            let mut members = view.members.as_slice().iter();
            members.any(|member| member.router != self.fib.router())
        })
    }

    /// One message, or a run of them for members that are all attached here.
    fn replicate_run(
        &mut self,
        now: Now,
        from: PeerIdx,
        copies: Copies,
        mut run: BytesMut,
        messages: u32,
        origin: Origin,
    ) {
        let Some(head) = run.first_chunk::<HEADER_LEN>() else {
            return;
        };
        let header = Header::new_unchecked(head);
        let hops = header.hop_limit();
        let mut fanout = core::mem::take(&mut self.fanout);
        self.find_members(&header, copies.routers, &mut fanout, &mut ());
        if fanout.copies() == 0 {
            self.refuse_run(now, from, copies, &run);
            self.fanout = fanout;
            return;
        }
        let count = u64::from(messages);
        self.counters.replicated += (fanout.copies() - 1) * count;
        self.counters.dropped[DropReason::Unreachable as usize] += fanout.unreachable * count;
        self.counters.dropped[DropReason::HopLimit as usize] += fanout.hopless * count;
        self.edit_run(copies, &mut run);
        let shared = run.freeze();
        for to in &fanout.here {
            self.send_copy(
                now,
                *to,
                copies.class,
                None,
                shared.clone(),
                messages,
                origin,
            );
        }
        for (router, hop) in &fanout.routers {
            let mut head = [0; HEADER_LEN];
            head.copy_from_slice(&shared[..HEADER_LEN]);
            write_copy(&mut head, *router, hops);
            let body = shared.slice(HEADER_LEN..);
            self.send_copy(now, *hop, copies.class, Some(&head), body, 1, origin);
        }
        self.fanout = fanout;
    }

    /// Writes what all copies share into every header of a run.
    fn edit_run(&mut self, copies: Copies, run: &mut [u8]) {
        let mut rest = run;
        while let Ok(Some(len)) = message_len(rest, LANE_MESSAGE_MAX)
            && let Some((message, behind)) = rest.split_at_mut_checked(len)
        {
            let mut header = Header::new_unchecked(message);
            self.counters.priority_capped += u64::from(copies.class != header.class());
            write_shared(&mut header, copies.class);
            rest = behind;
        }
    }

    /// Nobody is there for them.
    #[cold]
    fn refuse_run(&mut self, now: Now, from: PeerIdx, copies: Copies, run: &[u8]) {
        let reason = DropReason::Unreachable;
        for message in Messages::new(run, LANE_MESSAGE_MAX).flatten() {
            match message.first_chunk::<HEADER_LEN>() {
                Some(head) if copies.routers => self.refuse(now, from, reason, head),
                _ => self.counters.dropped[reason as usize] += 1,
            }
        }
    }

    pub(super) fn find_members<T: AsRef<[u8]>>(
        &self,
        header: &Header<T>,
        routers: bool,
        fanout: &mut Fanout,
        seen: &mut impl Observe,
    ) {
        let (group, source) = (header.requested_label(), header.source_label());
        fanout.here.clear();
        fanout.routers.clear();
        (fanout.unreachable, fanout.hopless) = (0, 0);
        // The sender does not get its own message back.
        let sender = self.local.instance(source);
        let here = self.local.group(group).iter().copied();
        fanout
            .here
            .extend(here.filter(|peer| Some(*peer) != sender));
        seen.of(0, group);
        let chosen = |peer: &PeerIdx| (Candidate::here(self, *peer), Verdict::Chosen);
        seen.members(fanout.here.iter().map(chosen));
        if !routers {
            return;
        }
        let Some(view) = self.fib.group_view(group) else {
            return;
        };
        let flow = mix_pair(header.flow(), u64::from(source.bits()));
        let members = view.members.as_slice().iter();
        for member in members.filter(|member| member.router != self.fib.router()) {
            let verdict = match self.routes.next_hop(member.router, || flow, None) {
                None => {
                    fanout.unreachable += 1;
                    Verdict::Dead
                }
                Some(_) if hops_left(header.hop_limit()).is_none() => {
                    fanout.hopless += 1;
                    Verdict::HopLimit
                }
                Some(hop) => {
                    fanout.routers.push((member.router, hop));
                    Verdict::Chosen
                }
            };
            seen.members(core::iter::once_with(|| (Candidate::at(member), verdict)));
        }
    }

    /// Queues one copy: the shared messages as they are, or a new header and the shared rest of one.
    #[allow(clippy::too_many_arguments, reason = "a copy is that many things")]
    fn send_copy(
        &mut self,
        now: Now,
        to: PeerIdx,
        class: TrafficClass,
        head: Option<&[u8; HEADER_LEN]>,
        body: Bytes,
        messages: u32,
        origin: Origin,
    ) {
        let head: &[u8] = head.map_or(&[], |head| head);
        let len = head.len() + body.len();
        let peer = self.peers.get(to);
        let datagram = origin.carrier == Carrier::Datagram;
        // Between the pieces of a copy nothing may come in, which rings do not promise.
        let elsewhere = peer.key.worker != self.config.worker;
        let reason = if datagram && len > peer.datagram_max {
            Some(DropReason::TooLarge)
        } else if !self.has_room(now, to, class, origin.slab) {
            Some(DropReason::Overloaded)
        } else {
            None
        };
        if let Some(reason) = reason {
            self.counters.dropped[reason as usize] += u64::from(messages);
            return;
        }
        let Origin {
            slab,
            charge,
            lane,
            carrier,
            ..
        } = origin;
        let (data, messages) = if head.is_empty() {
            (body, messages)
        } else if datagram || body.is_empty() || elsewhere {
            let mut whole = BytesMut::with_capacity(len);
            whole.extend_from_slice(head);
            whole.extend_from_slice(&body);
            self.counters.copied_bytes += len as u64;
            (whole.freeze(), 1)
        } else {
            self.counters.copied_bytes += HEADER_LEN as u64;
            let data = Bytes::copy_from_slice(head);
            let run = Run {
                data,
                messages: 1,
                lane,
                carrier,
                slab: 0,
                held: 0,
            };
            self.append(now, to, class, run, 0);
            (body, 0)
        };
        let run = Run {
            data,
            messages,
            lane,
            carrier,
            slab,
            held: 0,
        };
        self.append(now, to, class, run, charge);
    }
}
