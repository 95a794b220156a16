//! What is to be sent, checked before anything starts.

use super::message::STAMP_LEN;
use caplane_wire::{CongestionAction, HEADER_LEN, LANE_MESSAGE_MAX, Label, TrafficClass};
use serde::Serialize;
use std::time::Duration;

/// What carries the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Carrier {
    /// Back to back on long-lived streams.
    Lane,
    /// One stream a message.
    Bulk,
    /// One DATAGRAM frame a message.
    Datagram,
}

/// How fast.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rate {
    /// Open loop: so many messages a second, all senders together.
    PerSecond(f64),
    /// As fast as flow control admits: a closed loop, without corrected latency.
    Max,
}

/// One measurement.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Sending threads, each a connection of its own.
    pub senders: usize,
    /// Receiving threads, each a connection of its own.
    pub receivers: usize,
    /// Destination classes; receiver r serves class k when k and r are equal modulo the smaller of both numbers.
    pub classes: Vec<Label>,
    /// Tenant of the classes.
    pub tenant: u32,
    /// Flows, spread over senders and classes.
    pub flows: usize,
    /// What carries the messages.
    pub carrier: Carrier,
    /// Payload bytes of a message; the header's 48 come on top.
    pub payload: usize,
    /// Several payload sizes and their weights instead; empty: all messages are of `payload` bytes.
    pub mix: Vec<(usize, u32)>,
    /// The labels are groups that every receiver belongs to: each message is to reach all of them.
    pub fan_out: bool,
    /// Receivers answer every message to the instance that sent it, with the same payload (lanes only).
    pub reply: bool,
    /// How fast.
    pub rate: Rate,
    /// At full speed: messages sent and not yet arrived at the slowest of their receivers, all senders together, at most.
    /// `None`: flow control alone decides, and what it does not reach is lost.
    pub under_way_max: Option<u64>,
    /// Priority and what happens at a full queue.
    pub class: TrafficClass,
    /// Lanes each sender opens (lane carrier).
    pub lanes: usize,
    /// Time before the measurement.
    pub warm_up: Duration,
    /// Time measured.
    pub duration: Duration,
    /// Longest wait for what is under way at the end.
    pub drain: Duration,
    /// Largest UDP payload of the generator's endpoints (bytes), found by path MTU discovery.
    pub udp_payload_max: usize,
    /// Order of flows and flow ids.
    pub seed: u64,
}

/// What is wrong with a plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is {given}: {rule}")]
pub struct PlanError {
    /// Which value.
    pub what: &'static str,
    /// As given.
    pub given: String,
    /// What would be right.
    pub rule: String,
}

/// The instance number in a label has six bits, and one identity serves all senders.
const THREADS_MAX: usize = 63;
/// A sequence of sizes stays small: a thousand messages repeat.
const WEIGHT_MAX: usize = 1_000;
/// A flow's state is about 80 bytes on either side.
const FLOWS_MAX: usize = 10_000_000;
/// The bulk limit of the wire format unless configured otherwise.
const BULK_PAYLOAD_MAX: usize = caplane_wire::BULK_MESSAGE_MAX_DEFAULT - HEADER_LEN;

impl Plan {
    /// One sender, one receiver, 64-byte payloads on one lane, as many classes and flows as given, 10,000 messages a second.
    pub fn one_to_one(labels: usize) -> Plan {
        Plan {
            senders: 1,
            receivers: 1,
            classes: class_labels(labels),
            tenant: 1,
            flows: labels,
            carrier: Carrier::Lane,
            payload: 64,
            mix: Vec::new(),
            fan_out: false,
            reply: false,
            rate: Rate::PerSecond(10_000.0),
            under_way_max: None,
            class: TrafficClass::new(0, CongestionAction::Drop),
            lanes: 1,
            warm_up: Duration::from_secs(1),
            duration: Duration::from_secs(5),
            drain: Duration::from_secs(5),
            udp_payload_max: 16_368,
            seed: 1,
        }
    }

    /// Checks ranges.
    ///
    /// # Errors
    /// [`PlanError`] for the first value that cannot work.
    pub fn check(&self) -> Result<(), PlanError> {
        let payload_max = match self.carrier {
            Carrier::Lane => LANE_MESSAGE_MAX - HEADER_LEN,
            Carrier::Bulk => BULK_PAYLOAD_MAX,
            // A packet of the largest size less QUIC's own bytes.
            Carrier::Datagram => self.udp_payload_max.saturating_sub(HEADER_LEN + 64),
        };
        within("senders", self.senders, 1, THREADS_MAX)?;
        within("receivers", self.receivers, 1, THREADS_MAX)?;
        within("lanes", self.lanes, 1, 8)?;
        within("flows", self.flows, self.senders * self.lanes, FLOWS_MAX)?;
        within("classes", self.classes.len(), 1, CLASSES_MAX)?;
        for payload in self.sizes() {
            within("payload bytes", payload, 0, payload_max)?;
        }
        for (payload, weight) in &self.mix {
            within("weight of a size", *weight as usize, 1, WEIGHT_MAX)?;
            // Sizes of a mix are told apart by what is in the payload.
            within("payload bytes of a mix", *payload, STAMP_LEN, payload_max)?;
        }
        within("largest UDP payload", self.udp_payload_max, 1_200, 16_383)?;
        let answerable = self.carrier == Carrier::Lane && !self.fan_out;
        if self.reply && !(answerable && self.sizes().iter().all(|size| *size >= STAMP_LEN)) {
            return Err(PlanError {
                what: "replies",
                given: "asked for".to_owned(),
                rule: format!("they need lanes, classes and payloads from {STAMP_LEN} bytes on"),
            });
        }
        if self.under_way_max == Some(0) || self.under_way_max.is_some() && self.rate != Rate::Max {
            return Err(PlanError {
                what: "a bound of what is under way",
                given: "asked for".to_owned(),
                rule: "it needs the rate max, and is at least 1".to_owned(),
            });
        }
        if let Rate::PerSecond(rate) = self.rate
            && !(0.1..=1e9).contains(&rate)
        {
            return Err(PlanError {
                what: "rate",
                given: rate.to_string(),
                rule: "give messages a second, 0.1 to 1e9, or max".to_owned(),
            });
        }
        Ok(())
    }

