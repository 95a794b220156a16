//! Every golden vector of `vectors/` (see its README) holds for this code.

use std::path::Path;

use caplane_wire::control::{ControlError, LengthPrefix};
use caplane_wire::extension::KnownExtensions;
use caplane_wire::framing::{self, BulkLength, FrameError, Messages, check_class};
use caplane_wire::preface::{Preface, PrefaceError, StreamKind};
use caplane_wire::{
    CongestionAction, ExtensionError, Flags, Header, HeaderError, HeaderRepr, Kind, Label,
    LabelKind, NoticeCode, NoticeError, PeerName, TrafficClass, control, message_len, notice,
    receipt,
};
use serde_json::Value;

/// The cases of one file.
struct Vectors {
    valid: Vec<Value>,
    invalid: Vec<Value>,
}

fn read(file: &str) -> Vectors {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("vectors")
        .join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let mut json: Value = serde_json::from_str(&text).expect("valid JSON");
    assert_eq!(json["format"], "caplane-vectors/1", "{file}");
    let mut cases = |which: &str| match json[which].take() {
        Value::Array(cases) => cases,
        other => panic!("{file}: {which} is {other}"),
    };
    Vectors {
        valid: cases("valid"),
        invalid: cases("invalid"),
    }
}

fn text<'a>(case: &'a Value, member: &str) -> &'a str {
    case[member]
        .as_str()
        .unwrap_or_else(|| panic!("{}: no text {member}", case["name"]))
}

fn number(case: &Value, member: &str) -> u64 {
    case[member]
        .as_u64()
        .unwrap_or_else(|| panic!("{}: no number {member}", case["name"]))
}

fn numbers(case: &Value, member: &str) -> Vec<usize> {
    let array = case[member]
        .as_array()
        .unwrap_or_else(|| panic!("{}: no {member}", case["name"]));
    array
        .iter()
        .map(|number| number.as_u64().expect("a number") as usize)
        .collect()
}

fn bytes_of(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2), "{hex}");
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

/// The input of a case, its padding included.
fn bytes(case: &Value) -> Vec<u8> {
    let mut bytes = bytes_of(text(case, "hex"));
    let padding = case["pad"].as_u64().unwrap_or(0) as usize;
    bytes.resize(bytes.len() + padding, 0);
    bytes
}

fn label(case: &Value, member: &str) -> Label {
    Label::from_bits(u32::from_str_radix(text(case, member), 16).unwrap())
}

fn class(case: &Value) -> TrafficClass {
    let action = match text(case, "action") {
        "drop" => CongestionAction::Drop,
        "block" => CongestionAction::Block,
        other => panic!("action {other}"),
    };
    TrafficClass::new(number(case, "priority") as u8, action)
}

fn header_of(case: &Value) -> HeaderRepr {
    let kind = match text(case, "kind") {
        "data" => Kind::Data,
        "notice" => Kind::Notice,
        "receipt" => Kind::Receipt,
        "probe" => Kind::Probe,
        other => panic!("kind {other}"),
    };
    let flags = case["flags"]
        .as_array()
        .unwrap()
        .iter()
        .fold(Flags::NONE, |flags, name| {
            flags.with(match name.as_str().unwrap() {
                "affinity" => Flags::AFFINITY,
                "receipt" => Flags::RECEIPT,
                "trace" => Flags::TRACE,
                "deadline" => Flags::DEADLINE,
                "rerouted" => Flags::REROUTED,
                other => panic!("flag {other}"),
            })
        });
    let n = |member| u32::try_from(number(case, member)).unwrap();
    HeaderRepr {
        kind,
        class: class(case),
        hop_limit: n("hop_limit") as u8,
        flags,
        label: label(case, "label"),
        destination_domain: n("destination_domain"),
        tenant: n("tenant"),
        source_label: label(case, "source_label"),
        source_domain: n("source_domain"),
        flow: u64::from_str_radix(text(case, "flow"), 16).unwrap(),
        sequence: n("sequence"),
        payload_len: n("payload_len"),
        requested_label: label(case, "requested_label"),
        extension_len: n("extension_len") as u16,
    }
}

fn header_reason(error: HeaderError) -> &'static str {
    match error {
        HeaderError::TooShort { .. } => "too_short",
        HeaderError::Version { .. } => "version",
        HeaderError::Kind { .. } => "kind",
        other => panic!("{other} has no reason in the vectors"),
    }
}

