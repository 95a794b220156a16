//! Leaving in order: peers are told, what is queued is sent and acknowledged, then Bye.

use std::time::Duration;

use caplane_proto::v1::ByeCode;
use caplane_transport::PeerId;

use super::Worker;
use super::attach::Refusal;
use super::peers::Phase;
use crate::control_frame;

/// Nothing may have come in for this long: peers that heed Drain have then turned elsewhere.
const QUIET: Duration = Duration::from_millis(200);

/// How often the end is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How long the last Byes and closes may take.
const BYE_PERIOD: Duration = Duration::from_millis(500);

/// A drain under way.
#[derive(Debug)]
pub(super) struct Drain {
    deadline: Duration,
    received: u64,
    quiet_since: Duration,
    next_look: Duration,
    /// Bye was said to everybody; the loop ends then at the latest.
    end: Option<Duration>,
}

impl Worker {
    /// Tells every peer and takes nothing new.
    pub(super) fn start_drain(&mut self, period: Duration) {
        if self.drain.is_some() {
            return;
        }
        tracing::info!(event = "draining", period_ms = period.as_millis() as u64);
        self.links.stop_dialling();
        let frame = control_frame::drain(period.as_millis() as u32, "the router goes down");
        for id in self.connections() {
            self.send_control(id, &frame);
        }
        self.drain = Some(Drain {
            deadline: self.now.mono + period,
            received: self.forwarder.counters().received,
            quiet_since: self.now.mono,
            next_look: self.now.mono,
            end: None,
        });
    }

    /// When the drain has to be looked at next.
    pub(super) fn drain_deadline(&self) -> Option<Duration> {
        self.drain.as_ref().map(|drain| drain.next_look)
    }

    /// Returns whether the worker is done.
    pub(super) fn drained(&mut self) -> bool {
        let now = self.now.mono;
        let received = self.forwarder.counters().received;
        let Some(drain) = &mut self.drain else {
            return false;
        };
        if drain.next_look > now {
            return false;
        }
        drain.next_look = now + LOOK_EVERY;
        if received != drain.received {
            drain.received = received;
            drain.quiet_since = now;
        }
        if let Some(end) = drain.end {
            return now >= end || self.peers.iter().next().is_none();
        }
        let late = now >= drain.deadline;
        let quiet = now - drain.quiet_since >= QUIET;
        let finished = quiet && self.all_sent();
        if !late && !finished {
            return false;
        }
        if !finished {
            let counters = self.forwarder.counters();
            tracing::warn!(
                event = "drain_cut_short",
                queued = counters.queued,
                "the period is over and messages wait still"
            );
        }
        self.say_goodbye(now)
    }

    fn say_goodbye(&mut self, now: Duration) -> bool {
        if let Some(drain) = &mut self.drain {
            drain.end = Some(now + BYE_PERIOD);
        }
        for id in self.connections() {
            let reason = "the router goes down";
            self.leave(id, Refusal::new(ByeCode::Drained, reason));
        }
        self.peers.iter().next().is_none()
    }

    /// True when nothing is queued, under way or unacknowledged.
    fn all_sent(&self) -> bool {
        self.forwarder.counters().queued == 0
            && self.bulks.len() == 0
            && self.exchanging.bulks() == 0
            && self.exchanging.all_given()
            && self.peers.iter().all(|peer| self.endpoint.acked(peer.id))
    }

    fn connections(&self) -> Vec<PeerId> {
        self.peers
            .iter()
            .filter(|peer| peer.phase != Phase::Leaving)
            .map(|peer| peer.id)
            .collect()
    }
}
