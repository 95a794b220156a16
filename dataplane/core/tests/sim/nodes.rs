//! What the shell of a router does, in miniature: bytes into the forwarder, slices out of it, tables in force; and
//! instances that read at their own pace.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use caplane_core::fib::*;
use caplane_core::forward::{Carrier, PeerKey};
use caplane_wire::TrafficClass;

use crate::plan::difference;
use crate::world::{End, Event, LaneKey, WINDOW, World};

/// The nodes.
impl World {
    pub(super) fn lane_in(
        &mut self,
        node: usize,
        slot: u32,
        connection: usize,
        lane: LaneKey,
        data: &[u8],
    ) {
        let direction = self.direction_to(connection, node);
        let entry = self.connections[connection]
            .lanes
            .entry((direction, lane))
            .or_default();
        entry.buffer.extend_from_slice(data);
        if !entry.blocked {
            self.forward(node, slot, connection, lane);
        }
        self.pump(node);
    }

    pub(super) fn direction_to(&self, connection: usize, node: usize) -> usize {
        match self.connections[connection].ends {
            [End::Slot(first, _), _] if first == node => 1,
            _ => 0,
        }
    }

    pub(super) fn forward(&mut self, node: usize, slot: u32, connection: usize, lane: LaneKey) {
        let direction = self.direction_to(connection, node);
        let entry = self.connections[connection]
            .lanes
            .entry((direction, lane))
            .or_default();
        let mut buffer = std::mem::take(&mut entry.buffer);
        let before = buffer.to_vec();
        let (now, key) = (self.now(), PeerKey { worker: 0, slot });
        let class = TrafficClass::from_bits(lane.0);
        let forwarder = &mut self.nodes[node].forwarder;
        let lane_hint = u32::from(lane.0) << 8 | lane.1;
        let progress = match forwarder.lane(now, key, lane_hint, class, &mut buffer) {
            Ok(progress) => progress,
            Err(fault) => panic!("a forwarded lane is sound: {fault:?}"),
        };
        let entry = self.connections[connection]
            .lanes
            .entry((direction, lane))
            .or_default();
        entry.buffer = buffer;
        entry.blocked = progress.blocked;
        let from = self.sender(connection, direction);
        let nodes = &self.nodes;
        let consumed = &before[..progress.bytes];
        self.check
            .visit(node, from, consumed, Carrier::Lane, |n| &nodes[n].pushed);
        self.connections[connection].left += u64::from(progress.messages);
        self.consumed(connection, direction, lane, progress.bytes);
    }

    /// Sends what a node has for peers whose lanes have room, and goes on with lanes it had stopped.
    pub(super) fn pump(&mut self, node: usize) {
        loop {
            while let Some(key) = self.nodes[node].forwarder.dirty() {
                self.drain(node, key);
            }
            let Some(lane) = self.nodes[node].forwarder.unblocked() else {
                return;
            };
            let Some(Some(connection)) = self.nodes[node].slots.get(lane.peer.slot as usize) else {
                continue;
            };
            let key = ((lane.lane_hint >> 8) as u8, lane.lane_hint & 0xff);
            self.forward(node, lane.peer.slot, *connection, key);
        }
    }

    pub(super) fn drain(&mut self, node: usize, key: PeerKey) {
        let Some(connection) = self.nodes[node].slots[key.slot as usize] else {
            return;
        };
        let direction = 1 - self.direction_to(connection, node);
        loop {
            let lanes = &self.connections[connection].lanes;
            let room = |class: TrafficClass, lane: u32| {
                let lane = lanes.get(&(direction, (class.bits(), lane)));
                lane.is_none_or(|lane| lane.under_way < WINDOW)
            };
            let forwarder = &mut self.nodes[node].forwarder;
            let Some(out) = forwarder.dequeue(key, 64 << 10, room) else {
                return;
            };
            self.check
                .trace(&[node as u64, u64::from(key.slot), out.data.len() as u64]);
            if out.carrier == Carrier::Lane {
                self.connections[connection].entered += u64::from(out.messages);
            }
            match out.carrier {
                Carrier::Lane => {
                    let lane = (out.class.bits(), out.lane_hint);
                    self.send_lane(connection, direction, lane, out.data);
                }
                Carrier::Datagram => self.send_datagram(connection, direction, out.data),
            }
        }
    }

    pub(super) fn compile(&mut self, slowest_us: u64) {
        self.generation += 1;
        for node in 0..self.nodes.len() {
            let entries = self.plan.entries(node);
            // What it is a difference to is known when it arrives: pushes keep their order.
            let delta = Delta {
                generation: Generation(self.generation),
                ..Delta::default()
            };
            let at = self.now_us + self.rng.below(slowest_us + 1);
            self.schedule(
                at,
                Event::Push {
                    node,
                    delta,
                    entries,
                },
            );
        }
    }

    pub(super) fn push(&mut self, at: usize, delta: &Delta, entries: BTreeMap<EntryKey, Entry>) {
        let node = &mut self.nodes[at];
        let held = node.forwarder.fib().generation();
        if delta.generation <= held {
            return;
        }
        let delta = difference(&node.held, &entries, held, delta.generation);
        let fib = match node.forwarder.fib().apply(&delta) {
            Ok(fib) => Arc::new(fib),
            Err(rejections) => panic!("{rejections:?}"),
        };
        node.held = entries;
        node.pushed.push(fib.clone());
        let unknown = node.forwarder.set_fib(fib);
        assert!(unknown.is_empty(), "{unknown:?}");
        self.pump(at);
    }
}

/// The instances.
impl World {
    pub(super) fn read_later(&mut self, at: usize, connection: usize, lane: LaneKey, data: Bytes) {
        let instance = &mut self.instances[at];
        instance.unread.push_back((connection, lane, data));
        if instance.reads == usize::MAX {
            self.read(at);
        } else if instance.unread.len() == 1 {
            self.schedule(self.now_us + 1_000, Event::Read { instance: at });
        }
    }

    pub(super) fn read(&mut self, at: usize) {
        let mut budget = self.instances[at].reads;
        if budget == 0 {
            return;
        }
        while budget > 0 {
            let instance = &mut self.instances[at];
            let Some((connection, lane, data)) = instance.unread.pop_front() else {
                return;
            };
            budget = budget.saturating_sub(data.len());
            let bytes = data.len();
            let partial = instance.partial.entry(lane).or_default();
            partial.extend_from_slice(&data);
            let (whole, messages) = self.check.read(at, partial);
            partial.drain(..whole);
            self.connections[connection].left += messages;
            self.consumed(connection, 0, lane, bytes);
        }
        self.schedule(self.now_us + 1_000, Event::Read { instance: at });
    }
}
