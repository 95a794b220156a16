//! Starts and stops the whole controller.
//!
//! Order: state from the store, commit thread, leading when nobody else can, both listeners,
//! `addresses.json`, then the log line `ready`. Stopping: no new calls, sessions told to leave, open calls given
//! `drain_period`, then the commit thread stores what waits. Refuses to know what any of it does.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use caplane_proto::FILE_DESCRIPTOR_SET;
use caplane_proto::v1::northbound_server::NorthboundServer;
use caplane_proto::v1::southbound_server::SouthboundServer;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;
use tonic::transport::Server;

use crate::access::{Access, Role, Rule};
use crate::audit::{self, AuditError, Auditor, Recorder};
use crate::commit::{CommitError, Committer, OpenError, State};
use crate::config::{ControllerConfig, UriPattern};
use crate::knowledge::{Knowledge, KnowledgeError};
use crate::northbound::{self, Guard, Guarded, NorthboundService};
use crate::quota::Limits;
use crate::southbound::{self, Sessions, SouthboundService, barrier};
use crate::store::{Leader, RedbStore, StoreError};
use crate::tls::{CredentialsError, Gate, PeerStream, Refusals, server_config};
use crate::unix::LocalSocket;

mod leases;
mod role;

/// HTTP/2 pings find a router or operator that is gone without a word.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections whose other end is known.
type Callers = Pin<Box<dyn Stream<Item = std::io::Result<PeerStream>> + Send>>;

/// Where a running controller says what it listens on, under `state_dir`.
pub const ADDRESSES_FILE: &str = "addresses.json";

