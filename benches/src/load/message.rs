//! Messages made in place: a header template, a sequence number and a stamp
//! are written into a batch whose bodies are already there.

use bytes::{Bytes, BytesMut};
use caplane_wire::HEADER_LEN;
use caplane_wire::header::Header;
use std::collections::VecDeque;

/// Bytes of the stamp at the start of a payload; shorter payloads carry none.
pub const STAMP_LEN: usize = 24;
/// Bytes of messages handed to a lane at a time: four of the largest QUIC packets.
const BATCH_BYTES: usize = 64 * 1024;
/// Bytes in batches of one writer: eight stream windows of 8 MiB. At least four batches exist.
const BATCHES_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bodies begin at one of so many places of the pattern: a prime, so that neighbours differ.
const PATTERN_STEPS: usize = 251;

/// What a payload says about its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// When the message was due (nanoseconds of the run's clock).
    pub due_ns: u64,
    /// When it was handed to the transport.
    pub sent_ns: u64,
    /// Where in the pattern its body begins.
    pub body: u16,
}

impl Stamp {
    fn emit(&self, header: &[u8], out: &mut [u8]) {
        out[..8].copy_from_slice(&self.due_ns.to_be_bytes());
        out[8..16].copy_from_slice(&self.sent_ns.to_be_bytes());
        out[16..18].copy_from_slice(&self.body.to_be_bytes());
        out[18..20].copy_from_slice(&[0; 2]);
        let check = self.check(header);
        out[20..24].copy_from_slice(&check.to_be_bytes());
    }

    /// Reads the stamp of a whole message; `None` when stamp, header and payload do not belong together.
    pub fn verify(message: &[u8], pattern: &Pattern) -> Option<Stamp> {
        let (header, payload) = message.split_at_checked(HEADER_LEN)?;
        let (stamp, body) = payload.split_at_checked(STAMP_LEN)?;
        let found = Stamp {
            due_ns: u64::from_be_bytes(stamp[..8].try_into().ok()?),
            sent_ns: u64::from_be_bytes(stamp[8..16].try_into().ok()?),
            body: u16::from_be_bytes(stamp[16..18].try_into().ok()?),
        };
        let check = u32::from_be_bytes(stamp[20..24].try_into().ok()?);
        (check == found.check(header) && pattern.matches(found.body, body)).then_some(found)
    }

    /// Binds the stamp to what no router may change: source, flow, sequence, length, requested label.
    fn check(&self, header: &[u8]) -> u32 {
        let word = |at: usize| {
            let mut eight = [0u8; 8];
            eight.copy_from_slice(&header[at..at + 8]);
            u64::from_be_bytes(eight)
        };
        let mut sum = self.due_ns ^ self.sent_ns.rotate_left(17) ^ u64::from(self.body) << 48;
        for at in [16, 24, 32, 40] {
            sum = (sum ^ word(at)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            sum ^= sum >> 29;
        }
        (sum >> 16) as u32
    }
}

/// The bytes bodies are made of.
pub struct Pattern(Vec<u8>);

impl Pattern {
    /// A pattern for payloads of up to `payload` bytes.
    pub fn new(payload: usize) -> Pattern {
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        let bytes = (0..payload + PATTERN_STEPS)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect();
        Pattern(bytes)
    }

    fn body(&self, from: u16, len: usize) -> Option<&[u8]> {
        self.0.get(from as usize..from as usize + len)
    }

    fn matches(&self, from: u16, body: &[u8]) -> bool {
        self.body(from, body.len()) == Some(body)
    }
}

/// How messages of one size lie in a batch.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Payload bytes.
    pub payload: usize,
    /// Messages in a full batch.
    pub per_batch: usize,
}

impl Layout {
    /// Messages of `payload` bytes; batches of about 64 KiB, at least one message.
    pub fn new(payload: usize) -> Layout {
        Layout {
            payload,
            per_batch: (BATCH_BYTES / (HEADER_LEN + payload)).max(1),
        }
    }

    fn message_len(&self) -> usize {
        HEADER_LEN + self.payload
    }
}

/// One flow of a sender.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    pub(super) header: [u8; HEADER_LEN],
    pub(super) sequence: u32,
}

