//! From an authenticated connection to an attached instance or a neighbour link,
//! and back: `Hello`, `Welcome`, `Bye`.
//!
//! Invariant: the Forwarder knows a peer exactly while it is attached, so nothing
//! is forwarded from or to a connection before `Welcome` or after `Bye`.

use std::time::Duration;

use bytes::Bytes;
use caplane_core::fib::IdentityEntry;
use caplane_core::forward::{PeerError, PeerKey, PeerRole};
use caplane_proto::v1::control_frame::Frame;
use caplane_proto::v1::{ByeCode, Hello, Limits, Role, Welcome};
use caplane_transport::PeerId;
use caplane_wire::{LANE_MESSAGE_MAX, Label};

use super::Worker;
use super::peers::Phase;
use crate::attachments::Arrival;
use crate::control_frame;
use crate::exchange::Post;

/// Longest card taken from `Hello` (control.proto).
const CARD_BYTES_MAX: usize = 64 * 1024;

/// Slabs (256 KiB) that the unfinished lanes of a link may hold: one for every lane a neighbour can have at work, four for each
/// of the 16 traffic classes, and as many again for those of a second worker.
const LINK_SLABS_MAX: usize = 128;

/// How long our Bye may take to be acknowledged: several probe timeouts of a site. CONNECTION_CLOSE says the same again.
const BYE_PERIOD: Duration = Duration::from_millis(250);

/// How long a peer that said Bye may take to close.
const PEER_BYE_PERIOD: Duration = Duration::from_secs(1);

/// A connection that ends after a Bye.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) id: PeerId,
    code: ByeCode,
    reason: String,
    pub(super) until: Duration,
    said_by_us: bool,
}

/// Why a peer is told Bye.
pub(super) struct Refusal {
    code: ByeCode,
    reason: String,
}

impl Refusal {
    pub(super) fn new(code: ByeCode, reason: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.into(),
        }
    }
}

impl Worker {
    pub(super) fn on_connected(&mut self, id: PeerId, uri: String, dialled: bool) {
        let deadline = self.now.mono + self.timers.hello_timeout;
        let wanted = self.links.by_peer(id).filter(|_| dialled);
        let phase = match wanted {
            Some(router) => Phase::AwaitingWelcome { deadline, router },
            None => Phase::AwaitingHello { deadline },
        };
        tracing::debug!(event = "connected", %uri, dialled);
        self.peers.insert(id, uri, phase);
        self.hello_deadlines.push_back((deadline, id));
        if wanted.is_some() {
            self.send_control(id, &control_frame::router_hello(self.index));
        } else if dialled {
            let reason = "the link left the table while it was dialled";
            self.leave(id, Refusal::new(ByeCode::Normal, reason));
        }
    }

    pub(super) fn on_hello(&mut self, id: PeerId, hello: Hello) {
        let Some(peer) = self.peers.get(id) else {
            return;
        };
        if !matches!(peer.phase, Phase::AwaitingHello { .. }) {
            let reason = "Hello is said once, by the side that dialled";
            self.leave(id, Refusal::new(ByeCode::Protocol, reason));
            return;
        }
        let uri = peer.uri.clone();
        let outcome = match hello.role() {
            _ if self.drain.is_some() => Err(Refusal::new(
                ByeCode::Drained,
                "this router is draining; attach to another one",
            )),
            _ if self.exchanging.port.is_behind() => Err(Refusal::new(
                ByeCode::Overloaded,
                "this router's workers do not keep up with those who come and go; try again",
            )),
            Role::Instance => self.attach_instance(id, uri, hello),
            Role::Router => self.accept_neighbour(id, &uri, hello.worker),
            Role::Unspecified => Err(Refusal::new(
                ByeCode::Protocol,
                "Hello names no role; say ROLE_INSTANCE or ROLE_ROUTER",
            )),
        };
        if let Err(refusal) = outcome {
            self.leave(id, refusal);
        }
    }

