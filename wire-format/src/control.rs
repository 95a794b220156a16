//! Length framing of the control stream (WF-110): each frame is preceded by its length as an unsigned LEB128
//! varint, as length-delimited protobuf is everywhere.
//!
//! Knows where frames begin and end; refuses to know what they say (`caplane-proto` does).

use core::fmt;
use core::ops::Range;

/// Largest frame of the control stream in bytes, its length prefix excluded.
pub const CONTROL_FRAME_MAX: usize = 128 * 1024;

/// Most bytes a length prefix may have: three hold 21 bits, and [`CONTROL_FRAME_MAX`] needs 18.
pub const LENGTH_PREFIX_MAX: usize = 3;

/// Where the first frame of `bytes` lies, its length prefix excluded; `None` while it is not all there. The
/// next frame begins at the range's end.
///
/// ```
/// let bytes = [3, b'a', b'b', b'c', 0x80];
/// assert_eq!(caplane_wire::control::frame(&bytes)?, Some(1..4));
/// assert_eq!(caplane_wire::control::frame(&bytes[4..])?, None);
/// # Ok::<(), caplane_wire::control::ControlError>(())
/// ```
///
/// # Errors
/// [`ControlError`] when the length passes [`CONTROL_FRAME_MAX`]; known from the prefix alone, before any
/// more is read.
pub const fn frame(bytes: &[u8]) -> Result<Option<Range<usize>>, ControlError> {
    let (mut length, mut at) = (0, 0);
    loop {
        if at == LENGTH_PREFIX_MAX {
            return Err(ControlError::Prefix);
        }
        if at == bytes.len() {
            return Ok(None);
        }
        let byte = bytes[at];
        length |= ((byte & 0x7F) as usize) << (7 * at);
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    if length > CONTROL_FRAME_MAX {
        return Err(ControlError::TooLarge { length });
    }
    if bytes.len() - at < length {
        Ok(None)
    } else {
        Ok(Some(at..at + length))
    }
}

/// Length prefix of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LengthPrefix {
    bytes: [u8; LENGTH_PREFIX_MAX],
    used: u8,
}

impl LengthPrefix {
    /// The prefix of a frame of `length` bytes.
    ///
    /// # Errors
    /// [`ControlError::TooLarge`] when `length` is above [`CONTROL_FRAME_MAX`].
    pub const fn new(length: usize) -> Result<Self, ControlError> {
        if length > CONTROL_FRAME_MAX {
            return Err(ControlError::TooLarge { length });
        }
        let (mut bytes, mut used, mut rest) = ([0; LENGTH_PREFIX_MAX], 0, length);
        loop {
            bytes[used] = (rest & 0x7F) as u8;
            rest >>= 7;
            used += 1;
            if rest == 0 {
                return Ok(Self {
                    bytes,
                    used: used as u8,
                });
            }
            bytes[used - 1] |= 0x80;
        }
    }

    /// Its one to three bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.used)]
    }
}

/// Why a control stream cannot be read any further. The peer is at fault; the connection closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ControlError {
    /// A length prefix of more than three bytes.
    Prefix,
    /// A frame past [`CONTROL_FRAME_MAX`].
    TooLarge {
        /// Its length in bytes.
        length: usize,
    },
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix => write!(
                f,
                "a control frame's length prefix has more than {LENGTH_PREFIX_MAX} bytes"
            ),
            Self::TooLarge { length } => {
                write!(
                    f,
                    "a control frame of {length} bytes is past the limit of {CONTROL_FRAME_MAX}"
                )
            }
        }
    }
}

impl core::error::Error for ControlError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_as_short_as_they_can_be() {
        for (length, expected) in [
            (0, &[0x00][..]),
            (127, &[0x7F]),
            (128, &[0x80, 0x01]),
            (16_383, &[0xFF, 0x7F]),
            (16_384, &[0x80, 0x80, 0x01]),
            (CONTROL_FRAME_MAX, &[0x80, 0x80, 0x08]),
        ] {
            assert_eq!(LengthPrefix::new(length).unwrap().as_bytes(), expected);
        }
        let length = CONTROL_FRAME_MAX + 1;
        assert_eq!(
            LengthPrefix::new(length),
            Err(ControlError::TooLarge { length })
        );
    }
}
