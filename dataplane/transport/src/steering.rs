//! Which worker of a group a packet belongs to, and the rings by which a packet that reached the wrong one gets there.
//!
//! The system steers by a small program ([`crate::io`]); this is the same rule in our own words, for what the system cannot
//! tell apart: GRO merges packets by their addresses, so a batch that was steered by its first packet may hold packets of other
//! workers. Refuses to know connections.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use crate::counters::Counters;
use crate::io::{Batch, Origin, STEERING_LONG, STEERING_SHORT, Waker};

/// Bundles that may wait for one worker: at most as many batches as all workers of a group of four read in a tick. With at
/// most 64 KiB each they hold 8 MiB.
const RING_BUNDLES: usize = 128;

/// Bundles taken over per tick, so that the worker's own socket has its turn.
const BUNDLES_PER_TICK: usize = 32;

/// Packets of one GRO batch for one other worker: equal segments, the last may be shorter.
#[derive(Debug)]
struct Bundle {
    origin: Origin,
    segment: usize,
    data: Vec<u8>,
}

/// What the workers of a group share.
#[derive(Debug)]
pub(crate) struct Group {
    /// One per worker: what the others hand to it.
    rings: Box<[ArrayQueue<Bundle>]>,
    /// Empty buffers on their way back.
    spare: ArrayQueue<Vec<u8>>,
    wakers: Box<[Waker]>,
}

impl Group {
    pub(crate) fn new(wakers: Vec<Waker>) -> Arc<Self> {
        Arc::new(Self {
            rings: wakers
                .iter()
                .map(|_| ArrayQueue::new(RING_BUNDLES))
                .collect(),
            spare: ArrayQueue::new(RING_BUNDLES),
            wakers: wakers.into(),
        })
    }
}

/// One worker's place in its group.
#[derive(Debug)]
pub(crate) struct Steering {
    worker: usize,
    /// `None`: the worker is alone and every packet is its own.
    group: Option<Arc<Group>>,
    /// Per worker: what the current batch has for it.
    gathered: Vec<Vec<u8>>,
    /// Workers that the current batch has something for.
    concerned: Vec<usize>,
    /// Workers that were handed something since they were last woken.
    to_wake: Vec<usize>,
}

impl Steering {
    /// A worker without others.
    pub(crate) fn alone() -> Self {
        Self {
            worker: 0,
            group: None,
            gathered: Vec::new(),
            concerned: Vec::new(),
            to_wake: Vec::new(),
        }
    }

    pub(crate) fn member(group: Arc<Group>, worker: u8) -> Self {
        Self {
            worker: usize::from(worker),
            gathered: vec![Vec::new(); group.rings.len()],
            group: Some(group),
            concerned: Vec::new(),
            to_wake: Vec::new(),
        }
    }

    /// True when the packet was another worker's: it is kept for [`Steering::hand_over`].
    pub(crate) fn divert(&mut self, packet: &[u8]) -> bool {
        let Some(group) = &self.group else {
            return false;
        };
        let owner = owner(packet, group.rings.len());
        if owner == self.worker {
            return false;
        }
        let gathered = &mut self.gathered[owner];
        if gathered.is_empty() {
            self.concerned.push(owner);
            if gathered.capacity() == 0 {
                *gathered = group.spare.pop().unwrap_or_default();
            }
        }
        gathered.extend_from_slice(packet);
        true
    }

    /// Hands what a batch had for other workers to them, or drops it where a ring is full.
    pub(crate) fn hand_over(&mut self, origin: Origin, segment: usize, counters: &mut Counters) {
        let Some(group) = &self.group else {
            return;
        };
        for owner in self.concerned.drain(..) {
            let data = std::mem::take(&mut self.gathered[owner]);
            let packets = data.len().div_ceil(segment) as u64;
            let bundle = Bundle {
                origin,
                segment,
                data,
            };
            match group.rings[owner].push(bundle) {
                Ok(()) => {
                    counters.packets_missteered += packets;
                    if !self.to_wake.contains(&owner) {
                        self.to_wake.push(owner);
                    }
                }
                Err(mut refused) => {
                    counters.packets_ring_full += packets;
                    refused.data.clear();
                    self.gathered[owner] = refused.data;
                }
            }
        }
    }

