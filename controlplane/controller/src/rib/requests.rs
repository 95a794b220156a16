//! Writes that are remembered so that they are not done twice: by caller and key, by caller and
//! age, and by age.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::Rib;
use crate::record::{ObjectKey, RequestRecord};

#[derive(Debug, Default)]
pub(super) struct RequestIndex {
    records: BTreeMap<(String, String), Arc<RequestRecord>>,
    /// End, caller, key.
    by_end: BTreeSet<(u64, String, String)>,
    /// End and key, by caller.
    of_caller: HashMap<String, BTreeSet<(u64, String)>>,
}

impl RequestIndex {
    pub(super) fn assign(
        &mut self,
        caller: String,
        key: String,
        new: Option<Arc<RequestRecord>>,
    ) -> Option<Arc<RequestRecord>> {
        let place = (caller, key);
        let before = self.records.remove(&place);
        if let Some(gone) = &before {
            let end = gone.end_unix_ms;
            self.by_end.remove(&(end, place.0.clone(), place.1.clone()));
            if let Some(row) = self.of_caller.get_mut(&place.0) {
                row.remove(&(end, place.1.clone()));
                if row.is_empty() {
                    self.of_caller.remove(&place.0);
                }
            }
        }
        if let Some(record) = new {
            let end = record.end_unix_ms;
            self.by_end.insert((end, place.0.clone(), place.1.clone()));
            let row = self.of_caller.entry(place.0.clone()).or_default();
            row.insert((end, place.1.clone()));
            self.records.insert(place, record);
        }
        before
    }
}

impl Rib {
    /// The Write that a caller gave this idempotency key.
    #[must_use]
    pub fn request(&self, caller: &str, key: &str) -> Option<&Arc<RequestRecord>> {
        let place = (caller.to_owned(), key.to_owned());
        self.requests.records.get(&place)
    }

    /// Writes that are remembered.
    #[must_use]
    pub fn request_count(&self) -> usize {
        self.requests.records.len()
    }

    /// Writes of one caller that are remembered.
    #[must_use]
    pub fn request_count_of(&self, caller: &str) -> usize {
        self.requests.of_caller.get(caller).map_or(0, BTreeSet::len)
    }

    /// The oldest that is remembered, of one caller or of all, with its end.
    #[must_use]
    pub fn oldest_request(&self, caller: Option<&str>) -> Option<(u64, ObjectKey)> {
        let (end, caller, key) = match caller {
            None => self.requests.by_end.first()?.clone(),
            Some(caller) => {
                let (end, key) = self.requests.of_caller.get(caller)?.first()?;
                (*end, caller.to_owned(), key.clone())
            }
        };
        Some((end, ObjectKey::Request(caller, key)))
    }
}
