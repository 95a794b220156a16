//! Frames of the control stream (SPEC.md, "Control stream"): built, encoded
//! and decoded. Refuses to know what a frame leads to.

use bytes::Bytes;
use caplane_proto::v1::{
    Bye, ByeCode, ControlFrame, Drain, Hello, Probe, Resolved, Role, control_frame::Frame,
};
use prost::Message;

/// Program and version, as this router says it in `Hello` and `SessionOpen`.
pub const SOFTWARE: &str = concat!("caplane-router/", env!("CARGO_PKG_VERSION"));

/// A peer's control frame that says nothing to this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// The bytes are no `ControlFrame`: the connection is closed with `BYE_CODE_PROTOCOL` (WF-110).
    #[error("the control frame cannot be decoded: {0}")]
    Undecodable(String),
    /// A frame without content, or of a kind this version does not know: it is ignored (WF-110).
    #[error("the control frame is empty or of an unknown kind")]
    Unknown,
}

/// Decodes one frame, as `Event::Control` carries it (without its length).
///
/// # Errors
///
/// [`FrameFault`] when the bytes are not a frame this version knows.
pub fn decode(bytes: Bytes) -> Result<Frame, FrameFault> {
    ControlFrame::decode(bytes)
        .map_err(|e| FrameFault::Undecodable(e.to_string()))?
        .frame
        .ok_or(FrameFault::Unknown)
}

/// Encodes one frame, without its length.
pub fn encode(frame: Frame) -> Vec<u8> {
    ControlFrame { frame: Some(frame) }.encode_to_vec()
}

/// What a router says when it opens a neighbour link.
pub fn router_hello(worker: u8) -> Vec<u8> {
    encode(Frame::Hello(Hello {
        instance_name: String::new(),
        role: Role::Router.into(),
        agent_card: Vec::new(),
        receive_window: 0,
        software: SOFTWARE.to_owned(),
        worker: u32::from(worker),
    }))
}

/// The last frame before a close.
pub fn bye(code: ByeCode, reason: &str) -> Vec<u8> {
    encode(Frame::Bye(Bye {
        code: code.into(),
        reason: reason.to_owned(),
    }))
}

/// Asks a peer to finish within `period_ms`.
pub fn drain(period_ms: u32, reason: &str) -> Vec<u8> {
    encode(Frame::Drain(Drain {
        period_ms,
        reason: reason.to_owned(),
    }))
}

/// A liveness question (`echo` false) or its answer.
pub fn probe(sequence: u64, echo: bool) -> Vec<u8> {
    encode(Frame::Probe(Probe { sequence, echo }))
}

/// The answer to a `Resolve`.
pub fn resolved(answer: Resolved) -> Vec<u8> {
    encode(Frame::Resolved(answer))
}

/// An instance name is 1 to 64 bytes of `[A-Za-z0-9._-]`.
pub fn instance_name_valid(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_survives_the_trip() {
        let bytes = Bytes::from(probe(7, true));
        assert_eq!(
            decode(bytes).unwrap(),
            Frame::Probe(Probe {
                sequence: 7,
                echo: true
            })
        );
    }

    #[test]
    fn nothing_and_nonsense_are_faults_of_the_peer() {
        assert_eq!(decode(Bytes::new()), Err(FrameFault::Unknown));
        assert!(matches!(
            decode(Bytes::from_static(&[0x0a, 0xff])),
            Err(FrameFault::Undecodable(_))
        ));
    }

    /// No truncation and no flipped bit of a frame panics.
    #[test]
    fn damaged_frames_never_panic() {
        let whole = router_hello(3);
        for end in 0..whole.len() {
            let _ = decode(Bytes::copy_from_slice(&whole[..end]));
        }
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let _ = decode(Bytes::from(bytes));
        }
    }

    #[test]
    fn instance_names_are_checked() {
        assert!(instance_name_valid("pod-7f3.a_B"));
        assert!(!instance_name_valid(""));
        assert!(!instance_name_valid("a b"));
        assert!(!instance_name_valid(&"x".repeat(65)));
    }
}
