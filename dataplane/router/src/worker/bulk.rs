//! Bulk messages under way: one ingress stream joined to one egress stream, cut
//! through, with the receiver's flow control holding the sender back.
//!
//! What stands here of a message is at most what arrived before its ingress
//! stream was paused. A message may come in at another worker: then its pieces come by a ring, and instead of
//! pausing a stream that worker is told what was taken ([`far`] is its side). Refuses to know routing:
//! the Forwarder has decided.

pub(super) mod far;

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use caplane_transport::{BulkRx, BulkTx, Endpoint, PeerId, SendError};
use caplane_wire::{HEADER_LEN, StreamCode, TrafficClass};

/// Names a bulk message by where it comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Ingress {
    pub(super) peer: PeerId,
    pub(super) stream: BulkRx,
}

/// Where a bulk message comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Source {
    /// A stream of this worker.
    Here(Ingress),
    /// A stream of another worker, which calls it `id`.
    Far { worker: u8, id: u32 },
}

impl Source {
    fn is_from(&self, peer: PeerId) -> bool {
        matches!(self, Source::Here(ingress) if ingress.peer == peer)
    }
}

/// How a bulk message ended; the worker tells the Forwarder, or the worker it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) from: Source,
    pub(super) to: PeerId,
    pub(super) end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// So many bytes, the last included, were handed to the transport.
    Complete { bytes: u64 },
    /// Its sender reset it, or vanished.
    CutBySender,
    /// The way on is gone; this is the header it came with, and the code for its stream.
    WayOnGone { head: Head, code: u64 },
}

/// A message header, as it came.
pub(super) type Head = [u8; HEADER_LEN];

#[derive(Debug)]
struct Flow {
    to: PeerId,
    head: Head,
    class: TrafficClass,
    /// `None` while the receiver allows no more streams.
    tx: Option<BulkTx>,
    /// Pieces the egress stream did not take, with their FIN. Their number is bounded by what the
    /// transport had already read when the ingress stream was paused.
    waiting: VecDeque<(Bytes, bool)>,
    paused: bool,
    sent: u64,
    /// The part of `sent` that its worker was told of.
    told: u64,
}

/// Bulk messages under way to one receiving instance; more are refused. A link has 256 streams: one receiver that stands
/// still never has them all. At the first stream window of 256 KiB what stands for it costs 16 MiB.
pub(super) const PER_RECEIVER_MAX: usize = 64;

/// All bulk messages of one worker.
#[derive(Debug, Default)]
pub(super) struct Bulks {
    flows: HashMap<Source, Flow>,
    /// Bulk messages under way by where they go.
    towards: HashMap<PeerId, usize>,
    /// Which flows wait for which receiver to be writable.
    blocked: BTreeSet<(PeerId, Source)>,
    /// What other workers are to be told: worker, its name for a message, bytes taken.
    taken: Vec<(u8, u32, usize)>,
}

impl Bulks {
    /// Bulk messages under way.
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// Bulk messages under way to `to`.
    pub(super) fn towards(&self, to: PeerId) -> usize {
        self.towards.get(&to).copied().unwrap_or(0)
    }

    /// True when `source` is a message whose head was let through.
    pub(super) fn contains(&self, source: Source) -> bool {
        self.flows.contains_key(&source)
    }

    /// What other workers are to be told was taken.
    pub(super) fn take_taken(&mut self) -> Option<(u8, u32, usize)> {
        self.taken.pop()
    }

    /// A message was let through to `to`; its first piece follows by [`Bulks::piece`].
    pub(super) fn open(&mut self, source: Source, to: PeerId, class: TrafficClass, head: Head) {
        *self.towards.entry(to).or_default() += 1;
        self.flows.insert(
            source,
            Flow {
                to,
                head,
                class,
                tx: None,
                waiting: VecDeque::new(),
                paused: false,
                sent: 0,
                told: 0,
            },
        );
    }

    /// The next bytes of a message. Returns its end, when this was it.
    pub(super) fn piece(
        &mut self,
        endpoint: &mut Endpoint,
        source: Source,
        data: Bytes,
        fin: bool,
    ) -> Option<Ended> {
        let flow = self.flows.get_mut(&source)?;
        flow.waiting.push_back((data, fin));
        self.advance(endpoint, source)
    }

    /// `to` may take more: moves what waits for it.
    pub(super) fn writable(&mut self, endpoint: &mut Endpoint, to: PeerId) -> Vec<Ended> {
        let waiting: Vec<Source> = self
            .blocked
            .iter()
            .filter(|(peer, _)| *peer == to)
            .map(|&(_, source)| source)
            .collect();
        waiting
            .into_iter()
            .filter_map(|source| self.advance(endpoint, source))
            .collect()
    }

