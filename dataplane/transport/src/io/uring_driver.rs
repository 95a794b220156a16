//! The io_uring driver: one multishot `recvmsg` per socket into buffers that the kernel picks itself, one system call per tick.
//!
//! Sends stay `sendmsg`, one per GSO train: what QUIC does next depends on the answer (EMSGSIZE, a full socket), and the call
//! itself is the smaller part of what a train costs.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::buffers::Buffers;
use super::udp::UdpSocket;
use super::{Batch, Driver, Origin, Port, Ports, Sent, Wake, Waker, Way, control, sockopt};

/// Buffers of one worker. They are used in turn, so few of them stay in the processor's cache: with 64 a hop was 2 to 12 % dearer
/// than with epoll, which reads into one; with 8 it is even. When the kernel has used all of them up, the receive ends and begins
/// again with the next tick; meanwhile the socket keeps what comes.
const BUFFERS: u16 = 8;

/// Parts of a buffer, in the kernel's order: `struct io_uring_recvmsg_out`, the sender's address, control messages, the batch.
const HEAD: usize = 16;
const NAME: usize = 32;
const CONTROL: usize = 96;
const BATCH: usize = 65_536;

const GROUP: u16 = 0;

/// Entries of the submission queue: two receives, two writability polls, the waker, and room.
const ENTRIES: u32 = 16;

/// Ports, by the place of their socket.
const PORTS: [Port; 2] = [Port::Listening, Port::Dialling];

/// What completions are told apart by.
const RECEIVE: [u64; 2] = [0, 1];
const WRITABLE: [u64; 2] = [2, 3];
const WAKE: u64 = 4;

/// A batch that waits in a buffer.
struct Waiting {
    port: usize,
    buffer: u16,
}

struct Watched {
    socket: UdpSocket,
    local: SocketAddr,
    /// The kernel is receiving for us.
    receiving: bool,
    /// The kernel will tell when the socket is writable.
    polling: bool,
    /// Until a send finds the socket full.
    writable: bool,
}

pub(crate) struct UringDriver {
    ring: IoUring,
    buffers: Buffers,
    /// What the receives say of the shape of a buffer; the kernel reads it when one is submitted.
    shape: Box<libc::msghdr>,
    /// The listening socket, and the one for dialling, if there is one.
    watched: Vec<Watched>,
    wake: Arc<File>,
    waking: bool,
    waiting: VecDeque<Waiting>,
    /// The buffer that the last batch was lent from.
    lent: Option<u16>,
    /// The ring belongs to the thread that uses it first.
    started: bool,
    /// What ended a receive, to be told.
    failed: Option<io::Error>,
}

// SAFETY: why not safe code: `msghdr` holds pointers, which are not `Send`. Invariants: all of them are null, and the value is
// only read by the kernel; everything else in the driver is `Send`.
unsafe impl Send for UringDriver {}

