//! Packets of one connection, built back to back and sent as one GSO train.
//!
//! A train is equal segments, the last may be shorter. A path MTU probe is larger than what the path is known to carry, so it
//! always travels alone: a train with a lost probe in it would be lost whole.

use std::collections::VecDeque;

use crate::connection::Connection;
use crate::counters::Counters;
use crate::io::{Driver, Port, Sent, TRAIN_BYTES_MAX, TRAIN_SEGMENTS_MAX, Way};

/// Room offered to QUIC for every packet; it never writes more than 16,383 bytes.
const PACKET_BYTES_MAX: usize = 16_384;

/// Trains sent for one connection before the others have their turn: 1 MB.
const TRAINS_PER_TURN: usize = 16;

#[derive(Clone, Debug)]
struct Train {
    slot: u32,
    way: Way,
    start: usize,
    end: usize,
    segment: usize,
    /// A path MTU probe: its loss says nothing about the size in use.
    probe: bool,
}

impl Train {
    fn packets(&self) -> usize {
        (self.end - self.start).div_ceil(self.segment)
    }
}

/// Why building packets for a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Built {
    /// It has nothing more to send.
    All,
    /// Its turn is over.
    Some,
    /// The socket takes no more; what was built waits.
    SocketFull,
}

/// The buffer that packets are built in.
pub(crate) struct Trains {
    buffer: Box<[u8]>,
    /// Trains that the socket has not taken yet; at most the one it refused and the packet built after it.
    waiting: VecDeque<Train>,
    /// Connections whose packets were larger than the first link takes.
    too_large: Vec<u32>,
}

impl Trains {
    pub(crate) fn new() -> Self {
        Self {
            buffer: vec![0; TRAIN_BYTES_MAX + 2 * PACKET_BYTES_MAX].into_boxed_slice(),
            waiting: VecDeque::new(),
            too_large: Vec::new(),
        }
    }

    /// The port whose socket is full, when built packets wait for it.
    pub(crate) fn waiting(&self) -> Option<Port> {
        self.waiting.front().map(|train| train.way.port)
    }

    /// Connections whose path MTU fell, since the last call.
    pub(crate) fn take_too_large(&mut self) -> impl Iterator<Item = u32> + '_ {
        self.too_large.drain(..)
    }

    /// Sends what waits; true when nothing does any more.
    pub(crate) fn drain(&mut self, driver: &mut dyn Driver, counters: &mut Counters) -> bool {
        while let Some(train) = self.waiting.front() {
            let data = &self.buffer[train.start..train.end];
            match driver.send(&train.way, train.segment, data) {
                Sent::Done => {
                    counters.send_calls += 1;
                    counters.packets_sent += train.packets() as u64;
                    counters.bytes_sent += data.len() as u64;
                }
                Sent::Blocked => {
                    counters.sends_blocked += 1;
                    return false;
                }
                Sent::TooLarge => {
                    counters.sends_too_large += 1;
                    if !train.probe {
                        self.too_large.push(train.slot);
                    }
                    send_singly(train, data, driver, counters);
                }
                Sent::Failed(error) => {
                    tracing::debug!(event = "send_failed", to = %train.way.to, %error);
                    counters.sends_failed += 1;
                    send_singly(train, data, driver, counters);
                }
            }
            self.waiting.pop_front();
        }
        true
    }

    /// Builds and sends packets of one connection until it has no more, its turn is over, or the socket is full.
    pub(crate) fn send_all(
        &mut self,
        connection: &mut Connection,
        driver: &mut dyn Driver,
        counters: &mut Counters,
    ) -> Built {
        debug_assert!(self.waiting.is_empty(), "the buffer is free");
        let segments_max = if driver.trains() {
            TRAIN_SEGMENTS_MAX
        } else {
            1
        };
        let mut train: Option<Train> = None;
        let mut trains = 0;
        loop {
            let at = train.as_ref().map_or(0, |train| train.end);
            let room = &mut self.buffer[at..at + PACKET_BYTES_MAX];
            let Some((length, to)) = connection.build(room) else {
                return self.finish(train, Built::All, driver, counters);
            };
            let alone = length > connection.udp_payload;
            let joins = train
                .as_ref()
                .is_some_and(|train| !alone && train.way.to == to && length <= train.segment);
            let mut grown = if joins {
                train.take().map(|mut train| {
                    train.end += length;
                    train
                })
            } else {
                None
            };
            if grown.is_none() {
                let mut start = at;
                if let Some(previous) = train.take() {
                    self.waiting.push_back(previous);
                    if self.drain(driver, counters) {
                        self.buffer.copy_within(at..at + length, 0);
                        start = 0;
                    }
                }
                grown = Some(Train {
                    slot: connection.id.slot(),
                    way: connection.way(to),
                    start,
                    end: start + length,
                    segment: length,
                    probe: alone,
                });
            }
            let Some(current) = grown else { continue };
            let full = alone
                || length < current.segment
                || current.packets() >= segments_max
                || current.end - current.start + current.segment > TRAIN_BYTES_MAX;
            if !full && self.waiting.is_empty() {
                train = Some(current);
                continue;
            }
            self.waiting.push_back(current);
            if !self.drain(driver, counters) {
                return Built::SocketFull;
            }
            trains += 1;
            if trains == TRAINS_PER_TURN {
                return Built::Some;
            }
        }
    }

    fn finish(
        &mut self,
        train: Option<Train>,
        built: Built,
        driver: &mut dyn Driver,
        counters: &mut Counters,
    ) -> Built {
        self.waiting.extend(train);
        if self.drain(driver, counters) {
            built
        } else {
            Built::SocketFull
        }
    }
}

/// Sends the segments of a refused train one by one; those that do not fit are lost, as on any path.
fn send_singly(train: &Train, data: &[u8], driver: &mut dyn Driver, counters: &mut Counters) {
    if train.packets() == 1 {
        return;
    }
    for packet in data.chunks(train.segment) {
        if let Sent::Done = driver.send(&train.way, packet.len(), packet) {
            counters.send_calls += 1;
            counters.packets_sent += 1;
            counters.bytes_sent += packet.len() as u64;
        }
    }
}