    /// All payload sizes.
    pub fn sizes(&self) -> Vec<usize> {
        if self.mix.is_empty() {
            vec![self.payload]
        } else {
            self.mix.iter().map(|(payload, _)| *payload).collect()
        }
    }

    /// Sizes of successive messages: each as often as its weight says, spread evenly; repeated from the start.
    pub fn size_sequence(&self) -> Vec<usize> {
        if self.mix.is_empty() {
            return vec![self.payload];
        }
        let whole: i64 = self.mix.iter().map(|(_, weight)| i64::from(*weight)).sum();
        let mut credit = vec![0i64; self.mix.len()];
        (0..whole)
            .filter_map(|_| {
                for (credit, (_, weight)) in credit.iter_mut().zip(&self.mix) {
                    *credit += i64::from(*weight);
                }
                let next = (0..credit.len()).max_by_key(|n| (credit[*n], std::cmp::Reverse(*n)))?;
                credit[next] -= whole;
                Some(self.mix[next].0)
            })
            .collect()
    }

    /// Copies of a message that are to arrive.
    pub fn copies(&self) -> u64 {
        if self.fan_out {
            self.receivers as u64
        } else {
            1
        }
    }
}

fn within(what: &'static str, given: usize, least: usize, most: usize) -> Result<(), PlanError> {
    if (least..=most).contains(&given) {
        return Ok(());
    }
    Err(PlanError {
        what,
        given: given.to_string(),
        rule: format!("give {least} to {most}"),
    })
}

/// Second-level children of one node (10 bits, 0 = any).
const SECOND_LEVEL: usize = 1_000;
/// 1,023 first levels of 1,000 each.
pub(super) const CLASSES_MAX: usize = 1_023 * SECOND_LEVEL;

/// So many distinct class labels of two levels: `class:1.1`, `class:1.2`, ...
pub fn class_labels(count: usize) -> Vec<Label> {
    (0..count.min(CLASSES_MAX))
        .map(|n| {
            let (first, second) = (n / SECOND_LEVEL + 1, n % SECOND_LEVEL + 1);
            Label::class(first as u16, second as u16, 0)
                .expect("levels are 1..=1023 and 1..=1000, within ten bits each")
        })
        .collect()
}

/// So many distinct group labels.
pub fn group_labels(count: usize) -> Vec<Label> {
    (1..=count.min(CLASSES_MAX))
        .map(|n| Label::group(n as u32).expect("group numbers here are below 2^30"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn sizes_of_a_mix_come_as_often_as_they_weigh_and_evenly() {
        let plan = Plan {
            mix: vec![(64, 7), (570, 4), (1_400, 1)],
            ..Plan::one_to_one(10)
        };
        assert_eq!(plan.check(), Ok(()));
        let sequence = plan.size_sequence();
        let count = |size| sequence.iter().filter(|s| **s == size).count();
        assert_eq!((count(64), count(570), count(1_400)), (7, 4, 1));
        assert!(sequence.windows(4).all(|four| four.contains(&64)));
        let short = Plan {
            mix: vec![(8, 1)],
            ..plan
        };
        assert!(short.check().is_err());
    }

    #[test]
    fn labels_are_distinct_and_valid() {
        let labels: HashSet<Label> = class_labels(10_000).into_iter().collect();
        assert_eq!(labels.len(), 10_000);
    }

    #[test]
    fn a_plan_that_cannot_work_is_refused_with_the_rule() {
        let good = Plan::one_to_one(10);
        assert_eq!(good.check(), Ok(()));
        let bad = Plan {
            payload: 65_536,
            ..good.clone()
        };
        let error = bad.check().expect_err("too large").to_string();
        assert!(
            error.contains("payload bytes is 65536") && error.contains("65488"),
            "{error}"
        );
        let bad = Plan {
            rate: Rate::PerSecond(0.0),
            ..good.clone()
        };
        assert!(
            bad.check()
                .expect_err("no rate")
                .to_string()
                .contains("or max")
        );
        let bad = Plan { flows: 0, ..good };
        assert!(bad.check().is_err());
    }
}