    /// The sender cut the message short.
    pub(super) fn cut_by_sender(
        &mut self,
        endpoint: &mut Endpoint,
        source: Source,
    ) -> Option<Ended> {
        let flow = self.remove(source)?;
        if let Some(tx) = flow.tx {
            endpoint.reset_bulk(flow.to, tx, StreamCode::CutShort.number());
        }
        Some(flow.ended(source, End::CutBySender))
    }

    /// The receiver stopped the egress stream `tx`.
    pub(super) fn stopped_by_receiver(
        &mut self,
        endpoint: &mut Endpoint,
        to: PeerId,
        tx: BulkTx,
        code: u64,
    ) -> Option<Ended> {
        let source = self
            .flows
            .iter()
            .find(|(_, flow)| flow.to == to && flow.tx == Some(tx))
            .map(|(&source, _)| source)?;
        self.way_on_gone(endpoint, source, code)
    }

    /// A connection is gone: ends every message from it and to it.
    pub(super) fn peer_gone(&mut self, endpoint: &mut Endpoint, peer: PeerId) -> Vec<Ended> {
        let touched: Vec<Source> = self
            .flows
            .iter()
            .filter(|(source, flow)| source.is_from(peer) || flow.to == peer)
            .map(|(&source, _)| source)
            .collect();
        let mut ended = Vec::with_capacity(touched.len());
        for source in touched {
            if source.is_from(peer) {
                ended.extend(self.cut_by_sender(endpoint, source));
            } else {
                let code = StreamCode::Gone.number();
                ended.extend(self.way_on_gone(endpoint, source, code));
            }
        }
        ended
    }

    /// Sends as much of what waits as the egress stream takes; pauses or resumes the ingress
    /// stream accordingly.
    fn advance(&mut self, endpoint: &mut Endpoint, source: Source) -> Option<Ended> {
        let flow = self.flows.get_mut(&source)?;
        let pushed = flow.push(endpoint);
        let blocked = match pushed {
            Pushed::All => {
                self.blocked.remove(&(flow.to, source));
                false
            }
            Pushed::Blocked => {
                self.blocked.insert((flow.to, source));
                true
            }
            Pushed::Finished => {
                let flow = self.remove(source)?;
                let bytes = flow.sent;
                return Some(flow.ended(source, End::Complete { bytes }));
            }
            Pushed::Failed => {
                return self.way_on_gone(endpoint, source, StreamCode::Gone.number());
            }
        };
        match source {
            Source::Here(ingress) if flow.paused != blocked => {
                flow.paused = blocked;
                match blocked {
                    true => endpoint.pause_bulk(ingress.peer, ingress.stream),
                    false => endpoint.resume_bulk(ingress.peer, ingress.stream),
                }
            }
            Source::Far { worker, id } if flow.sent > flow.told => {
                let bytes = (flow.sent - flow.told) as usize;
                flow.told = flow.sent;
                self.taken.push((worker, id, bytes));
            }
            Source::Here(_) | Source::Far { .. } => {}
        }
        None
    }

    fn way_on_gone(&mut self, endpoint: &mut Endpoint, source: Source, code: u64) -> Option<Ended> {
        if let Source::Here(ingress) = source {
            endpoint.reset_rx(ingress.peer, ingress.stream.stream_id(), code);
        }
        let flow = self.remove(source)?;
        let head = flow.head;
        Some(flow.ended(source, End::WayOnGone { head, code }))
    }

    fn remove(&mut self, source: Source) -> Option<Flow> {
        let flow = self.flows.remove(&source)?;
        self.blocked.remove(&(flow.to, source));
        if let Entry::Occupied(mut count) = self.towards.entry(flow.to) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        Some(flow)
    }
}

enum Pushed {
    /// Nothing waits and the egress stream takes more.
    All,
    /// The egress stream, or the receiver's stream limit, holds us back.
    Blocked,
    /// The last byte was handed over.
    Finished,
    /// The egress stream is closed.
    Failed,
}

impl Flow {
    fn push(&mut self, endpoint: &mut Endpoint) -> Pushed {
        let tx = match self.tx {
            Some(tx) => tx,
            None => match endpoint.open_bulk(self.to, self.class) {
                Ok(tx) => *self.tx.insert(tx),
                Err(SendError::StreamLimit) => return Pushed::Blocked,
                Err(_) => return Pushed::Failed,
            },
        };
        while endpoint.bulk_ready(self.to, tx) {
            let Some((data, fin)) = self.waiting.pop_front() else {
                return Pushed::All;
            };
            let bytes = data.len() as u64;
            match endpoint.send_bulk(self.to, tx, data, fin) {
                Ok(()) => {
                    self.sent += bytes;
                    if fin {
                        return Pushed::Finished;
                    }
                }
                Err(_) => return Pushed::Failed,
            }
        }
        Pushed::Blocked
    }

    fn ended(&self, from: Source, end: End) -> Ended {
        Ended {
            from,
            to: self.to,
            end,
        }
    }
}
