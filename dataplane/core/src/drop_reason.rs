//! Why a message was dropped: exhaustive, indexes the counters, names the metric's label. Refuses
//! to know when a notice is due beyond which code it would carry.

use caplane_wire::NoticeCode;

/// Why a message went no further. Every drop has exactly one reason and is counted under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// No table entry serves what was asked for.
    NoRoute,
    /// The sender's policy group does not allow the destination (R15).
    PolicyDenied,
    /// The egress router was named by a table that is no longer (or not yet) its own.
    StaleTable,
    /// The hop limit was used up.
    HopLimit,
    /// The egress queue, or the worker's queue budget, was full.
    Overloaded,
    /// The sender exceeded its rate.
    RateLimited,
    /// Larger than the carrier's limit.
    TooLarge,
    /// Members or next hops exist and none of them is alive.
    Unreachable,
    /// The header, its extensions or its place on the stream break the wire format.
    Malformed,
    /// The sender's deadline has passed.
    Deadline,
    /// The source label or domain is not the sender's own (ingress filter).
    ForgedSource,
    /// An instance sent a notice, which only routers make.
    ForgedNotice,
    /// A data message came from a peer that is not attached (any more).
    UnknownPeer,
    /// It was queued for a peer that went away.
    PeerGone,
    /// A bulk message was cut short by its sender or its receiver.
    CutShort,
    /// The transport refused a message that had left its queue.
    SendFailed,
}

impl DropReason {
    /// Number of reasons: the length of a counter array.
    pub const COUNT: usize = 16;

    /// Every reason, in counter order.
    pub const ALL: [DropReason; DropReason::COUNT] = [
        DropReason::NoRoute,
        DropReason::PolicyDenied,
        DropReason::StaleTable,
        DropReason::HopLimit,
        DropReason::Overloaded,
        DropReason::RateLimited,
        DropReason::TooLarge,
        DropReason::Unreachable,
        DropReason::Malformed,
        DropReason::Deadline,
        DropReason::ForgedSource,
        DropReason::ForgedNotice,
        DropReason::UnknownPeer,
        DropReason::PeerGone,
        DropReason::CutShort,
        DropReason::SendFailed,
    ];

    /// Name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            DropReason::NoRoute => "no_route",
            DropReason::PolicyDenied => "policy_denied",
            DropReason::StaleTable => "stale_table",
            DropReason::HopLimit => "hop_limit",
            DropReason::Overloaded => "overloaded",
            DropReason::RateLimited => "rate_limited",
            DropReason::TooLarge => "too_large",
            DropReason::Unreachable => "unreachable",
            DropReason::Malformed => "malformed",
            DropReason::Deadline => "deadline",
            DropReason::ForgedSource => "forged_source",
            DropReason::ForgedNotice => "forged_notice",
            DropReason::UnknownPeer => "unknown_peer",
            DropReason::PeerGone => "peer_gone",
            DropReason::CutShort => "cut_short",
            DropReason::SendFailed => "send_failed",
        }
    }

    /// The code of the notice due to the source; `None` where a notice would go to a victim
    /// (forged source), or where nobody is left to tell.
    pub const fn notice(self) -> Option<NoticeCode> {
        match self {
            DropReason::NoRoute => Some(NoticeCode::NoRoute),
            DropReason::PolicyDenied => Some(NoticeCode::PolicyDenied),
            DropReason::StaleTable => Some(NoticeCode::StaleTable),
            DropReason::HopLimit => Some(NoticeCode::HopLimit),
            DropReason::Overloaded => Some(NoticeCode::Overloaded),
            DropReason::RateLimited => Some(NoticeCode::RateLimited),
            DropReason::TooLarge => Some(NoticeCode::TooLarge),
            DropReason::Malformed => Some(NoticeCode::Malformed),
            DropReason::Deadline => Some(NoticeCode::Deadline),
            DropReason::Unreachable
            | DropReason::PeerGone
            | DropReason::CutShort
            | DropReason::SendFailed => Some(NoticeCode::Unreachable),
            DropReason::ForgedSource | DropReason::ForgedNotice | DropReason::UnknownPeer => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_at_its_number_under_its_own_name() {
        let names: std::collections::BTreeSet<_> =
            DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
        for (at, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at);
        }
    }
}
