//! Egress queues of one peer and the order in which they drain: one queue per traffic class,
//! priority 7 first, the others by deficit round robin. Charges are the slab bytes a queue pins.
//!
//! Refuses to know which message goes where, and when a queue is too full.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use caplane_wire::{LANE_MESSAGE_MAX, TrafficClass, message_len};

use super::{Carrier, Outgoing, Unblocked};
use crate::mix::MixMap;

/// Size of the buffers that small messages are copied out to. 16 KiB: 150 messages of 100 bytes, and
/// little enough that 10,000 slow receivers hold 160 MB at worst.
const COPY_CHUNK: usize = 16 << 10;

/// Deficit added a round for each step of priority. 16 KiB: priority 6 gets seven times the share of
/// priority 0, and a round of all classes stays below a megabyte.
const QUANTUM: i64 = 16 << 10;

/// Identity of a slab: the address of its end, which splitting its front does not move. 0 = none.
/// While a queue pins the slab, no other can stand at that address.
pub(super) type Slab = usize;

/// Slab bytes all queues of the worker pin together, each slab once.
#[derive(Default)]
pub(super) struct Ledger {
    slabs: MixMap<Slab, Held>,
    total: usize,
}

struct Held {
    queues: u32,
    charge: usize,
}

impl Ledger {
    #[inline]
    pub fn total(&self) -> usize {
        self.total
    }

    fn hold(&mut self, slab: Slab, charge: usize) {
        if slab == 0 {
            self.total += charge;
            return;
        }
        let total = &mut self.total;
        let held = self.slabs.entry(slab).or_insert_with(|| {
            *total += charge;
            Held { queues: 0, charge }
        });
        held.queues += 1;
    }

    fn release(&mut self, slab: Slab, charge: usize) {
        if slab == 0 {
            self.total -= charge;
            return;
        }
        if let Some(held) = self.slabs.get_mut(&slab) {
            held.queues -= 1;
            if held.queues == 0 {
                self.total -= held.charge;
                self.slabs.remove(&slab);
            }
        }
    }
}

/// One slice in a queue.
pub(super) struct Run {
    pub data: Bytes,
    /// Messages that begin in `data`.
    pub messages: u32,
    pub lane: u32,
    pub carrier: Carrier,
    pub slab: Slab,
    /// What the queue is charged for it. The last run of a slab carries the slab's charge.
    pub charge: usize,
}

/// Small messages copied out of their slabs; the queue's last item while it is open.
struct Copied {
    buffer: BytesMut,
    messages: u32,
    lane: u32,
    charge: usize,
}

