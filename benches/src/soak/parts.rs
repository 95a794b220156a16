//! What is sent meanwhile: every carrier and way of delivery, each from a
//! sender of its own to a receiver of its own.

use super::Soak;
use crate::load::{Carrier, Plan, Rate};
use caplane_wire::{CongestionAction, Label, TrafficClass};
use serde::Serialize;
use std::time::Duration;

/// One kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Lanes at full speed, whose messages wait at the edge when a queue is full.
    Waiting,
    /// Lanes at full speed, whose messages are dropped and noticed then. Mortals share its receiver's classes.
    Dropping,
    /// A stream for each long message.
    Bulk,
    /// DATAGRAM frames, one to a packet, over a lossy path of their own: what it loses stays lost.
    Datagrams,
    /// Lanes to a group of two.
    Group,
}

/// Payload bytes of a datagram: two do not fit into a packet of [`DATAGRAM_PACKET`] bytes, so a packet that is lost costs one message.
const DATAGRAM: usize = 700;
const DATAGRAM_PACKET: usize = 1_350;

impl Part {
    /// All of them.
    pub const ALL: [Part; 5] = [
        Part::Waiting,
        Part::Dropping,
        Part::Bulk,
        Part::Datagrams,
        Part::Group,
    ];

    /// Receivers of the rig that hear this part; every other sender's messages they must not.
    pub(super) fn receivers(self) -> &'static [usize] {
        match self {
            Part::Waiting => &[0],
            Part::Dropping => &[1],
            Part::Bulk => &[2],
            Part::Datagrams => &[3],
            Part::Group => &[4, 5],
        }
    }

    /// What it hands over arrives or is accounted for, to the message.
    pub(super) fn is_reliable(self) -> bool {
        self != Part::Datagrams
    }
}

/// Receivers of the rig.
const RECEIVERS: usize = 6;

/// The group.
pub(super) fn group() -> Label {
    Label::group(1).expect("1 is a group number")
}

impl Soak {
    /// What the router's tables must serve: all parts' classes.
    pub(super) fn plan(&self) -> Plan {
        Plan {
            receivers: RECEIVERS,
            flows: self.labels,
            ..Plan::one_to_one(self.labels)
        }
    }

    /// One part's sender and receivers.
    pub(super) fn part(&self, part: Part) -> Plan {
        let whole = self.plan();
        // Receiver r of R serves every R-th class from r on.
        let first = part.receivers()[0];
        let classes: Vec<_> = match part {
            Part::Group => vec![group()],
            _ => whole
                .classes
                .iter()
                .skip(first)
                .step_by(RECEIVERS)
                .copied()
                .collect(),
        };
        let plan = Plan {
            receivers: part.receivers().len(),
            flows: classes.len().max(16),
            classes,
            class: TrafficClass::new(0, CongestionAction::Drop),
            warm_up: Duration::ZERO,
            duration: self.duration,
            drain: Duration::from_secs(30),
            seed: self.seed + first as u64,
            ..whole
        };
        match part {
            Part::Waiting => Plan {
                rate: Rate::Max,
                class: TrafficClass::new(0, CongestionAction::Block),
                mix: vec![(64, 20), (1_024, 5), (16_384, 1)],
                ..plan
            },
            Part::Dropping => Plan {
                rate: Rate::Max,
                mix: vec![(64, 4), (512, 1)],
                ..plan
            },
            Part::Bulk => Plan {
                rate: Rate::PerSecond(10.0),
                carrier: Carrier::Bulk,
                mix: vec![(100_000, 3), (500_000, 1)],
                ..plan
            },
            Part::Datagrams => Plan {
                rate: Rate::PerSecond(200.0),
                carrier: Carrier::Datagram,
                payload: DATAGRAM,
                udp_payload_max: DATAGRAM_PACKET,
                ..plan
            },
            Part::Group => Plan {
                rate: Rate::PerSecond(1_000.0),
                fan_out: true,
                payload: 512,
                ..plan
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::Tuning;
    use std::collections::HashSet;

    #[test]
    fn every_part_has_receivers_and_labels_of_its_own() {
        let soak = Soak {
            duration: Duration::from_secs(1),
            tuning: Tuning::default(),
            loss: 0.01,
            labels: 100,
            seed: 1,
        };
        let (mut receivers, mut labels, mut seeds) =
            (HashSet::new(), HashSet::new(), HashSet::new());
        for part in Part::ALL {
            let plan = soak.part(part);
            assert_eq!(plan.check(), Ok(()), "{part:?}");
            assert!(part.receivers().iter().all(|r| receivers.insert(*r)));
            assert!(plan.classes.iter().all(|label| labels.insert(*label)));
            assert!(seeds.insert(plan.seed));
        }
        assert_eq!(receivers.len(), RECEIVERS);
        const { assert!(2 * DATAGRAM > DATAGRAM_PACKET) };
    }
}
