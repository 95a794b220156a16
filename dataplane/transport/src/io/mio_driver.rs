//! The portable driver: epoll by `mio`, one `recvmsg` per GRO batch, one `sendmsg` per GSO train.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};

use super::udp::UdpSocket;
use super::{Batch, Driver, Port, Ports, Sent, Wake, Waker, Way};

const LISTENING: Token = Token(0);
const DIALLING: Token = Token(1);
const WAKER: Token = Token(2);

/// A socket and what is known of it; polling is edge-triggered, so that is to be remembered.
struct Watched {
    socket: UdpSocket,
    token: Token,
    local: SocketAddr,
    /// Until a receive finds the socket empty.
    readable: bool,
    /// Until a send finds the socket full.
    writable: bool,
    /// Polled for room to write, too. Only while a send waits for it: otherwise every packet that leaves a network card would
    /// wake a worker that sleeps.
    awaits_room: bool,
}

impl Watched {
    fn new(socket: UdpSocket, token: Token, registry: &Registry) -> io::Result<Self> {
        registry.register(&mut SourceFd(&socket.raw_fd()), token, Interest::READABLE)?;
        Ok(Self {
            local: socket.local_addr()?,
            socket,
            token,
            readable: true,
            writable: true,
            awaits_room: false,
        })
    }

    fn await_room(&mut self, awaits: bool, registry: &Registry) -> io::Result<()> {
        if self.awaits_room == awaits {
            return Ok(());
        }
        let interest = match awaits {
            true => Interest::READABLE | Interest::WRITABLE,
            false => Interest::READABLE,
        };
        registry.reregister(&mut SourceFd(&self.socket.raw_fd()), self.token, interest)?;
        self.awaits_room = awaits;
        Ok(())
    }
}

pub(crate) struct MioDriver {
    poll: Poll,
    /// Sleep to the microsecond: `epoll_wait` counts in milliseconds.
    exact: bool,
    events: Events,
    waker: Waker,
    listening: Watched,
    dialling: Option<Watched>,
    /// The port that was asked last is the one for dialling.
    dialling_last: bool,
}

impl MioDriver {
    pub(crate) fn new(ports: Ports, exact: bool) -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = poll.registry();
        let watch = |socket, token| Watched::new(socket, token, registry);
        let listening = watch(ports.listening, LISTENING)?;
        let dialling = ports.dialling.map(|s| watch(s, DIALLING)).transpose()?;
        let waker = Waker(Wake::Poll(Arc::new(mio::Waker::new(registry, WAKER)?)));
        Ok(Self {
            poll,
            exact,
            events: Events::with_capacity(8),
            waker,
            listening,
            dialling,
            dialling_last: false,
        })
    }

    /// The ports in turn, so that neither starves the other.
    fn next_port(&mut self) -> Port {
        self.dialling_last = !self.dialling_last && self.dialling.is_some();
        match self.dialling_last {
            true => Port::Dialling,
            false => Port::Listening,
        }
    }

    fn watched(&mut self, port: Port) -> &mut Watched {
        match (port, &mut self.dialling) {
            (Port::Dialling, Some(dialling)) => dialling,
            _ => &mut self.listening,
        }
    }
}

impl Driver for MioDriver {
    fn local_addr(&self, port: Port) -> SocketAddr {
        match (port, &self.dialling) {
            (Port::Dialling, Some(dialling)) => dialling.local,
            _ => self.listening.local,
        }
    }

    fn dialling_port(&self) -> Port {
        match self.dialling {
            Some(_) => Port::Dialling,
            None => Port::Listening,
        }
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn wait(&mut self, timeout: Option<Duration>, writable: Option<Port>) -> io::Result<bool> {
        let ready = self.listening.readable
            || self.dialling.as_ref().is_some_and(|d| d.readable)
            || writable.is_some_and(|port| self.watched(port).writable);
        let mut timeout = if ready { Some(Duration::ZERO) } else { timeout };
        let registry = self.poll.registry();
        self.listening.await_room(
            writable == Some(Port::Listening) && !self.listening.writable,
            registry,
        )?;
        if let Some(dialling) = &mut self.dialling {
            dialling.await_room(
                writable == Some(Port::Dialling) && !dialling.writable,
                registry,
            )?;
        }
        if let Some(time) = timeout.filter(|time| self.exact && !time.is_zero()) {
            await_readable(self.poll.as_raw_fd(), time)?;
            timeout = Some(Duration::ZERO);
        }
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(false),
            Err(e) => return Err(e),
        }
        for event in &self.events {
            let watched = match (event.token(), &mut self.dialling) {
                (LISTENING, _) => &mut self.listening,
                (DIALLING, Some(dialling)) => dialling,
                _ => continue,
            };
            watched.readable |= event.is_readable();
            watched.writable |= event.is_writable();
        }
        Ok(ready || !self.events.is_empty())
    }

    fn receive(&mut self) -> io::Result<Option<Batch<'_>>> {
        for _ in 0..2 {
            let port = self.next_port();
            let watched = self.watched(port);
            if !watched.readable {
                continue;
            }
            let received = watched.socket.receive()?;
            watched.readable = received.is_some();
            if let Some(received) = received {
                return Ok(Some(self.watched(port).socket.batch(port, &received)));
            }
        }
        Ok(None)
    }

    fn send(&mut self, way: &Way, segment: usize, data: &[u8]) -> Sent {
        let watched = self.watched(way.port);
        let sent = watched.socket.send(way, segment, data);
        if matches!(sent, Sent::Blocked) {
            watched.writable = false;
        }
        sent
    }

    fn trains(&self) -> bool {
        self.listening.socket.gso()
    }
}

/// Sleeps until `fd` is readable or `time` has passed, to the microsecond.
fn await_readable(fd: RawFd, time: Duration) -> io::Result<()> {
    let mut polled = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let time = libc::timespec {
        tv_sec: time.as_secs().min(i32::MAX as u64) as libc::time_t,
        tv_nsec: time.subsec_nanos() as libc::c_long,
    };
    // SAFETY: one `pollfd` and a `timespec`, both of this frame; no signal mask.
    let ready = unsafe { libc::ppoll(&mut polled, 1, &time, std::ptr::null()) };
    match io::Error::last_os_error() {
        error if ready < 0 && error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}
