//! The 48-byte message header: a zero-copy view and an owned form.
//!
//! [`Header`] reads and writes fields in place over any bytes; [`HeaderRepr`] is the same as plain values.
//! Knows every field's place and refuses to know its meaning to a router.
//!
//! [`Header::new_checked`] looks once at length, version and kind; after it no accessor can panic, as long as
//! the underlying bytes are not exchanged for shorter ones. Over a `[u8; 48]`, as [`Header::split`] yields,
//! the compiler knows the length and the accessors compile to plain loads.

use core::fmt;

use crate::{Flags, HEADER_LEN, HOP_LIMIT_DEFAULT, Label, TrafficClass, VERSION};

/// What a message is (WF-22).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// Payload from one agent to another.
    #[default]
    Data = 0,
    /// A router tells a source what became of its message. Only routers send it.
    Notice = 1,
    /// A receiving client confirms delivery.
    Receipt = 2,
    /// Measures a path; handled as data, and never delivered to an application.
    Probe = 3,
}

impl Kind {
    const MASK: u8 = 0x0F;

    /// The kind with this number.
    #[inline]
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Data),
            1 => Some(Self::Notice),
            2 => Some(Self::Receipt),
            3 => Some(Self::Probe),
            _ => None,
        }
    }
}

/// First byte of each field (WF-20).
mod at {
    pub const VERSION_KIND: usize = 0;
    pub const CLASS: usize = 1;
    pub const HOP_LIMIT: usize = 2;
    pub const FLAGS: usize = 3;
    pub const LABEL: usize = 4;
    pub const DESTINATION_DOMAIN: usize = 8;
    pub const TENANT: usize = 12;
    pub const SOURCE_LABEL: usize = 16;
    pub const SOURCE_DOMAIN: usize = 20;
    pub const FLOW: usize = 24;
    pub const SEQUENCE: usize = 32;
    pub const PAYLOAD_LEN: usize = 36;
    pub const REQUESTED_LABEL: usize = 40;
    pub const EXTENSION_LEN: usize = 44;
    pub const RESERVED: usize = 46;
}

/// View of a header over bytes that hold it, and possibly what follows it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Header<T: AsRef<[u8]>> {
    buffer: T,
}

impl<'a> Header<&'a [u8; HEADER_LEN]> {
    /// The header at the front of `bytes`, and the bytes after it.
    ///
    /// # Errors
    /// As [`Header::new_checked`].
    #[inline]
    pub const fn split(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), HeaderError> {
        match bytes.split_first_chunk() {
            None => Err(HeaderError::TooShort { have: bytes.len() }),
            Some((head, rest)) => match check(head) {
                Ok(()) => Ok((Self { buffer: head }, rest)),
                Err(error) => Err(error),
            },
        }
    }
}

impl<'a> Header<&'a mut [u8; HEADER_LEN]> {
    /// The header at the front of `bytes` for writing in place, and the bytes after it.
    ///
    /// # Errors
    /// As [`Header::new_checked`].
    #[inline]
    pub const fn split_mut(bytes: &'a mut [u8]) -> Result<(Self, &'a mut [u8]), HeaderError> {
        let have = bytes.len();
        match bytes.split_first_chunk_mut() {
            None => Err(HeaderError::TooShort { have }),
            Some((head, rest)) => match check(head) {
                Ok(()) => Ok((Self { buffer: head }, rest)),
                Err(error) => Err(error),
            },
        }
    }
}

/// Version and kind, the two things that must be known before anything else is believed (WF-22, WF-23).
#[inline]
const fn check(head: &[u8; HEADER_LEN]) -> Result<(), HeaderError> {
    let first = head[at::VERSION_KIND];
    if first >> 4 != VERSION {
        return Err(HeaderError::Version { found: first >> 4 });
    }
    if Kind::from_number(first & Kind::MASK).is_none() {
        return Err(HeaderError::Kind {
            found: first & Kind::MASK,
        });
    }
    Ok(())
}

