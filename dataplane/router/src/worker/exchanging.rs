//! What a worker gives to the others and takes from them: slices for their peers,
//! bulk messages piece by piece, and word of who is attached where.
//!
//! Every Forwarder knows the peers of all workers. Refuses to know how rings work.

use std::collections::{HashMap, VecDeque};

use caplane_core::DropReason;
use caplane_core::forward::{BulkEnd, PeerError, PeerKey, PeerRole};
use caplane_transport::PeerId;
use caplane_wire::{Label, StreamCode, TrafficClass};

use super::Worker;
use super::bulk::far::{FarBulks, Stream};
use super::bulk::{End, Ended, Head, Ingress, PER_RECEIVER_MAX, Source};
use super::peers::Phase;
use super::sending::DEQUEUE_BYTES;
use crate::exchange::{BulkStep, Handed, Port, Post};

/// A worker's dealings with the others.
pub(super) struct Exchanging {
    pub(super) port: Port,
    /// Peers of others whose ring had no room.
    stalled: Vec<PeerKey>,
    /// Steps of bulk messages whose ring had no room, by worker. Bounded by the windows of the messages.
    steps: Vec<VecDeque<BulkStep>>,
    far: FarBulks,
    /// Instances of all workers: who holds the label, and since which attachment.
    holders: HashMap<Label, (PeerKey, u64)>,
    /// Labels of the others' instances.
    elsewhere: HashMap<PeerKey, Label>,
}

impl Exchanging {
    pub(super) fn new(port: Port) -> Self {
        let workers = usize::from(port.others().max().unwrap_or(0)) + 1;
        Self {
            port,
            stalled: Vec::new(),
            steps: (0..workers).map(|_| VecDeque::new()).collect(),
            far: FarBulks::default(),
            holders: HashMap::new(),
            elsewhere: HashMap::new(),
        }
    }

    /// Bulk messages from here that leave by another worker.
    pub(super) fn bulks(&self) -> usize {
        self.far.len()
    }

    /// True when nothing waits to be given to the others.
    pub(super) fn all_given(&self) -> bool {
        self.steps.iter().all(VecDeque::is_empty)
    }
}

/// Peers.
impl Worker {
    /// A peer of this worker takes part in forwarding: the others may send to it.
    pub(super) fn announce(&mut self, id: PeerId, role: PeerRole, serial: u64) {
        let peer = self.peers.key(id);
        if let PeerRole::Instance { label, .. } = role {
            self.exchanging.holders.insert(label, (peer, serial));
        }
        if self.exchanging.port.is_alone() {
            return;
        }
        let datagram_max = self.endpoint.datagram_max(id);
        self.exchanging.port.post_all(&Post::Up {
            peer,
            role,
            serial,
            datagram_max,
        });
    }

    /// A peer of this worker is gone.
    pub(super) fn denounce(&mut self, peer: PeerKey, label: Option<Label>) {
        if let Some(label) = label {
            self.forget_holder(label, peer);
        }
        self.exchanging.port.post_all(&Post::Down(peer));
    }

    /// The instance that is about to attach here is attached by another connection.
    pub(super) fn supersede(&mut self, old: PeerKey, label: Label) {
        if old.worker == self.index {
            return self.replaced(old, label);
        }
        self.far_peer_down(old);
        let post = Post::Replaced(old, label);
        self.exchanging.port.post(old.worker, post);
    }

    pub(super) fn take_posts(&mut self) {
        if self.exchanging.port.is_alone() {
            return;
        }
        while let Some(post) = self.exchanging.port.next_post() {
            match post {
                Post::Up {
                    peer,
                    role,
                    serial,
                    datagram_max,
                } => self.far_peer_up(peer, role, serial, datagram_max),
                Post::Down(peer) => self.far_peer_down(peer),
                Post::Alive(peer, alive) => self.forwarder.peer_alive(peer, alive),
                Post::Draining(peer) => self.forwarder.peer_draining(peer),
                Post::DatagramMax(peer, bytes) => self.forwarder.peer_datagram_max(peer, bytes),
                Post::Eased(peer) => self.forwarder.mark_dirty(peer),
                Post::Replaced(peer, label) => self.replaced(peer, label),
            }
        }
    }

