//! The northbound API as the command and the tests use it: one connection,
//! typed calls, errors that say what failed, on what, and what to do.
//!
//! It refuses to know how results are shown.

use std::time::{Duration, Instant};

use caplane_proto::v1;
use caplane_proto::v1::entity::Entity as Kind;
use caplane_proto::v1::northbound_client::NorthboundClient;
use caplane_proto::v1::read_request::Kind as ReadKind;
use caplane_proto::v1::update::Type as UpdateType;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

mod channel;
mod details;
mod leader;

pub use details::Details;

/// Longest that a write waits for its turn where the controller says that this client asks for too much.
const QUOTA_PATIENCE: Duration = Duration::from_secs(30);
/// Largest answer taken (bytes): 10,000 agents, the largest page, with cards of 6 KiB.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Entities of one page.
const PAGE_SIZE: u32 = 1_000;

/// Who asks, and whom it believes, in PEM.
#[derive(Clone)]
pub struct ApiCredentials {
    /// The operator's certificate chain.
    pub chain_pem: String,
    /// Its private key.
    pub key_pem: String,
    /// Roots that the controller's certificate must come from.
    pub roots_pem: String,
    /// URI that the controller's certificate must carry, or, ending in `/`, begin with; empty = that of controllers of the
    /// trust domain that the operator's own certificate names.
    pub controller_uri: String,
}

/// Why a call did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No connection.
    #[error(
        "cannot reach the controller at {address}: {cause}; check that it runs there and that {}", ours(.address)
    )]
    Unreachable {
        /// "host:port" or "unix:///path".
        address: String,
        /// The transport's words, innermost cause last.
        cause: String,
    },
    /// The controller answered with an error.
    #[error("the controller refused: {message}{}", remedy(*.code))]
    Refused {
        /// The gRPC code.
        code: Code,
        /// The controller's words.
        message: String,
        /// The same as data.
        details: Details,
    },
    /// The controller answered with something that makes no sense.
    #[error("the controller's answer to {call} lacks {missing}; are both of the same version?")]
    Nonsense {
        /// Which call.
        call: &'static str,
        /// What is not there.
        missing: &'static str,
    },
}

impl ApiError {
    /// The gRPC code; [`Code::Unavailable`] when there was no answer.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Unreachable { .. } => Code::Unavailable,
            Self::Refused { code, .. } => *code,
            Self::Nonsense { .. } => Code::Internal,
        }
    }
}

/// What must be ours for a connection.
fn ours(address: &str) -> &'static str {
    match address.starts_with("unix:") {
        true => "the socket is yours",
        false => "your certificate comes from its authority",
    }
}

/// What to do where the controller's own words cannot know.
fn remedy(code: Code) -> &'static str {
    match code {
        Code::PermissionDenied | Code::Unauthenticated => {
            "; use the certificate of somebody to whom the controller's configuration gives that role"
        }
        Code::Unavailable | Code::DeadlineExceeded => "; try again",
        _ => "",
    }
}

/// How a [`Api::write`] is done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Change nothing, tell what would be.
    pub dry_run: bool,
    /// Compare and set: ABORTED when a Write changed something after this generation.
    pub expected_generation: Option<u64>,
    /// The same request with the same key is done once; empty = each is done.
    pub idempotency_key: String,
    /// Take it back unless it is confirmed within so many seconds.
    pub confirm_within: Option<u32>,
    /// Wait so long at most until routers forward by it; 0 = until it is durable.
    pub wait_live_seconds: u32,
}

