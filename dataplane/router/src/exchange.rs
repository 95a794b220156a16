//! Between the workers of one router: a ring for each pair, posts about peers, and
//! who may be left asleep.
//!
//! A message that came in at one worker and goes to a peer of another crosses a ring,
//! in slices: what is paid here is paid per slice. Refuses to know tables and
//! connections, and what a slice holds.
//!
//! Two handshakes without locks, each "say it, then look again": a worker says that it sleeps and then
//! looks whether anything came; a worker that finds a ring full says so and then looks whether there is
//! room. The other side does it in the other order, with a fence between, so one of the two sees the other.

mod signal;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use bytes::Bytes;
use caplane_core::forward::{Handover, PeerKey, PeerRole};
use caplane_wire::{Label, TrafficClass};
use crossbeam::channel::{Receiver, Sender, TrySendError};
use crossbeam::queue::ArrayQueue;
use signal::Signal;

/// What `signal` is made of; its tests put loom's in this place.
mod atomics {
    pub(super) use std::sync::atomic::{AtomicBool, Ordering, fence};
}

/// Slices of one ring. A tick of a busy worker makes a few hundred.
const RING_SLICES: usize = 1_024;

/// Bytes on their way in one ring: a quarter of a queue's mark, so that what a blocking class has under way when
/// its owner asks to wait stays small beside the queue. It may pass this by one slice.
const RING_BYTES: usize = 512 << 10;

/// Slices taken out of the rings in one tick: what comes from others must not delay the socket.
const TAKEN_PER_TICK: usize = 2 * RING_SLICES;

/// Posts waiting for one worker: several for each of its peers, all coming and going at once. A worker whose posts do not
/// fit keeps them and takes no more peers meanwhile.
const POSTS_MAX: usize = 16_384;

/// Crosses a ring.
#[derive(Debug)]
pub enum Handed {
    /// Messages for a peer of the worker that takes it.
    Slice(Handover),
    /// Part of a bulk message.
    Bulk(BulkStep),
}

impl Handed {
    fn bytes(&self) -> usize {
        match self {
            Handed::Slice(slice) => slice.bytes(),
            Handed::Bulk(BulkStep::Piece { data, .. }) => data.len(),
            Handed::Bulk(_) => 0,
        }
    }
}

/// One step of a bulk message that came in at one worker and leaves by another. `id` is the ingress worker's name
/// for it, and travels both ways.
#[derive(Debug)]
pub enum BulkStep {
    /// To the egress worker: its head was let through to one of its peers.
    Open {
        /// Names the message.
        id: u32,
        /// Receiver.
        to: PeerKey,
        /// Who the receiver was when that was decided.
        name: Label,
        /// Class of the egress stream.
        class: TrafficClass,
    },
    /// To the egress worker: its next bytes.
    Piece {
        /// Names the message.
        id: u32,
        /// The bytes.
        data: Bytes,
        /// They are the last.
        fin: bool,
    },
    /// To the egress worker: the sender cut it short.
    Cut {
        /// Names the message.
        id: u32,
    },
    /// To the ingress worker: so many bytes were taken; as many may follow.
    Taken {
        /// Names the message.
        id: u32,
        /// Bytes.
        bytes: usize,
    },
    /// To the ingress worker: the last byte was handed to the transport.
    Done {
        /// Names the message.
        id: u32,
    },
    /// To the ingress worker: it cannot go on; this is the code for its stream.
    Gone {
        /// Names the message.
        id: u32,
        /// The stream code.
        code: u64,
        /// The receiver has too many bulk messages under way already.
        overloaded: bool,
    },
}

/// What the other workers are told about a peer. One worker's posts arrive in order.
#[derive(Debug, Clone)]
pub enum Post {
    /// It is attached, or its link is up.
    Up {
        /// The peer.
        peer: PeerKey,
        /// What it is.
        role: PeerRole,
        /// Orders attachments of one label at different workers.
        serial: u64,
        /// Longest datagram it takes now, bytes.
        datagram_max: usize,
    },
    /// It is gone.
    Down(PeerKey),
    /// Its link passes traffic, or not.
    Alive(PeerKey, bool),
    /// It takes no new class traffic.
    Draining(PeerKey),
    /// Longest datagram it takes now, bytes.
    DatagramMax(PeerKey, usize),
    /// A queue towards it has room again.
    Eased(PeerKey),
    /// The instance attached again at another worker: close this connection of it.
    Replaced(PeerKey, Label),
}

