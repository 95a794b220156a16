//! The thread that relays.
//!
//! One thread for all clients: readiness from epoll, packets judged in order of arrival,
//! those with a time to wait kept in a heap. Waiting is rounded up to
//! milliseconds (epoll's unit), so a delay is met to within about 1 ms.

use super::handle::Shared;
use super::socket::{bind, dropped_on};
use super::{Conditions, Counters, Direction, Fate, ImpairConfig, Lane, Loss, Wire};
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const WAKE: Token = Token(0);
const LISTEN: Token = Token(1);
/// The upstream socket of client n has token `UPSTREAM + n`.
const UPSTREAM: usize = 2;
/// Largest UDP payload (65,535 less the smallest headers), rounded up.
const PACKET_MAX: usize = 65_536;
/// Packets read from one socket before the others get their turn.
const BURST: usize = 64;
/// Packet buffers kept for reuse.
const SPARE_BUFFERS: usize = 4096;

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

/// The state of the relay's thread.
pub(super) struct Relay {
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
    /// A relay on a bound socket; `poll` already holds the waker of `shared`.
    pub(super) fn new(
        config: ImpairConfig,
        poll: Poll,
        mut socket: UdpSocket,
        shared: Arc<Shared>,
    ) -> io::Result<Relay> {
        poll.registry()
            .register(&mut socket, LISTEN, Interest::READABLE)?;
        Ok(Relay {
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
        })
    }

    /// The waker to put into `Shared`.
    pub(super) fn waker(registry: &Registry) -> io::Result<Waker> {
        Waker::new(registry, WAKE)
    }

    /// Relays until told to stop; final counters are in `shared` then.
    pub(super) fn run(mut self) -> io::Result<()> {
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

#[cfg(test)]
mod tests;
