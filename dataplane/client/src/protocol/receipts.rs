//! What receipts tell of the messages that have none yet: how long to wait, and which of them are only late. Knows neither
//! payloads nor timers.
//!
//! A hop's QUIC repairs what the network loses, so a message that is gone was dropped by a full queue or held by a router or
//! instance that died. Much more often it waits in a queue on the way, and to send it again would make that queue longer.
//! So, as TCP does on its ordered stream (RFC 6298 section 5): while receipts come in, the timer begins anew; when it fires, the
//! oldest message alone is sent again and the wait is doubled until a message sent once is receipted (Karn). The others are
//! sent again when a later one was receipted, or when the copy of the oldest was and nothing else followed.

use std::time::Duration;

use super::outstanding::{Outstanding, Phase};
use super::queues::Queue;
use super::rtt::{ResendBounds, Rtt};

/// What is known of one flow's messages on one kind of carrier.
#[derive(Debug, Default)]
pub(crate) struct Receipts {
    rtt: Rtt,
    /// How often the timer fired since a message that was sent once was receipted.
    timeouts: u32,
    /// When the last receipt came.
    latest: Duration,
    /// Numbers hand-overs, from 0.
    next_order: u64,
    /// One handed over as this number is receipted, and a lane keeps order: those before it are gone or rerouted.
    passed: u64,
    /// A copy that was handed over as this number is receipted, and none that was sent once before it since.
    suspect: Option<u64>,
}

/// One message without a receipt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn {
    /// Its last hand-over among all.
    pub(crate) order: u64,
    pub(crate) attempts: u32,
    /// When it left for good.
    pub(crate) at: Duration,
    /// What it may conclude from the others.
    pub(crate) place: Place,
    pub(crate) patience: f64,
}

/// Where a message stands among those without a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The oldest of an ordered flow: the timer is about it.
    Oldest,
    /// Behind the oldest.
    Behind,
    /// Of a flow without order: each has a timer of its own.
    Loose,
}

/// When a message is sent again, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) at: Duration,
    /// The flow's timer fires with it.
    pub(crate) timeout: bool,
}

impl Receipts {
    /// Numbers a hand-over.
    pub(crate) fn leave(&mut self) -> u64 {
        let order = self.next_order;
        self.next_order += 1;
        order
    }

    /// A message's first receipt or its reply came.
    pub(crate) fn came<T>(&mut self, now: Duration, out: &Outstanding<T>) {
        self.latest = now;
        self.passed = self.passed.max(out.first_order);
        if out.attempts > 1 {
            self.suspect = Some(out.order);
            return;
        }
        if let Phase::Sent { at } = out.phase {
            self.rtt.sample(now.saturating_sub(at));
            self.timeouts = 0;
        }
        if self.suspect.is_some_and(|copy| out.order < copy) {
            self.suspect = None;
        }
    }

    /// The timer of the oldest message fired.
    pub(crate) fn timed_out(&mut self) {
        self.timeouts = self.timeouts.saturating_add(1);
    }

    /// What comes now takes another way: earlier silence says nothing of it.
    pub(crate) fn another_way(&mut self) {
        self.timeouts = 0;
        self.suspect = None;
    }

    /// Whether a later message was receipted than the one that was handed over as number `order`.
    pub(crate) fn passed(&self, order: u64) -> bool {
        order < self.passed
    }

    /// Time to wait for a receipt of a message that was sent `attempts` times.
    pub(crate) fn wait(&self, attempts: u32, bounds: &ResendBounds) -> Duration {
        self.rtt.wait(attempts.saturating_sub(1), bounds)
    }

    /// When to send a message again. `None`: when something else tells.
    pub(crate) fn due(&self, turn: &Turn, bounds: &ResendBounds) -> Option<Due> {
        let own = self.wait(turn.attempts, bounds).mul_f64(turn.patience);
        if self.passed(turn.order) {
            return Some(Due {
                at: turn.at + own,
                timeout: false,
            });
        }
        let since = turn.at.max(self.latest);
        let flows = self.rtt.wait(self.timeouts, bounds);
        let gone = self.suspect.is_some_and(|copy| turn.order < copy);
        let wait = match turn.place {
            Place::Loose => own,
            Place::Oldest | Place::Behind if gone => flows, // all at once
            Place::Oldest => flows.mul_f64(turn.patience),
            Place::Behind => return None,
        };
        Some(Due {
            at: since + wait,
            timeout: turn.place == Place::Oldest,
        })
    }
}

/// Which lanes hold bytes that QUIC has not taken: what was handed to them last has not left yet.
#[derive(Debug, Default)]
pub(crate) struct LaneStates(Vec<Option<Blocked>>);

/// The last time that a lane was not taken from.
#[derive(Debug, Clone, Copy)]
struct Blocked {
    since: Duration,
    /// `None` while it is.
    until: Option<Duration>,
}

impl LaneStates {
    /// Whether QUIC holds all that the lane was given.
    pub(crate) fn tell(&mut self, lane: usize, now: Duration, clear: bool) {
        if self.0.len() <= lane {
            if clear {
                return;
            }
            self.0.resize(lane + 1, None);
        }
        match (&mut self.0[lane], clear) {
            (Some(blocked), true) => {
                blocked.until.get_or_insert(now);
            }
            (Some(Blocked { until: None, .. }), false) | (None, true) => {}
            (blocked, false) => {
                *blocked = Some(Blocked {
                    since: now,
                    until: None,
                });
            }
        }
    }

    /// When a message handed over `at` left for good: now at the earliest while it is held.
    pub(crate) fn left(&self, queue: Queue, at: Duration, now: Duration) -> Duration {
        let Queue::Lane(lane) = queue else { return at };
        match self.0.get(lane) {
            Some(Some(blocked)) if blocked.since <= at => at.max(blocked.until.unwrap_or(now)),
            _ => at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_message_leaves_when_its_lane_clears() {
        let mut lanes = LaneStates::default();
        let lane = Queue::Lane(3);
        assert_eq!(lanes.left(lane, ms(5), ms(9)), ms(5));
        lanes.tell(3, ms(10), false);
        lanes.tell(3, ms(20), false);
        assert_eq!(lanes.left(lane, ms(5), ms(30)), ms(5), "taken before");
        assert_eq!(lanes.left(lane, ms(10), ms(30)), ms(30), "held");
        assert_eq!(lanes.left(Queue::Lane(4), ms(10), ms(30)), ms(10));
        lanes.tell(3, ms(40), true);
        lanes.tell(3, ms(50), true);
        assert_eq!(lanes.left(lane, ms(10), ms(90)), ms(40));
        assert_eq!(lanes.left(lane, ms(60), ms(90)), ms(60));
    }
}