    fn far_peer_up(&mut self, peer: PeerKey, role: PeerRole, serial: u64, datagram_max: usize) {
        let label = match &role {
            PeerRole::Instance { label, .. } => Some(*label),
            PeerRole::Neighbour { .. } => None,
        };
        if let Some(label) = label
            && let Some(&(held_by, held_since)) = self.exchanging.holders.get(&label)
        {
            // Posts of two workers may overtake each other: the later attachment counts.
            if held_since > serial {
                return;
            }
            match held_by.worker == self.index {
                true => self.replaced(held_by, label),
                false => self.far_peer_down(held_by),
            }
        }
        let mut up = self.forwarder.peer_up(peer, role.clone());
        if let Err(PeerError::UnknownIdentity | PeerError::UnknownNeighbour) = up {
            // Its worker has taken a newer table than this one.
            self.take_table();
            up = self.forwarder.peer_up(peer, role);
        }
        match up {
            Ok(()) => {
                self.forwarder.peer_datagram_max(peer, datagram_max);
                if let Some(label) = label {
                    self.exchanging.holders.insert(label, (peer, serial));
                    self.exchanging.elsewhere.insert(peer, label);
                }
            }
            // Withdrawn meanwhile: its own worker closes it.
            Err(error) => {
                tracing::debug!(event = "far_peer_refused", worker = peer.worker, %error);
            }
        }
    }

    fn far_peer_down(&mut self, peer: PeerKey) {
        self.forwarder.peer_down(self.now, peer);
        if let Some(label) = self.exchanging.elsewhere.remove(&peer) {
            self.forget_holder(label, peer);
        }
        for id in self.exchanging.far.towards(peer) {
            self.far_bulk_gone(id, StreamCode::Gone.number(), false);
        }
    }

    fn forget_holder(&mut self, label: Label, peer: PeerKey) {
        let holders = &mut self.exchanging.holders;
        if holders
            .get(&label)
            .is_some_and(|(holder, _)| *holder == peer)
        {
            holders.remove(&label);
        }
    }
}

/// Slices.
impl Worker {
    /// Gives what is queued for a peer of another worker to that worker.
    pub(super) fn hand_to(&mut self, peer: PeerKey) {
        let Exchanging { port, stalled, .. } = &mut self.exchanging;
        let worker = peer.worker;
        while port.room(worker) {
            let ready = |class: TrafficClass| !port.is_pressed(peer, class);
            let Some(slice) = self.forwarder.hand_over(peer, DEQUEUE_BYTES, ready) else {
                return;
            };
            // Only this worker gives to that ring, so the room is still there.
            if let Err(Handed::Slice(slice)) = port.give(worker, Handed::Slice(slice)) {
                debug_assert!(false, "a ring with room refused a slice");
                self.forwarder.take_over(self.now, slice);
            }
        }
        if !stalled.contains(&peer) {
            stalled.push(peer);
        }
    }

    /// Takes what the others gave.
    pub(super) fn take_handed(&mut self) {
        if self.exchanging.port.is_alone() {
            return;
        }
        let mut steps = Vec::new();
        let (forwarder, now) = (&mut self.forwarder, self.now);
        self.exchanging.port.take(|worker, handed| match handed {
            Handed::Slice(slice) => forwarder.take_over(now, slice),
            Handed::Bulk(step) => steps.push((worker, step)),
        });
        for (worker, step) in steps {
            self.on_step(worker, step);
        }
    }

    /// Peers whose ring had no room are tried again.
    pub(super) fn retry_stalled(&mut self) {
        let mut stalled = std::mem::take(&mut self.exchanging.stalled);
        stalled.retain(|peer| {
            let room = self.exchanging.port.room(peer.worker);
            if room {
                self.forwarder.mark_dirty(*peer);
            }
            !room
        });
        self.exchanging.stalled = stalled;
    }

    /// At the end of a tick: everything still to be told is told, and sleepers are woken.
    pub(super) fn settle_exchange(&mut self) {
        if self.exchanging.port.is_alone() {
            return;
        }
        while let Some(pressure) = self.forwarder.pressure() {
            let port = &mut self.exchanging.port;
            port.set_pressure(pressure.peer, pressure.classes);
        }
        while let Some((worker, id, bytes)) = self.bulks.take_taken() {
            self.exchanging.steps[usize::from(worker)].push_back(BulkStep::Taken { id, bytes });
        }
        for worker in self.exchanging.port.others() {
            self.give_steps(worker);
        }
        self.exchanging.port.is_behind();
        self.exchanging.port.ring_bells();
    }
}

/// Bulk messages.
impl Worker {
    fn tell(&mut self, worker: u8, step: BulkStep) {
        self.exchanging.steps[usize::from(worker)].push_back(step);
        self.give_steps(worker);
    }

    fn give_steps(&mut self, worker: u8) {
        let Exchanging { port, steps, .. } = &mut self.exchanging;
        let steps = &mut steps[usize::from(worker)];
        while !steps.is_empty() && port.room(worker) {
            let Some(step) = steps.pop_front() else {
                return;
            };
            if let Err(Handed::Bulk(step)) = port.give(worker, Handed::Bulk(step)) {
                return steps.push_front(step);
            }
        }
    }

    /// Lets a bulk message go on to a peer of another worker.
    pub(super) fn open_far_bulk(
        &mut self,
        ingress: Ingress,
        to: PeerKey,
        class: TrafficClass,
        head: Head,
    ) -> Result<(), DropReason> {
        // The Forwarder chose it, so it knows it; a neighbour's name is looked at by its own worker.
        let name = self.forwarder.peer_label(to).ok_or(DropReason::PeerGone)?;
        let id = self.exchanging.far.open(ingress, to, head);
        self.tell(
            to.worker,
            BulkStep::Open {
                id,
                to,
                name,
                class,
            },
        );
        Ok(())
    }

