//! The run's clock and its phases, shared by all threads without locks.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Phases of a run on one clock (nanoseconds since the run's epoch).
#[derive(Debug)]
pub struct Window {
    epoch: Instant,
    warm_up_ns: u64,
    duration_ns: u64,
    /// When the first message is due; 0 while threads are still attaching.
    start_ns: AtomicU64,
    seated: AtomicUsize,
    stop: AtomicBool,
}

impl Window {
    /// A window that has not begun.
    pub fn new(warm_up: Duration, duration: Duration) -> Window {
        Window {
            epoch: Instant::now(),
            warm_up_ns: warm_up.as_nanos() as u64,
            duration_ns: duration.as_nanos() as u64,
            start_ns: AtomicU64::new(0),
            seated: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        }
    }

    /// Nanoseconds since the epoch.
    pub fn at(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_nanos() as u64
    }

    /// When the clock began.
    pub fn epoch(&self) -> Instant {
        self.epoch
    }

    /// Nanoseconds since the epoch, now.
    pub fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    /// One more thread is attached and ready.
    pub fn seat(&self) {
        self.seated.fetch_add(1, Ordering::AcqRel);
    }

    /// Threads ready so far.
    pub fn seated(&self) -> usize {
        self.seated.load(Ordering::Acquire)
    }

    /// Begins the run a moment from now, so that all threads see it in time.
    pub fn begin(&self) {
        self.start_ns
            .store(self.now() + 1_000_000, Ordering::Release);
    }

    /// When the first message is due; `None` before [`Window::begin`].
    pub fn start(&self) -> Option<u64> {
        match self.start_ns.load(Ordering::Acquire) {
            0 => None,
            start => Some(start),
        }
    }

    /// First and last moment measured; `None` before [`Window::begin`].
    pub fn measured(&self) -> Option<(u64, u64)> {
        let from = self.start()? + self.warm_up_ns;
        Some((from, from + self.duration_ns))
    }

    /// Tells all threads to end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Whether threads are to end.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}
