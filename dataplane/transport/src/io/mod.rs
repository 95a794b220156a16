//! The edge to the operating system: datagrams in GRO batches, datagrams out in GSO trains, sleeping and waking.
//!
//! Everything above sees [`Driver`] and nothing of the system below it. Refuses to know QUIC. The only folder of the
//! workspace with `unsafe`.

mod buffers;
mod control;
mod mio_driver;
mod sockopt;
mod steer;
mod udp;
mod uring_driver;

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::config::Io;

use mio_driver::MioDriver;
use uring_driver::UringDriver;

pub(crate) use steer::{Ports, STEERING_LONG, STEERING_SHORT, bind_group};
pub(crate) use udp::route_mtu;

/// Most payload bytes of one GSO send. UDP itself would take 65,507, but a train whose frame is 65,536 bytes or more (Linux:
/// `gso_max_size`, 14 bytes of Ethernet, 40 of IPv6 and 8 of UDP included, also on loopback) is cut into its packets before it
/// gets to the device: then nothing is offloaded, and the receiver reads packet by packet.
pub(crate) const TRAIN_BYTES_MAX: usize = 65_535 - 14 - 40 - 8;

/// Most segments of one GSO send (UDP_MAX_SEGMENTS of Linux before 6.9 is 64).
pub(crate) const TRAIN_SEGMENTS_MAX: usize = 64;

/// The ports of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    /// The one that peers know; all workers of a group share it.
    Listening,
    /// The worker's own, for dialling. A worker alone dials from the listening port.
    Dialling,
}

/// Where datagrams came from and to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Our port.
    pub(crate) port: Port,
    /// The sender.
    pub(crate) from: SocketAddr,
    /// Our address that they were sent to; known on a socket bound to a wildcard only.
    pub(crate) to: Option<IpAddr>,
}

impl Origin {
    /// The way back.
    pub(crate) fn back(self) -> Way {
        Way {
            port: self.port,
            source: self.to,
            to: self.from,
            dscp: None,
        }
    }
}

/// Where datagrams leave and go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// Our port.
    pub(crate) port: Port,
    /// Our address to send from, on a socket bound to a wildcard; `None`: the system chooses one by its routes.
    pub(crate) source: Option<IpAddr>,
    /// The receiver.
    pub(crate) to: SocketAddr,
    /// Differentiated services codepoint (0..=63), where it is not the endpoint's.
    pub(crate) dscp: Option<u8>,
}

/// Datagrams of one sender, received together: equal segments, the last may be shorter.
pub(crate) struct Batch<'a> {
    /// Where they all came from and to.
    pub(crate) origin: Origin,
    /// Length of every segment but perhaps the last; never 0.
    pub(crate) segment: usize,
    /// The segments back to back.
    pub(crate) data: &'a mut [u8],
}

/// What became of a send.
#[derive(Debug)]
pub(crate) enum Sent {
    /// The system took it.
    Done,
    /// The socket buffer is full: keep it and try again when writable.
    Blocked,
    /// Larger than the first link takes (EMSGSIZE).
    TooLarge,
    /// Refused for another reason; the datagrams are lost, as they may be on any link.
    Failed(io::Error),
}

/// The UDP sockets of one worker and the means to sleep on them.
pub(crate) trait Driver: Send {
    /// The address that a port is bound to; of the listening one when there is no port for dialling.
    fn local_addr(&self, port: Port) -> SocketAddr;

    /// The port to dial from.
    fn dialling_port(&self) -> Port;

    /// Something that ends [`Driver::wait`] from another thread.
    fn waker(&self) -> Waker;

    /// Sleeps until a socket is readable, the one of `writable` is writable, the waker was used or `timeout` passed.
    /// True when one of the first three was the case.
    fn wait(&mut self, timeout: Option<Duration>, writable: Option<Port>) -> io::Result<bool>;

    /// The next batch, of the ports in turn; `None` when all sockets are empty.
    fn receive(&mut self) -> io::Result<Option<Batch<'_>>>;

    /// Sends `data` as segments of `segment` bytes, the last perhaps shorter: at most [`TRAIN_SEGMENTS_MAX`] and
    /// [`TRAIN_BYTES_MAX`].
    fn send(&mut self, way: &Way, segment: usize, data: &[u8]) -> Sent;

    /// Whether trains are possible; without, `send` takes one segment only.
    fn trains(&self) -> bool;
}

/// A driver for these sockets. `Auto` is epoll: io_uring measured even under load and dearer for single requests (bench
/// `transport drivers`). Whether the system allows io_uring is found out by trying it on a socket of its own.
///
/// `exact`: sleep to the microsecond (io_uring always does).
pub(crate) fn drive(ports: Ports, io: Io, exact: bool) -> io::Result<Box<dyn Driver>> {
    if io == Io::Uring {
        match uring_driver::probe() {
            Ok(()) => return Ok(Box::new(UringDriver::new(ports)?)),
            Err(error) => {
                tracing::warn!(event = "uring_refused", %error, "the system refuses io_uring: going on with epoll");
            }
        }
    }
    Ok(Box::new(MioDriver::new(ports, exact)?))
}

/// Wakes the endpoint's `wait` from another thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Waker(Wake);

#[derive(Clone, Debug)]
enum Wake {
    Poll(Arc<mio::Waker>),
    Event(Arc<File>),
}

impl Waker {
    #[cfg(test)]
    pub(crate) fn for_test(poll: &mio::Poll) -> Self {
        let waker = mio::Waker::new(poll.registry(), mio::Token(0)).expect("a waker");
        Self(Wake::Poll(Arc::new(waker)))
    }

    /// Makes the endpoint's current or next `wait` return at once.
    ///
    /// # Errors
    /// When the system refuses the wake-up; the endpoint then wakes at its next timer.
    pub fn wake(&self) -> io::Result<()> {
        match &self.0 {
            Wake::Poll(waker) => waker.wake(),
            Wake::Event(event) => uring_driver::wake(event),
        }
    }
}
