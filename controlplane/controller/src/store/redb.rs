//! The embedded engine: one redb file, one writer, readers beside it.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use tokio::sync::watch;

use super::{
    AuditRow, Batch, ElectionId, Epoch, Followed, Standing, Store, StoreError, Stored, log_row,
    new_store_id,
};
use crate::record::Object;
use crate::tables::LogRow;

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const OBJECTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("objects");
const CARDS: TableDefinition<u32, &[u8]> = TableDefinition::new("cards");
const CHANGES: TableDefinition<u64, &[u8]> = TableDefinition::new("changes");
const AUDIT: TableDefinition<u64, &[u8]> = TableDefinition::new("audit");

/// Layout of the file; another one is refused rather than guessed at.
const FORMAT: u64 = 1;

/// A redb file. Whoever has it open leads: one process at a time can.
pub struct RedbStore {
    place: String,
    database: Database,
    election: ElectionId,
    news: watch::Sender<()>,
}

impl RedbStore {
    /// Opens the file, making it when there is none, as its next leader.
    ///
    /// # Errors
    /// It cannot be opened (another controller has it open?), is damaged, or has another layout.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let place = path.display().to_string();
        let database = Database::create(path).map_err(|e| StoreError::Engine {
            place: place.clone(),
            operation: "open (is another controller running on it?)",
            cause: e.to_string(),
        })?;
        let mut store = Self {
            place,
            database,
            election: ElectionId(0),
            news: watch::Sender::new(()),
        };
        store.election = store.initialise()?;
        Ok(store)
    }

    /// Makes the tables, and takes the next election id. It is at least the clock's: so a copy that is put back leads what
    /// knew the store before, and of two copies that run at once the one started later does.
    fn initialise(&self) -> Result<ElectionId, StoreError> {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH);
        let clock = clock.map_or(0, |since| since.as_millis() as u64);
        let (found, election) = self.write("initialise", |tx| {
            tx.open_table(OBJECTS)?;
            tx.open_table(CARDS)?;
            tx.open_table(CHANGES)?;
            tx.open_table(AUDIT)?;
            let mut meta = tx.open_table(META)?;
            let format = meta.get("format")?.map(|value| number(value.value()));
            if format.is_none() {
                meta.insert("format", FORMAT.to_be_bytes().as_slice())?;
                meta.insert("store_id", new_store_id().as_bytes())?;
            }
            let last = meta.get("election_id")?.map(|value| number(value.value()));
            let election = clock.max(last.unwrap_or(0).saturating_add(1));
            if format.is_none_or(|format| format == FORMAT) {
                meta.insert("election_id", election.to_be_bytes().as_slice())?;
            }
            Ok((format.unwrap_or(FORMAT), ElectionId(election)))
        })?;
        if found != FORMAT {
            return Err(StoreError::Content {
                place: self.place.clone(),
                cause: format!(
                    "has layout {found}, this program reads layout {FORMAT}; use the version that wrote it"
                ),
            });
        }
        Ok(election)
    }

    fn failed(&self, operation: &'static str, error: &redb::Error) -> StoreError {
        StoreError::Engine {
            place: self.place.clone(),
            operation,
            cause: error.to_string(),
        }
    }

    fn write<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&redb::WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let run = || -> Result<T, redb::Error> {
            let tx = self.database.begin_write()?;
            let out = work(&tx)?;
            tx.commit()?;
            Ok(out)
        };
        run().map_err(|e| self.failed(operation, &e))
    }

    fn read<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let run = || -> Result<T, redb::Error> { work(&self.database.begin_read()?) };
        run().map_err(|e| self.failed(operation, &e))
    }
}

