//! Protobuf sessions: the control stream, and what a controller pushes to a router.

use caplane_core::Fib;
use caplane_core::fib::{Delta, Entry, Generation};
use caplane_proto::v1::controller_message::Message as FromController;
use caplane_proto::v1::{ControlFrame, ControllerMessage, TableUpdate};
use caplane_router::table;
use caplane_wire::Label;
use caplane_wire::control::{CONTROL_FRAME_MAX, ControlError, LengthPrefix, frame};
use prost::Message;

use crate::pieces::pieces;

/// A control stream whose bytes come in arbitrary pieces.
///
/// # Panics
/// When the pieces make a difference, or a frame that decodes does not survive encoding.
pub fn control_stream(data: &[u8]) {
    let pieces = pieces(data);
    let whole = pieces.concat();
    let (frames, ended) = read_frames(&[&whole]);
    assert_eq!(read_frames(&pieces), (frames.clone(), ended.clone()));
    for body in frames {
        assert!(body.len() <= CONTROL_FRAME_MAX);
        let Ok(read) = ControlFrame::decode(&*body) else {
            continue;
        };
        // Compared as bytes: a score that is not a number is unlike itself.
        let written = read.encode_to_vec();
        let again = ControlFrame::decode(&*written).expect("what was encoded decodes");
        assert_eq!(again.encode_to_vec(), written);
        assert!(LengthPrefix::new(written.len()).is_ok() || written.len() > CONTROL_FRAME_MAX);
    }
}

/// Bodies of the complete frames, and the bytes left over or why the reader stopped.
fn read_frames(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, Result<Vec<u8>, ControlError>) {
    let (mut pending, mut taken) = (Vec::new(), Vec::new());
    for piece in pieces {
        pending.extend_from_slice(piece);
        loop {
            match frame(&pending) {
                Ok(Some(body)) => {
                    let end = body.end;
                    taken.push(pending[body].to_vec());
                    pending.drain(..end);
                }
                Ok(None) => break,
                Err(error) => return (taken, Err(error)),
            }
        }
    }
    (taken, Ok(pending))
}

/// Table updates as a router takes them: a series of `ControllerMessage`, each after its length.
///
/// Base and generation are made to fit, so that the series gets past the first check; what it does with entries is
/// what is looked at.
///
/// # Panics
/// When a table that was accepted cannot be stored and read back, or a refusal changes it.
pub fn southbound_update(mut data: &[u8]) {
    let router = Label::router(1).expect("a small number");
    let mut fib = Fib::empty(64_512, router);
    while let Ok(message) = ControllerMessage::decode_length_delimited(&mut data) {
        if let Some(FromController::Update(update)) = message.message {
            fib = after(&fib, update);
        }
    }
    let mut stored: Vec<Entry> = fib.entries().collect();
    let snapshot = Delta {
        base: Generation(0),
        generation: Generation(fib.generation().0 + 1),
        upserts: stored.iter().map(stored_and_read).collect(),
        removes: Vec::new(),
    };
    let read = Fib::empty(64_512, router).apply(&snapshot);
    let mut read: Vec<Entry> = match read {
        Ok(read) => read.entries().collect(),
        Err(rejections) => panic!("a table that was accepted is refused: {rejections:?}"),
    };
    for entries in [&mut stored, &mut read] {
        entries.sort_by_key(|entry| format!("{entry:?}"));
    }
    assert_eq!(stored, read);
}

/// The table after `update`, or as it is when the update is refused.
fn after(fib: &Fib, update: TableUpdate) -> Fib {
    let held = fib.generation().0;
    let base = if update.base_generation == 0 { 0 } else { held };
    let Ok(delta) = table::delta(base, held + 1, update.upserts, update.removes) else {
        return fib.clone();
    };
    match fib.apply(&delta) {
        Ok(next) => next,
        Err(rejections) => {
            assert!(
                rejections
                    .iter()
                    .all(|rejection| !rejection.reason.is_empty())
            );
            fib.clone()
        }
    }
}

/// `entry` as it is after it was written to the stored table and read from it.
fn stored_and_read(entry: &Entry) -> Entry {
    let bytes = table::resource(entry, 1).encode_to_vec();
    let resource = caplane_proto::v1::Resource::decode(&*bytes).expect("what was encoded decodes");
    match table::entry(resource) {
        Ok(read) => read,
        Err(rejection) => panic!("an accepted entry is refused when read back: {rejection:?}"),
    }
}