    /// Wakes the workers that were handed something.
    pub(crate) fn wake(&mut self) {
        let Some(group) = &self.group else {
            return;
        };
        for worker in self.to_wake.drain(..) {
            if let Err(error) = group.wakers[worker].wake() {
                tracing::debug!(event = "wake_failed", worker, %error);
            }
        }
    }

    /// True when other workers handed us something.
    pub(crate) fn has_waiting(&self) -> bool {
        self.group
            .as_ref()
            .is_some_and(|group| !group.rings[self.worker].is_empty())
    }

    /// Gives `take` what other workers handed us, up to a bound per tick.
    pub(crate) fn bundles(&self) -> Bundles {
        Bundles {
            group: self.group.clone().filter(|_| self.has_waiting()),
            worker: self.worker,
            left: BUNDLES_PER_TICK,
        }
    }
}

/// What one tick takes over from other workers.
pub(crate) struct Bundles {
    group: Option<Arc<Group>>,
    worker: usize,
    left: usize,
}

impl Bundles {
    /// Gives the next bundle to `take` as if it came from the socket; false when there is none.
    pub(crate) fn next(&mut self, take: impl FnOnce(Batch<'_>)) -> bool {
        let Some(group) = self.group.as_ref().filter(|_| self.left > 0) else {
            return false;
        };
        let Some(mut bundle) = group.rings[self.worker].pop() else {
            return false;
        };
        self.left -= 1;
        take(Batch {
            origin: bundle.origin,
            segment: bundle.segment,
            data: &mut bundle.data,
        });
        bundle.data.clear();
        // A full pool lets the buffer go.
        let _ = group.spare.push(bundle.data);
        true
    }
}

/// The worker that a packet belongs to: byte 0 of its destination connection id modulo the group's size; a packet too short to
/// have one belongs to worker 0. The same as the program that the system runs (RFC 9000 section 17: where the ids stand).
fn owner(packet: &[u8], workers: usize) -> usize {
    let long = packet.first().is_some_and(|first| first & 0x80 != 0);
    let at = if long { STEERING_LONG } else { STEERING_SHORT };
    packet
        .get(at)
        .map_or(0, |byte| usize::from(*byte) % workers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Port;

    #[test]
    fn byte_0_of_the_destination_id_names_the_owner() {
        let mut short = [0x40; 40];
        let mut long = [0xc0; 40];
        for byte in 0..=255_u8 {
            (short[1], long[6]) = (byte, byte);
            for workers in 1..=5 {
                assert_eq!(owner(&short, workers), usize::from(byte) % workers);
                assert_eq!(owner(&long, workers), usize::from(byte) % workers);
            }
        }
        for (packet, length) in [(&short, 2), (&long, 7)] {
            for cut in 0..length {
                assert_eq!(owner(&packet[..cut], 4), 0);
            }
            assert_eq!(owner(&packet[..length], 4), 255 % 4);
        }
    }

    fn pair() -> (Steering, Steering) {
        let poll = mio::Poll::new().expect("poll");
        let waker = Waker::for_test(&poll);
        let group = Group::new(vec![waker.clone(), waker]);
        (
            Steering::member(Arc::clone(&group), 0),
            Steering::member(group, 1),
        )
    }

    #[test]
    fn a_full_ring_drops_counts_and_keeps_its_buffer() {
        let (mut zero, one) = pair();
        let from = Origin {
            port: Port::Listening,
            from: "192.0.2.1:4433".parse().expect("an address"),
            to: None,
        };
        let mut counters = Counters::default();
        let more = 3;
        for n in 0..RING_BUNDLES + more {
            for last in [9, 9, 5] {
                let mut packet = vec![n as u8; last];
                (packet[0], packet[1]) = (0x40, 1);
                assert!(zero.divert(&packet));
            }
            assert!(!zero.divert(&[0x40, 2, 0]));
            zero.hand_over(from, 9, &mut counters);
        }
        assert_eq!(counters.packets_missteered, 3 * RING_BUNDLES as u64);
        assert_eq!(counters.packets_ring_full, 3 * more as u64);
        let mut taken = 0;
        while one.has_waiting() {
            let mut bundles = one.bundles();
            while bundles.next(|batch| {
                assert_eq!(
                    (batch.origin, batch.segment, batch.data.len()),
                    (from, 9, 23)
                );
                assert_eq!(batch.data[2], taken as u8);
                taken += 1;
            }) {}
        }
        assert_eq!(taken, RING_BUNDLES);
    }
}
