//! The sending side of one connection's streams: lanes and bulk streams that we opened, and the control stream.
//!
//! QUIC takes as many bytes as the congestion window and the peer's flow control allow. What it does not take waits here,
//! one remainder per stream, so a slow peer's queue stays with the owner, who knows what may be dropped.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use caplane_wire::control::LengthPrefix;
use caplane_wire::{Preface, StreamCode, StreamKind, TrafficClass};

use crate::error::SendError;
use crate::event::{BulkTx, Event, LaneTx, PeerId};
use crate::quic::{Ledger, Quic, StreamBytes, StreamLedger};
use crate::rx::CONTROL_STREAM;
use crate::stream_ids::StreamIdMap;

/// Bytes of control frames that may wait: a few of the longest.
const CONTROL_QUEUE_BYTES: usize = 4 * caplane_wire::control::CONTROL_FRAME_MAX;

#[derive(Debug)]
struct Sending {
    kind: StreamKind,
    urgency: u8,
    pending: Bytes,
    /// Messages whose last byte is among the pending ones.
    messages: u32,
    /// FIN is to follow the pending bytes.
    fin: bool,
    /// The peer stopped it with this code; its event is still to come.
    stopped: Option<u64>,
    /// Held by every buffer of it that is not acknowledged.
    ledger: Arc<StreamLedger>,
    /// Behind all others until it is written to again; see [`TxStreams::park_acknowledged`].
    parked: bool,
}

/// All streams that we send to a peer.
pub(crate) struct TxStreams {
    streams: StreamIdMap<Sending>,
    next: u64,
    /// Streams with a remainder, most urgent class first; of one class, who waits longest first.
    blocked: Vec<(u8, u64)>,
    /// The owner was told that no more streams are allowed.
    wants_streams: bool,
    /// A stream was found stopped whose event is still to come.
    stop_seen: bool,
    control: BytesMut,
    control_ledger: Arc<StreamLedger>,
    ledger: Arc<Ledger>,
    /// Stream bytes that QUIC had set to be sent again when that was last looked at.
    repeated_bytes: u64,
    /// Streams that QUIC may hold up others for; see [`TxStreams::park_acknowledged`].
    suspects: Vec<u64>,
}

/// The urgency of a stream that QUIC has nothing to send of.
const PARKED: u8 = u8::MAX;

/// QUIC sends streams of lower urgency first: the control stream, then priority 7 down to 0.
fn urgency(class: TrafficClass) -> u8 {
    8 + (TrafficClass::PRIORITY_MAX - class.priority())
}

impl TxStreams {
    pub(crate) fn new(dialled: bool) -> Self {
        let ledger = Arc::default();
        Self {
            streams: StreamIdMap::default(),
            next: if dialled { 2 } else { 3 },
            blocked: Vec::new(),
            wants_streams: false,
            stop_seen: false,
            control: BytesMut::new(),
            control_ledger: StreamLedger::of(&ledger),
            ledger,
            repeated_bytes: 0,
            suspects: Vec::new(),
        }
    }

    /// True when everything written has been acknowledged.
    pub(crate) fn acknowledged(&self) -> bool {
        !self.unacknowledged() && self.blocked.is_empty() && self.control.is_empty()
    }

    /// True when QUIC holds bytes that are not acknowledged.
    pub(crate) fn unacknowledged(&self) -> bool {
        !self.ledger.is_empty()
    }

    /// Messages taken for sending and not acknowledged.
    pub(crate) fn unacknowledged_messages(&self) -> u64 {
        self.ledger.messages()
    }

    pub(crate) fn open(
        &mut self,
        kind: StreamKind,
        class: TrafficClass,
        quic: &mut Quic,
    ) -> Result<u64, SendError> {
        if quic.peer_streams_left_uni() == 0 {
            self.wants_streams = true;
            return Err(SendError::StreamLimit);
        }
        let stream = self.next;
        // Creates the stream. Incremental: streams of one class share the connection packet by packet.
        quic.stream_priority(stream, urgency(class), true)
            .map_err(|_| SendError::StreamLimit)?;
        self.next += 4;
        self.streams.insert(
            stream,
            Sending {
                kind,
                urgency: urgency(class),
                pending: Bytes::new(),
                messages: 0,
                fin: false,
                stopped: None,
                ledger: StreamLedger::of(&self.ledger),
                parked: false,
            },
        );
        let preface = Preface { kind, class }.to_bytes();
        self.write(stream, Bytes::copy_from_slice(&preface), 0, quic)?;
        Ok(stream)
    }

