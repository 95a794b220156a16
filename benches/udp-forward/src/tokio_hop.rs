//! The hop over tokio-uring 0.5, at its best.
//!
//! *Can*: receives in flight (one operation each, here 64), and a GSO train of several buffers by `sendmsg` with a control
//! message, so what was received is sent on without a copy.
//!
//! *Cannot*: give the control messages of a receive (`recvmsg` returns length and address), so with GRO the length of the merged
//! datagrams is lost and GRO must stay off: an operation a datagram; a multishot receive; buffers that the kernel picks from a
//! ring. `told` shows what the first of these costs: GRO is on and the length is known beforehand.

use crate::Failure;
use nix::sys::socket::{setsockopt, sockopt};
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::sync::mpsc;
use tokio_uring::buf::{BoundedBuf, Slice};
use tokio_uring::net::UdpSocket;

/// Receives in flight: a GSO train's worth. With GRO each brings a train.
const IN_FLIGHT: usize = 64;
const IN_FLIGHT_TOLD: usize = 4;
/// Most datagrams and bytes of one GSO train.
const SEGMENTS_MAX: usize = 64;
const TRAIN_BYTES_MAX: usize = 65_507;
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// `SOL_UDP` and `UDP_SEGMENT` of Linux.
const SOL_UDP: i32 = 17;
const UDP_SEGMENT: i32 = 103;

type Received = (Vec<u8>, usize);

/// Forwards to `to` until killed; says its address on the standard output.
pub fn forward(to: SocketAddr, packet: usize, told: bool) -> Result<(), Failure> {
    let std_socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    setsockopt(&std_socket, sockopt::RcvBuf, &SOCKET_BUFFER_BYTES)?;
    setsockopt(&std_socket, sockopt::SndBuf, &SOCKET_BUFFER_BYTES)?;
    setsockopt(&std_socket, sockopt::UdpGroSegment, &told)?;
    println!("{}", std_socket.local_addr()?);
    tokio_uring::builder()
        .entries(256)
        .start(async move {
            let socket = Rc::new(UdpSocket::from_std(std_socket));
            let (received, mut batches) = mpsc::unbounded_channel::<Received>();
            let (spare, in_flight) = match told {
                true => (65_536, IN_FLIGHT_TOLD),
                false => (packet, IN_FLIGHT),
            };
            for _ in 0..in_flight {
                receive(&socket, &received, vec![0; spare]);
            }
            while let Some(first) = batches.recv().await {
                let mut train = vec![first];
                let mut bytes = train[0].1;
                while train.len() < SEGMENTS_MAX
                    && bytes + packet <= TRAIN_BYTES_MAX
                    && !told
                    && let Ok(next) = batches.try_recv()
                {
                    bytes += next.1;
                    train.push(next);
                }
                let slices: Vec<Slice<Vec<u8>>> = train
                    .into_iter()
                    .map(|(buffer, len)| buffer.slice(..len))
                    .collect();
                let control = (bytes > packet).then(|| segment_control(packet as u16));
                let (sent, slices, _) = socket.sendmsg(slices, Some(to), control).await;
                sent?;
                for slice in slices {
                    receive(&socket, &received, slice.into_inner());
                }
            }
            Ok::<(), Failure>(())
        })
}

/// One receive, as a task of its own.
fn receive(socket: &Rc<UdpSocket>, to: &mpsc::UnboundedSender<Received>, buffer: Vec<u8>) {
    let (socket, to) = (Rc::clone(socket), to.clone());
    tokio_uring::spawn(async move {
        let mut buffer = buffer;
        loop {
            let (received, back) = socket.recv_from(buffer).await;
            match received {
                Ok((len, _)) => {
                    // The forwarding task lives as long as the program.
                    let _ = to.send((back, len));
                    return;
                }
                // An ICMP answer to an earlier send.
                Err(_) => buffer = back,
            }
        }
    });
}

/// A control message that makes the kernel cut a train into segments: `cmsghdr` of 64-bit Linux, and a 16-bit length.
fn segment_control(segment: u16) -> Vec<u8> {
    let mut control = Vec::with_capacity(24);
    control.extend_from_slice(&18u64.to_ne_bytes());
    control.extend_from_slice(&SOL_UDP.to_ne_bytes());
    control.extend_from_slice(&UDP_SEGMENT.to_ne_bytes());
    control.extend_from_slice(&segment.to_ne_bytes());
    control.resize(24, 0);
    control
}
