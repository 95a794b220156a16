//! The receiving side of one connection's streams: which are readable, and what each turns into.
//!
//! Streams are read one at a time, when the owner asks for the next event, so that a slab's bytes are consumed while they are
//! in the processor's cache. Refuses to know what messages mean.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;

use bytes::{Buf, BufMut, BytesMut};
use caplane_wire::control::{self, CONTROL_FRAME_MAX, LENGTH_PREFIX_MAX};
use caplane_wire::preface::PREFACE_LEN;
use caplane_wire::{CloseCode, Preface, StreamCode, StreamKind};

use crate::bulk::BulkState;
use crate::counters::Counters;
use crate::event::{BulkRx, Event, LaneRx, PeerId};
use crate::lanes::LaneState;
use crate::quic::Quic;
use crate::slab::Pools;
use crate::stream_ids::StreamIdMap;

/// The stream id of the control stream: the dialling side's first bidirectional stream.
pub(crate) const CONTROL_STREAM: u64 = 0;

/// Streams of one connection that are refused by STOP_SENDING. quiche 0.30 never lets go of a stream of the peer's that was
/// stopped before its end, nor of the peer's credit for it; so later ones are read to their end and dropped instead, and
/// refusals alone cannot use a connection up.
const STOPS_MAX: u32 = 64;

/// What reading needs beside the stream itself.
pub(crate) struct ReadContext<'a> {
    pub(crate) peer: PeerId,
    pub(crate) pools: &'a mut Pools,
    pub(crate) counters: &'a mut Counters,
    pub(crate) bulk_message_max: u64,
    pub(crate) slabs_max: usize,
    pub(crate) control_message_max: usize,
    /// Streams of this connection stopped so far.
    pub(crate) stops: u32,
    /// The stream being read was refused without being stopped: drop what still comes.
    pub(crate) discard: bool,
}

impl ReadContext<'_> {
    /// Refuses the rest of `stream`.
    pub(crate) fn refuse(&mut self, stream: u64, code: u64, quic: &mut Quic) {
        self.discard = !stop(quic, stream, code, &mut self.stops);
    }
}

/// What one step of reading came to.
pub(crate) enum Step {
    /// Something for the owner.
    Event(Event),
    /// Nothing from this stream now.
    Nothing,
    /// The stream is over and forgotten; perhaps with a last event.
    Over(Option<Event>),
    /// Every slab is in use: try again when some came back.
    Starved,
    /// The peer broke a rule of the connection.
    Fault(CloseCode, &'static str),
}

enum Receiving {
    /// The preface is not complete.
    Preface {
        bytes: [u8; PREFACE_LEN],
        have: usize,
    },
    Lane(LaneState),
    Bulk(BulkState),
    /// Refused: what comes is dropped.
    Discard,
}

/// All streams that a peer sends to us.
pub(crate) struct RxStreams {
    streams: StreamIdMap<Receiving>,
    /// Streams to be read, each at most once in here; lanes that are paused or out at the owner are left out.
    ready: VecDeque<u64>,
    /// Streams to be read again once slabs came back; the others go on meanwhile.
    starved: Vec<u64>,
    /// Slabs that lanes hold between reads, and lanes that wait for that to be fewer.
    slabs: usize,
    waiting: VecDeque<u64>,
    control: BytesMut,
    stops: u32,
}

impl RxStreams {
    pub(crate) fn new() -> Self {
        Self {
            streams: StreamIdMap::default(),
            ready: VecDeque::new(),
            starved: Vec::new(),
            slabs: 0,
            waiting: VecDeque::new(),
            control: BytesMut::new(),
            stops: 0,
        }
    }

    /// Notes that QUIC has something for `stream`; true when it is to be read.
    pub(crate) fn readable(&mut self, stream: u64) {
        if !self.ready.contains(&stream) {
            self.ready.push_back(stream);
        }
    }

