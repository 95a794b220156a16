//! The session with the controller: tables in, attachments and liveness out.
//!
//! [`dial`] keeps a gRPC stream to one of the controllers; [`Southbound`] is what is said on
//! it, free of sockets: events come in by method calls, messages leave through a
//! channel. It applies updates whole or not at all, publishes tables to the
//! workers and says when they are live, reports attachments, renews leases, relays Resolve.
//!
//! Invariant: of the controllers of one store it has nothing from one that led before another it met
//! (`election_id`), also after a restart.
//!
//! Invariant: losing the controller changes nothing for traffic. The last good table stays in force and
//! the router says that it is stale.

mod assembly;
pub mod dial;
mod relay;
pub mod tls;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use caplane_core::Fib;
use caplane_core::fib::Rejection;
use caplane_proto::v1;
use caplane_proto::v1::controller_message::Message as FromController;
use caplane_proto::v1::router_message::Message as ToController;
use caplane_wire::{Label, LabelKind};
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::assembly::{Assembly, Whole};
use self::relay::Relay;
pub use self::relay::Waiting;
use crate::config::{Limits, Timers};
use crate::control_frame::SOFTWARE;
use crate::fib_file::HeldTable;
use crate::shared::{Command, Shared, WorkerHandle};
use crate::table_log::{Row, Since};
use crate::{lookup, table};

/// Attachments are collected for this long, so that a thousand at once are few messages.
const REPORT_AFTER: Duration = Duration::from_millis(10);

/// Bytes of one report, cards included: half of what gRPC takes by default.
const REPORT_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Lease when the controller names none.
const LEASE_DEFAULT: Duration = Duration::from_secs(30);

/// What the session has done so far; read by the Prometheus endpoint.
#[derive(Debug, Default)]
pub struct SessionCounts {
    /// Sessions the controller accepted.
    pub accepted: AtomicU64,
    /// 1 while a session is open.
    pub connected: AtomicU64,
    /// Updates put in force.
    pub updates_applied: AtomicU64,
    /// Those of them that were snapshots: a router that resumes by difference adds none.
    pub snapshots_applied: AtomicU64,
    /// Updates refused; the last good table stayed.
    pub updates_rejected: AtomicU64,
    /// From the arrival of the last update's last part until it was live on every worker (microseconds).
    pub live_took_us: AtomicU64,
    /// Resolves the controller did not answer in time, or that found none.
    pub resolves_failed: AtomicU64,
    /// Answers and verdicts a worker's full channel did not take.
    pub commands_lost: AtomicU64,
}

/// What this router says of itself.
#[derive(Debug, Clone)]
pub struct SelfDescription {
    /// `host:port` others reach it at.
    pub address: String,
}

/// The router's side of the session, and the table it holds.
pub struct Southbound {
    about: SelfDescription,
    held: HeldTable,
    shared: Arc<Shared>,
    workers: Vec<WorkerHandle>,
    counts: Arc<SessionCounts>,
    session: Option<Session>,
    relay: Relay,
    /// A publication that is not yet live on every worker.
    awaited: Option<Awaited>,
    /// Tables that were in force, each with the epoch that replaced it: kept until every worker has that one, so that no worker
    /// is the last to let go of a large table and spends its time freeing it.
    retired: Vec<(u64, Arc<Fib>)>,
    /// The generation of the held table's store that is live on every worker; 0 = none.
    live: u64,
    /// What changed of the table since this was last taken.
    unsaved: Option<Since>,
}

/// An open stream.
struct Session {
    outgoing: mpsc::Sender<v1::RouterMessage>,
    accepted: Option<v1::SessionAccepted>,
    assembly: Assembly,
    report_at: Option<Instant>,
    renew_at: Option<Instant>,
}

/// An update that was not put in force.
struct Unapplied {
    rejections: Vec<Rejection>,
    /// It is a difference to something else than what is held.
    snapshot_helps: bool,
}

