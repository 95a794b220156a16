//! The client, as the application holds it.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use caplane_proto::v1::resolve::Target;
use caplane_proto::v1::{Candidate, Constraints, Resolve};
use tokio::sync::{broadcast, oneshot, watch};

use crate::address::{Address, Destination};
use crate::command::Command;
use crate::config::ClientConfig;
use crate::delivery::Delivery;
use crate::error::{AttachError, CloseReason, ResolveError, SendError};
use crate::event::{Attachment, ClientEvent};
use crate::flow::Flow;
use crate::inbox::Inbox;
use crate::options::FlowOptions;
use crate::outbox::Outbox;
use crate::protocol::{Counters, FlowIds};
use crate::thread;

/// What the handles and the transport thread share.
pub(crate) struct Shared {
    pub(crate) outbox: Outbox,
    pub(crate) inbox: Inbox,
    pub(crate) events: broadcast::Sender<ClientEvent>,
    pub(crate) attachment: watch::Sender<Option<Arc<Attachment>>>,
    pub(crate) counters: Mutex<Counters>,
    pub(crate) flow_ids: FlowIds,
    /// Longest message towards the router that we are attached to (bytes).
    pub(crate) message_max: AtomicUsize,
}

impl Shared {
    pub(crate) fn check_size(&self, bytes: usize) -> Result<(), SendError> {
        let max = self.message_max.load(Ordering::Relaxed);
        if bytes > max {
            return Err(SendError::TooLarge { bytes, max });
        }
        Ok(())
    }
}

/// Held by everything the application holds. When the last one goes, the client closes.
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.outbox.close_budget();
        let _ = self.shared.outbox.push(Command::Close { done: None });
    }
}

/// An attachment of this agent to the fabric: one instance. Cheap to clone; all clones are the same instance.
///
/// The connection is carried by one thread of its own. It closes when [`Client::close`] is called, or when the last of the
/// client's clones, flows, deliveries and pending receipts is dropped.
#[derive(Clone)]
pub struct Client {
    handle: Arc<Handle>,
}

/// What to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// A class by its path in the taxonomy (`travel/hotels/book_hotel`), or a label's text (`class:7.12.3`).
    Path(String),
    /// An agent by its identity (`spiffe://...`).
    Agent(String),
    /// A class by words ("convert currency").
    Text(String),
}

/// Most candidates asked for unless said otherwise.
const CANDIDATES: u32 = 5;
/// How long a router may take to resolve: the discovery time of one hop in ACPs ADP.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

impl Client {
    /// Attaches to the first router of the list that takes this identity. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the configuration cannot be used, a router refuses the identity, or none answers within `attach_timeout`.
    pub async fn attach(config: ClientConfig) -> Result<Self, AttachError> {
        let shared = thread::start(config).await?;
        Ok(Self {
            handle: Arc::new(Handle { shared }),
        })
    }

    /// What the router granted; `None` while detached.
    #[must_use]
    pub fn attachment(&self) -> Option<Arc<Attachment>> {
        self.handle.shared.attachment.borrow().clone()
    }

    /// This instance's label and domain; `None` while detached. It can change when the client attaches again.
    #[must_use]
    pub fn address(&self) -> Option<Address> {
        self.attachment().map(|attachment| attachment.address)
    }

    /// Waits until the client is attached (it is right after `attach`).
    ///
    /// # Errors
    /// When the client is closed.
    pub async fn attached(&self) -> Result<Arc<Attachment>, CloseReason> {
        let mut attachment = self.handle.shared.attachment.subscribe();
        loop {
            // Read before it is known whether the client is closed: whoever closes it closes the outbox first.
            let current = attachment.borrow_and_update().clone();
            if self.handle.shared.outbox.is_closed() {
                return Err(self.handle.shared.outbox.close_reason());
            }
            if let Some(current) = current {
                return Ok(current);
            }
            if attachment.changed().await.is_err() {
                return Err(self.handle.shared.outbox.close_reason());
            }
        }
    }

    /// Asks the router what serves a need, best first. Resolve once and keep the label: routers forward by label only.
    ///
    /// # Errors
    /// When the router cannot answer or does not within 10 s.
    pub async fn resolve(&self, query: Query) -> Result<Vec<Candidate>, ResolveError> {
        self.ask(query, None).await
    }