    /// Puts the streams that found no slab back among those to be read.
    pub(crate) fn retry_starved(&mut self) {
        for stream in std::mem::take(&mut self.starved) {
            self.readable(stream);
        }
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Reads until there is an event or nothing more to read.
    pub(crate) fn next(&mut self, quic: &mut Quic, context: &mut ReadContext<'_>) -> Step {
        loop {
            if self.ready.is_empty() && self.slabs < context.slabs_max {
                self.ready.extend(self.waiting.pop_front());
            }
            let Some(stream) = self.ready.pop_front() else {
                return match self.starved.is_empty() {
                    true => Step::Nothing,
                    false => Step::Starved,
                };
            };
            match self.read(stream, quic, context) {
                Step::Nothing | Step::Over(None) => {}
                Step::Starved => self.starved.push(stream),
                step => return step,
            }
        }
    }

    fn read(&mut self, stream: u64, quic: &mut Quic, context: &mut ReadContext<'_>) -> Step {
        if stream & 0x2 == 0 {
            return if stream == CONTROL_STREAM {
                self.read_control(quic, context)
            } else {
                Step::Fault(
                    CloseCode::Protocol,
                    "a bidirectional stream other than the control stream",
                )
            };
        }
        let mut entry = match self.streams.entry(stream) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => entry.insert_entry(Receiving::Preface {
                bytes: [0; PREFACE_LEN],
                have: 0,
            }),
        };
        (context.stops, context.discard) = (self.stops, false);
        if let Receiving::Preface { bytes, have } = entry.get_mut() {
            match read_preface(stream, bytes, have, quic) {
                PrefaceRead::More => return Step::Nothing,
                PrefaceRead::Over => {
                    entry.remove();
                    return Step::Over(None);
                }
                PrefaceRead::Wrong => {
                    context.counters.streams_refused += 1;
                    context.refuse(stream, StreamCode::Malformed.number(), quic);
                    self.stops = context.stops;
                    if context.discard {
                        entry.insert(Receiving::Discard);
                        self.ready.push_back(stream);
                        return Step::Nothing;
                    }
                    entry.remove();
                    return Step::Over(None);
                }
                PrefaceRead::Is(preface) => {
                    entry.insert(match preface.kind {
                        StreamKind::Lane => Receiving::Lane(LaneState::new(preface.class)),
                        StreamKind::Bulk => Receiving::Bulk(BulkState::new(preface.class)),
                    });
                }
            }
        }
        let step = match entry.get_mut() {
            Receiving::Lane(lane) if !lane.holds_slab() && self.slabs >= context.slabs_max => {
                self.waiting.push_back(stream);
                Step::Nothing
            }
            Receiving::Lane(lane) => {
                let held = usize::from(lane.holds_slab());
                let step = lane.read(LaneRx(stream), quic, context);
                self.slabs = self.slabs + usize::from(lane.holds_slab()) - held;
                step
            }
            Receiving::Bulk(bulk) => bulk.read(BulkRx(stream), quic, context),
            Receiving::Discard => discard(stream, quic),
            Receiving::Preface { .. } => Step::Nothing,
        };
        self.stops = context.stops;
        match &step {
            Step::Over(_) if context.discard => {
                entry.insert(Receiving::Discard);
                self.ready.push_back(stream);
            }
            Step::Over(_) => {
                entry.remove();
            }
            // A bulk stream may have more; a lane is queued again when its rest comes back.
            Step::Event(Event::Bulk { .. }) => self.ready.push_back(stream),
            _ => {}
        }
        match step {
            Step::Over(Some(event)) => Step::Event(event),
            step => step,
        }
    }

    fn read_control(&mut self, quic: &mut Quic, context: &mut ReadContext<'_>) -> Step {
        loop {
            match control::frame(&self.control) {
                Ok(Some(range)) if range.len() > context.control_message_max => {
                    return Step::Fault(CloseCode::Protocol, "a control frame is too long");
                }
                Ok(Some(range)) => {
                    self.control.advance(range.start);
                    let message = self.control.split_to(range.end - range.start).freeze();
                    self.ready.push_front(CONTROL_STREAM);
                    return Step::Event(Event::Control {
                        peer: context.peer,
                        message,
                    });
                }
                Ok(None) => {}
                Err(_) => {
                    return Step::Fault(CloseCode::Protocol, "a control frame's length is wrong");
                }
            }
            let room = (CONTROL_FRAME_MAX + LENGTH_PREFIX_MAX).saturating_sub(self.control.len());
            match quic.stream_recv_buf(CONTROL_STREAM, (&mut self.control).limit(room)) {
                Ok((_, true)) => {
                    return Step::Fault(CloseCode::Protocol, "the control stream was ended");
                }
                Ok((0, false)) | Err(quiche::Error::Done) => break,
                Ok(_) => {}
                Err(quiche::Error::StreamReset(_)) => {
                    return Step::Fault(CloseCode::Protocol, "the control stream was reset");
                }
                Err(_) => break,
            }
        }
        if self.control.is_empty() {
            // An idle peer holds no buffer.
            self.control = BytesMut::new();
        }
        Step::Nothing
    }

    /// Takes back what the owner did not consume of a lane.
    pub(crate) fn lane_rest(
        &mut self,
        lane: LaneRx,
        rest: BytesMut,
        context: &mut ReadContext<'_>,
    ) -> Option<Event> {
        // The rest of a lane that is gone is dropped: its slab was written off.
        let Entry::Occupied(mut entry) = self.streams.entry(lane.0) else {
            return None;
        };
        let Receiving::Lane(state) = entry.get_mut() else {
            return None;
        };
        let held = usize::from(state.holds_slab());
        let end = state.take_rest(lane, rest, context);
        self.slabs = self.slabs + usize::from(state.holds_slab()) - held;
        if self.slabs < context.slabs_max {
            self.ready.extend(self.waiting.pop_front());
        }
        if let Some(event) = end {
            entry.remove();
            return Some(event);
        }
        if state.wants_reading() {
            self.readable(lane.0);
        }
        None
    }