impl From<Vec<Rejection>> for Unapplied {
    fn from(rejections: Vec<Rejection>) -> Self {
        Self {
            rejections,
            snapshot_helps: false,
        }
    }
}

struct Awaited {
    epoch: u64,
    generation: u64,
    arrived: Instant,
}

impl Southbound {
    /// A router that holds `held` and has no session.
    pub fn new(
        about: SelfDescription,
        held: HeldTable,
        shared: Arc<Shared>,
        workers: Vec<WorkerHandle>,
        limits: &Limits,
        timers: &Timers,
        counts: Arc<SessionCounts>,
    ) -> Self {
        Self {
            about,
            // The workers start with it.
            live: held.fib.generation().0,
            held,
            shared,
            workers,
            counts,
            session: None,
            relay: Relay::new(limits.resolve_outstanding_max, timers.resolve_timeout),
            awaited: None,
            retired: Vec::new(),
            unsaved: None,
        }
    }

    /// The table held and what of it changed, when any did since this was last asked.
    pub fn take_unsaved(&mut self) -> Option<(HeldTable, Since)> {
        let since = self.unsaved.take()?;
        Some((self.held.clone(), since))
    }

    /// A stream to a controller is open: introduces the router on it.
    pub fn on_connected(&mut self, outgoing: mpsc::Sender<v1::RouterMessage>) {
        let open = v1::SessionOpen {
            address: self.about.address.clone(),
            held_generation: self.held.fib.generation().0,
            store_id: self.held.store_id.clone(),
            software: SOFTWARE.to_owned(),
            attachments: self.shared.attachments().all(),
            live_generation: self.live,
            highest_election_id: self.held.election_id,
        };
        self.session = Some(Session {
            outgoing,
            accepted: None,
            assembly: Assembly::default(),
            report_at: None,
            renew_at: None,
        });
        self.send(ToController::Open(open));
    }

    /// The stream is gone; the table stays.
    pub fn on_lost(&mut self, reason: &str) {
        let was_accepted = self.session.take().is_some_and(|s| s.accepted.is_some());
        self.counts.connected.store(0, Ordering::Relaxed);
        self.shared.stale.store(true, Ordering::Relaxed);
        if was_accepted {
            let generation = self.held.fib.generation();
            tracing::warn!(event = "controller_lost", %generation, reason, "forwarding goes on by the table held, which is stale from now on");
        }
        for waiting in self.relay.fail_all() {
            self.answer_failed(
                &waiting,
                "the controller went away; ask again, or ask for a label (\"class:7.12.3\")",
            );
        }
    }

    /// A message of the controller.
    pub async fn on_message(&mut self, message: v1::ControllerMessage) {
        match message.message {
            Some(FromController::Accepted(accepted)) => self.on_accepted(accepted),
            Some(FromController::Update(update)) => self.on_update(update).await,
            Some(FromController::Resolved(answer)) => self.on_resolved(answer),
            Some(FromController::Verdict(verdict)) => self.on_verdict(verdict),
            None => {
                tracing::warn!(
                    event = "unknown_message",
                    "the controller said something this router does not know; it is newer"
                );
            }
        }
    }

    fn on_accepted(&mut self, accepted: v1::SessionAccepted) {
        if accepted.store_id == self.held.store_id {
            let (met, offered) = (self.held.election_id, accepted.election_id);
            if offered < met {
                let name = &accepted.controller;
                return self.on_lost(&format!(
                    "controller {name} led with election id {offered}, since then {met} was met"
                ));
            }
            self.remember(offered);
        }
        let Some(session) = &mut self.session else {
            return;
        };
        let now = Instant::now();
        session.renew_at = Some(now + renew_every(&accepted));
        session.report_at = Some(now + REPORT_AFTER);
        self.counts.accepted.fetch_add(1, Ordering::Relaxed);
        self.counts.connected.store(1, Ordering::Relaxed);
        let held = self.held.fib.generation().0;
        let current = accepted.store_id == self.held.store_id && accepted.generation == held;
        self.shared.stale.store(!current, Ordering::Relaxed);
        tracing::info!(event = "session_accepted", router = %Label::from_bits(accepted.router_label), held, newest = accepted.generation, store = %accepted.store_id);
        session.accepted = Some(accepted);
    }

