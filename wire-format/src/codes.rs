//! Application error codes of QUIC streams and connections.
//!
//! Knows numbers and names; refuses to know when a stream or a connection has to end.

use core::fmt;

macro_rules! codes {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $number:literal, $text:literal;)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u64)]
        pub enum $name {
            $($(#[$doc])* $variant = $number,)+
        }

        impl $name {
            /// Every code, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The code with this number.
            #[must_use]
            pub const fn from_number(number: u64) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// Its number on the wire.
            #[must_use]
            pub const fn number(self) -> u64 {
                self as u64
            }

            /// Its name as SPEC, metrics and logs write it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

codes! {
    /// Code of RESET_STREAM and STOP_SENDING on lanes and bulk streams (WF-100).
    StreamCode {
        /// The source of a message ended before the message's last byte.
        CutShort = 0x100, "CUT_SHORT";
        /// The receiver does not take this stream.
        Refused = 0x101, "REFUSED";
        /// A message is longer than the carrier's limit.
        TooLarge = 0x102, "TOO_LARGE";
        /// Preface, header or length break a rule.
        Malformed = 0x103, "MALFORMED";
        /// Nobody serves the label of a bulk message.
        NoRoute = 0x104, "NO_ROUTE";
        /// The sender may not reach the label of a bulk message.
        PolicyDenied = 0x105, "POLICY_DENIED";
        /// There is no room for a bulk message.
        Overloaded = 0x106, "OVERLOADED";
        /// The peer that a bulk message was on its way to is gone, or none can be reached now.
        Gone = 0x107, "GONE";
        /// This side is draining and takes no new streams.
        Draining = 0x108, "DRAINING";
    }
}

codes! {
    /// Code of CONNECTION_CLOSE and of the control stream's `Bye` (WF-101). The same numbers as `ByeCode` in
    /// the control stream's protobuf.
    CloseCode {
        /// The peer has finished.
        Normal = 0, "NORMAL";
        /// The peer has finished after a drain.
        Drained = 1, "DRAINED";
        /// The certificate's identity is not in the tables.
        UnknownIdentity = 2, "UNKNOWN_IDENTITY";
        /// The identity is known and may not do this.
        NotAllowed = 3, "NOT_ALLOWED";
        /// All 63 instance numbers of the agent are in use.
        InstanceLimit = 4, "INSTANCE_LIMIT";
        /// Another router gave the same instance number; attach again.
        InstanceConflict = 5, "INSTANCE_CONFLICT";
        /// The peer broke the protocol.
        Protocol = 6, "PROTOCOL";
        /// The identity was withdrawn or revoked.
        Withdrawn = 7, "WITHDRAWN";
        /// The router has no room.
        Overloaded = 8, "OVERLOADED";
        /// The same instance name attached again; the newer connection stays.
        Replaced = 9, "REPLACED";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_codes_are_one_to_one() {
        for code in StreamCode::ALL {
            assert_eq!(StreamCode::from_number(code.number()), Some(*code));
        }
        for code in CloseCode::ALL {
            assert_eq!(CloseCode::from_number(code.number()), Some(*code));
        }
        assert_eq!(StreamCode::from_number(0), None);
        assert_eq!(CloseCode::from_number(10), None);
    }
}
