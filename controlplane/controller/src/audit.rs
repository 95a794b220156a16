//! The audit log: who did what, in a chain that cannot be changed unseen.
//!
//! Each record names the hash of the one before and is signed, so that a change, a swap or a gap shows to whoever has the
//! public key; that the newest are missing shows only to who remembers a newer hash. Records of what was done are stored
//! with it, in one transaction. Refuses to know gRPC, tables and what the changes mean.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use caplane_proto::v1;
use prost::Message;

use crate::store::{AuditRow, Store, StoreError};

mod denials;
mod key;
mod recorder;
pub mod words;

#[cfg(test)]
mod tests;

pub use key::{KEY_FILE, KeyError, PUBLIC_KEY_FILE, SigningKey};
pub use recorder::Recorder;

/// What is hashed before a record's body, so that a signature says what it is for.
pub const HASH_PREFIX: &[u8] = b"caplane.audit/1\n";

/// Longest text of what was done (bytes).
const WHAT_BYTES_MAX: usize = 2_048;

/// Longest name of who called, from where and what (bytes).
const NAME_BYTES_MAX: usize = 256;

/// Records forgotten at once: the one writer waits meanwhile.
const PRUNE_MAX: u64 = 4_096;

/// Objects named in a record; the rest is counted.
pub const NAMED_MAX: usize = 16;

/// Something that was done, or that somebody was denied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Note {
    /// URI of who did it; empty = the controller itself.
    pub who: String,
    /// Where they called from.
    pub peer: String,
    /// The role they had.
    pub role: &'static str,
    /// The call, or what the controller did: "expire", "prune".
    pub call: String,
    /// SHA-256 of the request; empty where it was not looked at.
    pub request_sha256: Vec<u8>,
    /// In words.
    pub what: String,
    /// gRPC code; 0 = it was done.
    pub code: i32,
    /// Denials since the record before that were counted only.
    pub left_out: u64,
}

/// Where the chain ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Head {
    sequence: u64,
    hash: Vec<u8>,
    /// The first record that is still there; 0 = there is none.
    oldest: u64,
}

/// The newest end of the chain, and the key it goes on with.
#[derive(Debug)]
pub struct Auditor {
    key: SigningKey,
    records_max: u64,
    head: Mutex<Head>,
}

/// Records that continue the chain once they are stored.
#[derive(Debug, Default)]
pub struct Sealed {
    /// To be stored, in order.
    pub rows: Vec<AuditRow>,
    /// Rows up to here are forgotten.
    pub floor: u64,
    head: Head,
}

/// Why the chain cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The newest record is not what this program wrote.
    #[error("audit record {sequence} in the store was changed; restore the store, or move it away")]
    Changed {
        /// Its number.
        sequence: u64,
    },
}

/// The hash of a record's body.
#[must_use]
pub fn hash(body: &[u8]) -> Vec<u8> {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    context.update(HASH_PREFIX);
    context.update(body);
    context.finish().as_ref().to_vec()
}

/// Whether a record is number `sequence`, and what whoever has its key signed.
fn is_genuine(record: &v1::AuditRecord, sequence: u64) -> bool {
    let key = ring::signature::UnparsedPublicKey::new(
        &ring::signature::ED25519,
        record.public_key.as_slice(),
    );
    let body = v1::AuditBody::decode(record.body.as_slice());
    record.hash == hash(&record.body)
        && key.verify(&record.hash, &record.signature).is_ok()
        && body.is_ok_and(|body| body.sequence == sequence)
}