impl<T: AsRef<[u8]>> Header<T> {
    /// A view over `buffer` after one look at its length, version and kind. Reserved bits are ignored.
    ///
    /// # Errors
    /// [`HeaderError`] when fewer than 48 bytes are there, or version or kind are not known.
    #[inline]
    pub fn new_checked(buffer: T) -> Result<Self, HeaderError> {
        let bytes = buffer.as_ref();
        match bytes.first_chunk() {
            None => Err(HeaderError::TooShort { have: bytes.len() }),
            Some(head) => check(head).map(|()| Self { buffer }),
        }
    }

    /// A view over `buffer` without any check, for bytes that were checked before.
    ///
    /// Accessors panic when it holds fewer than 48 bytes, and [`kind`](Self::kind) is meaningless when the
    /// kind is unknown.
    #[inline]
    pub const fn new_unchecked(buffer: T) -> Self {
        Self { buffer }
    }

    /// Gives the underlying bytes back.
    #[inline]
    pub fn into_inner(self) -> T {
        self.buffer
    }

    #[inline]
    fn head(&self) -> &[u8; HEADER_LEN] {
        self.buffer
            .as_ref()
            .first_chunk()
            .expect("new_checked saw 48 bytes")
    }

    #[inline]
    fn u32_at<const AT: usize>(&self) -> u32 {
        let head = self.head();
        u32::from_be_bytes([head[AT], head[AT + 1], head[AT + 2], head[AT + 3]])
    }

    /// The 48 bytes of the header.
    #[inline]
    pub fn as_bytes(&self) -> &[u8; HEADER_LEN] {
        self.head()
    }

    /// What the message is.
    #[inline]
    pub fn kind(&self) -> Kind {
        // `check` saw that the upper two of the four bits are zero.
        match self.head()[at::VERSION_KIND] & 3 {
            0 => Kind::Data,
            1 => Kind::Notice,
            2 => Kind::Receipt,
            _ => Kind::Probe,
        }
    }

    /// Traffic class.
    #[inline]
    pub fn class(&self) -> TrafficClass {
        TrafficClass::from_bits(self.head()[at::CLASS])
    }

