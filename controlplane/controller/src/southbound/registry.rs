//! Which routers are here, and what each holds: the controller's memory of them while it runs.
//!
//! Nothing of it is stored: after a restart routers say it again.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use caplane_core::fib::EntryKey;
use caplane_proto::v1::RefusedAttachment;
use caplane_wire::Label;
use tokio::sync::{mpsc, watch};
use tonic::Status;

/// Verdicts waiting for one session; beyond it the session ends, and the next one brings them all.
const VERDICTS_MAX: usize = 1_024;

/// Entries of a refused generation that are kept.
const REFUSED_MAX: usize = 256;

/// Bytes of a refusal's reason that are kept.
const REASON_BYTES_MAX: usize = 256;

/// Generations of a router whose time of being live is kept.
const LIVES_MAX: usize = 1_024;

/// What is known of one router.
#[derive(Debug, Clone, Default)]
pub struct RouterStatus {
    /// A session is open.
    pub connected: bool,
    /// Program and version.
    pub software: String,
    /// Last generation sent.
    pub pushed_generation: u64,
    /// Last generation it took.
    pub accepted_generation: u64,
    /// Last generation in force on every worker.
    pub live_generation: u64,
    /// From arrival to in force (microseconds).
    pub live_took_us: u64,
    /// When that was reported (Unix milliseconds).
    pub live_unix_ms: u64,
    /// Last generation it refused; 0 = none since it took one.
    pub rejected_generation: u64,
    /// Why.
    pub rejected: Vec<RefusedEntry>,
    /// Further ones.
    pub rejected_left_out: usize,
}

/// A table entry that a router refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedEntry {
    /// The entry; `None` = the update as a whole.
    pub key: Option<EntryKey>,
    /// The router's words.
    pub reason: String,
}

/// A generation that came in force at a router.
#[derive(Debug, Clone, Copy)]
pub struct LiveAt {
    /// Its number: those since the one before are in force too.
    pub generation: u64,
    /// When that was reported.
    pub at: Instant,
    /// The same in milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// From arrival to in force (microseconds).
    pub took_us: u64,
}

#[derive(Default)]
struct Rows {
    /// Id of the last session that began.
    sessions: u64,
    /// Counts what changes in statuses, but for what was heard and sent.
    changes: u64,
    routers: HashMap<Label, Row>,
}

struct Row {
    status: RouterStatus,
    /// The count of changes when it last did.
    changed: u64,
    heard: Instant,
    session: Option<Handle>,
    /// Generations rising. Of those up to `lives_after` it is not known when they came in force.
    lives: VecDeque<LiveAt>,
    lives_after: u64,
    /// The newest session's id, also when it is over.
    latest: u64,
    /// It was waited for in vain to have this generation: until it has, nobody waits for it again.
    excused: u64,
}

impl Rows {
    /// One more change.
    fn count(&mut self) -> u64 {
        self.changes += 1;
        self.changes
    }
}

impl Row {
    fn new() -> Self {
        Self {
            status: RouterStatus::default(),
            changed: 0,
            heard: Instant::now(),
            session: None,
            lives: VecDeque::new(),
            lives_after: 0,
            latest: 0,
            excused: 0,
        }
    }

    fn begin(&mut self, held: u64, live: u64) {
        let last = self
            .lives
            .back()
            .map_or(self.lives_after, |live| live.generation);
        if live != last {
            // It came in force unseen, or is of another store.
            self.lives.clear();
            self.lives_after = live;
        }
        let status = &mut self.status;
        if status.live_generation != live {
            (status.live_took_us, status.live_unix_ms) = (0, 0);
        }
        status.live_generation = live;
        status.pushed_generation = held;
        status.accepted_generation = held;
        // It is asked anew.
        status.rejected_generation = 0;
        status.rejected.clear();
        status.rejected_left_out = 0;
    }