/// Why a controller did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A certificate, key or root.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// A taxonomy file.
    #[error(transparent)]
    Knowledge(#[from] KnowledgeError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stored state.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The store, when this controller was to lead.
    #[error("cannot take over: {0}")]
    TakeOver(CommitError),
    /// A Write whose time was over while the controller was away still holds.
    #[error("cannot roll back the commit that was not confirmed in time: {0}")]
    Rollback(#[from] CommitError),
    /// A socket, folder or thread.
    #[error("cannot {operation} {place}: {source}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// On what.
        place: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A part of gRPC that is made from the .proto files.
    #[error("reflection: {0}")]
    Reflection(String),
}

/// Where a running controller is reached; the content of `addresses.json`.
#[derive(Debug, Clone, Serialize)]
pub struct Addresses {
    /// For operators and orchestrators.
    pub northbound: SocketAddr,
    /// For routers.
    pub southbound: SocketAddr,
    /// For commands on this machine, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub northbound_unix: Option<PathBuf>,
}

/// A running controller.
pub struct Running {
    addresses: Addresses,
    state: Arc<State>,
    refusals: Arc<Refusals>,
    sessions: Arc<Sessions>,
    stopping: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    committer_ended: oneshot::Receiver<()>,
    drain_period: Duration,
}

impl Running {
    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Its state.
    #[must_use]
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Peers that were turned away.
    #[must_use]
    pub fn refusals(&self) -> &Arc<Refusals> {
        &self.refusals
    }

    /// Waits for the commit thread to end by itself, which it does only when it broke.
    pub async fn broken(&mut self) {
        let _ = (&mut self.committer_ended).await;
    }

    /// Stops: sessions are told, open calls get `drain_period`, waiting changes are stored.
    pub async fn stop(self) {
        self.stopping.send_replace(true);
        self.sessions
            .end_all(&Status::unavailable("the controller is stopping"));
        let mut tasks = self.tasks;
        let drained = async {
            for task in &mut tasks {
                let _ = task.await;
            }
        };
        if tokio::time::timeout(self.drain_period, drained)
            .await
            .is_err()
        {
            tracing::warn!(event = "drain_cut_short", after = ?self.drain_period);
            for task in &tasks {
                task.abort();
            }
        }
        // Every holder of a committer is gone or going: the thread stores what waits and ends.
        let _ = tokio::time::timeout(self.drain_period, self.committer_ended).await;
    }
}

/// Starts a controller.
///
/// # Errors
/// [`StartError`], naming the file, address or cause.
pub async fn start(config: &ControllerConfig) -> Result<Running, StartError> {
    let tls = server_config(&config.credentials)?;
    let state = open(config)?;
    // Of a run before; whoever waits for it is to read the new one.
    let _ = std::fs::remove_file(config.state_dir.join(ADDRESSES_FILE));
    let sessions = Arc::new(Sessions::default());
    let deliver = sessions.clone();
    let (committer, committer_ended) = Committer::start(
        state.clone(),
        Box::new(move |verdicts| deliver.deliver(verdicts)),
    )
    .map_err(system("start", "the commit thread"))?;
    committer.settle().await.map_err(StartError::TakeOver)?;
    if state.election().is_some() {
        // Of while the controller was away: nobody is to see what is over already.
        leases::expire_pending(&state, &committer).await?;
    }
    let north = bind(config.listen_northbound).await?;
    let south = bind(config.listen_southbound).await?;
    let local = match &config.listen_unix {
        Some(path) => Some(bind_unix(path).await?),
        None => None,
    };
    let addresses = Addresses {
        northbound: address(&north, config.listen_northbound)?,
        southbound: address(&south, config.listen_southbound)?,
        // For whoever reads it in another folder.
        northbound_unix: config.listen_unix.as_deref().map(absolute),
    };
    let about = Arc::new(about(config, &addresses));
    let refusals = Arc::new(Refusals::default());
    let gate = |listener| Gate {
        listener,
        tls: tls.clone(),
        handshake_timeout: config.timers.handshake_timeout,
        refusals: refusals.clone(),
    };
    let (stopping, stop) = watch::channel(false);
    let limits = Limits::new(config.quota);
    let (recorder, recording) = Recorder::start(committer.clone(), stop.clone());
    let northbound = NorthboundService::new(
        state.clone(),
        committer.clone(),
        sessions.clone(),
        recorder.clone(),
        limits.clone(),
        stop.clone(),
        about,
    )
    .in_domain(config.domain);
    let southbound = SouthboundService::new(
        state.clone(),
        committer.clone(),
        sessions.clone(),
        config.timers,
        config.domain,
        refusals.clone(),
        &config.name,
    );
    let rules = rules(&config.roles, local.as_ref());
    let guard = Arc::new(Guard::new(
        Access::new(&rules),
        refusals.clone(),
        recorder,
        limits,
    ));
    let certified = ReceiverStream::new(gate("northbound").open(north));
    let callers: Callers = match local {
        Some(local) => {
            let local = ReceiverStream::new(local.open(refusals.clone()));
            Box::pin(certified.merge(local))
        }
        None => Box::pin(certified),
    };
    let patience = config.timers.make_before_break;
    state.gate(!patience.is_zero());
    let gate_of_changes = barrier::keep(state.clone(), sessions.clone(), patience, stop.clone());
    let tasks = vec![
        recording,
        tokio::spawn(gate_of_changes),
        serve_northbound(northbound, guard, callers, stop.clone()).await?,
        serve_southbound(southbound, gate("southbound"), south, stop.clone()),
        tokio::spawn(role::keep(state.clone(), committer.clone(), stop.clone())),
        tokio::spawn(leases::keep(
            state.clone(),
            committer,
            sessions.clone(),
            config.timers.router_lease,
            stop,
        )),
    ];
    write_addresses(&config.state_dir, &addresses)?;
    tracing::info!(
        event = "ready", name = config.name,
        northbound = %addresses.northbound, southbound = %addresses.southbound,
        generation = state.generation(), classes = state.knowledge().taxonomy().len(),
    );
    Ok(Running {
        addresses,
        state,
        refusals,
        sessions,
        stopping,
        tasks,
        committer_ended,
        drain_period: config.timers.drain_period,
    })
}

/// What others are told of this controller while it leads.
fn about(config: &ControllerConfig, addresses: &Addresses) -> Leader {
    let told = |given: &Option<String>, bound: SocketAddr| match given {
        Some(given) => given.clone(),
        None => bound.to_string(),
    };
    Leader {
        name: config.name.clone(),
        northbound: told(&config.advertise_northbound, addresses.northbound),
        southbound: told(&config.advertise_southbound, addresses.southbound),
    }
}

/// Reads taxonomy and store.
fn open(config: &ControllerConfig) -> Result<Arc<State>, StartError> {
    let knowledge = Knowledge::load(&config.taxonomy)?.with_salts(config.salts.clone());
    let knowledge = Arc::new(knowledge);
    let folders = [Some(config.state_dir.as_path()), config.store.path.parent()];
    for folder in folders.into_iter().flatten() {
        std::fs::create_dir_all(folder).map_err(system("make the folder", folder.display()))?;
    }
    let store = Arc::new(RedbStore::open(&config.store.path)?);
    let has_key = config.state_dir.join(audit::KEY_FILE).exists();
    let auditor = Auditor::open(&config.state_dir, store.as_ref(), config.audit_records_max)?;
    let no_records = auditor.newest() == 0;
    let state = State::open(store, knowledge, config.store.change_log_entries_max)?;
    if has_key && no_records && state.generation() > 0 {
        tracing::warn!(
            event = "audit_log_empty",
            generation = state.generation(),
            "the store holds changes and no record of any: they were made by a controller without an audit log, or records are gone"
        );
    }
    state.audit_by(auditor);
    Ok(state)
}

async fn serve_northbound(
    service: NorthboundService,
    guard: Arc<Guard>,
    callers: Callers,
    stop: watch::Receiver<bool>,
) -> Result<JoinHandle<()>, StartError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health
        .set_serving::<NorthboundServer<NorthboundService>>()
        .await;
    let reflection =
        |error: tonic_reflection::server::Error| StartError::Reflection(error.to_string());
    let descriptors = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // What is served here, of all that the descriptors know.
            .with_service_name(northbound::SERVICE_NAME)
            .with_service_name("grpc.health.v1.Health")
    };
    let reflection_v1 = descriptors().build_v1().map_err(reflection)?;
    // What grpcurl before 1.8.8 asks for.
    let reflection_v1alpha = descriptors().build_v1alpha().map_err(reflection)?;
    let northbound = NorthboundServer::new(service)
        .max_decoding_message_size(northbound::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(2 * northbound::MESSAGE_BYTES_MAX);
    let server = server()
        .add_service(health_service)
        .add_service(Guarded::new(reflection_v1, guard.clone()))
        .add_service(Guarded::new(reflection_v1alpha, guard.clone()))
        .add_service(Guarded::new(northbound, guard));
    Ok(tokio::spawn(async move {
        let outcome = server
            .serve_with_incoming_shutdown(callers, stopped(stop))
            .await;
        if let Err(error) = outcome {
            tracing::error!(event = "listener_broken", listener = "northbound", %error);
        }
    }))
}

