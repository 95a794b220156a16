//! One UDP socket with GRO and GSO: made, read, written.
//!
//! Path MTU: the socket sets don't-fragment and ignores what the kernel believes about the path (PMTUDISC_PROBE), so a
//! probe that is too large is lost or refused with EMSGSIZE, and never arrives in fragments as a false success.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use socket2::{Domain, MsgHdr, Protocol, SockAddr, Socket, Type};

use super::{Batch, Port, Sent, sockopt};
use crate::config::EndpointConfig;

/// Longest GRO batch the kernel hands over.
const BATCH_BYTES_MAX: usize = 65_536;

/// Length of `struct cmsghdr` on 64-bit Linux: length (8), level (4), type (4).
const CONTROL_HEADER: usize = 16;

/// Control messages of one send or receive, aligned as the kernel's C structures are.
#[repr(C, align(8))]
struct Control([u8; 64]);

pub(super) struct UdpSocket {
    socket: Socket,
    buffer: Box<[u8]>,
    control: Control,
    gso: bool,
}

/// What one receive read into the socket's buffer.
pub(super) struct Received {
    from: SocketAddr,
    segment: usize,
    length: usize,
}

impl UdpSocket {
    /// Binds to `address`, which is of the family of `config.listen`; `share`: to a port that is shared already.
    pub(super) fn bind(
        config: &EndpointConfig,
        address: SocketAddr,
        share: bool,
    ) -> io::Result<Self> {
        let dual_stack = config.dual_stack;
        let socket = Socket::new(
            Domain::for_address(address),
            Type::DGRAM.nonblocking().cloexec(),
            Some(Protocol::UDP),
        )?;
        if address.is_ipv6() {
            socket.set_only_v6(!dual_stack)?;
            sockopt::set(
                socket.as_fd(),
                libc::IPPROTO_IPV6,
                libc::IPV6_MTU_DISCOVER,
                libc::IPV6_PMTUDISC_PROBE,
            )?;
        }
        if address.is_ipv4() || dual_stack {
            sockopt::set(
                socket.as_fd(),
                libc::IPPROTO_IP,
                libc::IP_MTU_DISCOVER,
                libc::IP_PMTUDISC_PROBE,
            )?;
        }
        // The system caps both at net.core.{r,w}mem_max without an error.
        socket.set_recv_buffer_size(config.socket_buffer_bytes)?;
        socket.set_send_buffer_size(config.socket_buffer_bytes)?;
        socket.set_reuse_port(share)?;
        socket.bind(&address.into())?;

        let gso = config.offload && offload(&socket);
        Ok(Self {
            socket,
            buffer: vec![0; BATCH_BYTES_MAX].into_boxed_slice(),
            control: Control([0; 64]),
            gso,
        })
    }

    /// Lets further sockets of this user share this one's port from now on.
    pub(super) fn share_port(&self) -> io::Result<()> {
        self.socket.set_reuse_port(true)
    }

    /// Gives the sockets that share this one's port their packets by `program`.
    pub(super) fn steer(&self, program: &mut [libc::sock_filter]) -> io::Result<()> {
        sockopt::steer(self.socket.as_fd(), program)
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("the socket has no IP address"))
    }

    pub(super) fn gso(&self) -> bool {
        self.gso
    }

    pub(super) fn raw_fd(&self) -> i32 {
        self.socket.as_raw_fd()
    }

    /// Reads the next batch into the socket's buffer; `None` when the socket is empty.
    pub(super) fn receive(&mut self) -> io::Result<Option<Received>> {
        loop {
            let (length, from, segment) =
                match receive(&self.socket, &mut self.buffer, &mut self.control) {
                    Ok(received) => received,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                    // An ICMP error about an earlier send is reported here once; it says nothing about this socket.
                    Err(e)
                        if matches!(
                            e.kind(),
                            io::ErrorKind::Interrupted
                                | io::ErrorKind::ConnectionRefused
                                | io::ErrorKind::HostUnreachable
                                | io::ErrorKind::NetworkUnreachable
                        ) =>
                    {
                        continue;
                    }
                    Err(e) => return Err(e),
                };
            if length == 0 {
                continue;
            }
            return Ok(Some(Received {
                from,
                segment: segment.unwrap_or(length).clamp(1, length),
                length,
            }));
        }
    }

    /// The batch that was read last.
    pub(super) fn batch(&mut self, port: Port, received: &Received) -> Batch<'_> {
        Batch {
            port,
            from: received.from,
            segment: received.segment,
            data: &mut self.buffer[..received.length],
        }
    }

    pub(super) fn send(&mut self, to: SocketAddr, segment: usize, data: &[u8]) -> Sent {
        let to = SockAddr::from(to);
        let buffers = [IoSlice::new(data)];
        let message = MsgHdr::new().with_addr(&to).with_buffers(&buffers);
        let control;
        let message = if segment < data.len() {
            control = segment_control(segment);
            message.with_control(&control.0[..CONTROL_HEADER + 8])
        } else {
            message
        };
        match self.socket.sendmsg(&message, 0) {
            Ok(_) => Sent::Done,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Sent::Blocked,
            // Kernels before 6.14 say EINVAL when a GSO segment is larger than the link.
            Err(e)
                if e.raw_os_error() == Some(libc::EMSGSIZE)
                    || (segment < data.len() && e.raw_os_error() == Some(libc::EINVAL)) =>
            {
                Sent::TooLarge
            }
            Err(e) => {
                if segment < data.len() && e.raw_os_error() == Some(libc::EIO) {
                    tracing::warn!(
                        event = "offload_failed",
                        "the network device cannot checksum segments: sending datagrams one by one from now on"
                    );
                    self.gso = false;
                }
                Sent::Failed(e)
            }
        }
    }
}

