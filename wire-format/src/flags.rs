//! The header's flags byte.
//!
//! Knows the bits; refuses to know what a router or a client does about them.

use core::fmt;
use core::ops::{BitAnd, BitOr, Not};

/// Flags of a header (WF-40). Reserved bits are dropped when read.
///
/// ```
/// use caplane_wire::Flags;
/// let flags = Flags::default() | Flags::RECEIPT;
/// assert!(flags.contains(Flags::AFFINITY));
/// assert_eq!(flags.bits(), 0xC0);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flags(u8);

const DEFINED: u8 = 0xF8;

impl Flags {
    /// No flag at all.
    pub const NONE: Self = Self(0);
    /// All messages of the flow go to one member while it is there (WF-41). On by default.
    pub const AFFINITY: Self = Self(0x80);
    /// The receiving client answers with a receipt (WF-42).
    pub const RECEIPT: Self = Self(0x40);
    /// A trace context extension is present and routers may record it (WF-43).
    pub const TRACE: Self = Self(0x20);
    /// A deadline extension is present and routers drop the message after it (WF-44).
    pub const DEADLINE: Self = Self(0x10);
    /// Set by an egress router that sent the message on to another one; a sender leaves it clear (WF-45).
    pub const REROUTED: Self = Self(0x08);

    /// The flags that byte `bits` means; reserved bits are ignored (WF-21).
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & DEFINED)
    }

    /// The byte as it is sent: reserved bits zero.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether every flag of `other` is set here.
    #[inline]
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any flag of `other` is set here.
    #[inline]
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// These flags and those of `other`.
    #[inline]
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These flags but not those of `other`.
    #[inline]
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl Default for Flags {
    /// [`Flags::AFFINITY`].
    fn default() -> Self {
        Self::AFFINITY
    }
}

impl BitOr for Flags {
    type Output = Self;
    #[inline]
    fn bitor(self, other: Self) -> Self {
        self.with(other)
    }
}

impl BitAnd for Flags {
    type Output = Self;
    #[inline]
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Not for Flags {
    type Output = Self;
    #[inline]
    fn not(self) -> Self {
        Self(!self.0 & DEFINED)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [(Flags, &str); 5] = [
            (Flags::AFFINITY, "affinity"),
            (Flags::RECEIPT, "receipt"),
            (Flags::TRACE, "trace"),
            (Flags::DEADLINE, "deadline"),
            (Flags::REROUTED, "rerouted"),
        ];
        let mut set = f.debug_set();
        for (flag, name) in NAMES {
            if self.contains(flag) {
                set.entry(&format_args!("{name}"));
            }
        }
        set.finish()
    }
}