    /// The same, but for agents that satisfy constraints: names of tenants, tags, a place, a cost.
    ///
    /// # Errors
    /// As [`Client::resolve`]; also when the constraints make no sense.
    pub async fn resolve_agents(
        &self,
        query: Query,
        constraints: Constraints,
    ) -> Result<Vec<Candidate>, ResolveError> {
        self.ask(query, Some(constraints)).await
    }

    async fn ask(
        &self,
        query: Query,
        constraints: Option<Constraints>,
    ) -> Result<Vec<Candidate>, ResolveError> {
        let target = match query {
            Query::Path(path) => Target::Path(path),
            Query::Agent(id) => Target::AgentId(id),
            Query::Text(text) => Target::Text(text),
        };
        let (answer, answered) = oneshot::channel();
        self.handle
            .shared
            .outbox
            .push(Command::Resolve {
                query: Resolve {
                    query_id: 0,
                    target: Some(target),
                    limit: CANDIDATES,
                    constraints,
                },
                timeout: RESOLVE_TIMEOUT,
                answer,
            })
            .map_err(ResolveError::Closed)?;
        match answered.await {
            Ok(Ok(resolved)) => Ok(resolved.candidates),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ResolveError::Closed(
                self.handle.shared.outbox.close_reason(),
            )),
        }
    }

    /// Begins a flow to a destination.
    #[must_use]
    pub fn flow(&self, destination: Destination, options: FlowOptions) -> Flow {
        let id = self.handle.shared.flow_ids.issue();
        Flow::open(id, destination, options, self.handle.clone())
    }

    /// The next message for this agent. Several tasks may wait at a time; each message goes to one of them. Safe to
    /// cancel: no message is lost.
    ///
    /// # Errors
    /// When the client is closed and everything that had arrived was taken.
    pub async fn recv(&self) -> Result<Delivery, CloseReason> {
        let shared = &self.handle.shared;
        let (next, wake) = shared.inbox.next().await;
        if wake {
            shared.outbox.wake();
        }
        next.map(|received| Delivery {
            received,
            handle: self.handle.clone(),
        })
    }

    /// Waits for at least one message and takes up to `max` that are there, for the price of one lock.
    ///
    /// # Errors
    /// As [`Client::recv`].
    pub async fn recv_many(&self, max: usize) -> Result<Vec<Delivery>, CloseReason> {
        let first = self.recv().await?;
        let shared = &self.handle.shared;
        let mut more = Vec::new();
        if shared.inbox.take(max.saturating_sub(1), &mut more) {
            shared.outbox.wake();
        }
        let mut deliveries = Vec::with_capacity(1 + more.len());
        deliveries.push(first);
        deliveries.extend(more.into_iter().map(|received| Delivery {
            received,
            handle: self.handle.clone(),
        }));
        Ok(deliveries)
    }

    /// What happens from now on outside of calls: attachments, notices, losses.
    #[must_use]
    pub fn events(&self) -> Events {
        Events {
            receiver: self.handle.shared.events.subscribe(),
        }
    }

    /// What happened so far, counted; brought up to date once a tick of the transport thread.
    #[must_use]
    pub fn counters(&self) -> Counters {
        *self
            .handle
            .shared
            .counters
            .lock()
            .unwrap_or_else(|e| e.into_inner())
    }

    /// Finishes what is under way, for at most `linger`, says goodbye and closes. Waits that are not over then end with
    /// `Closed`.
    pub async fn close(&self) {
        let shared = &self.handle.shared;
        shared.outbox.close_budget();
        let (done, closed) = oneshot::channel();
        if shared
            .outbox
            .push(Command::Close { done: Some(done) })
            .is_ok()
        {
            let _ = closed.await;
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("attachment", &self.attachment())
            .finish_non_exhaustive()
    }
}

/// The client's events, from the moment `Client::events` was called.
pub struct Events {
    receiver: broadcast::Receiver<ClientEvent>,
}

impl Events {
    /// The next event; `None` once the client is closed and gone. Who reads too slowly misses the oldest, and is told how
    /// many by [`ClientEvent::Missed`]. Safe to cancel.
    pub async fn next(&mut self) -> Option<ClientEvent> {
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(count)) => Some(ClientEvent::Missed(count)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}
