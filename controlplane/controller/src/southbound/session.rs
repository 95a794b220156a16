//! One router's session, from its first message to its last.

use std::sync::Arc;
use std::time::Duration;

use caplane_proto::v1;
use caplane_proto::v1::controller_message::Message as ToRouter;
use caplane_proto::v1::router_message::Message as FromRouter;
use prost::Message as _;
use tokio::sync::{Semaphore, mpsc};
use tonic::{Status, Streaming};

use super::push::Pusher;
use super::registry::Control;
use super::{Outgoing, SouthboundService};
use crate::change::attach;
use crate::commit::{CommitError, now_unix_ms};
use crate::record::RouterRecord;
use crate::resolve::resolve;
use crate::rib::Rib;
use crate::store::{ElectionId, new_store_id};

/// From the call to `SessionOpen`.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers waiting for the pushing task, which waits for one at a time.
const ANSWERS_MAX: usize = 16;

/// Questions of one router answered at a time; it is not read while there are as many.
const RESOLVES_MAX: usize = 64;

/// Bytes of candidates in an answer, unless the first alone has more: routers hand them on in a frame of 128 KiB, and one
/// candidate's addresses are those of a card of 64 KiB.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Longest `SessionOpen.address` (bytes): a DNS name and a port.
const ADDRESS_BYTES_MAX: usize = 261;

/// Bytes of one verdict, as of one part of an update: routers take messages of at most 4 MiB.
const VERDICT_BYTES: usize = 1 << 20;

/// How long the last status may wait for a router that does not read.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Session {
    pub(super) service: SouthboundService,
    pub(super) router: RouterRecord,
    /// What this controller led by when the session began; it ends when that is over.
    pub(super) election: ElectionId,
    pub(super) outgoing: Outgoing,
}

impl Session {
    pub(super) async fn run(self, mut incoming: Streaming<v1::RouterMessage>) {
        let router = self.router.name.clone();
        let outgoing = self.outgoing.clone();
        let outcome = self.converse(&mut incoming).await;
        match outcome {
            Ok(()) => tracing::info!(event = "router_left", router),
            Err(status) => {
                let cause = status.message();
                tracing::warn!(event = "session_ended", router, code = ?status.code(), cause);
                let farewell = outgoing.send(Err(status));
                let _ = tokio::time::timeout(FAREWELL_TIMEOUT, farewell).await;
            }
        }
    }

    async fn converse(self, incoming: &mut Streaming<v1::RouterMessage>) -> Result<(), Status> {
        let open = opening(incoming).await?;
        let label = self.router.label();
        let held = self.held(&open).await?;
        // What it forwards by may be older than what it holds, and is another store's when that is.
        let live = match open.live_generation {
            live if live <= held => live,
            _ => 0,
        };
        let sessions = self.service.sessions.clone();
        let mut control = sessions.begin(label, &open.software, held, live);
        let id = control.id;
        let outcome = self.serve(incoming, &mut control, open, held).await;
        sessions.finish(label, id);
        outcome
    }

    /// The generation a difference may start from; 0 = none.
    ///
    /// A router that holds more of this store than the store itself shows that an older copy was
    /// put back: from here on its generations would be others of the same number. The store
    /// gets another name, so that every router is given a snapshot.
    async fn held(&self, open: &v1::SessionOpen) -> Result<u64, Status> {
        let state = &self.service.state;
        let (held, newest) = (open.held_generation, state.generation());
        if open.store_id != state.store_id() {
            return Ok(0);
        }
        let highest = open.highest_election_id;
        if highest > self.election.0 {
            tracing::error!(
                event = "later_controller",
                router = self.router.name,
                election_id = self.election.0,
                highest,
                "the router met a controller that leads this store since"
            );
            return Err(Status::failed_precondition(format!(
                "router \"{}\" met a controller with election id {highest}, this one has {}; if two run on copies of one store, stop one",
                self.router.name, self.election.0
            )));
        }
        if held < self.router.since_generation {
            return Ok(0);
        }
        if held <= newest {
            return Ok(held);
        }
        let router = &self.router.name;
        tracing::error!(
            event = "store_went_back",
            router,
            held,
            newest,
            "an older copy of the store was put back; every router takes a snapshot"
        );
        let name = open.store_id.clone();
        let renewed = state.clone();
        self.service
            .committer
            .change(move |tx| {
                // Another session may have seen the same a moment ago.
                if renewed.store_id() == name {
                    tx.store_id = Some(new_store_id());
                }
                Ok(())
            })
            .await
            .map_err(|error| commit_status(&error))?;
        Ok(0)
    }

