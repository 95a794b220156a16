//! The shell towards orchestrators and operators: Write, Confirm, Read, Watch, Resolve and more.
//!
//! Every refusal becomes a status that names field, value, remedy and what would
//! be accepted, as text and as data. Refuses to know what is stored how, and
//! routers' sessions but for their status.

use std::sync::Arc;

use caplane_proto::v1;
use caplane_proto::v1::northbound_server::Northbound;
use tokio::sync::{Semaphore, watch};
use tonic::{Request, Response, Status};

use crate::access::Principal;
use crate::audit::Recorder;
use crate::commit::{CommitError, Committer, State};
use crate::quota::Limits;
use crate::resolve::{ResolveError, resolve};
use crate::rib::Rib;
use crate::southbound::Sessions;
use crate::store::Leader;

mod audit;
mod confirm;
mod errors;
mod explain;
mod guard;
mod read;
mod rehearsal;
mod render;
mod rollout;
mod status;
mod watcher;
mod write;

pub use guard::{Guard, Guarded};

/// Largest request: as northbound.proto says of a batch.
pub const MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Full name of the service, for reflection.
pub const SERVICE_NAME: &str = v1::northbound_server::SERVICE_NAME;

/// The northbound service.
#[derive(Clone)]
pub struct NorthboundService {
    state: Arc<State>,
    committer: Committer,
    sessions: Arc<Sessions>,
    stopping: watch::Receiver<bool>,
    watches: Arc<Semaphore>,
    audit_readers: Arc<Semaphore>,
    recorder: Recorder,
    limits: Limits,
    about: Arc<Leader>,
    domain: u32,
}

impl NorthboundService {
    /// Serves `state` until `stopping` says true: then watches end, which have no end of their own. `about` is what others
    /// are told of this controller while it leads.
    #[must_use]
    pub fn new(
        state: Arc<State>,
        committer: Committer,
        sessions: Arc<Sessions>,
        recorder: Recorder,
        limits: Limits,
        stopping: watch::Receiver<bool>,
        about: Arc<Leader>,
    ) -> Self {
        Self {
            state,
            committer,
            sessions,
            stopping,
            watches: Arc::new(Semaphore::new(watcher::WATCHES_MAX)),
            audit_readers: Arc::new(Semaphore::new(audit::READERS_MAX)),
            recorder,
            limits,
            about,
            domain: 0,
        }
    }

    /// The same in this administrative domain, instead of in the one that has no number.
    #[must_use]
    pub fn in_domain(self, domain: u32) -> Self {
        Self { domain, ..self }
    }
}

/// Who asks: the door let nobody pass without a name.
fn caller<T>(request: &Request<T>) -> Result<Principal, Status> {
    let principal = request.extensions().get::<Principal>();
    principal.cloned().ok_or_else(errors::nameless)
}

#[tonic::async_trait]
impl Northbound for NorthboundService {
    async fn write(
        &self,
        request: Request<v1::WriteRequest>,
    ) -> Result<Response<v1::WriteResponse>, Status> {
        let caller = caller(&request)?;
        let response = write::write(self, caller, request.into_inner()).await?;
        Ok(Response::new(response))
    }

    async fn rollout(
        &self,
        request: Request<v1::RolloutRequest>,
    ) -> Result<Response<v1::RolloutResponse>, Status> {
        let scope = caller(&request)?.scope;
        // What routers hold they tell the leader alone.
        if self.state.election().is_none() {
            let refused = CommitError::NotLeader(self.state.leader());
            return Err(errors::not_committed(&refused));
        }
        let mut answer = rollout::answer(self, &request.into_inner()).await?;
        if scope.is_bound() {
            rollout::trim(&mut answer);
        }
        Ok(Response::new(answer))
    }

    async fn confirm(
        &self,
        request: Request<v1::ConfirmRequest>,
    ) -> Result<Response<v1::ConfirmResponse>, Status> {
        let caller = caller(&request)?;
        let response = confirm::confirm(self, caller, request.into_inner()).await?;
        Ok(Response::new(response))
    }

    async fn read(
        &self,
        request: Request<v1::ReadRequest>,
    ) -> Result<Response<v1::ReadResponse>, Status> {
        let scope = caller(&request)?.scope;
        let request = request.into_inner();
        let response = read::page(&self.state, &self.sessions, &scope, &request).await?;
        Ok(Response::new(response))
    }

    type WatchStream = watcher::Stream;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let caller = caller(&request)?;
        let who = caller.uri.clone();
        let stream = watcher::open(self, caller, request.into_inner())?;
        tracing::info!(event = "watch", %who);
        Ok(Response::new(stream))
    }

    type ReadAuditStream = audit::Stream;

    async fn read_audit(
        &self,
        request: Request<v1::ReadAuditRequest>,
    ) -> Result<Response<Self::ReadAuditStream>, Status> {
        let caller = caller(&request)?;
        let stream = audit::open(self, &caller, request.get_ref())?;
        Ok(Response::new(stream))
    }

    async fn resolve(
        &self,
        request: Request<v1::ResolveRequest>,
    ) -> Result<Response<v1::ResolveResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let query = request.query.unwrap_or_default();
        let asker = &request.asker;
        let may = |rib: &Rib| caller.may_ask_as(rib, "asker", asker);
        let answer = resolve(&self.state, &query, asker, self.domain, may).await;
        let (candidates, generation) = answer.map_err(|error| match error {
            ResolveError::Refused(refusal) => errors::refused(&refusal),
            ResolveError::NotCommitted(error) => errors::not_committed(&error),
        })?;
        Ok(Response::new(v1::ResolveResponse {
            candidates,
            generation,
        }))
    }

    async fn status(
        &self,
        _: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        Ok(Response::new(status::answer(self)))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let answer = explain::answer(self, &caller, &request).await?;
        Ok(Response::new(answer))
    }
}
