//! Egress queues of one peer and the order in which they drain: one queue per traffic class,
//! priority 7 first, the others by deficit round robin. Charges are the slab bytes a queue pins, each slab once; what
//! stays for long and fills little of its slab is copied out.
//!
//! Refuses to know which message goes where, and when a queue is too full.

use core::time::Duration;
use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use caplane_wire::{LANE_MESSAGE_MAX, TrafficClass, message_len};

use super::{Carrier, Unblocked};
use crate::mix::MixMap;

/// What a slice costs beyond its bytes once it pins no slab: its place in the queue.
const RUN_BYTES: usize = size_of::<Run>();

/// Messages so small are gathered where they alternate with others: copying them costs less than a slice does,
/// here and again in the transport.
pub(super) const GATHER_BYTES: usize = 256;

/// Room for gathered messages: 16 and more of them.
const GATHER_ROOM: usize = 4 << 10;

/// So many slabs pinned, and small slices of further ones are copied at once: 16 MiB at slabs of 256 KiB, which only a
/// queue that drains within a tick ever reaches, and few enough to be looked through.
const PINS_MANY: usize = 64;

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
        let total = &mut self.total;
        let held = self.slabs.entry(slab).or_insert_with(|| {
            *total += charge;
            Held { queues: 0, charge }
        });
        held.queues += 1;
    }

    fn release(&mut self, slab: Slab) {
        if let Some(held) = self.slabs.get_mut(&slab) {
            held.queues -= 1;
            if held.queues == 0 {
                self.total -= held.charge;
                self.slabs.remove(&slab);
            }
        }
    }

    fn queues(&self, slab: Slab) -> u32 {
        self.slabs.get(&slab).map_or(0, |held| held.queues)
    }
}

/// One slice in a queue.
pub(super) struct Run {
    pub data: Bytes,
    /// Messages that begin in `data`.
    pub messages: u32,
    pub lane: u32,
    pub carrier: Carrier,
    /// 0 = it pins memory of its own only,
    pub slab: Slab,
    /// so many bytes; the queue sees to it.
    pub held: usize,
}

/// One walk over a lane's bytes.
#[derive(Clone, Copy)]
pub(super) struct Walk {
    /// Counts from 1.
    pub number: u64,
    /// Egress lane of what it finds.
    pub lane: u32,
}

/// A slab that a queue pins.
struct Pin {
    slab: Slab,
    charge: usize,
    runs: usize,
    /// Bytes of it that were ever appended: how well the queue uses it.
    filled: usize,
    since: Duration,
}

/// When a pin is worth a copy.
#[derive(Clone, Copy)]
pub(super) struct Settling {
    /// Pins older than this.
    pub age: Duration,
    /// Memory is short: younger ones too, and slabs that other queues pin as well.
    pub pressed: bool,
}

/// The queue of one traffic class.
#[derive(Default)]
pub(super) struct Queue {
    runs: VecDeque<Run>,
    pins: Vec<Pin>,
    /// So many runs at the front pin no slab.
    settled: usize,
    charge: usize,
    bytes: usize,
    messages: u64,
    deficit: i64,
    waiters: Vec<Unblocked>,
    /// The bytes of the last run while small messages are gathered in it; `None` = it is a slice like the others.
    gathered: Option<BytesMut>,
    /// The walk that brought the last small run.
    walk: u64,
    /// Since when it has not been empty.
    busy_since: Duration,
}

impl Queue {
    /// Slab bytes it is charged for.
    #[inline]
    pub fn charge(&self) -> usize {
        self.charge
    }

    /// Bytes in it.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Has it held something for so long?
    #[inline]
    pub fn lingers(&self, now: Duration, age: Duration) -> bool {
        !self.runs.is_empty() && now.saturating_sub(self.busy_since) >= age
    }

    /// Would a slice of this slab cost nothing but its bytes?
    #[inline]
    pub fn pins(&self, slab: Slab) -> bool {
        slab != 0 && self.pin(slab).is_some()
    }

    /// The newest pin is the likeliest.
    #[inline]
    fn pin(&self, slab: Slab) -> Option<usize> {
        self.pins.iter().rposition(|pin| pin.slab == slab)
    }

