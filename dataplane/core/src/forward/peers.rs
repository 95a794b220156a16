//! The peers of a router and what each is: a slab with dense indexes, so that nothing is hashed on
//! the way of a message. Refuses to know routes and queues' rules.

use std::sync::Arc;

use caplane_wire::Label;

use super::PeerKey;
use super::egress::Egress;
use super::notice::NoticeBucket;
use super::police::Policer;
use crate::fib::{IdentityEntry, Policy, SHARDS as IDENTITY_SHARDS};

/// Index of a peer in [`Peers`]. Local and route tables drop theirs when the peer goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PeerIdx(pub u32);

impl PeerIdx {
    /// No peer.
    pub const NOBODY: PeerIdx = PeerIdx(u32::MAX);
    /// No peer: all members of a group.
    pub const MEMBERS: PeerIdx = PeerIdx(u32::MAX - 1);
}

/// An attached instance.
pub(super) struct Instance {
    pub uri: Box<str>,
    pub label: Label,
    /// `None` once the identity has left the table: it reaches nothing and serves nothing.
    pub identity: Option<Arc<IdentityEntry>>,
    /// `None` as above, or when the table lacks the group: default deny.
    pub policy: Option<Arc<Policy>>,
    pub draining: bool,
}

/// What a peer is.
pub(super) enum Role {
    Instance(Box<Instance>),
    Neighbour { router: Label, alive: bool },
}

/// One peer.
pub(super) struct Peer {
    pub key: PeerKey,
    pub role: Role,
    pub egress: Egress,
    pub notices: NoticeBucket,
    pub datagram_max: usize,
    /// `None` = no limit.
    pub policer: Option<Box<Policer>>,
}

impl Peer {
    pub fn instance(&self) -> Option<&Instance> {
        match &self.role {
            Role::Instance(instance) => Some(instance),
            Role::Neighbour { .. } => None,
        }
    }
}

/// Attached instances by the shard of the table that holds their identity.
#[derive(Default)]
pub(super) struct Instances {
    /// Made with the first instance.
    shards: Vec<Vec<PeerIdx>>,
}

impl Instances {
    pub fn of(&self, shard: usize) -> &[PeerIdx] {
        self.shards.get(shard).map_or(&[], Vec::as_slice)
    }

    pub fn add(&mut self, shard: usize, at: PeerIdx) {
        if self.shards.is_empty() {
            self.shards.resize_with(IDENTITY_SHARDS, Vec::new);
        }
        self.shards[shard].push(at);
    }

    pub fn remove(&mut self, shard: usize, at: PeerIdx) {
        if let Some(instances) = self.shards.get_mut(shard) {
            instances.retain(|held| *held != at);
        }
    }
}

/// All peers, of all workers.
#[derive(Default)]
pub(super) struct Peers {
    slab: Vec<Option<Box<Peer>>>,
    free: Vec<u32>,
    /// Worker, slot -> 1 + index; 0 = none.
    index: Vec<Vec<u32>>,
}

impl Peers {
    #[inline]
    pub fn find(&self, key: PeerKey) -> Option<PeerIdx> {
        let slots = self.index.get(usize::from(key.worker))?;
        slots.get(key.slot as usize)?.checked_sub(1).map(PeerIdx)
    }

    #[inline]
    pub fn get(&self, at: PeerIdx) -> &Peer {
        self.slab[at.0 as usize]
            .as_deref()
            .expect("an index is dropped with its peer")
    }

    #[inline]
    pub fn get_mut(&mut self, at: PeerIdx) -> &mut Peer {
        self.slab[at.0 as usize]
            .as_deref_mut()
            .expect("an index is dropped with its peer")
    }

    pub fn insert(&mut self, peer: Peer) -> PeerIdx {
        let key = peer.key;
        let at = self.free.pop().unwrap_or_else(|| {
            self.slab.push(None);
            self.slab.len() as u32 - 1
        });
        self.slab[at as usize] = Some(Box::new(peer));
        let worker = usize::from(key.worker);
        if self.index.len() <= worker {
            self.index.resize_with(worker + 1, Vec::new);
        }
        let slots = &mut self.index[worker];
        if slots.len() <= key.slot as usize {
            slots.resize(key.slot as usize + 1, 0);
        }
        slots[key.slot as usize] = at + 1;
        PeerIdx(at)
    }

    pub fn remove(&mut self, at: PeerIdx) -> Option<Box<Peer>> {
        let peer = self.slab[at.0 as usize].take()?;
        self.index[usize::from(peer.key.worker)][peer.key.slot as usize] = 0;
        self.free.push(at.0);
        Some(peer)
    }

    pub fn iter(&self) -> impl Iterator<Item = (PeerIdx, &Peer)> {
        let slab = self.slab.iter().enumerate();
        slab.filter_map(|(at, peer)| Some((PeerIdx(at as u32), peer.as_deref()?)))
    }
}
