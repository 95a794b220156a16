//! ReadAudit: the audit log as a stream, a few records at a time. That it was read is recorded too.
//!
//! A gap would look as if somebody had taken records out: when what comes next is forgotten meanwhile the stream says so, and
//! ends. So it does when nobody reads it for a while, or the controller stops; how it ends there is always room to say.

use std::sync::Arc;
use std::time::Duration;

use caplane_proto::v1;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::NorthboundService;
use super::errors::{broke, refused, unavailable};
use crate::access::Principal;
use crate::change::{Fault, Refusal};
use crate::commit::State;

#[cfg(test)]
mod tests;

/// Readers at a time.
pub(super) const READERS_MAX: usize = 8;

/// Records read from the store at once, and waiting for a reader: some 500 bytes each.
const SLICE: usize = 256;

/// Longest wait for a reader.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) type Stream = ReceiverStream<Result<v1::AuditRecord, Status>>;

type Outgoing = mpsc::Sender<Result<v1::AuditRecord, Status>>;

/// What is still to be told.
#[derive(Debug, Clone, Copy)]
struct Rest {
    from: u64,
    /// Some was told: the next is the one at `from` and no later one.
    begun: bool,
    /// The newest record when it was asked for: what is recorded while it is read, of reading it too, is for the next.
    newest: u64,
    count: usize,
    /// Longest wait for a reader to take a record.
    patience: Duration,
}

/// Begins to read.
pub(super) fn open(
    service: &NorthboundService,
    caller: &Principal,
    request: &v1::ReadAuditRequest,
) -> Result<Stream, Status> {
    let place = service.audit_readers.clone().try_acquire_owned();
    let place = place.map_err(|_| {
        refused(&Refusal::new(
            Fault::Full,
            "readers",
            READERS_MAX,
            "read the audit log, no more may",
            "try again when one of them is done",
        ))
    })?;
    let rest = Rest {
        from: request.from,
        begun: false,
        newest: service.state.audit_newest(),
        count: match request.count {
            0 => usize::MAX,
            count => count as usize,
        },
        patience: SEND_TIMEOUT,
    };
    let note = caller.note("ReadAudit", format!("from {}", request.from));
    service.recorder.note(note);
    let (outgoing, stream) = mpsc::channel(SLICE + 1);
    let (state, stopping) = (service.state.clone(), service.stopping.clone());
    tokio::spawn(async move {
        let _place = place;
        tell(&state, rest, outgoing, stopping).await;
    });
    Ok(ReceiverStream::new(stream))
}

/// Sends what is to be told, and how it ended when that was early.
async fn tell(
    state: &Arc<State>,
    rest: Rest,
    outgoing: Outgoing,
    mut stopping: watch::Receiver<bool>,
) {
    // Room for the last word, whatever waits before it.
    let Ok(farewell) = outgoing.clone().try_reserve_owned() else {
        return;
    };
    let end = tokio::select! {
        end = send(state, rest, &outgoing) => end,
        () = outgoing.closed() => return,
        _ = stopping.wait_for(|stopping| *stopping) => {
            Err(unavailable("the controller is stopping; ask again from the last record you have"))
        }
    };
    if let Err(status) = end {
        farewell.send(Err(status));
    }
}

async fn send(state: &Arc<State>, mut rest: Rest, outgoing: &Outgoing) -> Result<(), Status> {
    while rest.count > 0 && (!rest.begun || rest.from <= rest.newest) {
        let (from, some) = (rest.from, rest.count.min(SLICE));
        let state = state.clone();
        let read = tokio::task::spawn_blocking(move || state.audit(from, some)).await;
        let rows = read
            .map_err(|_| broke("reading the audit log"))?
            .map_err(unavailable)?;
        let first = rows.first().map(|(sequence, _)| *sequence);
        if rest.begun && first != Some(from) {
            return Err(Status::aborted(format!(
                "record {from} was forgotten meanwhile; ask again, from 0 on"
            )));
        }
        rest.begun = true;
        let Some((last, _)) = rows.last() else {
            return Ok(());
        };
        rest.from = last + 1;
        for (sequence, record) in rows {
            if sequence > rest.newest {
                return Ok(());
            }
            let sent = tokio::time::timeout(rest.patience, outgoing.send(Ok(record))).await;
            let sent = sent.map_err(|_| {
                Status::deadline_exceeded(format!(
                    "nobody read for {} s; ask again from the last record you have",
                    rest.patience.as_secs()
                ))
            })?;
            // Nobody reads any more.
            if sent.is_err() {
                return Ok(());
            }
            rest.count -= 1;
        }
    }
    Ok(())
}
