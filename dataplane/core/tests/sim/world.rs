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
use caplane_core::forward::{Carrier, ForwarderConfig, PeerKey};
use caplane_core::{Fib, Forwarder, Now};
use caplane_wire::TrafficClass;

use crate::check::Check;
use crate::plan::{Plan, difference, router};
use crate::rng::Rng;

/// Bytes a lane may have under way (QUIC's stream window).
pub const WINDOW: usize = 256 << 10;

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

pub type LaneKey = (u8, u32);

/// One direction of a connection.
#[derive(Default)]
pub struct Lane {
    pub arrives_us: u64,
    pub under_way: usize,
    /// Received and not yet forwarded (a node's side).
    pub buffer: BytesMut,
    pub blocked: bool,
    /// Written and not yet allowed to go (an instance's side).
    pub outbox: VecDeque<Bytes>,
}

pub struct Connection {
    pub ends: [End; 2],
    pub quality: Quality,
    /// What arrives after the connection ended belongs to nobody.
    pub alive: bool,
    /// By direction (0 = from `ends[0]`) and lane.
    pub lanes: BTreeMap<(usize, LaneKey), Lane>,
    /// Nothing moves before this time (a partition).
    pub stalled_until_us: u64,
    /// Messages that entered, and that left at the far end, lost datagrams included.
    pub entered: u64,
    pub left: u64,
}

pub struct Node {
    pub forwarder: Forwarder,
    pub pushed: Vec<Arc<Fib>>,
    pub held: BTreeMap<EntryKey, Entry>,
    /// Slot -> connection.
    pub slots: Vec<Option<usize>>,
}

pub struct Instance {
    pub agent: usize,
    pub instance: u8,
    pub node: usize,
    pub connection: Option<usize>,
    /// Bytes a millisecond it reads; 0 = none, `usize::MAX` = as they come.
    pub reads: usize,
    pub unread: VecDeque<(usize, LaneKey, Bytes)>,
    pub partial: BTreeMap<LaneKey, Vec<u8>>,
}

pub enum Event {
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
    pub connections: Vec<Connection>,
    pub events: BinaryHeap<Reverse<(u64, u64)>>,
    pub due: BTreeMap<u64, Event>,
    pub next_event: u64,
    pub generation: u64,
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

    pub(super) fn schedule(&mut self, at_us: u64, event: Event) {
        self.events.push(Reverse((at_us, self.next_event)));
        self.due.insert(self.next_event, event);
        self.next_event += 1;
    }

    pub(super) fn now(&self) -> Now {
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
