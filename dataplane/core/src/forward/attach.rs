//! Peers coming and going, and tables coming into force. Keeps the local table and the routes in step
//! with both. Refuses to know why a peer came or went.

use std::sync::Arc;

use caplane_wire::{HEADER_LEN, Label, LabelKind, Messages};

use super::notice::NoticeBucket;
use super::peers::{Instance, Peer, PeerIdx, Role};
use super::police::renewed;
use super::{Forwarder, PeerError, PeerKey, PeerRole, Pressure};
use crate::fib::uri_shard;
use crate::{DropReason, Fib, Now};

impl Forwarder {
    /// Puts a table in force. Returns the peers it no longer knows: instances whose identity is gone or
    /// names another agent, and neighbours without a link. They reach nothing and serve nothing from
    /// now on; close them.
    pub fn set_fib(&mut self, fib: Arc<Fib>) -> Vec<PeerKey> {
        self.recall.forget();
        let old = core::mem::replace(&mut self.fib, fib);
        let fib = self.fib.clone();
        let mut unknown = Vec::new();
        if fib.same_policies(&old) {
            // What an agent's registration costs does not grow with how many are attached.
            for shard in fib.changed_identities(&old) {
                for at in 0..self.instances.of(shard).len() {
                    let at = self.instances.of(shard)[at];
                    self.renew(at, &mut unknown);
                }
            }
        } else {
            let all: Vec<PeerIdx> = self.peers.iter().map(|(at, _)| at).collect();
            for at in all {
                self.renew(at, &mut unknown);
            }
        }
        if !fib.same_topology(&old) {
            for (_, peer) in self.peers.iter() {
                if let Role::Neighbour { router, .. } = peer.role
                    && fib.neighbour(router).is_none()
                {
                    unknown.push(peer.key);
                }
            }
            self.rebuild_routes();
        }
        unknown
    }

    /// A peer was authenticated and may be sent to from now on.
    ///
    /// # Errors
    ///
    /// See [`PeerError`].
    pub fn peer_up(&mut self, key: PeerKey, role: PeerRole) -> Result<(), PeerError> {
        if self.peers.find(key).is_some() {
            return Err(PeerError::KeyInUse);
        }
        match role {
            PeerRole::Instance { uri, label } => self.instance_up(key, uri, label),
            PeerRole::Neighbour { router } => {
                self.fib
                    .neighbour(router)
                    .ok_or(PeerError::UnknownNeighbour)?;
                self.insert(
                    key,
                    Role::Neighbour {
                        router,
                        alive: true,
                    },
                );
                self.rebuild_routes();
                Ok(())
            }
        }
    }

    fn instance_up(&mut self, key: PeerKey, uri: String, label: Label) -> Result<(), PeerError> {
        let identity = self
            .fib
            .identity_arc(&uri)
            .ok_or(PeerError::UnknownIdentity)?
            .clone();
        if !label.is_instance() || label.any_instance() != identity.agent {
            return Err(PeerError::WrongLabel);
        }
        if let Some(holder) = self.local.instance(label) {
            let by = self.peers.get(holder).key;
            return Err(PeerError::LabelInUse { by });
        }
        let policy = self.fib.policy(identity.policy).cloned();
        let instance = Instance {
            uri: uri.into(),
            label,
            identity: Some(identity.clone()),
            policy,
            draining: false,
        };
        let policer = renewed(None, &instance, self.config.instance_rate);
        let shard = uri_shard(&instance.uri);
        let at = self.insert(key, Role::Instance(Box::new(instance)));
        self.instances.add(shard, at);
        self.peers.get_mut(at).policer = policer;
        self.local.attach(at, label);
        self.local.serve(at, label, &identity);
        Ok(())
    }

    fn insert(&mut self, key: PeerKey, role: Role) -> PeerIdx {
        self.recall.forget();
        self.peers.insert(Peer {
            key,
            role,
            egress: Default::default(),
            notices: NoticeBucket::default(),
            datagram_max: usize::MAX,
            policer: None,
        })
    }

