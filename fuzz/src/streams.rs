//! Headers, extensions, lanes and bulk streams: what `caplane-wire` reads.

use caplane_wire::extension::KnownExtensions;
use caplane_wire::notice::{NOTICE_PAYLOAD_LEN, Notice};
use caplane_wire::preface::{PREFACE_LEN, Preface, PrefaceError};
use caplane_wire::{
    BulkLength, FrameError, HEADER_LEN, Header, HeaderRepr, Kind, LANE_MESSAGE_MAX, Messages,
    check_class, framing, message_len, receipt,
};

use crate::pieces::pieces;

/// A bulk limit small enough for a fuzzer to pass.
const BULK_LIMIT: usize = 100_000;

/// One message: its header, its extensions, and what is derived from it.
///
/// # Panics
/// When view and owned form differ, or something does not round-trip.
pub fn header_tlv(data: &[u8]) {
    let Ok((header, rest)) = Header::split(data) else {
        assert!(Header::new_checked(data).is_err());
        assert!(framing::datagram(data).is_err());
        return;
    };
    let repr = HeaderRepr::parse(&header);
    let again = repr.to_bytes();
    let reread = Header::new_checked(&again).expect("what was emitted is read");
    assert_eq!(HeaderRepr::parse(&reread), repr);
    assert_eq!(message_len(data, usize::MAX), Ok(Some(header.total_len())));
    assert_eq!(
        framing::datagram(data).is_ok(),
        data.len() == header.total_len()
    );

    let own = header.requested_label();
    for answer in [
        receipt::receipt(&header, own, 1),
        receipt::reply(&header, own, 1, 9),
    ] {
        assert_eq!(answer.requested_label, header.source_label());
        assert_eq!(
            (answer.flow, answer.sequence),
            (header.flow(), header.sequence())
        );
    }
    if let Some(extensions) = rest.get(..usize::from(header.extension_len())) {
        known_extensions(extensions);
    }
    if header.kind() == Kind::Notice {
        notice(&rest[usize::from(header.extension_len()).min(rest.len())..]);
    }
}

fn known_extensions(bytes: &[u8]) {
    if let Ok(known) = KnownExtensions::parse(bytes) {
        let mut buffer = vec![0; known.wire_len()];
        let length = known.emit(&mut buffer).expect("the buffer has its length");
        assert!(length <= bytes.len());
        assert_eq!(KnownExtensions::parse(&buffer[..length]), Ok(known));
    }
}

fn notice(payload: &[u8]) {
    if let Ok(notice) = Notice::parse(payload) {
        let message = notice.to_message(7);
        assert_eq!(Notice::parse(&message[HEADER_LEN..]), Ok(notice));
        assert_eq!(message.len(), HEADER_LEN + NOTICE_PAYLOAD_LEN);
    }
}

/// What was read of a stream before it ended or went wrong.
#[derive(Debug, PartialEq)]
enum Ended<T> {
    /// Fewer than eight bytes came.
    NoPreface,
    BadPreface(PrefaceError),
    Read(Preface, T),
}

/// Messages of a lane, what is left over, and why the reader stopped.
type Lane = (Vec<Vec<u8>>, Vec<u8>, Option<FrameError>);

/// A lane whose bytes come in arbitrary pieces.
///
/// # Panics
/// When the pieces make a difference, or a byte is lost or invented.
pub fn lane_framing(data: &[u8]) {
    let pieces = pieces(data);
    let whole = pieces.concat();
    let at_once = read_lane(&[&whole]);
    assert_eq!(read_lane(&pieces), at_once);
    if let Ended::Read(_, (messages, rest, None)) = at_once {
        assert!(
            messages
                .iter()
                .all(|message| message.len() <= LANE_MESSAGE_MAX)
        );
        assert_eq!([messages.concat(), rest].concat(), whole[PREFACE_LEN..]);
    }
}

/// The preface, and the pieces after it; the first of them may be empty.
fn read_preface<'a>(pieces: &[&'a [u8]], first: &'a mut Vec<u8>) -> Ended<Vec<&'a [u8]>> {
    for (index, piece) in pieces.iter().enumerate() {
        first.extend_from_slice(piece);
        match Preface::parse(first) {
            Ok(None) => {}
            Ok(Some(preface)) => {
                let mut after = vec![&first[PREFACE_LEN..]];
                after.extend_from_slice(&pieces[index + 1..]);
                return Ended::Read(preface, after);
            }
            Err(error) => return Ended::BadPreface(error),
        }
    }
    Ended::NoPreface
}

fn read_lane(pieces: &[&[u8]]) -> Ended<Lane> {
    let mut first = Vec::new();
    let (preface, after) = match read_preface(pieces, &mut first) {
        Ended::Read(preface, after) => (preface, after),
        Ended::NoPreface => return Ended::NoPreface,
        Ended::BadPreface(error) => return Ended::BadPreface(error),
    };
    let (mut pending, mut taken) = (Vec::new(), Vec::new());
    for piece in after {
        pending.extend_from_slice(piece);
        let mut messages = Messages::new(&pending, LANE_MESSAGE_MAX);
        for message in messages.by_ref() {
            let checked = message.and_then(|message| {
                let header = Header::new_checked(message).map_err(FrameError::Header)?;
                check_class(&header, preface.class).map(|()| message)
            });
            match checked {
                Ok(message) => taken.push(message.to_vec()),
                Err(error) => return Ended::Read(preface, (taken, Vec::new(), Some(error))),
            }
        }
        pending = messages.rest().to_vec();
    }
    Ended::Read(preface, (taken, pending, None))
}

/// A bulk stream whose bytes come in arbitrary pieces and then end.
///
/// # Panics
/// When the pieces make a difference to what the stream's end means.
pub fn bulk_framing(data: &[u8]) {
    let pieces = pieces(data);
    let whole = pieces.concat();
    let at_once = read_bulk(&[&whole]);
    assert_eq!(read_bulk(&pieces), at_once);
    if let Ended::Read(_, Ok(Some(length))) = at_once {
        assert_eq!(length as usize, whole.len() - PREFACE_LEN);
        assert!(length as usize <= BULK_LIMIT);
    }
}

/// The message's length if the stream ends with it, `None` if it ends before a header is there.
fn read_bulk(pieces: &[&[u8]]) -> Ended<Result<Option<u64>, FrameError>> {
    let mut first = Vec::new();
    match read_preface(pieces, &mut first) {
        Ended::Read(preface, after) => Ended::Read(preface, bulk_message(&after)),
        Ended::NoPreface => Ended::NoPreface,
        Ended::BadPreface(error) => Ended::BadPreface(error),
    }
}

fn bulk_message(pieces: &[&[u8]]) -> Result<Option<u64>, FrameError> {
    let mut head = Vec::new();
    let mut account: Option<(BulkLength, u64)> = None;
    for piece in pieces {
        match &mut account {
            Some((length, _)) => length.advance(piece.len())?,
            None => {
                head.extend_from_slice(piece);
                if let Some(mut length) = BulkLength::begin(&head, BULK_LIMIT)? {
                    let total = length.remaining();
                    length.advance(head.len())?;
                    account = Some((length, total));
                }
            }
        }
    }
    account
        .map(|(length, total)| length.finish().map(|()| total))
        .transpose()
}
