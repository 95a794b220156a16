//! Labels: the 32-bit names that messages are switched on.
//!
//! Two bits of type and thirty of number (WF-10). Knows their structure and text; refuses to know who
//! holds one, or whether it exists.

mod text;

use core::fmt;

pub use text::ParseLabelError;

/// What a label names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum LabelKind {
    /// A capability class: whichever of its members is chosen (anycast).
    Class = 0,
    /// An agent, or one instance of it (unicast).
    Agent = 1,
    /// Every member of a group (multicast).
    Group = 2,
    /// A router, written by routers only: the way to an egress router.
    Router = 3,
}

/// A 32-bit label (WF-10).
///
/// Any 32 bits are a `Label`; [`is_well_formed`](Self::is_well_formed) and
/// [`is_destination`](Self::is_destination) tell which of them mean something. Labels made by the
/// constructors or parsed from text always do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Label(u32);

const KIND_SHIFT: u32 = 30;
const NUMBER_MASK: u32 = (1 << KIND_SHIFT) - 1;
const LEVEL_MASK: u32 = 0x3FF;
const LEVEL_1: u32 = LEVEL_MASK << 20;
const LEVEL_2: u32 = LEVEL_MASK << 10;
const LEVEL_3: u32 = LEVEL_MASK;
const INSTANCE_BITS: u32 = 6;
const INSTANCE_MASK: u32 = (1 << INSTANCE_BITS) - 1;

impl Label {
    /// No label: all bits zero, written `class:0`. Never a destination (WF-12).
    pub const NONE: Self = Self(0);
    /// Largest number of one class level.
    pub const LEVEL_MAX: u16 = 1_023;
    /// Largest agent number (24 bits).
    pub const AGENT_MAX: u32 = (1 << 24) - 1;
    /// Largest instance number of an agent.
    pub const INSTANCE_MAX: u8 = 63;
    /// Largest group or router number (30 bits).
    pub const NUMBER_MAX: u32 = NUMBER_MASK;

    /// The class `l1.l2.l3`, most general level first; 0 means "any below".
    ///
    /// # Errors
    /// When a level is above 1023, `l1` is 0, or a level stands below a 0 (`7.0.3`).
    pub const fn class(l1: u16, l2: u16, l3: u16) -> Result<Self, LabelError> {
        if l1 > Self::LEVEL_MAX || l2 > Self::LEVEL_MAX || l3 > Self::LEVEL_MAX {
            return Err(LabelError::LevelRange);
        }
        if l1 == 0 {
            return Err(LabelError::NoClass);
        }
        if l2 == 0 && l3 != 0 {
            return Err(LabelError::LevelGap);
        }
        Ok(Self((l1 as u32) << 20 | (l2 as u32) << 10 | l3 as u32))
    }

    /// Instance `instance` (1 to 63) of agent number `agent`, or any instance of it when 0.
    ///
    /// # Errors
    /// When `agent` needs more than 24 bits or `instance` is above 63.
    pub const fn agent(agent: u32, instance: u8) -> Result<Self, LabelError> {
        if agent > Self::AGENT_MAX {
            return Err(LabelError::AgentRange);
        }
        if instance > Self::INSTANCE_MAX {
            return Err(LabelError::InstanceRange);
        }
        Ok(Self::of(
            LabelKind::Agent,
            agent << INSTANCE_BITS | instance as u32,
        ))
    }

    /// Group number `group`.
    ///
    /// # Errors
    /// When `group` needs more than 30 bits.
    pub const fn group(group: u32) -> Result<Self, LabelError> {
        if group > Self::NUMBER_MAX {
            return Err(LabelError::NumberRange);
        }
        Ok(Self::of(LabelKind::Group, group))
    }

    /// Router number `router`.
    ///
    /// # Errors
    /// When `router` needs more than 30 bits.
    pub const fn router(router: u32) -> Result<Self, LabelError> {
        if router > Self::NUMBER_MAX {
            return Err(LabelError::NumberRange);
        }
        Ok(Self::of(LabelKind::Router, router))
    }

    const fn of(kind: LabelKind, number: u32) -> Self {
        Self((kind as u32) << KIND_SHIFT | number)
    }