    fn live(&mut self, live: LiveAt) {
        let status = &mut self.status;
        if live.generation == status.live_generation && status.live_unix_ms > 0 {
            // Said again, as at the start of a session: in force it has been since it was said first.
            return;
        }
        status.live_generation = live.generation;
        status.live_took_us = live.took_us;
        status.live_unix_ms = live.unix_ms;
        let last = self
            .lives
            .back()
            .map_or(self.lives_after, |live| live.generation);
        if live.generation <= last {
            return;
        }
        if self.lives.len() == LIVES_MAX
            && let Some(oldest) = self.lives.pop_front()
        {
            self.lives_after = oldest.generation;
        }
        self.lives.push_back(live);
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
    /// Since when this controller would have heard a router; see [`Sessions::begin_anew`].
    started: Mutex<Instant>,
    rows: Mutex<Rows>,
    /// [`Rows::changes`], for those who wait for it.
    changes: watch::Sender<u64>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            started: Mutex::new(Instant::now()),
            rows: Mutex::default(),
            changes: watch::Sender::new(0),
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
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, router: Label, change: impl FnOnce(&mut Row)) {
        let mut rows = self.rows();
        change(rows.routers.entry(router).or_insert_with(Row::new));
    }

    /// Notices when what is known of any router changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Routers whose status changed after the count `after` of changes, and the count now.
    #[must_use]
    pub fn changed_since(&self, after: u64) -> (Vec<Label>, u64) {
        let rows = self.rows();
        let changed = rows.routers.iter().filter(|(_, row)| row.changed > after);
        (changed.map(|(router, _)| *router).collect(), rows.changes)
    }

    /// Changes the status of a router, and says so.
    fn tell(&self, router: Label, change: impl FnOnce(&mut Row)) {
        let count = {
            let mut rows = self.rows();
            let count = rows.count();
            let row = rows.routers.entry(router).or_insert_with(Row::new);
            row.changed = count;
            change(row);
            count
        };
        self.noticed(count);
    }

    fn noticed(&self, count: u64) {
        self.changes
            .send_modify(|newest| *newest = (*newest).max(count));
    }

    /// A session begins with what the router holds and what of it is in force there; an older one of the same router ends.
    pub(super) fn begin(&self, router: Label, software: &str, held: u64, live: u64) -> Control {
        let (ended, watch) = watch::channel(None);
        let (verdicts, waiting) = mpsc::channel(VERDICTS_MAX);
        // One lock for id and row: of two sessions that begin together the later id stays.
        let mut rows = self.rows();
        rows.sessions += 1;
        let id = rows.sessions;
        let handle = Handle {
            id,
            ended,
            verdicts,
        };
        let count = rows.count();
        let row = rows.routers.entry(router).or_insert_with(Row::new);
        row.changed = count;
        row.heard = Instant::now();
        row.latest = id;
        row.status.connected = true;
        row.status.software = software.chars().take(64).collect();
        row.begin(held, live);
        if let Some(older) = row.session.replace(handle) {
            older.ended.send_replace(Some(taken_over()));
        }
        drop(rows);
        self.noticed(count);
        Control {
            id,
            ended: watch,
            verdicts: waiting,
        }
    }

    /// A session is over.
    pub(super) fn finish(&self, router: Label, id: u64) {
        self.tell(router, |row| {
            if row.session.as_ref().is_some_and(|session| session.id == id) {
                row.session = None;
                row.status.connected = false;
            }
        });
    }

    /// Forgets routers that are registered no more.
    pub fn forget(&self, registered: impl Fn(Label) -> bool) {
        let gone: Vec<Label> = {
            let rows = self.rows();
            let known = rows.routers.iter().filter(|(_, row)| row.session.is_none());
            known.map(|(router, _)| *router).collect()
        };
        for router in gone.into_iter().filter(|router| !registered(*router)) {
            self.rows().routers.remove(&router);
        }
    }

    /// Whether no newer session of the router has begun; true also after this one's end.
    pub(super) fn is_latest(&self, router: Label, id: u64) -> bool {
        self.rows()
            .routers
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
        for row in self.rows().routers.values() {
            if let Some(session) = &row.session {
                session.ended.send_replace(Some(status.clone()));
            }
        }
    }

    /// The router said something: its lease runs anew.
    pub(super) fn heard(&self, router: Label) {
        self.with(router, |row| row.heard = Instant::now());
    }