/// Switches GRO on and says whether there is GSO; what is missing is logged.
fn offload(socket: &Socket) -> bool {
    let gro = sockopt::set(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1);
    let gso = sockopt::get(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT);
    for (offload, cause) in [
        ("UDP_GRO", gro.as_ref().err()),
        ("UDP_SEGMENT", gso.as_ref().err()),
    ] {
        if let Some(cause) = cause {
            tracing::warn!(
                event = "offload_missing",
                offload,
                %cause,
                "each datagram costs a system call of its own: expect a fifth of the rate"
            );
        }
    }
    gso.is_ok()
}

/// The control message that asks for segmentation: SOL_UDP, UDP_SEGMENT, u16.
fn segment_control(segment: usize) -> Control {
    let mut control = Control([0; 64]);
    control.0[..8].copy_from_slice(&(CONTROL_HEADER + 2).to_ne_bytes());
    control.0[8..12].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
    control.0[12..16].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
    control.0[16..18].copy_from_slice(&(segment as u16).to_ne_bytes());
    control
}

/// The GRO segment size among the control messages of a receive: SOL_UDP, UDP_GRO, int.
fn gro_segment(mut control: &[u8]) -> Option<usize> {
    while control.len() >= CONTROL_HEADER {
        let length = usize::from_ne_bytes(control[..8].try_into().ok()?);
        let level = i32::from_ne_bytes(control[8..12].try_into().ok()?);
        let kind = i32::from_ne_bytes(control[12..16].try_into().ok()?);
        let data = control.get(CONTROL_HEADER..length)?;
        if level == libc::SOL_UDP && kind == libc::UDP_GRO {
            let size = i32::from_ne_bytes(data.get(..4)?.try_into().ok()?);
            return usize::try_from(size).ok().filter(|size| *size > 0);
        }
        control = control.get(length.next_multiple_of(8)..)?;
    }
    None
}

/// One `recvmsg`: length, sender and GRO segment size.
fn receive(
    socket: &Socket,
    buffer: &mut [u8],
    control: &mut Control,
) -> io::Result<(usize, SocketAddr, Option<usize>)> {
    let mut vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: why not safe code: std's `recv_from` has no control messages, so the GRO segment size would be lost and each
    // datagram would cost a call (about 5 us against 0.7 us, bench `transport`); socket2's `recvmsg` wants its buffer
    // uninitialised, which needs `unsafe` to read. Invariants of the block: (1) all-zero bytes are a valid `msghdr`;
    // (2) every pointer put into it is to memory that lives until the call returns and is not otherwise used in between,
    // with its exact length: the address storage that socket2 owns inside `try_init`, the one iovec over `buffer`, and the
    // control bytes, aligned to 8; (3) `try_init` wants the address length that the kernel stored, which is `msg_namelen`.
    let ((received, control_length), from) = unsafe {
        SockAddr::try_init(|storage, storage_length| {
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_name = storage.cast();
            header.msg_namelen = *storage_length;
            header.msg_iov = &raw mut vector;
            header.msg_iovlen = 1;
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = control.0.len();
            let received = libc::recvmsg(socket.as_raw_fd(), &raw mut header, 0);
            if received < 0 {
                return Err(io::Error::last_os_error());
            }
            *storage_length = header.msg_namelen;
            Ok((received as usize, header.msg_controllen))
        })
    }?;
    let from = from
        .as_socket()
        .ok_or_else(|| io::Error::other("a datagram came from no IP address"))?;
    let segment = gro_segment(&control.0[..control_length.min(control.0.len())]);
    Ok((received, from, segment))
}

/// The largest UDP payload that the first link towards `to` takes, as far as the kernel knows; `None` when it does not say.
///
/// Starting the search there saves the probes above it: on a 1500-byte link that is 13 of the 14 sizes tried.
pub(crate) fn route_mtu(to: SocketAddr) -> Option<usize> {
    // A mapped address goes out as IPv4.
    let to = SocketAddr::new(to.ip().to_canonical(), to.port());
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = std::net::UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    socket.connect(to).ok()?;
    let (level, name, overhead) = match to {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU, 28),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU, 48),
    };
    let mtu = sockopt::get(socket.as_fd(), level, name).ok()?;
    usize::try_from(mtu).ok()?.checked_sub(overhead)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gro_size_is_found_behind_other_control_messages() {
        let mut bytes = Vec::new();
        for (level, kind, value) in [
            (libc::SOL_SOCKET, 29, 7_i32),
            (libc::SOL_UDP, libc::UDP_GRO, 1_350),
        ] {
            bytes.extend_from_slice(&20_usize.to_ne_bytes());
            bytes.extend_from_slice(&level.to_ne_bytes());
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(&value.to_ne_bytes());
            bytes.extend_from_slice(&[0; 4]);
        }
        assert_eq!(gro_segment(&bytes), Some(1_350));
        for length in 0..bytes.len() {
            // Truncated control bytes are read as far as they go and no further.
            let _ = gro_segment(&bytes[..length]);
        }
    }

    #[test]
    fn a_control_message_of_length_zero_ends_the_walk() {
        assert_eq!(gro_segment(&[0; 64]), None);
    }

    #[test]
    fn loopback_takes_large_datagrams() {
        assert!(route_mtu("127.0.0.1:9".parse().expect("an address")) >= Some(16_376));
    }
}
