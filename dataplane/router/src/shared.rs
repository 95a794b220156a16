//! What the control thread and the workers have in common, and nothing more: the
//! published table, the register of attachments, and the two directions of messages.
//!
//! Invariant: nothing here is touched once per message. A worker loads the table
//! once a tick; the register's lock is taken when an instance comes or goes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use caplane_core::Fib;
use caplane_proto::v1;
use caplane_transport::{PeerId, Waker};
use caplane_wire::Label;
use crossbeam::channel::{Sender, TrySendError};
use tokio::sync::{Notify, oneshot};

use crate::attachments::Attachments;
use crate::worker::WorkerSnapshot;

/// A table in force. Workers compare `epoch`, since generations of different
/// stores may be equal.
pub struct Published {
    /// Counts publications of this process, from 0.
    pub epoch: u64,
    /// The table.
    pub fib: Arc<Fib>,
}

/// Shared by the control thread and all workers.
pub struct Shared {
    /// The router's name, for `Welcome`.
    pub router_name: String,
    /// The table in force.
    pub table: ArcSwap<Published>,
    /// The router runs on its stored table, without a controller.
    pub stale: AtomicBool,
    /// Wakes the control thread: a table is live, an attachment changed.
    pub control: Notify,
    live: Box<[AtomicU64]>,
    attachments: Mutex<Attachments>,
}

impl Shared {
    /// State before the first publication: `fib` at epoch 0, stale.
    pub fn new(router_name: String, fib: Fib, workers: u8) -> Self {
        Self {
            router_name,
            table: ArcSwap::from_pointee(Published {
                epoch: 0,
                fib: Arc::new(fib),
            }),
            stale: AtomicBool::new(true),
            control: Notify::new(),
            live: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            attachments: Mutex::new(Attachments::default()),
        }
    }

    /// The register of attachments.
    pub fn attachments(&self) -> MutexGuard<'_, Attachments> {
        // A worker that panicked while it held the lock has left whole entries behind: every
        // method of the register changes its maps one call at a time.
        self.attachments
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `fib` in force and returns its epoch; the workers take it at their next tick.
    pub fn publish(&self, fib: Arc<Fib>) -> u64 {
        let epoch = self.table.load().epoch + 1;
        self.table.store(Arc::new(Published { epoch, fib }));
        epoch
    }

    /// A worker says that it forwards by the table of `epoch`.
    pub fn report_live(&self, worker: u8, epoch: u64) {
        self.live[usize::from(worker)].store(epoch, Ordering::Release);
        self.control.notify_one();
    }

    /// The newest epoch that is live on every worker.
    pub fn live_everywhere(&self) -> u64 {
        self.live
            .iter()
            .map(|epoch| epoch.load(Ordering::Acquire))
            .min()
            .unwrap_or(0)
    }

    /// True while the router runs without a controller.
    pub fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }
}

/// From the control thread to one worker.
#[derive(Debug)]
pub enum Command {
    /// Send a copy of the counters.
    Report(oneshot::Sender<WorkerSnapshot>),
    /// The answer to a relayed Resolve.
    Resolved {
        /// Who asked.
        peer: PeerId,
        /// What it is told.
        answer: v1::Resolved,
    },
    /// The controller does not accept this attachment.
    CloseInstance {
        /// Its label.
        label: Label,
        /// Why, for `Bye`.
        code: v1::ByeCode,
        /// Why, in words.
        reason: String,
    },
    /// The addresses of a neighbour's host name; empty = none was found.
    NeighbourAddress {
        /// The neighbour.
        router: Label,
        /// What was looked up.
        name: String,
        /// The first address found.
        address: Option<std::net::SocketAddr>,
    },
    /// Take nothing new, finish, say Bye, then end; at the latest after this time.
    Drain(Duration),
    /// End at once.
    Stop,
}

/// From a worker to the control thread.
#[derive(Debug)]
pub enum Note {
    /// A Resolve that the tables cannot answer.
    Resolve {
        /// Which worker asks.
        worker: u8,
        /// For which peer.
        peer: PeerId,
        /// Its identity.
        asker: String,
        /// The question.
        query: v1::Resolve,
    },
    /// A neighbour's address is a host name; workers do not wait for name servers.
    LookUp {
        /// Which worker asks.
        worker: u8,
        /// The neighbour.
        router: Label,
        /// `host:port`.
        name: String,
    },
}

/// Most commands waiting for one worker. A worker empties its channel every tick; only one
/// that is stuck lets it fill.
pub const COMMANDS_MAX: usize = 1024;

/// Most notes waiting for the control thread.
pub const NOTES_MAX: usize = 1024;

/// The control thread's end of one worker.
#[derive(Clone)]
pub struct WorkerHandle {
    commands: Sender<Command>,
    waker: Waker,
}

impl WorkerHandle {
    /// A handle that sends on `commands` and wakes by `waker`.
    pub fn new(commands: Sender<Command>, waker: Waker) -> Self {
        Self { commands, waker }
    }

    /// Sends one command and wakes the worker.
    ///
    /// # Errors
    ///
    /// The command, when the worker's channel is full or the worker is gone.
    pub fn send(&self, command: Command) -> Result<(), Command> {
        self.commands.try_send(command).map_err(|e| match e {
            TrySendError::Full(command) | TrySendError::Disconnected(command) => command,
        })?;
        self.wake();
        Ok(())
    }

    /// Makes the worker begin a tick.
    pub fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            tracing::warn!(event = "wake_failed", %error, "a worker could not be woken; it goes on at its next timer");
        }
    }
}