    fn attach_instance(&mut self, id: PeerId, uri: String, hello: Hello) -> Result<(), Refusal> {
        let fib = self.forwarder.fib().clone();
        let identity = fib.identity(&uri).ok_or_else(|| {
            Refusal::new(
                ByeCode::UnknownIdentity,
                format!("{uri} is not registered; register the agent at the controller"),
            )
        })?;
        if !control_frame::instance_name_valid(&hello.instance_name) {
            return Err(Refusal::new(
                ByeCode::Protocol,
                "instance_name must be 1 to 64 bytes of A-Z a-z 0-9 . _ -",
            ));
        }
        if hello.agent_card.len() > CARD_BYTES_MAX {
            return Err(Refusal::new(
                ByeCode::Protocol,
                format!(
                    "agent_card is {} bytes, at most {CARD_BYTES_MAX} are taken",
                    hello.agent_card.len()
                ),
            ));
        }
        let key = self.peers.key(id);
        let arrival = Arrival {
            uri: uri.clone(),
            agent: identity.agent,
            instance_name: hello.instance_name,
            card: Bytes::from(hello.agent_card),
            peer: key,
        };
        let elsewhere = taken_elsewhere(&fib, identity.agent);
        let attached = self
            .shared
            .attachments()
            .attach(arrival, elsewhere)
            .map_err(|e| Refusal::new(ByeCode::InstanceLimit, e.to_string()))?;
        let label = attached.label;
        if let Some(old) = attached.replaced {
            self.supersede(old, label);
        }
        let role = PeerRole::Instance {
            uri: uri.clone(),
            label,
        };
        if let Err(error) = self.forwarder.peer_up(key, role.clone()) {
            self.shared.attachments().detach(label, key);
            return Err(refusal_of(&error));
        }
        self.set_attached(id, Phase::Instance { label });
        self.announce(id, role, attached.serial);
        self.counts.instances += 1;
        self.shared.control.notify_one();
        tracing::info!(event = "attached", %uri, %label);
        self.welcome_when_routed(id, label);
        Ok(())
    }

    /// Says `Welcome` to an instance that is still attached by this label.
    pub(super) fn welcome_instance(&mut self, id: PeerId, label: Label) {
        let Some(peer) = self.peers.get(id) else {
            return;
        };
        if peer.phase != (Phase::Instance { label }) {
            return;
        }
        let fib = self.forwarder.fib();
        // An identity that has left the table leaves with it.
        if let Some(identity) = fib.identity(&peer.uri) {
            let welcome = self.welcome(label, identity.tenant, self.priority_max(identity));
            self.send_control(id, &welcome);
        }
    }

    fn accept_neighbour(&mut self, id: PeerId, uri: &str, worker: u32) -> Result<(), Refusal> {
        let worker = u8::try_from(worker)
            .map_err(|_| Refusal::new(ByeCode::Protocol, "Hello.worker must be at most 255"))?;
        match self.links.by_uri(uri) {
            None => Err(Refusal::new(
                ByeCode::UnknownIdentity,
                format!(
                    "{uri} is no neighbour of this router in its table; declare the link at the controller"
                ),
            )),
            Some((_, true)) => Err(Refusal::new(
                ByeCode::NotAllowed,
                "the table says that this side dials; wait for it",
            )),
            Some((router, false)) => {
                self.neighbour_up(id, router, worker)?;
                let welcome = self.welcome(router, 0, 7);
                self.send_control(id, &welcome);
                Ok(())
            }
        }
    }

    /// `Welcome` on a connection we dialled.
    pub(super) fn on_welcome(&mut self, id: PeerId, welcome: &Welcome) {
        let router = match self.peers.get(id).map(|peer| peer.phase) {
            Some(Phase::AwaitingWelcome { router, .. }) => router,
            _ => {
                let reason = "Welcome was not asked for";
                self.leave(id, Refusal::new(ByeCode::Protocol, reason));
                return;
            }
        };
        if welcome.router != router.bits() {
            let reason = format!(
                "Welcome is of {}, this router dialled {router}; compare both tables",
                Label::from_bits(welcome.router)
            );
            self.leave(id, Refusal::new(ByeCode::Protocol, reason));
            return;
        }
        if let Err(refusal) = self.neighbour_up(id, router, 0) {
            self.leave(id, refusal);
        }
    }