impl UringDriver {
    /// # Errors
    /// When the system has no io_uring, or forbids it, or an older one: the caller takes another driver.
    pub(crate) fn new(ports: Ports) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_r_disabled()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(4 * u32::from(BUFFERS))
            .build(ENTRIES)?;
        let sockets = std::iter::once(ports.listening).chain(ports.dialling);
        let watched = sockets.map(|socket| {
            Ok(Watched {
                local: socket.local_addr()?,
                socket,
                receiving: false,
                polling: false,
                writable: true,
            })
        });
        // SAFETY: why not safe code: the C structure has no constructor. Invariants: all-zero bytes are a valid `msghdr`.
        let mut shape: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        shape.msg_namelen = NAME as u32;
        shape.msg_controllen = CONTROL;
        Ok(Self {
            watched: watched.collect::<io::Result<_>>()?,
            buffers: Buffers::new(BUFFERS, HEAD + NAME + CONTROL + BATCH),
            ring,
            shape,
            wake: Arc::new(sockopt::event()?),
            waking: false,
            waiting: VecDeque::new(),
            lent: None,
            started: false,
            failed: None,
        })
    }

    /// Takes the ring for the calling thread. Submissions of other threads are refused by the kernel from then on.
    fn start(&mut self) -> io::Result<()> {
        self.started = true;
        self.ring.submitter().register_enable_rings()?;
        self.buffers.register(&self.ring.submitter(), GROUP)
    }

    /// Puts the last batch's buffer back.
    fn take_back(&mut self) {
        if let Some(buffer) = self.lent.take() {
            self.buffers.give(buffer);
        }
    }

    /// Submits what the kernel is not watching: receives that ended, the waker, and writability if it is asked for.
    fn arm(&mut self, writable: Option<Port>) -> io::Result<()> {
        // With every buffer waiting here a receive would end at once; it begins again when some are back.
        let room = self.waiting.len() < usize::from(BUFFERS);
        for at in 0..self.watched.len() {
            let watched = &mut self.watched[at];
            let fd = Fd(watched.socket.raw_fd());
            if !watched.receiving && room {
                watched.receiving = true;
                let shape: *const libc::msghdr = &raw const *self.shape;
                let receive = opcode::RecvMsgMulti::new(fd, shape, GROUP).build();
                push(&mut self.ring, receive.user_data(RECEIVE[at]))?;
            }
            let asked = writable.is_some_and(|port| place(port, 2) == at);
            let watched = &mut self.watched[at];
            if asked && !watched.writable && !watched.polling {
                watched.polling = true;
                let poll = opcode::PollAdd::new(fd, libc::POLLOUT as u32).build();
                push(&mut self.ring, poll.user_data(WRITABLE[at]))?;
            }
        }
        if !self.waking {
            self.waking = true;
            let poll = opcode::PollAdd::new(Fd(self.wake.as_raw_fd()), libc::POLLIN as u32);
            push(&mut self.ring, poll.build().user_data(WAKE))?;
        }
        Ok(())
    }

    /// Takes note of everything that is complete; true when there was anything.
    fn reap(&mut self) -> bool {
        let mut any = false;
        while let Some(entry) = self.next_completion() {
            any = true;
            match entry.user_data() {
                WAKE => {
                    self.waking = false;
                    // Empties it; it does not block.
                    let _ = (&*self.wake).read(&mut [0; 8]);
                }
                data if data == WRITABLE[0] || data == WRITABLE[1] => {
                    let watched = &mut self.watched[usize::from(data == WRITABLE[1])];
                    (watched.polling, watched.writable) = (false, true);
                }
                data => self.received(usize::from(data == RECEIVE[1]), &entry),
            }
        }
        any
    }

    fn next_completion(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }

    fn received(&mut self, port: usize, entry: &cqueue::Entry) {
        self.watched[port].receiving &= cqueue::more(entry.flags());
        let buffer = cqueue::buffer_select(entry.flags()).filter(|id| self.buffers.take(*id));
        match (entry.result(), buffer) {
            (0.., Some(buffer)) => self.waiting.push_back(Waiting { port, buffer }),
            (result, buffer) => {
                if let Some(buffer) = buffer {
                    self.buffers.give(buffer);
                }
                // An ICMP error about an earlier send is reported here once, and says nothing about this socket; and a
                // receive that found no buffer begins again.
                let told = [
                    libc::ENOBUFS,
                    libc::EINTR,
                    libc::EAGAIN,
                    libc::ECONNREFUSED,
                    libc::EHOSTUNREACH,
                    libc::ENETUNREACH,
                    libc::ECANCELED,
                ];
                if result < 0 && !told.contains(&-result) {
                    self.failed = Some(io::Error::from_raw_os_error(-result));
                }
            }
        }
    }
}

impl UringDriver {
    /// Ends every operation of the ring and waits until each has said so.
    fn end(&mut self) -> io::Result<()> {
        const ROUNDS: usize = 100;
        let submitter = self.ring.submitter();
        match submitter.register_sync_cancel(None, CancelBuilder::any()) {
            Err(e) if e.raw_os_error() != Some(libc::ENOENT) => return Err(e),
            _ => {}
        }
        for _ in 0..ROUNDS {
            let busy = self.watched.iter().any(|w| w.receiving || w.polling);
            if !busy && !self.waking {
                return self.ring.submitter().unregister_buf_ring(GROUP);
            }
            let limit = Timespec::from(Duration::from_millis(10));
            let arguments = SubmitArgs::new().timespec(&limit);
            let _ = self.ring.submitter().submit_with_args(1, &arguments);
            self.reap();
        }
        Err(io::Error::other("operations of the ring do not end"))
    }
}

/// Where a port's socket stands among `sockets`.
fn place(port: Port, sockets: usize) -> usize {
    match port {
        Port::Dialling if sockets > 1 => 1,
        _ => 0,
    }
}

fn push(ring: &mut IoUring, entry: squeue::Entry) -> io::Result<()> {
    // SAFETY: why not safe code: `push` is the only way to submit, and cannot check what an entry points to. Invariants: what
    // the entries pushed here point to lives as long as the driver and longer than its ring's operations: the descriptors are
    // the driver's own, `shape` is boxed and holds null pointers, and the buffers are freed only when the kernel has let go of
    // them (see `drop`).
    let pushed = unsafe { ring.submission().push(&entry) };
    pushed.map_err(|_| io::Error::other("the submission queue is full"))
}

impl Driver for UringDriver {
    fn local_addr(&self, port: Port) -> SocketAddr {
        self.watched[place(port, self.watched.len())].local
    }

    fn dialling_port(&self) -> Port {
        match self.watched.len() {
            1 => Port::Listening,
            _ => Port::Dialling,
        }
    }

    fn waker(&self) -> Waker {
        Waker(Wake::Event(Arc::clone(&self.wake)))
    }

