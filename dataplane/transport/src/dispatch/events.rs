//! Events out of an endpoint: streams are read one at a time, when the owner asks for the next event.

use bytes::BytesMut;

use super::Core;
use crate::connection::Connection;
use crate::event::{Event, LaneRx, PeerId};
use crate::rx::{ReadContext, Step};

impl Core {
    pub(super) fn read_later(&mut self, slot: u32) {
        if let Some(connection) = self.table.slot(slot)
            && !connection.reading
        {
            connection.reading = true;
            self.readers.push_back(slot);
        }
    }

    pub(super) fn reading(&mut self, peer: PeerId) -> Option<(&mut Connection, ReadContext<'_>)> {
        let connection = self.table.get_mut(peer)?;
        let context = ReadContext {
            peer,
            pools: &mut self.pools,
            counters: &mut self.counters,
            bulk_message_max: self.config.bulk_message_max,
            slabs_max: connection.slabs_max,
            control_message_max: self.config.control_message_max,
            stops: 0,
            discard: false,
        };
        Some((connection, context))
    }

    pub(crate) fn next_event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let slot = self.readers.pop_front()?;
            let Some(connection) = self.table.slot(slot) else {
                continue;
            };
            connection.reading = false;
            let peer = connection.id;
            if let Some(event) = self.read(peer) {
                return Some(event);
            }
        }
    }

    /// Reads one connection up to its next event.
    fn read(&mut self, peer: PeerId) -> Option<Event> {
        let (connection, mut context) = self.reading(peer)?;
        if !connection.is_up() {
            return None;
        }
        let step = connection.rx.next(&mut connection.quic, &mut context);
        let ending = connection.ending.is_some();
        let waiting = connection.is_waiting();
        if connection.rx.has_ready() || (ending && matches!(step, Step::Event(_))) {
            self.read_later(peer.slot);
        }
        // Reading moves flow control windows: the peer is to be told, unless an acknowledgement waits that will tell it.
        if !waiting {
            self.mark_dirty(peer.slot);
        }
        match step {
            Step::Event(event) => return Some(event),
            Step::Starved if !ending => {
                self.starving.push(peer.slot);
                self.counters.slabs_exhausted += 1;
                return None;
            }
            Step::Fault(code, reason) => self.close(peer, code.number(), reason),
            _ => {}
        }
        let connection = self.table.get_mut(peer)?;
        let event = connection.ending.take()?;
        let cut = connection.rx.cut_lanes(peer);
        if self.up(peer).is_some() {
            self.events.extend(cut);
            self.end(peer, event);
        }
        None
    }

    pub(crate) fn lane_rest(&mut self, peer: PeerId, lane: LaneRx, rest: BytesMut) {
        let tail = !rest.is_empty();
        let Some((connection, mut context)) = self.reading(peer) else {
            return;
        };
        let event = connection.rx.lane_rest(lane, rest, &mut context);
        let ready = connection.rx.has_ready();
        let held = tail && connection.rx.note_tail(lane);
        self.events.extend(event);
        if held {
            self.tails.push_back((self.now, peer, lane));
        }
        if ready {
            self.read_later(peer.slot);
        }
    }

    pub(crate) fn set_paused(&mut self, peer: PeerId, stream: u64, paused: bool) {
        let Some(connection) = self.table.get_mut(peer) else {
            return;
        };
        connection.rx.set_paused(stream, paused);
        if connection.rx.has_ready() {
            self.read_later(peer.slot);
        }
    }

    pub(crate) fn set_slabs_max(&mut self, peer: PeerId, slabs: usize) {
        if let Some(connection) = self.table.get_mut(peer) {
            connection.slabs_max = slabs.max(1);
            // Lanes that waited for a slab may be read now.
            self.read_later(peer.slot);
        }
    }

    pub(crate) fn refuse_stream(&mut self, peer: PeerId, stream: u64, code: u64) {
        self.mark_dirty_peer(peer);
        if let Some(connection) = self.table.get_mut(peer) {
            connection
                .rx
                .refuse(stream, code, &mut connection.quic, &mut self.pools);
            if connection.rx.has_ready() {
                self.read_later(peer.slot);
            }
        }
    }

    fn mark_dirty_peer(&mut self, peer: PeerId) {
        if self.table.get(peer).is_some() {
            self.mark_dirty(peer.slot);
        }
    }
}