    async fn serve(
        &self,
        incoming: &mut Streaming<v1::RouterMessage>,
        control: &mut Control,
        open: v1::SessionOpen,
        held: u64,
    ) -> Result<(), Status> {
        let label = self.router.label();
        let v1::SessionOpen {
            address,
            attachments,
            software,
            ..
        } = open;
        tracing::info!(
            event = "router_here",
            router = self.router.name,
            address,
            software,
            held,
            attachments = attachments.len(),
        );
        let (session, sessions) = (control.id, self.service.sessions.clone());
        let uri = self.router.uri.clone();
        let refused = self
            .service
            .committer
            .change(move |tx| {
                if !sessions.is_latest(label, session) {
                    return Ok(Vec::new());
                }
                tx.made_by(&uri, "opened a session");
                attach::open(tx, label, &address, &attachments)
            })
            .await
            .map_err(|error| commit_status(&error))?
            .value;
        let generation = *self.service.state.released().borrow();
        self.send(ToRouter::Accepted(v1::SessionAccepted {
            router_name: self.router.name.clone(),
            router_label: label.bits(),
            domain: self.service.domain,
            store_id: self.service.state.store_id(),
            lease_ms: self.service.timers.router_lease.as_millis() as u32,
            generation,
            election_id: self.election.0,
            controller: self.service.name.to_string(),
        }))
        .await?;
        for verdict in verdicts(refused) {
            self.send(ToRouter::Verdict(verdict)).await?;
        }
        let (answers, waiting) = mpsc::channel(ANSWERS_MAX);
        let pusher = Pusher {
            service: self.service.clone(),
            label,
            uri: self.router.uri.clone(),
            election: self.election,
            outgoing: self.outgoing.clone(),
            answers: waiting,
        };
        tokio::select! {
            outcome = self.read(incoming, answers, session) => outcome,
            outcome = pusher.run(held) => outcome,
            status = self.attend(control) => Err(status),
            () = self.service.state.led_until(self.election) => {
                let leader = self.service.state.leader();
                Err(commit_status(&CommitError::NotLeader(leader)))
            }
        }
    }

    /// Sends verdicts until somebody ends the session.
    async fn attend(&self, control: &mut Control) -> Status {
        loop {
            match control.next().await {
                Err(status) => return status,
                Ok(refused) => {
                    for verdict in verdicts(refused) {
                        if let Err(status) = self.send(ToRouter::Verdict(verdict)).await {
                            return status;
                        }
                    }
                }
            }
        }
    }

    async fn read(
        &self,
        incoming: &mut Streaming<v1::RouterMessage>,
        answers: mpsc::Sender<v1::TableAnswer>,
        session: u64,
    ) -> Result<(), Status> {
        let label = self.router.label();
        let sessions = &self.service.sessions;
        let resolves = Arc::new(Semaphore::new(RESOLVES_MAX));
        while let Some(message) = incoming.message().await? {
            sessions.heard(label);
            match message.message {
                Some(FromRouter::Answer(answer)) => {
                    // The pushing task ends only together with this one.
                    let _ = answers.send(answer).await;
                }
                Some(FromRouter::Live(live)) => {
                    let newest = self.service.state.committed().borrow().generation;
                    if live.generation > newest {
                        return Err(Status::invalid_argument(format!(
                            "generation {} is not there yet: the newest is {newest}",
                            live.generation
                        )));
                    }
                    let (generation, took_us) = (live.generation, live.took_us);
                    sessions.live(label, session, generation, took_us, now_unix_ms());
                }
                Some(FromRouter::Attachments(report)) => self.attachments(report, session).await,
                Some(FromRouter::Resolve(relay)) => {
                    // Searching takes time, and what it finds waits to be durable: the lease is renewed meanwhile.
                    let Ok(turn) = resolves.clone().acquire_owned().await else {
                        continue;
                    };
                    let (service, outgoing) = (self.service.clone(), self.outgoing.clone());
                    tokio::spawn(async move {
                        let answer = answer(&service, relay).await;
                        // Who asked may have gone with the session.
                        let _ = send(&outgoing, ToRouter::Resolved(answer)).await;
                        drop(turn);
                    });
                }
                // Every message renews the lease.
                Some(FromRouter::Renewal(_)) => {}
                Some(FromRouter::Open(_)) => {
                    return Err(Status::invalid_argument(
                        "SessionOpen came twice; it opens a session and stands alone",
                    ));
                }
                // A newer router's message that this version does not know.
                None => tracing::debug!(event = "message_unknown", router = self.router.name),
            }
        }
        Ok(())
    }

