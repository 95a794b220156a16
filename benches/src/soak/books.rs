//! The rules: what was sent is what came, what was noticed and what was
//! dropped and counted; nothing twice, nothing changed.
//!
//! 1. *In*: the router received what the lasting senders handed over, and of datagrams and of what mortals handed over no more
//!    than that.
//! 2. *Within*: `received + notices + copies for groups = forwarded - returned + dropped + queued + bulk under way`, to the message.
//! 3. *Out*: what was forwarded was heard by somebody, to the message, but for what mortals had not acknowledged when they
//!    ended (at most the router's own count of those), and for datagrams that vanished.
//! 4. *Drops*: each has a reason this load can explain, and is a notice made or a notice suppressed, but for two about which
//!    there is none: a notice that was dropped itself, and a message whose sender has gone.
//! 5. Nothing is duplicated, corrupted or misrouted.
//! 6. Datagrams that vanished are at most as many as packets of their own path were lost (one to a packet), or were noticed.
//! 7. Every member of the group heard every message to it.

use super::{Mortals, Part};
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
    /// Extra copies made for groups.
    pub replicated: u64,
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
            books.replicated += sum("router_messages_replicated_total");
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
        let came = self.received + self.notices + self.replicated + self.returned;
        came as i64 - left as i64 - self.between_workers
    }
}

/// What one part of the traffic counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Carried {
    /// Which.
    pub part: Part,
    /// Handed over by its sender.
    pub sent: u64,
    /// Copies that were to be heard.
    pub expected: u64,
    /// Heard by its receivers, first time and intact.
    pub received: u64,
    /// Notices that its sender got.
    pub notices: u64,
}

/// What everybody counted.
#[derive(Clone, Debug, Serialize)]
pub struct Books {
    /// Those that last, part by part.
    pub carried: Vec<Carried>,
    /// Packets of the datagrams' own path that did not get through.
    pub datagram_packets_lost: u64,
    /// Of mortals' messages, heard by them.
    pub received_from_mortals: u64,
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
    pub fn new(
        reports: &[(Part, Report)],
        mortals: &Mortals,
        datagram_packets_lost: u64,
        router: RouterBooks,
    ) -> Books {
        let sum = |of: fn(&Report) -> u64| reports.iter().map(|(_, report)| of(report)).sum();
        let carried = |(part, report): &(Part, Report)| Carried {
            part: *part,
            sent: report.sent,
            expected: report.expected,
            received: report.received,
            notices: report.notices.values().sum(),
        };
        Books {
            carried: reports.iter().map(carried).collect(),
            datagram_packets_lost,
            received_from_mortals: sum(|r| r.foreign),
            duplicated: sum(|r| r.duplicated),
            corrupted: sum(|r| r.corrupted),
            misrouted: sum(|r| r.misrouted),
            mortals: *mortals,
            router,
        }
    }

    /// Of the parts that this holds for.
    fn sum(&self, which: impl Fn(Part) -> bool, of: fn(&Carried) -> u64) -> u64 {
        let parts = self.carried.iter().filter(|carried| which(carried.part));
        parts.map(of).sum()
    }

    /// Handed over by the senders that last.
    pub fn sent(&self) -> u64 {
        self.sum(|_| true, |carried| carried.sent)
    }

    /// Data messages heard by the receivers that last, first time and intact.
    pub fn received(&self) -> u64 {
        self.sum(|_| true, |carried| carried.received)
    }

    /// Messages somebody heard.
    pub fn heard(&self) -> u64 {
        let notices = self.sum(|_| true, |carried| carried.notices);
        let lasting = self.received() + self.received_from_mortals + notices;
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
        let sent = self.sum(Part::is_reliable, |carried| carried.sent);
        let unreliable = |of| self.sum(|part| !part.is_reliable(), of);
        let (offered, arrived) = (
            unreliable(|carried| carried.sent),
            unreliable(|carried| carried.received),
        );
        let others = router.received as i64 - sent as i64;
        rule(
            (arrived as i64..=(self.mortals.sent + offered) as i64).contains(&others),
            "in: what was sent was received",
            format!(
                "{sent} sent by lasting senders, {} at most by mortals, {arrived} to {offered} datagrams, {} received by the router",
                self.mortals.sent, router.received
            ),
        );
        rule(
            router.imbalance() == 0 && router.queued == 0,
            "within: what came in left, was dropped or waits",
            format!("{} unaccounted for: {router:?}", router.imbalance()),
        );
        let missing = (router.forwarded - router.returned) as i64 - self.heard() as i64;
        let vanished = offered.saturating_sub(arrived);
        rule(
            (0..=(router.unacknowledged + vanished) as i64).contains(&missing),
            "out: what was forwarded was heard",
            format!(
                "{} forwarded and not taken back, {} heard, {} unacknowledged by the dead, {vanished} datagrams vanished",
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
        let noticed = unreliable(|carried| carried.notices);
        rule(
            vanished <= self.datagram_packets_lost + noticed,
            "datagrams: none vanished but by the path",
            format!(
                "{vanished} of {offered} vanished, {} packets of their path lost, {noticed} noticed",
                self.datagram_packets_lost
            ),
        );
        let group = |of| self.sum(|part| part == Part::Group, of);
        let (expected, heard) = (
            group(|carried| carried.expected),
            group(|carried| carried.received),
        );
        rule(
            expected == heard,
            "group: every member heard every message",
            format!("{expected} copies were to be heard, {heard} were"),
        );
        rule(
            self.carried.iter().all(|carried| carried.received > 0) && self.mortals.failed == 0,
            "peers may join and receive",
            format!("{:?}, {} refused", self.carried, self.mortals.failed),
        );
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carried(part: Part, sent: u64, expected: u64, received: u64, notices: u64) -> Carried {
        Carried {
            part,
            sent,
            expected,
            received,
            notices,
        }
    }

    /// 1,000 sent on lanes, of them 20 to a group of two, and 10 by mortals, of which 8 arrive; 880 + 40 and 5 heard, 60 handed to
    /// the dead who heard 50; 43 dropped: 40 noticed, 3 suppressed, and the notices heard. Of 100 datagrams one vanishes before the
    /// router and two behind it.
    fn balanced() -> Books {
        Books {
            carried: vec![
                carried(Part::Dropping, 980, 980, 880, 40),
                carried(Part::Group, 20, 40, 40, 0),
                carried(Part::Datagrams, 100, 100, 97, 0),
            ],
            datagram_packets_lost: 3,
            received_from_mortals: 5,
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
                received: 1_107,
                forwarded: 1_124,
                replicated: 20,
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
        let edits: [fn(&mut Books); 15] = [
            // Lower ends are those of datagrams heard, upper ones those of datagrams sent.
            |b| b.carried[0].sent += 11,
            |b| b.carried[0].sent -= 4,
            |b| b.router.forwarded += 1,
            |b| b.router.received -= 1,
            |b| b.router.replicated -= 1,
            |b| b.carried[0].received += 1 + 12,
            |b| b.carried[0].received -= 2,
            |b| b.carried[1].received -= 1,
            |b| b.carried[1].expected += 1,
            |b| b.carried[2].received -= 1,
            |b| b.datagram_packets_lost -= 1,
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

    #[test]
    fn a_part_that_carried_nothing_is_a_fault() {
        let mut books = balanced();
        books.carried.push(carried(Part::Bulk, 0, 0, 0, 0));
        let faults = books.faults();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].rule, "peers may join and receive");
    }
}
