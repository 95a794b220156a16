//! Which routers are here, and what each holds: the controller's memory of them while it runs.
//!
//! Nothing of it is stored: after a restart routers say it again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use caplane_proto::v1::RefusedAttachment;
use caplane_wire::Label;
use tokio::sync::{mpsc, watch};
use tonic::Status;

/// Verdicts waiting for one session; beyond it the router learns from its table instead.
const VERDICTS_MAX: usize = 1_024;

/// Reasons of a refused generation that are kept.
const REASONS_MAX: usize = 32;

/// What is known of one router.
#[derive(Debug, Clone, Default)]
pub struct RouterStatus {
    /// A session is open.
    pub connected: bool,
    /// Program and version.
    pub software: String,
    /// Last generation sent.
    pub pushed_generation: u64,
    /// Last generation in force on every worker.
    pub live_generation: u64,
    /// From arrival to in force (microseconds).
    pub live_took_us: u64,
    /// When that was reported (Unix milliseconds).
    pub live_unix_ms: u64,
    /// Last generation it refused; 0 = none.
    pub rejected_generation: u64,
    /// Why.
    pub rejected_reasons: Vec<String>,
}

struct Row {
    status: RouterStatus,
    heard: Instant,
    session: Option<Handle>,
    /// The newest session's id, also when it is over.
    latest: u64,
}

impl Row {
    fn new() -> Self {
        Self {
            status: RouterStatus::default(),
            heard: Instant::now(),
            session: None,
            latest: 0,
        }
    }
}

struct Handle {
    id: u64,
    ended: watch::Sender<Option<Status>>,
    verdicts: mpsc::Sender<RefusedAttachment>,
}

/// A session's own end of its handle.
pub(super) struct Control {
    pub(super) id: u64,
    ended: watch::Receiver<Option<Status>>,
    verdicts: mpsc::Receiver<RefusedAttachment>,
}

/// All routers' sessions.
pub struct Sessions {
    started: Instant,
    rows: Mutex<(u64, HashMap<Label, Row>)>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            rows: Mutex::default(),
        }
    }
}

impl Control {
    /// The next verdicts for this router, or why somebody else ends the session.
    pub(super) async fn next(&mut self) -> Result<Vec<RefusedAttachment>, Status> {
        tokio::select! {
            ended = self.ended.wait_for(Option::is_some) => Err(match ended {
                Ok(status) => status.clone().unwrap_or_else(taken_over),
                Err(_) => taken_over(),
            }),
            first = self.verdicts.recv() => {
                let mut refused: Vec<_> = first.into_iter().collect();
                while let Ok(next) = self.verdicts.try_recv() {
                    refused.push(next);
                }
                if refused.is_empty() { Err(taken_over()) } else { Ok(refused) }
            }
        }
    }
}

fn taken_over() -> Status {
    Status::aborted("a newer session of this router took over")
}

impl Sessions {
    fn rows(&self) -> MutexGuard<'_, (u64, HashMap<Label, Row>)> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, router: Label, change: impl FnOnce(&mut Row)) {
        let mut rows = self.rows();
        change(rows.1.entry(router).or_insert_with(Row::new));
    }

    /// A session begins; an older one of the same router ends.
    pub(super) fn begin(&self, router: Label, software: &str, held: u64) -> Control {
        let (ended, watch) = watch::channel(None);
        let (verdicts, waiting) = mpsc::channel(VERDICTS_MAX);
        // One lock for id and row: of two sessions that begin together the later id stays.
        let mut rows = self.rows();
        rows.0 += 1;
        let id = rows.0;
        let handle = Handle {
            id,
            ended,
            verdicts,
        };
        let row = rows.1.entry(router).or_insert_with(Row::new);
        row.heard = Instant::now();
        row.latest = id;
        row.status.connected = true;
        row.status.software = software.chars().take(64).collect();
        row.status.live_generation = held;
        if let Some(older) = row.session.replace(handle) {
            older.ended.send_replace(Some(taken_over()));
        }
        Control {
            id,
            ended: watch,
            verdicts: waiting,
        }
    }

    /// A session is over.
    pub(super) fn finish(&self, router: Label, id: u64) {
        self.with(router, |row| {
            if row.session.as_ref().is_some_and(|session| session.id == id) {
                row.session = None;
                row.status.connected = false;
            }
        });
    }

    /// Whether no newer session of the router has begun; true also after this one's end.
    pub(super) fn is_latest(&self, router: Label, id: u64) -> bool {
        self.rows()
            .1
            .get(&router)
            .is_some_and(|row| row.latest == id)
    }

    /// Ends a router's session from outside; it opens another when it lives.
    pub fn end(&self, router: Label, status: Status) {
        self.with(router, |row| {
            if let Some(session) = &row.session {
                session.ended.send_replace(Some(status));
            }
        });
    }

    /// Ends every session.
    pub fn end_all(&self, status: &Status) {
        for row in self.rows().1.values() {
            if let Some(session) = &row.session {
                session.ended.send_replace(Some(status.clone()));
            }
        }
    }

    /// The router said something: its lease runs anew.
    pub(super) fn heard(&self, router: Label) {
        self.with(router, |row| row.heard = Instant::now());
    }

    /// How long a router has been silent, at most since this controller started.
    #[must_use]
    pub fn silence(&self, router: Label) -> Duration {
        let rows = self.rows();
        let heard = rows.1.get(&router).map_or(self.started, |row| row.heard);
        heard.elapsed()
    }

    pub(super) fn pushed(&self, router: Label, generation: u64) {
        self.with(router, |row| row.status.pushed_generation = generation);
    }

    pub(super) fn live(&self, router: Label, generation: u64, took_us: u64, now_unix_ms: u64) {
        self.with(router, |row| {
            row.status.live_generation = generation;
            row.status.live_took_us = took_us;
            row.status.live_unix_ms = now_unix_ms;
        });
    }

    pub(super) fn rejected(&self, router: Label, generation: u64, mut reasons: Vec<String>) {
        if reasons.len() > REASONS_MAX {
            let more = reasons.len() - REASONS_MAX;
            reasons.truncate(REASONS_MAX);
            reasons.push(format!("and {more} more"));
        }
        self.with(router, |row| {
            row.status.rejected_generation = generation;
            row.status.rejected_reasons = reasons;
        });
    }

    /// What is known of a router.
    #[must_use]
    pub fn status(&self, router: Label) -> RouterStatus {
        let rows = self.rows();
        rows.1
            .get(&router)
            .map(|row| row.status.clone())
            .unwrap_or_default()
    }

    /// Hands verdicts to the sessions they are for; one without a session learns when it opens one.
    pub fn deliver(&self, verdicts: Vec<(Label, RefusedAttachment)>) {
        if verdicts.is_empty() {
            return;
        }
        let rows = self.rows();
        for (router, verdict) in verdicts {
            let session = rows.1.get(&router).and_then(|row| row.session.as_ref());
            if let Some(session) = session
                && session.verdicts.try_send(verdict).is_err()
            {
                tracing::warn!(event = "verdict_lost", %router, "the router reads too slowly");
            }
        }
    }
}
