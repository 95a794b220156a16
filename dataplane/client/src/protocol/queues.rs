//! What is numbered (or needs no number) and waits for room on a carrier, in order. Knows nothing of flows or timers.

use std::collections::VecDeque;

use caplane_wire::{HeaderRepr, TrafficClass};

use super::{Message, ReplyKey};

/// One place to wait in: an index into the lanes, or the bulk or datagram queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Queue {
    /// Lane number `index`, below [`Queues::lane_count`].
    Lane(usize),
    /// Each of its messages gets a stream of its own.
    Bulk,
    /// Each of its messages is one datagram.
    Datagram,
}

/// A message that waits. What is kept elsewhere for resending is only named here.
#[derive(Debug)]
pub(crate) enum Waiting<T> {
    /// In its flow's window.
    Flow { flow: u64, sequence: u32 },
    /// Nobody waits for it.
    Loose {
        flow: u64,
        sequence: u32,
        message: Message<T>,
    },
    /// In the table of replies.
    Reply(ReplyKey),
    /// A reply nobody waits for.
    LooseReply {
        key: ReplyKey,
        class: TrafficClass,
        message: Message<T>,
    },
    /// A receipt; its source is filled in when it leaves.
    Receipt(HeaderRepr),
}

/// All places to wait in. Each traffic class has `lanes` lanes for flows and one for receipts, so that receipts never wait
/// behind data that a router holds back.
#[derive(Debug)]
pub(crate) struct Queues<T> {
    lanes: Vec<VecDeque<Waiting<T>>>,
    per_class: usize,
    bulk: VecDeque<Waiting<T>>,
    datagram: VecDeque<Waiting<T>>,
    receipts: usize,
}

impl<T> Queues<T> {
    pub(crate) fn new(lanes_per_class: usize) -> Self {
        let per_class = lanes_per_class + 1;
        Self {
            lanes: (0..per_class * TrafficClass::COUNT)
                .map(|_| VecDeque::new())
                .collect(),
            per_class,
            bulk: VecDeque::new(),
            datagram: VecDeque::new(),
            receipts: 0,
        }
    }

    /// Lanes of all classes together.
    pub(crate) fn lane_count(&self) -> usize {
        self.lanes.len()
    }

    /// The class that a lane carries.
    pub(crate) fn lane_class(&self, lane: usize) -> TrafficClass {
        TrafficClass::from_index(lane / self.per_class)
    }

    /// The lane that a flow's messages of one class stay on.
    pub(crate) fn lane_of(&self, class: TrafficClass, flow: u64) -> Queue {
        let spread = self.per_class as u64 - 1;
        // The upper half: the lower bits pick buckets in hash tables keyed by the same number.
        Queue::Lane(class.index() * self.per_class + ((flow >> 32) % spread) as usize)
    }

    fn place(&mut self, queue: Queue) -> &mut VecDeque<Waiting<T>> {
        match queue {
            Queue::Lane(lane) => &mut self.lanes[lane],
            Queue::Bulk => &mut self.bulk,
            Queue::Datagram => &mut self.datagram,
        }
    }

    pub(crate) fn push(&mut self, queue: Queue, waiting: Waiting<T>) {
        self.place(queue).push_back(waiting);
    }

    /// Puts something that was sent before, and may be lost, ahead of what was never sent.
    pub(crate) fn push_front(&mut self, queue: Queue, waiting: Waiting<T>) {
        self.place(queue).push_front(waiting);
    }

    pub(crate) fn push_receipt(&mut self, receipt: HeaderRepr) {
        let lane = (receipt.class.index() + 1) * self.per_class - 1;
        self.receipts += 1;
        self.lanes[lane].push_back(Waiting::Receipt(receipt));
    }

    pub(crate) fn pop(&mut self, queue: Queue) -> Option<Waiting<T>> {
        let waiting = self.place(queue).pop_front();
        if let Some(Waiting::Receipt(_)) = waiting {
            self.receipts -= 1;
        }
        waiting
    }

    pub(crate) fn is_empty(&self, queue: Queue) -> bool {
        match queue {
            Queue::Lane(lane) => self.lanes[lane].is_empty(),
            Queue::Bulk => self.bulk.is_empty(),
            Queue::Datagram => self.datagram.is_empty(),
        }
    }

    pub(crate) fn all_empty(&self) -> bool {
        self.bulk.is_empty()
            && self.datagram.is_empty()
            && self.lanes.iter().all(VecDeque::is_empty)
    }

    /// Receipts not yet handed over.
    pub(crate) fn receipts(&self) -> usize {
        self.receipts
    }
}
