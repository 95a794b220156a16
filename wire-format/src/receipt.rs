//! Receipts and replies: the two messages that a receiving client sends back to a source.
//!
//! Both are headers derived from the header they answer. Knows which fields go where; refuses to know
//! resending, windows and timers.

use crate::{Flags, HOP_LIMIT_DEFAULT, Header, HeaderRepr, Kind, Label};

/// The receipt for `delivered`, from the instance `own` of `own_domain` that received it (WF-81). It has no
/// payload: these 48 bytes are all of it.
#[must_use]
pub fn receipt<T: AsRef<[u8]>>(delivered: &Header<T>, own: Label, own_domain: u32) -> HeaderRepr {
    HeaderRepr {
        kind: Kind::Receipt,
        flags: Flags::NONE,
        ..answer(delivered, own, own_domain)
    }
}

/// The header of a reply of `payload_len` bytes to `request`, from the instance `own` of `own_domain` (WF-86).
#[must_use]
pub fn reply<T: AsRef<[u8]>>(
    request: &Header<T>,
    own: Label,
    own_domain: u32,
    payload_len: u32,
) -> HeaderRepr {
    HeaderRepr {
        kind: Kind::Data,
        flags: Flags::AFFINITY,
        payload_len,
        ..answer(request, own, own_domain)
    }
}

/// Back to the source, with the same flow, sequence and traffic class.
fn answer<T: AsRef<[u8]>>(original: &Header<T>, own: Label, own_domain: u32) -> HeaderRepr {
    HeaderRepr {
        class: original.class(),
        hop_limit: HOP_LIMIT_DEFAULT,
        label: original.source_label(),
        requested_label: original.source_label(),
        destination_domain: original.source_domain(),
        source_label: own,
        source_domain: own_domain,
        flow: original.flow(),
        sequence: original.sequence(),
        ..HeaderRepr::default()
    }
}
