//! The receiving side of one link: messages off lanes, bulk streams and datagrams into the application's queue, as far as
//! it has room. What finds no room stays where it is, and its stream is not read on: flow control does the rest.

use std::collections::HashMap;

use bytes::BytesMut;
use caplane_transport::{BulkRx, Endpoint, LaneRx, PeerId, TrafficClass};
use caplane_wire::{FrameError, Header, LANE_MESSAGE_MAX, StreamCode, framing, message_len};

use crate::command::Ticket;
use crate::inbox::Level;
use crate::protocol::{CarriedBy, Disposition, Messenger, Now, Received};

/// The application's queue during one tick.
pub(crate) struct Desk {
    /// What the tick delivered so far.
    pub(crate) batch: Vec<Received>,
    /// How full the queue was when the tick began, and what the tick added.
    pub(crate) level: Level,
    pub(crate) max: Level,
}

impl Desk {
    fn offer(
        &mut self,
        now: Now,
        messenger: &mut Messenger<Ticket>,
        carried_by: CarriedBy,
        buffer: &mut BytesMut,
        total: usize,
    ) -> bool {
        let room = self.level.has_room(&self.max);
        match messenger.receive(now, carried_by, buffer, total, room) {
            Disposition::Deliver(received) => {
                self.level.add(received.payload.len());
                self.batch.push(received);
                true
            }
            Disposition::Consumed => true,
            Disposition::NoRoom => false,
        }
    }
}

struct Assembly {
    class: TrafficClass,
    buffer: BytesMut,
    total: usize,
    /// Room for all of it is set aside; otherwise the stream waits.
    reserved: bool,
}

pub(crate) struct Reader {
    peer: PeerId,
    /// Lanes that begin with a message for which there was no room.
    held: Vec<(LaneRx, TrafficClass, BytesMut)>,
    assemblies: HashMap<BulkRx, Assembly>,
    /// Whole bulk messages for which there was no room.
    complete: Vec<BytesMut>,
    /// Bytes set aside for bulk messages.
    reserved: usize,
    reserved_max: usize,
    bulk_message_max: usize,
}

impl Reader {
    pub(crate) fn new(peer: PeerId, reserved_max: usize, bulk_message_max: usize) -> Self {
        Self {
            peer,
            held: Vec::new(),
            assemblies: HashMap::new(),
            complete: Vec::new(),
            reserved: 0,
            reserved_max,
            bulk_message_max,
        }
    }

    /// Whether something waits for room in the application's queue.
    pub(crate) fn is_held(&self) -> bool {
        !self.held.is_empty() || !self.complete.is_empty()
    }

    /// Offers again what found no room.
    pub(crate) fn retry(
        &mut self,
        now: Now,
        desk: &mut Desk,
        messenger: &mut Messenger<Ticket>,
        endpoint: &mut Endpoint,
    ) {
        for (lane, class, data) in std::mem::take(&mut self.held) {
            self.lane(now, lane, class, data, desk, messenger, endpoint);
        }
        for buffer in std::mem::take(&mut self.complete) {
            self.finish(now, buffer, desk, messenger, endpoint);
        }
    }

