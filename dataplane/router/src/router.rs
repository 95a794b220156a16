//! Putting a router together: reads what the configuration names, binds, starts
//! the threads, and takes them down again.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use caplane_core::forward::ForwarderConfig;
use caplane_transport::{
    Credentials, CredentialsError, Endpoint, EndpointConfig, EndpointError, TrustBundle, Waker,
};
use tokio::sync::{mpsc, oneshot};

use crate::config::RouterConfig;
use crate::control::{self, ControlParts};
use crate::exchange::{self, Bell};
use crate::fib_file::{self, FibFileError, HeldTable};
use crate::shared::{COMMANDS_MAX, Command, NOTES_MAX, Shared, WorkerHandle};
use crate::southbound::tls::{ControllerTls, ControllerTlsError};
use crate::southbound::{SelfDescription, SessionCounts, Southbound};
use crate::worker::{CONTROL_BYTES_MAX, Worker, WorkerParts};
use crate::{state_file, table_log};

/// Why a router did not start. Nothing of it is left running then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Certificate, key or roots cannot be used.
    #[error("credentials: {0}")]
    Credentials(#[from] CredentialsError),
    /// The same for the controller's side.
    #[error("controller: {0}")]
    Controller(#[from] ControllerTlsError),
    /// The QUIC socket cannot be bound.
    #[error("listen: {0}")]
    Listen(#[from] EndpointError),
    /// The Prometheus endpoint cannot be bound.
    #[error("admin: bind {address}: {cause}; choose another port, or 0 for any free one")]
    Admin {
        /// The address.
        address: SocketAddr,
        /// The operating system's word.
        cause: std::io::Error,
    },
    /// The state folder cannot be used.
    #[error("state_dir {}: {cause}; it must be a folder this user can write to", path.display())]
    StateDir {
        /// The folder.
        path: PathBuf,
        /// The operating system's word.
        cause: std::io::Error,
    },
    /// A thread could not be started.
    #[error("starting a thread: {0}")]
    Thread(std::io::Error),
}

/// Where a router listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// QUIC (UDP).
    pub listen: SocketAddr,
    /// Prometheus (TCP).
    pub admin: SocketAddr,
}

/// How a router ended.
#[derive(Debug)]
pub enum Ended {
    /// It was drained or stopped.
    Asked,
    /// A worker failed: the operation and the cause.
    Failed(String),
}

/// What was bound and read, before any thread runs.
struct Bound {
    endpoints: Vec<Endpoint>,
    admin: std::net::TcpListener,
    addresses: Addresses,
    tls: ControllerTls,
    fib_path: PathBuf,
    held: HeldTable,
}

/// A running router.
pub struct Router {
    addresses: Addresses,
    workers: Vec<WorkerHandle>,
    threads: Vec<JoinHandle<()>>,
    ends: mpsc::Receiver<Result<(), String>>,
    failure: Option<String>,
    control: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    drain_period: Duration,
}

impl Router {
    /// Binds, loads the stored table and starts every thread.
    ///
    /// # Errors
    ///
    /// [`StartError`]: what failed, on what, and what to do.
    pub fn start(config: &RouterConfig) -> Result<Self, StartError> {
        let state_dir = |cause| StartError::StateDir {
            path: config.state_dir.clone(),
            cause,
        };
        std::fs::create_dir_all(&config.state_dir).map_err(state_dir)?;
        let tls = ControllerTls::load(&config.controller, &config.credentials)?;
        let endpoints = Endpoint::bind_group(
            endpoint_config(config, credentials(config)?),
            config.workers,
        )?;
        let admin =
            std::net::TcpListener::bind(config.admin).map_err(|cause| StartError::Admin {
                address: config.admin,
                cause,
            })?;
        let addresses = Addresses {
            listen: endpoints
                .first()
                .map_or(config.listen, Endpoint::local_addr),
            admin: admin.local_addr().map_err(StartError::Thread)?,
        };
        let fib_path = config.state_dir.join(fib_file::FILE_NAME);
        let held = stored_table(table_log::load(&fib_path));
        write_addresses(config, addresses).map_err(state_dir)?;

        let bound = Bound {
            endpoints,
            admin,
            addresses,
            tls,
            fib_path,
            held,
        };
        let router = Self::spawn(config, bound)?;
        tracing::info!(event = "ready", name = %config.name, listen = %addresses.listen, admin = %addresses.admin);
        Ok(router)
    }

    /// Starts the threads.
    fn spawn(config: &RouterConfig, bound: Bound) -> Result<Self, StartError> {
        let fib = bound.held.fib.clone();
        let shared = Arc::new(Shared::new(config.name.clone(), fib, config.workers));
        let (note_sender, notes) = mpsc::channel(NOTES_MAX);
        let bells = bound
            .endpoints
            .iter()
            .map(|endpoint| bell(endpoint.waker()));
        let ports = exchange::ports(bells.collect(), config.limits.peers_max);
        let mut workers = Vec::new();
        let mut parts = Vec::new();
        for (index, (endpoint, port)) in bound.endpoints.into_iter().zip(ports).enumerate() {
            let (command_sender, commands) = crossbeam::channel::bounded(COMMANDS_MAX);
            workers.push(WorkerHandle::new(command_sender, endpoint.waker()));
            parts.push(WorkerParts {
                index: index as u8,
                endpoint,
                port,
                shared: shared.clone(),
                commands,
                notes: note_sender.clone(),
                limits: config.limits.clone(),
                timers: config.timers.clone(),
                link_dscp: config.io.link_dscp,
            });
        }
        drop(note_sender);
        let (end_sender, ends) = mpsc::channel(usize::from(config.workers));
        let mut router = Self {
            addresses: bound.addresses,
            workers: workers.clone(),
            threads: Vec::new(),
            ends,
            failure: None,
            control: None,
            drain_period: config.timers.drain_period,
        };
        let cores = match config.io.pin_workers {
            true => cores().map_err(StartError::Thread)?,
            false => Vec::new(),
        };
        for worker in parts {
            let core = cores.get(usize::from(worker.index) % cores.len().max(1));
            let thread = spawn_worker(worker, core.copied(), end_sender.clone())?;
            router.threads.push(thread);
        }
        drop(end_sender);
        let counts = Arc::new(SessionCounts::default());
        let listen = bound.addresses.listen.to_string();
        let address = config
            .advertise
            .as_ref()
            .map_or(listen, ToString::to_string);
        let southbound = Southbound::new(
            SelfDescription { address },
            bound.held,
            shared.clone(),
            workers.clone(),
            &config.limits,
            &config.timers,
            counts.clone(),
        );
        let (shutdown_sender, shutdown) = oneshot::channel();
        let control = spawn_control(ControlParts {
            southbound,
            tls: bound.tls,
            addresses: config.controller.addresses.clone(),
            admin: bound.admin,
            shared,
            workers,
            notes,
            counts,
            fib_path: bound.fib_path,
            seed: crate::worker::random_seed(),
            shutdown,
        })?;
        router.control = Some((shutdown_sender, control));
        Ok(router)
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Begins to drain: peers are told, what is queued is sent, then it ends; within
    /// the configured period.
    pub fn drain(&self) {
        self.tell(Command::Drain);
    }

    /// Ends at once.
    pub fn stop(&self) {
        self.tell(|_| Command::Stop);
    }

    fn tell(&self, command: impl Fn(Duration) -> Command) {
        for worker in &self.workers {
            if worker.send(command(self.drain_period)).is_err() {
                // Gone already, or stuck: then it is the second signal that ends the process.
                tracing::debug!(
                    event = "command_lost",
                    "a worker's channel is full or closed"
                );
            }
        }
    }

    /// Waits until every worker has ended; then ends the control thread, which saves the table.
    /// May be dropped and called again while it waits.
    pub async fn ended(&mut self) -> Ended {
        while let Some(end) = self.ends.recv().await {
            if let Err(reason) = end {
                self.failure.get_or_insert(reason);
                self.stop();
            }
        }
        self.join();
        self.failure.take().map_or(Ended::Asked, Ended::Failed)
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            // A worker's panic was reported through its end.
            let _ = thread.join();
        }
        if let Some((shutdown, thread)) = self.control.take() {
            let _ = shutdown.send(());
            if thread.join().is_err() {
                tracing::error!(event = "control_panicked");
            }
        }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.stop();
        self.join();
    }
}

/// Tells how a worker ended even when it panicked.
struct EndGuard {
    sender: mpsc::Sender<Result<(), String>>,
    end: Result<(), String>,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        let end = std::mem::replace(&mut self.end, Ok(()));
        let _ = self.sender.try_send(end);
    }
}