/// A connection to one controller. What only the one that leads can do is asked of that one.
#[derive(Clone)]
pub struct Api {
    client: NorthboundClient<Channel>,
    address: String,
    /// To go on to another controller with; `None` at a unix socket, which is on this machine only.
    credentials: Option<ApiCredentials>,
    options: WriteOptions,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Api {
    /// Connects to `address` ("host:port") and waits until TLS has named both sides.
    ///
    /// # Errors
    /// [`ApiError::Unreachable`].
    pub async fn connect(address: &str, credentials: &ApiCredentials) -> Result<Self, ApiError> {
        let channel = channel::open(address, credentials).await?;
        Ok(Self::on(channel, address, Some(credentials.clone())))
    }

    /// Connects to a controller on this machine by its unix socket, "unix:///path": this user is who asks.
    ///
    /// # Errors
    /// [`ApiError::Unreachable`].
    pub async fn connect_local(address: &str) -> Result<Self, ApiError> {
        let channel = channel::open_local(address).await?;
        Ok(Self::on(channel, address, None))
    }

    fn on(channel: Channel, address: &str, credentials: Option<ApiCredentials>) -> Self {
        let client = NorthboundClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        Self {
            client,
            address: address.to_owned(),
            credentials,
            options: WriteOptions::default(),
        }
    }

    /// The same, writing in this way from now on.
    #[must_use]
    pub fn with_options(self, options: WriteOptions) -> Self {
        Self { options, ..self }
    }

    /// "host:port" of the controller, or "unix:///path".
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Applies a batch, all or none.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn write(
        &self,
        updates: impl IntoIterator<Item = (UpdateType, Kind)>,
    ) -> Result<v1::WriteResponse, ApiError> {
        let updates = updates
            .into_iter()
            .map(|(kind, entity)| v1::Update {
                r#type: kind.into(),
                entity: Some(v1::Entity {
                    entity: Some(entity),
                }),
            })
            .collect();
        let WriteOptions {
            dry_run,
            expected_generation,
            idempotency_key,
            confirm_within,
            wait_live_seconds,
        } = self.options.clone();
        let confirm = confirm_within.map(|timeout_seconds| v1::CommitConfirmed { timeout_seconds });
        let request = v1::WriteRequest {
            updates,
            dry_run,
            expected_generation,
            idempotency_key,
            confirm,
            wait_live_ms: wait_live_seconds.saturating_mul(1_000),
            ..v1::WriteRequest::default()
        };
        let begun = Instant::now();
        loop {
            // What is refused for its quota was not begun: it may be sent again.
            let answer = self.led(|mut client| {
                let request = request.clone();
                async move { client.write(request).await }
            });
            let refused = match answer.await {
                Ok(answer) => return Ok(answer),
                Err(refused) => refused,
            };
            let wait = match &refused {
                ApiError::Refused { details, .. } => details.retry_after_ms,
                _ => None,
            };
            let wait = wait.map(|ms| Duration::from_millis(ms.into()));
            match wait {
                Some(wait) if begun.elapsed() + wait < QUOTA_PATIENCE => {
                    tokio::time::sleep(wait).await;
                }
                _ => return Err(refused),
            }
        }
    }

    /// Applies one update; returns what the controller made of the entity.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn write_one(&self, kind: UpdateType, entity: Kind) -> Result<Written, ApiError> {
        self.write_first([(kind, entity)]).await
    }

