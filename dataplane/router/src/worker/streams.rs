//! What comes in on lanes and bulk streams, handed to the Forwarder and to the
//! cut-through joins; and the codes with which streams are refused.

use bytes::{Bytes, BytesMut};
use caplane_core::DropReason;
use caplane_core::forward::{BulkEnd, BulkVerdict, PeerKey, Progress, StreamFault};
use caplane_transport::{BulkRx, BulkTx, LaneRx, LaneTx, PeerId};
use caplane_wire::{HEADER_LEN, Header, StreamCode, TrafficClass};

use super::Worker;
use super::bulk::{End, Ended, Head, Ingress, PER_RECEIVER_MAX, Source};
use super::peers::Phase;

impl Worker {
    pub(super) fn on_lane(
        &mut self,
        peer: PeerId,
        lane: LaneRx,
        class: TrafficClass,
        mut data: BytesMut,
    ) {
        let key = self.peers.key(peer);
        match self
            .forwarder
            .lane(self.now, key, lane.hint(), class, &mut data)
        {
            Ok(Progress { blocked, .. }) => {
                if blocked {
                    self.endpoint.pause(peer, lane);
                    if let Some(peer) = self.peers.get_mut(peer) {
                        peer.paused.push(lane);
                    }
                }
                self.endpoint.lane_rest(peer, lane, data);
            }
            Err(StreamFault { reason, .. }) => {
                self.endpoint
                    .reset_rx(peer, lane.stream_id(), stream_code(reason).number());
                tracing::debug!(event = "lane_reset", reason = reason.name());
            }
        }
    }

    pub(super) fn on_lane_end(&mut self, peer: PeerId, lane: LaneRx, partial: bool) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.paused.retain(|paused| *paused != lane);
        }
        if partial {
            let key = self.peers.key(peer);
            self.forwarder.lane_cut(key);
        }
    }

    pub(super) fn on_bulk(
        &mut self,
        peer: PeerId,
        stream: BulkRx,
        class: TrafficClass,
        mut data: BytesMut,
        fin: bool,
    ) {
        let ingress = Ingress { peer, stream };
        let source = Source::Here(ingress);
        let known = self.bulks.contains(source) || self.far_bulk(ingress).is_some();
        if !known && !self.open_bulk(ingress, class, &mut data) {
            return;
        }
        let piece: Bytes = data.freeze();
        if let Some(id) = self.far_bulk(ingress) {
            return self.far_piece(id, ingress, piece, fin);
        }
        if let Some(ended) = self.bulks.piece(&mut self.endpoint, source, piece, fin) {
            self.bulk_ended(ended);
        }
    }

    /// Decides a bulk message by its head. Returns whether it goes on.
    fn open_bulk(&mut self, ingress: Ingress, class: TrafficClass, data: &mut BytesMut) -> bool {
        let key = self.peers.key(ingress.peer);
        let stream_id = ingress.stream.stream_id();
        let Some(&head) = data.first_chunk::<HEADER_LEN>() else {
            let code = StreamCode::Malformed.number();
            self.endpoint.reset_rx(ingress.peer, stream_id, code);
            return false;
        };
        let extension_len = usize::from(Header::new_unchecked(&head).extension_len());
        let head_len = (HEADER_LEN + extension_len).min(data.len());
        let verdict = self
            .forwarder
            .bulk_open(self.now, key, class, &mut data[..head_len]);
        let code = match verdict {
            BulkVerdict::Forward { to, class } => match self.join(ingress, to, class, head) {
                Ok(()) => return true,
                Err(reason) => {
                    self.forwarder.bulk_refused(self.now, key, reason, &head);
                    stream_code(reason)
                }
            },
            BulkVerdict::Refuse { reason } => stream_code(reason),
        };
        self.endpoint
            .reset_rx(ingress.peer, stream_id, code.number());
        false
    }

    /// Joins a bulk message to its receiver, when that may have one more.
    fn join(
        &mut self,
        ingress: Ingress,
        to: PeerKey,
        class: TrafficClass,
        head: Head,
    ) -> Result<(), DropReason> {
        if to.worker != self.index {
            return self.open_far_bulk(ingress, to, class, head);
        }
        let peer = self.peers.by_key(to).ok_or(DropReason::PeerGone)?;
        let instance = matches!(peer.phase, Phase::Instance { .. });
        if instance && self.bulks.towards(peer.id) >= PER_RECEIVER_MAX {
            return Err(DropReason::Overloaded);
        }
        let source = Source::Here(ingress);
        self.bulks.open(source, peer.id, class, head);
        Ok(())
    }

    pub(super) fn bulk_ended(&mut self, ended: Ended) {
        let to = self.peers.key(ended.to);
        let ingress = match ended.from {
            Source::Here(ingress) => ingress,
            Source::Far { worker, id } => return self.far_ended(worker, id, ended),
        };
        match ended.end {
            End::Complete { bytes } => self.forwarder.bulk_end(to, BulkEnd::Complete, bytes),
            End::CutBySender => self.forwarder.bulk_end(to, BulkEnd::Cut, 0),
            End::WayOnGone { head, .. } => {
                let from = self.peers.key(ingress.peer);
                self.forwarder.bulk_gone(self.now, from, &head);
            }
        }
    }

    pub(super) fn on_writable(&mut self, peer: PeerId) {
        let key = self.peers.key(peer);
        self.forwarder.mark_dirty(key);
        for ended in self.bulks.writable(&mut self.endpoint, peer) {
            self.bulk_ended(ended);
        }
    }

    pub(super) fn on_bulk_reset(&mut self, peer: PeerId, stream: BulkRx) {
        let ingress = Ingress { peer, stream };
        if let Some(id) = self.far_bulk(ingress) {
            return self.far_cut(id);
        }
        let source = Source::Here(ingress);
        if let Some(ended) = self.bulks.cut_by_sender(&mut self.endpoint, source) {
            self.bulk_ended(ended);
        }
    }

    pub(super) fn on_bulk_stopped(&mut self, peer: PeerId, bulk: BulkTx, code: u64) {
        let ended = self
            .bulks
            .stopped_by_receiver(&mut self.endpoint, peer, bulk, code);
        if let Some(ended) = ended {
            self.bulk_ended(ended);
        }
    }

    pub(super) fn on_lane_stopped(&mut self, id: PeerId, lane: LaneTx) {
        if let Some(peer) = self.peers.get_mut(id) {
            peer.egress.forget(lane);
        }
        self.on_writable(id);
    }
}

/// What a sender is told when its stream is not read any further.
fn stream_code(reason: DropReason) -> StreamCode {
    match reason {
        DropReason::NoRoute => StreamCode::NoRoute,
        DropReason::PolicyDenied => StreamCode::PolicyDenied,
        DropReason::TooLarge => StreamCode::TooLarge,
        DropReason::Overloaded | DropReason::RateLimited => StreamCode::Overloaded,
        DropReason::Malformed => StreamCode::Malformed,
        // "Go on, perhaps another will be there": a sender stops at NO_ROUTE and not at these.
        DropReason::Unreachable | DropReason::PeerGone | DropReason::SendFailed => StreamCode::Gone,
        DropReason::CutShort => StreamCode::CutShort,
        DropReason::StaleTable
        | DropReason::HopLimit
        | DropReason::Deadline
        | DropReason::ForgedSource
        | DropReason::ForgedNotice
        | DropReason::UnknownPeer => StreamCode::Refused,
    }
}
