//! What instances send: flows of numbered messages to classes, agents and groups, on lanes and as datagrams.

use caplane_core::forward::ForwarderConfig;
use caplane_wire::{HeaderRepr, Kind, Label, TrafficClass};

use crate::check::payload_byte;
use crate::plan::{Agent, Plan};
use crate::world::{Action, World};

/// Slabs of 64 KiB and queues of 512 KiB, so that a short run fills them.
pub fn config() -> ForwarderConfig {
    ForwarderConfig {
        queue_bytes_max: 512 << 10,
        queue_total_bytes_max: 4 << 20,
        backlog_bytes: 192 << 10,
        slab_bytes: 64 << 10,
        ..ForwarderConfig::default()
    }
}

pub fn label(text: &str) -> Label {
    text.parse().unwrap()
}

/// An agent of tenant 1, or the one given.
pub fn agent(number: u32, tenant: u32, classes: &[(&str, u32)]) -> Agent {
    let classes = classes
        .iter()
        .map(|(text, weight)| (label(text), *weight))
        .collect();
    Agent {
        number,
        tenant,
        classes,
        groups: vec![],
    }
}

pub fn plan(
    nodes: usize,
    links: &[(usize, usize)],
    agents: Vec<Agent>,
    at: &[(usize, u8, usize)],
) -> Plan {
    let attached = at
        .iter()
        .map(|(agent, instance, node)| ((*agent, *instance), *node));
    Plan {
        nodes,
        links: links.iter().copied().collect(),
        agents,
        attached: attached.collect(),
    }
}

/// A flow: who asks whom, how.
#[derive(Clone)]
pub struct Flow {
    pub instance: usize,
    pub to: Label,
    pub tenant: u32,
    pub id: u64,
    pub class: TrafficClass,
    pub lane: u32,
    pub bytes: usize,
    pub datagrams: bool,
}

pub const DROP: TrafficClass = TrafficClass::from_index(4);
pub const BLOCK: TrafficClass = TrafficClass::from_index(5);

impl Flow {
    pub fn new(instance: usize, to: &str, id: u64) -> Flow {
        let (lane, bytes) = (0, 100);
        Flow {
            instance,
            to: label(to),
            tenant: 1,
            id,
            class: DROP,
            lane,
            bytes,
            datagrams: false,
        }
    }

    fn message(&self, world: &World, sequence: u32) -> Vec<u8> {
        let sender = &world.instances[self.instance];
        let source = world.plan.agents[sender.agent].label(sender.instance);
        let header = HeaderRepr {
            kind: Kind::Data,
            class: self.class,
            source_label: source,
            tenant: self.tenant,
            label: self.to,
            requested_label: self.to,
            flow: self.id,
            sequence,
            payload_len: self.bytes.saturating_sub(48) as u32,
            ..HeaderRepr::default()
        };
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend((0..header.payload_len as usize).map(|at| payload_byte(sequence, at)));
        bytes
    }

    /// Sends `count` messages spread over `over_us`, beginning `from_us` from now.
    pub fn send(
        &self,
        world: &mut World,
        sequences: std::ops::Range<u32>,
        from_us: u64,
        over_us: u64,
    ) {
        let count = u64::from(sequences.end - sequences.start).max(1);
        for (n, sequence) in sequences.enumerate() {
            let message = self.message(world, sequence);
            let at = from_us + over_us * n as u64 / count;
            let action = match self.datagrams {
                true => Action::SendDatagram {
                    instance: self.instance,
                    message,
                },
                false => Action::Send {
                    instance: self.instance,
                    lane: self.lane,
                    class: self.class,
                    message,
                },
            };
            world.at(at, action);
        }
    }
}
