//! The eight bytes that begin every unidirectional stream (WF-61).
//!
//! They say what the stream carries and at which traffic class. Knows these bytes and nothing of QUIC.

use core::fmt;

use crate::TrafficClass;

/// Length of a preface in bytes.
pub const PREFACE_LEN: usize = 8;

const MAGIC: [u8; 4] = *b"CPL1";

/// What a unidirectional stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum StreamKind {
    /// Messages of at most 64 KiB, back to back, for as long as the connection lasts.
    Lane = 1,
    /// One message, and the stream ends with it.
    Bulk = 2,
}

/// Preface of a unidirectional stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Preface {
    /// What the stream carries.
    pub kind: StreamKind,
    /// Traffic class of every message on it.
    pub class: TrafficClass,
}

impl Preface {
    /// The preface at the front of `bytes`; `None` while fewer than eight are there.
    ///
    /// # Errors
    /// [`PrefaceError`] when the magic or the type is not known; the stream is then stopped as malformed.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, PrefaceError> {
        let Some(&[m0, m1, m2, m3, kind, class, _, _]) = bytes.first_chunk::<PREFACE_LEN>() else {
            return Ok(None);
        };
        let magic = [m0, m1, m2, m3];
        if magic != MAGIC {
            return Err(PrefaceError::Magic { found: magic });
        }
        let kind = match kind {
            1 => StreamKind::Lane,
            2 => StreamKind::Bulk,
            found => return Err(PrefaceError::Kind { found }),
        };
        Ok(Some(Self {
            kind,
            class: TrafficClass::from_bits(class),
        }))
    }

    /// The eight bytes, reserved ones zero.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; PREFACE_LEN] {
        let [m0, m1, m2, m3] = MAGIC;
        [m0, m1, m2, m3, self.kind as u8, self.class.bits(), 0, 0]
    }
}

/// Why bytes are no preface. The peer is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PrefaceError {
    /// The stream does not begin with `CPL1`.
    Magic {
        /// What it begins with.
        found: [u8; 4],
    },
    /// The stream's type is neither lane nor bulk.
    Kind {
        /// The type found.
        found: u8,
    },
}

impl fmt::Display for PrefaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic { found } => {
                write!(
                    f,
                    "preface bytes 0 to 3 are \"{}\", not \"CPL1\"",
                    found.escape_ascii()
                )
            }
            Self::Kind { found } => write!(
                f,
                "preface byte 4: stream type {found} is neither 1 (lane) nor 2 (bulk)"
            ),
        }
    }
}

impl core::error::Error for PrefaceError {}
