//! What a worker counts itself, beside the Forwarder's and the transport's counters, and
//! the copy of all three that the control thread asks for.

use caplane_proto::v1::ByeCode;

/// Attachments refused or ended by the router, by `ByeCode`.
pub const BYE_CODES: usize = 10;

/// What the worker itself counts. Monotonic, but those marked *gauge*.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerCounts {
    /// Ticks of the loop.
    pub ticks: u64,
    /// Connections this router ended or refused after the handshake, by code.
    pub byes: [u64; BYE_CODES],
    /// Control frames that could not be understood.
    pub control_faults: u64,
    /// Resolves answered from the table.
    pub resolves_answered: u64,
    /// Resolves passed to the controller.
    pub resolves_relayed: u64,
    /// Resolves refused because too many wait already.
    pub resolves_refused: u64,
    /// *Gauge*: attached instances.
    pub instances: u64,
    /// *Gauge*: neighbours in the table.
    pub neighbours: u64,
    /// *Gauge*: neighbour links that are up.
    pub links_up: u64,
    /// *Gauge*: links that are up and answer probes.
    pub links_alive: u64,
    /// *Gauge*: bulk messages under way.
    pub bulk_active: u64,
}

impl WorkerCounts {
    /// Counts one Bye.
    pub(super) fn bye(&mut self, code: ByeCode) {
        if let Some(count) = self.byes.get_mut(code as i32 as usize) {
            *count += 1;
        }
    }
}

/// A copy of everything one worker counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerSnapshot {
    /// The Forwarder's counters.
    pub forwarder: caplane_core::Counters,
    /// The endpoint's counters.
    pub transport: caplane_transport::Counters,
    /// The worker's own.
    pub worker: WorkerCounts,
}
