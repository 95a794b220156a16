//! The stored table, kept up to date at the cost of what changed.
//!
//! A table that is written whole on every change makes one change cost as much as the table. So what changed
//! since is appended to a log beside the table file, one row an update, until the log is as long as the table:
//! then the table is written whole again, and each byte of it has been paid for by a byte that changed.
//!
//! ```text
//! "CPLLOG01"  8 bytes   format and version
//! table       8 bytes   checksum of the table file that the rows go on from, big-endian
//! rows, each:
//!   length    4 bytes   of the update, big-endian
//!   checksum  8 bytes   FNV-1a of the update, big-endian
//!   update    TableUpdate of the southbound API: a difference to the generation before
//! ```
//!
//! A log that goes on from another table file means nothing: so a crash between the two writes does no harm. The
//! first row that is torn or does not fit ends the log; what it said, the controller sends again. A router that
//! starts writes its table whole before it appends. Refuses to know where updates come from.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Buf;
use caplane_core::fib::{Delta, Entry, EntryKey, Generation};
use caplane_proto::v1;
use prost::Message;

use crate::fib_file::{self, FibFileError, HeldTable};
use crate::{fnv::fnv1a, table};

/// Name of the log within the state folder; the table file lies beside it.
pub const FILE_NAME: &str = "table.log";

const MAGIC: &[u8; 8] = b"CPLLOG01";
const HEADER_LEN: usize = 16;
const ROW_HEADER_LEN: usize = 12;

/// A log may grow to this many bytes beside a table that is shorter: small tables are not written whole all the time.
const LOG_BYTES_MIN: u64 = 64 * 1024;

/// Rows that wait to be written (bytes); beyond it the table is written whole.
const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What changed since the table was last written.
#[derive(Debug)]
pub enum Since {
    /// Everything may have.
    Whole,
    /// These rows, each a difference to the one before.
    Rows(Vec<Row>),
}

/// An update, as a row of the log.
#[derive(Debug)]
pub struct Row {
    base: u64,
    generation: u64,
    bytes: Vec<u8>,
}

impl Row {
    /// The row of a difference; `None` for a snapshot.
    #[must_use]
    pub fn of(update: &v1::TableUpdate) -> Option<Self> {
        (update.base_generation != 0).then(|| Self {
            base: update.base_generation,
            generation: update.generation,
            bytes: update.encode_to_vec(),
        })
    }
}

impl Default for Since {
    fn default() -> Self {
        Self::Rows(Vec::new())
    }
}

impl Since {
    /// Adds what came later.
    pub fn add(&mut self, later: Self) {
        match (&mut *self, later) {
            (Self::Rows(rows), Self::Rows(more)) => {
                rows.extend(more);
                let waiting: usize = rows.iter().map(|row| row.bytes.len()).sum();
                if waiting > WAITING_BYTES_MAX {
                    *self = Self::Whole;
                }
            }
            (_, Self::Whole) => *self = Self::Whole,
            (Self::Whole, Self::Rows(_)) => {}
        }
    }
}

/// What a save cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// Bytes written.
    pub bytes: u64,
    /// The table was written whole.
    pub whole: bool,
}

/// The table file and its log.
#[derive(Debug)]
pub struct StoredTable {
    path: PathBuf,
    /// The table file as this process wrote it; `None` = the next save writes it whole.
    written: Option<WrittenTable>,
}

#[derive(Debug)]
struct WrittenTable {
    checksum: u64,
    bytes: u64,
    /// Where file and log lead to.
    generation: u64,
    log: Option<File>,
    log_bytes: u64,
}

impl StoredTable {
    /// The table file at `path`, which is as yet written by nobody.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self {
            path,
            written: None,
        }
    }

    /// Makes `held` what is stored, of which `since` is what changed since the last save.
    ///
    /// # Errors
    ///
    /// [`FibFileError::Io`]; a start would then find an older table.
    pub fn save(&mut self, held: &HeldTable, since: &Since) -> Result<Saved, FibFileError> {
        if let (Since::Rows(rows), Some(written)) = (since, &mut self.written)
            && written.takes(rows)
        {
            let path = log_path(&self.path);
            return match written.append(&path, rows) {
                Ok(bytes) => Ok(Saved {
                    bytes,
                    whole: false,
                }),
                Err(cause) => {
                    // Half a row may be there: nothing may follow it.
                    self.written = None;
                    Err(FibFileError::Io { path, cause })
                }
            };
        }
        self.written = None;
        let stored = fib_file::save(&self.path, held)?;
        // It means nothing to another table. The same one may be written twice, of a store that went back in time.
        let _ = std::fs::remove_file(log_path(&self.path));
        self.written = Some(WrittenTable {
            checksum: stored.checksum,
            bytes: stored.bytes,
            generation: held.fib.generation().0,
            log: None,
            log_bytes: 0,
        });
        Ok(Saved {
            bytes: stored.bytes,
            whole: true,
        })
    }
}

