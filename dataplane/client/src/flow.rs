//! A flow, as its sender holds it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use caplane_wire::{HEADER_LEN, LANE_MESSAGE_MAX, LabelKind};
use tokio::sync::oneshot;

use crate::address::Destination;
use crate::client::Handle;
use crate::command::{Command, Ticket};
use crate::delivery::Delivery;
use crate::error::SendError;
use crate::options::{Carrier, FlowOptions};
use crate::protocol::{DEADLINE_LEN, Mode, Receipt, Submission};

/// A numbered series of messages to one destination, in order per carrier. Made by `Client::flow`; dropping it lets go of
/// the flow once everything sent on it is settled.
pub struct Flow {
    id: u64,
    destination: Destination,
    options: FlowOptions,
    handle: Arc<Handle>,
}

impl Flow {
    pub(crate) fn open(
        id: u64,
        destination: Destination,
        options: FlowOptions,
        handle: Arc<Handle>,
    ) -> Self {
        // On a closed client every send says so.
        let _ = handle.shared.outbox.push(Command::OpenFlow {
            flow: id,
            destination,
            options,
        });
        Self {
            id,
            destination,
            options,
            handle,
        }
    }

    /// The flow's random id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What the flow asks for.
    #[must_use]
    pub fn destination(&self) -> Destination {
        self.destination
    }

    /// Sends a message that nobody waits for. Returns once the send buffer has room for it; what becomes of it later comes
    /// as `ClientEvent::Notice` or `ClientEvent::Undelivered`, if anybody can tell.
    ///
    /// # Errors
    /// `TooLarge` and `Closed`.
    pub async fn send(&self, payload: impl Into<Bytes>) -> Result<(), SendError> {
        self.submit(payload.into(), Mode::Forget, None).await
    }

    /// Sends a message that is resent until its receiver has confirmed it. Returns once the send buffer has room, so that
    /// many may be under way; what is returned resolves to the receipt. Dropping that stops nothing.
    ///
    /// # Errors
    /// `TooLarge` and `Closed`; the rest comes from the [`PendingReceipt`].
    pub async fn send_receipted(
        &self,
        payload: impl Into<Bytes>,
    ) -> Result<PendingReceipt, SendError> {
        let (ticket, pending) = oneshot::channel();
        self.submit(payload.into(), Mode::Receipt, Some(Ticket::Receipt(ticket)))
            .await?;
        Ok(PendingReceipt::new(pending, self.handle.clone()))
    }

    /// Sends a request and waits for its reply. The request is resent until its receiver has confirmed it.
    ///
    /// # Errors
    /// `TooLarge`, `Closed`, `Refused` and `NoReply`.
    pub async fn request(&self, payload: impl Into<Bytes>) -> Result<Delivery, SendError> {
        let (ticket, reply) = oneshot::channel();
        self.submit(payload.into(), Mode::Request, Some(Ticket::Reply(ticket)))
            .await?;
        match reply.await {
            Ok(outcome) => outcome.map(|received| Delivery {
                received,
                handle: self.handle.clone(),
            }),
            Err(_) => Err(SendError::Closed(self.handle.shared.outbox.close_reason())),
        }
    }

    async fn submit(
        &self,
        payload: Bytes,
        mode: Mode,
        ticket: Option<Ticket>,
    ) -> Result<(), SendError> {
        let shared = &self.handle.shared;
        let group = self.destination.label.kind() == LabelKind::Group;
        if group && mode != Mode::Forget {
            return Err(SendError::Group(self.destination.label));
        }
        let extension = if self.options.deadline {
            DEADLINE_LEN
        } else {
            0
        };
        let bytes = HEADER_LEN + extension + payload.len();
        match self.options.carrier {
            // A bulk message cannot be copied to a group (WF-68).
            Carrier::Stream if group && bytes > LANE_MESSAGE_MAX => {
                return Err(SendError::TooLarge {
                    bytes,
                    max: LANE_MESSAGE_MAX,
                });
            }
            Carrier::Stream => shared.check_size(bytes)?,
            // What fits on the path now is known when it leaves.
            Carrier::Datagram if bytes > DATAGRAM_MAX => {
                return Err(SendError::TooLarge {
                    bytes,
                    max: DATAGRAM_MAX,
                });
            }
            Carrier::Datagram => {}
        }
        let charge = shared
            .outbox
            .charge(payload.len())
            .await
            .map_err(SendError::Closed)?;
        shared
            .outbox
            .push(Command::Submit {
                flow: self.id,
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

/// No UDP datagram over IPv4 is longer.
const DATAGRAM_MAX: usize = 65_507;

impl Drop for Flow {
    fn drop(&mut self) {
        let _ = self
            .handle
            .shared
            .outbox
            .push(Command::CloseFlow { flow: self.id });
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow")
            .field("id", &format_args!("{:016x}", self.id))
            .field("destination", &self.destination)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// A receipt to come. Resolves to it, or to why there will be none.
#[must_use = "a receipt that nobody waits for was not worth asking for: use `send`"]
pub struct PendingReceipt {
    pending: oneshot::Receiver<Result<Receipt, SendError>>,
    handle: Arc<Handle>,
}

impl PendingReceipt {
    pub(crate) fn new(
        pending: oneshot::Receiver<Result<Receipt, SendError>>,
        handle: Arc<Handle>,
    ) -> Self {
        Self { pending, handle }
    }
}

impl Future for PendingReceipt {
    type Output = Result<Receipt, SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.pending).poll(cx));
        Poll::Ready(
            outcome.unwrap_or_else(|_| {
                Err(SendError::Closed(self.handle.shared.outbox.close_reason()))
            }),
        )
    }
}

impl fmt::Debug for PendingReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingReceipt").finish_non_exhaustive()
    }
}
