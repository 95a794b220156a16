//! The forwarding decision and the egress queues of one worker.
//!
//! Life of a message here: [`Forwarder::lane`] walks the whole messages at the front of a lane's
//! bytes, decides each (ingress, egress or transit), edits its header in place, and appends runs of
//! neighbours-in-the-buffer that go the same way as one slice to an egress queue;
//! [`Forwarder::dirty`] names a peer with something to send and [`Forwarder::dequeue`] hands it over.
//!
//! Refuses to know streams, sockets and the clock. No lock, no allocation per message once warm.

mod attach;
mod config;
mod decide;
mod egress;
mod explain;
mod handover;
mod lanes;
mod local;
mod members;
mod notice;
mod peers;
mod police;
mod recall;
mod replicate;
mod routes;
mod send;
#[cfg(test)]
mod tests;

pub use config::ForwarderConfig;
pub use explain::{Considered, Destination, Explanation, Forwarded, NextHop, Outcome, Verdict};
pub use handover::{Handover, Pressure};

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use caplane_wire::{Label, TrafficClass};

use crate::{Counters, DropReason, Fib};
use egress::Ledger;
use local::LocalTable;
use peers::{Instances, Peers};
use recall::Recall;
use replicate::Fanout;
use routes::Routes;

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
    config: ForwarderConfig,
    fib: Arc<Fib>,
    peers: Peers,
    instances: Instances,
    local: LocalTable,
    routes: Routes,
    /// Forgets whenever `fib`, `peers`, `local` or `routes` change.
    recall: Recall,
    ledger: Ledger,
    /// Peers with something to send.
    dirty: VecDeque<PeerKey>,
    /// Lanes that may be read again.
    woken: VecDeque<Unblocked>,
    /// What other workers are to be told of queues here.
    pressure: VecDeque<Pressure>,
    fanout: Fanout,
    /// Walks over lanes' bytes until now.
    walks: u64,
    counters: Counters,
}

impl Forwarder {
    /// A forwarder without peers.
    pub fn new(config: ForwarderConfig, fib: Arc<Fib>) -> Forwarder {
        Forwarder {
            recall: Recall::new(config.decisions_remembered),
            config,
            fib,
            peers: Peers::default(),
            instances: Instances::default(),
            local: LocalTable::default(),
            routes: Routes::default(),
            ledger: Ledger::default(),
            dirty: VecDeque::new(),
            woken: VecDeque::new(),
            pressure: VecDeque::new(),
            fanout: Fanout::default(),
            walks: 0,
            counters: Counters::default(),
        }
    }

    /// The table in force.
    pub fn fib(&self) -> &Arc<Fib> {
        &self.fib
    }

    /// This worker's counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}
