//! The shell towards routers: one session per router, tables pushed, reports taken.
//!
//! A router is whoever holds the certificate of a registered router. Two tasks
//! make a session: one reads what the router says, one pushes. At most one
//! update is under way to a router, and it is made when the one before was
//! answered; so a slow router costs one update and what changes meanwhile is
//! coalesced. Refuses to know how entries are compiled and what is stored.

use std::sync::Arc;

use caplane_proto::v1;
use caplane_proto::v1::southbound_server::Southbound;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::commit::{CommitError, Committer, State};
use crate::config::Timers;
use crate::tls::{PeerIdentity, Refusals};

pub(crate) mod barrier;
mod push;
mod registry;
mod session;

pub use registry::{LiveAt, RefusedEntry, RouterStatus, Sessions};

/// Largest message from a router: `SessionOpen` with 100,000 attachments of about 200 bytes.
pub const MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Messages waiting for a router that does not read: parts are at most 1 MiB, so 4 MiB a router.
const OUTGOING_MAX: usize = 4;

/// Snapshots made at once: each holds a pointer per entry while it is sent.
const SNAPSHOTS_MAX: usize = 8;

/// Messages to one router, in order.
type Outgoing = mpsc::Sender<Result<v1::ControllerMessage, Status>>;

/// The southbound service.
#[derive(Clone)]
pub struct SouthboundService {
    state: Arc<State>,
    committer: Committer,
    sessions: Arc<Sessions>,
    timers: Timers,
    domain: u32,
    name: Arc<str>,
    snapshots: Arc<Semaphore>,
    refusals: Arc<Refusals>,
}

impl SouthboundService {
    /// Serves routers of `state`; `name` is this controller's.
    #[must_use]
    pub fn new(
        state: Arc<State>,
        committer: Committer,
        sessions: Arc<Sessions>,
        timers: Timers,
        domain: u32,
        refusals: Arc<Refusals>,
        name: &str,
    ) -> Self {
        Self {
            state,
            committer,
            sessions,
            timers,
            domain,
            refusals,
            name: name.into(),
            snapshots: Arc::new(Semaphore::new(SNAPSHOTS_MAX)),
        }
    }
}

#[tonic::async_trait]
impl Southbound for SouthboundService {
    type SessionStream = ReceiverStream<Result<v1::ControllerMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::RouterMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let Some(peer) = request.extensions().get::<PeerIdentity>().cloned() else {
            return Err(Status::unauthenticated("the connection has no identity"));
        };
        let Some(election) = self.state.election() else {
            return Err(session::commit_status(&CommitError::NotLeader(
                self.state.leader(),
            )));
        };
        // Only what is durable counts: a router registered a moment ago is there already.
        let router = self.state.rib().router_by_uri(&peer.uri).cloned();
        let Some(router) = router else {
            let (uri, address) = (&peer.uri, &peer.address);
            self.refusals.count("southbound", address, "stranger", uri);
            return Err(Status::permission_denied(format!(
                "\"{}\" is no registered router; register it with `caplane router add`",
                peer.uri
            )));
        };
        let (outgoing, stream) = mpsc::channel(OUTGOING_MAX);
        let session = session::Session {
            service: self.clone(),
            router,
            election,
            outgoing,
        };
        tokio::spawn(session.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
