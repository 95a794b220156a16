//! When messages are due, and sleeping until then.

use super::Rate;
use std::num::NonZeroU64;

/// Due times of one sequence of messages.
#[derive(Clone, Debug)]
pub struct Schedule {
    interval_ns: Option<f64>,
    offset_ns: f64,
    sent: u64,
}

impl Schedule {
    /// Message n is due at `(n + phase) / rate` seconds after the start; at [`Rate::Max`] always.
    pub fn new(rate: Rate, phase: f64) -> Schedule {
        let interval_ns = match rate {
            Rate::PerSecond(rate) => Some(1e9 / rate),
            Rate::Max => None,
        };
        Schedule {
            interval_ns,
            offset_ns: interval_ns.unwrap_or(0.0) * phase,
            sent: 0,
        }
    }

    /// Due times of messages that are due at `now` and not sent yet, all in
    /// nanoseconds since the start of the run.
    pub fn due(&self, now_ns: u64) -> impl Iterator<Item = u64> + use<> {
        let (interval, offset, sent) = (self.interval_ns, self.offset_ns, self.sent);
        (sent..).map_while(move |n| match interval {
            None => Some(now_ns),
            Some(interval) => {
                let due = (offset + n as f64 * interval) as u64;
                (due <= now_ns).then_some(due)
            }
        })
    }

    /// When the next message is due; at [`Rate::Max`] now.
    pub fn next(&self, now_ns: u64) -> u64 {
        self.interval_ns.map_or(now_ns, |interval| {
            (self.offset_ns + self.sent as f64 * interval) as u64
        })
    }

    /// So many more were sent.
    pub fn advance(&mut self, messages: usize) {
        self.sent += messages as u64;
    }
}

/// Lets this thread's sleeps end when they are due: by default Linux lets them end up to 50 us later.
pub fn sleep_exactly() {
    // Where the system refuses, sends are later by that, and the report says so.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_due_at_fixed_times_however_late_the_sender_is() {
        let mut schedule = Schedule::new(Rate::PerSecond(1000.0), 0.5);
        assert_eq!(schedule.next(0), 500_000);
        assert_eq!(schedule.due(499_999).count(), 0);
        let due: Vec<u64> = schedule.due(3_000_000).collect();
        assert_eq!(due, [500_000, 1_500_000, 2_500_000]);
        schedule.advance(2);
        assert_eq!(schedule.due(3_000_000).collect::<Vec<_>>(), [2_500_000]);
        assert_eq!(schedule.next(0), 2_500_000);
    }

    #[test]
    fn at_full_speed_messages_are_always_due() {
        let schedule = Schedule::new(Rate::Max, 0.0);
        assert_eq!(schedule.due(7).take(3).collect::<Vec<_>>(), [7, 7, 7]);
    }
}
