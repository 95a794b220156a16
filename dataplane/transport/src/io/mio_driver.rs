//! The portable driver: epoll by `mio`, one `recvmsg` per GRO batch, one `sendmsg` per GSO train.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::udp::UdpSocket;
use super::{Batch, Driver, Sent, Waker};
use crate::config::EndpointConfig;

const SOCKET: Token = Token(0);
const WAKER: Token = Token(1);

pub(crate) struct MioDriver {
    poll: Poll,
    events: Events,
    waker: Waker,
    socket: UdpSocket,
    local: SocketAddr,
    /// Polling is edge-triggered: remembered until a receive finds the socket empty.
    readable: bool,
    /// Remembered until a send finds the socket full.
    writable: bool,
}

impl MioDriver {
    pub(crate) fn bind(config: &EndpointConfig) -> io::Result<Self> {
        let socket = UdpSocket::bind(config)?;
        let poll = Poll::new()?;
        poll.registry().register(
            &mut SourceFd(&socket.raw_fd()),
            SOCKET,
            Interest::READABLE | Interest::WRITABLE,
        )?;
        let waker = Waker(Arc::new(mio::Waker::new(poll.registry(), WAKER)?));
        Ok(Self {
            poll,
            events: Events::with_capacity(8),
            waker,
            local: socket.local_addr()?,
            socket,
            readable: true,
            writable: true,
        })
    }
}

impl Driver for MioDriver {
    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn wait(&mut self, timeout: Option<Duration>, writable: bool) -> io::Result<()> {
        let ready = self.readable || (writable && self.writable);
        let timeout = if ready { Some(Duration::ZERO) } else { timeout };
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(e) => return Err(e),
        }
        for event in &self.events {
            if event.token() == SOCKET {
                self.readable |= event.is_readable();
                self.writable |= event.is_writable();
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<Option<Batch<'_>>> {
        if !self.readable {
            return Ok(None);
        }
        match self.socket.receive() {
            Ok(Some(batch)) => Ok(Some(batch)),
            Ok(None) => {
                self.readable = false;
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    fn send(&mut self, to: SocketAddr, segment: usize, data: &[u8]) -> Sent {
        let sent = self.socket.send(to, segment, data);
        if matches!(sent, Sent::Blocked) {
            self.writable = false;
        }
        sent
    }

    fn trains(&self) -> bool {
        self.socket.gso()
    }
}
