//! What silence and time end: attachments of silent routers, registrations past their lease, writes
//! that nobody confirmed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tonic::Status;

use crate::audit::Note;
use crate::change::{Refusal, attach, confirm, lease};
use crate::commit::{CommitError, Committer, State, Transaction, now_unix_ms};
use crate::record::PendingRecord;
use crate::southbound::Sessions;

/// Checks at least this often; more often when the lease is short.
const INTERVAL_MAX: Duration = Duration::from_secs(1);

/// Watches leases until `stop`, while this controller leads.
pub(super) async fn keep(
    state: Arc<State>,
    committer: Committer,
    sessions: Arc<Sessions>,
    router_lease: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let mut tick = tokio::time::interval((router_lease / 4).min(INTERVAL_MAX));
    let mut led_by = None;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let election = state.election();
        if election != led_by {
            // Routers have a whole lease to come to this controller.
            sessions.begin_anew();
            led_by = election;
        }
        if election.is_none() {
            continue;
        }
        expire_routers(&state, &committer, &sessions, router_lease).await;
        sessions.forget(|router| state.rib().router_by_label(router).is_some());
        if let Err(error) = expire_pending(&state, &committer).await {
            tracing::error!(event = "rollback_failed", %error);
        }
        expire_agents(&state, &committer, &stop).await;
    }
}

async fn expire_routers(
    state: &State,
    committer: &Committer,
    sessions: &Arc<Sessions>,
    lease: Duration,
) {
    let silent: Vec<_> = state
        .rib()
        .routers_with_attachments()
        .filter(|router| sessions.silence(*router) > lease)
        .collect();
    for router in silent {
        let heard = sessions.clone();
        let outcome = committer
            .change(move |tx| {
                // It may have come back while this waited its turn.
                if heard.silence(router) <= lease {
                    return Ok(0);
                }
                tx.made_by("", format!("{router} is silent"));
                Ok(attach::expire_router(tx, router))
            })
            .await;
        match outcome {
            Ok(done) if done.value > 0 => {
                tracing::warn!(
                    event = "router_silent", %router, lease = ?lease, withdrawn = done.value,
                    generation = done.generation,
                );
                // If it lives after all it opens a session and reports everything again.
                sessions.end(
                    router,
                    Status::aborted("the lease ended; open a new session"),
                );
            }
            Ok(_) => {}
            Err(error) => tracing::error!(event = "expiry_failed", %router, %error),
        }
    }
}

/// Withdraws all whose lease ended, some at a time: what others write goes in between.
async fn expire_agents(state: &State, committer: &Committer, stop: &watch::Receiver<bool>) {
    while !*stop.borrow() && state.rib().expired_agents(now_unix_ms()).next().is_some() {
        match committer.change(lease::expire_agents).await {
            Ok(done) => {
                for agent in done.value {
                    tracing::info!(event = "lease_ended", agent, generation = done.generation);
                }
            }
            Err(error) => {
                tracing::error!(event = "expiry_failed", %error);
                return;
            }
        }
    }
}

/// Rolls back the Write that was not confirmed in time.
///
/// # Errors
/// It still holds.
pub(super) async fn expire_pending(
    state: &State,
    committer: &Committer,
) -> Result<(), CommitError> {
    let deadline = state
        .rib()
        .waiting()
        .map(|waiting| waiting.record().deadline_unix_ms);
    if deadline.is_none_or(|deadline| deadline > now_unix_ms()) {
        return Ok(());
    }
    let done = committer.change(expire).await?;
    if let Some(record) = done.value {
        tracing::warn!(
            event = "not_confirmed",
            commit = record.generation,
            who = record.caller,
            objects = record.objects,
            generation = done.generation,
            "rolled back",
        );
    }
    Ok(())
}

fn expire(tx: &mut Transaction<'_>) -> Result<Option<Arc<PendingRecord>>, Refusal> {
    let ended = confirm::expire(tx)?;
    if let Some(record) = &ended {
        let (commit, who) = (record.generation, &record.caller);
        tx.notes.push(Note {
            call: "expire".into(),
            what: format!("commit {commit} of {who} was not confirmed in time and is taken back"),
            ..Note::default()
        });
    }
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use caplane_proto::v1;
    use caplane_proto::v1::entity::Entity as Body;

    use std::sync::atomic::Ordering;

    use super::*;
    use crate::change::{Atomicity, write};
    use crate::service::StartError;
    use crate::testbed::{MemoryStore, agent_uri, checked, insert, knowledge, tenant};

    #[tokio::test]
    async fn a_controller_that_cannot_roll_back_does_not_start() {
        let store = Arc::new(MemoryStore::default());
        let state = State::open(store.clone(), knowledge(), 1_000).expect("opens");
        let (committer, _) = Committer::start(state.clone(), Box::new(|_| {})).expect("a thread");
        let parsed = checked(&[insert(tenant("t"))]).expect("good");
        let wait = confirm::Wait {
            caller: "ada".into(),
            seconds: 1,
        };
        let written = committer.change(move |tx| {
            // Long ago: its time is over.
            tx.now_unix_ms -= 10_000;
            let start = confirm::Start::of(tx);
            write::batch(tx, &parsed, Atomicity::AllOrNone)?;
            confirm::hold(tx, start, &wait, |_| Ok(None))
        });
        written.await.expect("written").value.expect("waits");
        store.failing.store(true, Ordering::SeqCst);
        let error = expire_pending(&state, &committer).await;
        let error = StartError::from(error.expect_err("the store fails"));
        assert!(error.to_string().contains("told to fail"), "{error}");
        assert!(state.rib().tenant("t").is_some(), "it holds");
        store.failing.store(false, Ordering::SeqCst);
        let done = expire_pending(&state, &committer).await;
        done.expect("repaired");
        assert!(state.rib().tenant("t").is_none());
    }

    #[tokio::test]
    async fn all_whose_lease_ended_go_at_once_and_others_stay() {
        let store = Arc::new(MemoryStore::default());
        let state = State::open(store, knowledge(), 1_000).expect("opens");
        let (committer, _) = Committer::start(state.clone(), Box::new(|_| {})).expect("a thread");
        let agents = (0..3_500).map(|i| {
            insert(Body::Agent(v1::Agent {
                uri: agent_uri(&format!("a{i}")),
                lease_seconds: if i < 3_000 { 1 } else { 3_600 },
                ..v1::Agent::default()
            }))
        });
        let parsed = checked(&agents.collect::<Vec<_>>()).expect("good");
        let registered = committer.change(move |tx| {
            // Long ago: the leases of a second are over.
            tx.now_unix_ms -= 10_000;
            write::batch(tx, &parsed, Atomicity::AllOrNone)
        });
        registered.await.expect("registered");
        let (stopping, stop) = watch::channel(true);
        expire_agents(&state, &committer, &stop).await;
        assert_eq!(state.rib().agent_count(), 3_500, "nothing begins any more");
        stopping.send_replace(false);
        expire_agents(&state, &committer, &stop).await;
        assert_eq!(state.rib().agent_count(), 500);
        assert!(state.generation() >= 4, "in several changes");
    }
}
