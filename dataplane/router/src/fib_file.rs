//! The last good table on disk, so that a router starts and forwards without a controller. What changed since it
//! was written lies beside it: [`crate::table_log`].
//!
//! The file is a header and two protobuf messages of the southbound API, so what
//! is read at start goes through the same conversion as what comes from the network:
//!
//! ```text
//! "CPLFIB01"  8 bytes   format and version
//! checksum    8 bytes   FNV-1a of the rest, big-endian
//! SessionAccepted       length-delimited: router name, label, domain, store id, election id
//! TableUpdate           length-delimited: a snapshot (base 0) with its generation
//! ```
//!
//! The checksum finds torn and rotten files; it does not authenticate: the state
//! folder is as trusted as the private key beside it.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Buf;
use caplane_core::Fib;
use caplane_proto::v1;
use caplane_wire::{Label, LabelKind};
use prost::Message;

use crate::{fnv::fnv1a, state_file, table};

/// Name of the file within the state folder.
pub const FILE_NAME: &str = "table.fib";

const MAGIC: &[u8; 8] = b"CPLFIB01";
const HEADER_LEN: usize = 16;

/// A table and where it came from.
#[derive(Clone)]
pub struct HeldTable {
    /// The table.
    pub fib: Fib,
    /// Name the controller knows this router by; empty before the first session.
    pub router_name: String,
    /// Identity of the controller's store its generation belongs to; empty before the first.
    pub store_id: String,
    /// The highest election id met of that store: who has a lower one leads it no more.
    pub election_id: u64,
}

impl HeldTable {
    /// No table: what a router has before it ever met a controller.
    pub fn none() -> Self {
        Self {
            fib: Fib::empty(0, Label::NONE),
            router_name: String::new(),
            store_id: String::new(),
            election_id: 0,
        }
    }
}

/// Why a stored table cannot be used. The router then starts without one.
#[derive(Debug, thiserror::Error)]
pub enum FibFileError {
    /// The file could not be read or written.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's word.
        cause: io::Error,
    },
    /// The file is not what was written.
    #[error("{}: {cause}; the router starts without a table and waits for the controller", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
}

/// A table file that was written.
#[derive(Debug, Clone, Copy)]
pub struct Stored {
    /// Its checksum.
    pub checksum: u64,
    /// Its length (bytes).
    pub bytes: u64,
}

/// Writes `held` to `path`, whole or not at all.
///
/// # Errors
///
/// [`FibFileError::Io`]; the older file is then still there.
pub fn save(path: &Path, held: &HeldTable) -> Result<Stored, FibFileError> {
    let (file, checksum) = encode(held);
    let replaced = state_file::replace(path, &file);
    replaced.map_err(|cause| FibFileError::Io {
        path: path.to_owned(),
        cause,
    })?;
    Ok(Stored {
        checksum,
        bytes: file.len() as u64,
    })
}

/// Reads the table at `path`, and the checksum of the file; `None` when there is no such file.
///
/// # Errors
///
/// [`FibFileError`] when the file is there and cannot be used.
pub fn load(path: &Path) -> Result<Option<(HeldTable, u64)>, FibFileError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => {
            return Err(FibFileError::Io {
                path: path.to_owned(),
                cause,
            });
        }
    };
    decode(&bytes)
        .map(Some)
        .map_err(|cause| FibFileError::Damaged {
            path: path.to_owned(),
            cause,
        })
}

/// The file, and its checksum.
fn encode(held: &HeldTable) -> (Vec<u8>, u64) {
    let generation = held.fib.generation().0;
    let origin = v1::SessionAccepted {
        router_name: held.router_name.clone(),
        router_label: held.fib.router().bits(),
        domain: held.fib.domain(),
        store_id: held.store_id.clone(),
        election_id: held.election_id,
        ..Default::default()
    };
    let snapshot = v1::TableUpdate {
        nonce: 0,
        generation,
        base_generation: 0,
        upserts: held
            .fib
            .entries()
            .map(|entry| table::resource(&entry, generation))
            .collect(),
        removes: Vec::new(),
        last: true,
        election_id: held.election_id,
    };
    let mut file = vec![0; HEADER_LEN];
    file.extend_from_slice(&origin.encode_length_delimited_to_vec());
    file.extend_from_slice(&snapshot.encode_length_delimited_to_vec());
    let checksum = fnv1a(&file[HEADER_LEN..]);
    file[..8].copy_from_slice(MAGIC);
    file[8..HEADER_LEN].copy_from_slice(&checksum.to_be_bytes());
    (file, checksum)
}