    /// True when `send` would take bytes.
    pub(crate) fn ready(&self, stream: u64) -> bool {
        self.streams
            .get(&stream)
            .is_some_and(|sending| sending.pending.is_empty() && !sending.fin)
    }

    /// Takes all of `data`, with which so many `messages` end, or nothing.
    pub(crate) fn send(
        &mut self,
        stream: u64,
        data: Bytes,
        messages: u32,
        fin: bool,
        quic: &mut Quic,
    ) -> Result<(), SendError> {
        let sending = self.streams.get_mut(&stream).ok_or(SendError::Closed)?;
        if sending.fin {
            return Err(SendError::Closed);
        }
        if !sending.pending.is_empty() {
            // An end without bytes may wait behind the remainder.
            if !(data.is_empty() && fin) {
                return Err(SendError::Busy);
            }
            sending.fin = true;
            return Ok(());
        }
        sending.fin = fin;
        self.write(stream, data, messages, quic)
    }

    /// Gives QUIC what it takes of `data` and keeps the rest.
    fn write(
        &mut self,
        stream: u64,
        data: Bytes,
        messages: u32,
        quic: &mut Quic,
    ) -> Result<(), SendError> {
        let Some(sending) = self.streams.get_mut(&stream) else {
            return Err(SendError::Closed);
        };
        sending.pending = data;
        sending.messages = messages;
        self.ledger.add(messages);
        match push(stream, sending, quic) {
            Push::Done => {}
            Push::Blocked => {
                self.blocked.push((sending.urgency, stream));
                self.blocked.sort_by_key(|&(urgency, _)| urgency);
            }
            Push::Finished => {
                self.streams.remove(&stream);
            }
            // The owner hears of a stop by its own event.
            Push::Stopped => {
                self.stop_seen = true;
                return Err(SendError::Closed);
            }
        }
        Ok(())
    }

    /// Tries again what QUIC did not take; true when the owner should be told that there is room.
    pub(crate) fn retry(&mut self, quic: &mut Quic) -> bool {
        let mut freed = false;
        self.flush_control(quic);
        let streams = &mut self.streams;
        self.blocked.retain(|(_, stream)| {
            let Some(sending) = streams.get_mut(stream) else {
                return false;
            };
            match push(*stream, sending, quic) {
                Push::Blocked => true,
                Push::Done => {
                    freed = true;
                    false
                }
                Push::Stopped => {
                    self.stop_seen = true;
                    freed = true;
                    false
                }
                Push::Finished => {
                    streams.remove(stream);
                    freed = true;
                    false
                }
            }
        });
        if self.wants_streams && quic.peer_streams_left_uni() > 0 {
            self.wants_streams = false;
            freed = true;
        }
        freed
    }

    /// Keeps streams of which QUIC has nothing to send from holding up others; to be called when packets came.
    ///
    /// QUIC 0.30 puts a stream whose bytes it believes lost on its list of streams to send, and leaves it there when they are
    /// acknowledged after all. The stream then takes its turn, with nothing to send, before every stream of less urgency, until
    /// it is written to again: they stand still, maybe for ever. So when bytes were to be sent again, each stream of which
    /// everything is acknowledged goes behind all others until it has something to send.
    pub(crate) fn park_acknowledged(&mut self, quic: &mut Quic) {
        let repeated_bytes = quic.stats().stream_retrans_bytes;
        if repeated_bytes != self.repeated_bytes {
            self.repeated_bytes = repeated_bytes;
            self.suspects.clear();
            self.suspects.extend(self.streams.keys());
            if quic.stream_capacity(CONTROL_STREAM).is_ok() {
                self.suspects.push(CONTROL_STREAM);
            }
        }
        let (streams, control) = (&mut self.streams, &self.control_ledger);
        self.suspects.retain(|stream| {
            let sending = streams.get_mut(stream);
            let ledger = match &sending {
                Some(sending) => &sending.ledger,
                None if *stream == CONTROL_STREAM => control,
                None => return false,
            };
            if !StreamLedger::is_empty(ledger) {
                return true;
            }
            // Whoever writes to it next gives it its urgency back.
            let _ = quic.stream_priority(*stream, PARKED, sending.is_some());
            sending
                .into_iter()
                .for_each(|sending| sending.parked = true);
            false
        });
    }

    /// Streams that are open for sending.
    pub(crate) fn open_count(&self) -> usize {
        self.streams.len()
    }

    /// True when `take_stopped` has something to tell, however short its last look is ago.
    pub(crate) fn has_stopped(&self) -> bool {
        self.stop_seen
    }

