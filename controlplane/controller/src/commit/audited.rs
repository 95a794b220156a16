//! What was done is stored with what the audit log says of it.

use caplane_proto::v1;
use prost::Message;

use super::{State, now_unix_ms};
use crate::audit::{Auditor, Note};
use crate::store::{AuditRow, Batch, ElectionId, StoreError};

impl State {
    /// Has the audit log kept from now on. Once: a second one changes nothing.
    pub fn audit_by(&self, auditor: Auditor) {
        let _ = self.auditor.set(auditor);
    }

    pub(super) fn is_audited(&self) -> bool {
        self.auditor.get().is_some()
    }

    /// Stores a batch and the records of it as one: there is no act without its record. Only the one writer calls it.
    pub(super) fn store_audited(
        &self,
        id: ElectionId,
        batch: Batch,
        notes: Vec<Note>,
    ) -> Result<(), StoreError> {
        let Some(auditor) = self.auditor.get() else {
            return self.store.commit(id, &batch);
        };
        let store = self.store.as_ref();
        let mut sealed = auditor.seal(notes, batch.generation, now_unix_ms(), store)?;
        let batch = Batch {
            audit: std::mem::take(&mut sealed.rows),
            audit_floor: sealed.floor,
            ..batch
        };
        store.commit(id, &batch)?;
        auditor.stored(sealed);
        Ok(())
    }

    /// Audit records from a number on with their numbers, in order, at most so many. Blocks on the store.
    ///
    /// # Errors
    /// The store failed, or holds what is no record.
    pub fn audit(&self, from: u64, count: usize) -> Result<Vec<(u64, v1::AuditRecord)>, String> {
        let rows = self
            .store
            .audit(from, count)
            .map_err(|error| error.to_string())?;
        let record = |row: &AuditRow| {
            let record = v1::AuditRecord::decode(row.bytes.as_slice());
            record
                .map(|record| (row.sequence, record))
                .map_err(|error| format!("audit record {}: {error}", row.sequence))
        };
        rows.iter().map(record).collect()
    }

    /// The newest audit record's number; 0 = there is none.
    #[must_use]
    pub fn audit_newest(&self) -> u64 {
        self.auditor.get().map_or(0, Auditor::newest)
    }
}
