//! The forwarding decision and the egress queues of one worker.
//!
//! Life of a message here: [`Forwarder::lane`] walks the whole messages at the front of a lane's
//! bytes, decides each (ingress, egress or transit), edits its header in place, and appends runs of
//! neighbours-in-the-buffer that go the same way as one slice to an egress queue;
//! [`Forwarder::dirty`] names a peer with something to send and [`Forwarder::dequeue`] hands it over.
//!
//! Refuses to know streams, sockets and the clock. No lock, no allocation per message once warm.

mod config;

pub use config::ForwarderConfig;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use caplane_wire::{Label, TrafficClass};

use crate::{Counters, DropReason, Fib, Now};

/// Names a peer within a router: the worker that owns its connection, and a slot there. A slot may
/// be used again once its peer is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey {
    /// Worker that owns the connection.
    pub worker: u8,
    /// Slot at that worker.
    pub slot: u32,
}

/// What an authenticated peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerRole {
    /// An attached instance of an agent.
    Instance {
        /// The URI SAN of its certificate; must name an identity of the table.
        uri: String,
        /// The label it was given: the identity's agent, with an instance number.
        label: Label,
    },
    /// A neighbour router; must be one of the table's neighbours.
    Neighbour {
        /// Its router label.
        router: Label,
    },
}

/// Why a peer cannot come up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerError {
    /// The key is in use: take the old peer down first.
    KeyInUse,
    /// The table has no identity with this URI.
    UnknownIdentity,
    /// The label is not an instance (1..=63) of the identity's agent.
    WrongLabel,
    /// Another peer holds this instance label.
    LabelInUse {
        /// The holder.
        by: PeerKey,
    },
    /// The router label is not a neighbour of the table.
    UnknownNeighbour,
}

impl core::fmt::Display for PeerError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            PeerError::KeyInUse => write!(f, "peer key in use: take the old peer down first"),
            PeerError::UnknownIdentity => write!(
                f,
                "identity not in the table: register the agent, or wait for the next generation"
            ),
            PeerError::WrongLabel => write!(f, "label is not an instance of the identity's agent"),
            PeerError::LabelInUse { by } => {
                write!(f, "instance label held by peer {}/{}", by.worker, by.slot)
            }
            PeerError::UnknownNeighbour => write!(
                f,
                "router is not a neighbour in the table: declare the link"
            ),
        }
    }
}

impl core::error::Error for PeerError {}

/// How a message travels between two peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Carrier {
    /// On a lane, back to back with others.
    Lane,
    /// In one DATAGRAM frame.
    Datagram,
}

/// What [`Forwarder::lane`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Whole messages consumed.
    pub messages: u32,
    /// Bytes consumed.
    pub bytes: usize,
    /// True: the egress queue is above its mark; stop reading this lane (what is left in the buffer
    /// stays the caller's) until [`Forwarder::unblocked`] names it, then call again with the rest.
    pub blocked: bool,
}

/// The lane cannot be read any further; the caller resets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamFault {
    /// `TooLarge`, `Malformed` or `UnknownPeer`; already counted.
    pub reason: DropReason,
    /// What was consumed before the fault.
    pub progress: Progress,
}

/// Something to send, in order, on one egress lane (or as one datagram).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Traffic class of the egress lane; every message inside carries it.
    pub class: TrafficClass,
    /// Which of the class's egress lanes: `0..ForwarderConfig::lanes_per_class`.
    pub lane_hint: u32,
    /// Lane or datagram.
    pub carrier: Carrier,
    /// Whole messages back to back; or, with the pieces around it, part of one (see `messages`).
    pub data: Bytes,
    /// Messages whose first byte is in `data`: 0 for the second piece of a group copy, which
    /// directly follows the first on the same lane.
    pub messages: u32,
}

/// What to do with a bulk message whose head has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BulkVerdict {
    /// Send it on to this peer, cut-through, with the head as it was rewritten. The stream's class
    /// may have been lowered to the sender's cap. Report the end with [`Forwarder::bulk_end`].
    Forward {
        /// Egress peer.
        to: PeerKey,
        /// Traffic class of the egress stream.
        class: TrafficClass,
    },
    /// Reset it; counted and noticed.
    Refuse {
        /// Why.
        reason: DropReason,
    },
}

/// How a bulk message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BulkEnd {
    /// The last byte was handed to the transport.
    Complete,
    /// It was reset half way, by either side.
    Cut,
}

/// One resumed lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Unblocked {
    /// Ingress peer.
    pub peer: PeerKey,
    /// The lane, as the caller named it.
    pub lane_hint: u32,
}

/// The forwarder of one worker.
pub struct Forwarder {
    counters: Counters,
    fib: Arc<Fib>,
}

