//! `caplane commit`: changes that wait to be confirmed.

use std::time::{SystemTime, UNIX_EPOCH};

use caplane_proto::v1;
use caplane_proto::v1::confirm_request::Action;
use caplane_proto::v1::entity::Entity as Kind;
use caplane_proto::v1::pending_commit::State;
use caplane_proto::v1::read_request::Kind as ReadKind;
use serde_json::{Value, json};

use super::entities::list;
use crate::arguments::CommitCommand;
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::Settings;

pub(super) async fn commits(
    settings: &Settings,
    command: CommitCommand,
) -> Result<Output, Failure> {
    let (id, action, seconds) = match command {
        CommitCommand::List => return all(settings).await,
        CommitCommand::Confirm { id } => (id, Action::Confirm, 0),
        CommitCommand::Cancel { id } => (id, Action::Cancel, 0),
        CommitCommand::Extend { id, seconds } => (id, Action::Extend, seconds),
    };
    let (pending, generation) = settings.api().await?.confirm(&id, action, seconds).await?;
    let text = format!(
        "commit {id}: {} (generation {generation})\n",
        standing(&pending)
    );
    let mut json = as_json(&pending);
    json["generation"] = generation.into();
    Ok(Output::new("caplane.commit/1", json, text))
}

async fn all(settings: &Settings) -> Result<Output, Failure> {
    let heading = ["ID", "OBJECTS", "BY", "STATE"];
    list(
        settings,
        ReadKind::PendingCommit,
        "",
        "commits",
        &heading,
        |entity| match entity {
            Kind::PendingCommit(pending) => {
                let json = as_json(&pending);
                let objects = pending.objects.to_string();
                let state = standing(&pending);
                Some((vec![pending.id, objects, pending.who, state], json))
            }
            _ => None,
        },
    )
    .await
}

/// Where it stands, in words.
pub(super) fn standing(pending: &v1::PendingCommit) -> String {
    let ended = pending.ended_generation;
    match pending.state() {
        State::Waiting => format!("taken back in {} unless confirmed", left(pending)),
        State::Confirmed => format!("confirmed by {} in generation {ended}", pending.ended_by),
        State::Cancelled => format!("cancelled by {} in generation {ended}", pending.ended_by),
        State::Expired => {
            format!("not confirmed in time, taken back in generation {ended}")
        }
        State::Unspecified => "unknown to this command".to_owned(),
    }
}

/// The time it still waits, by this machine's clock.
pub(super) fn left(pending: &v1::PendingCommit) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    });
    let seconds = pending.deadline_unix_ms.saturating_sub(now).max(0) / 1_000;
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds} s"),
        (minutes, seconds) => format!("{minutes} min {seconds} s"),
    }
}

pub(super) fn as_json(pending: &v1::PendingCommit) -> Value {
    let state = match pending.state() {
        State::Unspecified => "unknown",
        State::Waiting => "waiting",
        State::Confirmed => "confirmed",
        State::Cancelled => "cancelled",
        State::Expired => "expired",
    };
    json!({
        "id": pending.id, "who": pending.who, "deadline_unix_ms": pending.deadline_unix_ms,
        "held_by_generation": pending.generation, "objects": pending.objects, "state": state,
        "ended_generation": pending.ended_generation, "ended_by": pending.ended_by,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_commit_stands_is_said_in_words() {
        let mut pending = v1::PendingCommit {
            state: State::Waiting.into(),
            ended_generation: 9,
            ended_by: "spiffe://d/operator/ada".into(),
            ..v1::PendingCommit::default()
        };
        assert_eq!(standing(&pending), "taken back in 0 s unless confirmed");
        for (state, words) in [
            (
                State::Confirmed,
                "confirmed by spiffe://d/operator/ada in generation 9",
            ),
            (
                State::Cancelled,
                "cancelled by spiffe://d/operator/ada in generation 9",
            ),
            (
                State::Expired,
                "not confirmed in time, taken back in generation 9",
            ),
        ] {
            pending.state = state.into();
            assert_eq!(standing(&pending), words);
        }
        pending.deadline_unix_ms = i64::MAX;
        assert!(left(&pending).contains(" min "), "{}", left(&pending));
    }
}
