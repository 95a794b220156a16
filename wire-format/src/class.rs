//! The traffic class: how urgent a message is, and what happens to it when a queue is full.
//!
//! Knows the byte; refuses to know queues, schedulers and who may use which priority.

use core::fmt;

/// What becomes of a message whose queue is full (WF-31).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CongestionAction {
    /// The message is dropped, counted, and its source is sent a notice.
    Drop,
    /// The ingress router stops reading the sender's lane until there is room. At the edge only:
    /// between routers such a message is dropped like any other.
    Block,
}

/// Traffic class byte of a header or a preface: three bits of priority, one bit of congestion action,
/// four reserved bits (WF-30).
///
/// Reserved bits are dropped when read, so two classes are equal when they mean the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TrafficClass(u8);

const PRIORITY_SHIFT: u32 = 5;
const BLOCKING: u8 = 0x10;
const DEFINED: u8 = 0xF0;

impl TrafficClass {
    /// Number of different classes: what [`index`](Self::index) stays below.
    pub const COUNT: usize = 16;
    /// The most urgent priority.
    pub const PRIORITY_MAX: u8 = 7;
    /// Class of notices: priority 7, dropped when a queue is full (WF-91).
    pub const NOTICE: Self = Self(0xE0);

    /// A class of `priority` 0 (least urgent) to 7.
    ///
    /// # Panics
    /// When `priority` is above 7.
    #[inline]
    #[must_use]
    pub const fn new(priority: u8, action: CongestionAction) -> Self {
        assert!(priority <= Self::PRIORITY_MAX, "a priority is 0 to 7");
        let blocking = match action {
            CongestionAction::Drop => 0,
            CongestionAction::Block => BLOCKING,
        };
        Self(priority << PRIORITY_SHIFT | blocking)
    }

    /// The class that byte `bits` means; reserved bits are ignored (WF-21).
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

    /// Priority, 0 (least urgent) to 7.
    #[inline]
    #[must_use]
    pub const fn priority(self) -> u8 {
        self.0 >> PRIORITY_SHIFT
    }

    /// Whether a full queue blocks the sender rather than dropping the message.
    #[inline]
    #[must_use]
    pub const fn blocking(self) -> bool {
        self.0 & BLOCKING != 0
    }

    /// What a full queue does to a message of this class.
    #[inline]
    #[must_use]
    pub const fn congestion_action(self) -> CongestionAction {
        if self.blocking() {
            CongestionAction::Block
        } else {
            CongestionAction::Drop
        }
    }

    /// Dense number for arrays of [`COUNT`](Self::COUNT): `2 * priority + blocking`.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        (self.0 >> 4) as usize
    }

    /// The class whose [`index`](Self::index) is `index` modulo [`COUNT`](Self::COUNT).
    #[inline]
    #[must_use]
    pub const fn from_index(index: usize) -> Self {
        Self(((index % Self::COUNT) << 4) as u8)
    }

    /// The same class, its priority lowered to `priority_max` when it is above (WF-32).
    #[inline]
    #[must_use]
    pub const fn capped(self, priority_max: u8) -> Self {
        if self.priority() > priority_max {
            Self(priority_max << PRIORITY_SHIFT | self.0 & BLOCKING)
        } else {
            self
        }
    }
}

impl fmt::Display for TrafficClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = if self.blocking() { "block" } else { "drop" };
        write!(f, "priority {} {action}", self.priority())
    }
}

impl fmt::Debug for TrafficClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrafficClass({self})")
    }
}