    /// This controller leads from now on: until now routers spoke to another.
    pub fn begin_anew(&self) {
        let now = Instant::now();
        *self.started.lock().unwrap_or_else(PoisonError::into_inner) = now;
        for row in self.rows().routers.values_mut() {
            row.heard = now;
        }
    }

    /// How long a router has been silent, at most since this controller began to lead.
    #[must_use]
    pub fn silence(&self, router: Label) -> Duration {
        let started = *self.started.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = self.rows();
        let heard = rows.routers.get(&router).map_or(started, |row| row.heard);
        heard.elapsed()
    }

    pub(super) fn pushed(&self, router: Label, generation: u64) {
        self.with(router, |row| row.status.pushed_generation = generation);
    }

    /// What a session that is not the router's newest still says is of no interest.
    pub(super) fn live(
        &self,
        router: Label,
        session: u64,
        generation: u64,
        took_us: u64,
        now_unix_ms: u64,
    ) {
        if !self.is_latest(router, session) {
            return;
        }
        self.tell(router, |row| {
            row.live(LiveAt {
                generation,
                at: Instant::now(),
                unix_ms: now_unix_ms,
                took_us,
            });
        });
    }

    pub(super) fn accepted(&self, router: Label, generation: u64) {
        self.tell(router, |row| {
            row.status.accepted_generation = generation;
            row.status.rejected_generation = 0;
            row.status.rejected.clear();
            row.status.rejected_left_out = 0;
        });
    }

    pub(super) fn rejected(&self, router: Label, generation: u64, mut entries: Vec<RefusedEntry>) {
        let left_out = entries.len().saturating_sub(REFUSED_MAX);
        entries.truncate(REFUSED_MAX);
        for entry in &mut entries {
            let end = entry.reason.floor_char_boundary(REASON_BYTES_MAX);
            entry.reason.truncate(end);
            entry.reason.shrink_to_fit();
        }
        self.tell(router, |row| {
            row.status.rejected_generation = generation;
            row.status.rejected = entries;
            row.status.rejected_left_out = left_out;
        });
    }

    /// When a generation, or the first after it that was reported, came in force at a router; `None` = not yet, or
    /// nobody knows any more.
    #[must_use]
    pub fn live_at(&self, router: Label, generation: u64) -> Option<LiveAt> {
        let rows = self.rows();
        let row = rows.routers.get(&router)?;
        if generation <= row.lives_after {
            return None;
        }
        let place = row
            .lives
            .partition_point(|live| live.generation < generation);
        row.lives.get(place).copied()
    }

    /// Routers that will have a generation and do not yet: not those that are away or refused it, have no table at all,
    /// or were waited for in vain before.
    #[must_use]
    pub fn awaited(&self, generation: u64, concerns: impl Fn(Label) -> bool) -> Vec<Label> {
        let rows = self.rows();
        let awaited = rows.routers.iter().filter(|(router, row)| {
            let status = &row.status;
            let live = status.live_generation;
            row.session.is_some()
                && (1..generation).contains(&live)
                && live >= row.excused
                && status.rejected_generation < generation
                && concerns(**router)
        });
        awaited.map(|(router, _)| *router).collect()
    }

    /// These were waited for in vain to have a generation.
    pub fn excuse(&self, routers: &[Label], generation: u64) {
        for router in routers {
            self.with(*router, |row| row.excused = generation);
        }
    }

