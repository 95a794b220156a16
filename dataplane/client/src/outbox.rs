//! From the application to the transport thread: commands in order, and the send buffer's budget. One short lock per
//! command, one per tick on the other side. Knows nothing of what the commands do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use caplane_transport::Waker;
use tokio::sync::Semaphore;

use crate::command::Command;
use crate::error::CloseReason;

/// What a message is charged beside its payload: its place in windows, queues and tables (bytes, rounded up).
pub(crate) const MESSAGE_CHARGE: usize = 256;

pub(crate) struct Outbox {
    commands: Mutex<Vec<Command>>,
    budget: Semaphore,
    budget_bytes: usize,
    /// The thread was woken and has not yet looked.
    woken: AtomicBool,
    waker: Waker,
    closed: OnceLock<CloseReason>,
}

impl Outbox {
    pub(crate) fn new(budget_bytes: usize, waker: Waker) -> Self {
        Self {
            commands: Mutex::new(Vec::new()),
            budget: Semaphore::new(budget_bytes),
            budget_bytes,
            woken: AtomicBool::new(false),
            waker,
            closed: OnceLock::new(),
        }
    }

    /// Waits until the send buffer has room for a message and answers what it is charged.
    pub(crate) async fn charge(&self, payload_bytes: usize) -> Result<usize, CloseReason> {
        // A message larger than the whole budget may be sent when nothing else is there.
        let charge = (payload_bytes + MESSAGE_CHARGE).min(self.budget_bytes);
        match self.budget.acquire_many(charge as u32).await {
            Ok(permit) => {
                permit.forget();
                Ok(charge)
            }
            Err(_) => Err(self.close_reason()),
        }
    }

    /// Hands a command to the thread. `Err` gives it back when the client is closed.
    pub(crate) fn push(&self, command: Command) -> Result<(), CloseReason> {
        {
            let mut commands = self.commands.lock().unwrap_or_else(|e| e.into_inner());
            // Looked at under the lock: what is pushed before `close` drains is seen by it.
            if let Some(reason) = self.closed.get() {
                return Err(reason.clone());
            }
            commands.push(command);
        }
        self.wake();
        Ok(())
    }

    /// Makes the thread look, unless it was told already.
    pub(crate) fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel)
            && let Err(error) = self.waker.wake()
        {
            tracing::warn!(event = "wake_failed", %error, "the transport thread looks at its next timer");
        }
    }

    /// All commands since the last call, in `into`, which is empty.
    pub(crate) fn take(&self, into: &mut Vec<Command>) {
        debug_assert!(into.is_empty(), "commands are run before more are taken");
        self.woken.store(false, Ordering::Release);
        let mut commands = self.commands.lock().unwrap_or_else(|e| e.into_inner());
        std::mem::swap(&mut *commands, into);
    }

    /// Gives budget back.
    pub(crate) fn release(&self, bytes: usize) {
        if bytes > 0 {
            self.budget.add_permits(bytes);
        }
    }

    /// No more commands are taken; answers those that were not run.
    pub(crate) fn close(&self, reason: CloseReason) -> Vec<Command> {
        let left = {
            let mut commands = self.commands.lock().unwrap_or_else(|e| e.into_inner());
            let _ = self.closed.set(reason);
            std::mem::take(&mut *commands)
        };
        self.budget.close();
        left
    }

    /// No more messages are taken, other commands still are.
    pub(crate) fn close_budget(&self) {
        self.budget.close();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get().is_some()
    }

    pub(crate) fn close_reason(&self) -> CloseReason {
        self.closed
            .get()
            .cloned()
            .unwrap_or(CloseReason::Application)
    }
}
