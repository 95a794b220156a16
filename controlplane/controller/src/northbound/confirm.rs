//! Confirm: ends or extends a Write that waits to be confirmed.

use std::sync::Arc;

use caplane_proto::v1;
use caplane_proto::v1::confirm_request::Action;
use prost::Message;
use tonic::Status;

use super::NorthboundService;
use super::errors::{not_committed, refused};
use super::render::View;
use crate::access::Principal;
use crate::audit::Note;
use crate::change::{Fault, Refusal, confirm};
use crate::commit::Transaction;
use crate::record::PendingRecord;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
enum Word {
    Confirm,
    Cancel,
    Extend { seconds: u32 },
}

pub(super) async fn confirm(
    service: &NorthboundService,
    caller: Principal,
    request: v1::ConfirmRequest,
) -> Result<v1::ConfirmResponse, Status> {
    let (generation, word) = check(&request).map_err(|refusal| refused(&refusal))?;
    let who = caller.uri.clone();
    let digest = ring::digest::digest(&ring::digest::SHA256, &request.encode_to_vec());
    let digest = digest.as_ref().to_vec();
    let work = move |tx: &mut Transaction<'_>| say(tx, generation, word, &caller, digest);
    let done = service.committer.change(work).await;
    let done = done.map_err(|error| not_committed(&error))?;
    tracing::info!(
        event = "confirm",
        %who,
        commit = generation,
        word = ?word,
        generation = done.generation,
    );
    Ok(v1::ConfirmResponse {
        generation: done.generation,
        pending: Some(View::pending(&done.value)),
    })
}

fn say(
    tx: &mut Transaction<'_>,
    generation: u64,
    word: Word,
    caller: &Principal,
    digest: Vec<u8>,
) -> Result<Arc<PendingRecord>, Refusal> {
    let what = match word {
        Word::Confirm => "confirms",
        Word::Cancel => "takes back",
        Word::Extend { .. } => "gives more time to",
    };
    if let Some(record) = tx.rib.pending(generation) {
        caller.may_end(generation, &record.caller)?;
    }
    let before = tx.rib.mark();
    let who = &caller.uri;
    tx.made_by(who, format!("{what} commit {generation}"));
    let record = match word {
        Word::Confirm => confirm::confirm(tx, generation, who),
        Word::Cancel => confirm::cancel(tx, generation, who),
        Word::Extend { seconds } => confirm::extend(tx, generation, seconds),
    }?;
    // Said once more it changes nothing, and is no record that pushes others out.
    if tx.rib.changed_since(before) {
        tx.notes.push(Note {
            request_sha256: digest,
            ..caller.note("Confirm", format!("{what} commit {generation}"))
        });
    }
    Ok(record)
}

fn check(request: &v1::ConfirmRequest) -> Result<(u64, Word), Refusal> {
    let word = match Action::try_from(request.action) {
        Ok(Action::Confirm) => Word::Confirm,
        Ok(Action::Cancel) => Word::Cancel,
        Ok(Action::Extend) => Word::Extend {
            seconds: confirm::seconds("extend_seconds", request.extend_seconds)?,
        },
        Ok(Action::Unspecified) | Err(_) => {
            let remedy = "use CONFIRM, CANCEL or EXTEND";
            let refusal = Refusal::new(
                Fault::Invalid,
                "action",
                request.action,
                "says nothing",
                remedy,
            );
            return Err(refusal.accepting(["CONFIRM", "CANCEL", "EXTEND"]));
        }
    };
    let generation = request.id.parse().map_err(|_| {
        Refusal::new(
            Fault::Invalid,
            "id",
            &request.id,
            "is no id of a commit",
            "use the one that Write answered (`pending.id`)",
        )
    })?;
    Ok((generation, word))
}
