//! Messages between the workers of one router: a forwarder knows the peers of all workers, and hands what
//! it queued for another's to that worker, which queues it anew.
//!
//! A dropping class takes its chance with the owner's queue. A blocking class is never dropped for
//! room: the owner says when its queue is above the mark ([`Pressure`]), the others then keep what they have,
//! and their own queues stop the lanes. What is on its way at that moment is taken all the same: the
//! caller bounds it. Refuses to know rings and threads.

use caplane_wire::{Label, TrafficClass};

use super::egress::{Run, Slab};
use super::peers::{PeerIdx, Role};
use super::{Carrier, Forwarder, PeerKey};
use crate::{DropReason, Now};

/// A slice on its way to the worker that owns its peer.
#[derive(Debug)]
pub struct Handover {
    to: PeerKey,
    /// Who the peer was when the slice was queued: its slot may be another's by the time it arrives.
    name: Label,
    class: TrafficClass,
    data: bytes::Bytes,
    messages: u32,
    lane: u32,
    carrier: Carrier,
    slab: Slab,
    charge: usize,
}

impl Handover {
    /// Bytes of the slice.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }
}

/// Whether other workers may hand over messages of a class for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressure {
    /// A peer of this worker.
    pub peer: PeerKey,
    /// Bit per [`TrafficClass::index`]: set = keep them, the queue is above its mark.
    pub classes: u16,
}

impl Forwarder {
    /// The next slice for a peer of another worker, as [`Forwarder::dequeue`] is for a peer of this one.
    pub fn hand_over(
        &mut self,
        peer: PeerKey,
        max_bytes: usize,
        mut ready: impl FnMut(TrafficClass) -> bool,
    ) -> Option<Handover> {
        debug_assert_ne!(peer.worker, self.config.worker);
        let at = self.peers.find(peer)?;
        let (class, run) = self.next_run(at, max_bytes, |class, _| ready(class))?;
        self.counters.handed_over += u64::from(run.messages);
        Some(Handover {
            to: peer,
            name: self.name_of(at),
            class,
            data: run.data,
            messages: run.messages,
            lane: run.lane,
            carrier: run.carrier,
            slab: run.slab,
            charge: self.config.slab_bytes,
        })
    }

    /// Queues a slice that another worker decided and handed over.
    pub fn take_over(&mut self, now: Now, handed: Handover) {
        let Handover { data, messages, .. } = handed;
        self.counters.taken_over += u64::from(messages);
        let at = self.peers.find(handed.to);
        let Some(at) = at.filter(|at| self.name_of(*at) == handed.name) else {
            return self.lose(now, None, DropReason::PeerGone, &data, messages);
        };
        let (class, slab) = (handed.class, handed.slab);
        if !class.blocking() && !self.has_room(now, at, class, slab) {
            self.settle(now, at, class);
            if !self.has_room(now, at, class, slab) {
                return self.lose(now, Some(at), DropReason::Overloaded, &data, messages);
            }
        }
        let run = Run {
            data,
            messages,
            lane: handed.lane,
            carrier: handed.carrier,
            slab,
            held: 0,
        };
        self.append(now, at, class, run, handed.charge);
        let bit = 1 << class.index();
        if class.blocking()
            && self.peers.get(at).egress.pressed & bit == 0
            && self.is_backed_up(now, at, class)
        {
            self.peers.get_mut(at).egress.pressed |= bit;
            self.tell_pressure(at);
        }
    }

    /// The name of a peer: an instance's label, or a neighbour's router label.
    pub fn peer_label(&self, peer: PeerKey) -> Option<Label> {
        self.peers.find(peer).map(|at| self.name_of(at))
    }

    /// What changed of the queues here that others fill; call until `None` once a tick.
    pub fn pressure(&mut self) -> Option<Pressure> {
        self.pressure.pop_front()
    }

    /// A slice left a queue that others were told to leave alone: may they go on?
    #[cold]
    pub(super) fn ease(&mut self, at: PeerIdx, class: TrafficClass) {
        let wake_below = self.wake_below();
        let egress = &mut self.peers.get_mut(at).egress;
        let bit = 1 << class.index();
        let charge = egress.queue(class).map_or(0, |queue| queue.charge());
        if egress.pressed & bit != 0 && charge < wake_below.max(1) {
            egress.pressed &= !bit;
            self.tell_pressure(at);
        }
    }

    fn tell_pressure(&mut self, at: PeerIdx) {
        let peer = self.peers.get(at);
        self.pressure.push_back(Pressure {
            peer: peer.key,
            classes: peer.egress.pressed,
        });
    }

    fn name_of(&self, at: PeerIdx) -> Label {
        match &self.peers.get(at).role {
            Role::Instance(instance) => instance.label,
            Role::Neighbour { router, .. } => *router,
        }
    }
}
