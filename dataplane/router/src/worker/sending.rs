//! From the Forwarder's queues to lanes and datagrams.
//!
//! Nothing here waits: a lane that is not ready keeps its queue, and
//! `Event::Writable` brings the peer back.

use caplane_core::DropReason;
use caplane_core::forward::{Carrier, Outgoing, PeerKey};
use caplane_transport::{DatagramRefused, SendError};

use super::Worker;

/// Bytes of one `dequeue`: a slab, which is the most a run can have, so none is cut: to find where, the headers in it
/// would be walked once more.
pub(super) const DEQUEUE_BYTES: usize = 256 * 1024;

impl Worker {
    /// Sends what the queues hold, as far as the lanes take it.
    pub(super) fn send_all(&mut self) {
        while let Some(key) = self.forwarder.dirty() {
            match key.worker == self.index {
                true => self.send_to(key),
                false => self.hand_to(key),
            }
        }
    }

    fn send_to(&mut self, key: PeerKey) {
        let endpoint = &mut self.endpoint;
        let Some(peer) = self.peers.by_key(key) else {
            return;
        };
        let id = peer.id;
        loop {
            let egress = &mut peer.egress;
            let ready = |class, hint| egress.ready(endpoint, id, class, hint);
            let Some(outgoing) = self.forwarder.dequeue(key, DEQUEUE_BYTES, ready) else {
                return;
            };
            let refused = match outgoing.carrier {
                Carrier::Lane => send_lane(endpoint, peer, &outgoing),
                Carrier::Datagram => send_datagram(endpoint, id, &outgoing),
            };
            if let Some(reason) = refused {
                self.forwarder.returned(self.now, key, outgoing, reason);
            }
        }
    }

    /// Reads again what was paused for a full queue. Returns whether anything was.
    pub(super) fn resume_unblocked(&mut self) -> bool {
        let mut any = false;
        while let Some(unblocked) = self.forwarder.unblocked() {
            let Some(peer) = self.peers.by_key(unblocked.peer) else {
                continue;
            };
            let at = peer
                .paused
                .iter()
                .position(|lane| lane.hint() == unblocked.lane_hint);
            if let Some(at) = at {
                let lane = peer.paused.swap_remove(at);
                self.endpoint.resume(peer.id, lane);
                any = true;
            }
        }
        any
    }
}

/// Why it was refused, if it was.
fn send_lane(
    endpoint: &mut caplane_transport::Endpoint,
    peer: &mut super::peers::Peer,
    outgoing: &Outgoing,
) -> Option<DropReason> {
    let Some(tx) = peer.egress.lane(outgoing.class, outgoing.lane_hint) else {
        return Some(DropReason::SendFailed);
    };
    // The clone is a reference count, once per slice: a refusal must give the messages back whole.
    match endpoint.send_messages(peer.id, tx, outgoing.data.clone(), outgoing.messages) {
        Ok(()) => None,
        Err(SendError::Gone) => Some(DropReason::PeerGone),
        Err(error) => {
            peer.egress.forget(tx);
            tracing::debug!(event = "lane_refused", peer = %peer.uri, %error);
            Some(DropReason::SendFailed)
        }
    }
}

fn send_datagram(
    endpoint: &mut caplane_transport::Endpoint,
    peer: caplane_transport::PeerId,
    outgoing: &Outgoing,
) -> Option<DropReason> {
    match endpoint.send_datagram(peer, outgoing.data.clone()) {
        Ok(()) => None,
        Err(DatagramRefused::TooLarge { .. }) => Some(DropReason::TooLarge),
        Err(DatagramRefused::QueueFull) => Some(DropReason::Overloaded),
        Err(DatagramRefused::Gone) => Some(DropReason::PeerGone),
    }
}
