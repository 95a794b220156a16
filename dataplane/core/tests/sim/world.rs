//! Nodes running the very forwarder, the network between them, and time. Lanes are reliable and ordered, as QUIC
//! streams are: loss and jitter only delay them, in pieces of any size; datagrams really are lost, duplicated and
//! reordered. A link that is cut loses what is under way. Knows what is sent, not what should become of it: that is
//! `check`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use caplane_core::fib::*;
use caplane_core::forward::{Carrier, ForwarderConfig, PeerKey, PeerRole};
use caplane_core::{Fib, Forwarder, Now};
use caplane_wire::TrafficClass;

use crate::check::Check;
use crate::plan::{Plan, difference, router};
use crate::rng::Rng;

/// Bytes a lane may have under way (QUIC's stream window).
const WINDOW: usize = 256 << 10;

/// One end of a connection: a slot of a node, or an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    Slot(usize, u32),
    Instance(usize),
}

/// Conditions of a connection.
#[derive(Clone, Copy)]
pub struct Quality {
    pub delay_us: u64,
    pub jitter_us: u64,
    pub loss_percent: u64,
}

impl Quality {
    pub const LAN: Quality = Quality {
        delay_us: 200,
        jitter_us: 100,
        loss_percent: 0,
    };
    pub const BAD: Quality = Quality {
        delay_us: 5_000,
        jitter_us: 4_000,
        loss_percent: 5,
    };
}

type LaneKey = (u8, u32);

/// One direction of a connection.
#[derive(Default)]
struct Lane {
    arrives_us: u64,
    under_way: usize,
    /// Received and not yet forwarded (a node's side).
    buffer: BytesMut,
    blocked: bool,
    /// Written and not yet allowed to go (an instance's side).
    outbox: VecDeque<Bytes>,
}

struct Connection {
    ends: [End; 2],
    quality: Quality,
    /// What arrives after the connection ended belongs to nobody.
    alive: bool,
    /// By direction (0 = from `ends[0]`) and lane.
    lanes: BTreeMap<(usize, LaneKey), Lane>,
    /// Nothing moves before this time (a partition).
    stalled_until_us: u64,
    /// Messages that entered, and that left at the far end, lost datagrams included.
    entered: u64,
    left: u64,
}

pub struct Node {
    pub forwarder: Forwarder,
    pub pushed: Vec<Arc<Fib>>,
    held: BTreeMap<EntryKey, Entry>,
    /// Slot -> connection.
    slots: Vec<Option<usize>>,
}

pub struct Instance {
    pub agent: usize,
    pub instance: u8,
    pub node: usize,
    pub connection: Option<usize>,
    /// Bytes a millisecond it reads; 0 = none, `usize::MAX` = as they come.
    pub reads: usize,
    unread: VecDeque<(usize, LaneKey, Bytes)>,
    partial: BTreeMap<LaneKey, Vec<u8>>,
}

enum Event {
    /// Bytes of a lane arrive at the far end.
    Arrive {
        connection: usize,
        direction: usize,
        lane: LaneKey,
        data: Bytes,
    },
    Datagram {
        connection: usize,
        direction: usize,
        data: Bytes,
    },
    Push {
        node: usize,
        delta: Delta,
        entries: BTreeMap<EntryKey, Entry>,
    },
    Read {
        instance: usize,
    },
    Resume {
        connection: usize,
    },
    Do(Action),
}

/// What a scenario makes happen.
pub enum Action {
    Send {
        instance: usize,
        lane: u32,
        class: TrafficClass,
        message: Vec<u8>,
    },
    SendDatagram {
        instance: usize,
        message: Vec<u8>,
    },
    Cut(usize, usize),
    Mend(usize, usize),
    Kill(usize),
    Attach(usize),
    Reads(usize, usize),
    Stall(usize, usize, u64),
    /// The controller compiles what is attached and linked now, and pushes it, each node at its own pace.
    Compile {
        slowest_us: u64,
    },
}

pub struct World {
    pub plan: Plan,
    pub nodes: Vec<Node>,
    pub instances: Vec<Instance>,
    pub check: Check,
    pub now_us: u64,
    pub rng: Rng,
    pub quality: Quality,
    connections: Vec<Connection>,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    due: BTreeMap<u64, Event>,
    next_event: u64,
    generation: u64,
}

