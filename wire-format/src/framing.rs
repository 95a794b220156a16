//! Where one message ends and the next begins, on lanes, bulk streams and in datagrams.
//!
//! Works on bytes that are there and says how many are missing; holds no buffer of its own and refuses to
//! know streams. Bytes may come in any split: the answer depends on their sequence only.

use core::fmt;

use crate::{HEADER_LEN, Header, HeaderError, TrafficClass};

/// Length in bytes of the message that begins at the front of `bytes`; `None` while fewer than 48 bytes
/// are there. It may exceed `bytes.len()`: the rest is still to come.
///
/// # Errors
/// [`FrameError`] when it is no message or longer than `limit`; the stream cannot be read any further and is
/// stopped (WF-63).
#[inline]
pub fn message_len(bytes: &[u8], limit: usize) -> Result<Option<usize>, FrameError> {
    if bytes.len() < HEADER_LEN {
        return Ok(None);
    }
    let (header, _) = Header::split(bytes).map_err(FrameError::Header)?;
    let length = header.total_len();
    if length > limit {
        return Err(FrameError::TooLarge { length, limit });
    }
    Ok(Some(length))
}

/// Checks that a message on a stream has the traffic class of the stream's preface (WF-62).
///
/// # Errors
/// [`FrameError::Class`] when it has another.
#[inline]
pub fn check_class<T: AsRef<[u8]>>(
    header: &Header<T>,
    stream: TrafficClass,
) -> Result<(), FrameError> {
    let found = header.class();
    if found == stream {
        Ok(())
    } else {
        Err(FrameError::Class { stream, found })
    }
}

/// Walks the complete messages at the front of a lane's bytes.
///
/// ```
/// use caplane_wire::{HeaderRepr, LANE_MESSAGE_MAX, Messages};
///
/// let mut bytes = HeaderRepr { payload_len: 2, ..HeaderRepr::default() }.to_bytes().to_vec();
/// bytes.extend_from_slice(b"hi");
/// bytes.extend_from_slice(&[0x10, 0, 0]); // the next one has only begun
///
/// let mut messages = Messages::new(&bytes, LANE_MESSAGE_MAX);
/// let first = messages.next().unwrap()?;
/// assert_eq!(&first[48..], b"hi");
/// assert!(messages.next().is_none());
/// assert_eq!(messages.rest().len(), 3);
/// # Ok::<(), caplane_wire::FrameError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    rest: &'a [u8],
    limit: usize,
    failed: bool,
}

impl<'a> Messages<'a> {
    /// A walk over `bytes`, none of whose messages may be longer than `limit`.
    #[inline]
    #[must_use]
    pub const fn new(bytes: &'a [u8], limit: usize) -> Self {
        Self {
            rest: bytes,
            limit,
            failed: false,
        }
    }

    /// The bytes not yet walked: when the walk has ended, the beginning of a message still to come.
    #[inline]
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<&'a [u8], FrameError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        match message_len(self.rest, self.limit) {
            Ok(Some(length)) => {
                let (message, rest) = self.rest.split_at_checked(length)?;
                self.rest = rest;
                Some(Ok(message))
            }
            Ok(None) => None,
            Err(error) => {
                self.failed = true;
                Some(Err(error))
            }
        }
    }
}

/// Keeps account of a bulk stream's length while its bytes pass: one message, and FIN at its exact end (WF-66).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BulkLength {
    expected: u64,
    seen: u64,
}

impl BulkLength {
    /// The account of a stream whose first bytes after the preface are `bytes`; `None` while fewer than 48
    /// are there. `bytes` themselves are not yet counted: [`advance`](Self::advance) does that.
    ///
    /// # Errors
    /// As [`message_len`].
    pub fn begin(bytes: &[u8], limit: usize) -> Result<Option<Self>, FrameError> {
        let length = message_len(bytes, limit)?;
        Ok(length.map(|length| Self {
            expected: length as u64,
            seen: 0,
        }))
    }

    /// Counts `bytes` more.
    ///
    /// # Errors
    /// [`FrameError::PastEnd`] when they pass the message's end.
    pub const fn advance(&mut self, bytes: usize) -> Result<(), FrameError> {
        self.seen = self.seen.saturating_add(bytes as u64);
        if self.seen > self.expected {
            Err(FrameError::PastEnd {
                length: self.expected,
            })
        } else {
            Ok(())
        }
    }

    /// Bytes still to come.
    #[must_use]
    pub const fn remaining(&self) -> u64 {
        self.expected.saturating_sub(self.seen)
    }

    /// Checks that the stream may end here.
    ///
    /// # Errors
    /// [`FrameError::CutShort`] when bytes are missing, [`FrameError::PastEnd`] when there were too many.
    pub const fn finish(&self) -> Result<(), FrameError> {
        if self.seen < self.expected {
            Err(FrameError::CutShort {
                length: self.expected,
                have: self.seen,
            })
        } else if self.seen > self.expected {
            Err(FrameError::PastEnd {
                length: self.expected,
            })
        } else {
            Ok(())
        }
    }
}

/// Checks that `bytes`, all of a datagram, are exactly one message (WF-70).
///
/// # Errors
/// [`FrameError`] when they are no message, less than one, or more than one.
#[inline]
pub fn datagram(bytes: &[u8]) -> Result<Header<&[u8; HEADER_LEN]>, FrameError> {
    let (header, _) = Header::split(bytes).map_err(FrameError::Header)?;
    let (length, have) = (header.total_len() as u64, bytes.len() as u64);
    if have < length {
        return Err(FrameError::CutShort { length, have });
    }
    if have > length {
        return Err(FrameError::PastEnd { length });
    }
    Ok(header)
}

/// Why bytes are not the messages they should be. The peer is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FrameError {
    /// No header stands where one should.
    Header(HeaderError),
    /// The message is longer than this carrier takes.
    TooLarge {
        /// Its length in bytes, header included.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The message's traffic class is not the stream's.
    Class {
        /// Class of the stream's preface.
        stream: TrafficClass,
        /// Class of the message.
        found: TrafficClass,
    },
    /// The stream or datagram ends before the message does.
    CutShort {
        /// Length of the message in bytes.
        length: u64,
        /// Bytes that came.
        have: u64,
    },
    /// Bytes follow the end of the only message there may be.
    PastEnd {
        /// Length of the message in bytes.
        length: u64,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(error) => error.fmt(f),
            Self::TooLarge { length, limit } => {
                write!(
                    f,
                    "a message of {length} bytes is past the limit of {limit}"
                )
            }
            Self::Class { stream, found } => {
                write!(
                    f,
                    "a message of class \"{found}\" came on a stream of class \"{stream}\""
                )
            }
            Self::CutShort { length, have } => {
                write!(f, "a message of {length} bytes was cut short after {have}")
            }
            Self::PastEnd { length } => {
                write!(f, "bytes follow the end of a message of {length} bytes")
            }
        }
    }
}

impl core::error::Error for FrameError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Header(error) => Some(error),
            _ => None,
        }
    }
}
