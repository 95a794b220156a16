//! From the transport thread to the application: messages in order of delivery, bounded in number and bytes. The thread
//! takes the lock once a tick; when there is no room it stops reading, and the application wakes it once half is free.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use crate::error::CloseReason;
use crate::protocol::Received;

/// How full the queue is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Level {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

impl Level {
    pub(crate) fn add(&mut self, payload_bytes: usize) {
        self.messages += 1;
        self.bytes += payload_bytes;
    }

    /// One message past the byte limit is let in, so that a message longer than the limit is not stuck for ever.
    pub(crate) fn has_room(&self, max: &Level) -> bool {
        self.messages < max.messages && self.bytes < max.bytes
    }
}

#[derive(Default)]
struct State {
    queue: VecDeque<Received>,
    bytes: usize,
    closed: Option<CloseReason>,
}

pub(crate) struct Inbox {
    state: Mutex<State>,
    max: Level,
    arrived: Notify,
    /// The thread has something and no room for it.
    thread_waits: AtomicBool,
}

/// A message, or why there will be no more.
pub(crate) type Next = Result<Received, CloseReason>;

impl Inbox {
    pub(crate) fn new(max: Level) -> Self {
        Self {
            state: Mutex::default(),
            max,
            arrived: Notify::new(),
            thread_waits: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn max(&self) -> &Level {
        &self.max
    }

    pub(crate) fn level(&self) -> Level {
        let state = self.lock();
        Level {
            messages: state.queue.len(),
            bytes: state.bytes,
        }
    }

    /// Puts a tick's messages in, leaving `batch` empty.
    pub(crate) fn push(&self, batch: &mut Vec<Received>) {
        if batch.is_empty() {
            return;
        }
        let bytes: usize = batch.iter().map(|received| received.payload.len()).sum();
        {
            let mut state = self.lock();
            state.bytes += bytes;
            state.queue.extend(batch.drain(..));
        }
        self.arrived.notify_one();
    }

    /// The thread stops for want of room. Answers false when there is room again meanwhile.
    pub(crate) fn wait_for_room(&self) -> bool {
        self.thread_waits.store(true, Ordering::SeqCst);
        if self.level().has_room(&self.max) {
            self.thread_waits.store(false, Ordering::SeqCst);
            return false;
        }
        true
    }

    pub(crate) fn close(&self, reason: CloseReason) {
        self.lock().closed = Some(reason);
        self.arrived.notify_one();
    }

    /// The next message, and whether the thread must be woken because there is room now.
    pub(crate) async fn next(&self) -> (Next, bool) {
        loop {
            let arrived = self.arrived.notified();
            if let Some(next) = self.try_next() {
                return next;
            }
            arrived.await;
        }
    }

    /// As `next`, without waiting.
    pub(crate) fn try_next(&self) -> Option<(Next, bool)> {
        let mut state = self.lock();
        let Some(received) = state.queue.pop_front() else {
            let closed = state.closed.clone()?;
            drop(state);
            self.arrived.notify_one(); // for the next one who waits
            return Some((Err(closed), false));
        };
        state.bytes -= received.payload.len();
        let (left, bytes) = (state.queue.len(), state.bytes);
        drop(state);
        if left > 0 {
            self.arrived.notify_one(); // there may be others waiting: one notification stands for a batch
        }
        Some((Ok(received), self.half_free(left, bytes)))
    }

    /// Up to `max` messages at the cost of one lock.
    pub(crate) fn take(&self, max: usize, into: &mut Vec<Received>) -> bool {
        let mut state = self.lock();
        let count = max.min(state.queue.len());
        into.reserve(count);
        for received in state.queue.drain(..count) {
            into.push(received);
        }
        let bytes: usize = into[into.len() - count..]
            .iter()
            .map(|r| r.payload.len())
            .sum();
        state.bytes -= bytes;
        let (left, bytes) = (state.queue.len(), state.bytes);
        drop(state);
        if left > 0 {
            self.arrived.notify_one();
        }
        self.half_free(left, bytes)
    }

    fn half_free(&self, messages: usize, bytes: usize) -> bool {
        messages <= self.max.messages / 2
            && bytes <= self.max.bytes / 2
            && self.thread_waits.load(Ordering::SeqCst)
            && self.thread_waits.swap(false, Ordering::SeqCst)
    }
}
