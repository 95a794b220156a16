//! The handle that starts, steers and stops a relay.

use super::command::{Command, Scope};
use super::relay::Relay;
use super::socket::bind;
use super::{Conditions, Counters, Direction, ImpairConfig};
use mio::{Poll, Waker};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Why a relay could not start or stopped early.
#[derive(Debug, thiserror::Error)]
pub enum ImpairError {
    /// The sockets could not be set up.
    #[error("impairer: cannot listen on {address}: {cause}; choose another address or port 0")]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// What the system said.
        cause: io::Error,
    },
    /// Listener and target must be of one address family.
    #[error("impairer: {listen} cannot relay to {target}: use one address family for both")]
    Family {
        /// Where clients send.
        listen: SocketAddr,
        /// Where packets go.
        target: SocketAddr,
    },
    /// The relay's own machinery failed.
    #[error("impairer: {0}")]
    Io(#[from] io::Error),
    /// The relay's thread panicked.
    #[error("impairer: the relay thread panicked")]
    Panicked,
}

/// A running relay. Dropping it stops it.
#[derive(Debug)]
pub struct Impairer {
    shared: Arc<Shared>,
    local_addr: SocketAddr,
    seed: u64,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// What the handle and the thread share.
#[derive(Debug)]
pub(super) struct Shared {
    control: Mutex<Control>,
    /// Signalled when the thread has taken a change, or has ended.
    pub(super) applied: Condvar,
    waker: Waker,
    /// `Control::version`, to be looked at without the lock.
    pub(super) version: AtomicU64,
    pub(super) stop: AtomicBool,
}

/// What is wanted of the thread, and what it has done.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) conditions: [Conditions; 2],
    pub(super) rebinds: u64,
    pub(super) version: u64,
    pub(super) version_applied: u64,
    pub(super) ended: bool,
    pub(super) counters: Counters,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Control> {
        // Plain values: a panicking thread leaves nothing half-done in them.
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Impairer {
    /// Binds and starts a relay.
    ///
    /// # Errors
    /// [`ImpairError::Listen`] or [`ImpairError::Family`] for the addresses,
    /// [`ImpairError::Io`] when epoll or the thread is refused.
    pub fn start(config: ImpairConfig) -> Result<Impairer, ImpairError> {
        if config.listen.is_ipv4() != config.target.is_ipv4() {
            return Err(ImpairError::Family {
                listen: config.listen,
                target: config.target,
            });
        }
        let poll = Poll::new()?;
        let socket = bind(config.listen).map_err(|cause| ImpairError::Listen {
            address: config.listen,
            cause,
        })?;
        let local_addr = socket.local_addr()?;
        let shared = Arc::new(Shared {
            control: Mutex::new(Control {
                conditions: config.conditions,
                rebinds: 0,
                version: 0,
                version_applied: 0,
                ended: false,
                counters: Counters::default(),
            }),
            applied: Condvar::new(),
            waker: Relay::waker(poll.registry())?,
            version: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let seed = config.seed;
        let relay = Relay::new(config, poll, socket, Arc::clone(&shared))?;
        let thread = std::thread::Builder::new()
            .name("impair".into())
            .spawn(move || relay.run())?;
        Ok(Impairer {
            shared,
            local_addr,
            seed,
            thread: Some(thread),
        })
    }

    /// Where clients must send.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The seed of this run's decisions.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Carries out a command; a change is in force for every packet read after the return.
    pub fn command(&self, scope: Scope, command: Command) {
        match command {
            Command::Quit => self.ask_to_stop(),
            Command::Rebind => self.change(|control| control.rebinds += 1),
            Command::Show => {}
            _ => self.change(|control| {
                for direction in Direction::BOTH {
                    if scope.covers(direction) {
                        command.apply(&mut control.conditions[direction as usize]);
                    }
                }
            }),
        }
    }

    /// Replaces the conditions of both directions.
    pub fn set(&self, conditions: Conditions) {
        self.change(|control| control.conditions = [conditions; 2]);
    }

    /// Nothing passes any more, in either direction. Packets already under way arrive.
    pub fn cut(&self) {
        self.command(Scope::Both, Command::Cut);
    }

    /// Ends a cut; other impairments stay.
    pub fn heal(&self) {
        self.command(Scope::Both, Command::Heal);
    }

    /// Conditions in force: `[up, down]`.
    pub fn conditions(&self) -> [Conditions; 2] {
        self.shared.lock().conditions
    }

    /// What was counted up to the relay's last turn.
    pub fn counters(&self) -> Counters {
        self.shared.lock().counters
    }

    /// Whether the relay has stopped (after [`Command::Quit`], or by an error).
    pub fn ended(&self) -> bool {
        self.shared.lock().ended
    }

    /// Stops the relay and returns the final counters.
    ///
    /// # Errors
    /// Why the relay had ended before, if it had.
    pub fn stop(mut self) -> Result<Counters, ImpairError> {
        self.join()?;
        Ok(self.counters())
    }

    fn join(&mut self) -> Result<(), ImpairError> {
        self.ask_to_stop();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(ended)) => Ok(ended?),
            Some(Err(_)) => Err(ImpairError::Panicked),
            None => Ok(()),
        }
    }

    fn ask_to_stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        // An eventfd write fails only when its counter is full: then a wakeup is pending anyway.
        let _ = self.shared.waker.wake();
    }

    fn change(&self, edit: impl FnOnce(&mut Control)) {
        let mut control = self.shared.lock();
        edit(&mut control);
        control.version += 1;
        let wanted = control.version;
        self.shared.version.store(wanted, Ordering::Release);
        self.wake();
        while control.version_applied < wanted && !control.ended {
            control = self
                .shared
                .applied
                .wait(control)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Impairer {
    fn drop(&mut self) {
        // Whoever wants the error calls `stop`.
        let _ = self.join();
    }
}
