//! The life of connections in an endpoint: handshakes that end in a peer or a refusal, paths, ends.

use quiche::PathEvent;

use super::{Core, canonical};
use crate::cid;
use crate::connection::State;
use crate::error::RefuseReason;
use crate::event::{CloseCause, Event, PeerId};

impl Core {
    /// Looks after every connection that was touched since the last time.
    pub(crate) fn settle(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        for slot in touched.drain(..) {
            self.settle_one(slot);
        }
        self.touched = touched;
    }

    fn settle_one(&mut self, slot: u32) {
        let Some(connection) = self.table.slot(slot) else {
            return;
        };
        connection.touched = false;
        if matches!(connection.state, State::Handshaking { .. }) {
            self.settle_handshake(slot);
            self.take_datagrams(slot);
        }
        let Some(connection) = self.table.slot(slot).filter(|c| c.is_up()) else {
            self.mark_dirty(slot);
            return;
        };
        connection.doubt_after_losses(self.now, &mut self.counters);
        while let Some(stream) = connection.quic.stream_readable_next() {
            connection.rx.readable(stream);
            connection.brought = true;
        }
        let peer = connection.id;
        connection.tx.park_acknowledged(&mut connection.quic);
        if connection.tx.retry(&mut connection.quic) {
            self.events.push_back(Event::Writable { peer });
        }
        self.events.extend(connection.take_stopped(self.now));
        if connection.ending.is_none() {
            connection.ending = connection.end();
        }
        if connection.rx.has_ready() || connection.ending.is_some() {
            self.read_later(slot);
        }
        self.settle_path(slot);
        self.flush_or_wait(slot);
    }

    /// Puts the connection on the list of those to flush, or lets its acknowledgement wait.
    fn flush_or_wait(&mut self, slot: u32) {
        let (now, config) = (self.now, &self.config);
        let Some(connection) = self.table.slot(slot) else {
            return;
        };
        connection.ask_for_acknowledgement();
        if connection.dirty || !connection.may_wait(now) {
            self.mark_dirty(slot);
            return;
        }
        let deadline = connection.deadline(config);
        self.timers.arm(slot, deadline);
    }

    fn settle_handshake(&mut self, slot: u32) {
        let Some(connection) = self.table.slot(slot) else {
            return;
        };
        if connection.end().is_some() {
            let reason = connection.refusal(&self.handshakes, None);
            self.refuse(slot, reason);
            return;
        }
        if !connection.is_complete() {
            return;
        }
        if let Err(reason) = connection.come_up() {
            let _ = connection.quic.close(false, 0x2, b"");
            self.refuse(slot, reason);
            return;
        }
        self.counters.connected += 1;
        self.events.push_back(Event::Connected {
            peer: connection.id,
            uri: connection.uri.clone(),
            address: canonical(connection.address),
            dialled: connection.dialled,
        });
        if !connection.dialled {
            self.pending -= 1;
        }
        if let Some(original) = connection.original_cid.take() {
            self.cids.remove(&original);
        }
    }

    /// Connection ids, then addresses and sizes.
    fn settle_path(&mut self, slot: u32) {
        let Some(connection) = self.table.slot(slot) else {
            return;
        };
        while connection.quic.scids_left() > 0 {
            let cid = cid::new_cid(self.config.worker);
            let token = self.resets.token(&cid);
            if connection.quic.new_scid(&cid, token, false).is_err() {
                break;
            }
            connection.say_soon();
            self.cids.insert(&cid, slot);
        }
        while let Some(cid) = connection.quic.retired_scid_next() {
            self.cids.remove(&cid);
        }
        self.settle_path_mtu(slot);
    }

    /// Addresses and sizes. QUIC learns of the loss of a probe when it builds packets, so this is also looked at after that.
    pub(super) fn settle_path_mtu(&mut self, slot: u32) {
        let Some(connection) = self.table.slot(slot) else {
            return;
        };
        let searching_again = connection.unclamp();
        while let Some(event) = connection.quic.path_event_next() {
            match event {
                PathEvent::PmtuUpdated { pmtu, .. } if connection.on_path_mtu(pmtu) => {
                    self.events.push_back(Event::MtuChanged {
                        peer: connection.id,
                        udp_payload: pmtu,
                    });
                    if let Some(max) = connection.datagram_max() {
                        // A datagram that fits no more would block the queue until it is thrown away unseen.
                        let before = connection.quic.dgram_send_queue_len();
                        connection
                            .quic
                            .dgram_purge_outgoing(|datagram| datagram.len() > max);
                        let purged = before - connection.quic.dgram_send_queue_len();
                        self.counters.datagrams_too_large += purged as u64;
                    }
                }
                PathEvent::PeerMigrated(_, address) => connection.address = address,
                _ => {}
            }
        }
        if searching_again {
            self.mark_dirty(slot);
        }
    }

    /// Ends a handshake: told once, counted, and QUIC says goodbye in its own way.
    pub(super) fn refuse(&mut self, slot: u32, reason: RefuseReason) {
        let Some(connection) = self.table.slot(slot) else {
            return;
        };
        if !matches!(connection.state, State::Handshaking { .. }) {
            return;
        }
        connection.state = State::Closing;
        let _ = connection.quic.close(false, 0x2, b"");
        let (id, dialled) = (connection.id, connection.dialled);
        let address = canonical(connection.address);
        if !dialled {
            self.pending -= 1;
        }
        self.counters.refused[reason as usize] += 1;
        tracing::info!(event = "connection_refused", %address, reason = reason.name(), dialled, "{reason}");
        self.events.push_back(Event::Refused {
            peer: dialled.then_some(id),
            address,
            reason,
        });
    }

    pub(crate) fn close(&mut self, peer: PeerId, code: u64, reason: &str) {
        let Some(connection) = self.sending(peer) else {
            return;
        };
        let _ = connection.quic.close(true, code, reason.as_bytes());
        self.end(
            peer,
            Event::Closed {
                peer,
                code,
                reason: reason.to_owned(),
                by_peer: false,
                cause: CloseCause::Application,
            },
        );
    }

    pub(super) fn end(&mut self, peer: PeerId, event: Event) {
        if let Some(connection) = self.table.get_mut(peer) {
            connection.state = State::Closing;
            self.counters.closed += 1;
            self.counters.messages_unacknowledged += connection.tx.unacknowledged_messages();
            self.events.push_back(event);
        }
    }
}
