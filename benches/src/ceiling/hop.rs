//! The naive hop: what a plain good router does, and no more.
//!
//! One connection in, one out, epoll, GRO and GSO; every header is walked in
//! place and its label looked up in a table of a million; whole messages are
//! handed on as slices of the slab they were read into. No client
//! certificates, no policy, no queues, no classes, no notices, no metrics: a
//! product that does all that must not be slower than this.

use super::CeilingError;
use super::datagrams::{Batch, Datagrams, TRAIN_BYTES_MAX, TRAIN_SEGMENTS_MAX, batch_buffer};
use super::quic::{CertificateFiles, Quic, accept, config};
use super::relay::send_waiting;
use bytes::{BufMut, Bytes, BytesMut};
use caplane_wire::header::Header;
use caplane_wire::preface::PREFACE_LEN;
use caplane_wire::{LANE_MESSAGE_MAX, Label, message_len};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use quiche::RecvInfo;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The first to connect receives, the second sends.
const OUT: usize = 0;
const IN: usize = 1;
/// The first unidirectional stream of the accepting side.
const OUT_STREAM: u64 = 3;
const SLAB_BYTES: usize = 256 * 1024;
/// Slabs waiting for the outgoing connection before the incoming one is not read any more.
const WAITING_MAX: usize = 8;
/// GRO batches taken before packets are built.
const BATCHES_PER_TURN: usize = 16;

/// A hop that is bound and waits.
pub struct Hop {
    datagrams: Datagrams,
    poll: Poll,
    quic: quiche::Config,
    connections: Vec<(Quic, SocketAddr)>,
    table: LabelTable,
    slab: BytesMut,
    /// Slabs that are read full; they come back when the last slice is dropped.
    retired: VecDeque<BytesMut>,
    /// Whether the preface of the incoming lane has passed.
    in_lane: bool,
    waiting: VecDeque<Bytes>,
    train: Box<[u8]>,
    /// Messages handed on, messages with an unknown label, bytes copied between slabs.
    counts: [u64; 3],
}

