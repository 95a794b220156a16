//! The compiled tables, as routers are to hold them, and the log of what changed when.
//!
//! Entries that are the same everywhere are held once; transit routes and
//! neighbours belong to one router. Each published generation leaves a row in
//! the log, bounded in entries: a router that holds an older generation than the
//! log reaches gets a snapshot.
//!
//! Some generations are *held back*: they are in force here, and no router may
//! have them yet (`tables/held.rs`). What is compiled is compared with the
//! newest; what routers get is what was released.
//!
//! Refuses to know why an entry is what it is, why one is held back, how it
//! travels, and files.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use caplane_core::fib::{Entry, EntryKey};
use caplane_wire::Label;

mod held;
#[cfg(test)]
mod tests;

use held::Held;

/// Names an entry in all routers' tables.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableKey {
    /// The same in every router.
    Shared(EntryKey),
    /// Of one router only.
    Router(Label, EntryKey),
}

impl TableKey {
    /// The entry's own key, as the router knows it.
    #[must_use]
    pub fn entry_key(&self) -> &EntryKey {
        match self {
            Self::Shared(key) | Self::Router(_, key) => key,
        }
    }

    /// Whether a router's table holds it.
    #[must_use]
    pub fn concerns(&self, router: Label) -> bool {
        match self {
            Self::Shared(_) => true,
            Self::Router(of, _) => *of == router,
        }
    }
}

/// One changed entry; `None` = it is gone.
pub type EntryChange = (TableKey, Option<Entry>);

/// An entry and the generation in which it last changed (or, after a restart, at the latest changed).
#[derive(Debug, Clone)]
pub struct Versioned {
    /// Generation.
    pub version: u64,
    /// The entry.
    pub entry: Arc<Entry>,
}

/// What one generation changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRow {
    /// The generation.
    pub generation: u64,
    /// The entries it changed.
    pub keys: Vec<TableKey>,
}

/// A difference, or a whole table.
#[derive(Debug, Clone, Default)]
pub struct TableDifference {
    /// New and changed entries.
    pub upserts: Vec<Versioned>,
    /// Entries that are gone.
    pub removes: Vec<EntryKey>,
}

/// All tables at one generation.
#[derive(Debug)]
pub struct Tables {
    generation: u64,
    floor: u64,
    shared: HashMap<EntryKey, Versioned>,
    routers: HashMap<Label, HashMap<EntryKey, Versioned>>,
    log: VecDeque<LogRow>,
    log_entries: usize,
    log_entries_max: usize,
    held: Held,
}

impl Tables {
    /// Tables as compiled at `generation`, with the log as stored: rows after `floor`, rising.
    #[must_use]
    pub fn new(
        generation: u64,
        floor: u64,
        log: Vec<LogRow>,
        log_entries_max: usize,
        entries: impl IntoIterator<Item = (TableKey, Entry)>,
    ) -> Self {
        let mut versions: HashMap<&TableKey, u64> = HashMap::new();
        for row in &log {
            for key in &row.keys {
                versions.insert(key, row.generation);
            }
        }
        let mut tables = Self {
            generation,
            floor,
            shared: HashMap::new(),
            routers: HashMap::new(),
            log: VecDeque::new(),
            log_entries: log.iter().map(|row| row.keys.len()).sum(),
            log_entries_max,
            held: Held::default(),
        };
        for (key, entry) in entries {
            let row = Versioned {
                version: versions.get(&key).copied().unwrap_or(floor),
                entry: Arc::new(entry),
            };
            tables.set(key, Some(row));
        }
        tables.log = log.into();
        tables
    }

    /// The newest generation.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The newest generation that routers may have.
    #[must_use]
    pub fn released(&self) -> u64 {
        self.held.before().unwrap_or(self.generation)
    }

    /// The oldest generation that a difference can start from.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// The entry with this key.
    #[must_use]
    pub fn entry(&self, key: &TableKey) -> Option<&Versioned> {
        match key {
            TableKey::Shared(key) => self.shared.get(key),
            TableKey::Router(router, key) => self.routers.get(router)?.get(key),
        }
    }

    /// Keys of the entries that belong to one router only.
    pub fn router_keys(&self, router: Label) -> impl Iterator<Item = &EntryKey> {
        self.routers
            .get(&router)
            .into_iter()
            .flat_map(HashMap::keys)
    }

