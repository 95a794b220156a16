//! The buffer types that QUIC keeps for us, so that handing bytes over moves a reference and copies nothing.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quiche::{BufFactory, BufSplit};

/// A connection whose buffers are ours.
pub(crate) type Quic = quiche::Connection<Buffers>;

/// Makes the buffers of a [`Quic`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffers;

/// Stream bytes that QUIC holds until they are acknowledged.
///
/// `stream_closed` is true once FIN is *written*, so it cannot tell a drain when all has arrived. QUIC drops a buffer when
/// its last byte is acknowledged; each carries a clone of its connection's ledger, and when the ledger's owner is alone again,
/// everything written has been acknowledged.
#[derive(Debug)]
pub(crate) struct StreamBytes {
    bytes: Bytes,
    ledger: Option<Arc<Ledger>>,
    /// Messages that are not acknowledged before these bytes are: they stay with the last part when QUIC splits a buffer.
    messages: Cell<u32>,
}

/// Messages written to one connection and not acknowledged. A slice of many counts until its last byte is acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Ledger(AtomicU64);

impl Ledger {
    pub(crate) fn messages(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Messages were taken over for sending; [`StreamBytes::new`] is told with their last byte.
    pub(crate) fn add(&self, messages: u32) {
        self.0.fetch_add(u64::from(messages), Ordering::Relaxed);
    }
}

impl StreamBytes {
    pub(crate) fn new(bytes: Bytes, ledger: &Arc<Ledger>, messages: u32) -> Self {
        Self {
            bytes,
            ledger: Some(Arc::clone(ledger)),
            messages: Cell::new(messages),
        }
    }
}

/// QUIC splits a buffer by cloning it: the clone is the later part.
impl Clone for StreamBytes {
    fn clone(&self) -> Self {
        Self {
            bytes: self.bytes.clone(),
            ledger: self.ledger.clone(),
            messages: Cell::new(self.messages.take()),
        }
    }
}

impl Drop for StreamBytes {
    fn drop(&mut self) {
        let messages = self.messages.get();
        if let (true, Some(ledger)) = (messages > 0, &self.ledger) {
            ledger.0.fetch_sub(u64::from(messages), Ordering::Relaxed);
        }
    }
}

impl AsRef<[u8]> for StreamBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl BufSplit for StreamBytes {
    fn split_at(&mut self, at: usize) -> Self {
        Self {
            bytes: self.bytes.split_off(at),
            ledger: self.ledger.clone(),
            messages: Cell::new(self.messages.take()),
        }
    }
}

/// One whole datagram.
#[derive(Debug)]
pub(crate) struct DatagramBytes(pub(crate) Bytes);

impl AsRef<[u8]> for DatagramBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for DatagramBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl BufFactory for Buffers {
    type Buf = StreamBytes;
    type DgramBuf = DatagramBytes;

    fn buf_from_slice(bytes: &[u8]) -> StreamBytes {
        StreamBytes {
            bytes: Bytes::copy_from_slice(bytes),
            ledger: None,
            messages: Cell::new(0),
        }
    }

    fn dgram_buf_from_slice(bytes: &[u8]) -> DatagramBytes {
        DatagramBytes(Bytes::copy_from_slice(bytes))
    }
}
