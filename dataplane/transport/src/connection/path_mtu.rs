//! The sizes of a connection's packets: what the path carries, and when that is doubted.
//!
//! QUIC searches (RFC 8899); what it cannot see is a path that shrank under it. Refuses to know how packets are built.

use std::time::{Duration, Instant};

use super::{Connection, UDP_PAYLOAD_MIN};
use crate::counters::Counters;

/// What the search for black holes remembers.
pub(super) struct LossWatch {
    next_look: Instant,
    pto: usize,
    lost: usize,
    lost_bytes: u64,
    acked_bytes: u64,
}

impl LossWatch {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            next_look: now,
            pto: 0,
            lost: 0,
            lost_bytes: 0,
            acked_bytes: 0,
        }
    }
}

/// How often the loss of large packets is looked at.
const LOSS_LOOK: Duration = Duration::from_millis(100);

/// Probe timeouts without success after which the path MTU is doubted.
const BLACK_HOLE_PTO: usize = 2;

/// Lost packets within one look after which the path MTU is doubted, if the bytes lost are [`BLACK_HOLE_RATIO`] times those
/// that arrived. Congestion loses far less than that; and a wrong suspicion costs one round trip at 1200 bytes.
const BLACK_HOLE_LOST: usize = 8;
const BLACK_HOLE_RATIO: u64 = 4;

impl Connection {
    /// Probe timeouts in a row may mean that large packets vanish on the path.
    pub(super) fn doubt_after_timeout(&mut self, counters: &mut Counters) {
        if !self.may_doubt() {
            return;
        }
        let Some(pto) = self.active_path().map(|path| path.total_pto_count) else {
            return;
        };
        if pto >= self.losses.pto + BLACK_HOLE_PTO {
            self.losses.pto = pto;
            self.black_hole(counters);
        }
    }

    /// Looks whether large packets vanish while small ones arrive; to be called when packets came.
    pub(crate) fn doubt_after_losses(&mut self, now: Instant, counters: &mut Counters) {
        if !self.may_doubt() || now < self.losses.next_look {
            return;
        }
        let stats = self.quic.stats();
        let lost = stats.lost.saturating_sub(self.losses.lost);
        let lost_bytes = stats.lost_bytes.saturating_sub(self.losses.lost_bytes);
        let acked_bytes = stats.acked_bytes.saturating_sub(self.losses.acked_bytes);
        if let Some(path) = self.active_path() {
            self.losses.pto = path.total_pto_count;
        }
        self.losses.next_look = now + LOSS_LOOK;
        self.losses.lost = stats.lost;
        self.losses.lost_bytes = stats.lost_bytes;
        self.losses.acked_bytes = stats.acked_bytes;
        if lost >= BLACK_HOLE_LOST && lost_bytes > BLACK_HOLE_RATIO * acked_bytes {
            self.black_hole(counters);
        }
    }

    fn black_hole(&mut self, counters: &mut Counters) {
        counters.path_mtu_black_holes += 1;
        tracing::info!(
            event = "path_mtu_doubted",
            peer = ?self.id,
            udp_payload = self.udp_payload,
            "large packets vanish: going on with 1200 bytes and searching again"
        );
        self.search_again();
    }

    /// The first link refused packets of the size in use.
    pub(crate) fn on_too_large(&mut self) {
        if self.may_doubt() {
            self.search_again();
        }
    }

    fn may_doubt(&self) -> bool {
        self.searching && self.udp_payload > UDP_PAYLOAD_MIN && self.is_up()
    }

    /// Goes on with packets of 1200 bytes and lets QUIC search again. QUIC can do that only when its search is at an end; in
    /// the middle of one it would go on sending packets as large as the last probe that arrived, and wait for ever for the
    /// fate of the next, as nothing is acknowledged any more. Then we keep the packets small until the search has ended.
    fn search_again(&mut self) {
        if self.quic.pmtu().is_some() {
            self.quic.revalidate_pmtu();
        } else {
            self.clamped = true;
            self.udp_payload = UDP_PAYLOAD_MIN;
        }
    }

    /// Ends the clamp when QUIC's search has come to an end; true when a new one begins, which wants a probe sent.
    pub(crate) fn unclamp(&mut self) -> bool {
        let ended = self.clamped && self.quic.pmtu().is_some();
        if ended {
            self.clamped = false;
            self.quic.revalidate_pmtu();
        }
        ended
    }

    /// QUIC knows a new path MTU; true when it is what we now send.
    pub(crate) fn on_path_mtu(&mut self, udp_payload: usize) -> bool {
        let changed = !self.clamped && self.udp_payload != udp_payload;
        if changed {
            self.udp_payload = udp_payload;
        }
        changed
    }

    /// The longest datagram that fits into one packet of the size the path is known to carry.
    pub(crate) fn datagram_max(&self) -> Option<usize> {
        // QUIC computes with the probe's size while it searches; the overhead is the same.
        let size = self.quic.max_send_udp_payload_size();
        let overhead = size.checked_sub(self.quic.dgram_max_writable_len()?)?;
        self.udp_payload.min(size).checked_sub(overhead)
    }
}
