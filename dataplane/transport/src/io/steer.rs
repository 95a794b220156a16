//! The sockets of a group of workers: one shared port to listen on, steered by connection id, and a port of its own each to
//! dial from.

use std::io;
use std::net::SocketAddr;

use super::udp::UdpSocket;
use crate::config::EndpointConfig;

/// Where byte 0 of the destination connection id stands in a packet with a short header (RFC 9000 section 17.3).
pub(crate) const STEERING_SHORT: usize = 1;

/// The same with a long header (RFC 9000 section 17.2).
pub(crate) const STEERING_LONG: usize = 6;

/// The sockets of one worker.
pub(crate) struct Ports {
    pub(super) listening: UdpSocket,
    /// `None`: the worker is alone and dials from the listening socket.
    pub(super) dialling: Option<UdpSocket>,
}

impl Ports {
    /// The socket of a worker without others.
    pub(crate) fn alone(config: &EndpointConfig) -> io::Result<Self> {
        Ok(Self {
            listening: UdpSocket::bind(config, config.listen, false)?,
            dialling: None,
        })
    }
}

/// Binds the sockets of `workers` workers, in their order.
///
/// The first socket is bound without SO_REUSEPORT, so that a port in use by another process, or by another group of ours, is
/// refused; only then is it opened to the others. So two groups can never share a port, not even when they bind at the same
/// moment: each one's first socket finds the port taken. The program is attached last and steers by place in the group, so a
/// group is never resized.
pub(crate) fn bind_group(config: &EndpointConfig, workers: u8) -> io::Result<Vec<Ports>> {
    let first = UdpSocket::bind(config, config.listen, false)?;
    let shared = first.local_addr()?;
    let own = SocketAddr::new(config.listen.ip(), 0);
    first.share_port()?;
    let mut listening = vec![first];
    for _ in 1..workers {
        listening.push(UdpSocket::bind(config, shared, true)?);
    }
    listening[0].steer(&mut program(workers))?;
    listening
        .into_iter()
        .map(|listening| {
            Ok(Ports {
                listening,
                dialling: Some(UdpSocket::bind(config, own, false)?),
            })
        })
        .collect()
}

/// Byte 0 of the destination connection id modulo the size of the group, in classic BPF. The system shows it the UDP payload;
/// a load beyond its end ends the program with 0, the first worker.
fn program(workers: u8) -> [libc::sock_filter; 7] {
    let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    [
        step(load, 0, 0, 0),
        // The highest bit of the first byte tells a long header.
        step(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 2, 0x80),
        step(load, 0, 0, STEERING_LONG as u32),
        step(libc::BPF_JMP | libc::BPF_JA, 0, 0, 1),
        step(load, 0, 0, STEERING_SHORT as u32),
        step(
            libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K,
            0,
            0,
            u32::from(workers),
        ),
        step(libc::BPF_RET | libc::BPF_A, 0, 0, 0),
    ]
}