    /// Is a slice so small, and are the slabs so many, that it is copied rather than to pin another?
    #[inline]
    pub fn pins_enough(&self, slab: Slab, bytes: usize, slab_charge: usize) -> bool {
        slab != 0 && self.pins.len() >= PINS_MANY && bytes <= slab_charge / 16 && !self.pins(slab)
    }

    /// Copies a small run behind the last one, if that is small too and of the same walk over one lane's bytes: then
    /// messages for many receivers alternate, and slices would be as many as messages. False: append it as it is.
    #[inline]
    pub fn gather(
        &mut self,
        data: &[u8],
        messages: u32,
        of: Walk,
        charge_max: usize,
        ledger: &mut Ledger,
    ) -> bool {
        let again = core::mem::replace(&mut self.walk, of.number) == of.number;
        let (Some(last), lane) = (self.runs.back_mut(), of.lane) else {
            return false;
        };
        if !again || last.lane != lane || last.carrier != Carrier::Lane {
            return false;
        }
        let fits = match &self.gathered {
            Some(room) => room.len() + data.len() <= GATHER_ROOM,
            None if last.data.len() > GATHER_BYTES || last.messages == 0 => return false,
            None => false,
        };
        if !fits {
            if self.charge + GATHER_ROOM > charge_max {
                return false;
            }
            self.begin_gathering(lane, ledger);
        }
        if let (Some(room), Some(last)) = (&mut self.gathered, self.runs.back_mut()) {
            room.extend_from_slice(data);
            last.messages += messages;
            self.bytes += data.len();
            self.messages += u64::from(messages);
        }
        true
    }

    fn begin_gathering(&mut self, lane: u32, ledger: &mut Ledger) {
        self.end_gathering();
        self.gathered = Some(BytesMut::with_capacity(GATHER_ROOM));
        self.charge += GATHER_ROOM + RUN_BYTES;
        ledger.total += GATHER_ROOM + RUN_BYTES;
        self.runs.push_back(Run {
            data: Bytes::new(),
            messages: 0,
            lane,
            carrier: Carrier::Lane,
            slab: 0,
            held: GATHER_ROOM,
        });
    }

    #[inline]
    fn end_gathering(&mut self) {
        if let Some(room) = self.gathered.take()
            && let Some(last) = self.runs.back_mut()
        {
            last.data = room.freeze();
        }
    }

    fn append(&mut self, mut run: Run, slab_charge: usize, now: Duration, ledger: &mut Ledger) {
        if self.runs.is_empty() {
            self.busy_since = now;
        }
        self.end_gathering();
        let len = run.data.len();
        self.bytes += len;
        self.messages += u64::from(run.messages);
        if run.slab == 0 {
            run.held = len;
            self.charge += len + RUN_BYTES;
            ledger.total += len + RUN_BYTES;
        } else if let Some(at) = self.pin(run.slab) {
            self.pins[at].runs += 1;
            self.pins[at].filled += len;
        } else {
            let (slab, charge) = (run.slab, slab_charge);
            ledger.hold(slab, charge);
            self.charge += charge;
            self.pins.push(Pin {
                slab,
                charge,
                runs: 1,
                filled: len,
                since: now,
            });
        }
        self.runs.push_back(run);
    }

    fn pop(&mut self, max_bytes: usize, ledger: &mut Ledger) -> Option<Run> {
        if self.runs.len() == 1 {
            self.end_gathering();
        }
        let head = self.runs.front_mut()?;
        let part = if head.data.len() > max_bytes && head.messages > 1 {
            split_front(head, max_bytes)
        } else {
            None
        };
        let whole = part.is_none();
        let run = match part {
            Some(part) => part,
            None => self.runs.pop_front()?,
        };
        let len = run.data.len();
        self.bytes -= len;
        self.messages -= u64::from(run.messages);
        self.settled = self.settled.saturating_sub(usize::from(whole));
        if run.slab == 0 {
            let charge = run.held + if whole { RUN_BYTES } else { 0 };
            self.charge -= charge;
            ledger.total -= charge;
        } else if let Some(at) = self.pin(run.slab) {
            let pin = &mut self.pins[at];
            pin.runs -= usize::from(whole);
            if pin.runs == 0 {
                self.unpin(at, ledger);
            }
        }
        Some(run)
    }

