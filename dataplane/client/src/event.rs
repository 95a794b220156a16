//! What the application may want to know of its attachment and of messages nobody waits for. Plain values.

use std::time::Duration;

use caplane_wire::{CloseCode, Label, NoticeCode};

use crate::address::{Address, Destination};
use crate::error::{CloseReason, SendError};

/// What a router granted: who this instance is, until it attaches again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// This instance's label and domain: the source of everything it sends.
    pub address: Address,
    /// This identity's tenant.
    pub tenant: u32,
    /// "host:port" of the router, as configured.
    pub router: String,
    /// Name of the router, as it gave it.
    pub router_name: String,
    /// Label of the router.
    pub router_label: Label,
    /// Generation of the table the router forwarded by when this client attached.
    pub generation: u64,
    /// The router ran on its stored table, without a controller, when this client attached.
    pub stale: bool,
    /// Largest message on a bulk stream, header and extensions included (bytes).
    pub bulk_message_max: usize,
    /// Highest priority this identity may use; higher ones are lowered to it.
    pub priority_max: u8,
}

/// What happened outside of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientEvent {
    /// Attached again, to the same or another router. When `label_changed`, messages in flight were sent under a source
    /// label that is no longer ours: their resends can be delivered a second time (see the crate's documentation).
    Reattached {
        /// What was granted now.
        attachment: Attachment,
        /// The instance label or domain is another than before.
        label_changed: bool,
    },
    /// The connection is gone; the client tries the routers again after `retry_in`.
    Detached {
        /// "host:port" of the router that was lost.
        router: String,
        /// What it said or what happened.
        reason: String,
        /// The code it gave, when it closed the connection itself.
        code: Option<CloseCode>,
        /// Time to the first attempt to come back.
        retry_in: Duration,
    },
    /// The router asked to leave within `period`; the client is attaching elsewhere where it knows another router.
    Draining {
        /// "host:port" of the router.
        router: String,
        /// Time it allows.
        period: Duration,
        /// Its words.
        reason: String,
    },
    /// A router said what became of a message. For a message somebody waits for, the wait goes on unless it also ends
    /// with [`SendError::Refused`].
    Notice {
        /// What became of it.
        code: NoticeCode,
        /// The router that said so.
        router: Label,
        /// Flow of the message.
        flow: u64,
        /// Sequence of the message.
        sequence: u32,
        /// What the message asked for.
        requested: Label,
    },
    /// A flow let go of the instance it was pinned to and asks for its class again.
    Unpinned {
        /// The flow.
        flow: u64,
        /// Where it went until now.
        from: Address,
        /// What it asks for again.
        to: Destination,
    },
    /// A message nobody waits for (fire and forget, or a reply) could not be sent or confirmed.
    Undelivered {
        /// Flow of the message.
        flow: u64,
        /// Sequence of the message, when it had got one.
        sequence: Option<u32>,
        /// Why.
        error: SendError,
    },
    /// This many events were missed: they were not read in time.
    Missed(u64),
    /// The client is closed for good.
    Closed(CloseReason),
}
