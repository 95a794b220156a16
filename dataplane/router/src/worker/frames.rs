//! What attached peers say on the control stream after `Hello`.

use bytes::Bytes;
use caplane_proto::v1;
use caplane_proto::v1::ByeCode;
use caplane_proto::v1::control_frame::Frame;
use caplane_transport::PeerId;
use tokio::sync::mpsc::error::TrySendError;

use super::Worker;
use super::attach::Refusal;
use super::peers::Phase;
use crate::control_frame::FrameFault;
use crate::shared::Note;
use crate::{control_frame, lookup};

/// Resolves of one instance that may wait for the controller at a time.
const RESOLVES_PER_INSTANCE_MAX: u32 = 64;

/// Candidates an instance may ask for: their answer stays far below [`CONTROL_BYTES_MAX`].
const CANDIDATES_MAX: u32 = 100;

/// Longest control frame taken or sent: a `Hello` with the largest card, twice over.
pub(crate) const CONTROL_BYTES_MAX: usize = 128 * 1024;

impl Worker {
    pub(super) fn on_control(&mut self, id: PeerId, message: Bytes) {
        let Some(phase) = self.peers.get(id).map(|peer| peer.phase) else {
            return;
        };
        if phase == Phase::Leaving {
            return;
        }
        let frame = match control_frame::decode(message) {
            Ok(frame) => frame,
            // What a later version may say (WF-110).
            Err(FrameFault::Unknown) => return,
            Err(fault) => {
                self.counts.control_faults += 1;
                self.leave(id, Refusal::new(ByeCode::Protocol, fault.to_string()));
                return;
            }
        };
        match frame {
            Frame::Hello(hello) => self.on_hello(id, hello),
            Frame::Welcome(welcome) => self.on_welcome(id, &welcome),
            Frame::Bye(bye) => self.on_bye(id, phase, &bye),
            _ if !matches!(phase, Phase::Instance { .. } | Phase::Neighbour { .. }) => {
                let reason = "the first frame must be Hello";
                self.leave(id, Refusal::new(ByeCode::Protocol, reason));
            }
            Frame::Resolve(query) => self.on_resolve(id, query),
            Frame::Probe(probe) => self.on_probe(id, phase, &probe),
            Frame::Drain(_) => {
                self.peer_drains(id);
            }
            Frame::Resolved(_) => {
                let reason = "Resolved is said by routers to instances";
                self.leave(id, Refusal::new(ByeCode::Protocol, reason));
            }
        }
    }

    fn on_bye(&mut self, id: PeerId, phase: Phase, bye: &v1::Bye) {
        if let Phase::AwaitingWelcome { router, .. } = phase {
            tracing::warn!(event = "link_refused", %router, code = bye.code().as_str_name(), reason = %bye.reason);
        }
        self.peer_leaves(id);
    }

    fn on_probe(&mut self, id: PeerId, phase: Phase, probe: &v1::Probe) {
        if !matches!(phase, Phase::Neighbour { .. }) {
            // WF-119.
            let reason = "Probe is said between neighbour routers";
            self.leave(id, Refusal::new(ByeCode::Protocol, reason));
        } else if probe.echo {
            let mut actions = std::mem::take(&mut self.link_actions);
            self.links.echoed(id, probe.sequence, &mut actions);
            self.act_on_links(actions);
        } else {
            self.send_control(id, &control_frame::probe(probe.sequence, true));
        }
    }

    fn on_resolve(&mut self, id: PeerId, mut query: v1::Resolve) {
        query.limit = query.limit.min(CANDIDATES_MAX);
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        let fib = self.forwarder.fib().clone();
        let Some(identity) = fib.identity(&peer.uri) else {
            let reason = "only instances may resolve";
            self.leave(id, Refusal::new(ByeCode::NotAllowed, reason));
            return;
        };
        if let Some(answer) = lookup::from_table(&fib, identity, &query) {
            self.counts.resolves_answered += 1;
            self.send_control(id, &control_frame::resolved(answer));
            return;
        }
        let query_id = query.query_id;
        let note = Note::Resolve {
            worker: self.index,
            peer: id,
            asker: peer.uri.clone(),
            query,
        };
        let relayed =
            peer.resolves < RESOLVES_PER_INSTANCE_MAX && self.notes.try_send(note).is_ok();
        if relayed {
            peer.resolves += 1;
            self.counts.resolves_relayed += 1;
        } else {
            self.counts.resolves_refused += 1;
            let error = "too many questions wait for the controller; ask again later";
            let answer = lookup::failed(query_id, fib.generation().0, error);
            self.send_control(id, &control_frame::resolved(answer));
        }
    }

    /// The controller's answer, or why there is none.
    pub(super) fn on_resolved(&mut self, id: PeerId, answer: v1::Resolved) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        peer.resolves = peer.resolves.saturating_sub(1);
        self.send_control(id, &control_frame::resolved(answer));
    }

    /// Sends one control frame. A peer that does not read its control stream is closed.
    pub(super) fn send_control(&mut self, id: PeerId, message: &[u8]) {
        let Err(error) = self.endpoint.send_control(id, message) else {
            return;
        };
        let leaving = self.peers.get(id).is_none_or(|p| p.phase == Phase::Leaving);
        if !leaving && !matches!(error, caplane_transport::SendError::Gone) {
            let reason = format!("the control stream cannot be written: {error}");
            self.leave(id, Refusal::new(ByeCode::Overloaded, reason));
        }
    }

    /// Asks the control thread; a full channel means that it is asked again later.
    pub(super) fn note(&mut self, note: Note) {
        if let Err(TrySendError::Full(_)) = self.notes.try_send(note) {
            tracing::warn!(event = "notes_full", "the control thread does not keep up");
        }
    }
}
