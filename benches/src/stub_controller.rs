//! A southbound controller without registry, taxonomy or store: it pushes the
//! tables it is told to push and remembers what routers answered.
//!
//! It lets one process drive a real router with tables that would otherwise
//! need thousands of registered agents. It refuses to think: tables come from
//! the caller, only the routes of attached instances are added by itself, so
//! that replies and notices find their way (as the real controller does it).

mod session;
mod table;

pub use table::{Table, key_of};

use caplane_proto::v1;
use caplane_proto::v1::southbound_server::SouthboundServer;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, oneshot};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

/// How a stub controller starts.
#[derive(Clone)]
pub struct StubConfig {
    /// Where routers dial; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The controller's certificate chain (PEM).
    pub chain_pem: String,
    /// Its private key (PEM).
    pub key_pem: String,
    /// Roots that routers' certificates must descend from (PEM).
    pub roots_pem: String,
    /// The administrative domain it gives to routers.
    pub domain: u32,
}

/// Why the stub could not start, or what it waited for did not come.
#[derive(Debug, thiserror::Error)]
pub enum StubError {
    /// The listener could not be set up.
    #[error("stub controller: cannot listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// The TLS configuration is wrong.
    #[error("stub controller: TLS: {0}")]
    Tls(tonic::transport::Error),
    /// A condition did not come true in time.
    #[error("stub controller: waited {0:?} for {1}; last seen: {2}")]
    Deadline(Duration, String, String),
    /// A router refused entries of its table.
    #[error("stub controller: {router} refused its table: {reasons:?}")]
    Refused {
        /// The router's name.
        router: String,
        /// One line an entry.
        reasons: Vec<String>,
    },
}

/// What the stub knows of one router.
#[derive(Clone, Debug, Default)]
pub struct RouterView {
    /// The table wanted for it; shared, since a view is copied whenever somebody looks.
    pub table: Arc<Table>,
    /// Generation of that table.
    pub generation: u64,
    /// `host:port` it says it is reachable at; empty before its session.
    pub address: String,
    /// Highest generation it accepted.
    pub accepted_generation: u64,
    /// The update sent last: its generation, and when it was handed to the session, made and complete.
    pub pushed: Option<(u64, std::time::Instant)>,
    /// Highest generation live on all its workers, and how long that took (microseconds).
    pub live: Option<(u64, u64)>,
    /// From the update's handing to the session to the report that it is live.
    pub live_after: Duration,
    /// Entries it refused, one line each.
    pub refused: Vec<String>,
    /// Instances attached now.
    pub attachments: Vec<v1::Attachment>,
    /// Sessions it opened so far.
    pub sessions: u64,
}

/// A running stub controller; stops when dropped.
pub struct StubController {
    state: Arc<State>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
}

pub(crate) struct State {
    domain: u32,
    book: Mutex<Book>,
    changed: Notify,
}

#[derive(Default)]
pub(crate) struct Book {
    generation: u64,
    routers: HashMap<String, RouterView>,
    /// Wakes the session of a router: its table has a new generation.
    sessions: HashMap<String, mpsc::UnboundedSender<()>>,
    names: HashMap<String, (u32, u32)>,
}

