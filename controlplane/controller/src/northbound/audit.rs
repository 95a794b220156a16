//! ReadAudit: the audit log as a stream, a few records at a time. That it was read is recorded too.

use std::sync::Arc;

use caplane_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::NorthboundService;
use super::errors::{broke, refused, unavailable};
use crate::access::Principal;
use crate::change::{Fault, Refusal};
use crate::commit::State;

/// Readers at a time.
pub(super) const READERS_MAX: usize = 8;

/// Records read from the store at once, and waiting for a reader: some 500 bytes each.
const SLICE: usize = 256;

pub(super) type Stream = ReceiverStream<Result<v1::AuditRecord, Status>>;

/// What is still to be told.
struct Rest {
    from: u64,
    /// The newest record when it was asked for: what is recorded while it is read, of reading it too, is for the next.
    newest: u64,
    count: usize,
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
        newest: service.state.audit_newest(),
        count: match request.count {
            0 => usize::MAX,
            count => count as usize,
        },
    };
    let note = caller.note("ReadAudit", format!("from {}", request.from));
    service.recorder.note(note);
    let (outgoing, stream) = mpsc::channel(SLICE);
    let state = service.state.clone();
    tokio::spawn(async move {
        let _place = place;
        if let Err(status) = send(&state, rest, &outgoing).await {
            let _ = outgoing.send(Err(status)).await;
        }
    });
    Ok(ReceiverStream::new(stream))
}

async fn send(
    state: &Arc<State>,
    mut rest: Rest,
    outgoing: &mpsc::Sender<Result<v1::AuditRecord, Status>>,
) -> Result<(), Status> {
    while rest.count > 0 {
        let (from, some) = (rest.from, rest.count.min(SLICE));
        let state = state.clone();
        let read = tokio::task::spawn_blocking(move || state.audit(from, some)).await;
        let rows = read
            .map_err(|_| broke("reading the audit log"))?
            .map_err(unavailable)?;
        let Some((last, _)) = rows.last() else {
            return Ok(());
        };
        rest.from = last + 1;
        for (sequence, record) in rows {
            // Nobody reads any more.
            if sequence > rest.newest || outgoing.send(Ok(record)).await.is_err() {
                return Ok(());
            }
            rest.count -= 1;
        }
    }
    Ok(())
}
