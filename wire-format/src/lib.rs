//! What two Caplane peers say to each other, byte for byte.
//!
//! Caplane switches messages between AI agents by *capability label*. Every message begins with the same
//! 48 bytes, and a router reads those and nothing else. This crate is the only place that knows where
//! each bit of them stands; `SPEC.md` beside it is the normative
//! text, and the rule numbers cited here (`WF-24`) are its.
//!
//! | module | what it holds |
//! |---|---|
//! | [`label`] | the 32-bit names that messages are switched on, and their text form |
//! | [`header`] | the 48-byte header: a zero-copy view and an owned form |
//! | [`class`], [`flags`] | two single-byte fields of the header |
//! | [`extension`] | type-length-value extensions between header and payload |
//! | [`preface`], [`framing`] | how streams begin, and where one message ends and the next begins |
//! | [`notice`], [`receipt`] | the two messages that the fabric and its clients answer with |
//! | [`control`] | length framing of the control stream (its protobuf is not our business) |
//! | [`codes`] | stream and connection error codes |
//! | [`identity`] | names of peers as their certificates carry them |
//!
//! It refuses to know sockets, clocks, allocation, routing and protobuf: `no_std`, no dependencies, no
//! `unsafe`. Nothing here panics on what the network sent; the few functions that can panic on a
//! programmer's mistake say so under `# Panics`.
//!
//! ```
//! use caplane_wire::{Header, HeaderRepr, Label};
//!
//! let hotels: Label = "class:7.12.3".parse()?;
//! let sent = HeaderRepr { label: hotels, requested_label: hotels, payload_len: 5, ..HeaderRepr::default() };
//! let bytes = sent.to_bytes();
//!
//! let header = Header::new_checked(&bytes)?;
//! assert_eq!(header.requested_label(), hotels);
//! assert_eq!(header.total_len(), 53);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod class;
pub mod codes;
pub mod control;
pub mod extension;
pub mod flags;
pub mod framing;
pub mod header;
pub mod identity;
pub mod label;
pub mod notice;
pub mod preface;
pub mod receipt;

pub use class::{CongestionAction, TrafficClass};
pub use codes::{CloseCode, StreamCode};
pub use extension::{Extension, ExtensionError, Extensions, KnownExtensions};
pub use flags::Flags;
pub use framing::{BulkLength, FrameError, Messages, check_class, message_len};
pub use header::{Header, HeaderError, HeaderRepr, Kind};
pub use identity::{Aic, PeerName, PeerNameError};
pub use label::{Label, LabelError, LabelKind, ParseLabelError};
pub use notice::{Notice, NoticeCode, NoticeError};
pub use preface::{Preface, PrefaceError, StreamKind};

/// Version of the message header, the upper four bits of its first byte (WF-20).
pub const VERSION: u8 = 1;

/// The protocol's name in TLS application-layer protocol negotiation (RFC 7301; WF-2).
pub const ALPN: &[u8] = b"caplane/1";

/// Length of the message header in bytes (WF-20).
pub const HEADER_LEN: usize = 48;

/// Largest message on a lane in bytes: header, extensions and payload together (WF-60).
pub const LANE_MESSAGE_MAX: usize = 65_536;

/// Largest message on a bulk stream in bytes unless configured otherwise, header included (WF-66).
pub const BULK_MESSAGE_MAX_DEFAULT: usize = 16 * 1024 * 1024;

/// Hop limit that senders write unless they have a reason for another (WF-24).
pub const HOP_LIMIT_DEFAULT: u8 = 64;

/// How many sequence numbers a receiver remembers per source and flow to recognise a resend (WF-83).
pub const DEDUPLICATION_WINDOW: usize = 1_024;