/// The cores this process may use, in order.
fn cores() -> std::io::Result<Vec<usize>> {
    let allowed = rustix::thread::sched_getaffinity(None)?;
    let all = 0..rustix::thread::CpuSet::MAX_CPU;
    Ok(all.filter(|core| allowed.is_set(*core)).collect())
}

/// `core`: the only one it may run on.
fn spawn_worker(
    parts: WorkerParts,
    core: Option<usize>,
    sender: mpsc::Sender<Result<(), String>>,
) -> Result<JoinHandle<()>, StartError> {
    let index = parts.index;
    std::thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            let mut guard = EndGuard {
                sender,
                end: Err(format!(
                    "worker {index} panicked; this is a fault of the router, its log says where"
                )),
            };
            if let Some(core) = core {
                let mut only = rustix::thread::CpuSet::new();
                only.set(core);
                match rustix::thread::sched_setaffinity(None, &only) {
                    Ok(()) => tracing::info!(event = "worker_pinned", worker = index, core),
                    Err(error) => {
                        tracing::warn!(event = "worker_not_pinned", worker = index, core, %error)
                    }
                }
            }
            let end = Worker::new(parts).run();
            guard.end = end.map_err(|e| format!("worker {index}: {e}"));
        })
        .map_err(StartError::Thread)
}

