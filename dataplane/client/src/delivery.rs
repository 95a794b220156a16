//! A message that reached the application, and the way to answer it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use caplane_wire::{Flags, HEADER_LEN, Label, TrafficClass};
use tokio::sync::oneshot;

use crate::address::Address;
use crate::client::Handle;
use crate::command::{Command, Ticket};
use crate::error::SendError;
use crate::flow::PendingReceipt;
use crate::protocol::{CarriedBy, Mode, Received, Submission};

/// A message for this agent. When its sender wanted a receipt, that is on its way: the message is the application's now.
///
/// The payload is a slice of the buffer it arrived in. Who keeps small payloads for long should copy them
/// (`Bytes::copy_from_slice`), or each holds a buffer of 256 KiB.
pub struct Delivery {
    pub(crate) received: Received,
    pub(crate) handle: Arc<Handle>,
}

impl Delivery {
    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.received.payload
    }

    /// The payload, giving up the way to answer.
    #[must_use]
    pub fn into_payload(self) -> Bytes {
        self.received.payload
    }

    /// The instance that sent it.
    #[must_use]
    pub fn source(&self) -> Address {
        self.received.source
    }

    /// The sender's flow.
    #[must_use]
    pub fn flow(&self) -> u64 {
        self.received.flow
    }

    /// Number of the message in its flow. All carriers of a flow share one count, so one carrier's numbers have gaps.
    #[must_use]
    pub fn sequence(&self) -> u32 {
        self.received.sequence
    }

    /// What the sender asked for: a class, this agent, this instance, or a group.
    #[must_use]
    pub fn requested(&self) -> Label {
        self.received.requested
    }

    /// Tenant of the requested class, 0 = shared.
    #[must_use]
    pub fn tenant(&self) -> u32 {
        self.received.tenant
    }

    /// Traffic class, as the sender's router let it be.
    #[must_use]
    pub fn class(&self) -> TrafficClass {
        self.received.class
    }

    /// What it came by.
    #[must_use]
    pub fn carried_by(&self) -> CarriedBy {
        self.received.carried_by
    }

    /// Whether the sender waits for a receipt.
    #[must_use]
    pub fn wants_receipt(&self) -> bool {
        self.received.flags.contains(Flags::RECEIPT)
    }

    /// Whether an egress router sent it on to another one, its own instances being gone.
    #[must_use]
    pub fn was_rerouted(&self) -> bool {
        self.received.flags.contains(Flags::REROUTED)
    }

    /// When its sender no longer cares, if it said so.
    #[must_use]
    pub fn deadline(&self) -> Option<SystemTime> {
        let micros = self.received.deadline_unix_us?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(micros))
    }

    /// Answers: the payload goes back to the instance that asked, under its flow and sequence. When the request wanted a
    /// receipt, the reply is resent until the asker confirms it, and a failure comes as `ClientEvent::Undelivered`.
    /// Returns once the send buffer has room. One reply a request; at most 30 s are spent on resends.
    ///
    /// # Errors
    /// `TooLarge` and `Closed`.
    pub async fn reply(self, payload: impl Into<Bytes>) -> Result<(), SendError> {
        let mode = if self.wants_receipt() {
            Mode::Receipt
        } else {
            Mode::Forget
        };
        self.submit(payload.into(), mode, None).await
    }

    /// As [`Delivery::reply`], and what is returned resolves when the asker has confirmed the reply.
    ///
    /// # Errors
    /// `TooLarge` and `Closed`; the rest comes from the [`PendingReceipt`].
    pub async fn reply_receipted(
        self,
        payload: impl Into<Bytes>,
    ) -> Result<PendingReceipt, SendError> {
        let (ticket, pending) = oneshot::channel();
        let handle = self.handle.clone();
        self.submit(payload.into(), Mode::Receipt, Some(Ticket::Receipt(ticket)))
            .await?;
        Ok(PendingReceipt::new(pending, handle))
    }

    async fn submit(
        self,
        payload: Bytes,
        mode: Mode,
        ticket: Option<Ticket>,
    ) -> Result<(), SendError> {
        let shared = &self.handle.shared;
        shared.check_size(HEADER_LEN + payload.len())?;
        let charge = shared
            .outbox
            .charge(payload.len())
            .await
            .map_err(SendError::Closed)?;
        shared
            .outbox
            .push(Command::Reply {
                key: self.received.reply_key(),
                class: self.received.class,
                timeout: REPLY_TIMEOUT,
                submission: Submission {
                    payload,
                    mode,
                    ticket,
                    charge,
                },
            })
            .map_err(SendError::Closed)
    }
}

/// How long a reply is resent: as long as a request waits by default.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("source", &self.received.source)
            .field("flow", &format_args!("{:016x}", self.received.flow))
            .field("sequence", &self.received.sequence)
            .field("requested", &self.received.requested)
            .field("carried_by", &self.received.carried_by)
            .field("payload_bytes", &self.received.payload.len())
            .finish_non_exhaustive()
    }
}
