//! One bulk stream that a peer sends to us: a single long message, handed on chunk by chunk as it arrives.
//!
//! The first chunk holds the whole header and its extensions, so that the owner can decide where the rest goes. The length
//! in the header is binding: more or fewer bytes end the stream with a code.

use bytes::{BufMut, BytesMut};
use caplane_wire::{BulkLength, FrameError, HEADER_LEN, Header, StreamCode, TrafficClass};

use crate::event::{BulkRx, Event};
use crate::quic::Quic;
use crate::rx::{ReadContext, Step};
use crate::slab::SlabPool;

#[derive(Debug)]
pub(crate) struct BulkState {
    class: TrafficClass,
    /// The account of the message's length; `None` before the header is complete.
    length: Option<BulkLength>,
    /// The header as far as it has come, in its slab; empty once it was handed on.
    head: BytesMut,
    paused: bool,
    more: bool,
}

impl BulkState {
    pub(crate) fn new(class: TrafficClass) -> Self {
        Self {
            class,
            length: None,
            head: BytesMut::new(),
            paused: false,
            more: false,
        }
    }

    /// Reads the next chunk.
    pub(crate) fn read(
        &mut self,
        bulk: BulkRx,
        quic: &mut Quic,
        context: &mut ReadContext<'_>,
    ) -> Step {
        if self.paused {
            self.more = true;
            return Step::Nothing;
        }
        let mut buffer = std::mem::take(&mut self.head);
        if buffer.capacity() == 0 {
            match context.pools.bulk.take() {
                Some(slab) => buffer = slab,
                None => return Step::Starved,
            }
        }
        let room = buffer.capacity() - buffer.len();
        match quic.stream_recv_buf(bulk.0, (&mut buffer).limit(room)) {
            Ok((read, fin)) => {
                context.counters.bulk_bytes_received += read as u64;
                self.chunk(bulk, buffer, read, fin, quic, context)
            }
            Err(quiche::Error::StreamReset(code)) => {
                context.pools.bulk.give(buffer);
                over(bulk, code, context)
            }
            Err(_) => {
                self.keep(buffer, &mut context.pools.bulk);
                Step::Nothing
            }
        }
    }

    fn chunk(
        &mut self,
        bulk: BulkRx,
        mut buffer: BytesMut,
        read: usize,
        fin: bool,
        quic: &mut Quic,
        context: &mut ReadContext<'_>,
    ) -> Step {
        let known = match &mut self.length {
            Some(length) => length.advance(read).map(|()| true),
            None => self.begin(&buffer, context.bulk_message_max),
        };
        let known = match known {
            Ok(known) => known,
            Err(error) => {
                context.pools.bulk.give(buffer);
                return refuse(bulk, &error, quic, context);
            }
        };
        let complete = self.length.is_some_and(|length| length.finish().is_ok());
        if fin && !complete {
            context.pools.bulk.give(buffer);
            return over(bulk, StreamCode::CutShort.number(), context);
        }
        if !known || (read == 0 && !fin) {
            self.keep(buffer, &mut context.pools.bulk);
            return Step::Nothing;
        }
        let data = buffer.split();
        context.pools.bulk.give(buffer);
        let event = Event::Bulk {
            peer: context.peer,
            bulk,
            class: self.class,
            data,
            fin,
        };
        if fin {
            Step::Over(Some(event))
        } else {
            Step::Event(event)
        }
    }

    /// Begins the account when the header and its extensions are there; true when they are.
    fn begin(&mut self, bytes: &[u8], limit: u64) -> Result<bool, FrameError> {
        let Some(mut length) = BulkLength::begin(bytes, limit as usize)? else {
            return Ok(false);
        };
        let head = HEADER_LEN + usize::from(Header::new_unchecked(bytes).extension_len());
        if bytes.len() < head {
            return Ok(false);
        }
        length.advance(bytes.len())?;
        self.length = Some(length);
        Ok(true)
    }

    fn keep(&mut self, buffer: BytesMut, pool: &mut SlabPool) {
        if buffer.is_empty() {
            pool.give(buffer);
        } else {
            self.head = buffer;
        }
    }

    /// Pauses or resumes; true when the stream is to be read now.
    pub(crate) fn set_paused(&mut self, paused: bool) -> bool {
        self.paused = paused;
        !paused && std::mem::take(&mut self.more)
    }

    /// The stream is gone: its slab goes back.
    pub(crate) fn release(self, pool: &mut SlabPool) {
        if self.head.capacity() > 0 {
            pool.give(self.head);
        }
    }
}

fn over(bulk: BulkRx, code: u64, context: &ReadContext<'_>) -> Step {
    Step::Over(Some(Event::BulkReset {
        peer: context.peer,
        bulk,
        code,
    }))
}

fn refuse(
    bulk: BulkRx,
    error: &FrameError,
    quic: &mut Quic,
    context: &mut ReadContext<'_>,
) -> Step {
    context.counters.streams_refused += 1;
    let code = match error {
        FrameError::TooLarge { .. } => StreamCode::TooLarge,
        _ => StreamCode::Malformed,
    }
    .number();
    context.refuse(bulk.0, code, quic);
    over(bulk, code, context)
}