    /// `worker` = the neighbour's worker that dialled; 0 on a link that this side dialled.
    fn neighbour_up(&mut self, id: PeerId, router: Label, worker: u8) -> Result<(), Refusal> {
        if let Some(old) = self.links.up(self.now.mono, router, worker, id) {
            let reason = "the neighbour linked again; the newer connection stays";
            self.leave(old, Refusal::new(ByeCode::Replaced, reason));
        }
        let key = self.peers.key(id);
        let role = PeerRole::Neighbour { router };
        self.forwarder
            .peer_up(key, role.clone())
            .map_err(|e| refusal_of(&e))?;
        self.endpoint.set_slabs_max(id, LINK_SLABS_MAX);
        self.endpoint.set_dscp(id, self.link_dscp);
        self.set_attached(id, Phase::Neighbour { router });
        self.announce(id, role, 0);
        tracing::info!(event = "link_up", %router);
        Ok(())
    }

    fn set_attached(&mut self, id: PeerId, phase: Phase) {
        let key = self.peers.key(id);
        if let Some(peer) = self.peers.get_mut(id) {
            peer.phase = phase;
        }
        let datagram_max = self.endpoint.datagram_max(id);
        self.forwarder.peer_datagram_max(key, datagram_max);
    }

    fn welcome(&self, label: Label, tenant: u32, priority_max: u8) -> Vec<u8> {
        let fib = self.forwarder.fib();
        control_frame::encode(Frame::Welcome(Welcome {
            label: label.bits(),
            domain: fib.domain(),
            tenant,
            router: fib.router().bits(),
            router_name: self.shared.router_name.clone(),
            generation: fib.generation().0,
            stale: self.shared.is_stale(),
            limits: Some(Limits {
                lane_message_bytes: LANE_MESSAGE_MAX as u32,
                bulk_message_bytes: self.bulk_message_bytes_max,
                priority_max: u32::from(priority_max),
                idle_timeout_ms: self.timers.idle_timeout.as_millis() as u32,
            }),
        }))
    }

    fn priority_max(&self, identity: &IdentityEntry) -> u8 {
        let policy = self.forwarder.fib().policy(identity.policy);
        policy.map_or(0, |policy| policy.priority_max())
    }

    /// The same instance attached again: the older connection goes, if its slot is not another's by now.
    pub(super) fn replaced(&mut self, old: PeerKey, label: Label) {
        let peer = self.peers.by_key(old);
        let peer = peer.filter(|peer| peer.phase == Phase::Instance { label });
        let Some(id) = peer.map(|peer| peer.id) else {
            return;
        };
        let reason = "the same instance name attached again; the newer connection stays";
        self.leave(id, Refusal::new(ByeCode::Replaced, reason));
    }

    /// Says Bye and takes the peer out of forwarding; the connection closes after the flush.
    pub(super) fn leave(&mut self, id: PeerId, refusal: Refusal) {
        if self.peers.get(id).is_none_or(|p| p.phase == Phase::Leaving) {
            return;
        }
        self.detach(id);
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        peer.phase = Phase::Leaving;
        self.counts.bye(refusal.code);
        let (code, reason) = (refusal.code, refusal.reason);
        tracing::info!(event = "bye", uri = %peer.uri, code = code.as_str_name(), reason);
        self.send_control(id, &control_frame::bye(code, &reason));
        self.leaving.push(Leaving {
            id,
            code,
            reason,
            until: self.now.mono + BYE_PERIOD,
            said_by_us: true,
        });
    }

