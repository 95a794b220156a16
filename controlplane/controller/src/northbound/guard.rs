//! The door of the northbound listener: a call passes when its path is known and the caller has the role for it.
//!
//! What passes carries its [`Principal`]. It stands before the services, so that a call that is in no table reaches
//! none. Refuses to know requests and answers.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;

use super::errors;
use crate::access::{Access, Principal, least_caller};
use crate::tls::{PeerIdentity, Refusals};

/// Who may pass.
pub struct Guard {
    access: Access,
    refusals: Arc<Refusals>,
}

impl Guard {
    /// Those who have a role; others are counted in `refusals`.
    #[must_use]
    pub fn new(access: Access, refusals: Arc<Refusals>) -> Self {
        Self { access, refusals }
    }

    fn admit(&self, peer: Option<&PeerIdentity>, path: &str) -> Result<Principal, Status> {
        let peer = peer.ok_or_else(errors::nameless)?;
        let Some(principal) = self.access.principal(&peer.uri, &peer.address) else {
            let (uri, address) = (&peer.uri, &peer.address);
            self.refusals.count("northbound", address, "stranger", uri);
            return Err(errors::stranger(uri));
        };
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
        let peer = request.extensions().get::<PeerIdentity>();
        match self.guard.admit(peer, request.uri().path()) {
            Ok(principal) => {
                request.extensions_mut().insert(principal);
                Box::pin(self.inner.call(request))
            }
            Err(status) => Box::pin(std::future::ready(Ok(status.into_http()))),
        }
    }
}

impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}
