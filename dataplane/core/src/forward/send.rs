//! Messages going out: which peer has something, and the next slice for it; how full a queue may be.
//! Refuses to know streams: the caller says which of a peer's lanes are ready.

use bytes::Bytes;
use caplane_wire::TrafficClass;

use super::egress::{Queue, Run, Settling, Slab, Walk};
use super::peers::{PeerIdx, Role};
use super::{Carrier, Forwarder, Outgoing, PeerKey, Unblocked};
use crate::{DropReason, Now};

impl Forwarder {
    /// The next peer with something to send that is not waiting for [`Forwarder::mark_dirty`]. Call
    /// until `None` once a tick. Peers of other workers are named too: what is queued for them is for
    /// [`Forwarder::hand_over`].
    pub fn dirty(&mut self) -> Option<PeerKey> {
        loop {
            let key = self.dirty.pop_front()?;
            let Some(at) = self.peers.find(key) else {
                continue;
            };
            let peer = self.peers.get_mut(at);
            peer.egress.listed = false;
            if !peer.egress.is_empty() {
                return Some(key);
            }
        }
    }

    /// Puts a peer whose lanes were not ready back among the dirty ones (when it is writable again).
    pub fn mark_dirty(&mut self, peer: PeerKey) {
        if let Some(at) = self.peers.find(peer)
            && !self.peers.get(at).egress.is_empty()
        {
            self.list(at);
        }
    }

    fn list(&mut self, at: PeerIdx) {
        let peer = self.peers.get_mut(at);
        if !peer.egress.listed {
            peer.egress.listed = true;
            self.dirty.push_back(peer.key);
        }
    }

    /// The next slice for a peer: class 7 first, the others by deficit round robin. Skips the
    /// classes for whose next lane `ready(class, lane_hint)` is false. A slice longer than `max_bytes` is
    /// cut at a message boundary; one message is always given whole.
    ///
    /// `None`: nothing (ready) is left. [`Forwarder::dirty`] names the peer again when a class
    /// with nothing waiting gets something, or after [`Forwarder::mark_dirty`].
    pub fn dequeue(
        &mut self,
        peer: PeerKey,
        max_bytes: usize,
        ready: impl FnMut(TrafficClass, u32) -> bool,
    ) -> Option<Outgoing> {
        let at = self.peers.find(peer)?;
        let (class, run) = self.next_run(at, max_bytes, ready)?;
        let (messages, bytes) = (u64::from(run.messages), run.data.len() as u64);
        self.counters.forwarded += messages;
        self.counters.forwarded_bytes += bytes;
        let peer = self.peers.get(at);
        if peer.instance().is_some() {
            self.counters.delivered += messages;
        }
        if peer.egress.pressed != 0 {
            self.ease(at, class);
        }
        Some(Outgoing {
            class,
            lane_hint: run.lane,
            carrier: run.carrier,
            data: run.data,
            messages: run.messages,
        })
    }

    /// Takes the next run out of a peer's queues.
    #[inline]
    pub(super) fn next_run(
        &mut self,
        at: PeerIdx,
        max_bytes: usize,
        ready: impl FnMut(TrafficClass, u32) -> bool,
    ) -> Option<(TrafficClass, Run)> {
        let wake_below = self.wake_below();
        let peer = self.peers.get_mut(at);
        let (ledger, woken) = (&mut self.ledger, &mut self.woken);
        let (class, run) = peer
            .egress
            .next(max_bytes, wake_below, ledger, woken, ready)?;
        self.counters.queued -= u64::from(run.messages);
        self.counters.queued_bytes -= run.data.len() as u64;
        self.counters.charged_bytes = self.ledger.total() as u64;
        Some((class, run))
    }

    /// A queue charged for less than this wakes whoever waited for room in it.
    pub(super) fn wake_below(&self) -> usize {
        self.config.queue_bytes_max / 4
    }

    /// The transport could not take what `dequeue` gave: dropped under `reason`, noticed.
    pub fn returned(&mut self, now: Now, to: PeerKey, outgoing: Outgoing, reason: DropReason) {
        self.counters.returned += u64::from(outgoing.messages);
        let at = self.peers.find(to);
        self.lose(now, at, reason, &outgoing.data, outgoing.messages);
    }

    /// Drops a slice on its way out: counted, and noticed at the rate of the peer it was for.
    #[cold]
    pub(super) fn lose(
        &mut self,
        now: Now,
        at: Option<PeerIdx>,
        reason: DropReason,
        data: &[u8],
        messages: u32,
    ) {
        self.counters.dropped[reason as usize] += u64::from(messages);
        // The peer may be gone by now: then its notice rate is that of a fresh one.
        let (mut bucket, many) = match at {
            Some(at) => {
                let peer = self.peers.get_mut(at);
                let many = matches!(peer.role, Role::Neighbour { .. });
                (core::mem::take(&mut peer.notices), many)
            }
            None => Default::default(),
        };
        self.notify_all(now, &mut bucket, many, reason, data, messages);
        if let Some(at) = at {
            self.peers.get_mut(at).notices = bucket;
        }
    }

    /// The next ingress lane that may be read again.
    pub fn unblocked(&mut self) -> Option<Unblocked> {
        loop {
            let lane = self.woken.pop_front()?;
            if self.peers.find(lane.peer).is_some() {
                return Some(lane);
            }
        }
    }