    /// Applies a batch; returns what the controller made of the first entity.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn write_first(
        &self,
        updates: impl IntoIterator<Item = (UpdateType, Kind)>,
    ) -> Result<Written, ApiError> {
        let answer = self.write(updates).await?;
        let first = answer.entities.into_iter().next();
        let entity = first.and_then(|entity| entity.entity);
        let entity = entity.ok_or(ApiError::Nonsense {
            call: "Write",
            missing: "the entity written",
        })?;
        Ok(Written {
            entity,
            generation: answer.generation,
            dry_run: self.options.dry_run.then_some(answer.diff),
            repeated: answer.repeated_request,
            pending: answer.pending,
            rollout: answer.rollout,
        })
    }

    /// Inserts one entity.
    ///
    /// # Errors
    /// [`ApiError`]; ALREADY_EXISTS when it is there.
    pub async fn insert(&self, entity: Kind) -> Result<Written, ApiError> {
        self.write_one(UpdateType::Insert, entity).await
    }

    /// Inserts one entity, or assigns it anew when it is there.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn upsert(&self, entity: Kind) -> Result<Written, ApiError> {
        match self.insert(entity.clone()).await {
            Err(error) if error.code() == Code::AlreadyExists => {
                self.write_one(UpdateType::Modify, entity).await
            }
            other => other,
        }
    }

    /// Deletes one entity by its key fields.
    ///
    /// # Errors
    /// [`ApiError`]; NOT_FOUND when it is not there.
    pub async fn delete(&self, entity: Kind) -> Result<Written, ApiError> {
        self.write_one(UpdateType::Delete, entity).await
    }

    /// All entities of a kind, or the one with `key` when that is not empty.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn read(&self, kind: ReadKind, key: &str) -> Result<Read, ApiError> {
        let mut entities = Vec::new();
        let mut page = String::new();
        let mut first_generation = None;
        loop {
            let request = v1::ReadRequest {
                kind: kind.into(),
                key: key.to_owned(),
                page_size: PAGE_SIZE,
                page,
            };
            let answer = self.client.clone().read(request).await;
            let answer = answer.map_err(|status| self.refused(&status))?.into_inner();
            entities.extend(
                answer
                    .entities
                    .into_iter()
                    .filter_map(|entity| entity.entity),
            );
            let generation = answer.generation;
            let first_generation = *first_generation.get_or_insert(generation);
            if answer.next_page.is_empty() {
                return Ok(Read {
                    entities,
                    generation,
                    first_generation,
                });
            }
            page = answer.next_page;
        }
    }

    /// Every router and the generation read.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn routers(&self) -> Result<(Vec<v1::Router>, u64), ApiError> {
        let read = self.read(ReadKind::Router, "").await?;
        let routers = read.entities.into_iter().filter_map(|entity| match entity {
            Kind::Router(router) => Some(router),
            _ => None,
        });
        Ok((routers.collect(), read.generation))
    }

    /// Every agent.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn agents(&self) -> Result<Vec<v1::Agent>, ApiError> {
        let read = self.read(ReadKind::Agent, "").await?;
        let agents = read.entities.into_iter().filter_map(|entity| match entity {
            Kind::Agent(agent) => Some(agent),
            _ => None,
        });
        Ok(agents.collect())
    }

    /// Every class, in label order.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn classes(&self) -> Result<Vec<v1::Class>, ApiError> {
        let read = self.read(ReadKind::Class, "").await?;
        let classes = read.entities.into_iter().filter_map(|entity| match entity {
            Kind::Class(class) => Some(class),
            _ => None,
        });
        Ok(classes.collect())
    }

    /// The best classes or agents for a path, an id or a text; `asker` empty = whatever there is.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn resolve(
        &self,
        target: v1::resolve::Target,
        limit: u32,
        asker: &str,
        constraints: Option<v1::Constraints>,
    ) -> Result<v1::ResolveResponse, ApiError> {
        let query = v1::Resolve {
            query_id: 0,
            target: Some(target),
            limit,
            constraints,
        };
        let request = v1::ResolveRequest {
            query: Some(query),
            asker: asker.to_owned(),
        };
        let answer = self.client.clone().resolve(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.refused(&status))
    }

    /// Confirms, cancels or extends what waits to be confirmed; returns it, and the generation in which that held.
    ///
    /// # Errors
    /// [`ApiError`]; NOT_FOUND when nothing of that id waits or did lately.
    pub async fn confirm(
        &self,
        id: &str,
        action: v1::confirm_request::Action,
        extend_seconds: u32,
    ) -> Result<(v1::PendingCommit, u64), ApiError> {
        let request = v1::ConfirmRequest {
            id: id.to_owned(),
            action: action.into(),
            extend_seconds,
        };
        let answer = self
            .led(|mut client| {
                let request = request.clone();
                async move { client.confirm(request).await }
            })
            .await?;
        let pending = answer.pending.ok_or(ApiError::Nonsense {
            call: "Confirm",
            missing: "what was confirmed",
        })?;
        Ok((pending, answer.generation))
    }

    /// Which routers forward by a generation; 0 = the newest.
    ///
    /// # Errors
    /// [`ApiError`]; NOT_FOUND when there is no such generation yet.
    pub async fn rollout(&self, generation: u64) -> Result<v1::RolloutResponse, ApiError> {
        let request = v1::RolloutRequest { generation };
        self.led(|mut client| async move { client.rollout(request).await })
            .await
    }

    /// Which controller this is, and which one leads.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn status(&self) -> Result<v1::StatusResponse, ApiError> {
        let answer = self.client.clone().status(v1::StatusRequest {}).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.refused(&status))
    }

    /// What would become of a message.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn explain(
        &self,
        request: v1::ExplainRequest,
    ) -> Result<v1::ExplainResponse, ApiError> {
        let answer = self.client.clone().explain(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.refused(&status))
    }

    /// What changes, as it does.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn watch(&self, request: v1::WatchRequest) -> Result<Watch, ApiError> {
        let answer = self.client.clone().watch(request).await;
        let stream = answer.map_err(|status| self.refused(&status))?.into_inner();
        Ok(Watch {
            api: self.clone(),
            stream,
        })
    }

    /// The audit log from a record on, oldest first; `count` 0 = all there is now.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn audit(&self, from: u64, count: u32) -> Result<Vec<v1::AuditRecord>, ApiError> {
        let request = v1::ReadAuditRequest { from, count };
        let answer = self.client.clone().read_audit(request).await;
        let mut stream = answer.map_err(|status| self.refused(&status))?.into_inner();
        let mut records = Vec::new();
        while let Some(record) = stream.message().await.map_err(|s| self.refused(&s))? {
            records.push(record);
        }
        Ok(records)
    }

    fn refused(&self, status: &Status) -> ApiError {
        // A status made on this side of the wire carries the transport's error as its source.
        match std::error::Error::source(status) {
            Some(source) => ApiError::Unreachable {
                address: self.address.clone(),
                cause: causes(source),
            },
            None => ApiError::Refused {
                code: status.code(),
                message: status.message().to_owned(),
                details: Details::of(status),
            },
        }
    }
}

