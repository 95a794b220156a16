//! Sockets, the thread that serves them, and the handle that steers it.
//!
//! One thread: readiness from epoll, packets judged in order of arrival,
//! those with a time to wait kept in a heap. Waiting is rounded up to
//! milliseconds (epoll's unit), so a delay is met to within about 1 ms.

use super::command::{Command, Scope};
use super::{Conditions, Counters, Direction, Fate, ImpairConfig, Lane, Loss, Wire};
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token, Waker};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const WAKE: Token = Token(0);
const LISTEN: Token = Token(1);
/// The upstream socket of client n has token `UPSTREAM + n`.
const UPSTREAM: usize = 2;
/// Largest UDP payload (65,535 less the smallest headers), rounded up.
const PACKET_MAX: usize = 65_536;
/// Packets read from one socket before the others get their turn.
const BURST: usize = 64;
/// Asked of the kernel for each socket; it grants what `net.core.rmem_max`
/// allows. 4 MiB holds a burst of some 1,800 packets of 1,350 bytes.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// Packet buffers kept for reuse.
const SPARE_BUFFERS: usize = 4096;

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

#[derive(Debug)]
struct Shared {
    control: Mutex<Control>,
    applied: Condvar,
    waker: Waker,
    version: AtomicU64,
    stop: AtomicBool,
}

#[derive(Debug)]
struct Control {
    conditions: [Conditions; 2],
    rebinds: u64,
    version: u64,
    version_applied: u64,
    ended: bool,
    counters: Counters,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Control> {
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
        let mut socket = bind(config.listen).map_err(|cause| ImpairError::Listen {
            address: config.listen,
            cause,
        })?;
        let local_addr = socket.local_addr()?;
        poll.registry()
            .register(&mut socket, LISTEN, Interest::READABLE)?;
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
            waker: Waker::new(poll.registry(), WAKE)?,
            version: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let seed = config.seed;
        let relay = Relay::new(config, poll, socket, Arc::clone(&shared));
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

/// One client address and its upstream socket.
struct Client {
    address: SocketAddr,
    upstream: UdpSocket,
    lanes: [Lane; 2],
}

/// A packet whose time has not come. Ordered by time, then arrival.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    due: Duration,
    arrival: u64,
    client: usize,
    up: bool,
    data: Vec<u8>,
}

/// Says that the thread is gone, however it went: nobody may wait for it then.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.applied.notify_all();
    }
}

struct Relay {
    config: ImpairConfig,
    shared: Arc<Shared>,
    poll: Poll,
    socket: UdpSocket,
    clients: Vec<Client>,
    client_by_address: HashMap<SocketAddr, usize>,
    conditions: [Conditions; 2],
    wires: [Wire; 2],
    version: u64,
    rebinds: u64,
    held: BinaryHeap<Reverse<Held>>,
    held_bytes: usize,
    arrivals: u64,
    spare: Vec<Vec<u8>>,
    counters: Counters,
    start: Instant,
}

impl Relay {
    fn new(config: ImpairConfig, poll: Poll, socket: UdpSocket, shared: Arc<Shared>) -> Relay {
        Relay {
            conditions: config.conditions,
            config,
            shared,
            poll,
            socket,
            clients: Vec::new(),
            client_by_address: HashMap::new(),
            wires: [Wire::default(); 2],
            version: 0,
            rebinds: 0,
            held: BinaryHeap::new(),
            held_bytes: 0,
            arrivals: 0,
            spare: Vec::new(),
            counters: Counters::default(),
            start: Instant::now(),
        }
    }