    /// Finds the streams that the peer stopped (STOP_SENDING); QUIC has answered with a reset. Looks at every open stream,
    /// so it is called now and then only.
    pub(crate) fn take_stopped(&mut self, peer: PeerId, quic: &mut Quic) -> Vec<Event> {
        let mut events = Vec::new();
        self.stop_seen = false;
        self.streams.retain(|stream, sending| {
            let code = match (sending.stopped, quic.stream_capacity(*stream)) {
                (Some(code), _) | (None, Err(quiche::Error::StreamStopped(code))) => code,
                // Forgotten by QUIC although we did not end it: it was stopped and the code went by unseen.
                (None, Err(_)) => StreamCode::Refused.number(),
                (None, Ok(_)) => return true,
            };
            events.push(match sending.kind {
                StreamKind::Lane => Event::LaneStopped {
                    peer,
                    lane: LaneTx(*stream),
                    code,
                },
                StreamKind::Bulk => Event::BulkStopped {
                    peer,
                    bulk: BulkTx(*stream),
                    code,
                },
            });
            false
        });
        events
    }

    pub(crate) fn reset(&mut self, stream: u64, code: u64, quic: &mut Quic) {
        if self.streams.remove(&stream).is_some() {
            let _ = quic.stream_shutdown(stream, quiche::Shutdown::Write, code);
        }
    }

    /// Queues one frame on the control stream.
    pub(crate) fn send_control(
        &mut self,
        message: &[u8],
        quic: &mut Quic,
    ) -> Result<(), SendError> {
        let prefix = LengthPrefix::new(message.len()).map_err(|_| SendError::TooLarge {
            max: caplane_wire::control::CONTROL_FRAME_MAX,
        })?;
        let length = prefix.as_bytes().len() + message.len();
        if self.control.len() + length > CONTROL_QUEUE_BYTES {
            return Err(SendError::Full);
        }
        self.control.reserve(length);
        self.control.put_slice(prefix.as_bytes());
        self.control.put_slice(message);
        self.flush_control(quic);
        Ok(())
    }

    fn flush_control(&mut self, quic: &mut Quic) {
        if self.control.is_empty() {
            return;
        }
        // Creates the stream on the dialling side; on the other it fails until the peer has opened it.
        let _ = quic.stream_priority(CONTROL_STREAM, 0, false);
        let Ok(capacity) = quic.stream_capacity(CONTROL_STREAM) else {
            return;
        };
        let taken = capacity.min(self.control.len());
        if taken == 0 {
            return;
        }
        let bytes = self.control.split_to(taken).freeze();
        let bytes = StreamBytes::new(bytes, &self.control_ledger, 0);
        // Within the capacity QUIC takes all; a stream error closes the connection by another path.
        let _ = quic.stream_send_zc(CONTROL_STREAM, bytes, false);
        if self.control.is_empty() {
            self.control = BytesMut::new();
        }
    }
}

enum Push {
    Done,
    Finished,
    Blocked,
    /// By the peer; `stopped` tells the owner.
    Stopped,
}

/// Gives QUIC as much of a stream's pending bytes as it takes.
fn push(stream: u64, sending: &mut Sending, quic: &mut Quic) -> Push {
    let capacity = match quic.stream_capacity(stream) {
        Ok(capacity) => capacity,
        Err(error) => {
            sending.pending = Bytes::new();
            // QUIC says it once and forgets the stream.
            sending.stopped = Some(match error {
                quiche::Error::StreamStopped(code) => code,
                _ => StreamCode::Refused.number(),
            });
            return Push::Stopped;
        }
    };
    // Never offer more than the capacity: QUIC drops what it refuses.
    let taken = capacity.min(sending.pending.len());
    let last = taken == sending.pending.len();
    if taken > 0 || (last && sending.fin) {
        let bytes = if last {
            std::mem::take(&mut sending.pending)
        } else {
            sending.pending.split_to(taken)
        };
        let messages = if last {
            std::mem::take(&mut sending.messages)
        } else {
            0
        };
        if std::mem::take(&mut sending.parked) {
            let _ = quic.stream_priority(stream, sending.urgency, true);
        }
        let bytes = StreamBytes::new(bytes, &sending.ledger, messages);
        let sent = quic.stream_send_zc(stream, bytes, last && sending.fin);
        if sent.is_err() {
            return Push::Finished;
        }
    }
    match (last, sending.fin) {
        (true, true) => Push::Finished,
        (true, false) => Push::Done,
        (false, _) => Push::Blocked,
    }
}