    /// An election id met of the held table's store. It is stored with the table.
    fn remember(&mut self, election_id: u64) {
        if election_id > self.held.election_id {
            self.held.election_id = election_id;
            if self.held.fib.generation().0 > 0 {
                self.unsaved.get_or_insert_default().add(Since::Whole);
            }
        }
    }

    /// Whether an update is of a controller that leads no more: then it is refused and the session ended.
    fn is_deposed(&mut self, update: &v1::TableUpdate) -> bool {
        let Some(accepted) = self.session.as_mut().and_then(|s| s.accepted.as_mut()) else {
            // It is refused for another reason.
            return false;
        };
        let offered = update.election_id;
        let mut met = accepted.election_id;
        let of_held = accepted.store_id == self.held.store_id;
        if of_held {
            met = met.max(self.held.election_id);
        }
        if offered >= met {
            accepted.election_id = offered;
            if of_held {
                self.remember(offered);
            }
            return false;
        }
        let reason = format!("election id {offered} is over, {met} was met");
        self.counts.updates_rejected.fetch_add(1, Ordering::Relaxed);
        self.send(ToController::Answer(v1::TableAnswer {
            nonce: update.nonce,
            generation: update.generation,
            rejected: vec![v1::Rejected {
                key: None,
                reason: reason.clone(),
            }],
            needs_snapshot: false,
        }));
        self.on_lost(&reason);
        true
    }

    async fn on_update(&mut self, update: v1::TableUpdate) {
        let arrived = Instant::now();
        if self.is_deposed(&update) {
            return;
        }
        let Some(session) = &mut self.session else {
            return;
        };
        let Some(whole) = session.assembly.add(update) else {
            return;
        };
        let (nonce, generation) = (whole.nonce, whole.generation);
        let snapshot = whole.base == 0;
        let mut needs_snapshot = false;
        let rejected = match self.apply(whole).await {
            Ok(()) => {
                let snapshots = &self.counts.snapshots_applied;
                snapshots.fetch_add(u64::from(snapshot), Ordering::Relaxed);
                self.publish(arrived);
                Vec::new()
            }
            Err(Unapplied {
                rejections,
                snapshot_helps,
            }) => {
                needs_snapshot = snapshot_helps;
                self.counts.updates_rejected.fetch_add(1, Ordering::Relaxed);
                for rejection in rejections.iter().take(8) {
                    tracing::error!(event = "table_rejected", generation, %rejection);
                }
                rejections.iter().map(table::rejected).collect()
            }
        };
        self.send(ToController::Answer(v1::TableAnswer {
            nonce,
            generation,
            rejected,
            needs_snapshot,
        }));
    }

