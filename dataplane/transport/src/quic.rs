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
/// its last byte is acknowledged; each carries a clone of its stream's ledger, and when the ledger's owner is alone again,
/// everything written to that stream has been acknowledged.
#[derive(Debug)]
pub(crate) struct StreamBytes {
    bytes: Bytes,
    ledger: Option<Arc<StreamLedger>>,
    /// Messages that are not acknowledged before these bytes are: they stay with the last part when QUIC splits a buffer.
    messages: Cell<u32>,
}

/// What QUIC holds of one connection. The buffers of a connection are in one place with it and only ever used by whoever has
/// it, so these are loads and stores, no locked instructions.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    buffers: AtomicU64,
    messages: AtomicU64,
}

impl Ledger {
    /// Messages written and not acknowledged. A slice of many counts until its last byte is acknowledged.
    pub(crate) fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// True when nothing that was written is unacknowledged.
    pub(crate) fn is_empty(&self) -> bool {
        self.buffers.load(Ordering::Relaxed) == 0
    }

    /// Messages were taken over for sending; [`StreamBytes::new`] is told with their last byte.
    pub(crate) fn add(&self, messages: u32) {
        change(&self.messages, |held| held + u64::from(messages));
    }
}

fn change(counter: &AtomicU64, to: impl Fn(u64) -> u64) {
    counter.store(to(counter.load(Ordering::Relaxed)), Ordering::Relaxed);
}

/// One stream's part of a [`Ledger`].
#[derive(Debug)]
pub(crate) struct StreamLedger(Arc<Ledger>);

impl StreamLedger {
    pub(crate) fn of(connection: &Arc<Ledger>) -> Arc<Self> {
        Arc::new(Self(Arc::clone(connection)))
    }

    /// True when everything written to the stream of `owned` has been acknowledged.
    pub(crate) fn is_empty(owned: &Arc<Self>) -> bool {
        Arc::strong_count(owned) == 1
    }

    fn begin_buffer(self: &Arc<Self>) -> Arc<Self> {
        change(&self.0.buffers, |held| held + 1);
        Arc::clone(self)
    }
}

impl StreamBytes {
    pub(crate) fn new(bytes: Bytes, ledger: &Arc<StreamLedger>, messages: u32) -> Self {
        Self {
            bytes,
            ledger: Some(ledger.begin_buffer()),
            messages: Cell::new(messages),
        }
    }

    /// The later part, when QUIC makes two of one.
    fn later(&self, bytes: Bytes) -> Self {
        Self {
            bytes,
            ledger: self.ledger.as_ref().map(StreamLedger::begin_buffer),
            messages: Cell::new(self.messages.take()),
        }
    }
}

/// QUIC splits a buffer by cloning it: the clone is the later part.
impl Clone for StreamBytes {
    fn clone(&self) -> Self {
        self.later(self.bytes.clone())
    }
}

impl Drop for StreamBytes {
    fn drop(&mut self) {
        if let Some(StreamLedger(ledger)) = self.ledger.as_deref() {
            let messages = u64::from(self.messages.get());
            change(&ledger.buffers, |held| held - 1);
            if messages > 0 {
                change(&ledger.messages, |held| held - messages);
            }
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
        let later = self.bytes.split_off(at);
        self.later(later)
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
