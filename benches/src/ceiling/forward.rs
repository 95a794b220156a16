//! The kernel's share: datagrams received in GRO batches and sent on as GSO
//! trains on loopback, nothing else.
//!
//! Source, hop and sink are threads of their own, as the programs of a real
//! path are, so the bytes come from another core's cache as often as there;
//! only the hop's thread is counted. The sink grants the source one train
//! for each it took, so that nothing is lost.

use super::datagrams::{Batch, Datagrams, TRAIN_BYTES_MAX, TRAIN_SEGMENTS_MAX, batch_buffer};
use super::{CeilingError, Cost, thread_cpu};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Trains under way: less than a socket buffer of 4 MiB holds.
const TRAINS_MAX: usize = 16;
/// How long a thread sleeps without noticing the end.
const NAP: Duration = Duration::from_millis(20);

/// Forwards datagrams of `packet` bytes for `time`.
///
/// # Errors
/// When the system refuses a socket or a datagram, or nothing comes through.
pub fn measure(packet: usize, time: Duration) -> Result<Cost, CeilingError> {
    let failed = |what| move |e| CeilingError::Io(what, e);
    let bind = || Datagrams::bind().map_err(failed("socket"));
    let (source, hop, sink) = (bind()?, bind()?, bind()?);
    let (to_hop, to_sink) = (hop.address(), sink.address());
    let (grant, granted) = sync_channel(TRAINS_MAX);
    let stop = AtomicBool::new(false);
    let (cpu, bytes) = std::thread::scope(|scope| {
        let (source, stopped) = (&source, &stop);
        let sending = scope.spawn(move || send(source, to_hop, packet, &granted, stopped));
        let taking = scope.spawn(|| take(&sink, packet, &grant, &stop));
        let forwarding = scope.spawn(|| pass_on(&hop, to_sink, time));
        let forwarded = forwarding.join();
        stop.store(true, Ordering::Release);
        let others = [sending.join(), taking.join()];
        for other in others {
            other
                .map_err(|_| CeilingError::Stuck("a thread panicked"))?
                .map_err(failed("loopback"))?;
        }
        forwarded
            .map_err(|_| CeilingError::Stuck("a thread panicked"))?
            .map_err(failed("forward"))
    })?;
    if bytes == 0 {
        return Err(CeilingError::Stuck("no datagram came through loopback"));
    }
    Ok(Cost::of(cpu, bytes / packet as u64, bytes))
}

fn send(
    source: &Datagrams,
    to: SocketAddr,
    packet: usize,
    granted: &Receiver<()>,
    stop: &AtomicBool,
) -> io::Result<()> {
    let segments = (TRAIN_BYTES_MAX / packet).min(TRAIN_SEGMENTS_MAX);
    let train = vec![0x5a; packet * segments];
    for _ in 0..TRAINS_MAX {
        source.send(to, packet, &train)?;
    }
    while !stop.load(Ordering::Acquire) {
        match granted.recv_timeout(NAP) {
            Ok(()) => source.send(to, packet, &train)?,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
    Ok(())
}

/// CPU time and bytes of the hop, from the first batch on.
fn pass_on(hop: &Datagrams, to: SocketAddr, time: Duration) -> io::Result<(Duration, u64)> {
    let mut bytes = 0;
    let end = Instant::now() + time;
    let before = thread_cpu();
    each_batch(
        hop,
        || Instant::now() >= end,
        |batch| {
            bytes += batch.data.len() as u64;
            hop.send(to, batch.segment, batch.data)
        },
    )?;
    Ok((thread_cpu().saturating_sub(before), bytes))
}

fn take(
    sink: &Datagrams,
    packet: usize,
    grant: &SyncSender<()>,
    stop: &AtomicBool,
) -> io::Result<()> {
    let train = (TRAIN_BYTES_MAX / packet).min(TRAIN_SEGMENTS_MAX) * packet;
    let mut taken = 0;
    each_batch(
        sink,
        || stop.load(Ordering::Acquire),
        |batch| {
            taken += batch.data.len();
            while taken >= train {
                taken -= train;
                // Full: the source has as many grants as it may have.
                let _ = grant.try_send(());
            }
            Ok(())
        },
    )
}

/// Sleeps in epoll and takes batches until told to end.
fn each_batch(
    socket: &Datagrams,
    ended: impl Fn() -> bool,
    mut step: impl FnMut(Batch<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut poll = Poll::new()?;
    poll.registry().register(
        &mut SourceFd(&socket.raw_fd()),
        Token(0),
        Interest::READABLE,
    )?;
    let mut events = Events::with_capacity(1);
    let mut buffer = batch_buffer();
    while !ended() {
        match poll.poll(&mut events, Some(NAP)) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
            _ => {}
        }
        while let Some(batch) = socket.receive(&mut buffer)? {
            step(batch)?;
            if ended() {
                break;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_of_each_size_come_through() {
        for packet in super::super::PACKETS {
            let cost = measure(packet, Duration::from_millis(50)).expect("loopback");
            assert!(cost.ns_per_packet > 0.0 && cost.gbit_per_core_second > 0.0);
        }
    }
}