impl WrittenTable {
    /// Whether these rows go on from what is there, and there is room for them.
    fn takes(&self, rows: &[Row]) -> bool {
        let mut generation = self.generation;
        let mut bytes = self.log_bytes;
        for row in rows {
            if row.base != generation {
                return false;
            }
            generation = row.generation;
            bytes += (ROW_HEADER_LEN + row.bytes.len()) as u64;
        }
        bytes <= self.bytes.max(LOG_BYTES_MIN)
    }

    fn append(&mut self, path: &Path, rows: &[Row]) -> io::Result<u64> {
        let mut content = Vec::new();
        if self.log.is_none() {
            content.extend_from_slice(MAGIC);
            content.extend_from_slice(&self.checksum.to_be_bytes());
        }
        for row in rows {
            // Updates are far smaller: a whole table is.
            let length = u32::try_from(row.bytes.len()).map_err(io::Error::other)?;
            content.extend_from_slice(&length.to_be_bytes());
            content.extend_from_slice(&fnv1a(&row.bytes).to_be_bytes());
            content.extend_from_slice(&row.bytes);
        }
        let log = match &mut self.log {
            Some(log) => log,
            none => none.insert(begin(path)?),
        };
        log.write_all(&content)?;
        log.sync_data()?;
        self.log_bytes += content.len() as u64;
        if let Some(last) = rows.last() {
            self.generation = last.generation;
        }
        Ok(content.len() as u64)
    }
}

/// An empty log in place of the one that is there, if any.
fn begin(path: &Path) -> io::Result<File> {
    let log = File::create(path)?;
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        File::open(folder)?.sync_all()?;
    }
    Ok(log)
}

fn log_path(table: &Path) -> PathBuf {
    table.with_file_name(FILE_NAME)
}

/// Reads the table at `path` and what its log says changed since; `None` when there is no such file.
///
/// # Errors
///
/// [`FibFileError`] when the table file is there and cannot be used. A log that cannot is left out, and logged.
pub fn load(path: &Path) -> Result<Option<HeldTable>, FibFileError> {
    let Some((held, checksum)) = fib_file::load(path)? else {
        return Ok(None);
    };
    let log = match std::fs::read(log_path(path)) {
        Ok(log) => log,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::error!(event = "table_log_unreadable", %error, "the router starts with an older table");
            }
            return Ok(Some(held));
        }
    };
    let Some(delta) = changed(&log, checksum, held.fib.generation().0) else {
        return Ok(Some(held));
    };
    match held.fib.apply(&delta) {
        Ok(fib) => Ok(Some(HeldTable { fib, ..held })),
        Err(rejections) => {
            let first = rejections.first().map(ToString::to_string);
            tracing::error!(
                event = "table_log_refused",
                first = first.unwrap_or_default(),
                "the router starts with an older table"
            );
            Ok(Some(held))
        }
    }
}

/// What the rows of a log come to, from the first that goes on from `generation` to the last that is whole;
/// `None` when there is nothing of this table.
fn changed(log: &[u8], checksum: u64, generation: u64) -> Option<Delta> {
    let (header, mut rest) = log.split_at_checked(HEADER_LEN)?;
    let (magic, mut of) = header.split_at(8);
    if magic != MAGIC || of.get_u64() != checksum {
        return None;
    }
    let mut newest = generation;
    // Each entry once, as the last row has it: applied one by one, a long log would take long.
    let mut entries: BTreeMap<EntryKey, Option<Entry>> = BTreeMap::new();
    while let Some((row, after)) = next_row(rest)
        && row.base.0 == newest
    {
        newest = row.generation.0;
        rest = after;
        let gone = row.removes.into_iter().map(|key| (key, None));
        let there = row.upserts.into_iter().map(|e| (e.key(), Some(e)));
        entries.extend(gone.chain(there));
    }
    if !rest.is_empty() {
        tracing::warn!(
            event = "table_log_cut",
            bytes = rest.len(),
            generation = newest,
            "the end of the stored table's log cannot be used; the controller sends it again"
        );
    }
    let mut delta = Delta {
        base: Generation(generation),
        generation: Generation(newest),
        upserts: Vec::new(),
        removes: Vec::new(),
    };
    for (key, entry) in entries {
        match entry {
            Some(entry) => delta.upserts.push(entry),
            None => delta.removes.push(key),
        }
    }
    (newest > generation).then_some(delta)
}

/// The row that `log` begins with, and what follows it; `None` = no whole one.
fn next_row(log: &[u8]) -> Option<(Delta, &[u8])> {
    let (mut header, rest) = log.split_at_checked(ROW_HEADER_LEN)?;
    let (length, checksum) = (header.get_u32(), header.get_u64());
    let (update, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    if fnv1a(update) != checksum {
        return None;
    }
    let update = v1::TableUpdate::decode(update).ok()?;
    let (base, generation) = (update.base_generation, update.generation);
    let row = table::delta(base, generation, update.upserts, update.removes).ok()?;
    (generation > base).then_some((row, after))
}

#[cfg(test)]
mod tests;