fn frame_reason(error: FrameError) -> &'static str {
    match error {
        FrameError::Header(error) => header_reason(error),
        FrameError::TooLarge { .. } => "too_large",
        FrameError::Class { .. } => "class",
        FrameError::CutShort { .. } => "cut_short",
        FrameError::PastEnd { .. } => "past_end",
        other => panic!("{other} has no reason in the vectors"),
    }
}

#[test]
fn headers() {
    let vectors = read("header.json");
    for case in &vectors.valid {
        let name = text(case, "name");
        let bytes = bytes(case);
        let header = Header::new_checked(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = header_of(&case["header"]);
        assert_eq!(HeaderRepr::parse(&header), expected, "{name}");
        assert_eq!(
            header.total_len() as u64,
            number(case, "total_len"),
            "{name}"
        );
        let canonical = case["canonical"].as_bool().unwrap();
        assert_eq!(expected.to_bytes()[..] == bytes[..], canonical, "{name}");
    }
    for case in &vectors.invalid {
        let error = Header::new_checked(bytes(case)).expect_err(text(case, "name"));
        assert_eq!(
            header_reason(error),
            text(case, "reason"),
            "{}",
            case["name"]
        );
    }
}

#[test]
fn label_texts() {
    let vectors = read("label.json");
    for case in &vectors.valid {
        let written = text(case, "text");
        let label: Label = written
            .parse()
            .unwrap_or_else(|error| panic!("{written}: {error}"));
        assert_eq!(label, self::label(case, "bits"), "{written}");
        assert_eq!(label.to_string(), written);
        let kind = match label.kind() {
            LabelKind::Class => "class",
            LabelKind::Agent => "agent",
            LabelKind::Group => "group",
            LabelKind::Router => "router",
        };
        assert_eq!(kind, text(case, "kind"), "{written}");
        if label.kind() == LabelKind::Class {
            let levels: Vec<_> = label.levels().into_iter().map(usize::from).collect();
            assert_eq!(levels, numbers(case, "levels"), "{written}");
            let ancestors: Vec<Value> = label
                .ancestors()
                .map(|above| above.to_string().into())
                .collect();
            assert_eq!(case["ancestors"], Value::Array(ancestors), "{written}");
        }
        let parent = label.parent().map(|parent| parent.to_string());
        assert_eq!(case["parent"].as_str(), parent.as_deref(), "{written}");
    }
    for case in &vectors.invalid {
        let error = text(case, "text")
            .parse::<Label>()
            .expect_err(text(case, "name"));
        assert_eq!(
            error.position() as u64,
            number(case, "position"),
            "{}: {error}",
            case["name"]
        );
    }
}

#[test]
fn label_bits() {
    let vectors = read("label_bits.json");
    for case in &vectors.valid {
        let label = label(case, "bits");
        assert!(label.is_destination(), "{label}");
        assert_eq!(label.to_string(), text(case, "text"));
    }
    for case in &vectors.invalid {
        let label = label(case, "bits");
        let reason = if label.is_none() {
            "none"
        } else if label.is_well_formed() {
            assert_eq!(label.kind(), LabelKind::Router);
            "router"
        } else {
            "gap"
        };
        assert!(!label.is_destination(), "{label}");
        assert_eq!(reason, text(case, "reason"), "{label}");
    }
}

#[test]
fn extensions() {
    let vectors = read("extensions.json");
    for case in &vectors.valid {
        let (name, bytes) = (text(case, "name"), bytes(case));
        let known = KnownExtensions::parse(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let deadline = known.deadline_unix_us.map(|deadline| deadline.to_string());
        assert_eq!(
            case["deadline_unix_us"].as_str(),
            deadline.as_deref(),
            "{name}"
        );
        let trace = case["trace_context"].as_str().map(bytes_of);
        assert_eq!(trace.as_deref(), known.trace_context, "{name}");
    }
    for case in &vectors.invalid {
        let bytes = bytes(case);
        let error = KnownExtensions::parse(&bytes).expect_err(text(case, "name"));
        let (reason, offset) = match error {
            ExtensionError::Truncated { offset } => ("truncated", offset),
            ExtensionError::Length { offset } => ("length", offset),
            ExtensionError::Repeated { offset } => ("repeated", offset),
            ExtensionError::Unknown { offset, .. } => ("unknown", offset),
            other => panic!("{other}"),
        };
        assert_eq!(reason, text(case, "reason"), "{}", case["name"]);
        assert_eq!(offset as u64, number(case, "offset"), "{}", case["name"]);
    }
}

#[test]
fn prefaces() {
    let vectors = read("preface.json");
    for case in &vectors.valid {
        let preface = Preface::parse(&bytes(case)).unwrap().expect("eight bytes");
        let stream = match preface.kind {
            StreamKind::Lane => "lane",
            StreamKind::Bulk => "bulk",
        };
        assert_eq!(stream, text(case, "stream"), "{}", case["name"]);
        assert_eq!(preface.class, class(case), "{}", case["name"]);
    }
    for case in &vectors.invalid {
        let reason = match Preface::parse(&bytes(case)).expect_err(text(case, "name")) {
            PrefaceError::Magic { .. } => "magic",
            PrefaceError::Kind { .. } => "kind",
            other => panic!("{other}"),
        };
        assert_eq!(reason, text(case, "reason"), "{}", case["name"]);
    }
}

/// Lengths of a lane's complete messages, the bytes left over, and what ended the walk.
fn walk_lane(case: &Value) -> (Vec<usize>, usize, Option<FrameError>) {
    let bytes = bytes(case);
    let mut messages = Messages::new(&bytes, number(case, "limit") as usize);
    let mut lengths = Vec::new();
    while let Some(next) = messages.next() {
        let checked = next.and_then(|message| {
            let header = Header::new_checked(message).map_err(FrameError::Header)?;
            check_class(&header, class(case))?;
            Ok(message.len())
        });
        match checked {
            Ok(length) => lengths.push(length),
            Err(error) => return (lengths, messages.rest().len(), Some(error)),
        }
    }
    (lengths, messages.rest().len(), None)
}

#[test]
fn lanes() {
    let vectors = read("lane.json");
    for case in &vectors.valid {
        let expected = (
            numbers(case, "messages"),
            number(case, "rest") as usize,
            None,
        );
        assert_eq!(walk_lane(case), expected, "{}", case["name"]);
    }
    for case in &vectors.invalid {
        let (lengths, _, error) = walk_lane(case);
        let reason = error.map(frame_reason);
        assert_eq!(reason, Some(text(case, "reason")), "{}", case["name"]);
        assert_eq!(lengths, numbers(case, "messages"), "{}", case["name"]);
    }
}

#[test]
fn datagrams() {
    let vectors = read("datagram.json");
    for case in &vectors.valid {
        let bytes = bytes(case);
        let header = framing::datagram(&bytes).unwrap();
        assert_eq!(
            header.total_len() as u64,
            number(case, "total_len"),
            "{}",
            case["name"]
        );
    }
    for case in &vectors.invalid {
        let error = framing::datagram(&bytes(case)).expect_err(text(case, "name"));
        assert_eq!(
            frame_reason(error),
            text(case, "reason"),
            "{}",
            case["name"]
        );
    }
}

/// Length of a bulk stream's message, when the stream's end is the message's.
fn read_bulk(case: &Value) -> Result<usize, FrameError> {
    let bytes = bytes(case);
    let limit = number(case, "limit") as usize;
    let Some(mut length) = BulkLength::begin(&bytes, limit)? else {
        return Err(FrameError::Header(HeaderError::TooShort {
            have: bytes.len(),
        }));
    };
    for chunk in bytes.chunks(1000) {
        length.advance(chunk.len())?;
    }
    length.finish()?;
    assert_eq!(length.remaining(), 0);
    Ok(bytes.len())
}

#[test]
fn bulk_streams() {
    let vectors = read("bulk.json");
    for case in &vectors.valid {
        let total = number(case, "total_len") as usize;
        assert_eq!(read_bulk(case), Ok(total), "{}", case["name"]);
    }
    for case in &vectors.invalid {
        let error = read_bulk(case).expect_err(text(case, "name"));
        assert_eq!(
            frame_reason(error),
            text(case, "reason"),
            "{}",
            case["name"]
        );
    }
}

#[test]
fn notices() {
    let vectors = read("notice.json");
    assert_eq!(vectors.valid.len(), NoticeCode::ALL.len());
    for case in &vectors.valid {
        let bytes = bytes(case);
        let header = framing::datagram(&bytes).unwrap();
        assert_eq!(header.kind(), Kind::Notice);
        let said = notice::Notice::parse(&bytes[48..]).unwrap();
        assert_eq!(u64::from(said.code.number()), number(case, "code"));
        assert_eq!(said.code.name(), text(case, "code_name"));
        assert_eq!(said.router, label(case, "router"));
        assert_eq!(said.offending.to_vec(), bytes_of(text(case, "offending")));
        assert_eq!(case["stops_resend"], said.code.stops_resend());
        assert_eq!(case["unpins"], said.code.unpins());
        assert_eq!(said.to_message(header.source_domain())[..], bytes[..]);
    }
    for case in &vectors.invalid {
        let reason = match notice::Notice::parse(&bytes(case)).expect_err(text(case, "name")) {
            NoticeError::TooShort { .. } => "too_short",
            NoticeError::Code { .. } => "code",
            NoticeError::Offending(_) => "offending",
            other => panic!("{other}"),
        };
        assert_eq!(reason, text(case, "reason"), "{}", case["name"]);
    }
}

#[test]
fn answers() {
    for case in &read("answers.json").valid {
        let delivered = bytes(case);
        let header = framing::datagram(&delivered).unwrap();
        let (own, domain) = (label(case, "own"), number(case, "own_domain") as u32);
        let receipt = receipt::receipt(&header, own, domain);
        assert_eq!(receipt.to_bytes().to_vec(), bytes_of(text(case, "receipt")));
        let reply = receipt::reply(
            &header,
            own,
            domain,
            number(case, "reply_payload_len") as u32,
        );
        assert_eq!(reply.to_bytes().to_vec(), bytes_of(text(case, "reply")));
    }
}

/// Lengths of the complete control frames, the bytes left over, and what ended the walk.
fn walk_control(bytes: &[u8]) -> (Vec<usize>, usize, Option<ControlError>) {
    let (mut lengths, mut at) = (Vec::new(), 0);
    loop {
        match control::frame(&bytes[at..]) {
            Ok(Some(frame)) => {
                lengths.push(frame.len());
                at += frame.end;
            }
            Ok(None) => return (lengths, bytes.len() - at, None),
            Err(error) => return (lengths, bytes.len() - at, Some(error)),
        }
    }
}

#[test]
fn control_framing() {
    let vectors = read("control_framing.json");
    for case in &vectors.valid {
        let expected = (numbers(case, "frames"), number(case, "rest") as usize, None);
        assert_eq!(walk_control(&bytes(case)), expected, "{}", case["name"]);
    }
    for case in &vectors.invalid {
        let (_, _, error) = walk_control(&bytes(case));
        let reason = match error.expect("every invalid case ends in an error") {
            ControlError::Prefix => "prefix",
            ControlError::TooLarge { length } => {
                assert!(LengthPrefix::new(length).is_err());
                "too_large"
            }
            other => panic!("{other}"),
        };
        assert_eq!(reason, text(case, "reason"), "{}", case["name"]);
    }
}

#[test]
fn names() {
    let vectors = read("name.json");
    for case in &vectors.valid {
        let uri = text(case, "text");
        let name = PeerName::parse(uri).unwrap_or_else(|error| panic!("{uri}: {error}"));
        assert_eq!(name.as_str(), uri);
        assert_eq!(name.trust_domain(), text(case, "trust_domain"), "{uri}");
        assert_eq!(name.path(), text(case, "path"), "{uri}");
    }
    for case in &vectors.invalid {
        let error = PeerName::parse(text(case, "text")).expect_err(text(case, "name"));
        assert_eq!(
            error.position() as u64,
            number(case, "position"),
            "{}: {error}",
            case["name"]
        );
    }
}

/// A datagram's and a bulk stream's message is also what `message_len` says it is.
#[test]
fn message_lengths_agree() {
    for file in ["datagram.json", "bulk.json"] {
        for case in &read(file).valid {
            let total = number(case, "total_len") as usize;
            assert_eq!(
                message_len(&bytes(case), usize::MAX),
                Ok(Some(total)),
                "{file}"
            );
        }
    }
}