impl Auditor {
    /// Goes on where the stored chain ends, with the key in `folder`, which is made when there is none.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn open(folder: &Path, store: &dyn Store, records_max: u64) -> Result<Self, AuditError> {
        let key = SigningKey::load_or_make(folder)?;
        let mut head = Head::default();
        if let Some((oldest, newest)) = store.audit_ends()? {
            let last = store.audit(newest, 1)?.pop();
            let record = last.and_then(|row| v1::AuditRecord::decode(row.bytes.as_slice()).ok());
            let record = record.filter(|record| is_genuine(record, newest));
            let record = record.ok_or(AuditError::Changed { sequence: newest })?;
            if record.public_key != key.public() {
                // Whoever can write the store and brings a key of his own shows here, and to `verify --public-key`.
                tracing::warn!(
                    event = "audit_key_changed",
                    sequence = newest,
                    "records so far were signed by another key"
                );
            }
            head = Head {
                sequence: newest,
                hash: record.hash,
                oldest,
            };
        }
        Ok(Self {
            key,
            records_max,
            head: Mutex::new(head),
        })
    }

    fn head(&self) -> MutexGuard<'_, Head> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest record's number; 0 = there is none.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.head().sequence
    }

    /// Records of these notes, done in `generation`. Only the one writer calls it, and [`stored`](Self::stored) before it
    /// calls it again.
    ///
    /// # Errors
    /// The store could not be read to say what is pruned.
    pub fn seal(
        &self,
        notes: Vec<Note>,
        generation: u64,
        now_unix_ms: u64,
        store: &dyn Store,
    ) -> Result<Sealed, StoreError> {
        let mut sealed = Sealed {
            head: self.head().clone(),
            ..Sealed::default()
        };
        for note in notes {
            self.link(&mut sealed, body(note, generation, now_unix_ms));
        }
        let Head {
            sequence, oldest, ..
        } = sealed.head;
        if !sealed.rows.is_empty() && sequence + 1 - oldest > self.records_max {
            self.prune(&mut sealed, generation, now_unix_ms, store)?;
        }
        Ok(sealed)
    }

    /// Forgets the oldest tenth, at most [`PRUNE_MAX`], and says so in a record that names the last of them.
    fn prune(
        &self,
        sealed: &mut Sealed,
        generation: u64,
        now_unix_ms: u64,
        store: &dyn Store,
    ) -> Result<(), StoreError> {
        // As many as leave nine tenths, of those that are in the store.
        let keep = self.records_max - self.records_max / 10;
        let through = (sealed.head.sequence + 1)
            .saturating_sub(keep)
            .min(sealed.head.oldest.saturating_add(PRUNE_MAX - 1))
            .min(self.head().sequence);
        let last = store.audit(through, 1)?.pop();
        let Some(last) = last.and_then(|row| v1::AuditRecord::decode(row.bytes.as_slice()).ok())
        else {
            return Ok(());
        };
        let note = Note {
            call: "prune".into(),
            what: format!("records up to {through} are forgotten"),
            ..Note::default()
        };
        let pruned = v1::AuditBody {
            pruned_through: through,
            pruned_hash: last.hash,
            ..body(note, generation, now_unix_ms)
        };
        self.link(sealed, pruned);
        sealed.floor = through;
        sealed.head.oldest = through + 1;
        Ok(())
    }

    /// Adds one record at the end.
    fn link(&self, sealed: &mut Sealed, mut body: v1::AuditBody) {
        let head = &mut sealed.head;
        head.sequence += 1;
        if head.oldest == 0 {
            head.oldest = head.sequence;
        }
        body.sequence = head.sequence;
        body.previous = std::mem::take(&mut head.hash);
        let body = body.encode_to_vec();
        head.hash = hash(&body);
        let record = v1::AuditRecord {
            body,
            hash: head.hash.clone(),
            signature: self.key.sign(&head.hash),
            public_key: self.key.public().to_vec(),
        };
        sealed.rows.push(AuditRow {
            sequence: head.sequence,
            bytes: record.encode_to_vec(),
        });
    }

    /// The chain ends with these from now on: they are durable.
    pub fn stored(&self, sealed: Sealed) {
        *self.head() = sealed.head;
    }
}

/// The front of a text, at most so many bytes.
fn front(mut text: String, bytes_max: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}

fn body(note: Note, generation: u64, now_unix_ms: u64) -> v1::AuditBody {
    v1::AuditBody {
        unix_ms: i64::try_from(now_unix_ms).unwrap_or(i64::MAX),
        who: front(note.who, NAME_BYTES_MAX),
        peer: front(note.peer, NAME_BYTES_MAX),
        role: note.role.to_owned(),
        call: front(note.call, NAME_BYTES_MAX),
        request_sha256: note.request_sha256,
        what: front(note.what, WHAT_BYTES_MAX),
        code: note.code,
        generation,
        left_out: note.left_out,
        ..v1::AuditBody::default()
    }
}