fn decode(bytes: &[u8]) -> Result<(HeldTable, u64), String> {
    let Some((header, mut body)) = bytes.split_at_checked(HEADER_LEN) else {
        return Err(format!("{} bytes are too few for a table", bytes.len()));
    };
    let (magic, mut checksum) = header.split_at(8);
    if magic != MAGIC {
        return Err("it is no table of format CPLFIB01".to_owned());
    }
    let checksum = checksum.get_u64();
    if checksum != fnv1a(body) {
        return Err("its checksum does not fit its content".to_owned());
    }
    let origin = v1::SessionAccepted::decode_length_delimited(&mut body)
        .map_err(|e| format!("its origin cannot be decoded: {e}"))?;
    let snapshot = v1::TableUpdate::decode_length_delimited(&mut body)
        .map_err(|e| format!("its table cannot be decoded: {e}"))?;
    let router = Label::from_bits(origin.router_label);
    if router.kind() != LabelKind::Router {
        return Err(format!("its router label is {router}"));
    }
    let rejections = |all: Vec<caplane_core::fib::Rejection>| {
        let first = all.first().map(ToString::to_string).unwrap_or_default();
        format!("{} of its entries are refused, first {first}", all.len())
    };
    let delta =
        table::delta(0, snapshot.generation, snapshot.upserts, Vec::new()).map_err(rejections)?;
    let fib = Fib::empty(origin.domain, router)
        .apply(&delta)
        .map_err(rejections)?;
    let held = HeldTable {
        fib,
        router_name: origin.router_name,
        store_id: origin.store_id,
        election_id: origin.election_id,
    };
    Ok((held, checksum))
}

#[cfg(test)]
mod tests {
    use super::*;
    use caplane_core::fib::{Delta, Entry, Generation, NeighbourEntry};

    fn held() -> HeldTable {
        let neighbour = Entry::Neighbour(NeighbourEntry {
            router: Label::router(2).unwrap(),
            name: "edge-2".into(),
            uri: "spiffe://caplane.local/router/edge-2".into(),
            address: "127.0.0.1:4433".into(),
            dial: true,
            cost: 1,
        });
        let fib = Fib::empty(0, Label::router(1).unwrap())
            .apply(&Delta {
                base: Generation(0),
                generation: Generation(17),
                upserts: vec![neighbour],
                removes: vec![],
            })
            .map_err(|e| e[0].to_string())
            .unwrap();
        HeldTable {
            fib,
            router_name: "edge-1".into(),
            store_id: "store-a".into(),
            election_id: 7,
        }
    }

    #[test]
    fn a_table_comes_back_as_it_was_saved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        assert!(load(&path).unwrap().is_none());
        save(&path, &held()).unwrap();
        let (back, _) = load(&path).unwrap().unwrap();
        assert_eq!(back.store_id, "store-a");
        assert_eq!(back.router_name, "edge-1");
        assert_eq!(back.election_id, 7);
        assert_eq!(back.fib.generation(), Generation(17));
        assert_eq!(back.fib.router(), Label::router(1).unwrap());
        let entries: Vec<_> = back.fib.entries().collect();
        assert_eq!(entries, held().fib.entries().collect::<Vec<_>>());
        assert_eq!(entries.len(), 1);
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_found() {
        let (whole, _) = encode(&held());
        for end in 0..whole.len() {
            assert!(decode(&whole[..end]).is_err(), "cut at {end}");
        }
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_damaged_file_says_where_and_what_follows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        std::fs::write(&path, b"nonsense that is long enough").unwrap();
        let error = load(&path).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(FILE_NAME), "{error}");
        assert!(error.contains("starts without a table"), "{error}");
    }
}
