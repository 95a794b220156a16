//! What holds for all inputs: round trips, every truncation, every flipped bit, any split of a stream.

use caplane_wire::extension::{Extension, KnownExtensions};
use caplane_wire::framing::{self, BulkLength, FrameError, Messages};
use caplane_wire::notice::{NOTICE_LEN, Notice};
use caplane_wire::preface::{Preface, StreamKind};
use caplane_wire::{
    CongestionAction, ExtensionError, Extensions, Flags, HEADER_LEN, Header, HeaderError,
    HeaderRepr, Kind, LANE_MESSAGE_MAX, Label, LabelKind, NoticeCode, PeerName, TrafficClass,
    control, message_len,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

fn any_kind() -> impl Strategy<Value = Kind> {
    select(vec![Kind::Data, Kind::Notice, Kind::Receipt, Kind::Probe])
}

prop_compose! {
    fn any_header()(
        kind in any_kind(),
        bytes in any::<[u8; 3]>(),
        words in any::<[u32; 8]>(),
        flow in any::<u64>(),
        extension_len in any::<u16>(),
    ) -> HeaderRepr {
        HeaderRepr {
            kind,
            class: TrafficClass::from_bits(bytes[0]),
            hop_limit: bytes[1],
            flags: Flags::from_bits(bytes[2]),
            label: Label::from_bits(words[0]),
            destination_domain: words[1],
            tenant: words[2],
            source_label: Label::from_bits(words[3]),
            source_domain: words[4],
            flow,
            sequence: words[5],
            payload_len: words[6],
            requested_label: Label::from_bits(words[7]),
            extension_len,
        }
    }
}

prop_compose! {
    /// A whole message with true lengths; extensions are arbitrary bytes here.
    fn any_message()(
        header in any_header(),
        extensions in vec(any::<u8>(), 0..40),
        payload in vec(any::<u8>(), 0..200),
    ) -> Vec<u8> {
        let header = HeaderRepr {
            extension_len: extensions.len() as u16,
            payload_len: payload.len() as u32,
            ..header
        };
        [&header.to_bytes()[..], &extensions, &payload].concat()
    }
}

fn any_destination() -> impl Strategy<Value = Label> {
    prop_oneof![
        (1..=1023_u16, 0..=1023_u16, 0..=1023_u16).prop_map(|(l1, l2, l3)| {
            Label::class(l1, l2, if l2 == 0 { 0 } else { l3 }).unwrap()
        }),
        (0..=Label::AGENT_MAX, 0..=63_u8).prop_map(|(n, i)| Label::agent(n, i).unwrap()),
        (0..=Label::NUMBER_MAX).prop_map(|n| Label::group(n).unwrap()),
    ]
}

/// The chunks that `cuts` make of `bytes`, empty ones included.
fn split<'a>(bytes: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places
        .windows(2)
        .map(|pair| &bytes[pair[0]..pair[1]])
        .collect()
}

/// Reads a lane as a receiver does: bytes come in chunks, whole messages are taken from the front.
fn read_lane(chunks: &[&[u8]], limit: usize) -> (Vec<Vec<u8>>, Vec<u8>, Option<FrameError>) {
    let (mut pending, mut taken) = (Vec::new(), Vec::new());
    for chunk in chunks {
        pending.extend_from_slice(chunk);
        let mut messages = Messages::new(&pending, limit);
        for message in messages.by_ref() {
            match message {
                Ok(message) => taken.push(message.to_vec()),
                Err(error) => return (taken, Vec::new(), Some(error)),
            }
        }
        pending = messages.rest().to_vec();
    }
    (taken, pending, None)
}

/// Field by field, the owned form says what the view says.
fn view_and_repr_agree<T: AsRef<[u8]>>(view: &Header<T>, repr: &HeaderRepr) {
    assert_eq!(view.kind(), repr.kind);
    assert_eq!(view.class(), repr.class);
    assert_eq!(view.hop_limit(), repr.hop_limit);
    assert_eq!(view.flags(), repr.flags);
    assert_eq!(view.label(), repr.label);
    assert_eq!(view.destination_domain(), repr.destination_domain);
    assert_eq!(view.tenant(), repr.tenant);
    assert_eq!(view.source_label(), repr.source_label);
    assert_eq!(view.source_domain(), repr.source_domain);
    assert_eq!(view.flow(), repr.flow);
    assert_eq!(view.sequence(), repr.sequence);
    assert_eq!(view.payload_len(), repr.payload_len);
    assert_eq!(view.requested_label(), repr.requested_label);
    assert_eq!(view.extension_len(), repr.extension_len);
    let total = 48 + repr.payload_len as usize + usize::from(repr.extension_len);
    assert_eq!(view.total_len(), total);
}

