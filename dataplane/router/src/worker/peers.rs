//! The connections of one worker by slot, and what each has become.

use std::time::Duration;

use caplane_core::forward::PeerKey;
use caplane_transport::{LaneRx, PeerId};
use caplane_wire::Label;

use super::egress::Egress;

/// What a connection has become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Handshake done, no `Hello` yet.
    AwaitingHello { deadline: Duration },
    /// We dialled, said `Hello` and wait for `Welcome`.
    AwaitingWelcome { deadline: Duration, router: Label },
    /// An attached instance.
    Instance { label: Label },
    /// A neighbour whose link is up.
    Neighbour { router: Label },
    /// Bye was said; the connection closes.
    Leaving,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) uri: String,
    pub(super) phase: Phase,
    pub(super) egress: Egress,
    /// Ingress lanes paused because the queue they want is full.
    pub(super) paused: Vec<LaneRx>,
    /// Resolves waiting for the controller.
    pub(super) resolves: u32,
}

impl Peer {
    pub(super) fn attached(&self) -> bool {
        matches!(self.phase, Phase::Instance { .. } | Phase::Neighbour { .. })
    }
}

/// Connections by slot. Slots are dense and bounded by `peers_max`.
#[derive(Debug)]
pub(super) struct Peers {
    worker: u8,
    slots: Vec<Option<Peer>>,
}

impl Peers {
    pub(super) fn new(worker: u8) -> Self {
        Self {
            worker,
            slots: Vec::new(),
        }
    }

    /// The Forwarder's name of a connection.
    pub(super) fn key(&self, id: PeerId) -> PeerKey {
        PeerKey {
            worker: self.worker,
            slot: id.slot(),
        }
    }

    pub(super) fn insert(&mut self, id: PeerId, uri: String, phase: Phase) {
        let slot = id.slot() as usize;
        if slot >= self.slots.len() {
            self.slots.resize_with(slot + 1, || None);
        }
        self.slots[slot] = Some(Peer {
            id,
            uri,
            phase,
            egress: Egress::default(),
            paused: Vec::new(),
            resolves: 0,
        });
    }

    /// The connection `id`; `None` when it is gone or its slot is another's now.
    pub(super) fn get_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.slots
            .get_mut(id.slot() as usize)?
            .as_mut()
            .filter(|peer| peer.id == id)
    }

    pub(super) fn get(&self, id: PeerId) -> Option<&Peer> {
        self.slots
            .get(id.slot() as usize)?
            .as_ref()
            .filter(|peer| peer.id == id)
    }

    /// The connection in the slot of `key`; `None` when it is another worker's.
    pub(super) fn by_key(&mut self, key: PeerKey) -> Option<&mut Peer> {
        if key.worker != self.worker {
            return None;
        }
        self.slots.get_mut(key.slot as usize)?.as_mut()
    }

    pub(super) fn remove(&mut self, id: PeerId) -> Option<Peer> {
        self.slots
            .get_mut(id.slot() as usize)?
            .take_if(|peer| peer.id == id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.slots.iter().flatten()
    }
}
