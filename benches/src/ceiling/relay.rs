//! QUIC's share: packets of one connection decrypted, their stream handed to
//! another connection, packets of that encrypted; acknowledgements included;
//! in memory, without a socket.
//!
//! Four connection ends stand in one thread; only the two in the middle are
//! counted. The stream is opaque: nothing looks for messages in it.

use super::quic::{CertificateFiles, Quic, Slice, accept, config, connection_id};
use super::{CeilingError, Cost, charged};
use bytes::{Bytes, BytesMut};
use quiche::RecvInfo;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// First unidirectional streams: one that the dialling side opened, one that the accepting side opened.
const IN_STREAM: u64 = 2;
const OUT_STREAM: u64 = 3;
/// Bytes the source hands over at a time.
const PIECE: usize = 64 * 1024;
/// Packets built in one turn: what one GSO train would hold.
const TURN_BYTES: usize = 65_507;
/// Turns without a byte through before something is wrong.
const IDLE_TURNS_MAX: u32 = 1_000;

/// Relays packets of `packet` bytes for `time`.
///
/// # Errors
/// When QUIC refuses something, or nothing moves.
pub fn measure(
    packet: usize,
    time: Duration,
    certificate: &CertificateFiles,
) -> Result<Cost, CeilingError> {
    let mut bed = Bed::connect(packet, certificate)?;
    let mut cpu = Duration::ZERO;
    let (mut bytes, mut packets, mut idle) = (0, 0, 0);
    let end = Instant::now() + time;
    while Instant::now() < end {
        let (more_bytes, more_packets) = bed.turn(&mut cpu)?;
        bytes += more_bytes;
        packets += more_packets;
        idle = if more_bytes > 0 { 0 } else { idle + 1 };
        if idle > IDLE_TURNS_MAX {
            return Err(CeilingError::Stuck("the in-memory relay stands still"));
        }
    }
    Ok(Cost::of(cpu, packets, bytes))
}

/// source -> (incoming, outgoing) -> sink.
struct Bed {
    source: Quic,
    incoming: Quic,
    outgoing: Quic,
    sink: Quic,
    piece: Bytes,
    slab: BytesMut,
    waiting: VecDeque<Bytes>,
    /// Packets on their way from one end to another.
    wire: Wire,
}

/// Packets back to back.
struct Wire {
    buffer: Vec<u8>,
    lengths: Vec<usize>,
}

impl Wire {
    /// Builds what `from` has to send, a turn's worth at most.
    fn fill(&mut self, from: &mut Quic) -> Result<(), CeilingError> {
        self.lengths.clear();
        let mut at = 0;
        while at + from.max_send_udp_payload_size() <= TURN_BYTES {
            match from.send(&mut self.buffer[at..]) {
                Ok((length, _)) => {
                    self.lengths.push(length);
                    at += length;
                }
                Err(quiche::Error::Done) => break,
                Err(e) => return Err(CeilingError::Quic("building a packet", e)),
            }
        }
        Ok(())
    }

    fn deliver(&mut self, to: &mut Quic, info: RecvInfo) -> Result<(), CeilingError> {
        let mut at = 0;
        for length in &self.lengths {
            match to.recv(&mut self.buffer[at..at + length], info) {
                Ok(_) | Err(quiche::Error::Done) => at += length,
                Err(e) => return Err(CeilingError::Quic("taking a packet", e)),
            }
        }
        Ok(())
    }
}

