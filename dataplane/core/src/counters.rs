//! What became of every message: plain integers, one set per worker, no sharing. Refuses to know
//! metric names beyond those of [`DropReason`].

use crate::DropReason;

/// Counters of one worker. All monotonic but those marked *gauge*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Whole messages taken from peers, bulk messages included.
    pub received: u64,
    /// Bytes of those messages, header included (bulk: counted when it ends).
    pub received_bytes: u64,
    /// Messages handed to the transport, to instances and neighbours alike.
    pub forwarded: u64,
    /// Bytes of those messages.
    pub forwarded_bytes: u64,
    /// The part of `forwarded` that went to attached instances.
    pub delivered: u64,
    /// Messages handed to the transport and taken back (see `Forwarder::returned`).
    pub returned: u64,
    /// Messages handed to another worker of this router, which owns the peer they go to.
    pub handed_over: u64,
    /// Messages taken from other workers.
    pub taken_over: u64,
    /// Dropped messages by reason, indexed by `DropReason as usize`.
    pub dropped: [u64; DropReason::COUNT],
    /// Extra copies made of group messages: a message with n destinations counts n - 1.
    pub replicated: u64,
    /// Notices made by this worker; each is a message of its own from then on.
    pub notices: u64,
    /// Notices not made because the peer's notice rate was used up.
    pub notices_suppressed: u64,
    /// Messages whose priority was lowered to their policy group's cap.
    pub priority_capped: u64,
    /// Messages sent on to a second egress router.
    pub rerouted: u64,
    /// Payload and header bytes our code copied: small messages taken out of slabs they would pin,
    /// and headers of group copies.
    pub copied_bytes: u64,
    /// Times a blocking lane was stopped.
    pub blocked: u64,
    /// Slices appended to egress queues; `forwarded / runs` says how well runs merge.
    pub runs: u64,
    /// *Gauge*: messages in egress queues.
    pub queued: u64,
    /// *Gauge*: bytes of those messages.
    pub queued_bytes: u64,
    /// *Gauge*: slab bytes the queues are charged for.
    pub charged_bytes: u64,
    /// *Gauge*: bulk messages under way.
    pub bulk_active: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Counters {
            received: 0,
            received_bytes: 0,
            forwarded: 0,
            forwarded_bytes: 0,
            delivered: 0,
            returned: 0,
            handed_over: 0,
            taken_over: 0,
            dropped: [0; DropReason::COUNT],
            replicated: 0,
            notices: 0,
            notices_suppressed: 0,
            priority_capped: 0,
            rerouted: 0,
            copied_bytes: 0,
            blocked: 0,
            runs: 0,
            queued: 0,
            queued_bytes: 0,
            charged_bytes: 0,
            bulk_active: 0,
        }
    }
}

impl Counters {
    /// Messages dropped for one reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    /// Messages dropped for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// Messages that came in or were made here, less those that left, were dropped or wait. Zero
    /// at every moment between two calls: the conservation rule. Of several workers added up: what
    /// is on its way between them.
    pub fn imbalance(&self) -> i128 {
        let entered = i128::from(self.received)
            + i128::from(self.replicated)
            + i128::from(self.notices)
            + i128::from(self.taken_over);
        let left =
            i128::from(self.forwarded) - i128::from(self.returned) + i128::from(self.handed_over);
        entered
            - left
            - i128::from(self.dropped_total())
            - i128::from(self.queued)
            - i128::from(self.bulk_active)
    }

    /// Adds another worker's counters.
    pub fn add(&mut self, other: &Counters) {
        self.received += other.received;
        self.received_bytes += other.received_bytes;
        self.forwarded += other.forwarded;
        self.forwarded_bytes += other.forwarded_bytes;
        self.delivered += other.delivered;
        self.returned += other.returned;
        self.handed_over += other.handed_over;
        self.taken_over += other.taken_over;
        for (mine, theirs) in self.dropped.iter_mut().zip(other.dropped) {
            *mine += theirs;
        }
        self.replicated += other.replicated;
        self.notices += other.notices;
        self.notices_suppressed += other.notices_suppressed;
        self.priority_capped += other.priority_capped;
        self.rerouted += other.rerouted;
        self.copied_bytes += other.copied_bytes;
        self.blocked += other.blocked;
        self.runs += other.runs;
        self.queued += other.queued;
        self.queued_bytes += other.queued_bytes;
        self.charged_bytes += other.charged_bytes;
        self.bulk_active += other.bulk_active;
    }
}