impl Hop {
    /// Binds on loopback; packets are `packet` bytes from the start.
    ///
    /// # Errors
    /// When the system or QUIC refuses.
    pub fn bind(
        packet: usize,
        labels: impl Iterator<Item = Label>,
        certificate: &CertificateFiles,
    ) -> Result<Hop, CeilingError> {
        let failed = |what| move |e| CeilingError::Io(what, e);
        let datagrams = Datagrams::bind().map_err(failed("socket"))?;
        let poll = Poll::new().map_err(failed("epoll"))?;
        poll.registry()
            .register(
                &mut SourceFd(&datagrams.raw_fd()),
                Token(0),
                Interest::READABLE,
            )
            .map_err(failed("epoll"))?;
        Ok(Hop {
            datagrams,
            poll,
            quic: config(packet, Some(certificate))?,
            connections: Vec::new(),
            table: LabelTable::new(labels),
            slab: BytesMut::with_capacity(SLAB_BYTES),
            retired: VecDeque::new(),
            in_lane: false,
            waiting: VecDeque::new(),
            train: vec![0; TRAIN_BYTES_MAX + packet].into_boxed_slice(),
            counts: [0; 3],
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.datagrams.address()
    }

    /// Forwards until a connection ends.
    ///
    /// # Errors
    /// When the system or QUIC refuses.
    pub fn run(&mut self) -> Result<(), CeilingError> {
        let failed = |what| move |e| CeilingError::Io(what, e);
        let mut events = Events::with_capacity(1);
        let mut buffer = batch_buffer();
        loop {
            let timeout = self.time_out();
            if let Err(e) = self.poll.poll(&mut events, timeout)
                && e.kind() != std::io::ErrorKind::Interrupted
            {
                return Err(CeilingError::Io("epoll", e));
            }
            // Readiness is told once: until the socket is empty there is another turn.
            loop {
                let mut empty = false;
                for _ in 0..BATCHES_PER_TURN {
                    let batch = self.datagrams.receive(&mut buffer);
                    match batch.map_err(failed("receive"))? {
                        Some(batch) => take(
                            &mut self.connections,
                            &mut self.quic,
                            self.datagrams.address(),
                            batch,
                        )?,
                        None => {
                            empty = true;
                            break;
                        }
                    }
                }
                self.pass_on()?;
                for n in 0..self.connections.len() {
                    self.flush(n).map_err(failed("send"))?;
                }
                if self.connections.iter().any(|(quic, _)| quic.is_closed()) {
                    return Ok(());
                }
                if empty {
                    break;
                }
            }
        }
    }

    /// Messages handed on, messages with an unknown label, bytes copied between slabs.
    pub fn counts(&self) -> [u64; 3] {
        self.counts
    }

    /// Runs timers that are due; how long until the next.
    fn time_out(&mut self) -> Option<Duration> {
        let next = |connections: &[(Quic, SocketAddr)]| {
            connections
                .iter()
                .filter_map(|(quic, _)| quic.timeout_instant())
                .min()
        };
        let due = next(&self.connections)?;
        let now = Instant::now();
        if due > now {
            return Some(due - now);
        }
        for n in 0..self.connections.len() {
            self.connections[n].0.on_timeout();
            // A socket that refuses now refuses in the loop, too.
            let _ = self.flush(n);
        }
        next(&self.connections).map(|due| due.saturating_duration_since(now))
    }

    /// From the sender's streams to the receiver's.
    fn pass_on(&mut self) -> Result<(), CeilingError> {
        let [(outgoing, _), (incoming, _)] = self.connections.as_mut_slice() else {
            return Ok(());
        };
        if !(outgoing.is_established() && incoming.is_established()) {
            return Ok(());
        }
        send_waiting(outgoing, OUT_STREAM, &mut self.waiting)?;
        // The generator opens one lane: stream 2.
        while self.waiting.len() < WAITING_MAX && incoming.stream_readable(2) {
            let room = self.slab.capacity() - self.slab.len();
            match incoming.stream_recv_buf(2, (&mut self.slab).limit(room)) {
                Ok(_) => {}
                Err(quiche::Error::Done) => break,
                Err(e) => return Err(CeilingError::Quic("reading", e)),
            }
            let whole = walk(&self.slab, &mut self.in_lane, &self.table, &mut self.counts);
            if whole > 0 {
                self.waiting.push_back(self.slab.split_to(whole).freeze());
            }
            if self.slab.capacity() - self.slab.len() < LANE_MESSAGE_MAX {
                let fresh = fresh(&mut self.retired);
                let full = std::mem::replace(&mut self.slab, fresh);
                self.counts[2] += full.len() as u64;
                self.slab.extend_from_slice(&full);
                self.retired.push_back(full);
            }
            send_waiting(outgoing, OUT_STREAM, &mut self.waiting)?;
        }
        Ok(())
    }

    /// Builds packets of connection `n` in trains and sends them.
    fn flush(&mut self, n: usize) -> std::io::Result<()> {
        let Some((quic, to)) = self.connections.get_mut(n) else {
            return Ok(());
        };
        let (mut at, mut segment) = (0, 0);
        loop {
            let built = quic.send(&mut self.train[at..]).map(|(length, _)| length);
            let length = built.unwrap_or(0);
            if segment > 0 && (length == 0 || length > segment) {
                self.datagrams.send(*to, segment, &self.train[..at])?;
                self.train.copy_within(at..at + length, 0);
                (at, segment) = (0, 0);
            }
            if length == 0 {
                return Ok(());
            }
            segment = segment.max(length);
            at += length;
            if length < segment
                || at / segment >= TRAIN_SEGMENTS_MAX
                || at + segment > TRAIN_BYTES_MAX
            {
                self.datagrams.send(*to, segment, &self.train[..at])?;
                (at, segment) = (0, 0);
            }
        }
    }
}

/// Gives each packet to its connection; the first two addresses that knock are let in.
fn take(
    connections: &mut Vec<(Quic, SocketAddr)>,
    quic: &mut quiche::Config,
    local: SocketAddr,
    batch: Batch<'_>,
) -> Result<(), CeilingError> {
    let from = batch.from;
    let known = connections.iter().position(|(_, peer)| *peer == from);
    let n = match known {
        Some(n) => n,
        None if connections.len() <= IN => {
            let n = connections.len();
            connections.push((accept(n as u8, local, from, quic)?, from));
            n
        }
        None => return Ok(()),
    };
    let info = RecvInfo { from, to: local };
    for packet in batch.data.chunks_mut(batch.segment) {
        match connections[n].0.recv(packet, info) {
            // A packet that cannot be read is dropped, as on any path.
            Ok(_) | Err(quiche::Error::Done) => {}
            Err(error) => tracing::debug!(%error, "packet refused"),
        }
    }
    Ok(())
}

/// Walks whole messages; how many bytes may go on.
fn walk(slab: &[u8], in_lane: &mut bool, table: &LabelTable, counts: &mut [u64; 3]) -> usize {
    let mut at = 0;
    if !*in_lane {
        if slab.len() < PREFACE_LEN {
            return 0;
        }
        *in_lane = true;
        at = PREFACE_LEN;
    }
    while let Ok(Some(length)) = message_len(&slab[at..], LANE_MESSAGE_MAX) {
        if at + length > slab.len() {
            break;
        }
        let header = Header::new_unchecked(&slab[at..at + length]);
        counts[0] += 1;
        if table.next_hop(header.requested_label()).is_none() {
            counts[1] += 1;
        }
        at += length;
    }
    at
}

/// A slab nobody holds any more, or a new one.
fn fresh(retired: &mut VecDeque<BytesMut>) -> BytesMut {
    if let Some(mut oldest) = retired.pop_front() {
        oldest.clear();
        if oldest.try_reclaim(SLAB_BYTES) {
            return oldest;
        }
        retired.push_front(oldest);
    }
    BytesMut::with_capacity(SLAB_BYTES)
}

/// Label to next hop.
struct LabelTable(HashMap<u32, u32, BuildHasherDefault<Multiply>>);

impl LabelTable {
    fn new(labels: impl Iterator<Item = Label>) -> LabelTable {
        LabelTable(labels.map(|label| (label.bits(), OUT as u32)).collect())
    }

    fn next_hop(&self, label: Label) -> Option<u32> {
        self.0.get(&label.bits()).copied()
    }
}

/// Hashes one word by one multiplication: labels come from our own controller.
#[derive(Default)]
struct Multiply(u64);

impl Hasher for Multiply {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, word: u32) {
        // The upper bits choose the slot's tag, the lower ones the slot: both must be mixed.
        let product = (self.0 ^ u64::from(word)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = product ^ product >> 32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bars::Settings;
    use crate::ceiling::Yard;
    use crate::load::{Verdict, class_labels};
    use caplane_wire::HeaderRepr;

    #[test]
    fn headers_are_walked_to_the_last_whole_message_and_looked_up() {
        let labels = class_labels(3);
        let table = LabelTable::new(labels[..2].iter().copied());
        let mut lane = vec![0; PREFACE_LEN];
        for label in &labels {
            let header = HeaderRepr {
                requested_label: *label,
                payload_len: 10,
                ..HeaderRepr::default()
            };
            lane.extend_from_slice(&header.to_bytes());
            lane.extend_from_slice(&[0; 10]);
        }
        let whole = lane.len();
        lane.extend_from_within(PREFACE_LEN..PREFACE_LEN + 50);
        let (mut in_lane, mut counts) = (false, [0; 3]);
        assert_eq!(walk(&lane[..5], &mut in_lane, &table, &mut counts), 0);
        assert_eq!(walk(&lane, &mut in_lane, &table, &mut counts), whole);
        // The last label is not in the table.
        assert_eq!((in_lane, counts), (true, [3, 1, 0]));
    }

    #[test]
    fn every_message_goes_through_intact_at_each_packet_size() {
        let yard = Yard::open().expect("certificates");
        for (packet, size) in [(1_350, 64), (16_000, 16_384)] {
            let settings = Settings {
                duration: Duration::from_millis(300),
                warm_up: Duration::from_millis(50),
                repeat: 1,
                labels: 10_000,
            };
            let report = yard
                .through_hop(&settings.plan(size, packet), &mut |_| {})
                .expect("a run");
            assert_eq!(report.verdict, Verdict::Valid, "{report}");
            assert_eq!(report.sent, report.received, "{report}");
            assert!(report.received > 100, "{report}");
        }
    }
}