    /// Routers the message may still pass.
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.head()[at::HOP_LIMIT]
    }

    /// Flags.
    #[inline]
    pub fn flags(&self) -> Flags {
        Flags::from_bits(self.head()[at::FLAGS])
    }

    /// The label the message is switched on at this hop.
    #[inline]
    pub fn label(&self) -> Label {
        Label::from_bits(self.u32_at::<{ at::LABEL }>())
    }

    /// Domain of the destination; 0 = this one.
    #[inline]
    pub fn destination_domain(&self) -> u32 {
        self.u32_at::<{ at::DESTINATION_DOMAIN }>()
    }

    /// Tenant of the destination class; 0 = shared.
    #[inline]
    pub fn tenant(&self) -> u32 {
        self.u32_at::<{ at::TENANT }>()
    }

    /// Label of the sending instance (of the sending router in a notice).
    #[inline]
    pub fn source_label(&self) -> Label {
        Label::from_bits(self.u32_at::<{ at::SOURCE_LABEL }>())
    }

    /// Domain of the sender.
    #[inline]
    pub fn source_domain(&self) -> u32 {
        self.u32_at::<{ at::SOURCE_DOMAIN }>()
    }

    /// Flow id, chosen by the sender.
    #[inline]
    pub fn flow(&self) -> u64 {
        let head = self.head();
        let high = self.u32_at::<{ at::FLOW }>();
        let low = u32::from_be_bytes([
            head[at::FLOW + 4],
            head[at::FLOW + 5],
            head[at::FLOW + 6],
            head[at::FLOW + 7],
        ]);
        (high as u64) << 32 | low as u64
    }

    /// Number of the message in its flow.
    #[inline]
    pub fn sequence(&self) -> u32 {
        self.u32_at::<{ at::SEQUENCE }>()
    }

    /// Bytes of payload, extensions excluded.
    #[inline]
    pub fn payload_len(&self) -> u32 {
        self.u32_at::<{ at::PAYLOAD_LEN }>()
    }

    /// The label the sender asked for.
    #[inline]
    pub fn requested_label(&self) -> Label {
        Label::from_bits(self.u32_at::<{ at::REQUESTED_LABEL }>())
    }

    /// Bytes of extensions between header and payload.
    #[inline]
    pub fn extension_len(&self) -> u16 {
        let head = self.head();
        u16::from_be_bytes([head[at::EXTENSION_LEN], head[at::EXTENSION_LEN + 1]])
    }

    /// Bytes of the whole message: header, extensions and payload.
    #[inline]
    pub fn total_len(&self) -> usize {
        let total =
            HEADER_LEN as u64 + u64::from(self.extension_len()) + u64::from(self.payload_len());
        // Always fits where pointers have 64 bits; elsewhere such a message is past every limit anyway.
        usize::try_from(total).unwrap_or(usize::MAX)
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Header<T> {
    #[inline]
    fn head_mut(&mut self) -> &mut [u8; HEADER_LEN] {
        self.buffer
            .as_mut()
            .first_chunk_mut()
            .expect("new_checked saw 48 bytes")
    }

    #[inline]
    fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        self.head_mut()[at..at + N].copy_from_slice(&bytes);
    }

    /// Writes version 1 and the kind.
    #[inline]
    pub fn set_kind(&mut self, kind: Kind) {
        self.head_mut()[at::VERSION_KIND] = VERSION << 4 | kind as u8;
    }

    /// Writes the traffic class, its reserved bits zero.
    #[inline]
    pub fn set_class(&mut self, class: TrafficClass) {
        self.head_mut()[at::CLASS] = class.bits();
    }

    /// Writes the hop limit.
    #[inline]
    pub fn set_hop_limit(&mut self, hops: u8) {
        self.head_mut()[at::HOP_LIMIT] = hops;
    }

    /// Writes the flags, their reserved bits zero.
    #[inline]
    pub fn set_flags(&mut self, flags: Flags) {
        self.head_mut()[at::FLAGS] = flags.bits();
    }

    /// Writes the label to switch on.
    #[inline]
    pub fn set_label(&mut self, label: Label) {
        self.put(at::LABEL, label.bits().to_be_bytes());
    }

    /// Writes the destination domain.
    #[inline]
    pub fn set_destination_domain(&mut self, domain: u32) {
        self.put(at::DESTINATION_DOMAIN, domain.to_be_bytes());
    }

    /// Writes the destination tenant.
    #[inline]
    pub fn set_tenant(&mut self, tenant: u32) {
        self.put(at::TENANT, tenant.to_be_bytes());
    }

    /// Writes the source label.
    #[inline]
    pub fn set_source_label(&mut self, label: Label) {
        self.put(at::SOURCE_LABEL, label.bits().to_be_bytes());
    }

    /// Writes the source domain.
    #[inline]
    pub fn set_source_domain(&mut self, domain: u32) {
        self.put(at::SOURCE_DOMAIN, domain.to_be_bytes());
    }

    /// Writes the flow id.
    #[inline]
    pub fn set_flow(&mut self, flow: u64) {
        self.put(at::FLOW, flow.to_be_bytes());
    }

    /// Writes the sequence number.
    #[inline]
    pub fn set_sequence(&mut self, sequence: u32) {
        self.put(at::SEQUENCE, sequence.to_be_bytes());
    }

    /// Writes the payload length in bytes.
    #[inline]
    pub fn set_payload_len(&mut self, bytes: u32) {
        self.put(at::PAYLOAD_LEN, bytes.to_be_bytes());
    }

    /// Writes the requested label.
    #[inline]
    pub fn set_requested_label(&mut self, label: Label) {
        self.put(at::REQUESTED_LABEL, label.bits().to_be_bytes());
    }

    /// Writes the extensions' length in bytes.
    #[inline]
    pub fn set_extension_len(&mut self, bytes: u16) {
        self.put(at::EXTENSION_LEN, bytes.to_be_bytes());
    }

    /// Clears the reserved bytes at the header's end.
    #[inline]
    pub fn clear_reserved(&mut self) {
        self.put(at::RESERVED, [0, 0]);
    }
}

impl<T: AsRef<[u8]>> fmt::Debug for Header<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        HeaderRepr::parse(self).fmt(f)
    }
}

