//! Generations that no router may have yet: for each entry that they change, what routers may have of it meanwhile.
//!
//! Its size is that of the changes held back. Refuses to know what is waited for.

use std::collections::{HashMap, HashSet, VecDeque};

use caplane_core::fib::EntryKey;
use caplane_wire::Label;

use super::{TableKey, Versioned};

#[derive(Debug, Default)]
pub(super) struct Held {
    rows: VecDeque<Row>,
    /// Entries that the rows change, as they were released.
    entries: HashMap<TableKey, Released>,
}

#[derive(Debug)]
struct Row {
    /// The generation before.
    before: u64,
    generation: u64,
    changes: Vec<(TableKey, Option<Versioned>)>,
}

#[derive(Debug)]
struct Released {
    entry: Option<Versioned>,
    /// Rows that change it.
    rows: usize,
}

impl Held {
    /// The generation before the first that is held back.
    pub(super) fn before(&self) -> Option<u64> {
        self.rows.front().map(|row| row.before)
    }

    /// A generation is held back; what it changes is added.
    pub(super) fn begin(&mut self, before: u64, generation: u64) {
        self.rows.push_back(Row {
            before,
            generation,
            changes: Vec::new(),
        });
    }

    /// The newest generation held back changes this entry.
    pub(super) fn add(
        &mut self,
        key: TableKey,
        before: Option<Versioned>,
        after: Option<Versioned>,
    ) {
        let released = self.entries.entry(key.clone()).or_insert(Released {
            entry: before,
            rows: 0,
        });
        released.rows += 1;
        if let Some(row) = self.rows.back_mut() {
            row.changes.push((key, after));
        }
    }

    pub(super) fn release(&mut self, upto: u64) {
        while let Some(row) = self.rows.pop_front_if(|row| row.generation <= upto) {
            for (key, after) in row.changes {
                let Some(released) = self.entries.get_mut(&key) else {
                    continue;
                };
                released.entry = after;
                released.rows -= 1;
                if released.rows == 0 {
                    self.entries.remove(&key);
                }
            }
        }
    }

    /// Keys of the entries of a router's table that are held back.
    pub(super) fn keys(&self, router: Label) -> HashSet<&EntryKey> {
        let concerned = self.entries.keys().filter(|key| key.concerns(router));
        concerned.map(TableKey::entry_key).collect()
    }

    /// An entry as it was released; `None` = nothing is held back of it.
    pub(super) fn released(&self, key: &TableKey) -> Option<Option<&Versioned>> {
        let released = self.entries.get(key)?;
        Some(released.entry.as_ref())
    }

    /// They themselves, as they were released.
    pub(super) fn all(&self, router: Label) -> impl Iterator<Item = &Versioned> {
        let own = self
            .entries
            .iter()
            .filter(move |(key, _)| key.concerns(router));
        own.filter_map(|(_, released)| released.entry.as_ref())
    }
}