impl State {
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        // The book is consistent between statements; a panic elsewhere changes nothing about that.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StubController {
    /// Listens and serves on the current tokio runtime.
    ///
    /// # Errors
    /// [`StubError::Listen`] or [`StubError::Tls`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn start(config: StubConfig) -> Result<StubController, StubError> {
        let failed = |e| StubError::Listen(config.listen, e);
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let state = Arc::new(State {
            domain: config.domain,
            book: Mutex::new(Book::default()),
            changed: Notify::new(),
        });
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(&config.chain_pem, &config.key_pem))
            .client_ca_root(Certificate::from_pem(&config.roots_pem));
        let service = SouthboundServer::new(session::Service(Arc::clone(&state)))
            .max_decoding_message_size(64 * 1024 * 1024);
        let server = Server::builder()
            .tls_config(tls)
            .map_err(StubError::Tls)?
            .add_service(service);
        let (stop, stopped) = oneshot::channel::<()>();
        // Without it the last part of an update waits 40 ms for an acknowledgement.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        tokio::spawn(async move {
            let ended = server
                .serve_with_incoming_shutdown(incoming, async {
                    // A dropped sender means the same as a sent stop.
                    let _ = stopped.await;
                })
                .await;
            if let Err(error) = ended {
                tracing::error!(%error, "stub controller ended");
            }
        });
        Ok(StubController {
            state,
            address,
            stop: Some(stop),
        })
    }

    /// Where routers must dial.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the whole table of a router (by the last part of its certificate's
    /// URI) and pushes it; returns its generation.
    pub fn set_table(&self, router: &str, table: Table) -> u64 {
        self.edit(router, |view| view.table = Arc::new(table))
    }

    /// Changes a router's table and pushes the difference; returns the new generation.
    pub fn edit_table(&self, router: &str, edit: impl FnOnce(&mut Table)) -> u64 {
        self.edit(router, |view| edit(Arc::make_mut(&mut view.table)))
    }

    fn edit(&self, router: &str, edit: impl FnOnce(&mut RouterView)) -> u64 {
        self.state.book().edit(router, edit)
    }

    /// Answers `Resolve` questions for this path or text.
    pub fn set_name(&self, name: &str, label: u32, tenant: u32) {
        self.state
            .book()
            .names
            .insert(name.to_owned(), (label, tenant));
    }

    /// What is known of a router.
    pub fn router(&self, router: &str) -> RouterView {
        self.state
            .book()
            .routers
            .get(router)
            .cloned()
            .unwrap_or_default()
    }

    /// Waits until a router has opened a session and said where it is.
    ///
    /// # Errors
    /// [`StubError::Deadline`].
    pub async fn wait_session(
        &self,
        router: &str,
        patience: Duration,
    ) -> Result<RouterView, StubError> {
        self.wait(router, "a session", patience, |view| view.sessions > 0)
            .await
    }

    /// Waits until a generation is live on all workers of a router.
    ///
    /// # Errors
    /// [`StubError::Refused`] when the router refused entries, [`StubError::Deadline`].
    pub async fn wait_live(
        &self,
        router: &str,
        generation: u64,
        patience: Duration,
    ) -> Result<RouterView, StubError> {
        let view = self
            .wait(
                router,
                &format!("generation {generation} live"),
                patience,
                |view| {
                    !view.refused.is_empty()
                        || view.live.is_some_and(|(live, _)| live >= generation)
                },
            )
            .await?;
        if view.refused.is_empty() {
            return Ok(view);
        }
        Err(StubError::Refused {
            router: router.to_owned(),
            reasons: view.refused,
        })
    }

    /// Waits until what is known of a router satisfies `done`.
    ///
    /// # Errors
    /// [`StubError::Deadline`], naming `what`.
    pub async fn wait(
        &self,
        router: &str,
        what: &str,
        patience: Duration,
        done: impl Fn(&RouterView) -> bool,
    ) -> Result<RouterView, StubError> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let changed = self.state.changed.notified();
            let view = self.router(router);
            if done(&view) {
                return Ok(view);
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                let seen = format!(
                    "{router}: sessions {}, generation {} accepted {} live {:?}, attachments {}",
                    view.sessions,
                    view.generation,
                    view.accepted_generation,
                    view.live,
                    view.attachments.len()
                );
                return Err(StubError::Deadline(patience, what.to_owned(), seen));
            }
        }
    }
}

impl Drop for StubController {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // The server may have ended already.
            let _ = stop.send(());
        }
    }
}

impl Book {
    /// Edits a router's view, gives it the next generation and wakes its session.
    fn edit(&mut self, router: &str, edit: impl FnOnce(&mut RouterView)) -> u64 {
        self.generation += 1;
        let view = self.routers.entry(router.to_owned()).or_default();
        edit(view);
        view.generation = self.generation;
        if let Some(session) = self.sessions.get(router) {
            // A session that has just ended asks for the table when it is back.
            let _ = session.send(());
        }
        self.generation
    }
}