    /// Computes the table after `whole` and holds it. Large snapshots take a second, so
    /// the work is done beside the control thread's runtime.
    async fn apply(&mut self, whole: Whole) -> Result<(), Unapplied> {
        let update_fault = |reason: String| Unapplied::from(vec![Rejection { key: None, reason }]);
        let accepted = self
            .session
            .as_ref()
            .and_then(|s| s.accepted.clone())
            .ok_or_else(|| update_fault("an update came before SessionAccepted".to_owned()))?;
        let held = self.held.fib.generation().0;
        let base = if whole.base == 0 {
            let router = Label::from_bits(accepted.router_label);
            if router.kind() != LabelKind::Router {
                return Err(update_fault(format!(
                    "SessionAccepted gave this router the label {router}, which is not of kind Router"
                )));
            }
            Fib::empty(accepted.domain, router)
        } else if whole.base == held && accepted.store_id == self.held.store_id {
            self.held.fib.clone()
        } else {
            let fault = update_fault(format!(
                "the update is a difference to generation {} of store {}, this router holds generation {held} of store {}; send a snapshot",
                whole.base, accepted.store_id, self.held.store_id
            ));
            return Err(Unapplied {
                snapshot_helps: true,
                ..fault
            });
        };
        let empty = whole.upserts.is_empty() && whole.removes.is_empty();
        if whole.base != 0 && whole.generation == held && empty {
            // "What you hold is the newest": nothing to compute.
            return Ok(());
        }
        let applied = tokio::task::spawn_blocking(move || {
            let update = whole.into_update();
            let row = Row::of(&update);
            let (base_generation, generation) = (update.base_generation, update.generation);
            let delta = table::delta(base_generation, generation, update.upserts, update.removes)?;
            Ok::<_, Vec<Rejection>>((base.apply(&delta)?, row))
        });
        let (fib, row) = applied
            .await
            .map_err(|e| update_fault(format!("applying the update failed: {e}")))??;
        let since = match row {
            Some(row) if accepted.router_name == self.held.router_name => Since::Rows(vec![row]),
            // The table file also says what the router is called.
            _ => Since::Whole,
        };
        self.unsaved.get_or_insert_default().add(since);
        if accepted.store_id != self.held.store_id {
            // What is in force until the workers take this one is no generation of its store.
            self.live = 0;
        }
        self.held = HeldTable {
            fib,
            router_name: accepted.router_name,
            store_id: accepted.store_id,
            election_id: accepted.election_id,
        };
        Ok(())
    }

    fn publish(&mut self, arrived: Instant) {
        let replaced = self.shared.table.load().fib.clone();
        let epoch = self.shared.publish(Arc::new(self.held.fib.clone()));
        self.retired.push((epoch, replaced));
        for worker in &self.workers {
            worker.wake();
        }
        self.awaited = Some(Awaited {
            epoch,
            generation: self.held.fib.generation().0,
            arrived,
        });
        self.shared.stale.store(false, Ordering::Relaxed);
        self.counts.updates_applied.fetch_add(1, Ordering::Relaxed);
    }

    /// A worker took a table, or an instance came or went.
    pub fn on_woken(&mut self) {
        let live = self.shared.live_everywhere();
        let unused: Vec<_> = self
            .retired
            .extract_if(.., |(epoch, _)| *epoch <= live)
            .collect();
        if !unused.is_empty() {
            // Freeing a million entries takes tens of milliseconds, which no worker and no session waits for.
            tokio::task::spawn_blocking(move || drop(unused));
        }
        if let Some(awaited) = self.awaited.take_if(|awaited| awaited.epoch <= live) {
            let took_us = awaited.arrived.elapsed().as_micros() as u64;
            self.counts.live_took_us.store(took_us, Ordering::Relaxed);
            self.live = awaited.generation;
            tracing::info!(
                event = "table_live",
                generation = awaited.generation,
                took_us
            );
            self.send(ToController::Live(v1::LiveReport {
                generation: awaited.generation,
                took_us,
            }));
        }
        if let Some(session) = &mut self.session
            && session.accepted.is_some()
            && session.report_at.is_none()
        {
            session.report_at = Some(Instant::now() + REPORT_AFTER);
        }
    }