impl World {
    /// All links of the plan up, every instance of `plan.attached` attached, generation 1 everywhere.
    pub fn new(seed: u64, plan: Plan, config: &ForwarderConfig, quality: Quality) -> World {
        let mut world = World {
            nodes: Vec::new(),
            instances: Vec::new(),
            check: Check::default(),
            now_us: 1_000,
            rng: Rng::new(seed),
            quality,
            connections: Vec::new(),
            events: BinaryHeap::new(),
            due: BTreeMap::new(),
            next_event: 0,
            generation: 1,
            plan,
        };
        for node in 0..world.plan.nodes {
            let held = world.plan.entries(node);
            let delta = difference(&BTreeMap::new(), &held, Generation(0), Generation(1));
            let fib = match Fib::empty(0, router(node)).apply(&delta) {
                Ok(fib) => Arc::new(fib),
                Err(rejections) => panic!("{rejections:?}"),
            };
            let forwarder = Forwarder::new(config.clone(), fib.clone());
            world.nodes.push(Node {
                forwarder,
                pushed: vec![fib],
                held,
                slots: Vec::new(),
            });
        }
        for (a, b) in world.plan.links.clone() {
            world.mend(a, b);
        }
        for ((agent, instance), node) in world.plan.attached.clone() {
            let at = world.instances.len();
            world.instances.push(Instance {
                agent,
                instance,
                node,
                connection: None,
                reads: usize::MAX,
                unread: VecDeque::new(),
                partial: BTreeMap::new(),
            });
            world.attach(at);
        }
        world
    }

    pub fn at(&mut self, delay_us: u64, action: Action) {
        self.schedule(self.now_us + delay_us, Event::Do(action));
    }

    fn schedule(&mut self, at_us: u64, event: Event) {
        self.events.push(Reverse((at_us, self.next_event)));
        self.due.insert(self.next_event, event);
        self.next_event += 1;
    }

    fn now(&self) -> Now {
        Now {
            mono: Duration::from_micros(self.now_us),
            unix_us: self.now_us,
        }
    }

    /// Runs until nothing is due any more.
    pub fn run(&mut self) {
        while let Some(Reverse((at_us, number))) = self.events.pop() {
            self.now_us = self.now_us.max(at_us);
            if let Some(event) = self.due.remove(&number) {
                self.check.trace(&[self.now_us, number]);
                self.step(event);
            }
            for node in &self.nodes {
                self.check.conserved(node.forwarder.counters());
            }
        }
    }

    /// At the end: nothing is left anywhere, and what entered a connection left it, unless it was cut or its
    /// receiver does not read.
    pub fn settled(&self) {
        for (at, connection) in self.connections.iter().enumerate() {
            let unread = match connection.ends[1] {
                End::Instance(at) => self.instances[at].reads != usize::MAX,
                End::Slot(..) => false,
            };
            if connection.alive && !unread {
                assert_eq!(
                    connection.entered, connection.left,
                    "connection {at}: {:?}",
                    connection.ends
                );
            }
        }
        for node in &self.nodes {
            assert_eq!(node.forwarder.counters().bulk_active, 0);
        }
    }

    /// Sum of a counter over all nodes.
    pub fn sum(&self, of: impl Fn(&caplane_core::Counters) -> u64) -> u64 {
        self.nodes
            .iter()
            .map(|node| of(node.forwarder.counters()))
            .sum()
    }

    /// Messages that connections which ended took with them.
    pub fn lost(&self) -> u64 {
        let ended = self
            .connections
            .iter()
            .filter(|connection| !connection.alive);
        ended
            .map(|connection| connection.entered - connection.left)
            .sum()
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Arrive {
                connection,
                direction,
                lane,
                data,
            } => {
                if self.connections[connection].alive {
                    match self.connections[connection].ends[1 - direction] {
                        End::Slot(node, slot) => self.lane_in(node, slot, connection, lane, &data),
                        End::Instance(at) => self.read_later(at, connection, lane, data),
                    }
                }
            }
            Event::Datagram {
                connection,
                direction,
                data,
            } => {
                if !self.connections[connection].alive {
                    return;
                }
                self.connections[connection].left += 1;
                match self.connections[connection].ends[1 - direction] {
                    End::Slot(node, slot) => {
                        let from = self.sender(connection, direction);
                        let nodes = &self.nodes;
                        self.check
                            .visit(node, from, &data, Carrier::Datagram, |n| &nodes[n].pushed);
                        let (now, key) = (self.now(), PeerKey { worker: 0, slot });
                        self.nodes[node]
                            .forwarder
                            .datagram(now, key, BytesMut::from(&data[..]));
                        self.pump(node);
                    }
                    End::Instance(at) => self.check.delivered(at, &data, Carrier::Datagram),
                }
            }
            Event::Push {
                node,
                delta,
                entries,
            } => self.push(node, &delta, entries),
            Event::Read { instance } => self.read(instance),
            Event::Resume { connection } => self.writable(connection),
            Event::Do(action) => self.act(action),
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send {
                instance,
                lane,
                class,
                message,
            } => {
                let Some(connection) = self.instances[instance].connection else {
                    return;
                };
                self.check.sent(&message);
                self.connections[connection].entered += 1;
                let lane = (class.bits(), lane);
                let outbox = self.connections[connection]
                    .lanes
                    .entry((1, lane))
                    .or_default();
                outbox.outbox.push_back(message.into());
                self.flush_outbox(connection, lane);
            }
            Action::SendDatagram { instance, message } => {
                let Some(connection) = self.instances[instance].connection else {
                    return;
                };
                self.check.sent(&message);
                self.send_datagram(connection, 1, message.into());
            }
            Action::Cut(a, b) => self.cut(a, b),
            Action::Mend(a, b) => self.mend(a, b),
            Action::Kill(instance) => self.kill(instance),
            Action::Attach(instance) => self.attach(instance),
            Action::Reads(instance, bytes) => {
                self.instances[instance].reads = bytes;
                self.read(instance);
            }
            Action::Stall(a, b, for_us) => {
                if let Some(at) = self.link(a, b) {
                    self.connections[at].stalled_until_us = self.now_us + for_us;
                }
            }
            Action::Compile { slowest_us } => self.compile(slowest_us),
        }
    }
}