    fn wait(&mut self, timeout: Option<Duration>, writable: Option<Port>) -> io::Result<bool> {
        if !self.started {
            self.start()?;
        }
        self.take_back();
        self.arm(writable)?;
        let ready = !self.waiting.is_empty()
            || writable.is_some_and(|p| self.watched[place(p, self.watched.len())].writable);
        let timeout = if ready { Some(Duration::ZERO) } else { timeout };
        let limit = timeout.map(Timespec::from);
        let arguments = match &limit {
            Some(limit) => SubmitArgs::new().timespec(limit),
            None => SubmitArgs::new(),
        };
        match self.ring.submitter().submit_with_args(1, &arguments) {
            Ok(_) => {}
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)
                ) => {}
            Err(e) => return Err(e),
        }
        Ok(self.reap() || ready)
    }

    fn receive(&mut self) -> io::Result<Option<Batch<'_>>> {
        loop {
            self.take_back();
            let Some(Waiting { port, buffer }) = self.waiting.pop_front() else {
                return self.failed.take().map_or(Ok(None), Err);
            };
            self.lent = Some(buffer);
            if let Some((origin, segment, start, end)) =
                read(self.buffers.bytes(buffer), PORTS[port])
            {
                return Ok(Some(Batch {
                    origin,
                    segment,
                    data: &mut self.buffers.bytes(buffer)[start..end],
                }));
            }
        }
    }

    fn send(&mut self, way: &Way, segment: usize, data: &[u8]) -> Sent {
        let at = place(way.port, self.watched.len());
        let sent = self.watched[at].socket.send(way, segment, data);
        if matches!(sent, Sent::Blocked) {
            self.watched[at].writable = false;
        }
        sent
    }

    fn trains(&self) -> bool {
        self.watched[0].socket.gso()
    }
}

impl Drop for UringDriver {
    fn drop(&mut self) {
        // Only the thread that started the ring can have its operations ended for sure. On any other, or when that fails, the
        // buffers are left to the kernel, and to the end of the process.
        if !self.started || self.end().is_ok() {
            // SAFETY: why not safe code: see `Buffers::free`. Invariants: every operation of the ring was cancelled and has
            // ended, and the kernel has forgotten the buffer group, or never knew it; nothing uses the buffers after `drop`.
            unsafe { self.buffers.free() };
        }
    }
}

/// What a received buffer holds: where it came from, the segment size, and where the batch begins and ends.
fn read(buffer: &[u8], port: Port) -> Option<(Origin, usize, usize, usize)> {
    let field = |at: usize| {
        let bytes = buffer.get(at..)?.first_chunk()?;
        Some(u32::from_ne_bytes(*bytes) as usize)
    };
    let (name, control, payload) = (field(0)?, field(4)?, field(8)?);
    let from = address(&buffer[HEAD..][..name.min(NAME)])?;
    let control = control::Received::read(&buffer[HEAD + NAME..][..control.min(CONTROL)]);
    let payload = payload.min(BATCH);
    if payload == 0 {
        return None;
    }
    let origin = Origin {
        port,
        from,
        to: control.to,
    };
    let start = HEAD + NAME + CONTROL;
    let segment = control.segment.unwrap_or(payload).clamp(1, payload);
    Some((origin, segment, start, start + payload))
}

/// A `sockaddr_in` or `sockaddr_in6`.
fn address(name: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(*name.first_chunk()?));
    let port = u16::from_be_bytes(*name.get(2..)?.first_chunk()?);
    let ip: IpAddr = match family {
        libc::AF_INET => Ipv4Addr::from(*name.get(4..)?.first_chunk::<4>()?).into(),
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(*name.get(8..)?.first_chunk::<16>()?);
            let flow = u32::from_be_bytes(*name.get(4..)?.first_chunk()?);
            let scope = u32::from_ne_bytes(*name.get(24..)?.first_chunk()?);
            return Some(std::net::SocketAddrV6::new(ip, port, flow, scope).into());
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Tries the whole of it on a socket of its own: an old kernel takes a multishot receive and fails it later.
pub(super) fn probe() -> io::Result<()> {
    let listening = UdpSocket::plain()?;
    let mut driver = UringDriver::new(Ports {
        listening,
        dialling: None,
    })?;
    let way = Way {
        port: Port::Listening,
        source: None,
        to: driver.local_addr(Port::Listening),
        dscp: None,
    };
    if let Sent::Failed(error) = driver.send(&way, 1, &[1]) {
        return Err(error);
    }
    driver.wait(Some(Duration::from_secs(1)), None)?;
    match driver.receive()? {
        Some(batch) if batch.data == [1] && batch.origin.from == way.to => Ok(()),
        _ => Err(io::Error::other("a datagram did not arrive")),
    }
}

/// Wakes a driver by its event counter.
pub(super) fn wake(event: &File) -> io::Result<()> {
    let mut event = event;
    match event.write(&1_u64.to_ne_bytes()) {
        Ok(_) => Ok(()),
        // Full of wake-ups that were not taken yet.
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(e) => Err(e),
    }
}
