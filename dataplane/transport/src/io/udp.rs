//! One UDP socket with GRO and GSO: made, read, written.
//!
//! Path MTU: the socket sets don't-fragment and ignores what the kernel believes about the path (PMTUDISC_PROBE), so a
//! probe that is too large is lost or refused with EMSGSIZE, and never arrives in fragments as a false success.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use socket2::{Domain, MsgHdr, Protocol, SockAddr, Socket, Type};

use super::control::{self, Control};
use super::{Batch, Origin, Port, Sent, Way, sockopt};
use crate::config::EndpointConfig;

/// Longest GRO batch the kernel hands over.
const BATCH_BYTES_MAX: usize = 65_536;

pub(super) struct UdpSocket {
    socket: Socket,
    buffer: Box<[u8]>,
    control: Control,
    gso: bool,
    v6: bool,
}

/// What one receive read into the socket's buffer.
pub(super) struct Received {
    from: SocketAddr,
    to: Option<IpAddr>,
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
        let tos = i32::from(config.dscp << 2);
        // A wildcard socket answers from the address that was asked.
        let wildcard = i32::from(address.ip().is_unspecified());
        if address.is_ipv6() {
            socket.set_only_v6(!dual_stack)?;
            let set = |name, value| sockopt::set(socket.as_fd(), libc::IPPROTO_IPV6, name, value);
            set(libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
            set(libc::IPV6_TCLASS, tos)?;
            set(libc::IPV6_RECVPKTINFO, wildcard)?;
        }
        if address.is_ipv4() || dual_stack {
            let set = |name, value| sockopt::set(socket.as_fd(), libc::IPPROTO_IP, name, value);
            set(libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
            set(libc::IP_TOS, tos)?;
        }
        if address.is_ipv4() {
            sockopt::set(socket.as_fd(), libc::IPPROTO_IP, libc::IP_PKTINFO, wildcard)?;
        }
        bind_device(&socket, config.interface.as_deref())?;
        // The system caps both at net.core.{r,w}mem_max without an error.
        socket.set_recv_buffer_size(config.socket_buffer_bytes)?;
        socket.set_send_buffer_size(config.socket_buffer_bytes)?;
        socket.set_reuse_port(share)?;
        socket.bind(&address.into())?;

        let gso = config.offload && offload(&socket);
        Ok(Self {
            socket,
            buffer: vec![0; BATCH_BYTES_MAX].into_boxed_slice(),
            control: Control::new(),
            gso,
            v6: address.is_ipv6(),
        })
    }

    /// A socket on loopback, for a trial.
    pub(super) fn plain() -> io::Result<Self> {
        let socket = Socket::new(
            Domain::IPV4,
            Type::DGRAM.nonblocking().cloexec(),
            Some(Protocol::UDP),
        )?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        Ok(Self {
            socket,
            buffer: Box::default(),
            control: Control::new(),
            gso: false,
            v6: false,
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
            let (length, from, control) =
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
                to: control.to,
                segment: control.segment.unwrap_or(length).clamp(1, length),
                length,
            }));
        }
    }

    /// The batch that was read last.
    pub(super) fn batch(&mut self, port: Port, received: &Received) -> Batch<'_> {
        Batch {
            origin: Origin {
                port,
                from: received.from,
                to: received.to,
            },
            segment: received.segment,
            data: &mut self.buffer[..received.length],
        }
    }

    pub(super) fn send(&mut self, way: &Way, segment: usize, data: &[u8]) -> Sent {
        let to = SockAddr::from(way.to);
        let buffers = [IoSlice::new(data)];
        let several = (segment < data.len()).then_some(segment);
        let control = Control::of_send(way, several, self.v6);
        let message = MsgHdr::new().with_addr(&to).with_buffers(&buffers);
        let message = match control.filled() {
            [] => message,
            filled => message.with_control(filled),
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

/// Binds to the network interface asked for, if any.
fn bind_device(socket: &Socket, interface: Option<&str>) -> io::Result<()> {
    let Some(name) = interface else {
        return Ok(());
    };
    socket
        .bind_device(Some(name.as_bytes()))
        .map_err(|e| io::Error::new(e.kind(), format!("interface {name}: {e}")))
}

/// One `recvmsg`: length, sender and control messages.
fn receive(
    socket: &Socket,
    buffer: &mut [u8],
    control: &mut Control,
) -> io::Result<(usize, SocketAddr, control::Received)> {
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
            let room = control.room();
            header.msg_control = room.as_mut_ptr().cast();
            header.msg_controllen = room.len();
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
    Ok((received, from, control.received(control_length)))
}

/// The largest UDP payload that the first link towards `to` takes, as far as the kernel knows; `None` when it does not say.
///
/// Starting the search there saves the probes above it: on a 1500-byte link that is 13 of the 14 sizes tried.
pub(crate) fn route_mtu(interface: Option<&str>, to: SocketAddr) -> Option<usize> {
    // A mapped address goes out as IPv4.
    let to = SocketAddr::new(to.ip().to_canonical(), to.port());
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM.cloexec(), None).ok()?;
    bind_device(&socket, interface).ok()?;
    socket.bind(&SocketAddr::new(any, 0).into()).ok()?;
    socket.connect(&to.into()).ok()?;
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
    use crate::io::control::Messages;
    use crate::tests::support::Ca;

    #[test]
    fn loopback_takes_large_datagrams() {
        let to = "127.0.0.1:9".parse().expect("an address");
        assert!(route_mtu(None, to) >= Some(16_368));
        assert!(route_mtu(Some("lo"), to) >= Some(16_368));
        assert_eq!(route_mtu(Some("no-such-device"), to), None);
    }

    /// Sends from a socket made by `config` to one on `to`, and gives the type of service that arrives.
    fn type_of_service(config: &EndpointConfig, to: &str, dscp: Option<u8>) -> i32 {
        let ca = Ca::new("test root");
        let to: SocketAddr = to.parse().expect("an address");
        let receiving = EndpointConfig::new(to, ca.credentials("router/one"));
        let receiver = UdpSocket::bind(&receiving, to, false).expect("bind");
        let (level, ask, kind) = match to {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_RECVTOS, libc::IP_TOS),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, libc::IPV6_TCLASS),
        };
        sockopt::set(receiver.socket.as_fd(), level, ask, 1).expect("ask for it");
        let mut to = receiver.local_addr().expect("an address");
        if let (SocketAddr::V4(v4), true) = (to, config.listen.is_ipv6()) {
            to = SocketAddr::new(v4.ip().to_ipv6_mapped().into(), to.port());
        }
        let mut sender = UdpSocket::bind(config, config.listen, false).expect("bind");
        let way = Way {
            port: Port::Listening,
            source: None,
            to,
            dscp,
        };
        assert!(matches!(sender.send(&way, 100, &[7; 250]), Sent::Done));
        receiver.socket.set_nonblocking(false).expect("blocking");
        let (mut buffer, mut control) = (vec![0; 65_536], Control::new());
        let (length, ..) = receive(&receiver.socket, &mut buffer, &mut control).expect("receive");
        assert_eq!(length, 250, "the segments arrive as one batch");
        let found = Messages(control.room()).find(|m| (m.0, m.1) == (level, kind));
        // One byte in IPv4, an int in IPv6.
        found.map(|m| i32::from(m.2[0])).expect("it was asked for")
    }

    #[test]
    fn packets_carry_the_codepoint_of_the_endpoint_or_of_their_connection() {
        let ca = Ca::new("test root");
        for (listen, dual_stack, to) in [
            ("127.0.0.1:0", false, "127.0.0.1:0"),
            ("[::1]:0", false, "[::1]:0"),
            ("[::]:0", true, "127.0.0.1:0"),
            ("[::]:0", true, "[::1]:0"),
        ] {
            let listen = listen.parse().expect("an address");
            let mut config = EndpointConfig::new(listen, ca.credentials("router/one"));
            config.dual_stack = dual_stack;
            assert_eq!(type_of_service(&config, to, None), 0);
            config.dscp = 10;
            assert_eq!(type_of_service(&config, to, None), 10 << 2);
            assert_eq!(type_of_service(&config, to, Some(46)), 46 << 2);
            assert_eq!(type_of_service(&config, to, Some(0)), 0);
        }
    }
}