/// What wakes a worker from another.
fn bell(waker: Waker) -> Bell {
    Box::new(move || {
        if let Err(error) = waker.wake() {
            tracing::warn!(event = "wake_failed", %error, "a worker goes on at its next timer");
        }
    })
}

fn spawn_control(parts: ControlParts) -> Result<JoinHandle<()>, StartError> {
    std::thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || {
            if let Err(error) = control::run(parts) {
                tracing::error!(event = "control_failed", %error, "traffic goes on by the table held; restart the router");
            }
        })
        .map_err(StartError::Thread)
}

fn credentials(config: &RouterConfig) -> Result<Credentials, CredentialsError> {
    let mut trust = TrustBundle::new();
    for domain in &config.credentials.trust {
        trust.add_file(&domain.domain, &domain.roots)?;
    }
    Credentials::from_files(&config.credentials.chain, &config.credentials.key, trust)
}

fn endpoint_config(config: &RouterConfig, credentials: Credentials) -> EndpointConfig {
    let mut endpoint = EndpointConfig::new(config.listen, credentials);
    // "[::]" is every address, of both families.
    endpoint.dual_stack = config.listen.is_ipv6() && config.listen.ip().is_unspecified();
    endpoint.udp_payload_max = config.quic.udp_payload_bytes_max;
    endpoint.pmtud = config.quic.path_mtu_discovery;
    endpoint.idle_timeout = config.timers.idle_timeout;
    endpoint.keepalive = Some(config.timers.idle_timeout / 2);
    endpoint.silence = Some(config.timers.silence_timeout);
    endpoint.peers_max = config.limits.peers_max;
    // Queues pin slabs; as many again are being read into, or sent and not yet acknowledged.
    let queue_slabs = config.limits.queue_total_bytes_max / ForwarderConfig::default().slab_bytes;
    endpoint.slabs_max = (2 * queue_slabs).max(64);
    // One for each bulk stream of a link at the least: all of them may stand still.
    endpoint.bulk_slabs_max = queue_slabs.max(256);
    endpoint.control_message_max = CONTROL_BYTES_MAX;
    endpoint.io = config.io.driver;
    endpoint.interface.clone_from(&config.io.interface);
    endpoint.dscp = config.io.agent_dscp;
    endpoint.busy_poll = config.io.busy_poll;
    endpoint.bulk_message_max = config.limits.bulk_message_bytes_max;
    endpoint
}

fn stored_table(loaded: Result<Option<HeldTable>, FibFileError>) -> HeldTable {
    match loaded {
        Ok(Some(held)) => {
            tracing::warn!(event = "table_stale", generation = %held.fib.generation(), store = %held.store_id, "forwarding by the stored table until a controller answers");
            held
        }
        Ok(None) => {
            tracing::info!(
                event = "table_none",
                "no stored table; nobody can attach until a controller answers"
            );
            HeldTable::none()
        }
        Err(error) => {
            tracing::error!(event = "table_damaged", %error);
            HeldTable::none()
        }
    }
}

/// `addresses.json`: where the router listens, so that port 0 can be asked for.
fn write_addresses(config: &RouterConfig, addresses: Addresses) -> std::io::Result<()> {
    let json = serde_json::json!({
        "name": config.name,
        "pid": std::process::id(),
        "listen": addresses.listen.to_string(),
        "admin": addresses.admin.to_string(),
    });
    let text = format!("{json:#}\n");
    state_file::replace(&config.state_dir.join("addresses.json"), text.as_bytes())
}
