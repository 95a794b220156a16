//! One lane that a peer sends to us: QUIC's receive call writes straight into a slab, and nothing is copied after that.
//!
//! How a message never straddles two slabs: a slab is read freely while more than [`FINISH_BYTES`] of it are free. After
//! that only the message begun is read, exactly to its end, for which there is always room, since no message of a lane is
//! longer. Then the next slab is taken. So a lane's bytes are copied only when an idle lane's tail is moved out of its slab,
//! and back when the lane goes on; both are counted. Lengths of messages are looked at once or twice per slab.

use bytes::{BufMut, BytesMut};
use caplane_wire::{
    FrameError, HEADER_LEN, LANE_MESSAGE_MAX, StreamCode, TrafficClass, message_len,
};

use crate::event::{Event, LaneRx};
use crate::quic::Quic;
use crate::rx::{ReadContext, Step};
use crate::slab::{FINISH_BYTES, SlabPool};

#[derive(Debug)]
pub(crate) struct LaneState {
    class: TrafficClass,
    /// The unconsumed tail, with the slab's spare capacity behind it.
    buffer: BytesMut,
    /// The buffer (also while it is out) lies in a slab of the pool.
    slab: bool,
    /// The buffer is at the owner, who has not given the rest back.
    out: bool,
    paused: bool,
    /// QUIC may have more bytes than were read.
    more: bool,
    /// Whole messages may lie in the buffer unconsumed: tell the owner again.
    again: bool,
    /// How often bytes were handed over, and how often when the tail was last noted as one that may turn idle.
    handed: u32,
    noted: Option<u32>,
    /// The lane has ended: `Some(None)` by FIN, `Some(Some(code))` by a reset.
    end: Option<Option<u64>>,
}

/// What to do before the next read.
enum Want {
    /// Read freely, at most this many bytes.
    Free(usize),
    /// Read this many bytes towards the end of the message begun.
    Finish(usize),
    /// Take a new slab.
    Slab,
    /// Let the owner consume what is there.
    Consumption,
    /// Refuse the stream: what is there is no message of a lane.
    Fault(StreamCode),
}

impl LaneState {
    pub(crate) fn new(class: TrafficClass) -> Self {
        Self {
            class,
            buffer: BytesMut::new(),
            slab: false,
            out: false,
            paused: false,
            more: false,
            again: false,
            handed: 0,
            noted: None,
            end: None,
        }
    }

    /// Reads what may be read now.
    pub(crate) fn read(
        &mut self,
        lane: LaneRx,
        quic: &mut Quic,
        context: &mut ReadContext<'_>,
    ) -> Step {
        if self.out || self.paused {
            self.more = true;
            return Step::Nothing;
        }
        let before = self.buffer.len();
        self.more = false;
        while self.end.is_none() {
            let (room, free) = match self.want() {
                Want::Free(room) => (room, true),
                Want::Finish(room) => (room, false),
                Want::Slab if self.next_slab(context) => continue,
                Want::Slab => {
                    self.more = true;
                    return Step::Starved;
                }
                Want::Consumption => {
                    (self.more, self.again) = (true, true);
                    break;
                }
                Want::Fault(code) => return self.fault(lane, code, quic, context),
            };
            match quic.stream_recv_buf(lane.0, (&mut self.buffer).limit(room)) {
                Ok((_, true)) => self.end = Some(None),
                Ok((read, false)) if read < room => break,
                // The owner consumes the whole messages first; then the finishing zone holds one tail only.
                Ok(_) if free => {
                    self.more = true;
                    break;
                }
                Ok(_) => {}
                Err(quiche::Error::StreamReset(code)) => self.end = Some(Some(code)),
                Err(_) => break,
            }
        }
        let read = self.buffer.len() - before;
        context.counters.lane_bytes_received += read as u64;
        if read > 0 || (self.again && !self.buffer.is_empty()) {
            (self.again, self.out) = (false, true);
            self.handed = self.handed.wrapping_add(1);
            return Step::Event(Event::Lane {
                peer: context.peer,
                lane,
                class: self.class,
                data: std::mem::take(&mut self.buffer),
            });
        }
        self.settle(lane, context)
    }

    fn want(&self) -> Want {
        let room = self.buffer.capacity() - self.buffer.len();
        if room > FINISH_BYTES {
            return Want::Free(room - FINISH_BYTES);
        }
        if self.buffer.is_empty() {
            return Want::Slab;
        }
        let mut begun = &self.buffer[..];
        let missing = loop {
            match message_len(begun, LANE_MESSAGE_MAX) {
                Ok(None) if begun.is_empty() => return Want::Consumption,
                Ok(None) => break HEADER_LEN - begun.len(),
                Ok(Some(length)) if length <= begun.len() => begun = &begun[length..],
                Ok(Some(length)) => break length - begun.len(),
                Err(FrameError::TooLarge { .. }) => return Want::Fault(StreamCode::TooLarge),
                Err(_) => return Want::Fault(StreamCode::Malformed),
            }
        };
        if missing <= room {
            Want::Finish(missing)
        } else if begun.len() == self.buffer.len() {
            Want::Slab
        } else {
            Want::Consumption
        }
    }