    /// A peer is gone: what was queued for it is dropped as `PeerGone` and noticed; flows go
    /// elsewhere at once. Returns the number of messages that were queued. Unknown peers: 0.
    pub fn peer_down(&mut self, now: Now, peer: PeerKey) -> u64 {
        let Some(at) = self.peers.find(peer) else {
            return 0;
        };
        let Some(mut gone) = self.peers.remove(at) else {
            return 0;
        };
        self.recall.forget();
        let neighbour = match &gone.role {
            Role::Instance(instance) => {
                if let Some(identity) = &instance.identity {
                    self.local.unserve(at, identity, true);
                }
                self.local.detach(at, instance.label);
                self.instances.remove(uri_shard(&instance.uri), at);
                false
            }
            Role::Neighbour { .. } => {
                self.rebuild_routes();
                true
            }
        };
        if gone.egress.pressed != 0 {
            // The slot may be another's soon.
            let classes = 0;
            self.pressure.push_back(Pressure { peer, classes });
        }
        let runs = gone.egress.drain(&mut self.ledger, &mut self.woken);
        let mut messages = 0;
        for run in runs {
            messages += u64::from(run.messages);
            self.counters.queued_bytes -= run.data.len() as u64;
            self.notify_all(
                now,
                &mut gone.notices,
                neighbour,
                DropReason::PeerGone,
                &run.data,
                run.messages,
            );
        }
        self.counters.queued -= messages;
        self.counters.charged_bytes = self.ledger.total() as u64;
        self.counters.dropped[DropReason::PeerGone as usize] += messages;
        messages
    }

    /// Notices for every message of a slice; group copies have none.
    pub(super) fn notify_all(
        &mut self,
        now: Now,
        bucket: &mut NoticeBucket,
        many_sources: bool,
        reason: DropReason,
        data: &[u8],
        messages: u32,
    ) {
        // The second piece of a group copy holds no header.
        if messages == 0 {
            return;
        }
        for message in Messages::new(data, caplane_wire::LANE_MESSAGE_MAX) {
            let head = message
                .ok()
                .and_then(|message| message.first_chunk::<HEADER_LEN>());
            match head {
                Some(head) if !is_group(head) => {
                    self.notify(now, bucket, many_sources, reason, head);
                }
                Some(_) => {}
                None => return,
            }
        }
    }

    /// The peer takes no new class traffic (it drains) but still gets what names it by agent or group label.
    pub fn peer_draining(&mut self, peer: PeerKey) {
        let Some(at) = self.peers.find(peer) else {
            return;
        };
        self.recall.forget();
        if let Role::Instance(instance) = &mut self.peers.get_mut(at).role {
            instance.draining = true;
            if let Some(identity) = &instance.identity {
                self.local.unserve(at, identity, false);
            }
        }
    }

    /// A neighbour is reachable or not, while its connection stays: the fast failure detection of
    /// the router's probes. What is queued for it stays queued.
    pub fn peer_alive(&mut self, peer: PeerKey, is_alive: bool) {
        let Some(at) = self.peers.find(peer) else {
            return;
        };
        if let Role::Neighbour { alive, .. } = &mut self.peers.get_mut(at).role
            && core::mem::replace(alive, is_alive) != is_alive
        {
            self.rebuild_routes();
        }
    }

    /// The largest datagram (bytes, header included) the peer takes now; larger ones are dropped
    /// as `TooLarge`. Unlimited until told.
    pub fn peer_datagram_max(&mut self, peer: PeerKey, bytes: usize) {
        if let Some(at) = self.peers.find(peer) {
            self.peers.get_mut(at).datagram_max = bytes;
        }
    }

    /// Brings an instance in step with the table; one that it does not know any more goes to `unknown`.
    fn renew(&mut self, at: PeerIdx, unknown: &mut Vec<PeerKey>) {
        let peer = self.peers.get_mut(at);
        let Role::Instance(instance) = &mut peer.role else {
            return;
        };
        renew(&self.fib, at, instance, &mut self.local);
        let held = peer.policer.take();
        peer.policer = renewed(held, instance, self.config.instance_rate);
        if instance.identity.is_none() {
            unknown.push(peer.key);
        }
    }

    fn rebuild_routes(&mut self) {
        self.recall.forget();
        self.routes
            .rebuild(&self.fib, &self.peers, self.config.worker);
    }
}

fn is_group(data: &[u8]) -> bool {
    let head = data.first_chunk::<HEADER_LEN>();
    head.is_some_and(|head| {
        let header = caplane_wire::Header::new_unchecked(head);
        header.requested_label().kind() == LabelKind::Group
    })
}

/// Brings one instance in step with the table.
fn renew(fib: &Fib, at: PeerIdx, instance: &mut Instance, local: &mut super::local::LocalTable) {
    let agent = instance.label.any_instance();
    let fresh = fib
        .identity_arc(&instance.uri)
        .filter(|identity| identity.agent == agent);
    let same = match (&instance.identity, fresh) {
        (Some(held), Some(fresh)) => Arc::ptr_eq(held, fresh),
        (None, None) => true,
        _ => false,
    };
    if !same {
        if let Some(held) = instance.identity.take() {
            local.unserve(at, &held, true);
        }
        instance.identity = fresh.cloned();
        if let Some(identity) = &instance.identity {
            local.serve(at, instance.label, identity);
            if instance.draining {
                local.unserve(at, identity, false);
            }
        }
    }
    let policy = instance
        .identity
        .as_ref()
        .and_then(|identity| fib.policy(identity.policy));
    instance.policy = policy.cloned();
}
