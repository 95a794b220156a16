//! One word between two threads, without a lock: one side says it and then
//! looks again, the other does its part and then listens.
//!
//! Both orders have a fence between, so of "he says it" and "I did something"
//! at least one is seen by the other: nobody waits for what has happened, and
//! no bell is rung that nobody waits for. The tests go through every order of
//! steps that the memory model admits.

use super::atomics::{AtomicBool, Ordering, fence};

/// A word said by one side and listened for by the other.
pub(super) struct Signal(AtomicBool);

impl Signal {
    /// Not said.
    pub(super) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Says it. What the speaker looks at afterwards is at least as new as what a listener that does not hear him has done.
    pub(super) fn say(&self) {
        self.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Takes it back: by the side that said it.
    pub(super) fn unsay(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Has it been said? Asked after the listener has done its part.
    pub(super) fn is_said(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed)
    }

    /// The same, and takes it: of several answers one comes.
    pub(super) fn take(&self) -> bool {
        self.is_said() && self.0.swap(false, Ordering::Relaxed)
    }
}
