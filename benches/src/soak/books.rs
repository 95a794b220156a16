//! The rules: what was sent is what came, what was noticed and what was
//! dropped and counted; nothing twice, nothing changed.
//!
//! 1. *In*: the router received what the lasting senders handed over, and of what mortals handed over no more than that.
//! 2. *Within*: `received + notices = forwarded - returned + dropped + queued + bulk under way`, to the message.
//! 3. *Out*: what was forwarded was heard by somebody, to the message, but for what mortals had not acknowledged when they
//!    ended: at most the router's own count of those is missing.
//! 4. *Drops*: each has a reason this load can explain, and is a notice made or a notice suppressed, but for two about which
//!    there is none: a notice that was dropped itself, and a message whose sender has gone.
//! 5. Nothing is duplicated, corrupted or misrouted.

use super::Mortals;
use crate::load::Report;
use caplane::fabric::Metrics;
use serde::Serialize;
use std::collections::BTreeMap;

/// Reasons for which this load may see drops: a full queue, a member that died, a lane it cut, and moments in which the
/// tables of an egress know a member that has just gone.
const REASONS: [&str; 5] = [
    "overloaded",
    "peer_gone",
    "cut_short",
    "unreachable",
    "send_failed",
];

/// A rule that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Which.
    pub rule: &'static str,
    /// The figures.
    pub what: String,
}

impl Fault {
    pub(super) fn new(rule: &'static str, what: impl Into<String>) -> Fault {
        let what = what.into();
        Fault { rule, what }
    }
}

/// What the router counted, all messages.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RouterBooks {
    /// Taken from peers.
    pub received: u64,
    /// Handed to the transport.
    pub forwarded: u64,
    /// Of these, taken back.
    pub returned: u64,
    /// Made here.
    pub notices: u64,
    /// Not made: the rate of notices was used up.
    pub notices_suppressed: u64,
    /// In queues now.
    pub queued: u64,
    /// Receive slabs that exist now, used or not (256 KiB each).
    pub slabs: u64,
    /// Bulk messages under way now.
    pub bulk_active: u64,
    /// Between workers now.
    pub between_workers: i64,
    /// Forwarded to peers that ended before they acknowledged them.
    pub unacknowledged: u64,
    /// Dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
}

impl RouterBooks {
    /// Sums of metrics pages.
    pub fn read(pages: &[Metrics]) -> RouterBooks {
        let mut books = RouterBooks::default();
        for page in pages {
            let sum = |name: &str| page.sum(name) as u64;
            books.received += sum("router_messages_received_total");
            books.forwarded += sum("router_messages_forwarded_total");
            books.returned += sum("router_messages_returned_total");
            books.notices += sum("router_notices_total");
            books.notices_suppressed += sum("router_notices_suppressed_total");
            books.queued += sum("router_queue_messages");
            books.slabs += sum("router_slabs");
            books.bulk_active += sum("router_bulk_active");
            books.between_workers += sum("router_messages_handed_over_total") as i64
                - sum("router_messages_taken_over_total") as i64;
            books.unacknowledged += sum("router_messages_unacknowledged_total");
            for (reason, count) in page.by_label("router_drops_total", "reason") {
                *books.dropped.entry(reason).or_default() += count as u64;
            }
        }
        books
    }

    /// Dropped for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// What came in or was made, less what left, was dropped or waits.
    fn imbalance(&self) -> i64 {
        let left = self.forwarded + self.dropped_total() + self.queued + self.bulk_active;
        (self.received + self.notices + self.returned) as i64 - left as i64 - self.between_workers
    }
}

/// What everybody counted.
#[derive(Clone, Debug, Serialize)]
pub struct Books {
    /// Handed over by the senders that last.
    pub sent: u64,
    /// Data messages heard by the receivers that last, first time and intact.
    pub received: u64,
    /// Of mortals' messages, heard by them.
    pub received_from_mortals: u64,
    /// Notices that the lasting senders got.
    pub notices: u64,
    /// Heard again.
    pub duplicated: u64,
    /// Changed on the way.
    pub corrupted: u64,
    /// Heard by one that does not serve the class.
    pub misrouted: u64,
    /// What mortals did.
    pub mortals: Mortals,
    /// What the router says.
    pub router: RouterBooks,
}