    /// Queues the report in order; the verdict follows when it is durable.
    async fn attachments(&self, report: v1::AttachmentReport, session: u64) {
        let label = self.router.label();
        let current = self.service.sessions.clone();
        let uri = self.router.uri.clone();
        let receipt = self
            .service
            .committer
            .submit(move |tx| {
                // What a newer session opened with is all there is: this came too late.
                if !current.is_latest(label, session) {
                    return Ok(Vec::new());
                }
                let (up, down) = (report.up.len(), report.down.len());
                tx.made_by(&uri, format!("{up} attached, {down} detached"));
                attach::report(tx, label, &report.up, &report.down)
            })
            .await;
        let (outgoing, sessions) = (self.outgoing.clone(), self.service.sessions.clone());
        tokio::spawn(async move {
            match receipt.done().await {
                Ok(done) => {
                    for verdict in verdicts(done.value) {
                        let message = message(ToRouter::Verdict(verdict));
                        let _ = outgoing.send(Ok(message)).await;
                    }
                }
                // The report is lost: the next session brings all attachments again.
                Err(error) => sessions.end(label, commit_status(&error)),
            }
        });
    }

    async fn send(&self, body: ToRouter) -> Result<(), Status> {
        send(&self.outgoing, body).await
    }
}

/// What an agent asked for, by way of its router.
async fn answer(service: &SouthboundService, relay: v1::ResolveRelay) -> v1::ResolveAnswer {
    let query = relay.query.unwrap_or_default();
    let mut answer = v1::Resolved {
        query_id: query.query_id,
        generation: service.state.generation(),
        ..v1::Resolved::default()
    };
    if relay.asker.is_empty() {
        answer.error = "the relay names no asker".into();
    } else {
        // A router asks for the agents that are attached to it.
        let anybody = |_: &Rib| Ok(());
        match resolve(
            &service.state,
            &query,
            &relay.asker,
            service.domain,
            anybody,
        )
        .await
        {
            Ok((candidates, generation)) => {
                answer.candidates = fitting(candidates);
                answer.generation = generation;
            }
            Err(error) => answer.error = error.to_string(),
        }
    }
    v1::ResolveAnswer {
        relay_id: relay.relay_id,
        answer: Some(answer),
    }
}

/// The best candidates, as many as an answer has room for.
fn fitting(mut candidates: Vec<v1::Candidate>) -> Vec<v1::Candidate> {
    let mut bytes = 0;
    let fits = candidates.iter().take_while(|candidate| {
        let first = bytes == 0;
        bytes += candidate.encoded_len() + 8;
        first || bytes <= ANSWER_BYTES_MAX
    });
    let fits = fits.count();
    candidates.truncate(fits);
    candidates
}

/// Refusals in messages of at most about [`VERDICT_BYTES`]; none when there are none.
fn verdicts(refused: Vec<v1::RefusedAttachment>) -> Vec<v1::AttachmentVerdict> {
    let mut parts: Vec<v1::AttachmentVerdict> = Vec::new();
    let mut bytes = usize::MAX;
    for one in refused {
        let length = one.encoded_len() + 8;
        bytes = bytes.saturating_add(length);
        if bytes > VERDICT_BYTES {
            parts.push(v1::AttachmentVerdict::default());
            bytes = length;
        }
        if let Some(part) = parts.last_mut() {
            part.refused.push(one);
        }
    }
    parts
}

pub(super) async fn send(outgoing: &Outgoing, body: ToRouter) -> Result<(), Status> {
    outgoing
        .send(Ok(message(body)))
        .await
        .map_err(|_| Status::cancelled("the router closed the session"))
}

fn message(body: ToRouter) -> v1::ControllerMessage {
    v1::ControllerMessage {
        message: Some(body),
    }
}

async fn opening(incoming: &mut Streaming<v1::RouterMessage>) -> Result<v1::SessionOpen, Status> {
    let first = tokio::time::timeout(OPEN_TIMEOUT, incoming.message())
        .await
        .map_err(|_| Status::deadline_exceeded("SessionOpen did not come within 10 s"))??;
    let Some(FromRouter::Open(open)) = first.and_then(|message| message.message) else {
        return Err(Status::invalid_argument(
            "the first message of a session must be SessionOpen",
        ));
    };
    let sound = open.address.len() <= ADDRESS_BYTES_MAX
        && open
            .address
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if !sound {
        return Err(Status::invalid_argument(format!(
            "SessionOpen.address \"{}\" must be \"host:port\"",
            open.address.chars().take(80).collect::<String>()
        )));
    }
    Ok(open)
}

pub(super) fn commit_status(error: &CommitError) -> Status {
    Status::unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_holds_the_best_that_fit_a_frame() {
        let candidate = |bytes: usize| v1::Candidate {
            endpoints: vec!["x".repeat(bytes)],
            ..v1::Candidate::default()
        };
        assert_eq!(fitting(vec![candidate(600); 100]).len(), 100);
        assert_eq!(fitting(vec![candidate(20_000); 100]).len(), 3);
        assert_eq!(fitting(vec![candidate(70_000); 2]).len(), 1);
        assert_eq!(fitting(Vec::new()).len(), 0);
    }
}
