//! UDP with GRO and GSO, for yardsticks that must not use the product's own
//! drivers. Refuses to know QUIC.

use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};

/// Longest GRO batch the kernel hands over.
const BATCH_BYTES_MAX: usize = 65_536;
/// Most payload of one UDP send over IPv4.
pub(super) const TRAIN_BYTES_MAX: usize = 65_507;
/// Most segments of one send.
pub(super) const TRAIN_SEGMENTS_MAX: usize = 64;
/// Asked for; the system may give less.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// A socket on loopback.
pub(super) struct Datagrams {
    socket: UdpSocket,
    state: UdpSocketState,
    address: SocketAddr,
}

/// A buffer that takes any batch.
pub(super) fn batch_buffer() -> Box<[u8]> {
    vec![0; BATCH_BYTES_MAX].into_boxed_slice()
}

/// Datagrams of one sender, received together.
pub(super) struct Batch<'a> {
    pub(super) from: SocketAddr,
    /// Length of every segment but perhaps the last.
    pub(super) segment: usize,
    pub(super) data: &'a mut [u8],
}

impl Datagrams {
    pub(super) fn bind() -> io::Result<Datagrams> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = socket.local_addr()?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        state.set_recv_buffer_size(UdpSockRef::from(&socket), SOCKET_BUFFER_BYTES)?;
        state.set_send_buffer_size(UdpSockRef::from(&socket), SOCKET_BUFFER_BYTES)?;
        Ok(Datagrams {
            socket,
            state,
            address,
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// The next batch; `None` when the socket is empty.
    pub(super) fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<Batch<'a>>> {
        let mut meta = [RecvMeta::default()];
        let mut buffers = [IoSliceMut::new(buffer)];
        match self
            .state
            .recv(UdpSockRef::from(&self.socket), &mut buffers, &mut meta)
        {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(Batch {
                from: meta[0].addr,
                segment: meta[0].stride.max(1),
                data: &mut buffer[..meta[0].len],
            })),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            // An ICMP answer to an earlier send: somebody has closed.
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Sends a train of equal segments, the last perhaps shorter. A full socket buffer is waited for.
    pub(super) fn send(&self, to: SocketAddr, segment: usize, data: &[u8]) -> io::Result<()> {
        let transmit = Transmit {
            destination: to,
            ecn: None,
            contents: data,
            segment_size: (segment < data.len()).then_some(segment),
            src_ip: None,
        };
        loop {
            match self
                .state
                .try_send(UdpSockRef::from(&self.socket), &transmit)
            {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => return Ok(()),
                done => return done,
            }
        }
    }
}
