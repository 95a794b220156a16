//! Capacities of a forwarder, each with its derivation. Refuses to know where they were configured.

use core::time::Duration;

use crate::fib::Rate;

/// Capacities of one worker's forwarder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwarderConfig {
    /// Number of the worker this forwarder runs on; peers of other workers are reached by
    /// `Forwarder::hand_over`.
    pub worker: u8,
    /// Largest charge of one egress queue (peer x traffic class), bytes.
    ///
    /// Default 4 MiB: 10 Gb/s (1.25 GB/s) for 3.3 ms, several ticks of a busy worker (tens of
    /// microseconds each) and a round trip within a site; 64 messages of the largest lane size.
    pub queue_bytes_max: usize,
    /// Largest charge of all queues of the worker together, bytes.
    ///
    /// Default 256 MiB: 64 full queues. Below it each queue may use at most what is still free
    /// (dynamic threshold, factor 1), so one slow receiver never takes more than half.
    pub queue_total_bytes_max: usize,
    /// What a queue may always hold, however full the budget is, bytes.
    ///
    /// Default 64 KiB: one message of the largest lane size, so that every peer still gets something.
    pub queue_bytes_floor: usize,
    /// Charge above which a queue's sparsely used slabs are worth a copy.
    ///
    /// Default 1 MiB, four slabs: below it a slow receiver costs little enough.
    pub backlog_bytes: usize,
    /// A queue that has not been empty for so long holds its slabs for long.
    ///
    /// Default 2 ms: tens of ticks of a busy worker; a queue that drains every tick never gets there.
    pub linger: Duration,
    /// Size of the transport's slabs, bytes: what one slice may pin.
    pub slab_bytes: usize,
    /// Largest bulk message, header included, bytes (issue default 16 MiB).
    pub bulk_message_bytes_max: u64,
    /// Egress lanes per peer and traffic class.
    ///
    /// Default 4: a lost packet stalls a quarter of the ingress lanes, and streams stay few.
    pub lanes_per_class: u32,
    /// Notices a second made because of one ingress instance; ten times that for a neighbour,
    /// which stands for many sources.
    pub notices_per_second: u32,
    /// Notices made at once after a pause.
    pub notice_burst: u32,
    /// Decisions each worker remembers, 16 bytes each, in memory of its own that is taken with the first message.
    ///
    /// Default 32,768 (512 KiB): what stays in a core's second cache beside the traffic. A worker whose senders ask
    /// for more labels in turn than that looks into the tables, as it does the first time. 0 = none.
    pub decisions_remembered: usize,
    /// What each attached instance may send where its policy group does not say.
    ///
    /// Default: no limit; a fabric's owner knows its agents, we do not.
    pub instance_rate: Rate,
}

impl Default for ForwarderConfig {
    fn default() -> Self {
        ForwarderConfig {
            worker: 0,
            queue_bytes_max: 4 << 20,
            queue_total_bytes_max: 256 << 20,
            queue_bytes_floor: 64 << 10,
            backlog_bytes: 1 << 20,
            linger: Duration::from_millis(2),
            slab_bytes: 256 << 10,
            bulk_message_bytes_max: 16 << 20,
            lanes_per_class: 4,
            notices_per_second: 1_000,
            notice_burst: 200,
            decisions_remembered: 32 << 10,
            instance_rate: Rate::UNLIMITED,
        }
    }
}
