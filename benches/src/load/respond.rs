//! Answers: what came goes back to the instance that sent it.

use bytes::{Bytes, BytesMut};
use caplane_transport::{Endpoint, LaneTx, PeerId, SendError};
use caplane_wire::header::Header;
use caplane_wire::{Kind, LANE_MESSAGE_MAX, Label, TrafficClass, message_len};
use std::collections::VecDeque;

/// Hops an answer may take.
const HOP_LIMIT: u8 = 16;

/// One receiver's answers.
pub(super) struct Responder {
    label: Label,
    domain: u32,
    class: TrafficClass,
    lane: Option<LaneTx>,
    /// Answers that flow control does not take yet.
    waiting: VecDeque<Bytes>,
}

impl Responder {
    /// Answers come from this label.
    pub(super) fn new(label: Label, domain: u32, class: TrafficClass) -> Responder {
        Responder {
            label,
            domain,
            class,
            lane: None,
            waiting: VecDeque::new(),
        }
    }

    /// Answers all whole messages at the front of `data`.
    pub(super) fn answer(&mut self, endpoint: &mut Endpoint, peer: PeerId, data: &[u8]) {
        let mut answers = BytesMut::new();
        let mut at = 0;
        while let Ok(Some(len)) = message_len(&data[at..], LANE_MESSAGE_MAX) {
            let Some(message) = data.get(at..at + len) else {
                break;
            };
            at += len;
            let begin = answers.len();
            answers.extend_from_slice(message);
            if !self.address(&mut answers[begin..]) {
                answers.truncate(begin);
            }
        }
        if !answers.is_empty() {
            self.waiting.push_back(answers.freeze());
        }
        // What cannot be sent any more is missed by the asker, who counts answers.
        let _ = self.send(endpoint, peer);
    }

    /// Turns a message into its answer; false when it is none to answer.
    fn address(&self, message: &mut [u8]) -> bool {
        let mut header = Header::new_unchecked(message);
        if header.kind() != Kind::Data {
            return false;
        }
        let asker = header.source_label();
        header.set_label(asker);
        header.set_requested_label(asker);
        header.set_destination_domain(0);
        header.set_source_label(self.label);
        header.set_source_domain(self.domain);
        header.set_hop_limit(HOP_LIMIT);
        header.set_class(self.class);
        true
    }

    fn send(&mut self, endpoint: &mut Endpoint, peer: PeerId) -> Result<(), SendError> {
        let lane = match self.lane {
            Some(lane) => lane,
            None => *self.lane.insert(endpoint.open_lane(peer, self.class)?),
        };
        while endpoint.lane_ready(peer, lane) {
            let Some(answers) = self.waiting.pop_front() else {
                break;
            };
            endpoint.send_lane(peer, lane, answers)?;
        }
        Ok(())
    }
}
