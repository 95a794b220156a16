//! Group messages: one copy per egress router with members, and local copies from one shared buffer.
//! Only headers of copies to other routers are written anew (and counted as copied); no notice is ever
//! sent about a copy. Refuses to know who may send to a group.

use bytes::{Bytes, BytesMut};
use caplane_wire::{HEADER_LEN, Header, Label, TrafficClass};

use super::decide::hops_left;
use super::egress::Run;
use super::lanes::Origin;
use super::peers::PeerIdx;
use super::{Carrier, Forwarder};
use crate::mix::mix_pair;
use crate::{DropReason, Now};

/// Copies of one message and where they go; kept between messages for its allocations.
#[derive(Default)]
pub(super) struct Fanout {
    here: Vec<PeerIdx>,
    routers: Vec<(Label, PeerIdx)>,
    /// Copies whose router cannot be reached, or whose hop limit is used up.
    unreachable: u64,
    hopless: u64,
}

impl Fanout {
    fn copies(&self) -> u64 {
        (self.here.len() + self.routers.len()) as u64 + self.unreachable + self.hopless
    }
}

impl Forwarder {
    /// Sends one whole message, not yet edited, to the members of its group: those attached here and,
    /// if `routers`, one copy to each other egress router.
    pub(super) fn replicate(
        &mut self,
        now: Now,
        from: PeerIdx,
        class: TrafficClass,
        routers: bool,
        mut message: BytesMut,
        origin: Origin,
    ) {
        let Some(head) = message.first_chunk_mut::<HEADER_LEN>() else {
            return;
        };
        let mut header = Header::new_unchecked(&mut *head);
        let (group, hops) = (header.requested_label(), header.hop_limit());
        let mut fanout = core::mem::take(&mut self.fanout);
        self.find_members(&header, routers, &mut fanout);
        if fanout.copies() == 0 {
            let reason = DropReason::Unreachable;
            match routers {
                true => {
                    let head = *header.as_bytes();
                    self.refuse(now, from, reason, &head);
                }
                false => self.counters.dropped[reason as usize] += 1,
            }
            self.fanout = fanout;
            return;
        }
        self.counters.priority_capped += u64::from(class != header.class());
        self.counters.replicated += fanout.copies() - 1;
        self.counters.dropped[DropReason::Unreachable as usize] += fanout.unreachable;
        self.counters.dropped[DropReason::HopLimit as usize] += fanout.hopless;
        header.set_class(class);
        header.set_label(group);
        let shared = message.freeze();
        for to in &fanout.here {
            self.send_copy(now, *to, class, None, shared.clone(), origin);
        }
        for (router, hop) in &fanout.routers {
            let mut head = [0; HEADER_LEN];
            head.copy_from_slice(&shared[..HEADER_LEN]);
            let mut header = Header::new_unchecked(&mut head);
            header.set_label(*router);
            header.set_hop_limit(hops.saturating_sub(1));
            self.send_copy(
                now,
                *hop,
                class,
                Some(&head),
                shared.slice(HEADER_LEN..),
                origin,
            );
        }
        self.fanout = fanout;
    }

    fn find_members<T: AsRef<[u8]>>(&self, header: &Header<T>, routers: bool, fanout: &mut Fanout) {
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
        if !routers {
            return;
        }
        let Some(view) = self.fib.group_view(group) else {
            return;
        };
        let flow = mix_pair(header.flow(), u64::from(source.bits()));
        let members = view.members.as_slice().iter();
        for member in members.filter(|member| member.router != self.fib.router()) {
            match self.routes.next_hop(member.router, flow, None) {
                None => fanout.unreachable += 1,
                Some(_) if hops_left(header.hop_limit()).is_none() => fanout.hopless += 1,
                Some(hop) => fanout.routers.push((member.router, hop)),
            }
        }
    }

    /// Queues one copy: the shared message as it is, or a new header and the shared rest.
    fn send_copy(
        &mut self,
        now: Now,
        to: PeerIdx,
        class: TrafficClass,
        head: Option<&[u8; HEADER_LEN]>,
        body: Bytes,
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
            self.counters.dropped[reason as usize] += 1;
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
            (body, 1)
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