    /// The label that these 32 bits are.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The 32 bits as they travel.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// What this label names.
    #[inline]
    #[must_use]
    pub const fn kind(self) -> LabelKind {
        match self.0 >> KIND_SHIFT {
            0 => LabelKind::Class,
            1 => LabelKind::Agent,
            2 => LabelKind::Group,
            _ => LabelKind::Router,
        }
    }

    /// The 30 bits below the type: of a group or router its number.
    #[inline]
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0 & NUMBER_MASK
    }

    /// Whether these are all zero bits.
    #[inline]
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Whether the bits follow the rules of their type: no class level stands below a 0 (WF-12).
    #[inline]
    #[must_use]
    pub const fn is_well_formed(self) -> bool {
        match self.kind() {
            LabelKind::Class => {
                let gap_after_1 = self.0 & LEVEL_1 == 0 && self.0 != 0;
                let gap_after_2 = self.0 & LEVEL_2 == 0 && self.0 & LEVEL_3 != 0;
                !gap_after_1 && !gap_after_2
            }
            _ => true,
        }
    }

    /// Whether an agent may ask for this label: well-formed, not [`NONE`](Self::NONE), not a router (WF-12).
    #[inline]
    #[must_use]
    pub const fn is_destination(self) -> bool {
        !self.is_none() && self.is_well_formed() && !matches!(self.kind(), LabelKind::Router)
    }

    /// Whether this names one instance of an agent, as every source label must (WF-26).
    #[inline]
    #[must_use]
    pub const fn is_instance(self) -> bool {
        matches!(self.kind(), LabelKind::Agent) && self.0 & INSTANCE_MASK != 0
    }
}

/// Classes: levels, parents, cover.
impl Label {
    /// The three levels of a class, most general first; meaningless for other kinds.
    #[inline]
    #[must_use]
    pub const fn levels(self) -> [u16; 3] {
        [
            (self.0 >> 20 & LEVEL_MASK) as u16,
            (self.0 >> 10 & LEVEL_MASK) as u16,
            (self.0 & LEVEL_MASK) as u16,
        ]
    }

    /// How many levels of a class are named, 0 ([`NONE`](Self::NONE)) to 3; 0 for other kinds.
    #[inline]
    #[must_use]
    pub const fn depth(self) -> u8 {
        match self.kind() {
            LabelKind::Class if self.0 & LEVEL_3 != 0 => 3,
            LabelKind::Class if self.0 & LEVEL_2 != 0 => 2,
            LabelKind::Class if self.0 & LEVEL_1 != 0 => 1,
            _ => 0,
        }
    }

    /// The class one level above: of `7.12.3` it is `7.12`, of `7` and of other kinds there is none.
    #[inline]
    #[must_use]
    pub const fn parent(self) -> Option<Self> {
        match self.depth() {
            3 => Some(Self(self.0 & (LEVEL_1 | LEVEL_2))),
            2 => Some(Self(self.0 & LEVEL_1)),
            _ => None,
        }
    }

    /// The classes above this one, nearest first, itself excluded.
    #[inline]
    pub fn ancestors(self) -> impl Iterator<Item = Self> + Clone {
        core::iter::successors(self.parent(), |label| label.parent())
    }

    /// Whether a message for `other` is also one for `self`: the same label, a class at or below this class,
    /// or an instance of this agent when this is its any-instance label. [`NONE`](Self::NONE) covers every class.
    #[inline]
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        let mask = match self.kind() {
            LabelKind::Class => match self.depth() {
                0 => !NUMBER_MASK,
                1 => !(LEVEL_2 | LEVEL_3),
                2 => !LEVEL_3,
                _ => !0,
            },
            LabelKind::Agent if self.0 & INSTANCE_MASK == 0 => !INSTANCE_MASK,
            _ => !0,
        };
        other.0 & mask == self.0
    }
}

/// Agents: number and instance.
impl Label {
    /// The agent's number (24 bits); meaningless for other kinds.
    #[inline]
    #[must_use]
    pub const fn agent_number(self) -> u32 {
        self.number() >> INSTANCE_BITS
    }

    /// The instance, 1 to 63, or 0 for any; meaningless for other kinds.
    #[inline]
    #[must_use]
    pub const fn instance(self) -> u8 {
        (self.0 & INSTANCE_MASK) as u8
    }