impl Forwarder {
    /// A forwarder with an empty table and no peers.
    pub fn new(_config: ForwarderConfig, fib: Arc<Fib>) -> Forwarder {
        Forwarder {
            counters: Counters::default(),
            fib,
        }
    }

    /// Puts a table in force. Returns the instances whose identity is no longer in it, or names
    /// another agent: they serve nothing and reach nothing from now on; close them.
    pub fn set_fib(&mut self, _fib: Arc<Fib>) -> Vec<PeerKey> {
        Vec::new()
    }

    /// The table in force.
    pub fn fib(&self) -> &Arc<Fib> {
        &self.fib
    }

    /// A peer was authenticated and may be sent to from now on.
    ///
    /// # Errors
    ///
    /// See [`PeerError`].
    pub fn peer_up(&mut self, _peer: PeerKey, _role: PeerRole) -> Result<(), PeerError> {
        Ok(())
    }

    /// A peer is gone: what was queued for it is dropped as `PeerGone` and noticed; flows go
    /// elsewhere at once. Returns the number of messages that were queued. Unknown peers: 0.
    pub fn peer_down(&mut self, _now: Now, _peer: PeerKey) -> u64 {
        0
    }

    /// The peer takes no new class traffic (it drains) but still gets what names it by agent label.
    pub fn peer_draining(&mut self, _peer: PeerKey) {}

    /// A neighbour is reachable or not, while its connection stays: the fast failure detection of
    /// the router's probes.
    pub fn peer_alive(&mut self, _peer: PeerKey, _alive: bool) {}

    /// The largest datagram (bytes, header included) the peer takes now; larger ones are dropped
    /// as `TooLarge`. Unlimited until told.
    pub fn peer_datagram_max(&mut self, _peer: PeerKey, _bytes: usize) {}

    /// Forwards every whole message at the front of `data`, leaving the tail. `lane_hint` names the
    /// ingress lane within the peer: messages of one lane keep their order.
    ///
    /// # Errors
    ///
    /// [`StreamFault`] when the bytes cannot be a message: reset the lane.
    pub fn lane(
        &mut self,
        _now: Now,
        _from: PeerKey,
        _lane_hint: u32,
        _class: TrafficClass,
        _data: &mut BytesMut,
    ) -> Result<Progress, StreamFault> {
        Ok(Progress::default())
    }

    /// A lane ended inside a message (FIN or RESET with `partial` bytes unread): counted as one
    /// message received and cut short.
    pub fn lane_cut(&mut self, _from: PeerKey) {}

    /// Forwards one datagram.
    pub fn datagram(&mut self, _now: Now, _from: PeerKey, _data: BytesMut) {}

    /// Decides a bulk message from its head (header and extensions, complete), rewriting the head in place.
    pub fn bulk_open(
        &mut self,
        _now: Now,
        _from: PeerKey,
        _class: TrafficClass,
        _head: &mut [u8],
    ) -> BulkVerdict {
        BulkVerdict::Refuse {
            reason: DropReason::NoRoute,
        }
    }

    /// A bulk message that [`Forwarder::bulk_open`] let through ended; `bytes` = its bytes sent on.
    pub fn bulk_end(&mut self, _to: PeerKey, _end: BulkEnd, _bytes: u64) {}

    /// The next peer of this worker with something to send that is not waiting for
    /// [`Forwarder::mark_dirty`]. Call until `None` once a tick.
    pub fn dirty(&mut self) -> Option<PeerKey> {
        None
    }

    /// Puts a peer whose lanes were not ready back among the dirty ones (when it is writable again).
    pub fn mark_dirty(&mut self, _peer: PeerKey) {}

    /// The next slice for a peer: class 7 first, the others by deficit round robin. Skips the
    /// classes for whose next lane `ready(class, lane_hint)` is false. A slice is never split:
    /// `max_bytes` only stops at the first slice that would pass it (but one is always given).
    /// `None`: nothing (ready) is left; the peer has left `dirty` until something is
    /// queued for it while it has nothing waiting, or `mark_dirty`.
    pub fn dequeue(
        &mut self,
        _peer: PeerKey,
        _max_bytes: usize,
        _ready: impl FnMut(TrafficClass, u32) -> bool,
    ) -> Option<Outgoing> {
        None
    }

    /// The transport could not take what `dequeue` gave: dropped under `reason`, noticed.
    pub fn returned(&mut self, _now: Now, _to: PeerKey, _outgoing: Outgoing, _reason: DropReason) {}

    /// The next ingress lane that may be read again.
    pub fn unblocked(&mut self) -> Option<Unblocked> {
        None
    }

    /// This worker's counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Bytes the queues of one peer are charged for, and messages in them.
    pub fn queued(&self, _peer: PeerKey) -> (u64, u64) {
        (0, 0)
    }
}
