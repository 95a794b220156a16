//! Extensions: type-length-value items between header and payload (WF-50).
//!
//! Type 1 byte, length 2 bytes big-endian, value. A type with its top bit set must be understood or the
//! message is dropped; others are skipped. Knows how to walk and write them; refuses to know clocks (a
//! deadline is only a number here) and tracing.

use core::fmt;

/// Bytes of an extension before its value.
pub const EXTENSION_HEAD_LEN: usize = 3;

/// Type of the deadline: 8 bytes, microseconds since the Unix epoch (WF-53).
pub const DEADLINE: u8 = 0x01;

/// Type of the trace context: W3C Trace Context in its binary form, carried through untouched (WF-54).
pub const TRACE_CONTEXT: u8 = 0x02;

const MUST_UNDERSTAND: u8 = 0x80;

/// One extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension<'a> {
    /// Its type.
    pub kind: u8,
    /// Its value.
    pub value: &'a [u8],
}

impl Extension<'_> {
    /// Whether a receiver that does not know the type must drop the message (WF-51).
    #[inline]
    #[must_use]
    pub const fn must_understand(&self) -> bool {
        self.kind & MUST_UNDERSTAND != 0
    }

    /// Bytes it takes on the wire.
    #[inline]
    #[must_use]
    pub const fn wire_len(&self) -> usize {
        EXTENSION_HEAD_LEN + self.value.len()
    }

    /// Writes it at the front of `buffer` and returns its length in bytes.
    ///
    /// # Errors
    /// [`ExtensionError::NoRoom`] when `buffer` is shorter than [`wire_len`](Self::wire_len) or the value is
    /// longer than 65,535 bytes; nothing is written then.
    pub fn emit(&self, buffer: &mut [u8]) -> Result<usize, ExtensionError> {
        let length = u16::try_from(self.value.len()).map_err(|_| ExtensionError::NoRoom)?;
        let place = buffer
            .get_mut(..self.wire_len())
            .ok_or(ExtensionError::NoRoom)?;
        place[0] = self.kind;
        place[1..3].copy_from_slice(&length.to_be_bytes());
        place[3..].copy_from_slice(self.value);
        Ok(self.wire_len())
    }
}

/// Walks the extensions of a message: the `extension_len` bytes after its header.
///
/// Ends after the first error.
#[derive(Clone, Debug)]
pub struct Extensions<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Extensions<'a> {
    /// A walk over `bytes`.
    #[inline]
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }
}

impl<'a> Iterator for Extensions<'a> {
    type Item = Result<Extension<'a>, ExtensionError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.bytes[self.offset..];
        let value = match rest {
            [] => return None,
            [_, high, low, value @ ..] => {
                value.get(..usize::from(u16::from_be_bytes([*high, *low])))
            }
            _ => None,
        };
        let Some(value) = value else {
            let error = ExtensionError::Truncated {
                offset: self.offset,
            };
            self.offset = self.bytes.len();
            return Some(Err(error));
        };
        self.offset += EXTENSION_HEAD_LEN + value.len();
        Some(Ok(Extension {
            kind: rest[0],
            value,
        }))
    }
}

/// The extensions this version knows, read out of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnownExtensions<'a> {
    /// When the message is no longer worth delivering, in microseconds since the Unix epoch.
    pub deadline_unix_us: Option<u64>,
    /// W3C trace context, binary.
    pub trace_context: Option<&'a [u8]>,
}

impl<'a> KnownExtensions<'a> {
    /// Reads all of `bytes`, the `extension_len` bytes after a header.
    ///
    /// # Errors
    /// [`ExtensionError`] when an item is cut off, a known one has a wrong length or stands twice, or one that
    /// must be understood is not known.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ExtensionError> {
        let mut known = Self::default();
        let mut walk = Extensions::new(bytes);
        loop {
            let offset = walk.offset;
            let Some(extension) = walk.next() else {
                return Ok(known);
            };
            let extension = extension?;
            let repeated = match extension.kind {
                DEADLINE => {
                    let value = extension
                        .value
                        .try_into()
                        .map_err(|_| ExtensionError::Length { offset })?;
                    known
                        .deadline_unix_us
                        .replace(u64::from_be_bytes(value))
                        .is_some()
                }
                TRACE_CONTEXT => known.trace_context.replace(extension.value).is_some(),
                kind if extension.must_understand() => {
                    return Err(ExtensionError::Unknown { offset, kind });
                }
                _ => false,
            };
            if repeated {
                return Err(ExtensionError::Repeated { offset });
            }
        }
    }

    /// Bytes these take on the wire.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        let deadline = self.deadline_unix_us.map_or(0, |_| EXTENSION_HEAD_LEN + 8);
        let trace = self
            .trace_context
            .map_or(0, |value| EXTENSION_HEAD_LEN + value.len());
        deadline + trace
    }

    /// Writes them at the front of `buffer`, deadline first, and returns their length in bytes.
    ///
    /// # Errors
    /// [`ExtensionError::NoRoom`] when `buffer` is shorter than [`wire_len`](Self::wire_len).
    pub fn emit(&self, buffer: &mut [u8]) -> Result<usize, ExtensionError> {
        let mut written = 0;
        if let Some(deadline) = self.deadline_unix_us {
            let value = &deadline.to_be_bytes();
            written += Extension {
                kind: DEADLINE,
                value,
            }
            .emit(buffer)?;
        }
        if let Some(value) = self.trace_context {
            written += Extension {
                kind: TRACE_CONTEXT,
                value,
            }
            .emit(&mut buffer[written..])?;
        }
        Ok(written)
    }
}

/// What is wrong with a message's extensions, and where (bytes from the first extension).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExtensionError {
    /// An item's head or value passes the end.
    Truncated {
        /// Where the item begins.
        offset: usize,
    },
    /// A known item has a length it cannot have.
    Length {
        /// Where the item begins.
        offset: usize,
    },
    /// A known item stands a second time.
    Repeated {
        /// Where the second one begins.
        offset: usize,
    },
    /// An item that must be understood is not known here.
    Unknown {
        /// Where the item begins.
        offset: usize,
        /// Its type, 0x80 to 0xFF.
        kind: u8,
    },
    /// The buffer to write into is too short. Our own fault, not the peer's.
    NoRoom,
}

impl fmt::Display for ExtensionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { offset } => write!(
                f,
                "extension at byte {offset} passes the end of the extensions"
            ),
            Self::Length { offset } => write!(
                f,
                "extension at byte {offset} has a length its type cannot have"
            ),
            Self::Repeated { offset } => {
                write!(f, "extension at byte {offset} stands a second time")
            }
            Self::Unknown { offset, kind } => {
                write!(
                    f,
                    "extension at byte {offset} of type {kind:#04x} must be understood and is not known"
                )
            }
            Self::NoRoom => f.write_str("the buffer is too short for the extension"),
        }
    }
}

impl core::error::Error for ExtensionError {}