    /// What is known of a router.
    #[must_use]
    pub fn status(&self, router: Label) -> RouterStatus {
        let rows = self.rows();
        rows.routers
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
            let session = rows
                .routers
                .get(&router)
                .and_then(|row| row.session.as_ref());
            if let Some(session) = session
                && session.verdicts.try_send(verdict).is_err()
            {
                // Lost alone it would leave an instance attached there that is detached here. The next session opens with
                // all attachments, and is told of each that does not hold.
                tracing::warn!(event = "verdict_lost", %router, "the router reads too slowly; its session ends");
                session.ended.send_replace(Some(Status::resource_exhausted(
                    "more verdicts wait than are kept; open a new session",
                )));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router() -> Label {
        Label::router(1).expect("in range")
    }

    fn verdict() -> (Label, RefusedAttachment) {
        (router(), RefusedAttachment::default())
    }

    #[test]
    fn what_is_live_is_what_the_router_says_and_no_more() {
        let sessions = Sessions::default();
        let first = sessions.begin(router(), "", 7, 5);
        let status = sessions.status(router());
        assert_eq!((status.accepted_generation, status.live_generation), (7, 5));
        assert!(
            sessions.live_at(router(), 5).is_none(),
            "it came in force unseen"
        );
        sessions.live(router(), first.id, 7, 30, 1_000);
        sessions.live(router(), first.id, 9, 40, 2_000);
        sessions.live(router(), first.id, 9, 50, 3_000);
        let at = |generation| {
            sessions
                .live_at(router(), generation)
                .map(|live| live.unix_ms)
        };
        assert_eq!(
            [5, 6, 7, 8, 9, 10].map(at),
            [
                None,
                Some(1_000),
                Some(1_000),
                Some(2_000),
                Some(2_000),
                None
            ]
        );
        sessions.finish(router(), first.id);
        assert_eq!(
            sessions.status(router()).live_generation,
            9,
            "it goes on with what it has"
        );

        // The same process comes back: nothing is forgotten.
        sessions.begin(router(), "", 9, 9);
        assert_eq!(at(8), Some(2_000));
        // Another one holds it, and says that it is not in force.
        let last = sessions.begin(router(), "", 9, 0);
        // What the session before still says comes too late.
        sessions.live(router(), first.id, 9, 1, 3_500);
        let status = sessions.status(router());
        assert_eq!(
            (
                status.live_generation,
                status.live_took_us,
                status.live_unix_ms
            ),
            (0, 0, 0)
        );
        sessions.live(router(), last.id, 9, 1, 4_000);
        assert_eq!(at(8), Some(4_000));
    }

    #[test]
    fn what_was_refused_is_over_once_something_is_taken() {
        let sessions = Sessions::default();
        let mut changes = sessions.changes();
        let entry = RefusedEntry {
            key: None,
            reason: "é".repeat(REASON_BYTES_MAX),
        };
        sessions.rejected(router(), 3, vec![entry; REFUSED_MAX + 2]);
        let status = sessions.status(router());
        assert_eq!(status.rejected_generation, 3);
        assert_eq!(
            (status.rejected.len(), status.rejected_left_out),
            (REFUSED_MAX, 2)
        );
        assert_eq!(status.rejected[0].reason.len(), REASON_BYTES_MAX);
        assert!(changes.has_changed().expect("open"));
        changes.mark_unchanged();
        sessions.accepted(router(), 4);
        let status = sessions.status(router());
        assert_eq!((status.rejected_generation, status.rejected.len()), (0, 0));
        assert!(changes.has_changed().expect("open"));

        // Who comes back is asked anew.
        sessions.rejected(router(), 5, Vec::new());
        sessions.begin(router(), "", 4, 4);
        assert_eq!(sessions.status(router()).rejected_generation, 0);
    }

    #[tokio::test]
    async fn a_verdict_that_finds_no_room_ends_the_session() {
        let sessions = Sessions::default();
        let mut control = sessions.begin(router(), "", 0, 0);
        sessions.deliver((0..VERDICTS_MAX).map(|_| verdict()).collect());
        assert_eq!(
            control.next().await.expect("all of them").len(),
            VERDICTS_MAX
        );
        sessions.deliver((0..=VERDICTS_MAX).map(|_| verdict()).collect());
        let ended = control.ended.borrow().clone().expect("ended");
        assert_eq!(ended.code(), tonic::Code::ResourceExhausted);
    }

    #[test]
    fn routers_that_are_registered_no_more_are_forgotten() {
        let sessions = Sessions::default();
        let control = sessions.begin(router(), "", 4, 4);
        sessions.forget(|_| false);
        assert_eq!(
            sessions.status(router()).live_generation,
            4,
            "its session is to end first"
        );
        sessions.finish(router(), control.id);
        sessions.forget(|_| true);
        assert_eq!(sessions.status(router()).live_generation, 4);
        sessions.forget(|_| false);
        assert_eq!(sessions.status(router()).live_generation, 0);
    }
}