/// A header as plain values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeaderRepr {
    /// What the message is.
    pub kind: Kind,
    /// Traffic class.
    pub class: TrafficClass,
    /// Routers the message may still pass.
    pub hop_limit: u8,
    /// Flags.
    pub flags: Flags,
    /// The label the message is switched on; a sender writes the requested label here too.
    pub label: Label,
    /// Domain of the destination; 0 = this one.
    pub destination_domain: u32,
    /// Tenant of the destination class; 0 = shared.
    pub tenant: u32,
    /// Label of the sending instance.
    pub source_label: Label,
    /// Domain of the sender.
    pub source_domain: u32,
    /// Flow id.
    pub flow: u64,
    /// Number of the message in its flow.
    pub sequence: u32,
    /// Bytes of payload, extensions excluded.
    pub payload_len: u32,
    /// The label the sender asked for.
    pub requested_label: Label,
    /// Bytes of extensions.
    pub extension_len: u16,
}

impl HeaderRepr {
    /// The values of `header`. Reserved bits are left behind.
    #[inline]
    #[must_use]
    pub fn parse<T: AsRef<[u8]>>(header: &Header<T>) -> Self {
        Self {
            kind: header.kind(),
            class: header.class(),
            hop_limit: header.hop_limit(),
            flags: header.flags(),
            label: header.label(),
            destination_domain: header.destination_domain(),
            tenant: header.tenant(),
            source_label: header.source_label(),
            source_domain: header.source_domain(),
            flow: header.flow(),
            sequence: header.sequence(),
            payload_len: header.payload_len(),
            requested_label: header.requested_label(),
            extension_len: header.extension_len(),
        }
    }

    /// Writes the header into the first 48 bytes of `buffer`, reserved bits zero.
    ///
    /// # Panics
    /// When `buffer` holds fewer than 48 bytes.
    #[inline]
    pub fn emit(&self, buffer: &mut [u8]) {
        let mut header = Header::new_unchecked(buffer);
        header.set_kind(self.kind);
        header.set_class(self.class);
        header.set_hop_limit(self.hop_limit);
        header.set_flags(self.flags);
        header.set_label(self.label);
        header.set_destination_domain(self.destination_domain);
        header.set_tenant(self.tenant);
        header.set_source_label(self.source_label);
        header.set_source_domain(self.source_domain);
        header.set_flow(self.flow);
        header.set_sequence(self.sequence);
        header.set_payload_len(self.payload_len);
        header.set_requested_label(self.requested_label);
        header.set_extension_len(self.extension_len);
        header.clear_reserved();
    }

    /// The header's 48 bytes.
    #[inline]
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        self.emit(&mut bytes);
        bytes
    }
}

impl Default for HeaderRepr {
    /// Empty data of the least urgent class from nobody to nobody, with affinity and the default hop limit.
    fn default() -> Self {
        Self {
            kind: Kind::Data,
            class: TrafficClass::default(),
            hop_limit: HOP_LIMIT_DEFAULT,
            flags: Flags::default(),
            label: Label::NONE,
            destination_domain: 0,
            tenant: 0,
            source_label: Label::NONE,
            source_domain: 0,
            flow: 0,
            sequence: 0,
            payload_len: 0,
            requested_label: Label::NONE,
            extension_len: 0,
        }
    }
}

/// Why bytes are no header. The peer is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HeaderError {
    /// Fewer than 48 bytes.
    TooShort {
        /// Bytes there were.
        have: usize,
    },
    /// Another version than 1.
    Version {
        /// The version found, 0 to 15.
        found: u8,
    },
    /// A kind that is not defined.
    Kind {
        /// The kind found, 4 to 15.
        found: u8,
    },
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { have } => {
                write!(f, "a header has {HEADER_LEN} bytes, here are {have}")
            }
            Self::Version { found } => {
                write!(
                    f,
                    "header byte 0: version {found} is not known, this side speaks {VERSION}"
                )
            }
            Self::Kind { found } => write!(
                f,
                "header byte 0: kind {found} is not defined, the kinds are 0 to 3"
            ),
        }
    }
}

impl core::error::Error for HeaderError {}