/// Wakes a worker that waits for its socket.
pub type Bell = Box<dyn Fn() + Send + Sync>;

/// One direction between two workers.
struct Ring {
    slices: ArrayQueue<Handed>,
    bytes: AtomicUsize,
    /// The giving side found no room and waits for its bell.
    stalled: Signal,
}

impl Ring {
    fn new() -> Self {
        Self {
            slices: ArrayQueue::new(RING_SLICES),
            bytes: AtomicUsize::new(0),
            stalled: Signal::new(),
        }
    }

    fn has_room(&self) -> bool {
        !self.slices.is_full() && self.bytes.load(Ordering::Relaxed) < RING_BYTES
    }

    /// Asks for room, and for a bell when there is none.
    fn room(&self) -> bool {
        if self.has_room() {
            return true;
        }
        self.stalled.say();
        self.has_room()
    }

    fn take(&self) -> Option<Handed> {
        let handed = self.slices.pop()?;
        self.bytes.fetch_sub(handed.bytes(), Ordering::Relaxed);
        Some(handed)
    }

    /// After something was taken: does the giving side wait for it?
    fn relieve(&self) -> bool {
        self.stalled.take()
    }
}

/// What one worker receives from the others.
struct Mailbox {
    /// By giving worker.
    rings: Box<[Ring]>,
    posts: Sender<Post>,
    bell: Bell,
    /// It waits for its socket, or is about to.
    asleep: Signal,
    /// By slot of its peers: classes the others are to keep ([`caplane_core::forward::Pressure`]).
    pressure: Box<[AtomicU16]>,
}

impl Mailbox {
    fn is_empty(&self) -> bool {
        self.rings.iter().all(|ring| ring.slices.is_empty()) && self.posts.is_empty()
    }

    /// After something was put in: wakes a sleeper.
    fn ring_bell(&self) {
        if self.asleep.is_said() {
            (self.bell)();
        }
    }
}

/// One worker's side of the exchange.
pub struct Port {
    worker: u8,
    mailboxes: Arc<[Mailbox]>,
    posts: Receiver<Post>,
    /// Posts that did not fit, by worker; oldest first.
    unsent: Vec<VecDeque<Post>>,
    /// Workers that were given something since their bell was rung.
    given: Vec<bool>,
}

/// Makes the ports of a router's workers, in order. `peers_max` bounds the slots of each.
pub fn ports(bells: Vec<Bell>, peers_max: usize) -> Vec<Port> {
    let workers = bells.len();
    let mut receivers = Vec::with_capacity(workers);
    // A router of one worker exchanges nothing.
    let slots = if workers == 1 { 0 } else { peers_max };
    let mailboxes: Arc<[Mailbox]> = bells
        .into_iter()
        .map(|bell| {
            let (posts, receiver) = crossbeam::channel::bounded(POSTS_MAX);
            receivers.push(receiver);
            Mailbox {
                rings: (0..workers).map(|_| Ring::new()).collect(),
                posts,
                bell,
                asleep: Signal::new(),
                pressure: (0..slots).map(|_| AtomicU16::new(0)).collect(),
            }
        })
        .collect();
    let ports = receivers.into_iter().enumerate();
    ports
        .map(|(worker, posts)| Port {
            worker: worker as u8,
            mailboxes: mailboxes.clone(),
            posts,
            unsent: vec![VecDeque::new(); workers],
            given: vec![false; workers],
        })
        .collect()
}

impl Port {
    /// True when there is nobody else.
    pub fn is_alone(&self) -> bool {
        self.mailboxes.len() == 1
    }

    /// The other workers.
    pub fn others(&self) -> impl Iterator<Item = u8> + use<> {
        let (own, all) = (self.worker, self.mailboxes.len() as u8);
        (0..all).filter(move |worker| *worker != own)
    }

    /// May something be given to `worker`? When not, its taking something wakes this one.
    pub fn room(&self, worker: u8) -> bool {
        let mailbox = self.mailboxes.get(usize::from(worker));
        mailbox.is_some_and(|mailbox| mailbox.rings[usize::from(self.worker)].room())
    }

