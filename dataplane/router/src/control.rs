//! The control thread: one tokio current-thread runtime that joins the southbound
//! session, the Prometheus endpoint, name lookups and the stored table.
//!
//! Invariant: no message passes here. When this thread stands still, traffic goes on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::admin::exposition::{self, Scene};
use crate::admin::{self, Scrape};
use crate::config::HostPort;
use crate::fib_file::HeldTable;
use crate::shared::{Command, Note, Shared, WorkerHandle};
use crate::southbound::dial::{self, StreamEvent};
use crate::southbound::tls::ControllerTls;
use crate::southbound::{SessionCounts, Southbound, Waiting};
use crate::table_log::{Since, StoredTable};
use crate::worker::WorkerSnapshot;

/// A changed table is written this long after the change, so that a burst of
/// deltas costs one write. What a crash loses, the controller sends again.
const SAVE_AFTER: Duration = Duration::from_millis(100);

/// A worker that does not report its counters within this is shown as it last was.
const REPORT_TIMEOUT: Duration = Duration::from_millis(500);

/// How often counters are copied even when nobody asks.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Everything the control thread is made of.
pub struct ControlParts {
    /// The session's state; not yet connected.
    pub southbound: Southbound,
    /// Credentials towards the controller.
    pub tls: ControllerTls,
    /// Controllers, tried in turn.
    pub addresses: Vec<HostPort>,
    /// Bound loopback listener of the Prometheus endpoint.
    pub admin: std::net::TcpListener,
    /// What it shares with the workers.
    pub shared: Arc<Shared>,
    /// The workers.
    pub workers: Vec<WorkerHandle>,
    /// What workers ask of it.
    pub notes: mpsc::Receiver<Note>,
    /// What the session counts.
    pub counts: Arc<SessionCounts>,
    /// File of the stored table.
    pub fib_path: PathBuf,
    /// Jitter of reconnecting.
    pub seed: u64,
    /// Ends the thread.
    pub shutdown: oneshot::Receiver<()>,
}

/// Runs the control thread until it is told to end; the table is saved then.
///
/// # Errors
///
/// When the runtime or the admin listener cannot be set up.
pub fn run(parts: ControlParts) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(main_loop(parts))
}

async fn main_loop(parts: ControlParts) -> std::io::Result<()> {
    let ControlParts {
        mut southbound,
        shared,
        mut notes,
        mut shutdown,
        ..
    } = parts;
    parts.admin.set_nonblocking(true)?;
    let admin = TcpListener::from_std(parts.admin)?;
    let (scrape_sender, mut scrapes) = mpsc::channel(4);
    let admin_task = tokio::spawn(admin::serve(admin, scrape_sender));
    let (event_sender, mut events) = mpsc::channel(64);
    let dial_task = tokio::spawn(dial::run(
        parts.tls,
        parts.addresses,
        parts.seed,
        event_sender,
    ));
    let mut metrics = Metrics::new(parts.workers, parts.counts);
    let mut saving = Saving::new(parts.fib_path);
    let mut report = tokio::time::interval(REPORT_EVERY);
    report.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        let session_due = southbound.next_deadline();
        tokio::select! {
            biased;
            _ = &mut shutdown => break,
            Some(event) = events.recv() => on_event(&mut southbound, event).await,
            () = shared.control.notified() => southbound.on_woken(),
            Some(note) = notes.recv() => on_note(&mut southbound, &metrics.workers, note),
            () = sleep_until(session_due) => southbound.on_timer(Instant::now()),
            () = sleep_until(saving.due) => saving.save().await,
            Some(scrape) = scrapes.recv() => metrics.answer(scrape, &shared).await,
            _ = report.tick() => metrics.collect().await,
        }
        if let Some((held, since)) = southbound.take_unsaved() {
            saving.changed(held, since);
        }
    }
    dial_task.abort();
    admin_task.abort();
    saving.save().await;
    Ok(())
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn on_event(southbound: &mut Southbound, event: StreamEvent) {
    match event {
        StreamEvent::Connected(outgoing) => southbound.on_connected(outgoing),
        StreamEvent::Message(message) => southbound.on_message(*message).await,
        StreamEvent::Lost(reason) => southbound.on_lost(&reason),
    }
}