    /// The name of a message that leaves by another worker.
    pub(super) fn far_bulk(&self, ingress: Ingress) -> Option<u32> {
        self.exchanging.far.name(ingress)
    }

    /// The next bytes of such a message.
    pub(super) fn far_piece(&mut self, id: u32, ingress: Ingress, data: bytes::Bytes, fin: bool) {
        let Some(worker) = self.exchanging.far.worker(id) else {
            return;
        };
        if self.exchanging.far.given(id, data.len()) == Stream::Pause {
            self.endpoint.pause_bulk(ingress.peer, ingress.stream);
        }
        self.tell(worker, BulkStep::Piece { id, data, fin });
    }

    /// Its sender cut it short, or is gone.
    pub(super) fn far_cut(&mut self, id: u32) {
        if let Some(far) = self.exchanging.far.remove(id) {
            self.tell(far.to.worker, BulkStep::Cut { id });
            self.forwarder.bulk_end(far.to, BulkEnd::Cut, 0);
        }
    }

    /// Everything that comes in from `peer` ends.
    pub(super) fn far_cut_all(&mut self, peer: PeerId) {
        for id in self.exchanging.far.from(peer) {
            self.far_cut(id);
        }
    }

    fn on_step(&mut self, worker: u8, step: BulkStep) {
        match step {
            BulkStep::Open {
                id,
                to,
                name,
                class,
            } => self.on_far_open(worker, id, (to, name), class),
            BulkStep::Piece { id, data, fin } => {
                let source = Source::Far { worker, id };
                if let Some(ended) = self.bulks.piece(&mut self.endpoint, source, data, fin) {
                    self.bulk_ended(ended);
                }
            }
            BulkStep::Cut { id } => {
                // Counted where it came in.
                let source = Source::Far { worker, id };
                let _ = self.bulks.cut_by_sender(&mut self.endpoint, source);
            }
            BulkStep::Taken { id, bytes } => {
                if let Some((ingress, Stream::Resume)) = self.exchanging.far.taken(id, bytes) {
                    self.endpoint.resume_bulk(ingress.peer, ingress.stream);
                    self.hurry = true;
                }
            }
            BulkStep::Done { id } => {
                if let Some(far) = self.exchanging.far.remove(id) {
                    let end = BulkEnd::Complete;
                    self.forwarder.bulk_end(far.to, end, far.bytes);
                }
            }
            BulkStep::Gone {
                id,
                code,
                overloaded,
            } => self.far_bulk_gone(id, code, overloaded),
        }
    }

    fn on_far_open(&mut self, worker: u8, id: u32, to: (PeerKey, Label), class: TrafficClass) {
        let same = self.forwarder.peer_label(to.0) == Some(to.1);
        let peer = self.peers.by_key(to.0).filter(|_| same);
        let Some((receiver, phase)) = peer.map(|peer| (peer.id, peer.phase)) else {
            let code = StreamCode::Gone.number();
            let overloaded = false;
            return self.tell(
                worker,
                BulkStep::Gone {
                    id,
                    code,
                    overloaded,
                },
            );
        };
        let instance = matches!(phase, Phase::Instance { .. });
        if instance && self.bulks.towards(receiver) >= PER_RECEIVER_MAX {
            let code = StreamCode::Overloaded.number();
            let overloaded = true;
            return self.tell(
                worker,
                BulkStep::Gone {
                    id,
                    code,
                    overloaded,
                },
            );
        }
        // The header stays with the ingress worker, which sends the notice if one is due.
        let head = [0; caplane_wire::HEADER_LEN];
        let source = Source::Far { worker, id };
        self.bulks.open(source, receiver, class, head);
    }

    /// A message from another worker came to its end here.
    pub(super) fn far_ended(&mut self, worker: u8, id: u32, ended: Ended) {
        let step = match ended.end {
            End::Complete { .. } => BulkStep::Done { id },
            End::CutBySender => return,
            End::WayOnGone { code, .. } => BulkStep::Gone {
                id,
                code,
                overloaded: false,
            },
        };
        self.tell(worker, step);
    }

    fn far_bulk_gone(&mut self, id: u32, code: u64, overloaded: bool) {
        let Some(far) = self.exchanging.far.remove(id) else {
            return;
        };
        let Ingress { peer, stream } = far.ingress;
        self.endpoint.reset_rx(peer, stream.stream_id(), code);
        let from = self.peers.key(peer);
        let reason = match overloaded {
            true => DropReason::Overloaded,
            false => DropReason::CutShort,
        };
        self.forwarder
            .bulk_refused(self.now, from, reason, &far.head);
    }
}
