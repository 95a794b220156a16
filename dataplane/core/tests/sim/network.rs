//! Connections: lanes that are reliable, ordered and late, datagrams that are not, links that come and go. Knows no
//! table.

use std::collections::BTreeMap;

use bytes::Bytes;
use caplane_core::forward::{PeerKey, PeerRole};

use crate::plan::router;
use crate::world::{Connection, End, Event, Instance, LaneKey, Quality, WINDOW, World};

/// The network.
impl World {
    /// The node a direction of a connection comes from; `None` = an instance.
    pub(super) fn sender(&self, connection: usize, direction: usize) -> Option<usize> {
        match self.connections[connection].ends[direction] {
            End::Slot(node, _) => Some(node),
            End::Instance(_) => None,
        }
    }

    pub(super) fn delay(&mut self, connection: usize) -> u64 {
        let Quality {
            delay_us,
            jitter_us,
            loss_percent,
        } = self.connections[connection].quality;
        let mut at = self
            .now_us
            .max(self.connections[connection].stalled_until_us);
        at += delay_us + self.rng.below(jitter_us + 1);
        // A lost packet is sent again after a round trip and something.
        while self.rng.chance(loss_percent) {
            at += 3 * delay_us;
        }
        at
    }

    /// Sends bytes of a lane, in pieces of any size, in order.
    pub(super) fn send_lane(
        &mut self,
        connection: usize,
        direction: usize,
        lane: LaneKey,
        mut data: Bytes,
    ) {
        let entry = self.connections[connection]
            .lanes
            .entry((direction, lane))
            .or_default();
        entry.under_way += data.len();
        while !data.is_empty() {
            let cut = match self.rng.below(4) {
                0 => 1 + self.rng.below(data.len() as u64) as usize,
                _ => data.len(),
            };
            let piece = data.split_to(cut);
            let at = self.delay(connection);
            let entry = self.connections[connection]
                .lanes
                .entry((direction, lane))
                .or_default();
            entry.arrives_us = entry.arrives_us.max(at);
            let at = entry.arrives_us;
            self.schedule(
                at,
                Event::Arrive {
                    connection,
                    direction,
                    lane,
                    data: piece,
                },
            );
        }
    }

    pub(super) fn send_datagram(&mut self, connection: usize, direction: usize, data: Bytes) {
        let percent = self.connections[connection].quality.loss_percent;
        if self.rng.chance(percent) {
            return self.check.datagrams_lost += 1;
        }
        let copies = 1 + u64::from(self.rng.chance(percent));
        self.connections[connection].entered += copies;
        for _ in 0..copies {
            let at = self.delay(connection) + self.rng.below(2_000);
            let data = data.clone();
            self.schedule(
                at,
                Event::Datagram {
                    connection,
                    direction,
                    data,
                },
            );
        }
    }

    /// Received bytes were consumed: the sender's window opens.
    pub(super) fn consumed(
        &mut self,
        connection: usize,
        direction: usize,
        lane: LaneKey,
        bytes: usize,
    ) {
        let entry = self.connections[connection]
            .lanes
            .entry((direction, lane))
            .or_default();
        entry.under_way -= bytes;
        let at = self.now_us + self.connections[connection].quality.delay_us;
        self.schedule(at, Event::Resume { connection });
    }

    pub(super) fn writable(&mut self, connection: usize) {
        if !self.connections[connection].alive {
            return;
        }
        for end in self.connections[connection].ends {
            match end {
                End::Slot(node, slot) => {
                    self.nodes[node]
                        .forwarder
                        .mark_dirty(PeerKey { worker: 0, slot });
                    self.pump(node);
                }
                End::Instance(_) => {
                    let lanes = self.connections[connection].lanes.iter();
                    let waiting = lanes.filter(|(_, lane)| !lane.outbox.is_empty());
                    let waiting: Vec<_> = waiting.map(|((_, key), _)| *key).collect();
                    for lane in waiting {
                        self.flush_outbox(connection, lane);
                    }
                }
            }
        }
    }

    pub(super) fn flush_outbox(&mut self, connection: usize, lane: LaneKey) {
        loop {
            let entry = self.connections[connection]
                .lanes
                .entry((1, lane))
                .or_default();
            if entry.under_way >= WINDOW {
                return;
            }
            let Some(data) = entry.outbox.pop_front() else {
                return;
            };
            self.send_lane(connection, 1, lane, data);
        }
    }