    /// Moves on to a new slab, with the tail if there is one; false when none is to be had.
    fn next_slab(&mut self, context: &mut ReadContext<'_>) -> bool {
        let Some(mut slab) = context.pools.lanes.take() else {
            return false;
        };
        slab.extend_from_slice(&self.buffer);
        context.counters.copied_bytes += self.buffer.len() as u64;
        self.give(&mut context.pools.lanes);
        (self.buffer, self.slab) = (slab, true);
        true
    }

    fn fault(
        &mut self,
        lane: LaneRx,
        code: StreamCode,
        quic: &mut Quic,
        context: &mut ReadContext<'_>,
    ) -> Step {
        context.counters.streams_refused += 1;
        let code = code.number();
        context.refuse(lane.0, code, quic);
        self.end = Some(Some(code));
        self.settle(lane, context)
    }

    /// Ends the lane if it has ended, else lets go of a slab it does not need.
    fn settle(&mut self, lane: LaneRx, context: &mut ReadContext<'_>) -> Step {
        let partial = !self.buffer.is_empty();
        let step = match self.end {
            Some(code) => Step::Over(Some(Event::LaneEnd {
                peer: context.peer,
                lane,
                partial,
                code,
            })),
            None => Step::Nothing,
        };
        if !partial || self.end.is_some() {
            // An idle lane holds no slab; whoever reads next continues in this one.
            self.give(&mut context.pools.lanes);
        }
        step
    }

    /// Takes the rest back; an event when that was the lane's end.
    pub(crate) fn take_rest(
        &mut self,
        lane: LaneRx,
        rest: BytesMut,
        context: &mut ReadContext<'_>,
    ) -> Option<Event> {
        self.out = false;
        self.buffer = rest;
        if self.paused && !self.buffer.is_empty() {
            self.again = true;
            return None;
        }
        match self.settle(lane, context) {
            Step::Over(event) => event,
            _ => None,
        }
    }

    /// True when the lane holds a slab of the pool, also while that is out.
    pub(crate) fn holds_slab(&self) -> bool {
        self.slab
    }

    /// True when the lane is to be read again at once.
    pub(crate) fn wants_reading(&self) -> bool {
        self.more && !self.paused && !self.out
    }

    /// True when the lane holds an unfinished message in a slab, and that was not noted yet.
    pub(crate) fn note_tail(&mut self) -> bool {
        let new = self.noted.is_none() && self.holds_tail();
        if new {
            self.noted = Some(self.handed);
        }
        new
    }

    /// True when bytes of an unfinished message are here.
    pub(crate) fn holds_part(&self) -> bool {
        !self.out && !self.buffer.is_empty()
    }

    fn holds_tail(&self) -> bool {
        self.slab && self.holds_part()
    }

    /// Pauses or resumes; true when the lane is to be read now.
    pub(crate) fn set_paused(&mut self, paused: bool) -> bool {
        self.paused = paused;
        !paused && !self.out && (self.more || self.again || self.end.is_some())
    }

    /// Moves the tail into memory of its own size when nothing came since it was noted, so that an idle lane pins no more
    /// memory than it has bytes. True when it must be noted again.
    pub(crate) fn compact(&mut self, context: &mut ReadContext<'_>) -> bool {
        let noted = self.noted.take();
        if !self.holds_tail() {
            // While it is out the owner will give a rest back, and that is noted anew.
            return false;
        }
        if noted != Some(self.handed) {
            return self.note_tail();
        }
        if self.buffer.len() > FINISH_BYTES {
            // Whole messages that a paused owner left: moving them would save next to nothing.
            return false;
        }
        let own = BytesMut::from(&self.buffer[..]);
        context.counters.copied_bytes += own.len() as u64;
        self.give(&mut context.pools.lanes);
        self.buffer = own;
        false
    }

    fn give(&mut self, pool: &mut SlabPool) {
        let buffer = std::mem::take(&mut self.buffer);
        if std::mem::take(&mut self.slab) {
            pool.give(buffer);
        }
    }

    /// The stream is gone: the slab goes back, or is written off when the owner still holds it.
    pub(crate) fn release(mut self, pool: &mut SlabPool) {
        if self.out && self.slab {
            pool.write_off();
        } else {
            self.give(pool);
        }
    }
}