impl Books {
    /// Adds up.
    pub fn new(reports: &[Report], mortals: &Mortals, router: RouterBooks) -> Books {
        let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum();
        Books {
            sent: sum(|r| r.sent),
            received: sum(|r| r.received),
            received_from_mortals: sum(|r| r.foreign),
            notices: sum(|r| r.notices.values().sum()),
            duplicated: sum(|r| r.duplicated),
            corrupted: sum(|r| r.corrupted),
            misrouted: sum(|r| r.misrouted),
            mortals: *mortals,
            router,
        }
    }

    /// Messages somebody heard.
    pub fn heard(&self) -> u64 {
        let lasting = self.received + self.received_from_mortals + self.notices;
        lasting + self.duplicated + self.corrupted + self.misrouted + self.mortals.heard
    }

    /// Rules that do not hold.
    pub fn faults(&self) -> Vec<Fault> {
        let router = &self.router;
        let mut faults = Vec::new();
        let mut rule = |holds: bool, rule, what: String| {
            if !holds {
                faults.push(Fault::new(rule, what));
            }
        };
        let from_mortals = router.received as i64 - self.sent as i64;
        rule(
            (0..=self.mortals.sent as i64).contains(&from_mortals),
            "in: what was sent was received",
            format!(
                "{} sent by lasting senders, {} at most by mortals, {} received by the router",
                self.sent, self.mortals.sent, router.received
            ),
        );
        rule(
            router.imbalance() == 0 && router.queued == 0,
            "within: what came in left, was dropped or waits",
            format!("{} unaccounted for: {router:?}", router.imbalance()),
        );
        let missing = (router.forwarded - router.returned) as i64 - self.heard() as i64;
        rule(
            (0..=router.unacknowledged as i64).contains(&missing),
            "out: what was forwarded was heard",
            format!(
                "{} forwarded and not taken back, {} heard, {} unacknowledged by the dead",
                router.forwarded - router.returned,
                self.heard(),
                router.unacknowledged
            ),
        );
        let noticed = router.notices + router.notices_suppressed;
        let dropped = router.dropped_total();
        rule(
            noticed <= dropped && dropped - noticed <= router.notices + self.mortals.sent,
            "drops: each is noticed or counted as suppressed",
            format!(
                "{dropped} dropped, {} noticed, {} suppressed",
                router.notices, router.notices_suppressed
            ),
        );
        let odd = router
            .dropped
            .keys()
            .find(|r| !REASONS.contains(&r.as_str()));
        rule(
            odd.is_none(),
            "drops: for reasons this load explains",
            format!("{:?}", router.dropped),
        );
        let faulty = [self.duplicated, self.corrupted, self.misrouted];
        rule(
            faulty == [0; 3],
            "nothing is duplicated, corrupted or misrouted",
            format!("{faulty:?}"),
        );
        rule(
            self.received > 0 && self.mortals.failed == 0,
            "peers may join and receive",
            format!(
                "{} received, {} refused",
                self.received, self.mortals.failed
            ),
        );
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1,000 sent and 10 by mortals, of which 8 arrive; 900 and 5 heard, 60 handed to the dead who heard 50; 43 dropped:
    /// 40 noticed, 3 suppressed, and the notices heard.
    fn balanced() -> Books {
        Books {
            sent: 1_000,
            received: 900,
            received_from_mortals: 5,
            notices: 40,
            duplicated: 0,
            corrupted: 0,
            misrouted: 0,
            mortals: Mortals {
                lived: 2,
                ended_silently: 1,
                failed: 0,
                sent: 10,
                heard: 50,
            },
            router: RouterBooks {
                received: 1_008,
                forwarded: 1_005,
                notices: 40,
                notices_suppressed: 3,
                unacknowledged: 10,
                dropped: [("overloaded".to_owned(), 43)].into(),
                ..RouterBooks::default()
            },
        }
    }

    #[test]
    fn balanced_books_have_no_fault() {
        assert_eq!(balanced().faults(), []);
    }

    #[test]
    fn one_message_too_few_or_too_many_anywhere_is_a_fault() {
        let edits: [fn(&mut Books); 10] = [
            |b| b.sent += 9,
            |b| b.sent -= 3,
            |b| b.router.forwarded += 1,
            |b| b.router.received -= 1,
            |b| b.received += 1 + 10,
            |b| b.received -= 1,
            |b| b.router.notices_suppressed += 1,
            |b| b.duplicated += 1,
            |b| b.corrupted += 1,
            |b| b.router.dropped.extend([("no_route".to_owned(), 0)]),
        ];
        for (n, edit) in edits.iter().enumerate() {
            let mut books = balanced();
            edit(&mut books);
            assert_ne!(books.faults(), [], "edit {n}");
        }
    }
}