/// The queue of one traffic class.
#[derive(Default)]
pub(super) struct Queue {
    runs: VecDeque<Run>,
    copied: Option<Copied>,
    charge: usize,
    bytes: usize,
    messages: u64,
    deficit: i64,
    waiters: Vec<Unblocked>,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.copied.is_none()
    }

    /// Does the last run pin this slab already?
    pub fn ends_in(&self, slab: Slab) -> bool {
        slab != 0 && self.copied.is_none() && self.runs.back().is_some_and(|run| run.slab == slab)
    }

    fn append(&mut self, mut run: Run, ledger: &mut Ledger) {
        self.close_copied();
        self.bytes += run.data.len();
        self.messages += u64::from(run.messages);
        match self.runs.back_mut() {
            Some(last) if run.slab != 0 && last.slab == run.slab => {
                // The slab is charged already; the charge goes to its last run.
                run.charge = last.charge;
                last.charge = 0;
            }
            _ => {
                self.charge += run.charge;
                ledger.hold(run.slab, run.charge);
            }
        }
        self.runs.push_back(run);
    }

    /// Appends one slice (or a header and the rest) by copying it.
    fn append_copy(&mut self, parts: &[&[u8]], messages: u32, lane: u32, ledger: &mut Ledger) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let room = |copied: &Copied| {
            copied.lane == lane && copied.buffer.capacity() - copied.buffer.len() >= len
        };
        if !self.copied.as_ref().is_some_and(room) {
            self.close_copied();
            let charge = COPY_CHUNK.max(len);
            self.charge += charge;
            ledger.hold(0, charge);
            let buffer = BytesMut::with_capacity(charge);
            self.copied = Some(Copied {
                buffer,
                messages: 0,
                lane,
                charge,
            });
        }
        let copied = self
            .copied
            .as_mut()
            .expect("made above when there was none with room");
        for part in parts {
            copied.buffer.extend_from_slice(part);
        }
        copied.messages += messages;
        self.bytes += len;
        self.messages += u64::from(messages);
    }

    fn close_copied(&mut self) {
        if let Some(copied) = self.copied.take() {
            self.runs.push_back(Run {
                data: copied.buffer.freeze(),
                messages: copied.messages,
                lane: copied.lane,
                carrier: Carrier::Lane,
                slab: 0,
                charge: copied.charge,
            });
        }
    }

    fn pop(&mut self, max_bytes: usize, ledger: &mut Ledger) -> Option<Run> {
        if self.runs.is_empty() {
            self.close_copied();
        }
        let head = self.runs.front_mut()?;
        let part = if head.data.len() > max_bytes && head.messages > 1 {
            split_front(head, max_bytes)
        } else {
            None
        };
        let run = match part {
            Some(part) => part,
            None => {
                let run = self.runs.pop_front()?;
                if run.charge > 0 {
                    self.charge -= run.charge;
                    ledger.release(run.slab, run.charge);
                }
                run
            }
        };
        self.bytes -= run.data.len();
        self.messages -= u64::from(run.messages);
        Some(run)
    }

    fn next_lane(&self) -> u32 {
        let first = self.runs.front().map(|run| run.lane);
        first
            .or(self.copied.as_ref().map(|copied| copied.lane))
            .unwrap_or(0)
    }
}

/// Takes whole messages of at most `max_bytes`, and at least one, off the front of a run of several.
fn split_front(run: &mut Run, max_bytes: usize) -> Option<Run> {
    let (mut at, mut messages) = (0, 0);
    // Every byte of a run went through the same walk on its way in.
    while let Ok(Some(len)) = message_len(&run.data[at..], LANE_MESSAGE_MAX) {
        if messages > 0 && at + len > max_bytes || messages + 1 == run.messages {
            break;
        }
        at += len;
        messages += 1;
    }
    if messages == 0 {
        return None;
    }
    run.messages -= messages;
    Some(Run {
        data: run.data.split_to(at),
        messages,
        charge: 0,
        ..*run
    })
}

/// The egress side of one peer.
#[derive(Default)]
pub(super) struct Egress {
    /// By `TrafficClass::index`; made when first used: an idle peer holds 128 bytes.
    queues: [Option<Box<Queue>>; TrafficClass::COUNT],
    /// Bit per class that has something queued.
    waiting: u16,
    /// Class whose turn it is.
    turn: u8,
    /// In the forwarder's list of dirty peers.
    pub listed: bool,
}

/// Priority 7: dropping (notices travel there), then blocking.
const STRICT: [usize; 2] = [14, 15];
const STRICT_MASK: u16 = 0b11 << 14;

impl Egress {
    #[inline]
    pub fn queue(&self, class: TrafficClass) -> Option<&Queue> {
        self.queues[class.index()].as_deref()
    }

    /// Slab bytes a class is charged for.
    #[inline]
    pub fn charge(&self, class: TrafficClass) -> usize {
        self.queue(class).map_or(0, |queue| queue.charge)
    }

