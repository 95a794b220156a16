//! The call Explain: asks Resolve what a text means, then the state.

use std::time::{SystemTime, UNIX_EPOCH};

use caplane_core::Now;
use caplane_proto::v1;
use caplane_proto::v1::explain_request::To;
use caplane_proto::v1::resolve::Target;
use tonic::Status;

use super::NorthboundService;
use super::errors::{broke, not_committed, refused};
use crate::access::Principal;
use crate::explain::{ExplainError, Known, explain};
use crate::resolve::{ResolveError, resolve};
use crate::rib::Rib;

pub(super) async fn answer(
    service: &NorthboundService,
    caller: &Principal,
    request: &v1::ExplainRequest,
) -> Result<v1::ExplainResponse, Status> {
    let (state, sessions) = (&service.state, &service.sessions);
    let may = |rib: &Rib| caller.may_ask_as(rib, "source", &request.source);
    let resolved = match &request.to {
        Some(To::Text(text)) if state.rib().agent(&request.source).is_some() => {
            let query = v1::Resolve {
                target: Some(Target::Text(text.clone())),
                ..v1::Resolve::default()
            };
            let answer = resolve(state, &query, &request.source, service.domain, may).await;
            let (candidates, _) = answer.map_err(|error| match error {
                ResolveError::Refused(refusal) => refused(&refusal),
                ResolveError::NotCommitted(error) => not_committed(&error),
            })?;
            candidates
        }
        _ => Vec::new(),
    };
    let unix = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = Now {
        unix_us: unix.map_or(0, |time| time.as_micros() as u64),
        ..Now::default()
    };
    let (answer, _) = state
        .read(|rib| {
            may(rib)?;
            let known = Known {
                rib,
                knowledge: state.knowledge(),
                live: &|router| sessions.status(router).live_generation,
                resolved,
                scope: &caller.scope,
            };
            explain(&known, request, now)
        })
        .await
        .map_err(|error| not_committed(&error))?;
    answer.map_err(|error| match error {
        ExplainError::Refused(refusal) => refused(&refusal),
        ExplainError::Fault(cause) => {
            tracing::error!(event = "explain_broken", cause);
            broke("explaining")
        }
    })
}
