//! Connection ids: 16 bytes, the first names the worker, the others are random.
//!
//! A classic-BPF program can then steer any packet of a connection to its worker, also after the peer changed its address.

use std::collections::HashMap;

use quiche::ConnectionId;

/// Length of every connection id that we issue, in bytes.
pub(crate) const CID_LEN: usize = 16;

/// A new connection id of `worker`.
pub(crate) fn new_cid(worker: u8) -> ConnectionId<'static> {
    let mut bytes = [0; CID_LEN];
    boring::rand::rand_bytes(&mut bytes).expect("BoringSSL's generator does not fail once seeded");
    bytes[0] = worker;
    ConnectionId::from_vec(bytes.to_vec())
}

/// A connection id of any length as a table key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    length: u8,
    bytes: [u8; quiche::MAX_CONN_ID_LEN],
}

impl Key {
    /// `None` for an id longer than QUIC allows.
    fn new(cid: &[u8]) -> Option<Self> {
        let mut bytes = [0; quiche::MAX_CONN_ID_LEN];
        bytes.get_mut(..cid.len())?.copy_from_slice(cid);
        Some(Self {
            length: cid.len() as u8,
            bytes,
        })
    }
}

/// Which connection a destination connection id belongs to.
///
/// Peers choose the ids of first packets, so the table hashes with std's keyed hash; the last answer is kept, since packets
/// of one connection come in runs.
#[derive(Debug, Default)]
pub(crate) struct CidTable {
    slots: HashMap<Key, u32>,
    last: Option<([u8; CID_LEN], u32)>,
}

impl CidTable {
    pub(crate) fn insert(&mut self, cid: &ConnectionId<'_>, slot: u32) {
        self.last = None;
        if let Some(key) = Key::new(cid) {
            self.slots.insert(key, slot);
        }
    }

    pub(crate) fn remove(&mut self, cid: &ConnectionId<'_>) {
        self.last = None;
        if let Some(key) = Key::new(cid) {
            self.slots.remove(&key);
        }
    }

    /// The slot of a connection id of ours.
    pub(crate) fn find(&mut self, cid: &[u8; CID_LEN]) -> Option<u32> {
        if let Some((last, slot)) = &self.last
            && last == cid
        {
            return Some(*slot);
        }
        let slot = *self.slots.get(&Key::new(cid)?)?;
        self.last = Some((*cid, slot));
        Some(slot)
    }

    /// The slot of a connection id of any length, as first packets carry them.
    pub(crate) fn find_any(&self, cid: &ConnectionId<'_>) -> Option<u32> {
        self.slots.get(&Key::new(cid)?).copied()
    }
}