    /// Bytes queued in a class.
    #[inline]
    pub fn bytes(&self, class: TrafficClass) -> usize {
        self.queue(class).map_or(0, |queue| queue.bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Charged bytes and messages of all classes.
    pub fn totals(&self) -> (u64, u64) {
        let queues = self.queues.iter().flatten();
        queues.fold((0, 0), |sum, q| {
            (sum.0 + q.charge as u64, sum.1 + q.messages)
        })
    }

    fn queue_mut(&mut self, class: TrafficClass) -> &mut Queue {
        self.queues[class.index()].get_or_insert_default()
    }

    /// True when the class had nothing waiting before.
    pub fn append(&mut self, class: TrafficClass, run: Run, ledger: &mut Ledger) -> bool {
        self.queue_mut(class).append(run, ledger);
        self.mark(class)
    }

    /// Like [`Egress::append`] with a copy of the parts, which are one slice of one lane.
    pub fn append_copy(
        &mut self,
        class: TrafficClass,
        parts: &[&[u8]],
        messages: u32,
        lane: u32,
        ledger: &mut Ledger,
    ) -> bool {
        self.queue_mut(class)
            .append_copy(parts, messages, lane, ledger);
        self.mark(class)
    }

    fn mark(&mut self, class: TrafficClass) -> bool {
        let bit = 1 << class.index();
        let fresh = self.waiting & bit == 0;
        self.waiting |= bit;
        fresh
    }

    /// A lane waits for room in a class.
    pub fn wait(&mut self, class: TrafficClass, lane: Unblocked) {
        let waiters = &mut self.queue_mut(class).waiters;
        if !waiters.contains(&lane) {
            waiters.push(lane);
        }
    }

    /// The next slice whose lane is ready. Lanes that waited for room go to `woken` once the class
    /// is charged for less than `wake_below`, or for nothing.
    pub fn next(
        &mut self,
        max_bytes: usize,
        wake_below: usize,
        ledger: &mut Ledger,
        woken: &mut VecDeque<Unblocked>,
        mut ready: impl FnMut(TrafficClass, u32) -> bool,
    ) -> Option<Outgoing> {
        let mut ask = |queues: &[Option<Box<Queue>>], at: usize| {
            let lane = queues[at].as_ref().map_or(0, |queue| queue.next_lane());
            ready(TrafficClass::from_index(at), lane)
        };
        let at = match STRICT
            .into_iter()
            .find(|at| self.waiting & 1 << at != 0 && ask(&self.queues, *at))
        {
            Some(at) => at,
            None => self.whose_turn(ask)?,
        };
        let queue = self.queues[at].as_deref_mut()?;
        let run = queue.pop(max_bytes, ledger)?;
        queue.deficit -= run.data.len() as i64;
        if queue.is_empty() {
            self.waiting &= !(1 << at);
            queue.deficit = 0;
        }
        if !queue.waiters.is_empty() && queue.charge < wake_below.max(1) {
            woken.extend(queue.waiters.drain(..));
        }
        Some(Outgoing {
            class: TrafficClass::from_index(at),
            lane_hint: run.lane,
            carrier: run.carrier,
            data: run.data,
            messages: run.messages,
        })
    }

    /// Deficit round robin: a class sends while its deficit is above zero and may overdraw it by one
    /// slice; each turn adds its quantum.
    fn whose_turn(
        &mut self,
        mut ready: impl FnMut(&[Option<Box<Queue>>], usize) -> bool,
    ) -> Option<usize> {
        let mut left = self.waiting & !STRICT_MASK;
        loop {
            if left == 0 {
                return None;
            }
            let at = usize::from(self.turn);
            let due = self.queues[at]
                .as_ref()
                .is_some_and(|queue| queue.deficit > 0);
            if left & 1 << at != 0 && (due || left.count_ones() == 1) {
                if ready(&self.queues, at) {
                    return Some(at);
                }
                left &= !(1 << at);
                continue;
            }
            // On to the next lower class that has something, cyclically.
            let below = left & ((1u16 << at) - 1);
            let next = if below != 0 { below } else { left };
            let next = 15 - next.leading_zeros() as usize;
            self.turn = next as u8;
            if let Some(queue) = &mut self.queues[next] {
                queue.deficit += QUANTUM * (next as i64 / 2 + 1);
            }
        }
    }

    /// Empties everything, newest last; for a peer that is gone.
    pub fn drain(&mut self, ledger: &mut Ledger, woken: &mut VecDeque<Unblocked>) -> Vec<Run> {
        let mut runs = Vec::new();
        for queue in self.queues.iter_mut().flatten() {
            while let Some(run) = queue.pop(usize::MAX, ledger) {
                runs.push(run);
            }
            woken.extend(queue.waiters.drain(..));
        }
        self.waiting = 0;
        runs
    }
}