/// The network.
impl World {
    /// The node a direction of a connection comes from; `None` = an instance.
    fn sender(&self, connection: usize, direction: usize) -> Option<usize> {
        match self.connections[connection].ends[direction] {
            End::Slot(node, _) => Some(node),
            End::Instance(_) => None,
        }
    }

    fn delay(&mut self, connection: usize) -> u64 {
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
    fn send_lane(&mut self, connection: usize, direction: usize, lane: LaneKey, mut data: Bytes) {
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

    fn send_datagram(&mut self, connection: usize, direction: usize, data: Bytes) {
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
    fn consumed(&mut self, connection: usize, direction: usize, lane: LaneKey, bytes: usize) {
        let entry = self.connections[connection]
            .lanes
            .entry((direction, lane))
            .or_default();
        entry.under_way -= bytes;
        let at = self.now_us + self.connections[connection].quality.delay_us;
        self.schedule(at, Event::Resume { connection });
    }

    fn writable(&mut self, connection: usize) {
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

    fn flush_outbox(&mut self, connection: usize, lane: LaneKey) {
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

    fn connect(&mut self, ends: [End; 2]) -> usize {
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

    fn free_slot(&mut self, node: usize) -> u32 {
        let slots = &mut self.nodes[node].slots;
        let at = slots.iter().position(Option::is_none).unwrap_or_else(|| {
            slots.push(None);
            slots.len() - 1
        });
        at as u32
    }

    fn link(&self, a: usize, b: usize) -> Option<usize> {
        self.connections.iter().position(|connection| {
            matches!(connection.ends, [End::Slot(from, _), End::Slot(to, _)]
                if connection.alive && ((from, to) == (a, b) || (from, to) == (b, a)))
        })
    }

    fn mend(&mut self, a: usize, b: usize) {
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

    fn cut(&mut self, a: usize, b: usize) {
        if let Some(at) = self.link(a, b) {
            self.disconnect(at);
        }
    }

    /// Ends a connection: what is under way is lost, both ends notice at once.
    fn disconnect(&mut self, at: usize) {
        self.connections[at].alive = false;
        let lanes = std::mem::take(&mut self.connections[at].lanes);
        let ends = self.connections[at].ends;
        for ((direction, _), lane) in &lanes {
            if let End::Slot(node, slot) = ends[1 - direction] {
                if !lane.buffer.is_empty() && !lane.blocked {
                    self.nodes[node]
                        .forwarder
                        .lane_cut(PeerKey { worker: 0, slot });
                    self.connections[at].left += 1;
                }
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

    fn attach(&mut self, at: usize) {
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

    fn kill(&mut self, at: usize) {
        if let Some(connection) = self.instances[at].connection {
            let Instance {
                agent, instance, ..
            } = self.instances[at];
            self.plan.attached.remove(&(agent, instance));
            self.disconnect(connection);
        }
    }
}

/// The nodes.
impl World {
    fn lane_in(&mut self, node: usize, slot: u32, connection: usize, lane: LaneKey, data: &[u8]) {
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

    fn direction_to(&self, connection: usize, node: usize) -> usize {
        match self.connections[connection].ends {
            [End::Slot(first, _), _] if first == node => 1,
            _ => 0,
        }
    }

    fn forward(&mut self, node: usize, slot: u32, connection: usize, lane: LaneKey) {
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
    fn pump(&mut self, node: usize) {
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

    fn drain(&mut self, node: usize, key: PeerKey) {
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

    fn compile(&mut self, slowest_us: u64) {
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

    fn push(&mut self, at: usize, delta: &Delta, entries: BTreeMap<EntryKey, Entry>) {
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
    fn read_later(&mut self, at: usize, connection: usize, lane: LaneKey, data: Bytes) {
        let instance = &mut self.instances[at];
        instance.unread.push_back((connection, lane, data));
        if instance.reads == usize::MAX {
            self.read(at);
        } else if instance.unread.len() == 1 {
            self.schedule(self.now_us + 1_000, Event::Read { instance: at });
        }
    }

    fn read(&mut self, at: usize) {
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