fn address(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn info(from: u16, to: u16) -> RecvInfo {
    RecvInfo {
        from: address(from),
        to: address(to),
    }
}

/// Ports stand for the four ends: nothing is bound to them.
const SOURCE: u16 = 1;
const INCOMING: u16 = 2;
const OUTGOING: u16 = 3;
const SINK: u16 = 4;

impl Bed {
    fn connect(packet: usize, certificate: &CertificateFiles) -> Result<Bed, CeilingError> {
        let mut server = config(packet, Some(certificate))?;
        let mut client = config(packet, None)?;
        let mut dial = |n: u8, own: u16, peer: u16| {
            quiche::connect_with_buffer_factory(
                None,
                &connection_id(n),
                address(own),
                address(peer),
                &mut client,
            )
            .map_err(|e| CeilingError::Quic("dialling", e))
        };
        let mut bed = Bed {
            source: dial(1, SOURCE, INCOMING)?,
            sink: dial(4, SINK, OUTGOING)?,
            incoming: accept(2, address(INCOMING), address(SOURCE), &mut server)?,
            outgoing: accept(3, address(OUTGOING), address(SINK), &mut server)?,
            piece: vec![0x5a; PIECE].into(),
            slab: BytesMut::new(),
            waiting: VecDeque::new(),
            wire: Wire {
                buffer: vec![0; TURN_BYTES + packet],
                lengths: Vec::new(),
            },
        };
        // A handshake takes two round trips.
        for _ in 0..16 {
            bed.exchange()?;
        }
        let ends = [&bed.source, &bed.incoming, &bed.outgoing, &bed.sink];
        if ends.into_iter().all(|end| end.is_established()) {
            Ok(bed)
        } else {
            Err(CeilingError::Stuck("the in-memory handshake did not end"))
        }
    }

    /// One flight each way on both connections.
    fn exchange(&mut self) -> Result<(), CeilingError> {
        let wire = &mut self.wire;
        wire.fill(&mut self.source)?;
        wire.deliver(&mut self.incoming, info(SOURCE, INCOMING))?;
        wire.fill(&mut self.incoming)?;
        wire.deliver(&mut self.source, info(INCOMING, SOURCE))?;
        wire.fill(&mut self.sink)?;
        wire.deliver(&mut self.outgoing, info(SINK, OUTGOING))?;
        wire.fill(&mut self.outgoing)?;
        wire.deliver(&mut self.sink, info(OUTGOING, SINK))
    }

    /// A train from source to sink and the acknowledgements back; bytes and packets that left the relay.
    fn turn(&mut self, cpu: &mut Duration) -> Result<(u64, u64), CeilingError> {
        while self.source.stream_capacity(IN_STREAM).unwrap_or(PIECE) > 0 {
            let piece = Slice(self.piece.clone());
            match self.source.stream_send_zc(IN_STREAM, piece, false) {
                Ok((_, None)) => {}
                Ok((_, Some(_))) | Err(quiche::Error::Done) => break,
                Err(e) => return Err(CeilingError::Quic("writing", e)),
            }
        }
        self.wire.fill(&mut self.source)?;
        charged(cpu, || {
            self.wire
                .deliver(&mut self.incoming, info(SOURCE, INCOMING))?;
            self.pass_on()?;
            self.wire.fill(&mut self.incoming)
        })?;
        self.wire
            .deliver(&mut self.source, info(INCOMING, SOURCE))?;
        let before = self.outgoing.stats().sent;
        charged(cpu, || self.wire.fill(&mut self.outgoing))?;
        let packets = (self.outgoing.stats().sent - before) as u64;
        self.wire.deliver(&mut self.sink, info(OUTGOING, SINK))?;
        let bytes = self.take()?;
        self.wire.fill(&mut self.sink)?;
        charged(cpu, || {
            self.wire.deliver(&mut self.outgoing, info(SINK, OUTGOING))
        })?;
        Ok((bytes, packets))
    }

    /// From the one stream to the other, without a copy of our own.
    fn pass_on(&mut self) -> Result<(), CeilingError> {
        use bytes::BufMut;
        while self.incoming.stream_readable(IN_STREAM) {
            if !self.slab.try_reclaim(PIECE) {
                self.slab = BytesMut::with_capacity(4 * PIECE);
            }
            let room = self.slab.capacity() - self.slab.len();
            match self
                .incoming
                .stream_recv_buf(IN_STREAM, (&mut self.slab).limit(room))
            {
                Ok(_) => self.waiting.push_back(self.slab.split().freeze()),
                Err(quiche::Error::Done) => break,
                Err(e) => return Err(CeilingError::Quic("reading", e)),
            }
        }
        send_waiting(&mut self.outgoing, OUT_STREAM, &mut self.waiting)
    }

    /// What the sink got.
    fn take(&mut self) -> Result<u64, CeilingError> {
        let mut bytes = 0;
        while self.sink.stream_readable(OUT_STREAM) {
            match self.sink.stream_discard(OUT_STREAM, usize::MAX >> 1) {
                Ok((length, _)) => bytes += length as u64,
                Err(quiche::Error::Done) => break,
                Err(e) => return Err(CeilingError::Quic("taking", e)),
            }
        }
        Ok(bytes)
    }
}

/// Hands slices to a stream as far as it takes them.
pub(super) fn send_waiting(
    to: &mut Quic,
    stream: u64,
    waiting: &mut VecDeque<Bytes>,
) -> Result<(), CeilingError> {
    while let Some(slice) = waiting.pop_front() {
        // A stream that was not written to yet has no capacity to ask for.
        if to.stream_capacity(stream).is_ok_and(|room| room == 0) {
            waiting.push_front(slice);
            return Ok(());
        }
        match to.stream_send_zc(stream, Slice(slice.clone()), false) {
            Ok((_, None)) => {}
            Ok((_, Some(rest))) => {
                waiting.push_front(rest.0);
                return Ok(());
            }
            Err(quiche::Error::Done) => {
                waiting.push_front(slice);
                return Ok(());
            }
            Err(e) => return Err(CeilingError::Quic("writing", e)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_through_at_each_packet_size() {
        let yard = super::super::Yard::open().expect("certificates");
        for packet in super::super::PACKETS {
            let cost =
                measure(packet, Duration::from_millis(30), yard.certificate()).expect("in memory");
            assert!(cost.gbit_per_core_second > 0.01, "{packet}: {cost:?}");
        }
    }
}
