//! What an endpoint counts: plain numbers of one worker, shared with nobody; the owner copies them out.

use crate::error::RefuseReason;

/// Totals since the endpoint was bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// UDP datagrams received (segments, not GRO batches).
    pub packets_received: u64,
    /// UDP payload bytes received.
    pub bytes_received: u64,
    /// Receive system calls that returned data.
    pub receive_calls: u64,
    /// UDP datagrams sent.
    pub packets_sent: u64,
    /// UDP payload bytes sent.
    pub bytes_sent: u64,
    /// Send system calls.
    pub send_calls: u64,
    /// Sends that the system refused with EMSGSIZE: lost probes and path MTU drops.
    pub sends_too_large: u64,
    /// Sends put off because the socket buffer was full.
    pub sends_blocked: u64,
    /// Sends that failed for another reason (no route, refused port); the packets count as lost.
    pub sends_failed: u64,
    /// Received datagrams that belong to no connection or are not QUIC.
    pub packets_unknown: u64,
    /// Received datagrams whose connection id names another worker of the group, and that were handed to it.
    pub packets_missteered: u64,
    /// Datagrams that other workers received and handed to this one; not in `packets_received`.
    pub packets_taken_over: u64,
    /// Received datagrams of another worker that were dropped because its ring was full.
    pub packets_ring_full: u64,
    /// Version negotiation packets sent.
    pub versions_negotiated: u64,
    /// Retry packets sent.
    pub retries_sent: u64,
    /// Initial packets dropped because their Retry token was wrong or old.
    pub tokens_refused: u64,
    /// Connections established, either way.
    pub connected: u64,
    /// Connections closed after they were established.
    pub closed: u64,
    /// Messages that peers had not acknowledged when their connections ended, of those sent by `Endpoint::send_messages` or as bulk;
    /// an upper bound: messages sent as one slice count until all of it is acknowledged.
    pub messages_unacknowledged: u64,
    /// Connections refused, by reason.
    pub refused: [u64; RefuseReason::COUNT],
    /// Lane bytes handed to the owner.
    pub lane_bytes_received: u64,
    /// Lane bytes taken from the owner.
    pub lane_bytes_sent: u64,
    /// Bulk bytes handed to the owner.
    pub bulk_bytes_received: u64,
    /// Bulk bytes taken from the owner.
    pub bulk_bytes_sent: u64,
    /// Payload bytes copied by us between QUIC's receive call and QUIC's send call (tails that straddle two slabs).
    pub copied_bytes: u64,
    /// Streams refused because their preface or type is unknown, or a limit was passed.
    pub streams_refused: u64,
    /// Datagrams handed to the owner.
    pub datagrams_received: u64,
    /// Datagrams taken from the owner.
    pub datagrams_sent: u64,
    /// Datagrams refused: too large for the path.
    pub datagrams_too_large: u64,
    /// Datagrams refused: queue full.
    pub datagrams_queue_full: u64,
    /// Times a falling path MTU was noticed by loss alone (black hole) and discovery started again.
    pub path_mtu_black_holes: u64,
    /// Slabs that exist now.
    pub slabs: u64,
    /// Times a lane could not be read because every slab the budget allows was in use.
    pub slabs_exhausted: u64,
}

impl Counters {
    /// Connections refused for `reason`.
    pub fn refused_for(&self, reason: RefuseReason) -> u64 {
        self.refused[reason as usize]
    }

    /// Connections refused in all.
    pub fn refused_total(&self) -> u64 {
        self.refused.iter().sum()
    }
}