    /// When [`Southbound::on_timer`] is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        let session = self.session.as_ref();
        [
            session.and_then(|s| s.report_at),
            session.and_then(|s| s.renew_at),
            self.relay.next_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Reports, renewals and timeouts that are due.
    pub fn on_timer(&mut self, now: Instant) {
        for waiting in self.relay.expired(now) {
            self.answer_failed(&waiting, "the controller did not answer in time; ask again");
        }
        let Some(session) = &mut self.session else {
            return;
        };
        let report = session.report_at.take_if(|at| *at <= now).is_some();
        let renew = match (&session.renew_at, &session.accepted) {
            (Some(at), Some(accepted)) if *at <= now => {
                session.renew_at = Some(now + renew_every(accepted));
                true
            }
            _ => false,
        };
        if report {
            self.report_attachments();
        }
        if renew {
            let attachments = self.shared.attachments().len() as u64;
            self.send(ToController::Renewal(v1::LeaseRenewal { attachments }));
        }
    }

    fn report_attachments(&mut self) {
        loop {
            let report = self.shared.attachments().report(REPORT_BYTES_MAX);
            let Some(report) = report else { return };
            if !self.send(ToController::Attachments(report)) {
                return;
            }
        }
    }

    /// An instance asked what the table cannot answer.
    pub fn on_resolve(&mut self, waiting: Waiting, asker: String, query: v1::Resolve) {
        if self.session.as_ref().is_none_or(|s| s.accepted.is_none()) {
            self.answer_failed(&waiting, "no controller is reachable now; ask for a label (\"class:7.12.3\"), or again later");
            return;
        }
        match self.relay.ask(waiting, Instant::now()) {
            Ok(relay_id) => {
                self.send(ToController::Resolve(v1::ResolveRelay {
                    relay_id,
                    asker,
                    query: Some(query),
                }));
            }
            Err(waiting) => {
                self.answer_failed(
                    &waiting,
                    "too many questions wait for the controller; ask again later",
                );
            }
        }
    }

    fn on_resolved(&mut self, answer: v1::ResolveAnswer) {
        let Some(waiting) = self.relay.answered(answer.relay_id) else {
            return;
        };
        let mut resolved = answer.answer.unwrap_or_default();
        resolved.query_id = waiting.query_id;
        self.answer(&waiting, resolved);
    }

    fn answer_failed(&self, waiting: &Waiting, error: &str) {
        self.counts.resolves_failed.fetch_add(1, Ordering::Relaxed);
        let generation = self.held.fib.generation().0;
        self.answer(waiting, lookup::failed(waiting.query_id, generation, error));
    }

    fn answer(&self, waiting: &Waiting, answer: v1::Resolved) {
        let peer = waiting.peer;
        self.command(waiting.worker, Command::Resolved { peer, answer });
    }

    fn on_verdict(&self, verdict: v1::AttachmentVerdict) {
        for refused in verdict.refused {
            for worker in 0..self.workers.len() {
                let command = Command::CloseInstance {
                    label: Label::from_bits(refused.label),
                    code: refused.code(),
                    reason: refused.reason.clone(),
                };
                self.command(worker as u8, command);
            }
        }
    }

    /// Hands a command to a worker; one that a stuck worker's channel does not take is counted.
    pub fn command(&self, worker: u8, command: Command) {
        let Some(handle) = self.workers.get(usize::from(worker)) else {
            return;
        };
        if handle.send(command).is_err() {
            self.counts.commands_lost.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                event = "command_lost",
                worker,
                "a worker's command channel is full: it does not tick"
            );
        }
    }

    /// Sends to the controller. A controller that does not read loses the session, and with
    /// it nothing: the next one begins with everything.
    fn send(&mut self, message: ToController) -> bool {
        let Some(session) = &self.session else {
            return false;
        };
        let message = v1::RouterMessage {
            message: Some(message),
        };
        if session.outgoing.try_send(message).is_err() {
            self.on_lost("the controller does not read");
            return false;
        }
        true
    }
}

/// Three renewals in a lease: two may be lost.
fn renew_every(accepted: &v1::SessionAccepted) -> Duration {
    let lease = match accepted.lease_ms {
        0 => LEASE_DEFAULT,
        ms => Duration::from_millis(u64::from(ms)),
    };
    (lease / 3).max(Duration::from_millis(10))
}
