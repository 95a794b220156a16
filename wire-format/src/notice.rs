//! Notices: how a router tells a source what became of its message (WF-90).
//!
//! Knows their bytes and what each code asks of the source; refuses to know when one is due and how many
//! may be sent.

use core::fmt;

use crate::{
    Flags, HEADER_LEN, HOP_LIMIT_DEFAULT, Header, HeaderError, HeaderRepr, Kind, Label,
    TrafficClass,
};

/// Length of a notice's payload in bytes.
pub const NOTICE_PAYLOAD_LEN: usize = 56;

/// Length of a whole notice in bytes.
pub const NOTICE_LEN: usize = HEADER_LEN + NOTICE_PAYLOAD_LEN;

/// What became of a message (WF-92).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum NoticeCode {
    /// No agent serves the requested label, nor a more general one of its parents.
    NoRoute = 1,
    /// The sender may not reach the requested label.
    PolicyDenied = 2,
    /// The router's table is too old to say.
    StaleTable = 3,
    /// The hop limit reached zero.
    HopLimit = 4,
    /// A queue on the way was full.
    Overloaded = 5,
    /// The sender sent more than it is allowed.
    RateLimited = 6,
    /// The message is longer than its way can carry.
    TooLarge = 7,
    /// The agents that serve the label cannot be reached now.
    Unreachable = 8,
    /// The message breaks a rule of this protocol.
    Malformed = 9,
    /// The message's deadline passed on the way.
    Deadline = 10,
}

impl NoticeCode {
    /// Every code, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::NoRoute,
        Self::PolicyDenied,
        Self::StaleTable,
        Self::HopLimit,
        Self::Overloaded,
        Self::RateLimited,
        Self::TooLarge,
        Self::Unreachable,
        Self::Malformed,
        Self::Deadline,
    ];

    /// The code with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1..=10 => Some(Self::ALL[number as usize - 1]),
            _ => None,
        }
    }

    /// Its number on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Its name as SPEC, metrics and logs write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoRoute => "NO_ROUTE",
            Self::PolicyDenied => "POLICY_DENIED",
            Self::StaleTable => "STALE_TABLE",
            Self::HopLimit => "HOP_LIMIT",
            Self::Overloaded => "OVERLOADED",
            Self::RateLimited => "RATE_LIMITED",
            Self::TooLarge => "TOO_LARGE",
            Self::Unreachable => "UNREACHABLE",
            Self::Malformed => "MALFORMED",
            Self::Deadline => "DEADLINE",
        }
    }

    /// Whether sending the same message again is pointless (WF-84). Of a pinned flow ask
    /// [`unpins`](Self::unpins) first.
    #[must_use]
    pub const fn stops_resend(self) -> bool {
        match self {
            Self::NoRoute
            | Self::PolicyDenied
            | Self::TooLarge
            | Self::Malformed
            | Self::Deadline => true,
            Self::StaleTable
            | Self::HopLimit
            | Self::Overloaded
            | Self::RateLimited
            | Self::Unreachable => false,
        }
    }

    /// Whether a flow pinned to an instance lets go of it and asks for its class again (WF-87).
    #[must_use]
    pub const fn unpins(self) -> bool {
        matches!(self, Self::NoRoute | Self::Unreachable)
    }

    /// The JSON-RPC error code of A2A's "AGP" extension for the codes that have one (WF-94).
    #[must_use]
    pub const fn agp_code(self) -> Option<i32> {
        match self {
            Self::NoRoute => Some(-32_200),
            Self::PolicyDenied => Some(-32_201),
            Self::StaleTable => Some(-32_202),
            _ => None,
        }
    }
}

impl fmt::Display for NoticeCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a notice says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What became of the message.
    pub code: NoticeCode,
    /// The router that says so.
    pub router: Label,
    /// The offending message's header as that router received it.
    pub offending: [u8; HEADER_LEN],
}

