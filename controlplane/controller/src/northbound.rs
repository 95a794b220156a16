//! The shell towards orchestrators and operators: Write, Read, Resolve.
//!
//! A batch is checked in itself on a blocking thread (cards are parsed and
//! skills classified there), then applied by the commit thread as one change.
//! Every refusal becomes a status whose message names field, value and remedy.
//! Refuses to know what is stored how, and routers' sessions but for their
//! status.

use std::sync::Arc;

use caplane_proto::v1;
use caplane_proto::v1::northbound_server::Northbound;
use tonic::service::Interceptor;
use tonic::{Code, Request, Response, Status};

use crate::change::{Fault, Refusal, parse, write};
use crate::commit::{CommitError, Committer, State};
use crate::config::UriPattern;
use crate::resolve::resolve;
use crate::southbound::Sessions;
use crate::tls::PeerIdentity;

mod read;
mod render;

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
}

impl NorthboundService {
    /// Serves `state`.
    #[must_use]
    pub fn new(state: Arc<State>, committer: Committer, sessions: Arc<Sessions>) -> Self {
        Self {
            state,
            committer,
            sessions,
        }
    }
}

/// Lets operators pass, and nobody else.
#[derive(Clone)]
pub struct OperatorsOnly {
    operators: Arc<[UriPattern]>,
}

impl OperatorsOnly {
    /// Those whose URI is one of these.
    #[must_use]
    pub fn new(operators: &[UriPattern]) -> Self {
        Self {
            operators: operators.into(),
        }
    }
}

impl Interceptor for OperatorsOnly {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(peer) = request.extensions().get::<PeerIdentity>() else {
            return Err(Status::unauthenticated("the connection has no identity"));
        };
        if self.operators.iter().any(|known| known.matches(&peer.uri)) {
            return Ok(request);
        }
        tracing::warn!(event = "operator_unknown", uri = %peer.uri, address = %peer.address);
        Err(Status::permission_denied(format!(
            "\"{}\" is no operator here; add it to `operators` in controller.toml",
            peer.uri
        )))
    }
}

#[tonic::async_trait]
impl Northbound for NorthboundService {
    async fn write(
        &self,
        request: Request<v1::WriteRequest>,
    ) -> Result<Response<v1::WriteResponse>, Status> {
        let who = request
            .extensions()
            .get::<PeerIdentity>()
            .map_or_else(|| "?".into(), |peer| peer.uri.clone());
        let updates = request.into_inner().updates;
        let count = updates.len();
        let knowledge = self.state.knowledge().clone();
        let parsed = tokio::task::spawn_blocking(move || parse::batch(&knowledge, &updates)).await;
        let parsed = parsed
            .map_err(|_| Status::internal("checking the batch broke; see the controller's log"))?
            .map_err(|refusal| refused(&refusal))?;
        let (knowledge, sessions) = (self.state.knowledge().clone(), self.sessions.clone());
        let done = self
            .committer
            .change(move |tx| {
                write::batch(tx, &parsed)?;
                let view = render::View {
                    rib: tx.rib,
                    knowledge: &knowledge,
                    sessions: &sessions,
                };
                Ok(parsed.iter().map(|update| view.written(update)).collect())
            })
            .await
            .map_err(|error| commit_status(&error))?;
        let generation = done.generation;
        tracing::info!(event = "write", who = %who, updates = count, generation);
        Ok(Response::new(v1::WriteResponse {
            generation,
            entities: done.value,
        }))
    }

    async fn read(
        &self,
        request: Request<v1::ReadRequest>,
    ) -> Result<Response<v1::ReadResponse>, Status> {
        let request = request.into_inner();
        let response = read::page(&self.state, &self.sessions, &request).await?;
        Ok(Response::new(response))
    }

    async fn resolve(
        &self,
        request: Request<v1::ResolveRequest>,
    ) -> Result<Response<v1::ResolveResponse>, Status> {
        let request = request.into_inner();
        let query = request.query.unwrap_or_default();
        let candidates =
            resolve(&self.state, &query, &request.asker).map_err(|refusal| refused(&refusal))?;
        Ok(Response::new(v1::ResolveResponse {
            candidates,
            generation: self.state.generation(),
        }))
    }
}

/// A refusal as a gRPC status.
fn refused(refusal: &Refusal) -> Status {
    let code = match refusal.fault {
        Fault::Invalid => Code::InvalidArgument,
        Fault::Exists => Code::AlreadyExists,
        Fault::Missing => Code::NotFound,
        Fault::State => Code::FailedPrecondition,
        Fault::Full => Code::ResourceExhausted,
    };
    Status::new(code, refusal.to_string())
}

fn commit_status(error: &CommitError) -> Status {
    match error {
        CommitError::Refused(refusal) => refused(refusal),
        CommitError::Store(_) | CommitError::Stopped => Status::unavailable(error.to_string()),
    }
}
