//! What an endpoint tells its owner, and the small copyable names by which peers and streams are spoken of.

use std::fmt;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use caplane_wire::TrafficClass;

use crate::error::RefuseReason;

/// Names one connection of an endpoint.
///
/// The slot is dense (0..`peers_max`) and is reused after the connection is gone; the generation tells the uses apart, so
/// a stale `PeerId` is refused and never reaches another peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl PeerId {
    /// The dense slot of this peer, below `EndpointConfig::peers_max`.
    pub fn slot(self) -> u32 {
        self.slot
    }

    /// How many peers held this slot before this one.
    pub fn generation(self) -> u32 {
        self.generation
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer {}#{}", self.slot, self.generation)
    }
}

macro_rules! stream_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub(crate) u64);

        impl $name {
            /// The QUIC stream id (RFC 9000 section 2.1); unique within its connection.
            pub fn stream_id(self) -> u64 {
                self.0
            }

            /// A small number that stays the same for the stream's life: the how-manieth unidirectional stream it is.
            pub fn hint(self) -> u32 {
                (self.0 >> 2) as u32
            }
        }
    };
}

stream_name!(
    /// A lane that a peer writes and we read.
    LaneRx
);
stream_name!(
    /// A lane that we write and a peer reads.
    LaneTx
);
stream_name!(
    /// A bulk stream that a peer writes and we read.
    BulkRx
);
stream_name!(
    /// A bulk stream that we write and a peer reads.
    BulkTx
);

/// What ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseCause {
    /// An application close: the code is a `ByeCode`.
    Application,
    /// A QUIC or TLS error: the code is a transport error code (RFC 9000 section 20.1).
    Transport,
    /// Nothing was heard for the idle timeout.
    IdleTimeout,
}

/// One thing that happened. Events of one peer come in order; `Connected` is a peer's first and `Closed` its last.
#[derive(Debug)]
pub enum Event {
    /// The handshake is complete and the peer's certificate was validated.
    Connected {
        /// The new peer.
        peer: PeerId,
        /// The one URI subject alternative name of its certificate.
        uri: String,
        /// Where it is now; it may migrate later.
        address: SocketAddr,
        /// True when we dialled it.
        dialled: bool,
    },
    /// A connection was refused before it became a peer. For a dialled one this is the last event with its `PeerId`.
    Refused {
        /// The id that `connect` returned, when we dialled.
        peer: Option<PeerId>,
        /// The other end.
        address: SocketAddr,
        /// Why.
        reason: RefuseReason,
    },
    /// One whole frame of the control stream, without its length.
    Control {
        /// Who sent it.
        peer: PeerId,
        /// The protobuf bytes.
        message: Bytes,
    },
    /// Bytes of a lane: whole messages and perhaps the beginning of one more. The receiver splits what it consumes off
    /// the front and must give the rest (even when empty) back by [`crate::Endpoint::lane_rest`]; until then the lane is not read.
    Lane {
        /// Who sent them.
        peer: PeerId,
        /// On which lane.
        lane: LaneRx,
        /// The traffic class of the lane's preface.
        class: TrafficClass,
        /// All bytes not yet consumed, contiguous.
        data: BytesMut,
    },
    /// A lane is over: no more `Lane` events for it. A connection's end is told for the lanes it cuts inside a message only.
    LaneEnd {
        /// Whose lane.
        peer: PeerId,
        /// Which lane.
        lane: LaneRx,
        /// True when bytes of an unfinished message were lost.
        partial: bool,
        /// The code of RESET_STREAM; `None` when it ended by FIN, or with its connection.
        code: Option<u64>,
    },
    /// Bytes of a bulk stream. The first event of a stream holds at least the whole header and its extensions.
    Bulk {
        /// Who sent them.
        peer: PeerId,
        /// On which stream.
        bulk: BulkRx,
        /// The traffic class of the preface.
        class: TrafficClass,
        /// The next bytes, given for good.
        data: BytesMut,
        /// True with the last bytes of the message.
        fin: bool,
    },
    /// A bulk stream was cut short by its sender, or broke the rules and was refused here.
    BulkReset {
        /// Whose stream.
        peer: PeerId,
        /// Which stream.
        bulk: BulkRx,
        /// The stream code.
        code: u64,
    },
    /// The peer asks us to stop sending on a lane (STOP_SENDING): it is closed, what was queued on it is gone.
    LaneStopped {
        /// The peer that stopped it.
        peer: PeerId,
        /// Our lane.
        lane: LaneTx,
        /// The stream code.
        code: u64,
    },
    /// The peer asks us to stop sending a bulk stream (STOP_SENDING): it is closed.
    BulkStopped {
        /// The peer that stopped it.
        peer: PeerId,
        /// Our stream.
        bulk: BulkTx,
        /// The stream code.
        code: u64,
    },
    /// One whole datagram (RFC 9221).
    Datagram {
        /// Who sent it.
        peer: PeerId,
        /// Its bytes.
        data: BytesMut,
    },
    /// A lane or bulk stream of this peer that was not ready may be ready again, or the peer allows more streams.
    Writable {
        /// The peer.
        peer: PeerId,
    },
    /// The largest datagram payload to this peer changed (path MTU discovery).
    MtuChanged {
        /// The peer.
        peer: PeerId,
        /// Largest UDP payload now sent to it, in bytes.
        udp_payload: usize,
    },
    /// The connection is gone, and with it all its streams.
    Closed {
        /// The peer that was.
        peer: PeerId,
        /// Application or transport error code, 0 for a timeout.
        code: u64,
        /// The reason phrase, lossily decoded; empty when none was given.
        reason: String,
        /// True when the peer closed it.
        by_peer: bool,
        /// What kind of end it was.
        cause: CloseCause,
    },
}
