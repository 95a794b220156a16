//! The relay's sockets, and what the kernel says it dropped on them.

use mio::net::UdpSocket;
use std::io;
use std::net::SocketAddr;

/// Asked of the kernel for each socket; it grants what `net.core.rmem_max`
/// allows. 4 MiB holds a burst of some 1,800 packets of 1,350 bytes.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Adds up the last column of `/proc/net/udp` (drops) over our local ports.
pub(super) fn dropped_on(table: &str, ports: &[u16]) -> u64 {
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
pub(super) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
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
