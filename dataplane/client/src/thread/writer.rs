//! The sending side of one link: messages onto lanes, bulk streams and datagrams, as far as the transport takes them.

use bytes::{Bytes, BytesMut};
use caplane_transport::{BulkTx, DatagramRefused, Endpoint, LaneTx, PeerId, SendError};
use caplane_wire::NoticeCode;

use crate::command::Ticket;
use crate::protocol::{Messenger, Now, Outgoing, Queue, Tag};

/// Messages with payloads up to this are copied together into one buffer; a longer one is handed over as header and payload
/// apart, without a copy. CPU of this thread for a message, copied / apart (loopback, encryption included): 64 B 0.2 / 1.9 us,
/// 512 B 0.4 / 1.1, 1 KiB 0.6 / 0.9, 2 KiB 1.0 / 1.1, 4 KiB 2.0 / 1.7, 16 KiB 7.6 / 4.5.
const COALESCE_MAX: usize = 2 << 10;

/// Bytes of copied messages handed over at a time: the most that one train of packets holds.
const BATCH: usize = 64 << 10;

/// Bytes of a bulk message handed over at a time, so that streams of one class advance side by side and a message's last
/// byte is not said to be sent while most of it waits.
const BULK_CHUNK: usize = 256 << 10;

struct Lane {
    stream: LaneTx,
    /// Payload whose header is handed over already.
    payload: Option<Bytes>,
}

struct Bulk {
    stream: BulkTx,
    tag: Tag,
    head: Bytes,
    payload: Bytes,
}

pub(crate) struct Writer {
    peer: PeerId,
    lanes: Vec<Option<Lane>>,
    batch: BytesMut,
    bulks: Vec<Bulk>,
    bulks_max: usize,
    /// A bulk message for which no stream may be opened now.
    next_bulk: Option<Outgoing>,
    /// A datagram for which the transport had no room.
    next_datagram: Option<(Bytes, Tag)>,
    /// The router drains: it takes no new bulk streams.
    pub(crate) draining: bool,
}

impl Writer {
    pub(crate) fn new(peer: PeerId, lanes: usize, bulks_max: usize) -> Self {
        Self {
            peer,
            lanes: (0..lanes).map(|_| None).collect(),
            batch: BytesMut::new(),
            bulks: Vec::new(),
            bulks_max,
            next_bulk: None,
            next_datagram: None,
            draining: false,
        }
    }

    /// Hands over what the transport takes now.
    pub(crate) fn pump(
        &mut self,
        now: Now,
        messenger: &mut Messenger<Ticket>,
        endpoint: &mut Endpoint,
    ) {
        // The most urgent class first: the lanes share what the connection may send.
        for lane in (0..self.lanes.len()).rev() {
            self.pump_lane(now, lane, messenger, endpoint);
            let open = self.lanes[lane].as_ref();
            let clear = open.is_none_or(|open| endpoint.lane_ready(self.peer, open.stream));
            messenger.lane_is_clear(now, lane, clear);
        }
        self.pump_datagrams(now, messenger, endpoint);
        self.pump_bulk(now, messenger, endpoint);
    }

    /// Whether nothing is left here that a queue does not show any more.
    pub(crate) fn is_empty(&self) -> bool {
        self.bulks.is_empty()
            && self.next_bulk.is_none()
            && self.next_datagram.is_none()
            && self.lanes.iter().flatten().all(|l| l.payload.is_none())
    }

    fn pump_lane(
        &mut self,
        now: Now,
        index: usize,
        messenger: &mut Messenger<Ticket>,
        endpoint: &mut Endpoint,
    ) {
        let queue = Queue::Lane(index);
        let place = &mut self.lanes[index];
        if place.is_none() {
            if !messenger.has(queue) {
                return;
            }
            let Ok(stream) = endpoint.open_lane(self.peer, messenger.lane_class(index)) else {
                return; // no stream allowed now: Writable tells
            };
            *place = Some(Lane {
                stream,
                payload: None,
            });
        }
        let Some(lane) = place else { return };
        while endpoint.lane_ready(self.peer, lane.stream) {
            let next = match lane.payload.take() {
                Some(payload) => payload,
                None => collect(now, queue, lane, &mut self.batch, messenger),
            };
            if next.is_empty() {
                return;
            }
            match endpoint.send_lane(self.peer, lane.stream, next) {
                Ok(()) => {}
                Err(SendError::Gone) => return,
                Err(_) => {
                    // Stopped by the router; what it held is sent again where somebody waits for it.
                    *place = None;
                    return;
                }
            }
        }
    }

    pub(crate) fn lane_stopped(&mut self, stream: LaneTx) {
        for place in &mut self.lanes {
            if place.as_ref().is_some_and(|lane| lane.stream == stream) {
                *place = None;
            }
        }
    }

