//! Notices: what a router tells the source of a message it dropped. Never about a notice, a receipt
//! or a group message's copy, never to a source that may be forged, and at a bounded rate per peer,
//! as ICMP errors are (RFC 4443 section 2.4).

use bytes::Bytes;
use caplane_wire::{HEADER_LEN, Header, Kind, Label, Notice, TrafficClass};

use super::egress::Run;
use super::peers::{PeerIdx, Role};
use super::{Carrier, Forwarder};
use crate::{DropReason, Now};

/// Token bucket of one peer, in millionths of a notice.
#[derive(Default)]
pub(super) struct NoticeBucket {
    tokens: u64,
    /// `None` = never used: full.
    filled: Option<core::time::Duration>,
}

const ONE: u64 = 1_000_000;

impl NoticeBucket {
    fn take(&mut self, now: Now, per_second: u64, burst: u64) -> bool {
        let full = burst * ONE;
        self.tokens = match self.filled {
            None => full,
            Some(then) => {
                let us = now.mono.saturating_sub(then).as_micros();
                let more = u64::try_from(us)
                    .unwrap_or(u64::MAX)
                    .saturating_mul(per_second);
                full.min(self.tokens.saturating_add(more))
            }
        };
        self.filled = Some(now.mono);
        let enough = self.tokens >= ONE;
        if enough {
            self.tokens -= ONE;
        }
        enough
    }
}

impl Forwarder {
    /// Counts a message that came from `from` as dropped, and tells its source where that is due.
    #[cold]
    pub(super) fn refuse(
        &mut self,
        now: Now,
        from: PeerIdx,
        reason: DropReason,
        head: &[u8; HEADER_LEN],
    ) {
        self.counters.dropped[reason as usize] += 1;
        let peer = self.peers.get_mut(from);
        let source = Header::new_unchecked(head).source_label();
        // An instance is told about its own messages only: another source label is forged.
        if peer
            .instance()
            .is_some_and(|instance| instance.label != source)
        {
            return;
        }
        let mut bucket = core::mem::take(&mut peer.notices);
        let many_sources = matches!(peer.role, Role::Neighbour { .. });
        self.notify(now, &mut bucket, many_sources, reason, head);
        self.peers.get_mut(from).notices = bucket;
    }

    /// Sends a notice about a dropped message, if one is due and the bucket allows it.
    pub(super) fn notify(
        &mut self,
        now: Now,
        bucket: &mut NoticeBucket,
        many_sources: bool,
        reason: DropReason,
        head: &[u8; HEADER_LEN],
    ) {
        let header = Header::new_unchecked(head);
        let Some(code) = reason.notice() else { return };
        let about = matches!(header.kind(), Kind::Data | Kind::Probe);
        let source = header.source_label();
        let domain = header.source_domain();
        let ours = domain == 0 || domain == self.fib.domain();
        if !about || !source.is_instance() || !ours {
            return;
        }
        let Some((to, label)) = self.way_back(source, header.flow()) else {
            return;
        };
        let times = if many_sources { 10 } else { 1 };
        let rate = u64::from(self.config.notices_per_second) * times;
        if !bucket.take(now, rate, u64::from(self.config.notice_burst) * times) {
            self.counters.notices_suppressed += 1;
            return;
        }
        let router = self.fib.router();
        let notice = Notice {
            code,
            router,
            offending: *head,
        };
        let mut message = notice.to_message(self.fib.domain());
        Header::new_unchecked(&mut message[..]).set_label(label);
        self.counters.notices += 1;
        let data = Bytes::copy_from_slice(&message);
        if self.has_room(now, to, TrafficClass::NOTICE, 0) {
            let run = Run {
                data,
                messages: 1,
                lane: 0,
                carrier: Carrier::Lane,
                slab: 0,
                held: 0,
            };
            self.append(now, to, TrafficClass::NOTICE, run, 0);
        } else {
            self.counters.dropped[DropReason::Overloaded as usize] += 1;
        }
    }

    /// Where an instance is: the peer to send to, and the label to write.
    fn way_back(&self, instance: Label, flow: u64) -> Option<(PeerIdx, Label)> {
        if let Some(peer) = self.local.instance(instance) {
            return Some((peer, instance));
        }
        let view = self.fib.agent_view(instance.any_instance())?;
        let mut members = view.members.as_slice().iter();
        let at = members.find(|member| member.instance == instance.instance())?;
        let hop = self
            .routes
            .next_hop(at.router, || crate::mix::mix64(flow), None)?;
        Some((hop, at.router))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = NoticeBucket::default();
        let at = |ms| Now {
            mono: Duration::from_millis(ms),
            unix_us: 0,
        };
        let taken = |bucket: &mut NoticeBucket, ms| {
            (0..100).filter(|_| bucket.take(at(ms), 1_000, 20)).count()
        };
        assert_eq!(taken(&mut bucket, 5), 20);
        assert_eq!(taken(&mut bucket, 5), 0);
        assert_eq!(taken(&mut bucket, 12), 7);
        assert_eq!(taken(&mut bucket, 10_000), 20);
    }
}
