//! Names that people and certificates spell: labels and peers' names.

use caplane_wire::{Label, PeerName};

/// The text form of a label, and a peer's name.
///
/// # Panics
/// When a text that parses is not the only spelling, or an error points outside the text.
pub fn label_text(data: &[u8]) {
    if let Some(bits) = data.first_chunk() {
        let label = Label::from_bits(u32::from_be_bytes(*bits));
        let parsed = label.to_string().parse::<Label>();
        assert_eq!(parsed.is_ok(), label.is_well_formed() && !label.is_none());
        assert!(parsed.is_err() || parsed == Ok(label));
        assert!(label.ancestors().all(|above| above.covers(label)));
    }
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    match text.parse::<Label>() {
        Ok(label) => assert_eq!(label.to_string(), text),
        Err(error) => assert!(error.position() <= text.len(), "{error}"),
    }
    match PeerName::parse(text) {
        Ok(name) => {
            assert!(text.contains(name.trust_domain()) && text.ends_with(name.path()));
            assert!(!name.trust_domain().is_empty());
        }
        Err(error) => assert!(error.position() <= text.len(), "{error}"),
    }
}