    fn run(mut self) -> io::Result<()> {
        let _ended = Ended(Arc::clone(&self.shared));
        let result = self.serve();
        self.abandon();
        self.counters.kernel_dropped = self.kernel_dropped();
        self.shared.lock().counters = self.counters;
        result
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        let mut scratch = vec![0u8; PACKET_MAX];
        // Sockets that may still hold packets: epoll reports an edge once.
        let mut ready: VecDeque<Token> = VecDeque::new();
        while !self.shared.stop.load(Ordering::Acquire) {
            let timeout = if ready.is_empty() {
                self.time_to_next()
            } else {
                Some(Duration::ZERO)
            };
            match self.poll.poll(&mut events, timeout) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                if event.token() != WAKE && !ready.contains(&event.token()) {
                    ready.push_back(event.token());
                }
            }
            self.take_changes(&mut ready)?;
            let now = self.start.elapsed();
            self.release(now);
            for _ in 0..ready.len() {
                let Some(token) = ready.pop_front() else {
                    break;
                };
                if self.read(token, now, &mut scratch)? {
                    ready.push_back(token);
                }
            }
            self.shared.lock().counters = self.counters;
        }
        Ok(())
    }

    fn time_to_next(&self) -> Option<Duration> {
        let Reverse(next) = self.held.peek()?;
        Some(next.due.saturating_sub(self.start.elapsed()))
    }

    fn take_changes(&mut self, ready: &mut VecDeque<Token>) -> io::Result<()> {
        if self.shared.version.load(Ordering::Acquire) == self.version {
            return Ok(());
        }
        let mut control = self.shared.lock();
        self.version = control.version;
        self.conditions = control.conditions;
        let rebind = self.rebinds != control.rebinds;
        self.rebinds = control.rebinds;
        control.version_applied = self.version;
        drop(control);
        if rebind {
            for n in 0..self.clients.len() {
                let fresh = self.upstream(n)?;
                self.clients[n].upstream = fresh;
                ready.push_back(Token(UPSTREAM + n));
            }
        }
        self.shared.applied.notify_all();
        Ok(())
    }

    /// Reads a burst; true when there may be more.
    fn read(&mut self, token: Token, now: Duration, scratch: &mut [u8]) -> io::Result<bool> {
        for _ in 0..BURST {
            let received = if token == LISTEN {
                self.socket
                    .recv_from(scratch)
                    .map(|(len, from)| (len, Some(from)))
            } else {
                self.clients[token.0 - UPSTREAM]
                    .upstream
                    .recv(scratch)
                    .map(|len| (len, None))
            };
            let (len, from) = match received {
                Ok(received) => received,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                // An ICMP error about an earlier packet (the target is not there): as on a
                // real path, the client learns nothing of it here.
                Err(_) => continue,
            };
            let (client, direction) = match from {
                None => (token.0 - UPSTREAM, Direction::Down),
                Some(address) => match self.client(address)? {
                    Some(client) => (client, Direction::Up),
                    None => {
                        self.counters.clients_refused += 1;
                        continue;
                    }
                },
            };
            self.packet(now, client, direction, &scratch[..len]);
        }
        Ok(true)
    }

    /// The number of this client address, made on first sight; `None` past `clients_max`.
    fn client(&mut self, address: SocketAddr) -> io::Result<Option<usize>> {
        if let Some(&known) = self.client_by_address.get(&address) {
            return Ok(Some(known));
        }
        let n = self.clients.len();
        if n == self.config.clients_max {
            return Ok(None);
        }
        let upstream = self.upstream(n)?;
        let lane = |d| Lane::new(self.config.seed, n as u64, d, address.is_ipv6());
        self.clients.push(Client {
            address,
            upstream,
            lanes: [lane(Direction::Up), lane(Direction::Down)],
        });
        self.client_by_address.insert(address, n);
        self.counters.clients += 1;
        Ok(Some(n))
    }

    fn upstream(&self, client: usize) -> io::Result<UdpSocket> {
        let any: SocketAddr = if self.config.target.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let mut socket = bind(any)?;
        socket.connect(self.config.target)?;
        self.poll
            .registry()
            .register(&mut socket, Token(UPSTREAM + client), Interest::READABLE)?;
        Ok(socket)
    }

    fn packet(&mut self, now: Duration, client: usize, direction: Direction, data: &[u8]) {
        let way = direction as usize;
        let count = self.counters.direction_mut(direction);
        count.received += 1;
        count.received_bytes += data.len() as u64;
        let lane = &mut self.clients[client].lanes[way];
        let fate = lane.judge(now, data.len(), &self.conditions[way], &mut self.wires[way]);
        let (due, copy_due, reordered) = match fate {
            Fate::Lost(loss) => return count.count_loss(loss),
            Fate::Passed {
                due,
                copy_due,
                reordered,
            } => (due, copy_due, reordered),
        };
        count.reordered += u64::from(reordered);
        count.duplicated += u64::from(copy_due.is_some());
        for due in [Some(due), copy_due].into_iter().flatten() {
            if due <= now {
                self.send(client, direction, data);
            } else {
                self.hold(due, client, direction, data);
            }
        }
    }

    fn hold(&mut self, due: Duration, client: usize, direction: Direction, data: &[u8]) {
        if self.held_bytes + data.len() > self.config.held_bytes_max {
            let count = self.counters.direction_mut(direction);
            return count.count_loss(Loss::QueueFull);
        }
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.extend_from_slice(data);
        self.held_bytes += copy.len();
        self.arrivals += 1;
        self.held.push(Reverse(Held {
            due,
            arrival: self.arrivals,
            client,
            up: direction == Direction::Up,
            data: copy,
        }));
    }

    /// Sends what is due.
    fn release(&mut self, now: Duration) {
        while self
            .held
            .peek()
            .is_some_and(|Reverse(next)| next.due <= now)
        {
            let Some(Reverse(mut held)) = self.held.pop() else {
                break;
            };
            self.held_bytes -= held.data.len();
            self.send(held.client, held.direction(), &held.data);
            if self.spare.len() < SPARE_BUFFERS {
                held.data.clear();
                self.spare.push(held.data);
            }
        }
    }

    /// Counts what is still held as unsent.
    fn abandon(&mut self) {
        for Reverse(held) in std::mem::take(&mut self.held) {
            self.counters.direction_mut(held.direction()).unsent += 1;
        }
        self.held_bytes = 0;
    }

    fn send(&mut self, client: usize, direction: Direction, data: &[u8]) {
        let client = &self.clients[client];
        let sent = match direction {
            Direction::Up => client.upstream.send(data),
            Direction::Down => self.socket.send_to(data, client.address),
        };
        let count = self.counters.direction_mut(direction);
        match sent {
            Ok(_) => count.forwarded += 1,
            Err(_) => count.unsent += 1,
        }
    }

    /// Sum of the drops the kernel counted on our sockets.
    fn kernel_dropped(&self) -> u64 {
        let sockets = self.clients.iter().map(|c| &c.upstream);
        let ports: Vec<u16> = std::iter::once(&self.socket)
            .chain(sockets)
            .filter_map(|socket| socket.local_addr().ok())
            .map(|address| address.port())
            .collect();
        let table = if self.config.listen.is_ipv4() {
            "/proc/net/udp"
        } else {
            "/proc/net/udp6"
        };
        std::fs::read_to_string(table).map_or(0, |text| dropped_on(&text, &ports))
    }
}

impl Held {
    fn direction(&self) -> Direction {
        if self.up {
            Direction::Up
        } else {
            Direction::Down
        }
    }
}

/// Adds up the last column of `/proc/net/udp` (drops) over our local ports.
fn dropped_on(table: &str, ports: &[u16]) -> u64 {
    let drops = |line: &str| -> Option<u64> {
        let local = line.split_whitespace().nth(1)?;
        let (_, port) = local.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        ports
            .contains(&port)
            .then(|| line.split_whitespace().last()?.parse().ok())?
    };
    table.lines().skip(1).filter_map(drops).sum()
}

/// A non-blocking UDP socket with large buffers, segmentation offload left off (the default).
fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(UdpSocket::from_std(socket.into()))
}

#[cfg(test)]
mod tests;
