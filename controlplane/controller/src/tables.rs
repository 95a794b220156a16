//! The compiled tables, as routers are to hold them, and the log of what changed when.
//!
//! Entries that are the same everywhere are held once; transit routes and
//! neighbours belong to one router. Each published generation leaves a row in
//! the log, bounded in entries: a router that holds an older generation than the
//! log reaches gets a snapshot. Refuses to know why an entry is what it is, how
//! it travels, and files.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use caplane_core::fib::{Entry, EntryKey};
use caplane_wire::Label;

#[cfg(test)]
mod tests;

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
        };
        for (key, entry) in entries {
            let version = versions.get(&key).copied().unwrap_or(floor);
            tables.set(key, Some(entry), version);
        }
        tables.log = log.into();
        tables
    }

    /// The generation in force.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
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

    /// The oldest generation a difference could start from once a row of `entries` is added.
    #[must_use]
    pub fn floor_after(&self, generation: u64, entries: usize) -> u64 {
        let mut total = self.log_entries + entries;
        let mut floor = self.floor;
        for row in &self.log {
            if total <= self.log_entries_max {
                return floor;
            }
            total -= row.keys.len();
            floor = row.generation;
        }
        if total > self.log_entries_max {
            floor = generation;
        }
        floor
    }

    /// Makes a generation the one in force.
    ///
    /// # Panics
    /// When the generation does not rise: generations are handed out by the one writer.
    pub fn publish(&mut self, generation: u64, changes: Vec<EntryChange>) {
        assert!(generation > self.generation, "generations rise");
        self.floor = self.floor_after(generation, changes.len());
        self.generation = generation;
        let mut keys = Vec::with_capacity(changes.len());
        for (key, entry) in changes {
            keys.push(key.clone());
            self.set(key, entry, generation);
        }
        if !keys.is_empty() {
            self.log_entries += keys.len();
            self.log.push_back(LogRow { generation, keys });
        }
        while self
            .log
            .front()
            .is_some_and(|row| row.generation <= self.floor)
        {
            if let Some(row) = self.log.pop_front() {
                self.log_entries -= row.keys.len();
            }
        }
    }

    /// What a router that holds `held` lacks; `None` when only a snapshot can tell.
    #[must_use]
    pub fn difference(&self, router: Label, held: u64) -> Option<TableDifference> {
        if held == 0 || held < self.floor || held > self.generation {
            return None;
        }
        let first = self.log.partition_point(|row| row.generation <= held);
        let changed: BTreeSet<&TableKey> = self
            .log
            .range(first..)
            .flat_map(|row| &row.keys)
            .filter(|key| key.concerns(router))
            .collect();
        let mut difference = TableDifference::default();
        for key in changed {
            match self.entry(key) {
                Some(entry) => difference.upserts.push(entry.clone()),
                None => difference.removes.push(key.entry_key().clone()),
            }
        }
        Some(difference)
    }

    /// A router's whole table.
    #[must_use]
    pub fn snapshot(&self, router: Label) -> TableDifference {
        let own = self.routers.get(&router);
        TableDifference {
            upserts: self
                .shared
                .values()
                .chain(own.into_iter().flat_map(HashMap::values))
                .cloned()
                .collect(),
            removes: Vec::new(),
        }
    }

    fn set(&mut self, key: TableKey, entry: Option<Entry>, version: u64) {
        let row = entry.map(|entry| Versioned {
            version,
            entry: Arc::new(entry),
        });
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