fn on_note(southbound: &mut Southbound, workers: &[WorkerHandle], note: Note) {
    match note {
        Note::Resolve {
            worker,
            peer,
            asker,
            query,
        } => {
            let waiting = Waiting {
                worker,
                peer,
                query_id: query.query_id,
            };
            southbound.on_resolve(waiting, asker, query);
        }
        Note::LookUp {
            worker,
            router,
            name,
        } => {
            let Some(handle) = workers.get(usize::from(worker)).cloned() else {
                return;
            };
            tokio::spawn(async move {
                let found = tokio::net::lookup_host(&name).await;
                if let Err(error) = &found {
                    tracing::warn!(event = "lookup_failed", %router, %name, %error);
                }
                let address = found.ok().and_then(|mut all| all.next());
                let command = Command::NeighbourAddress {
                    router,
                    name,
                    address,
                };
                if handle.send(command).is_err() {
                    tracing::error!(
                        event = "command_lost",
                        worker,
                        "the link asks again by itself"
                    );
                }
            });
        }
    }
}

/// Writes the table when it changed, and not more often than every [`SAVE_AFTER`].
struct Saving {
    path: PathBuf,
    /// `None` while it is written, and after that broke.
    stored: Option<StoredTable>,
    newest: Option<HeldTable>,
    /// What changed up to `newest` since the last save.
    since: Since,
    due: Option<Instant>,
}

impl Saving {
    fn new(path: PathBuf) -> Self {
        Self {
            stored: Some(StoredTable::at(path.clone())),
            path,
            newest: None,
            since: Since::default(),
            due: None,
        }
    }

    fn changed(&mut self, held: HeldTable, since: Since) {
        self.newest = Some(held);
        self.since.add(since);
        self.due.get_or_insert_with(|| Instant::now() + SAVE_AFTER);
    }

    async fn save(&mut self) {
        self.due = None;
        let Some(held) = self.newest.take() else {
            return;
        };
        let since = std::mem::take(&mut self.since);
        let stored = self.stored.take();
        let mut stored = stored.unwrap_or_else(|| StoredTable::at(self.path.clone()));
        let generation = held.fib.generation();
        let written = tokio::task::spawn_blocking(move || {
            let saved = stored.save(&held, &since);
            (stored, saved)
        });
        let written = written.await.map(|(stored, saved)| {
            self.stored = Some(stored);
            saved
        });
        match written {
            Ok(Ok(saved)) => {
                let (bytes, whole) = (saved.bytes, saved.whole);
                tracing::info!(event = "table_saved", %generation, bytes, whole);
            }
            Ok(Err(error)) => {
                tracing::error!(event = "table_not_saved", %generation, %error, "a restart without a controller would use an older table");
            }
            Err(error) => tracing::error!(event = "table_not_saved", %generation, %error),
        }
    }
}

/// The latest counters of every worker.
struct Metrics {
    workers: Vec<WorkerHandle>,
    snapshots: Vec<WorkerSnapshot>,
    counts: Arc<SessionCounts>,
}

impl Metrics {
    fn new(workers: Vec<WorkerHandle>, counts: Arc<SessionCounts>) -> Self {
        let snapshots = workers.iter().map(|_| WorkerSnapshot::default()).collect();
        Self {
            workers,
            snapshots,
            counts,
        }
    }

    /// Asks every worker for a copy of its counters.
    async fn collect(&mut self) {
        for (handle, snapshot) in self.workers.iter().zip(&mut self.snapshots) {
            let (sender, receiver) = oneshot::channel();
            if handle.send(Command::Report(sender)).is_err() {
                continue;
            }
            if let Ok(Ok(fresh)) = tokio::time::timeout(REPORT_TIMEOUT, receiver).await {
                *snapshot = fresh;
            }
        }
    }

    async fn answer(&mut self, scrape: Scrape, shared: &Shared) {
        self.collect().await;
        let attachments = shared.attachments().len();
        let text = exposition::text(&Scene {
            workers: &self.snapshots,
            session: &self.counts,
            generation: shared.table.load().fib.generation().0,
            stale: shared.is_stale(),
            attachments,
        });
        // The scraper may have gone.
        let _ = scrape.send(text);
    }
}