    pub(super) fn connect(&mut self, ends: [End; 2]) -> usize {
        let quality = match ends[1] {
            End::Instance(_) => Quality::LAN,
            End::Slot(..) => self.quality,
        };
        let stalled_until_us = 0;
        let lanes = BTreeMap::new();
        self.connections.push(Connection {
            ends,
            quality,
            alive: true,
            lanes,
            stalled_until_us,
            entered: 0,
            left: 0,
        });
        self.connections.len() - 1
    }

    pub(super) fn free_slot(&mut self, node: usize) -> u32 {
        let slots = &mut self.nodes[node].slots;
        let at = slots.iter().position(Option::is_none).unwrap_or_else(|| {
            slots.push(None);
            slots.len() - 1
        });
        at as u32
    }

    pub(super) fn link(&self, a: usize, b: usize) -> Option<usize> {
        self.connections.iter().position(|connection| {
            matches!(connection.ends, [End::Slot(from, _), End::Slot(to, _)]
                if connection.alive && ((from, to) == (a, b) || (from, to) == (b, a)))
        })
    }

    pub(super) fn mend(&mut self, a: usize, b: usize) {
        if self.link(a, b).is_some() {
            return;
        }
        let mut ends = Vec::new();
        for (node, far) in [(a, b), (b, a)] {
            let slot = self.free_slot(node);
            ends.push(End::Slot(node, slot));
            let role = PeerRole::Neighbour {
                router: router(far),
            };
            let key = PeerKey { worker: 0, slot };
            self.nodes[node]
                .forwarder
                .peer_up(key, role)
                .expect("links of the plan are in the table");
            self.nodes[node].slots[slot as usize] = Some(usize::MAX);
        }
        let at = self.connect([ends[0], ends[1]]);
        for end in ends {
            if let End::Slot(node, slot) = end {
                self.nodes[node].slots[slot as usize] = Some(at);
            }
        }
    }

    pub(super) fn cut(&mut self, a: usize, b: usize) {
        if let Some(at) = self.link(a, b) {
            self.disconnect(at);
        }
    }

    /// Ends a connection: what is under way is lost, both ends notice at once.
    pub(super) fn disconnect(&mut self, at: usize) {
        self.connections[at].alive = false;
        let lanes = std::mem::take(&mut self.connections[at].lanes);
        let ends = self.connections[at].ends;
        for ((direction, _), lane) in &lanes {
            if let End::Slot(node, slot) = ends[1 - direction]
                && !lane.buffer.is_empty()
                && !lane.blocked
            {
                self.nodes[node]
                    .forwarder
                    .lane_cut(PeerKey { worker: 0, slot });
                self.connections[at].left += 1;
            }
        }
        for end in ends {
            match end {
                End::Slot(node, slot) => {
                    let now = self.now();
                    self.nodes[node]
                        .forwarder
                        .peer_down(now, PeerKey { worker: 0, slot });
                    self.nodes[node].slots[slot as usize] = None;
                    self.pump(node);
                }
                End::Instance(at) => {
                    let instance = &mut self.instances[at];
                    instance.connection = None;
                    instance.unread.clear();
                    instance.partial.clear();
                }
            }
        }
    }

    pub(super) fn attach(&mut self, at: usize) {
        if self.instances[at].connection.is_some() {
            return;
        }
        let Instance {
            agent,
            instance,
            node,
            ..
        } = self.instances[at];
        let agent = &self.plan.agents[agent];
        let role = PeerRole::Instance {
            uri: agent.uri(),
            label: agent.label(instance),
        };
        let slot = self.free_slot(node);
        let key = PeerKey { worker: 0, slot };
        self.nodes[node]
            .forwarder
            .peer_up(key, role)
            .expect("agents of the plan are in the table");
        let connection = self.connect([End::Slot(node, slot), End::Instance(at)]);
        self.nodes[node].slots[slot as usize] = Some(connection);
        self.instances[at].connection = Some(connection);
        let Instance {
            agent,
            instance,
            node,
            ..
        } = self.instances[at];
        self.plan.attached.insert((agent, instance), node);
    }

    pub(super) fn kill(&mut self, at: usize) {
        if let Some(connection) = self.instances[at].connection {
            let Instance {
                agent, instance, ..
            } = self.instances[at];
            self.plan.attached.remove(&(agent, instance));
            self.disconnect(connection);
        }
    }
}