    /// Slab bytes the queues of one peer are charged for, and messages in them.
    pub fn queued(&self, peer: PeerKey) -> (u64, u64) {
        let at = self.peers.find(peer);
        at.map_or((0, 0), |at| self.peers.get(at).egress.totals())
    }
}

impl Forwarder {
    /// What one queue may be charged for before it is full: the configured size, or what the worker's
    /// budget leaves (dynamic threshold, factor 1), but a floor in any case. It may pass the limit by one slab.
    #[inline]
    pub(super) fn queue_limit(&self) -> usize {
        let (budget, total) = (self.config.queue_total_bytes_max, self.ledger.total());
        // A quarter above the budget even the floors are gone: memory is bounded whatever happens.
        if total >= budget + budget / 4 {
            return 0;
        }
        let left = budget
            .saturating_sub(total)
            .max(self.config.queue_bytes_floor);
        left.min(self.config.queue_bytes_max)
    }

    #[inline]
    pub(super) fn has_room(&self, now: Now, to: PeerIdx, class: TrafficClass, slab: Slab) -> bool {
        let limit = self.queue_limit();
        let Some(queue) = self.peers.get(to).egress.queue(class) else {
            return limit > 0;
        };
        if queue.bytes() >= limit {
            return false;
        }
        queue.charge() < limit || queue.pins(slab) || self.drains(now, queue)
    }

    /// A queue that is emptied every tick may pin more slabs for that long: many senders fill one queue from
    /// a slab each.
    fn drains(&self, now: Now, queue: &Queue) -> bool {
        !queue.lingers(now.mono, self.config.linger) && !self.is_pressed()
    }

    fn is_pressed(&self) -> bool {
        self.ledger.total() >= self.config.queue_total_bytes_max / 4 * 3
    }

    /// Should a blocking sender wait? At half the limit, so that nothing of it is ever dropped for room.
    #[inline]
    pub(super) fn is_backed_up(&self, now: Now, to: PeerIdx, class: TrafficClass) -> bool {
        let Some(queue) = self.peers.get(to).egress.queue(class) else {
            return false;
        };
        let mark = (self.queue_limit() / 2).max(1);
        queue.bytes() >= mark || queue.charge() >= mark && !self.drains(now, queue)
    }

    /// Copies slices out of a slab that the queue holds for long and uses little of, if there is one.
    #[cold]
    pub(super) fn settle(&mut self, now: Now, to: PeerIdx, class: TrafficClass) {
        let when = Settling {
            age: self.config.linger,
            pressed: self.is_pressed(),
        };
        let queue = self.peers.get_mut(to).egress.queue_mut(class);
        let copied = queue.settle(now.mono, when, &mut self.ledger);
        self.counters.copied_bytes += copied as u64;
        self.counters.charged_bytes = self.ledger.total() as u64;
    }

    /// Puts a small slice behind others by copying it, where that is worth it; see [`Queue::gather`].
    #[inline]
    pub(super) fn gather(
        &mut self,
        to: PeerIdx,
        class: TrafficClass,
        data: &[u8],
        messages: u32,
        of: Walk,
    ) -> bool {
        let charge_max = match self.is_pressed() {
            true => 0,
            false => self.config.queue_bytes_max,
        };
        let egress = &mut self.peers.get_mut(to).egress;
        let gathered = egress
            .used_queue(class)
            .is_some_and(|queue| queue.gather(data, messages, of, charge_max, &mut self.ledger));
        if gathered {
            self.counters.queued += u64::from(messages);
            self.counters.queued_bytes += data.len() as u64;
            self.counters.copied_bytes += data.len() as u64;
            self.counters.charged_bytes = self.ledger.total() as u64;
        }
        gathered
    }

    /// Appends a slice to a queue; `slab_charge` = size of its slab, if it has one.
    #[inline]
    pub(super) fn append(
        &mut self,
        now: Now,
        to: PeerIdx,
        class: TrafficClass,
        mut run: Run,
        slab_charge: usize,
    ) {
        debug_assert!(run.carrier == Carrier::Lane || run.messages == 1);
        self.counters.runs += 1;
        self.counters.queued += u64::from(run.messages);
        self.counters.queued_bytes += run.data.len() as u64;
        let peer = self.peers.get_mut(to);
        let queue = peer.egress.queue(class);
        if queue.is_some_and(|queue| queue.pins_enough(run.slab, run.data.len(), slab_charge)) {
            run.data = Bytes::copy_from_slice(&run.data);
            run.slab = 0;
            self.counters.copied_bytes += run.data.len() as u64;
        }
        if peer
            .egress
            .append(class, run, slab_charge, now.mono, &mut self.ledger)
        {
            self.list(to);
        }
        self.counters.charged_bytes = self.ledger.total() as u64;
        if self.is_backlogged(now, to, class) || self.is_pressed() {
            self.settle(now, to, class);
        }
    }

    #[inline]
    fn is_backlogged(&self, now: Now, to: PeerIdx, class: TrafficClass) -> bool {
        let queue = self.peers.get(to).egress.queue(class);
        queue.is_some_and(|queue| {
            queue.charge() >= self.config.backlog_bytes
                && queue.lingers(now.mono, self.config.linger)
        })
    }
}
