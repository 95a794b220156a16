//! The buffer types that QUIC keeps for us, so that handing bytes over moves a reference and copies nothing.

use std::sync::Arc;

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
/// its last byte is acknowledged; each carries a clone of its connection's token, and when the token's owner is alone again,
/// everything written has been acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct StreamBytes {
    bytes: Bytes,
    _unacknowledged: Option<Arc<()>>,
}

impl StreamBytes {
    pub(crate) fn new(bytes: Bytes, token: &Arc<()>) -> Self {
        Self {
            bytes,
            _unacknowledged: Some(Arc::clone(token)),
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
            _unacknowledged: self._unacknowledged.clone(),
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
            _unacknowledged: None,
        }
    }

    fn dgram_buf_from_slice(bytes: &[u8]) -> DatagramBytes {
        DatagramBytes(Bytes::copy_from_slice(bytes))
    }
}