    /// The label of `instance` of the same agent.
    ///
    /// # Errors
    /// When this is no agent label or `instance` is above 63.
    pub const fn with_instance(self, instance: u8) -> Result<Self, LabelError> {
        match self.kind() {
            LabelKind::Agent => Self::agent(self.agent_number(), instance),
            _ => Err(LabelError::NotAnAgent),
        }
    }

    /// The label of any instance of the same agent; other kinds stay as they are.
    #[inline]
    #[must_use]
    pub const fn any_instance(self) -> Self {
        match self.kind() {
            LabelKind::Agent => Self(self.0 & !INSTANCE_MASK),
            _ => self,
        }
    }
}

/// Why parts do not make a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LabelError {
    /// A class level is above 1023.
    LevelRange,
    /// The first class level is 0.
    NoClass,
    /// A class level stands below a 0.
    LevelGap,
    /// An agent number needs more than 24 bits.
    AgentRange,
    /// An instance number is above 63.
    InstanceRange,
    /// A group or router number needs more than 30 bits.
    NumberRange,
    /// An instance was asked of a label that is no agent's.
    NotAnAgent,
}

impl fmt::Display for LabelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LevelRange => "a class level is at most 1023",
            Self::NoClass => "the first class level is 0, which names no class; levels begin at 1",
            Self::LevelGap => "a class level stands below a 0, which already means \"any below\"",
            Self::AgentRange => "an agent number is at most 16777215",
            Self::InstanceRange => "an instance number is at most 63",
            Self::NumberRange => "a group or router number is at most 1073741823",
            Self::NotAnAgent => "only agent labels have instances",
        })
    }
}

impl core::error::Error for LabelError {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn constructors_refuse_what_has_no_bits() {
        assert_eq!(Label::class(1024, 0, 0), Err(LabelError::LevelRange));
        assert_eq!(Label::class(7, 0, 3), Err(LabelError::LevelGap));
        assert_eq!(Label::class(0, 0, 0), Err(LabelError::NoClass));
        assert_eq!(Label::agent(1 << 24, 0), Err(LabelError::AgentRange));
        assert_eq!(Label::agent(1, 64), Err(LabelError::InstanceRange));
        assert_eq!(Label::group(1 << 30), Err(LabelError::NumberRange));
        assert_eq!(Label::router(1 << 30), Err(LabelError::NumberRange));
    }

    #[test]
    fn the_kinds_share_out_the_upper_two_bits() {
        assert_eq!(Label::class(1023, 1023, 1023).unwrap().bits(), 0x3FFF_FFFF);
        assert_eq!(
            Label::agent(Label::AGENT_MAX, 63).unwrap().bits(),
            0x7FFF_FFFF
        );
        assert_eq!(Label::group(Label::NUMBER_MAX).unwrap().bits(), 0xBFFF_FFFF);
        assert_eq!(
            Label::router(Label::NUMBER_MAX).unwrap().bits(),
            0xFFFF_FFFF
        );
    }

    #[test]
    fn the_parent_chain_ends_at_the_first_level() {
        let class = Label::class(7, 12, 3).unwrap();
        let above: Vec<_> = class.ancestors().map(Label::levels).collect();
        assert_eq!(above, [[7, 12, 0], [7, 0, 0]]);
        assert_eq!(Label::agent(4711, 3).unwrap().parent(), None);
    }

    #[test]
    fn an_agent_covers_its_instances_and_an_instance_only_itself() {
        let any = Label::agent(4711, 0).unwrap();
        let third = any.with_instance(3).unwrap();
        assert!(any.covers(third) && !third.covers(any));
        assert!(!any.covers(Label::agent(4712, 3).unwrap()));
        assert_eq!(third.any_instance(), any);
        assert!(third.is_instance() && !any.is_instance());
        let group = Label::group(3).unwrap();
        assert_eq!(group.with_instance(1), Err(LabelError::NotAnAgent));
        assert!(!group.is_instance());
    }

    #[test]
    fn none_covers_every_class_and_nothing_else() {
        assert!(Label::NONE.covers(Label::class(7, 12, 3).unwrap()));
        assert!(!Label::NONE.covers(Label::agent(0, 0).unwrap()));
        assert!(!Label::NONE.is_destination());
    }
}