    /// Gives `worker` something.
    ///
    /// # Errors
    ///
    /// The thing itself, when there was no [`Port::room`].
    pub fn give(&mut self, worker: u8, handed: Handed) -> Result<(), Handed> {
        let Some(mailbox) = self.mailboxes.get(usize::from(worker)) else {
            return Err(handed);
        };
        let ring = &mailbox.rings[usize::from(self.worker)];
        let bytes = handed.bytes();
        ring.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.given[usize::from(worker)] = true;
        ring.slices.push(handed).inspect_err(|_| {
            ring.bytes.fetch_sub(bytes, Ordering::Relaxed);
        })
    }

    /// Everything the others gave, with the giver: a tick's worth.
    pub fn take(&self, mut each: impl FnMut(u8, Handed)) {
        let own = &self.mailboxes[usize::from(self.worker)];
        let mut left = TAKEN_PER_TICK;
        for (giver, ring) in own.rings.iter().enumerate() {
            let before = left;
            while left > 0
                && let Some(handed) = ring.take()
            {
                left -= 1;
                each(giver as u8, handed);
            }
            if left != before && ring.relieve() {
                self.mailboxes[giver].ring_bell();
            }
        }
    }

    /// Tells one worker about a peer.
    pub fn post(&mut self, worker: u8, post: Post) {
        self.unsent[usize::from(worker)].push_back(post);
        self.deliver(worker);
    }

    fn deliver(&mut self, worker: u8) {
        let at = usize::from(worker);
        let unsent = &mut self.unsent[at];
        while let Some(post) = unsent.pop_front() {
            self.given[at] = true;
            match self.mailboxes[at].posts.try_send(post) {
                Ok(()) => {}
                Err(TrySendError::Full(post)) => return unsent.push_front(post),
                // It has ended; nobody is left to be told.
                Err(TrySendError::Disconnected(_)) => return unsent.clear(),
            }
        }
    }

    /// Tells all others about a peer.
    pub fn post_all(&mut self, post: &Post) {
        for worker in self.others() {
            self.post(worker, post.clone());
        }
    }

    /// The next post of the others.
    pub fn next_post(&self) -> Option<Post> {
        self.posts.try_recv().ok()
    }

    /// Tries again what did not fit; true while some still waits. Take no new peers then.
    pub fn is_behind(&mut self) -> bool {
        for worker in self.others() {
            self.deliver(worker);
        }
        self.unsent.iter().any(|unsent| !unsent.is_empty())
    }

    /// Must messages of this class for a peer of another worker wait?
    pub fn is_pressed(&self, peer: PeerKey, class: TrafficClass) -> bool {
        let mailbox = self.mailboxes.get(usize::from(peer.worker));
        let slot = mailbox.and_then(|mailbox| mailbox.pressure.get(peer.slot as usize));
        slot.is_some_and(|classes| classes.load(Ordering::Acquire) & 1 << class.index() != 0)
    }

    /// Says which classes of a peer of this worker the others are to keep.
    pub fn set_pressure(&mut self, peer: PeerKey, classes: u16) {
        let own = &self.mailboxes[usize::from(self.worker)];
        let Some(slot) = own.pressure.get(peer.slot as usize) else {
            return;
        };
        let before = slot.swap(classes, Ordering::AcqRel);
        if before & !classes != 0 {
            self.post_all(&Post::Eased(peer));
        }
    }

    /// Wakes every sleeper that was given something.
    pub fn ring_bells(&mut self) {
        for (worker, given) in self.given.iter_mut().enumerate() {
            if std::mem::take(given) {
                self.mailboxes[worker].ring_bell();
            }
        }
    }

    /// Says that this worker is about to sleep; false when something has come.
    pub fn may_sleep(&self) -> bool {
        let own = &self.mailboxes[usize::from(self.worker)];
        own.asleep.say();
        own.is_empty()
    }

    /// Says that it is awake.
    pub fn awake(&self) {
        let own = &self.mailboxes[usize::from(self.worker)];
        own.asleep.unsay();
    }
}

#[cfg(test)]
mod tests;