    /// Takes the whole messages off the front of a lane's bytes.
    #[allow(
        clippy::too_many_arguments,
        reason = "the parts of the thread, borrowed one by one"
    )]
    pub(crate) fn lane(
        &mut self,
        now: Now,
        lane: LaneRx,
        class: TrafficClass,
        mut data: BytesMut,
        desk: &mut Desk,
        messenger: &mut Messenger<Ticket>,
        endpoint: &mut Endpoint,
    ) {
        loop {
            match whole_message(&data, class) {
                Ok(Some(total)) => {
                    if !desk.offer(now, messenger, CarriedBy::Lane, &mut data, total) {
                        // Not given back, so the lane is not read.
                        self.held.push((lane, class, data));
                        return;
                    }
                }
                Ok(None) => return endpoint.lane_rest(self.peer, lane, data),
                Err(error) => {
                    tracing::warn!(event = "lane_refused", %error, "the router broke the protocol on a lane");
                    let code = refusal(&error);
                    return endpoint.reset_rx(self.peer, lane.stream_id(), code.number());
                }
            }
        }
    }

    /// Takes the next bytes of a bulk stream.
    #[allow(
        clippy::too_many_arguments,
        reason = "the parts of the thread, borrowed one by one"
    )]
    pub(crate) fn bulk(
        &mut self,
        now: Now,
        bulk: BulkRx,
        class: TrafficClass,
        data: BytesMut,
        fin: bool,
        desk: &mut Desk,
        messenger: &mut Messenger<Ticket>,
        endpoint: &mut Endpoint,
    ) {
        match self.assemblies.get_mut(&bulk) {
            Some(assembly) => assembly.buffer.extend_from_slice(&data),
            None => {
                let total = match self.begin(&data, class) {
                    Ok(total) => total,
                    Err(error) => {
                        tracing::warn!(event = "bulk_refused", %error, "the router broke the protocol on a bulk stream");
                        let code = refusal(&error);
                        return endpoint.reset_rx(self.peer, bulk.stream_id(), code.number());
                    }
                };
                let assembly = Assembly {
                    class,
                    buffer: data,
                    total,
                    reserved: false,
                };
                self.assemblies.insert(bulk, assembly);
                if !self.reserve(bulk) && !fin {
                    endpoint.pause_bulk(self.peer, bulk);
                }
            }
        }
        if fin && let Some(assembly) = self.assemblies.remove(&bulk) {
            if !assembly.reserved {
                self.reserved += assembly.total;
            }
            if assembly.buffer.len() == assembly.total {
                return self.finish(now, assembly.buffer, desk, messenger, endpoint);
            }
            tracing::warn!(event = "bulk_length", class = %assembly.class, "a bulk stream did not end with its message");
            self.free(assembly.total, endpoint);
        }
    }

    fn begin(&self, data: &[u8], class: TrafficClass) -> Result<usize, FrameError> {
        let total = message_len(data, self.bulk_message_max)?;
        let (header, _) = Header::split(data).map_err(FrameError::Header)?;
        framing::check_class(&header, class)?;
        Ok(total.unwrap_or(usize::MAX))
    }

    /// Sets room aside for a bulk message; one is always let in, however long.
    fn reserve(&mut self, bulk: BulkRx) -> bool {
        let Some(assembly) = self.assemblies.get_mut(&bulk) else {
            return false;
        };
        let fits = self.reserved == 0 || self.reserved + assembly.total <= self.reserved_max;
        if fits && !assembly.reserved {
            assembly.reserved = true;
            self.reserved += assembly.total;
            let missing = assembly.total.saturating_sub(assembly.buffer.len());
            assembly.buffer.reserve(missing);
        }
        fits
    }

    /// Gives room back and lets the streams that wait for it go on.
    fn free(&mut self, total: usize, endpoint: &mut Endpoint) {
        self.reserved -= total;
        let waiting: Vec<BulkRx> = self
            .assemblies
            .iter()
            .filter(|(_, assembly)| !assembly.reserved)
            .map(|(bulk, _)| *bulk)
            .collect();
        for bulk in waiting {
            if !self.reserve(bulk) {
                break;
            }
            endpoint.resume_bulk(self.peer, bulk);
        }
    }

    fn finish(
        &mut self,
        now: Now,
        mut buffer: BytesMut,
        desk: &mut Desk,
        messenger: &mut Messenger<Ticket>,
        endpoint: &mut Endpoint,
    ) {
        let total = buffer.len();
        if desk.offer(now, messenger, CarriedBy::Bulk, &mut buffer, total) {
            self.free(total, endpoint);
        } else {
            self.complete.push(buffer);
        }
    }

    pub(crate) fn bulk_reset(&mut self, bulk: BulkRx, endpoint: &mut Endpoint) {
        if let Some(assembly) = self.assemblies.remove(&bulk)
            && assembly.reserved
        {
            self.free(assembly.total, endpoint);
        }
    }

    pub(crate) fn datagram(
        &self,
        now: Now,
        mut data: BytesMut,
        desk: &mut Desk,
        messenger: &mut Messenger<Ticket>,
    ) {
        let total = data.len();
        let taken = framing::datagram(&data).is_ok()
            && desk.offer(now, messenger, CarriedBy::Datagram, &mut data, total);
        if !taken {
            messenger.datagram_dropped();
        }
    }
}

/// Length of the message at the front of a lane's bytes, when all of it is there.
fn whole_message(data: &[u8], class: TrafficClass) -> Result<Option<usize>, FrameError> {
    let Some(total) = message_len(data, LANE_MESSAGE_MAX)? else {
        return Ok(None);
    };
    let (header, _) = Header::split(data).map_err(FrameError::Header)?;
    framing::check_class(&header, class)?;
    Ok((total <= data.len()).then_some(total))
}

fn refusal(error: &FrameError) -> StreamCode {
    match error {
        FrameError::TooLarge { .. } => StreamCode::TooLarge,
        _ => StreamCode::Malformed,
    }
}
