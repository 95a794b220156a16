//! A loop closed from end to end: so many messages under way at most, counted
//! from the sender to the slowest of those they are for.
//!
//! Flow control closes a loop over one router only. Behind it a fabric drops
//! what does not fit into a queue, and it drops copies for a group anywhere: at
//! full speed without a bound a run compares losses. Refuses to know what a
//! message is.

use super::receiver::Progress;
use caplane_transport::Waker;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Nothing arrived for so long: what is under way is lost and no longer counted.
const GIVEN_UP: Duration = Duration::from_millis(200);

/// Shared by all threads of a run.
pub(super) struct UnderWay {
    messages_max: u64,
    /// Every message is for every receiver.
    fan_out: bool,
    parties: Mutex<Parties>,
    /// A sender found no room and waits for its waker.
    waiting: AtomicBool,
    /// Messages that were given up.
    lost: AtomicU64,
}

#[derive(Default)]
struct Parties {
    sending: Vec<Arc<Progress>>,
    receiving: Vec<Arc<Progress>>,
    wakers: Vec<Waker>,
}

impl UnderWay {
    pub(super) fn new(messages_max: u64, fan_out: bool) -> UnderWay {
        UnderWay {
            messages_max,
            fan_out,
            parties: Mutex::default(),
            waiting: AtomicBool::new(false),
            lost: AtomicU64::new(0),
        }
    }

    fn parties(&self) -> std::sync::MutexGuard<'_, Parties> {
        // A thread that panicked left nothing half done in here.
        self.parties.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more thread sends.
    pub(super) fn sends(&self, progress: Arc<Progress>, waker: Waker) {
        let mut parties = self.parties();
        parties.sending.push(progress);
        parties.wakers.push(waker);
    }

    /// One more thread receives.
    pub(super) fn receives(&self, progress: Arc<Progress>) {
        self.parties().receiving.push(progress);
    }

    /// A sender's view, once all threads are known.
    pub(super) fn gate(self: &Arc<UnderWay>) -> Gate {
        let parties = self.parties();
        Gate {
            sending: parties.sending.clone(),
            receiving: parties.receiving.clone(),
            shared: Arc::clone(self),
            arrived: 0,
            since: Instant::now(),
        }
    }

    /// A receiver's word that something arrived: wakes who waits.
    pub(super) fn moved(&self) {
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) && self.waiting.swap(false, Ordering::Relaxed) {
            for waker in &self.parties().wakers {
                // Its endpoint is gone: then it waits for nothing.
                let _ = waker.wake();
            }
        }
    }
}

/// Lets one sender's messages through.
pub(super) struct Gate {
    sending: Vec<Arc<Progress>>,
    receiving: Vec<Arc<Progress>>,
    shared: Arc<UnderWay>,
    /// What had arrived when that last changed, and when.
    arrived: u64,
    since: Instant,
}

impl Gate {
    /// Messages that may be sent now, beside `unpublished` ones that the sender's own progress does not show yet.
    pub(super) fn room(&mut self, unpublished: u64, now: Instant) -> u64 {
        let room = self.look(unpublished);
        if room > 0 {
            return room;
        }
        self.shared.waiting.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let room = self.look(unpublished);
        let arrived = self.arrived();
        if room > 0 || arrived != self.arrived {
            (self.arrived, self.since) = (arrived, now);
        } else if now.saturating_duration_since(self.since) > GIVEN_UP {
            let lost = self.sent() + unpublished - arrived;
            self.shared.lost.store(lost, Ordering::Relaxed);
            self.since = now;
        }
        room
    }

    fn look(&self, unpublished: u64) -> u64 {
        let gone = self.arrived() + self.shared.lost.load(Ordering::Relaxed);
        let under_way = (self.sent() + unpublished).saturating_sub(gone);
        self.shared.messages_max.saturating_sub(under_way)
    }

    fn sent(&self) -> u64 {
        self.sending.iter().map(messages).sum()
    }

    fn arrived(&self) -> u64 {
        let each = self.receiving.iter().map(messages);
        match self.shared.fan_out {
            true => each.min().unwrap_or_default(),
            false => each.sum(),
        }
    }
}

fn messages(progress: &Arc<Progress>) -> u64 {
    progress.messages.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(fan_out: bool) -> (Gate, [Arc<Progress>; 3]) {
        let parties: [Arc<Progress>; 3] = std::array::from_fn(|_| Arc::default());
        let under_way = Arc::new(UnderWay::new(10, fan_out));
        under_way.parties().sending.push(Arc::clone(&parties[0]));
        under_way.receives(Arc::clone(&parties[1]));
        under_way.receives(Arc::clone(&parties[2]));
        (under_way.gate(), parties)
    }

    #[test]
    fn room_is_what_has_arrived_at_all_of_them_or_at_the_slowest() {
        for (fan_out, room) in [(false, 8), (true, 3)] {
            let (mut gate, parties) = gate(fan_out);
            let now = Instant::now();
            assert_eq!(gate.room(4, now), 6);
            parties[0].messages.store(8, Ordering::Relaxed);
            parties[1].messages.store(1, Ordering::Relaxed);
            parties[2].messages.store(5, Ordering::Relaxed);
            assert_eq!(gate.room(0, now), room);
        }
    }

    #[test]
    fn what_does_not_arrive_is_given_up_after_a_while() {
        let (mut gate, parties) = gate(false);
        let now = Instant::now();
        parties[0].messages.store(10, Ordering::Relaxed);
        assert_eq!(gate.room(0, now), 0);
        assert_eq!(gate.room(0, now + GIVEN_UP / 2), 0);
        assert_eq!(gate.room(0, now + 2 * GIVEN_UP), 0);
        assert_eq!(gate.room(0, now + 2 * GIVEN_UP), 10);
    }
}