impl Store for RedbStore {
    fn engine(&self) -> &'static str {
        "redb"
    }

    fn standing(&self) -> Standing {
        Standing::Leading(self.election)
    }

    fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    fn since(&self, _: u64) -> Result<Followed, StoreError> {
        // Nobody else can write to it.
        Ok(Followed::Batches(Vec::new()))
    }

    fn load(&self) -> Result<Stored, StoreError> {
        type Raw = (Vec<(u8, Vec<u8>)>, Vec<(u64, Vec<u8>)>);
        let mut stored = Stored::default();
        let (objects, rows): Raw = self.read("read", |tx| {
            let meta = tx.open_table(META)?;
            let value = |name: &str| -> Result<Vec<u8>, redb::Error> {
                Ok(meta
                    .get(name)?
                    .map(|value| value.value().to_vec())
                    .unwrap_or_default())
            };
            stored.store_id = String::from_utf8_lossy(&value("store_id")?).into_owned();
            stored.generation = number(&value("generation")?);
            // A store from before this was kept cannot tell: then everything was somebody's word.
            stored.intent_generation = match meta.get("intent_generation")? {
                Some(value) => number(value.value()),
                None => stored.generation,
            };
            stored.floor = number(&value("floor")?);
            stored.epoch = Epoch {
                compiler: number(&value("compiler")?),
                taxonomy: String::from_utf8_lossy(&value("taxonomy")?).into_owned(),
            };
            let mut objects = Vec::new();
            for row in tx.open_table(OBJECTS)?.iter()? {
                let (key, value) = row?;
                let tag = key.value().first().copied().unwrap_or(0);
                objects.push((tag, value.value().to_vec()));
            }
            let mut rows = Vec::new();
            for row in tx.open_table(CHANGES)?.iter()? {
                let (generation, value) = row?;
                rows.push((generation.value(), value.value().to_vec()));
            }
            Ok((objects, rows))
        })?;
        for (tag, value) in objects {
            let object =
                Object::from_bytes(tag, &value).map_err(|e| StoreError::record(&self.place, e))?;
            stored.objects.push(object);
        }
        for (generation, value) in rows {
            let keys = log_row::read(&value).map_err(|cause| StoreError::Content {
                place: self.place.clone(),
                cause: format!("change row of generation {generation}: {cause}"),
            })?;
            stored.log.push(LogRow { generation, keys });
        }
        Ok(stored)
    }

    fn commit(&self, id: ElectionId, batch: &Batch) -> Result<(), StoreError> {
        if id != self.election {
            return Err(StoreError::Deposed);
        }
        self.write("commit", |tx| {
            let mut objects = tx.open_table(OBJECTS)?;
            for (key, object) in &batch.objects {
                let key = key.to_bytes();
                match object {
                    Some(object) => {
                        objects.insert(key.as_slice(), object.to_bytes().as_slice())?;
                    }
                    None => {
                        objects.remove(key.as_slice())?;
                    }
                }
            }
            let mut cards = tx.open_table(CARDS)?;
            for (number, card) in &batch.cards {
                match card {
                    Some(card) => {
                        cards.insert(number, card.as_slice())?;
                    }
                    None => {
                        cards.remove(number)?;
                    }
                }
            }
            let mut changes = tx.open_table(CHANGES)?;
            for (generation, keys) in &batch.changed {
                if !keys.is_empty() {
                    changes.insert(generation, log_row::write(keys).as_slice())?;
                }
            }
            changes.retain_in(..=batch.floor, |_, _| false)?;
            let mut audit = tx.open_table(AUDIT)?;
            for row in &batch.audit {
                audit.insert(row.sequence, row.bytes.as_slice())?;
            }
            if batch.audit_floor > 0 {
                audit.retain_in(..=batch.audit_floor, |_, _| false)?;
            }
            let mut meta = tx.open_table(META)?;
            meta.insert("generation", batch.generation.to_be_bytes().as_slice())?;
            let intent = batch.intent_generation.to_be_bytes();
            meta.insert("intent_generation", intent.as_slice())?;
            meta.insert("floor", batch.floor.to_be_bytes().as_slice())?;
            if let Some(epoch) = &batch.epoch {
                meta.insert("compiler", epoch.compiler.to_be_bytes().as_slice())?;
                meta.insert("taxonomy", epoch.taxonomy.as_bytes())?;
            }
            if let Some(store_id) = &batch.store_id {
                meta.insert("store_id", store_id.as_bytes())?;
            }
            Ok(())
        })
    }

    fn card(&self, number: u32) -> Result<Option<Vec<u8>>, StoreError> {
        self.read("read a card", |tx| {
            let cards = tx.open_table(CARDS)?;
            Ok(cards.get(number)?.map(|card| card.value().to_vec()))
        })
    }

    fn audit(&self, from: u64, count: usize) -> Result<Vec<AuditRow>, StoreError> {
        self.read("read the audit log", |tx| {
            let rows = tx.open_table(AUDIT)?;
            let mut found = Vec::new();
            for row in rows.range(from..)?.take(count) {
                let (sequence, bytes) = row?;
                found.push(AuditRow {
                    sequence: sequence.value(),
                    bytes: bytes.value().to_vec(),
                });
            }
            Ok(found)
        })
    }

    fn audit_ends(&self) -> Result<Option<(u64, u64)>, StoreError> {
        self.read("read the audit log", |tx| {
            let rows = tx.open_table(AUDIT)?;
            let ends = (rows.first()?, rows.last()?);
            Ok(match ends {
                (Some((oldest, _)), Some((newest, _))) => Some((oldest.value(), newest.value())),
                _ => None,
            })
        })
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_be_bytes)
}