impl Notice {
    /// Reads a notice's payload.
    ///
    /// # Errors
    /// [`NoticeError`] when it is too short, the code is not known, or it quotes no header. The receiver then
    /// ignores the notice.
    pub fn parse(payload: &[u8]) -> Result<Self, NoticeError> {
        let too_short = NoticeError::TooShort {
            have: payload.len(),
        };
        let (&[code, _, _, _, r0, r1, r2, r3], rest) =
            payload.split_first_chunk::<8>().ok_or(too_short)?;
        let offending = *rest.first_chunk().ok_or(too_short)?;
        let code = NoticeCode::from_number(code).ok_or(NoticeError::Code { found: code })?;
        Header::new_checked(&offending).map_err(NoticeError::Offending)?;
        Ok(Self {
            code,
            router: Label::from_bits(u32::from_be_bytes([r0, r1, r2, r3])),
            offending,
        })
    }

    /// View of the offending header.
    #[must_use]
    pub const fn offending(&self) -> Header<&[u8; HEADER_LEN]> {
        Header::new_unchecked(&self.offending)
    }

    /// The notice's payload.
    #[must_use]
    pub fn payload(&self) -> [u8; NOTICE_PAYLOAD_LEN] {
        let mut bytes = [0; NOTICE_PAYLOAD_LEN];
        bytes[0] = self.code.number();
        bytes[4..8].copy_from_slice(&self.router.bits().to_be_bytes());
        bytes[8..].copy_from_slice(&self.offending);
        bytes
    }

    /// The whole message, from this notice's router in `domain` to the source of the offending message.
    #[must_use]
    pub fn to_message(&self, domain: u32) -> [u8; NOTICE_LEN] {
        let offending = self.offending();
        let header = HeaderRepr {
            kind: Kind::Notice,
            class: TrafficClass::NOTICE,
            hop_limit: HOP_LIMIT_DEFAULT,
            flags: Flags::NONE,
            label: offending.source_label(),
            destination_domain: offending.source_domain(),
            tenant: 0,
            source_label: self.router,
            source_domain: domain,
            flow: offending.flow(),
            sequence: offending.sequence(),
            payload_len: NOTICE_PAYLOAD_LEN as u32,
            requested_label: offending.source_label(),
            extension_len: 0,
        };
        let mut bytes = [0; NOTICE_LEN];
        header.emit(&mut bytes);
        bytes[HEADER_LEN..].copy_from_slice(&self.payload());
        bytes
    }
}

/// Why a payload is no notice. The peer is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NoticeError {
    /// Fewer than 56 bytes.
    TooShort {
        /// Bytes there were.
        have: usize,
    },
    /// A code that is not defined.
    Code {
        /// The code found.
        found: u8,
    },
    /// The quoted header is none.
    Offending(HeaderError),
}

impl fmt::Display for NoticeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { have } => {
                write!(
                    f,
                    "a notice's payload has {NOTICE_PAYLOAD_LEN} bytes, here are {have}"
                )
            }
            Self::Code { found } => write!(
                f,
                "notice byte 0: code {found} is not defined, the codes are 1 to 10"
            ),
            Self::Offending(error) => write!(f, "notice bytes 8 to 55 quote no header: {error}"),
        }
    }
}

impl core::error::Error for NoticeError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Offending(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_codes_are_one_to_one() {
        for code in NoticeCode::ALL {
            assert_eq!(NoticeCode::from_number(code.number()), Some(code));
        }
        assert_eq!(NoticeCode::from_number(0), None);
        assert_eq!(NoticeCode::from_number(11), None);
    }

    #[test]
    fn later_versions_may_append_to_the_payload() {
        let offending = HeaderRepr::default().to_bytes();
        let notice = Notice {
            code: NoticeCode::Deadline,
            router: Label::NONE,
            offending,
        };
        let mut longer = [0xAA; NOTICE_PAYLOAD_LEN + 8];
        longer[..NOTICE_PAYLOAD_LEN].copy_from_slice(&notice.payload());
        assert_eq!(Notice::parse(&longer), Ok(notice));
    }
}
