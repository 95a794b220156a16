//! The door of the northbound listener: a call passes when its path is known, and the caller has the role for it and did
//! not ask for too much lately.
//!
//! What passes carries its [`Principal`]; what is denied, here or behind, is noted for the audit log. It stands before
//! the services, so that a call that is in no table reaches none. Refuses to know requests and answers.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tonic::{Code, Status};

use super::errors;
use crate::access::{Access, Principal, least_caller};
use crate::audit::{Note, Recorder};
use crate::quota::{Kind, Limits};
use crate::tls::{PeerIdentity, Refusals};

/// Who may pass.
pub struct Guard {
    access: Access,
    refusals: Arc<Refusals>,
    recorder: Recorder,
    limits: Limits,
}

impl Guard {
    /// Those who have a role, within their `limits`; others are counted in `refusals`. Whatever is denied is noted.
    #[must_use]
    pub fn new(
        access: Access,
        refusals: Arc<Refusals>,
        recorder: Recorder,
        limits: Limits,
    ) -> Self {
        Self {
            access,
            refusals,
            recorder,
            limits,
        }
    }

    /// Notes an answer that says that the caller may not do that.
    fn note(&self, caller: Note, path: &str, headers: &http::HeaderMap) {
        let status = Status::from_header_map(headers);
        if let Some(status) = status
            && status.code() == Code::PermissionDenied
        {
            // A name that the caller made up could be taken for something that the controller did.
            let known = least_caller(path).and_then(|_| path.rsplit('/').next());
            self.recorder.note(Note {
                call: known.unwrap_or("unknown").to_owned(),
                what: status.message().to_owned(),
                code: Code::PermissionDenied as i32,
                ..caller
            });
        }
    }

    fn admit(&self, peer: Option<&PeerIdentity>, path: &str) -> Result<Principal, Status> {
        let peer = peer.ok_or_else(errors::nameless)?;
        let Some(principal) = self.access.principal(&peer.uri, &peer.address) else {
            let (uri, address) = (&peer.uri, &peer.address);
            self.refusals.count("northbound", address, "stranger", uri);
            return Err(errors::stranger(uri));
        };
        let within = self.limits.take(&peer.uri, &[(Kind::Calls, 1)]);
        within.map_err(|exceeded| errors::exceeded(&exceeded))?;
        let least = least_caller(path);
        match least {
            Some(least) if principal.role >= least => Ok(principal),
            _ => Err(errors::not_for(principal.role, path, least)),
        }
    }
}

/// A service behind the door.
#[derive(Clone)]
pub struct Guarded<S> {
    inner: S,
    guard: Arc<Guard>,
}

impl<S> Guarded<S> {
    /// This service, for those who pass.
    pub fn new(inner: S, guard: Arc<Guard>) -> Self {
        Self { inner, guard }
    }
}

impl<S> Service<http::Request<Body>> for Guarded<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let guard = self.guard.clone();
        let path = request.uri().path().to_owned();
        let peer = request.extensions().get::<PeerIdentity>();
        match guard.admit(peer, &path) {
            Ok(principal) => {
                let caller = principal.note("", String::new());
                request.extensions_mut().insert(principal);
                let answer = self.inner.call(request);
                Box::pin(async move {
                    let answer = answer.await?;
                    guard.note(caller, &path, answer.headers());
                    Ok(answer)
                })
            }
            Err(status) => {
                let caller = peer.map_or_else(Note::default, |peer| Note {
                    who: peer.uri.to_string(),
                    peer: peer.address.to_string(),
                    ..Note::default()
                });
                let answer: http::Response<Body> = status.into_http();
                guard.note(caller, &path, answer.headers());
                Box::pin(std::future::ready(Ok(answer)))
            }
        }
    }
}

impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}