    fn unpin(&mut self, at: usize, ledger: &mut Ledger) -> Pin {
        let pin = self.pins.remove(at);
        self.charge -= pin.charge;
        ledger.release(pin.slab);
        pin
    }

    /// Copies the slices of one long-held, sparsely used slab out of it, so that the slab can go. Returns the
    /// bytes copied; 0 = there is no such slab.
    pub fn settle(&mut self, now: Duration, when: Settling, ledger: &mut Ledger) -> usize {
        // The newest may still be filling.
        let candidates = self.pins.len() - usize::from(!when.pressed && !self.pins.is_empty());
        let worth = |pin: &Pin| {
            let sparse = (pin.filled + pin.runs * RUN_BYTES) * 4 <= pin.charge;
            let old = now.saturating_sub(pin.since) >= when.age && ledger.queues(pin.slab) <= 2;
            sparse && (old || when.pressed)
        };
        let Some(at) = self.pins[..candidates].iter().position(worth) else {
            return 0;
        };
        let pin = self.unpin(at, ledger);
        let (slab, mut runs, mut copied) = (pin.slab, pin.runs, 0);
        let mut buffer = BytesMut::with_capacity(pin.filled);
        for run in self
            .runs
            .iter_mut()
            .skip(self.settled)
            .filter(|run| run.slab == slab)
        {
            buffer.extend_from_slice(&run.data);
            run.data = buffer.split().freeze();
            copied += run.data.len();
            (run.slab, run.held) = (0, run.data.len());
            let charge = run.held + RUN_BYTES;
            self.charge += charge;
            ledger.total += charge;
            runs -= 1;
            if runs == 0 {
                break;
            }
        }
        let unsettled = self.runs.iter().skip(self.settled);
        self.settled += unsettled.take_while(|run| run.slab == 0).count();
        copied
    }

    fn next_lane(&self) -> u32 {
        self.runs.front().map_or(0, |run| run.lane)
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
    run.held -= at.min(run.held);
    Some(Run {
        data: run.data.split_to(at),
        messages,
        held: at,
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
    /// Bit per class whose queue other workers were told to leave alone for now.
    pub pressed: u16,
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

    /// The queue of a class that was used before.
    #[inline]
    pub fn used_queue(&mut self, class: TrafficClass) -> Option<&mut Queue> {
        self.queues[class.index()].as_deref_mut()
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

    pub fn queue_mut(&mut self, class: TrafficClass) -> &mut Queue {
        self.queues[class.index()].get_or_insert_default()
    }

    /// True when the class had nothing waiting before. `slab_charge` = size of the run's slab, if it has one.
    pub fn append(
        &mut self,
        class: TrafficClass,
        run: Run,
        slab_charge: usize,
        now: Duration,
        ledger: &mut Ledger,
    ) -> bool {
        self.queue_mut(class).append(run, slab_charge, now, ledger);
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
    ) -> Option<(TrafficClass, Run)> {
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
        if queue.runs.is_empty() {
            self.waiting &= !(1 << at);
            queue.deficit = 0;
        }
        if !queue.waiters.is_empty() && queue.charge < wake_below.max(1) {
            woken.extend(queue.waiters.drain(..));
        }
        Some((TrafficClass::from_index(at), run))
    }

    /// Deficit round robin: a class sends while its deficit is above zero and may overdraw it by one
    /// slice; each turn adds its quantum to what is used up. So a class that could not send for a while has no more than
    /// a quantum to catch up with, and one that was alone owes no more than a slice.
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
            if left & 1 << at != 0 && due {
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
            if let Some(queue) = &mut self.queues[next]
                && queue.deficit <= 0
            {
                let quantum = QUANTUM * (next as i64 / 2 + 1);
                let alone = left.count_ones() == 1;
                queue.deficit = if alone {
                    quantum
                } else {
                    queue.deficit + quantum
                };
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
        self.pressed = 0;
        runs
    }
}