    /// Routers that have entries of their own.
    pub fn routers(&self) -> impl Iterator<Item = Label> + '_ {
        self.routers.keys().copied()
    }

    /// How many entries a router's table has.
    #[must_use]
    pub fn size(&self, router: Label) -> usize {
        self.shared.len() + self.routers.get(&router).map_or(0, HashMap::len)
    }

    /// The oldest generation a difference could start from once rows of so many entries are added.
    #[must_use]
    pub fn floor_after(&self, rows: &[(u64, usize)]) -> u64 {
        let own = self.log.iter().map(|row| (row.generation, row.keys.len()));
        let mut total = self.log_entries + rows.iter().map(|(_, entries)| entries).sum::<usize>();
        let mut floor = self.floor;
        for (generation, entries) in own.chain(rows.iter().copied()) {
            if total <= self.log_entries_max {
                break;
            }
            total -= entries;
            floor = generation;
        }
        floor
    }

    /// Adds generations; those after `released` are held back, and so are they when others are already.
    ///
    /// # Panics
    /// When generations do not rise: they are handed out by the one writer.
    pub fn publish(&mut self, rows: Vec<(u64, Vec<EntryChange>)>, released: u64) {
        let sizes: Vec<(u64, usize)> = rows.iter().map(|(at, row)| (*at, row.len())).collect();
        self.floor = self.floor_after(&sizes);
        for (generation, changes) in rows {
            assert!(generation > self.generation, "generations rise");
            let hold = generation > released || self.held.before().is_some();
            if hold {
                self.held.begin(self.generation, generation);
            }
            self.generation = generation;
            let mut keys = Vec::with_capacity(changes.len());
            for (key, entry) in changes {
                let row = entry.map(|entry| Versioned {
                    version: generation,
                    entry: Arc::new(entry),
                });
                if hold {
                    let before = self.entry(&key).cloned();
                    self.held.add(key.clone(), before, row.clone());
                }
                keys.push(key.clone());
                self.set(key, row);
            }
            if !keys.is_empty() {
                self.log_entries += keys.len();
                self.log.push_back(LogRow { generation, keys });
            }
        }
        let floor = self.floor;
        while let Some(row) = self.log.pop_front_if(|row| row.generation <= floor) {
            self.log_entries -= row.keys.len();
        }
    }

    /// Lets routers have the generations up to this one.
    pub fn release(&mut self, upto: u64) {
        self.held.release(upto);
    }

    /// What a router that holds `held` lacks of what was released; `None` when only a snapshot can tell.
    #[must_use]
    pub fn difference(&self, router: Label, held: u64) -> Option<TableDifference> {
        let released = self.released();
        if held == 0 || held < self.floor || held > released {
            return None;
        }
        let first = self.log.partition_point(|row| row.generation <= held);
        let after = self.log.partition_point(|row| row.generation <= released);
        let changed: BTreeSet<&TableKey> = self
            .log
            .range(first..after.max(first))
            .flat_map(|row| &row.keys)
            .filter(|key| key.concerns(router))
            .collect();
        let mut difference = TableDifference::default();
        for key in changed {
            match self.held.released(key).unwrap_or_else(|| self.entry(key)) {
                Some(entry) => difference.upserts.push(entry.clone()),
                None => difference.removes.push(key.entry_key().clone()),
            }
        }
        Some(difference)
    }

    /// A router's whole table, as it was released.
    #[must_use]
    pub fn snapshot(&self, router: Label) -> TableDifference {
        let own = self.routers.get(&router).into_iter().flatten();
        // No key is both of all routers and of one.
        let held = self.held.keys(router);
        let newest = self.shared.iter().chain(own);
        let newest = newest.filter(|(key, _)| held.is_empty() || !held.contains(key));
        let upserts = newest.map(|(_, row)| row).chain(self.held.all(router));
        TableDifference {
            upserts: upserts.cloned().collect(),
            removes: Vec::new(),
        }
    }

    fn set(&mut self, key: TableKey, row: Option<Versioned>) {
        match (key, row) {
            (TableKey::Shared(key), Some(row)) => {
                self.shared.insert(key, row);
            }
            (TableKey::Shared(key), None) => {
                self.shared.remove(&key);
            }
            (TableKey::Router(router, key), Some(row)) => {
                self.routers.entry(router).or_default().insert(key, row);
            }
            (TableKey::Router(router, key), None) => {
                if let Some(own) = self.routers.get_mut(&router) {
                    own.remove(&key);
                    if own.is_empty() {
                        self.routers.remove(&router);
                    }
                }
            }
        }
    }
}