fn serve_southbound(
    service: SouthboundService,
    gate: Gate,
    listener: TcpListener,
    stop: watch::Receiver<bool>,
) -> JoinHandle<()> {
    let southbound =
        SouthboundServer::new(service).max_decoding_message_size(southbound::MESSAGE_BYTES_MAX);
    let server = server().add_service(southbound);
    let incoming = ReceiverStream::new(gate.open(listener));
    tokio::spawn(async move {
        let outcome = server
            .serve_with_incoming_shutdown(incoming, stopped(stop))
            .await;
        if let Err(error) = outcome {
            tracing::error!(event = "listener_broken", listener = "southbound", %error);
        }
    })
}

fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the controller itself is gone: stop all the same.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn bind(wanted: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(wanted)
        .await
        .map_err(system("listen on", wanted))
}

async fn bind_unix(path: &Path) -> Result<LocalSocket, StartError> {
    LocalSocket::bind(path)
        .await
        .map_err(system("listen on", path.display()))
}

/// Those of the configuration, and what goes without saying: who could replace this program needs no leave of it.
fn rules(configured: &[Rule], local: Option<&LocalSocket>) -> Vec<Rule> {
    let mut rules = configured.to_vec();
    for uid in local.iter().flat_map(|local| [0, local.owner()]) {
        rules.push(Rule {
            who: UriPattern::local_user(uid),
            role: Role::Admin,
            tenants: None,
            agents: None,
        });
    }
    rules
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn address(listener: &TcpListener, wanted: SocketAddr) -> Result<SocketAddr, StartError> {
    listener
        .local_addr()
        .map_err(system("ask the address of", wanted))
}

fn system(
    operation: &'static str,
    place: impl std::fmt::Display,
) -> impl FnOnce(std::io::Error) -> StartError {
    let place = place.to_string();
    move |source| StartError::System {
        operation,
        place,
        source,
    }
}

/// Writes `addresses.json` whole or not at all: who waits for it never reads half of it.
fn write_addresses(folder: &Path, addresses: &Addresses) -> Result<(), StartError> {
    let path = folder.join(ADDRESSES_FILE);
    let draft = folder.join(".addresses.json.new");
    let text = serde_json::to_string_pretty(addresses).unwrap_or_default();
    std::fs::write(&draft, text + "\n").map_err(system("write", draft.display()))?;
    std::fs::rename(&draft, &path).map_err(system("write", path.display()))
}
