//! Lets generations that are held back go, once the routers that they wait for forward by the one before, or have been
//! waited for long enough. Refuses to know what is in them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Sessions;
use crate::commit::{HeldBack, State};

/// Releases what is held back until `stop`; then everything, and nothing is held back any more.
pub(crate) async fn keep(
    state: Arc<State>,
    sessions: Arc<Sessions>,
    patience: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let (mut changes, mut held_back) = (sessions.changes(), state.held_back());
    while !*stop.borrow() {
        // Before anything is looked at: what changes meanwhile is looked at again.
        changes.borrow_and_update();
        held_back.borrow_and_update();
        let mut until = None;
        let verdicts = state.release(|row| {
            let met = met(&state, &sessions, row, patience);
            if !met {
                until = Some(row.since + patience);
            }
            met
        });
        sessions.deliver(verdicts);
        let late = async {
            match until {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        // An error of the first two means that the controller itself is gone.
        let gone = tokio::select! {
            more = changes.changed(), if until.is_some() => more.is_err(),
            more = held_back.changed() => more.is_err(),
            () = late => false,
            _ = stop.wait_for(|stop| *stop) => true,
        };
        if gone {
            break;
        }
    }
    state.gate(false);
    sessions.deliver(state.release(|_| true));
}

fn met(state: &State, sessions: &Sessions, row: &HeldBack, patience: Duration) -> bool {
    let missing = sessions.awaited(row.after, |router| row.awaits.concerns(router));
    if missing.is_empty() {
        return true;
    }
    if Instant::now() < row.since + patience {
        return false;
    }
    tracing::warn!(
        event = "barrier_given_up",
        generation = row.generation,
        awaited = row.after,
        routers = ?missing,
        "goes to all routers before these have what it builds on",
    );
    sessions.excuse(&missing, row.after);
    state.history().gave_up(row.generation, missing);
    true
}
