//! What those count who have nothing to do with a disturbance: two clients that ask and answer, and the routers between them.
//! Refuses to know what the disturbance is.

use std::collections::BTreeMap;

use caplane_client::{Client, Counters};

use crate::stage::Stage;

/// Counters of a router that requests and answers change not at all; drops come by reason beside them.
const STEADY: [&str; 12] = [
    "router_handshakes_total",
    "router_handshakes_refused_total",
    "router_byes_total",
    "router_messages_rerouted_total",
    "router_messages_unacknowledged_total",
    "router_priority_capped_total",
    "router_control_faults_total",
    "router_streams_refused_total",
    "router_datagrams_refused_total",
    "router_resolves_refused_total",
    "router_table_updates_rejected_total",
    "router_packets_missteered_total",
];

/// All counters of the others at one moment, by name.
pub struct Others {
    asker: Counters,
    answering: Counters,
    routers: BTreeMap<String, u64>,
}

/// By how much they have changed.
#[derive(Debug)]
pub struct Counted {
    asker: BTreeMap<&'static str, u64>,
    answering: BTreeMap<&'static str, u64>,
    /// Those that have changed at all.
    routers: BTreeMap<String, u64>,
}

impl Others {
    /// Looks at them now.
    pub async fn look(stage: &Stage, asker: &Client, answering: &Client) -> Others {
        let mut routers = BTreeMap::new();
        for router in ["r1", "r2"] {
            let page = stage.fabric.metrics(router).await.expect("metrics");
            for name in STEADY {
                routers.insert(format!("{router} {name}"), page.sum(name) as u64);
            }
            routers.insert(
                format!("{router} links alive"),
                page.sum("router_links_alive") as u64,
            );
            for (reason, count) in page.by_label("router_drops_total", "reason") {
                routers.insert(format!("{router} drops: {reason}"), count as u64);
            }
        }
        Others {
            asker: asker.counters(),
            answering: answering.counters(),
            routers,
        }
    }

    /// What has changed since `before`.
    pub fn since(&self, before: &Others) -> Counted {
        let clients = |now: Counters, before: Counters| {
            let (now, before) = (by_name(now), by_name(before));
            let changed = now.into_iter().zip(before);
            changed
                .map(|((name, now), (_, before))| (name, now - before))
                .collect()
        };
        let value = |name: &String| before.routers.get(name).copied().unwrap_or(0);
        let routers = self.routers.iter().filter_map(|(name, now)| {
            let change = now.abs_diff(value(name));
            (change > 0).then(|| (name.clone(), change))
        });
        Counted {
            asker: clients(self.asker, before.asker),
            answering: clients(self.answering, before.answering),
            routers: routers.collect(),
        }
    }
}

/// Every counter of a client; one that is new does not compile until it is here.
fn by_name(counters: Counters) -> Vec<(&'static str, u64)> {
    let Counters {
        sent,
        resent,
        delivered,
        duplicates,
        too_old,
        expired,
        malformed,
        late_replies,
        unmatched,
        forged_notices,
        datagrams_dropped,
        flows_forgotten,
    } = counters;
    vec![
        ("sent", sent),
        ("resent", resent),
        ("delivered", delivered),
        ("duplicates", duplicates),
        ("too_old", too_old),
        ("expired", expired),
        ("malformed", malformed),
        ("late_replies", late_replies),
        ("unmatched", unmatched),
        ("forged_notices", forged_notices),
        ("datagrams_dropped", datagrams_dropped),
        ("flows_forgotten", flows_forgotten),
    ]
}

impl Counted {
    /// The clients have counted so many requests, and answers to them, to the end.
    pub fn is_of(&self, requests: u64) -> bool {
        self.clients()
            .iter()
            .all(|(counted, expected)| **counted == expected(requests))
    }

    /// Fails when a counter has changed by anything but so many requests and their answers, by name; of a router, drops for these
    /// reasons apart, which are not the others'.
    pub fn check(&self, requests: u64, dropped: &[&str]) {
        for (counted, expected) in self.clients() {
            assert_eq!(*counted, expected(requests), "of {requests} requests");
        }
        let theirs = |name: &str| {
            let reason = name.split_once("drops: ").map(|(_, reason)| reason);
            reason.is_some_and(|reason| dropped.contains(&reason))
        };
        let odd: Vec<_> = self.routers.iter().filter(|(n, _)| !theirs(n)).collect();
        assert!(odd.is_empty(), "a router counted {odd:?}");
    }

    #[expect(clippy::type_complexity, reason = "two of a kind, used here only")]
    fn clients(
        &self,
    ) -> [(
        &BTreeMap<&'static str, u64>,
        fn(u64) -> BTreeMap<&'static str, u64>,
    ); 2] {
        // A request and its reply are each sent, and confirmed by a receipt; a reply is no delivery, it settles the request.
        [
            (&self.asker, |n| changes(&[("sent", 2 * n)])),
            (&self.answering, |n| {
                changes(&[("sent", 2 * n), ("delivered", n)])
            }),
        ]
    }
}

/// These counters by so much, all others by nothing.
fn changes(some: &[(&'static str, u64)]) -> BTreeMap<&'static str, u64> {
    let all = by_name(Counters::default()).into_iter();
    let mut all: BTreeMap<_, _> = all.collect();
    all.extend(some.iter().copied());
    all
}