    /// The peer said Bye: it sends what it has left, waits for our acknowledgement and closes. We
    /// close for it when it does not.
    pub(super) fn peer_leaves(&mut self, id: PeerId) {
        if self.leaving.iter().any(|leaving| leaving.id == id) {
            return;
        }
        self.peer_drains(id);
        self.leaving.push(Leaving {
            id,
            code: ByeCode::Normal,
            reason: String::new(),
            until: self.now.mono + PEER_BYE_PERIOD,
            said_by_us: false,
        });
    }

    /// The peer takes no new class traffic.
    pub(super) fn peer_drains(&mut self, id: PeerId) {
        let key = self.peers.key(id);
        self.forwarder.peer_draining(key);
        self.exchanging.port.post_all(&Post::Draining(key));
    }

    /// Closes connections that are done: our Bye was acknowledged, or the time is over (WF-118).
    pub(super) fn close_leaving(&mut self) {
        let mut at = 0;
        while let Some(leaving) = self.leaving.get(at) {
            let done = leaving.said_by_us && self.endpoint.acked(leaving.id);
            if !done && leaving.until > self.now.mono {
                at += 1;
                continue;
            }
            let leaving = self.leaving.swap_remove(at);
            self.detach(leaving.id);
            let code = leaving.code as i32 as u64;
            self.endpoint.close(leaving.id, code, &leaving.reason);
            self.hurry = true;
        }
    }

    /// Takes a peer out of forwarding, if it was in. The caller then forgets it or makes it leave.
    pub(super) fn detach(&mut self, id: PeerId) {
        let key = self.peers.key(id);
        let Some(peer) = self.peers.get(id) else {
            return;
        };
        let phase = peer.phase;
        if !peer.attached() {
            return;
        }
        for ended in self.bulks.peer_gone(&mut self.endpoint, id) {
            self.bulk_ended(ended);
        }
        self.far_cut_all(id);
        let lost = self.forwarder.peer_down(self.now, key);
        let label = match phase {
            Phase::Instance { label } => Some(label),
            _ => None,
        };
        self.denounce(key, label);
        match phase {
            Phase::Instance { label } => {
                self.counts.instances -= 1;
                self.shared.attachments().detach(label, key);
                self.shared.control.notify_one();
                tracing::info!(event = "detached", %label, lost);
            }
            Phase::Neighbour { router } => tracing::warn!(event = "link_down", %router, lost),
            _ => {}
        }
        self.links.down(self.now.mono, id);
    }

    /// Connections that never said what they are.
    pub(super) fn expire_hellos(&mut self) {
        while let Some(&(deadline, id)) = self.hello_deadlines.front() {
            if deadline > self.now.mono {
                return;
            }
            self.hello_deadlines.pop_front();
            let phase = self.peers.get(id).map(|peer| peer.phase);
            if let Some(Phase::AwaitingHello { .. } | Phase::AwaitingWelcome { .. }) = phase {
                let reason = "no Hello or Welcome within the time allowed";
                self.leave(id, Refusal::new(ByeCode::Protocol, reason));
            }
        }
    }
}

/// Instance numbers of `agent` that other routers gave, bit n = number n.
fn taken_elsewhere(fib: &caplane_core::Fib, agent: Label) -> u64 {
    let Some(entry) = fib.agent(agent) else {
        return 0;
    };
    entry
        .instances
        .iter()
        .filter(|i| i.router != fib.router())
        .fold(0, |taken, i| taken | (1 << (i.instance & 63)))
}

fn refusal_of(error: &PeerError) -> Refusal {
    let code = match error {
        PeerError::UnknownIdentity | PeerError::UnknownNeighbour => ByeCode::UnknownIdentity,
        PeerError::KeyInUse | PeerError::WrongLabel => ByeCode::Overloaded,
        PeerError::LabelInUse { .. } => ByeCode::InstanceConflict,
    };
    Refusal::new(code, error.to_string())
}
