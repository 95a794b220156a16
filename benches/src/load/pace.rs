//! When messages are due, and waking a thread at that time.

use super::Rate;
use caplane_transport::Waker;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

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

/// Wakes an endpoint at a time given in nanoseconds: epoll alone wakes in
/// milliseconds, which is too coarse to send a message when it is due.
pub struct Pacer {
    wake_at: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
    epoch: Instant,
}

const NEVER: u64 = u64::MAX;
const END: u64 = u64::MAX - 1;

impl Pacer {
    /// Starts the pacer of one endpoint.
    ///
    /// # Errors
    /// When the thread is refused.
    pub fn start(waker: Waker) -> std::io::Result<Pacer> {
        let wake_at = Arc::new(AtomicU64::new(NEVER));
        let epoch = Instant::now();
        let times = Arc::clone(&wake_at);
        let thread = std::thread::Builder::new()
            .name("pacer".into())
            .spawn(move || pace(&times, epoch, &waker))?;
        Ok(Pacer {
            wake_at,
            thread: Some(thread),
            epoch,
        })
    }

    /// Wakes the endpoint this long from `now`, unless told otherwise before.
    pub fn wake_in(&self, now: Instant, wait: Duration) {
        let at = (now.saturating_duration_since(self.epoch) + wait).as_nanos() as u64;
        if self.wake_at.swap(at, Ordering::AcqRel) != at
            && let Some(thread) = &self.thread
        {
            thread.thread().unpark();
        }
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.wake_at.store(END, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It holds nothing that a panic could have broken.
            let _ = thread.join();
        }
    }
}

fn pace(wake_at: &AtomicU64, epoch: Instant, waker: &Waker) {
    loop {
        let at = wake_at.load(Ordering::Acquire);
        let now = epoch.elapsed().as_nanos() as u64;
        match at {
            END => return,
            NEVER => std::thread::park(),
            _ if at > now => std::thread::park_timeout(Duration::from_nanos(at - now)),
            _ => {
                // Only if no other time was set meanwhile.
                let _ = wake_at.compare_exchange(at, NEVER, Ordering::AcqRel, Ordering::Acquire);
                if waker.wake().is_err() {
                    return;
                }
            }
        }
    }
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