    /// Stops or starts the reading of a lane or bulk stream.
    pub(crate) fn set_paused(&mut self, stream: u64, paused: bool) {
        let wants = match self.streams.get_mut(&stream) {
            Some(Receiving::Lane(lane)) => lane.set_paused(paused),
            Some(Receiving::Bulk(bulk)) => bulk.set_paused(paused),
            _ => false,
        };
        if wants {
            self.readable(stream);
        }
    }

    /// Refuses the rest of a stream.
    pub(crate) fn refuse(&mut self, stream: u64, code: u64, quic: &mut Quic, pools: &mut Pools) {
        match self.streams.remove(&stream) {
            Some(Receiving::Lane(lane)) => {
                self.slabs -= usize::from(lane.holds_slab());
                lane.release(&mut pools.lanes);
                self.ready.extend(self.waiting.pop_front());
            }
            Some(Receiving::Bulk(bulk)) => bulk.release(&mut pools.bulk),
            Some(Receiving::Preface { .. }) => {}
            Some(Receiving::Discard) | None => return,
        }
        if !stop(quic, stream, code, &mut self.stops) {
            self.streams.insert(stream, Receiving::Discard);
            self.readable(stream);
        }
    }

    /// True when the lane holds a tail in a slab and that was not known yet.
    pub(crate) fn note_tail(&mut self, lane: LaneRx) -> bool {
        match self.streams.get_mut(&lane.0) {
            Some(Receiving::Lane(state)) => state.note_tail(),
            _ => false,
        }
    }

    /// Moves the unfinished tail of an idle lane out of its slab; true when the lane was not idle and is to be looked at again.
    pub(crate) fn compact(&mut self, lane: LaneRx, context: &mut ReadContext<'_>) -> bool {
        match self.streams.get_mut(&lane.0) {
            Some(Receiving::Lane(state)) => {
                let held = usize::from(state.holds_slab());
                let again = state.compact(context);
                if held > usize::from(state.holds_slab()) {
                    self.slabs -= 1;
                    self.ready.extend(self.waiting.pop_front());
                }
                again
            }
            _ => false,
        }
    }

    /// The ends of the lanes that the end of the connection cuts inside a message.
    pub(crate) fn cut_lanes(&self, peer: PeerId) -> Vec<Event> {
        let cut = |(stream, receiving): (&u64, &Receiving)| match receiving {
            Receiving::Lane(lane) if lane.holds_part() => Some(Event::LaneEnd {
                peer,
                lane: LaneRx(*stream),
                partial: true,
                code: None,
            }),
            _ => None,
        };
        self.streams.iter().filter_map(cut).collect()
    }

    /// Gives every slab back: the connection is gone.
    pub(crate) fn release(&mut self, pools: &mut Pools) {
        for (_, receiving) in self.streams.drain() {
            match receiving {
                Receiving::Lane(lane) => lane.release(&mut pools.lanes),
                Receiving::Bulk(bulk) => bulk.release(&mut pools.bulk),
                Receiving::Preface { .. } | Receiving::Discard => {}
            }
        }
        self.ready.clear();
        self.starved.clear();
    }
}

enum PrefaceRead {
    More,
    Is(Preface),
    Wrong,
    Over,
}

fn read_preface(
    stream: u64,
    bytes: &mut [u8; PREFACE_LEN],
    have: &mut usize,
    quic: &mut Quic,
) -> PrefaceRead {
    while *have < PREFACE_LEN {
        match quic.stream_recv(stream, &mut bytes[*have..]) {
            Ok((read, fin)) => {
                *have += read;
                if fin {
                    return PrefaceRead::Over;
                }
            }
            Err(quiche::Error::Done) => return PrefaceRead::More,
            Err(_) => return PrefaceRead::Over,
        }
    }
    match Preface::parse(bytes) {
        Ok(Some(preface)) => PrefaceRead::Is(preface),
        _ => PrefaceRead::Wrong,
    }
}

/// Drops what has come on a refused stream.
fn discard(stream: u64, quic: &mut Quic) -> Step {
    loop {
        match quic.stream_discard(stream, usize::MAX) {
            Ok((_, true)) => return Step::Over(None),
            Ok((0, false)) | Err(quiche::Error::Done) => return Step::Nothing,
            Ok(_) => {}
            Err(_) => return Step::Over(None),
        }
    }
}

/// Asks the peer to stop sending on a stream; false when that was done [`STOPS_MAX`] times.
fn stop(quic: &mut Quic, stream: u64, code: u64, stops: &mut u32) -> bool {
    if *stops == STOPS_MAX {
        return false;
    }
    *stops += 1;
    // The only error is that the stream is gone already.
    let _ = quic.stream_shutdown(stream, quiche::Shutdown::Read, code);
    true
}