/// Changes, as they are told.
#[derive(Debug)]
pub struct Watch {
    api: Api,
    stream: Streaming<v1::WatchResponse>,
}

impl Watch {
    /// The next message; `None` when the controller has no more to tell.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn next(&mut self) -> Result<Option<v1::watch_response::Message>, ApiError> {
        loop {
            let next = self.stream.message().await;
            match next.map_err(|status| self.api.refused(&status))? {
                None => return Ok(None),
                // A message of a newer controller is passed over.
                Some(v1::WatchResponse { message: None }) => {}
                Some(v1::WatchResponse { message }) => return Ok(message),
            }
        }
    }
}

/// What one update became.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// The entity, with what the controller decided.
    pub entity: Kind,
    /// The generation that holds it; of a dry run, the one it was tried on.
    pub generation: u64,
    /// Of a dry run: how routers' tables would differ.
    pub dry_run: Option<Vec<v1::RouterDiff>>,
    /// It had been done before, by a request with the same idempotency key.
    pub repeated: bool,
    /// What is taken back unless it is confirmed.
    pub pending: Option<v1::PendingCommit>,
    /// How far it came, when that was waited for.
    pub rollout: Option<v1::RolloutSummary>,
}

/// What was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    /// The entities, in key order.
    pub entities: Vec<Kind>,
    /// The generation that the last page was read at.
    pub generation: u64,
    /// The generation that the first page was read at: to compare and set.
    pub first_generation: u64,
}

/// An error and its causes, outermost first, each once.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn causes_are_told_once_each() {
        let error = Outer(std::io::Error::other("connection refused"));
        assert_eq!(causes(&error), "outer: connection refused");
    }

    #[tokio::test]
    async fn nobody_there_is_said_with_the_address_and_a_remedy() {
        let authority =
            crate::pki::Authority::generate(crate::pki::TRUST_DOMAIN).expect("authority");
        let request =
            crate::pki::Request::new(crate::pki::TRUST_DOMAIN, &crate::pki::Role::Operator, "ada");
        let issued = authority.issue(&request.expect("request")).expect("issued");
        let credentials = ApiCredentials {
            chain_pem: issued.chain_pem,
            key_pem: issued.key_pem,
            roots_pem: authority.certificate_pem().to_owned(),
            controller_uri: String::new(),
        };
        // Bound and not listening for TLS: closed at once.
        let error = Api::connect("127.0.0.1:1", &credentials)
            .await
            .expect_err("nobody listens");
        let text = error.to_string();
        assert!(
            text.starts_with("cannot reach the controller at 127.0.0.1:1: "),
            "{text}"
        );
        assert!(text.contains("check that it runs there"), "{text}");
        assert_eq!(error.code(), Code::Unavailable);
    }
}