proptest! {
    #[test]
    fn headers_round_trip(repr in any_header()) {
        let bytes = repr.to_bytes();
        let view = Header::new_checked(&bytes).unwrap();
        view_and_repr_agree(&view, &repr);
        prop_assert_eq!(HeaderRepr::parse(&view), repr);
    }

    #[test]
    fn setters_write_their_field_and_no_other(before in any_header(), after in any_header()) {
        type Change = fn(&mut Header<&mut [u8; HEADER_LEN]>, &mut HeaderRepr, &HeaderRepr);
        let changes: [Change; 14] = [
            |view, repr, to| { view.set_kind(to.kind); repr.kind = to.kind },
            |view, repr, to| { view.set_class(to.class); repr.class = to.class },
            |view, repr, to| { view.set_hop_limit(to.hop_limit); repr.hop_limit = to.hop_limit },
            |view, repr, to| { view.set_flags(to.flags); repr.flags = to.flags },
            |view, repr, to| { view.set_label(to.label); repr.label = to.label },
            |view, repr, to| {
                view.set_destination_domain(to.destination_domain);
                repr.destination_domain = to.destination_domain;
            },
            |view, repr, to| { view.set_tenant(to.tenant); repr.tenant = to.tenant },
            |view, repr, to| {
                view.set_source_label(to.source_label);
                repr.source_label = to.source_label;
            },
            |view, repr, to| {
                view.set_source_domain(to.source_domain);
                repr.source_domain = to.source_domain;
            },
            |view, repr, to| { view.set_flow(to.flow); repr.flow = to.flow },
            |view, repr, to| { view.set_sequence(to.sequence); repr.sequence = to.sequence },
            |view, repr, to| {
                view.set_payload_len(to.payload_len);
                repr.payload_len = to.payload_len;
            },
            |view, repr, to| {
                view.set_requested_label(to.requested_label);
                repr.requested_label = to.requested_label;
            },
            |view, repr, to| {
                view.set_extension_len(to.extension_len);
                repr.extension_len = to.extension_len;
            },
        ];
        let (mut bytes, mut repr) = (before.to_bytes(), before);
        for change in changes {
            let (mut view, _) = Header::split_mut(&mut bytes).unwrap();
            change(&mut view, &mut repr, &after);
            prop_assert_eq!(repr.to_bytes(), bytes);
        }
        prop_assert_eq!(repr, after);
    }

    #[test]
    fn every_truncation_is_seen(message in any_message()) {
        for length in 0..message.len() {
            let cut = &message[..length];
            if length < HEADER_LEN {
                let too_short = HeaderError::TooShort { have: length };
                prop_assert_eq!(Header::new_checked(cut).unwrap_err(), too_short);
                prop_assert_eq!(Header::split(cut).unwrap_err(), too_short);
                prop_assert_eq!(message_len(cut, usize::MAX), Ok(None));
                prop_assert_eq!(framing::datagram(cut).unwrap_err(), FrameError::Header(too_short));
            } else {
                prop_assert_eq!(message_len(cut, usize::MAX), Ok(Some(message.len())));
                let cut_short =
                    FrameError::CutShort { length: message.len() as u64, have: length as u64 };
                prop_assert_eq!(framing::datagram(cut).unwrap_err(), cut_short);
            }
            prop_assert_eq!(Messages::new(cut, usize::MAX).count(), 0);
        }
        prop_assert!(framing::datagram(&message).is_ok());
    }

    #[test]
    fn every_flipped_bit_is_read_alike(repr in any_header()) {
        let original = repr.to_bytes();
        for bit in 0..HEADER_LEN * 8 {
            let mut bytes = original;
            bytes[bit / 8] ^= 0x80 >> (bit % 8);
            match Header::new_checked(bytes) {
                Err(HeaderError::Version { found }) => prop_assert_eq!(found, bytes[0] >> 4),
                Err(HeaderError::Kind { found }) => {
                    prop_assert!(found > 3);
                    prop_assert_eq!(found, bytes[0] & 15);
                }
                Err(other) => prop_assert!(false, "{other}"),
                Ok(view) => {
                    let read = HeaderRepr::parse(&view);
                    view_and_repr_agree(&view, &read);
                    // Either a field changed, and is written back so, or the bit is a reserved one.
                    let reserved = matches!(bit, 12..16 | 29..32 | 368..384);
                    prop_assert_eq!(read == repr, reserved, "bit {}", bit);
                    prop_assert_eq!(read.to_bytes() == bytes, !reserved, "bit {}", bit);
                }
            }
        }
    }

    #[test]
    fn a_lane_reads_the_same_in_any_split(
        messages in vec(any_message(), 0..12),
        tail in vec(any::<u8>(), 0..100),
        cuts in vec(any::<Index>(), 0..40),
        limit in 48..400_usize,
    ) {
        let bytes = [messages.concat(), tail].concat();
        let whole = read_lane(&[&bytes], limit);
        prop_assert_eq!(&read_lane(&split(&bytes, &cuts), limit), &whole);
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(&read_lane(&single, limit), &whole);
        if whole.2.is_none() {
            prop_assert_eq!([whole.0.concat(), whole.1].concat(), bytes);
        }
    }

    #[test]
    fn lengths_past_the_limit_are_refused(repr in any_header(), limit in 0..70_000_usize) {
        let length = Header::new_checked(repr.to_bytes()).unwrap().total_len();
        let expected = if length > limit {
            Err(FrameError::TooLarge { length, limit })
        } else {
            Ok(Some(length))
        };
        prop_assert_eq!(message_len(&repr.to_bytes(), limit), expected);
    }

    #[test]
    fn a_bulk_stream_ends_where_its_message_does(
        message in any_message(),
        cuts in vec(any::<Index>(), 0..20),
        missing in 1..300_usize,
        extra in 1..300_usize,
    ) {
        let begin = |bytes: &[u8]| BulkLength::begin(bytes, LANE_MESSAGE_MAX).unwrap();
        let mut length = begin(&message).unwrap();
        for chunk in split(&message, &cuts) {
            prop_assert!(length.advance(chunk.len()).is_ok());
        }
        prop_assert_eq!(length.remaining(), 0);
        prop_assert_eq!(length.finish(), Ok(()));
        let past_end = FrameError::PastEnd { length: message.len() as u64 };
        prop_assert_eq!(length.advance(extra), Err(past_end));
        prop_assert_eq!(length.finish(), Err(past_end));

        let have = message.len().saturating_sub(missing);
        match begin(&message[..have]) {
            None => prop_assert!(have < HEADER_LEN),
            Some(mut length) => {
                length.advance(have).unwrap();
                let cut_short =
                    FrameError::CutShort { length: message.len() as u64, have: have as u64 };
                prop_assert_eq!(length.finish(), Err(cut_short));
            }
        }
    }

    #[test]
    fn control_frames_read_the_same_in_any_split(
        frames in vec(vec(any::<u8>(), 0..300), 0..8),
        tail in vec(any::<u8>(), 0..4),
        cuts in vec(any::<Index>(), 0..20),
    ) {
        let mut bytes = Vec::new();
        for frame in &frames {
            bytes.extend_from_slice(control::LengthPrefix::new(frame.len()).unwrap().as_bytes());
            bytes.extend_from_slice(frame);
        }
        bytes.extend_from_slice(&tail);
        let read = |chunks: &[&[u8]]| {
            let (mut pending, mut taken) = (Vec::new(), Vec::new());
            for chunk in chunks {
                pending.extend_from_slice(chunk);
                loop {
                    match control::frame(&pending) {
                        Ok(Some(frame)) => {
                            let end = frame.end;
                            taken.push(pending[frame].to_vec());
                            pending.drain(..end);
                        }
                        Ok(None) => break,
                        Err(error) => return (taken, Err(error)),
                    }
                }
            }
            (taken, Ok(pending))
        };
        let whole = read(&[&bytes]);
        prop_assert!(whole.0.starts_with(&frames));
        prop_assert_eq!(read(&split(&bytes, &cuts)), whole);
    }

    #[test]
    fn known_extensions_round_trip(
        deadline_unix_us in any::<Option<u64>>(),
        trace in proptest::option::of(vec(any::<u8>(), 0..64)),
    ) {
        let known = KnownExtensions { deadline_unix_us, trace_context: trace.as_deref() };
        let mut buffer = [0; 128];
        let length = known.emit(&mut buffer).unwrap();
        prop_assert_eq!(length, known.wire_len());
        prop_assert_eq!(KnownExtensions::parse(&buffer[..length]), Ok(known));
        for room in 0..length {
            prop_assert_eq!(known.emit(&mut buffer[..room]), Err(ExtensionError::NoRoom));
        }
    }

    #[test]
    fn extensions_cover_their_bytes(bytes in vec(any::<u8>(), 0..64)) {
        let mut walked = 0;
        let mut failed = false;
        for item in Extensions::new(&bytes) {
            prop_assert!(!failed, "the walk went on after an error");
            match item {
                Ok(Extension { kind, value }) => {
                    prop_assert_eq!(bytes[walked], kind);
                    walked += 3 + value.len();
                }
                Err(error) => {
                    prop_assert_eq!(error, ExtensionError::Truncated { offset: walked });
                    failed = true;
                }
            }
        }
        prop_assert_eq!(walked == bytes.len(), !failed);
        let _ = KnownExtensions::parse(&bytes);
    }

    #[test]
    fn notices_round_trip(
        offending in any_header(),
        code in select(NoticeCode::ALL.to_vec()),
        router in any::<u32>(),
        domain in any::<u32>(),
    ) {
        let (router, offending) = (Label::from_bits(router), offending.to_bytes());
        let notice = Notice { code, router, offending };
        let message = notice.to_message(domain);
        let header = framing::datagram(&message).unwrap();
        prop_assert_eq!(message.len(), NOTICE_LEN);
        prop_assert_eq!(header.kind(), Kind::Notice);
        prop_assert_eq!(header.requested_label(), notice.offending().source_label());
        prop_assert_eq!(header.source_label(), router);
        prop_assert_eq!(Notice::parse(&message[HEADER_LEN..]), Ok(notice));
    }

    #[test]
    fn prefaces_round_trip(bits in any::<u8>(), bulk in any::<bool>(), reserved in any::<u16>()) {
        let kind = if bulk { StreamKind::Bulk } else { StreamKind::Lane };
        let preface = Preface { kind, class: TrafficClass::from_bits(bits) };
        let mut bytes = preface.to_bytes();
        for length in 0..bytes.len() {
            prop_assert_eq!(Preface::parse(&bytes[..length]), Ok(None));
        }
        bytes[6..].copy_from_slice(&reserved.to_be_bytes());
        prop_assert_eq!(Preface::parse(&bytes), Ok(Some(preface)));
    }

    #[test]
    fn labels_round_trip_as_text(label in any_destination()) {
        prop_assert!(label.is_destination());
        prop_assert_eq!(label.to_string().parse(), Ok(label));
    }

    #[test]
    fn what_parses_as_a_label_is_its_only_spelling(
        text in "(class|agent|group|router|x)?:?[0-9]{0,5}(\\.[0-9]{0,5}){0,4}.?",
    ) {
        match text.parse::<Label>() {
            Ok(label) => {
                prop_assert_eq!(label.to_string(), text);
                prop_assert!(label.is_destination() || label.kind() == LabelKind::Router);
            }
            Err(error) => prop_assert!(text.is_char_boundary(error.position()), "{error}"),
        }
    }

    #[test]
    fn a_class_covers_itself_and_what_is_below(a in any_destination(), b in any_destination()) {
        prop_assert!(a.covers(a));
        for above in a.ancestors() {
            prop_assert!(above.covers(a) && !a.covers(above));
        }
        if a.kind() == LabelKind::Class {
            let below = a == b || b.ancestors().any(|above| above == a);
            prop_assert_eq!(a.covers(b), below);
            prop_assert_eq!(a.ancestors().count() + 1, usize::from(a.depth()));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200), text in ".{0,80}") {
        if let Ok(header) = Header::new_checked(&bytes) {
            view_and_repr_agree(&header, &HeaderRepr::parse(&header));
        }
        let _ = (Notice::parse(&bytes), Preface::parse(&bytes), control::frame(&bytes));
        let _ = (framing::datagram(&bytes), text.parse::<Label>(), PeerName::parse(&text));
    }

    #[test]
    fn names_that_pass_come_apart_and_errors_point_into_the_text(
        text in "(spiffe|acps)://[a-zA-Z0-9._/-]{0,30}(\\PC{0,3})",
    ) {
        match PeerName::parse(&text) {
            Ok(name) if text.starts_with("spiffe") => {
                prop_assert_eq!(format!("spiffe://{}{}", name.trust_domain(), name.path()), text);
            }
            Ok(name) => prop_assert!(text["acps://".len()..].starts_with(name.trust_domain())),
            Err(error) => prop_assert!(text.is_char_boundary(error.position()), "{error}"),
        }
    }

    #[test]
    fn priorities_are_capped_and_nothing_else(bits in any::<u8>(), most in 0..=7_u8) {
        let class = TrafficClass::from_bits(bits);
        let capped = class.capped(most);
        prop_assert_eq!(capped.priority(), class.priority().min(most));
        prop_assert_eq!(capped.congestion_action(), class.congestion_action());
        prop_assert_eq!(TrafficClass::new(class.priority(), class.congestion_action()), class);
        prop_assert_eq!(TrafficClass::from_index(class.index()), class);
        prop_assert_eq!(class.blocking(), class.congestion_action() == CongestionAction::Block);
    }
}
