//! What the client must remember and decide to keep SPEC.md's promises: sequences, receipts, resends, deduplication,
//! pins. Sans-IO: time comes in as [`Now`], messages as bytes, and what is to be done comes out as [`Outgoing`] messages and
//! [`Effect`]s. Refuses to know sockets, threads, clocks and async.

mod backoff;
mod dedup;
mod flow;
mod messenger;
mod outstanding;
mod queues;
mod random;
mod receipts;
mod receive;
mod rtt;
mod timers;
mod transmit;
mod window;

#[cfg(test)]
#[path = "tests/simulation.rs"]
mod simulation;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use caplane_wire::extension::EXTENSION_HEAD_LEN;
use caplane_wire::{Flags, HEADER_LEN, Label, TrafficClass};

pub(crate) use crate::address::Address;
use crate::error::SendError;
use crate::event::ClientEvent;

pub(crate) use backoff::Backoff;
pub use messenger::Counters;
pub(crate) use messenger::{Limits, Me, Messenger};
pub(crate) use queues::Queue;
pub(crate) use random::{FlowIds, Jitter};
pub(crate) use receive::Disposition;
pub(crate) use rtt::ResendBounds;

/// The time of one tick, read once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Now {
    /// Since some fixed instant of this process.
    pub(crate) mono: Duration,
    /// Microseconds since the Unix epoch: for deadlines on the wire only.
    pub(crate) unix_us: u64,
}

/// What the sender waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing.
    Forget,
    /// A receipt; resent until then.
    Receipt,
    /// A reply; resent until a receipt or the reply.
    Request,
}

/// A message handed in by the application. `T` names who waits for it.
#[derive(Debug)]
pub(crate) struct Submission<T> {
    pub(crate) payload: Bytes,
    pub(crate) mode: Mode,
    pub(crate) ticket: Option<T>,
    /// Bytes charged to the send buffer until the message is settled.
    pub(crate) charge: usize,
}

/// A submission, stamped: when it came and until when it matters.
#[derive(Debug)]
pub(crate) struct Message<T> {
    pub(crate) payload: Bytes,
    pub(crate) mode: Mode,
    pub(crate) ticket: Option<T>,
    pub(crate) charge: usize,
    pub(crate) submitted: Duration,
    pub(crate) deadline: Duration,
    /// Written into the message when the flow wants it.
    pub(crate) deadline_unix_us: Option<u64>,
}

impl<T> Message<T> {
    /// Header, extensions and payload together (bytes).
    pub(crate) fn total_len(&self) -> usize {
        HEADER_LEN + self.extension_len() + self.payload.len()
    }

    pub(crate) fn extension_len(&self) -> usize {
        self.deadline_unix_us.map_or(0, |_| DEADLINE_LEN)
    }
}

/// Bytes of the deadline extension.
pub(crate) const DEADLINE_LEN: usize = EXTENSION_HEAD_LEN + 8;

/// Header and extensions of one message, ready to send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    bytes: [u8; HEADER_LEN + DEADLINE_LEN],
    len: u8,
}

impl Head {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Which message something is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Tag {
    /// Message `sequence` of one of our flows.
    Flow { flow: u64, sequence: u32 },
    /// Our reply to a request.
    Reply(ReplyKey),
}

impl Tag {
    /// Flow and sequence.
    pub(crate) fn numbers(self) -> (u64, u32) {
        match self {
            Self::Flow { flow, sequence } => (flow, sequence),
            Self::Reply(key) => (key.flow, key.sequence),
        }
    }
}

/// A request as its receiver names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ReplyKey {
    pub(crate) to: Address,
    pub(crate) flow: u64,
    pub(crate) sequence: u32,
}

/// A message to hand to the transport.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) head: Head,
    pub(crate) payload: Bytes,
    pub(crate) class: TrafficClass,
    pub(crate) tag: Tag,
}

/// A message that came for the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) payload: Bytes,
    pub(crate) source: Address,
    pub(crate) flow: u64,
    pub(crate) sequence: u32,
    pub(crate) class: TrafficClass,
    pub(crate) flags: Flags,
    pub(crate) requested: Label,
    pub(crate) tenant: u32,
    pub(crate) deadline_unix_us: Option<u64>,
    pub(crate) carried_by: CarriedBy,
}

impl Received {
    pub(crate) fn reply_key(&self) -> ReplyKey {
        ReplyKey {
            to: self.source,
            flow: self.flow,
            sequence: self.sequence,
        }
    }
}

/// What a message came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CarriedBy {
    /// A lane.
    Lane,
    /// A bulk stream of its own.
    Bulk,
    /// A datagram.
    Datagram,
}

/// Proof that a receiving client delivered a message to its application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The instance that delivered it.
    pub from: Address,
    /// Flow of the message.
    pub flow: u64,
    /// Sequence of the message.
    pub sequence: u32,
    /// How often it was sent.
    pub attempts: u32,
    /// From the last hand-over to the transport until the receipt.
    pub round_trip: Duration,
}

/// How a wait ended well.
#[derive(Debug)]
pub(crate) enum Settled {
    Receipt(Receipt),
    Reply(Received),
}

/// Something for the owner to pass on.
#[derive(Debug)]
pub(crate) enum Effect<T> {
    /// A wait is over.
    Settled {
        ticket: T,
        outcome: Result<Settled, SendError>,
    },
    /// Something nobody waited for.
    Event(ClientEvent),
}