/// Writes messages into batches and takes batches back once the transport has let go of them.
pub struct MessageWriter {
    layout: Layout,
    /// Sizes of successive messages, when they differ; bodies are then copied in for each.
    sizes: Option<Vec<usize>>,
    next_size: usize,
    pattern: Pattern,
    in_flight: VecDeque<Bytes>,
    made: usize,
    made_max: usize,
}

impl MessageWriter {
    /// A writer for messages of one size.
    pub fn new(layout: Layout) -> MessageWriter {
        MessageWriter {
            layout,
            sizes: None,
            next_size: 0,
            pattern: Pattern::new(layout.payload),
            in_flight: VecDeque::new(),
            made: 0,
            made_max: (BATCHES_BYTES_MAX / (layout.message_len() * layout.per_batch)).max(4),
        }
    }

    /// A writer for messages of several sizes, which take turns; `layout` is that of the largest.
    pub fn mixed(layout: Layout, sizes: Vec<usize>) -> MessageWriter {
        MessageWriter {
            sizes: Some(sizes).filter(|sizes| !sizes.is_empty()),
            ..MessageWriter::new(layout)
        }
    }

    /// Writes the next messages of `flows` from `cursor` on, one for each due time,
    /// at most a batch. `None` while the transport holds every batch there may be.
    pub(super) fn write(
        &mut self,
        flows: &mut [Flow],
        cursor: &mut usize,
        due: impl Iterator<Item = u64>,
        now_ns: u64,
    ) -> Option<(Bytes, usize)> {
        let mut batch = self.take()?;
        let (mut at, mut written) = (0, 0);
        let last = flows.len() - 1;
        for due_ns in due {
            let len = HEADER_LEN + self.payload();
            let Some(slot) = batch.get_mut(at..at + len) else {
                break;
            };
            let flow = &mut flows[*cursor];
            *cursor = if *cursor == last { 0 } else { *cursor + 1 };
            let body = (written % PATTERN_STEPS) as u16;
            let (header, payload) = slot.split_at_mut(HEADER_LEN);
            self.emit(flow, header, payload, body);
            if payload.len() >= STAMP_LEN {
                let stamp = Stamp {
                    due_ns,
                    sent_ns: now_ns,
                    body,
                };
                stamp.emit(header, payload);
            }
            at += len;
            written += 1;
            self.next_size += 1;
            // Several sizes: only what is handed over one by one is counted, the rest fills the batch.
            if written == self.layout.per_batch && (self.sizes.is_none() || written == 1) {
                break;
            }
        }
        let whole = batch.freeze();
        let used = whole.slice(..at);
        self.in_flight.push_back(whole);
        Some((used, written))
    }

    /// Payload bytes of the next message.
    fn payload(&self) -> usize {
        match &self.sizes {
            Some(sizes) => sizes[self.next_size % sizes.len()],
            None => self.layout.payload,
        }
    }

    /// Header and, where sizes differ, body: a batch of one size has its bodies already.
    fn emit(&self, flow: &mut Flow, header: &mut [u8], payload: &mut [u8], body: u16) {
        header.copy_from_slice(&flow.header);
        let mut view = Header::new_unchecked(header);
        view.set_sequence(flow.sequence);
        flow.sequence = flow.sequence.wrapping_add(1);
        if self.sizes.is_some() {
            view.set_payload_len(payload.len() as u32);
            let behind = &mut payload[STAMP_LEN..];
            if let Some(bytes) = self.pattern.body(body, behind.len()) {
                behind.copy_from_slice(bytes);
            }
        }
    }

    /// A batch nobody else holds: the oldest one if it has come back, else a new one.
    fn take(&mut self) -> Option<BytesMut> {
        if self.in_flight.front().is_some_and(Bytes::is_unique)
            && let Some(batch) = self.in_flight.pop_front()
        {
            match batch.try_into_mut() {
                Ok(batch) => return Some(batch),
                // Not expected of a unique one; it is simply dropped.
                Err(_) => self.made -= 1,
            }
        }
        if self.made == self.made_max {
            return None;
        }
        self.made += 1;
        Some(self.fresh())
    }