    fn pump_datagrams(
        &mut self,
        now: Now,
        messenger: &mut Messenger<Ticket>,
        endpoint: &mut Endpoint,
    ) {
        loop {
            let (bytes, tag) = match self.next_datagram.take() {
                Some(waiting) => waiting,
                None => match messenger.next(now, Queue::Datagram) {
                    None => return,
                    Some(out) => (join(&out), out.tag),
                },
            };
            match endpoint.send_datagram(self.peer, bytes.clone()) {
                Ok(()) => {}
                Err(DatagramRefused::TooLarge { max }) => {
                    messenger.too_large(tag, bytes.len(), max);
                }
                Err(DatagramRefused::QueueFull) => {
                    self.next_datagram = Some((bytes, tag));
                    return;
                }
                Err(DatagramRefused::Gone) => return,
            }
        }
    }

    fn pump_bulk(&mut self, now: Now, messenger: &mut Messenger<Ticket>, endpoint: &mut Endpoint) {
        let peer = self.peer;
        loop {
            self.bulks.retain_mut(|bulk| {
                let more = bulk.advance(peer, endpoint);
                if !more {
                    messenger.bulk_written(now, bulk.tag);
                }
                more
            });
            if self.draining || self.bulks.len() >= self.bulks_max {
                return;
            }
            let waiting = self.next_bulk.take();
            let Some(out) = waiting.or_else(|| messenger.next(now, Queue::Bulk)) else {
                return;
            };
            match endpoint.open_bulk(peer, out.class) {
                Ok(stream) => self.bulks.push(Bulk {
                    stream,
                    tag: out.tag,
                    head: Bytes::copy_from_slice(out.head.as_bytes()),
                    payload: out.payload,
                }),
                Err(_) => {
                    self.next_bulk = Some(out);
                    return;
                }
            }
        }
    }

    /// The router refused a bulk stream; answers which message it was and what that means.
    pub(crate) fn bulk_stopped(&mut self, stream: BulkTx, code: u64) -> Option<(Tag, NoticeCode)> {
        use caplane_wire::StreamCode;
        let at = self.bulks.iter().position(|bulk| bulk.stream == stream)?;
        let bulk = self.bulks.swap_remove(at);
        let code = match StreamCode::from_number(code) {
            Some(StreamCode::NoRoute) => NoticeCode::NoRoute,
            Some(StreamCode::PolicyDenied) => NoticeCode::PolicyDenied,
            Some(StreamCode::TooLarge) => NoticeCode::TooLarge,
            Some(StreamCode::Malformed) => NoticeCode::Malformed,
            Some(StreamCode::Overloaded | StreamCode::Draining | StreamCode::Refused) | None => {
                NoticeCode::Overloaded
            }
            Some(StreamCode::Gone | StreamCode::CutShort) => NoticeCode::Unreachable,
        };
        Some((bulk.tag, code))
    }
}

impl Bulk {
    /// Hands over what is taken now; false when all of it is. The end goes by itself, once QUIC has taken what is before it:
    /// until then the message has not left.
    fn advance(&mut self, peer: PeerId, endpoint: &mut Endpoint) -> bool {
        while endpoint.bulk_ready(peer, self.stream) {
            let fin = self.head.is_empty() && self.payload.is_empty();
            let next = if self.head.is_empty() {
                self.payload.split_to(self.payload.len().min(BULK_CHUNK))
            } else {
                std::mem::take(&mut self.head)
            };
            match endpoint.send_bulk(peer, self.stream, next, fin) {
                Ok(()) if fin => return false,
                Ok(()) => {}
                // Stopped: its event, or the end of the connection, says why.
                Err(_) => return true,
            }
        }
        true
    }
}

/// The next messages of a lane as one buffer; empty when there are none.
fn collect(
    now: Now,
    queue: Queue,
    lane: &mut Lane,
    batch: &mut BytesMut,
    messenger: &mut Messenger<Ticket>,
) -> Bytes {
    while batch.len() < BATCH {
        let Some(out) = messenger.next(now, queue) else {
            break;
        };
        if batch.is_empty() {
            batch.reserve(BATCH + COALESCE_MAX + 64);
        }
        batch.extend_from_slice(out.head.as_bytes());
        if out.payload.len() > COALESCE_MAX {
            lane.payload = Some(out.payload);
            break;
        }
        batch.extend_from_slice(&out.payload);
    }
    batch.split().freeze()
}

fn join(out: &Outgoing) -> Bytes {
    let head = out.head.as_bytes();
    let mut bytes = BytesMut::with_capacity(head.len() + out.payload.len());
    bytes.extend_from_slice(head);
    bytes.extend_from_slice(&out.payload);
    bytes.freeze()
}