    fn fresh(&self) -> BytesMut {
        let len = self.layout.message_len();
        let mut batch = BytesMut::zeroed(len * self.layout.per_batch);
        for (n, slot) in batch.chunks_exact_mut(len).enumerate() {
            let payload = &mut slot[HEADER_LEN..];
            let body_at = STAMP_LEN.min(payload.len());
            let body = &mut payload[body_at..];
            let from = (n % PATTERN_STEPS) as u16;
            if let Some(bytes) = self.pattern.body(from, body.len()) {
                body.copy_from_slice(bytes);
            }
        }
        batch
    }

    /// Messages in a full batch.
    pub fn per_batch(&self) -> usize {
        self.layout.per_batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caplane_wire::{HeaderRepr, Label};

    fn flows(count: u64, payload: usize) -> Vec<Flow> {
        (0..count)
            .map(|n| Flow {
                header: HeaderRepr {
                    flow: n,
                    payload_len: payload as u32,
                    requested_label: Label::class(1, 1, 0).expect("label"),
                    ..HeaderRepr::default()
                }
                .to_bytes(),
                sequence: 0,
            })
            .collect()
    }

    #[test]
    fn what_was_written_verifies_and_a_changed_byte_does_not() {
        for payload in [STAMP_LEN, 64, 1024] {
            let mut writer = MessageWriter::new(Layout::new(payload));
            let mut flows = flows(3, payload);
            let mut cursor = 0;
            let (bytes, written) = writer
                .write(&mut flows, &mut cursor, [10, 20, 30, 40].into_iter(), 50)
                .expect("a batch");
            assert_eq!((written, cursor), (4, 1));
            let pattern = Pattern::new(payload);
            for (n, message) in bytes.chunks(HEADER_LEN + payload).enumerate() {
                let stamp = Stamp::verify(message, &pattern).expect("intact");
                assert_eq!((stamp.due_ns, stamp.sent_ns), (10 + 10 * n as u64, 50));
                let header = Header::new_checked(message).expect("header");
                assert_eq!(header.flow(), n as u64 % 3);
                assert_eq!(header.sequence(), n as u32 / 3);
                for at in (16..message.len())
                    .filter(|at| *at != HEADER_LEN + 18 && *at != HEADER_LEN + 19)
                {
                    let mut changed = message.to_vec();
                    changed[at] ^= 0x40;
                    assert_eq!(Stamp::verify(&changed, &pattern), None, "byte {at}");
                }
            }
        }
    }

    #[test]
    fn messages_of_several_sizes_take_turns_over_batches() {
        let sizes = [64, 1_000, 24];
        let mut writer = MessageWriter::mixed(Layout::new(1_000), sizes.to_vec());
        let pattern = Pattern::new(1_000);
        let mut flows = flows(2, 0);
        let mut cursor = 0;
        let mut seen = Vec::new();
        while seen.len() < 300 {
            let due = (0..).map(|n| n + 10);
            let (bytes, written) = writer
                .write(&mut flows, &mut cursor, due.take(200), 50)
                .expect("a batch");
            let mut at = 0;
            for _ in 0..written {
                let len = Header::new_unchecked(&bytes[at..]).total_len();
                assert!(Stamp::verify(&bytes[at..at + len], &pattern).is_some());
                seen.push(len - HEADER_LEN);
                at += len;
            }
            assert_eq!(at, bytes.len());
        }
        assert!(seen.chunks_exact(3).all(|three| three == sizes), "{seen:?}");
    }

    #[test]
    fn batches_come_back_and_are_bounded() {
        let mut writer = MessageWriter::new(Layout::new(64));
        let mut flows = flows(1, 64);
        let mut cursor = 0;
        for _ in 0..5000 {
            writer
                .write(&mut flows, &mut cursor, std::iter::once(1), 1)
                .expect("dropped batches come back");
        }
        assert_eq!(writer.made, 1);
        let held: Vec<Bytes> = std::iter::from_fn(|| {
            writer
                .write(&mut flows, &mut cursor, std::iter::once(1), 1)
                .map(|(bytes, _)| bytes)
        })
        .collect();
        assert_eq!(held.len(), writer.made_max);
        assert!(held.len() > 900);
    }
}
