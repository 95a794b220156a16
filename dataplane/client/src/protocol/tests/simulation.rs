//! A small seeded world: instances, one router that loses, doubles, delays and reorders, and checkers. Same seed, same
//! trace. `CAPLANE_SIM_SEED=n cargo test -p caplane-client simulation` replays one seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use caplane_wire::{Header, HeaderRepr, Kind, Label, LabelKind, Notice, NoticeCode};

use super::*;
use crate::address::Destination;
use crate::options::{Carrier, FlowOptions};

#[derive(Clone, Copy)]
struct Weather {
    loss: f64,
    duplication: f64,
    jitter: Duration,
}

const CALM: Weather = Weather {
    loss: 0.0,
    duplication: 0.0,
    jitter: Duration::ZERO,
};
const ROUGH: Weather = Weather {
    loss: 0.05,
    duplication: 0.05,
    jitter: Duration::from_millis(30),
};

struct Instance {
    address: Address,
    epoch: u32,
    attached: bool,
    alive: bool,
    messenger: Messenger<u64>,
    /// (source, flow, sequence) -> times delivered.
    delivered: BTreeMap<(Address, u64, u32), u32>,
    /// In order of delivery: flow, number in the payload, whether it was bulk.
    order: Vec<(u64, u64, bool)>,
    outcomes: BTreeMap<u64, Result<Settled, crate::SendError>>,
    events: Vec<ClientEvent>,
    charged: usize,
    released: usize,
    room: usize,
    held: Vec<(CarriedBy, BytesMut)>,
}

struct World {
    seed: u64,
    now: Duration,
    random: Jitter,
    weather: Weather,
    instances: Vec<Instance>,
    members: Vec<usize>,
    wires: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    parcels: BTreeMap<u64, (CarriedBy, BytesMut)>,
    count: u64,
    trace: DefaultHasher,
}

const LATENCY: Duration = Duration::from_millis(5);

fn class() -> Destination {
    Destination::new(Label::class(7, 12, 3).unwrap(), 9)
}

impl World {
    fn new(seed: u64, instances: usize, weather: Weather) -> Self {
        let instance = |i: usize| {
            let limits = Limits {
                lanes_per_class: 2,
                dedup_flows_max: 64,
                receipts_max: 1024,
                resend: ResendBounds::default(),
            };
            let address = Address {
                domain: 5,
                label: Label::agent(100 + i as u32, 1).unwrap(),
            };
            let mut messenger = Messenger::new(limits, Jitter::seeded(seed ^ i as u64));
            messenger.attached(Me { address, epoch: 1 });
            Instance {
                address,
                epoch: 1,
                attached: true,
                alive: true,
                messenger,
                delivered: BTreeMap::new(),
                order: Vec::new(),
                outcomes: BTreeMap::new(),
                events: Vec::new(),
                charged: 0,
                released: 0,
                room: usize::MAX,
                held: Vec::new(),
            }
        };
        Self {
            seed,
            now: Duration::ZERO,
            random: Jitter::seeded(seed),
            weather,
            instances: (0..instances).map(instance).collect(),
            members: (1..instances).collect(),
            wires: BinaryHeap::new(),
            parcels: BTreeMap::new(),
            count: 0,
            trace: DefaultHasher::new(),
        }
    }

    fn clock(&self) -> Now {
        Now {
            mono: self.now,
            unix_us: 1_000_000 + self.now.as_micros() as u64,
        }
    }

    fn submit(&mut self, from: usize, flow: u64, mode: Mode, ticket: u64, payload: Vec<u8>) {
        let now = self.clock();
        let instance = &mut self.instances[from];
        let charge = payload.len() + 256;
        instance.charged += charge;
        let submission = Submission {
            payload: payload.into(),
            mode,
            ticket: (mode != Mode::Forget).then_some(ticket),
            charge,
        };
        instance.messenger.submit(now, flow, submission);
    }

    /// Everything that an instance has to say goes to the router, and what it says of it comes back.
    fn pump(&mut self, from: usize) {
        let now = self.clock();
        let messenger = &mut self.instances[from].messenger;
        let lanes = (0..messenger.lane_count()).map(Queue::Lane);
        let queues: Vec<Queue> = lanes.chain([Queue::Bulk, Queue::Datagram]).collect();
        for queue in queues {
            while let Some(out) = self.instances[from].messenger.next(now, queue) {
                let mut bytes = BytesMut::from(out.head.as_bytes());
                bytes.extend_from_slice(&out.payload);
                let carried_by = match queue {
                    Queue::Lane(_) => CarriedBy::Lane,
                    Queue::Bulk => CarriedBy::Bulk,
                    Queue::Datagram => CarriedBy::Datagram,
                };
                if queue == Queue::Bulk {
                    self.instances[from].messenger.bulk_written(now, out.tag);
                }
                self.route(from, carried_by, bytes);
            }
        }
        let instance = &mut self.instances[from];
        instance.released += instance.messenger.take_released();
        for effect in instance.messenger.drain_effects() {
            match effect {
                Effect::Settled { ticket, outcome } => {
                    let twice = instance.outcomes.insert(ticket, outcome);
                    assert!(twice.is_none(), "seed {}: settled twice", self.seed);
                }
                Effect::Event(event) => instance.events.push(event),
            }
        }
    }

    fn route(&mut self, from: usize, carried_by: CarriedBy, bytes: BytesMut) {
        bytes.hash(&mut self.trace);
        let header = Header::new_checked(&bytes[..]).unwrap();
        let source = self.instances[from].address;
        assert_eq!(
            (header.source_label(), header.source_domain()),
            (source.label, source.domain),
            "seed {}: sent as somebody else",
            self.seed
        );
        let asked = header.requested_label();
        let (to, code) = match asked.kind() {
            LabelKind::Class => {
                let alive: Vec<usize> = self
                    .members
                    .iter()
                    .copied()
                    .filter(|&member| self.instances[member].alive)
                    .collect();
                let to = match alive.len() {
                    0 => None,
                    n => Some(alive[(header.flow() % n as u64) as usize]),
                };
                (to, NoticeCode::NoRoute)
            }
            _ => {
                let to = self
                    .instances
                    .iter()
                    .position(|i| i.address.label == asked && i.alive && i.attached);
                (to, NoticeCode::Unreachable)
            }
        };
        match to {
            Some(to) => self.carry(to, carried_by, bytes),
            None if header.kind() == Kind::Data => {
                let notice = Notice {
                    code,
                    router: Label::router(3).unwrap(),
                    offending: *header.as_bytes(),
                };
                let bytes = BytesMut::from(&notice.to_message(5)[..]);
                self.carry(from, CarriedBy::Lane, bytes);
            }
            None => {}
        }
    }

    fn carry(&mut self, to: usize, carried_by: CarriedBy, bytes: BytesMut) {
        if self.random.fraction() < self.weather.loss {
            return;
        }
        let copies = 1 + u32::from(self.random.fraction() < self.weather.duplication);
        for _ in 0..copies {
            let delay = LATENCY + self.weather.jitter.mul_f64(self.random.fraction());
            self.count += 1;
            self.wires.push(Reverse((self.now + delay, self.count, to)));
            self.parcels.insert(self.count, (carried_by, bytes.clone()));
        }
    }

    fn arrive(&mut self, to: usize, carried_by: CarriedBy, mut bytes: BytesMut) {
        let now = self.clock();
        let instance = &mut self.instances[to];
        if !instance.alive || !instance.attached {
            return;
        }
        let total = bytes.len();
        let room = instance.room > 0;
        match instance
            .messenger
            .receive(now, carried_by, &mut bytes, total, room)
        {
            Disposition::NoRoom => {
                assert_eq!(bytes.len(), total);
                instance.held.push((carried_by, bytes));
            }
            Disposition::Consumed => assert!(bytes.is_empty()),
            Disposition::Deliver(received) => {
                assert!(bytes.is_empty() && room);
                instance.room -= 1;
                let key = (received.source, received.flow, received.sequence);
                *instance.delivered.entry(key).or_default() += 1;
                let mark = received
                    .payload
                    .get(..8)
                    .map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()));
                let bulk = received.carried_by == CarriedBy::Bulk;
                instance.order.push((received.flow, mark, bulk));
                if received.payload.ends_with(b"?") {
                    let mut answer = received.payload.to_vec();
                    answer.push(b'!');
                    let charge = answer.len() + 256;
                    instance.charged += charge;
                    let submission = Submission {
                        payload: answer.into(),
                        mode: Mode::Receipt,
                        ticket: None,
                        charge,
                    };
                    instance.messenger.submit_reply(
                        now,
                        received.reply_key(),
                        received.class,
                        Duration::from_secs(30),
                        submission,
                    );
                }
            }
        }
    }

    /// Runs until nothing happens any more, or `until`.
    fn run(&mut self, until: Duration) {
        for i in 0..self.instances.len() {
            self.pump(i);
        }
        loop {
            let wire = self.wires.peek().map(|Reverse((at, ..))| *at);
            let timers = self.instances.iter().filter(|i| i.alive);
            let timer = timers.filter_map(|i| i.messenger.next_timer()).min();
            let Some(next) = wire.into_iter().chain(timer).min() else {
                return;
            };
            if next > until {
                self.now = until;
                return;
            }
            self.now = self.now.max(next);
            while let Some(&Reverse((at, id, to))) = self.wires.peek() {
                if at > self.now {
                    break;
                }
                self.wires.pop();
                let (carried_by, bytes) = self.parcels.remove(&id).unwrap();
                self.arrive(to, carried_by, bytes);
            }
            let now = self.clock();
            for i in 0..self.instances.len() {
                if self.instances[i].alive {
                    self.instances[i].messenger.tick(now);
                    self.pump(i);
                }
            }
        }
    }

    /// Whatever the weather: nothing is charged for ever, and every wait ended.
    fn check_settled(&self) {
        for instance in self.instances.iter().filter(|i| i.alive) {
            let seed = self.seed;
            assert_eq!(instance.charged, instance.released, "seed {seed}: budget");
            assert!(
                !instance.messenger.is_busy(),
                "seed {seed}: something waits"
            );
        }
    }

    fn delivered(&self) -> impl Iterator<Item = (&(Address, u64, u32), &u32)> {
        self.instances.iter().flat_map(|i| &i.delivered)
    }
}

fn payload(number: u64, length: usize, question: bool) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(length.max(9), b'.');
    if question {
        *payload.last_mut().unwrap() = b'?';
    }
    payload
}

fn seeds() -> Vec<u64> {
    match std::env::var("CAPLANE_SIM_SEED") {
        Ok(seed) => vec![seed.parse().expect("CAPLANE_SIM_SEED is a number")],
        Err(_) => (1..=20).collect(),
    }
}

/// 8 flows of mixed sizes and carriers from one instance to two members of a class, with requests among them.
fn traffic(world: &mut World, messages: u64) {
    for flow in 1..=8_u64 {
        let options = FlowOptions::default()
            .priority((flow % 4) as u8)
            .deadline(flow == 3)
            .carrier(match flow {
                8 => Carrier::Datagram,
                _ => Carrier::Stream,
            });
        world.instances[0]
            .messenger
            .open_flow(flow << 32 | flow, class(), options);
    }
    for number in 0..messages {
        let flow = number % 8 + 1;
        let flow = flow << 32 | flow;
        let length = match world.random.next() % 20 {
            0 if flow as u32 != 8 => 100_000,
            n => n as usize * 50,
        };
        let (mode, question) = match number % 5 {
            0 => (Mode::Request, true),
            1 => (Mode::Forget, false),
            _ => (Mode::Receipt, false),
        };
        world.submit(0, flow, mode, number, payload(number, length, question));
        if number % 50 == 0 {
            let now = world.now;
            world.run(now + Duration::from_millis(7));
        }
    }
}

#[test]
fn in_rough_weather_everything_waited_for_arrives_exactly_once() {
    for seed in seeds() {
        let mut world = World::new(seed, 3, ROUGH);
        traffic(&mut world, 3_000);
        world.run(Duration::from_secs(600));
        world.check_settled();
        let asker = &world.instances[0];
        for (ticket, outcome) in &asker.outcomes {
            assert!(outcome.is_ok(), "seed {seed}: {ticket}: {outcome:?}");
        }
        assert_eq!(asker.outcomes.len(), 3_000 * 4 / 5, "seed {seed}");
        for (message, times) in world.delivered() {
            assert_eq!(*times, 1, "seed {seed}: {message:?}");
        }
        assert!(asker.messenger.counters().resent > 50, "seed {seed}");
        assert!(
            world.instances[1].messenger.counters().duplicates > 50,
            "seed {seed}"
        );
    }
}

#[test]
fn in_calm_weather_order_holds_and_nothing_is_sent_twice() {
    for seed in seeds() {
        let mut world = World::new(seed, 2, CALM);
        traffic(&mut world, 2_000);
        world.run(Duration::from_secs(60));
        world.check_settled();
        assert_eq!(world.instances[0].messenger.counters().resent, 0);
        assert_eq!(world.instances[1].order.len(), 2_000, "seed {seed}");
        let mut last: BTreeMap<(u64, bool), u64> = BTreeMap::new();
        for &(flow, mark, bulk) in &world.instances[1].order {
            if let Some(before) = last.insert((flow, bulk), mark) {
                assert!(before < mark, "seed {seed}: {mark} after {before}");
            }
        }
    }
}

#[test]
fn bulk_messages_of_a_flow_keep_their_order_even_in_rough_weather() {
    for seed in seeds() {
        let mut world = World::new(seed, 2, ROUGH);
        let flow = 1 << 32 | 1;
        world.instances[0]
            .messenger
            .open_flow(flow, class(), FlowOptions::default());
        for number in 0..100 {
            world.submit(
                0,
                flow,
                Mode::Receipt,
                number,
                payload(number, 70_000, false),
            );
        }
        world.run(Duration::from_secs(600));
        world.check_settled();
        let order: Vec<u64> = world.instances[1]
            .order
            .iter()
            .map(|(_, mark, _)| *mark)
            .collect();
        assert_eq!(order, (0..100).collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn a_flow_whose_instance_dies_goes_on_with_another() {
    for seed in seeds() {
        let mut world = World::new(seed, 3, ROUGH);
        traffic(&mut world, 1_000);
        world.instances[1].alive = false;
        for number in 1_000..2_000 {
            let flow = number % 8 + 1;
            let flow = flow << 32 | flow;
            world.submit(0, flow, Mode::Receipt, number, payload(number, 100, false));
        }
        world.run(Duration::from_secs(600));
        let asker = &world.instances[0];
        assert_eq!(asker.charged, asker.released, "seed {seed}");
        for (ticket, outcome) in &asker.outcomes {
            // A request that was receipted by the one that died is answered by nobody.
            let lost_reply = matches!(
                outcome,
                Err(crate::SendError::NoReply {
                    receipted: true,
                    ..
                })
            );
            assert!(
                outcome.is_ok() || lost_reply,
                "seed {seed}: {ticket}: {outcome:?}"
            );
        }
        let unpinned = asker
            .events
            .iter()
            .filter(|event| matches!(event, ClientEvent::Unpinned { .. }));
        assert!(unpinned.count() > 0, "seed {seed}");
        for (message, times) in &world.instances[2].delivered {
            assert_eq!(*times, 1, "seed {seed}: {message:?}");
        }
    }
}

#[test]
fn after_reattaching_under_the_same_label_exactly_once_still_holds() {
    for seed in seeds() {
        let mut world = World::new(seed, 3, ROUGH);
        traffic(&mut world, 1_000);
        let asker = &mut world.instances[0];
        asker.attached = false;
        asker.messenger.link_lost(asker.epoch);
        world.run(world.now + Duration::from_secs(2));
        let asker = &mut world.instances[0];
        asker.attached = true;
        asker.epoch += 1;
        asker.messenger.attached(Me {
            address: asker.address,
            epoch: asker.epoch,
        });
        world.run(Duration::from_secs(600));
        world.check_settled();
        for (ticket, outcome) in &world.instances[0].outcomes {
            assert!(outcome.is_ok(), "seed {seed}: {ticket}: {outcome:?}");
        }
        for (message, times) in world.delivered() {
            assert_eq!(*times, 1, "seed {seed}: {message:?}");
        }
    }
}

#[test]
fn after_reattaching_under_another_label_it_is_at_least_once() {
    for seed in seeds() {
        let mut world = World::new(seed, 3, ROUGH);
        traffic(&mut world, 1_000);
        let asker = &mut world.instances[0];
        asker.messenger.link_lost(asker.epoch);
        asker.epoch += 1;
        asker.address.label = Label::agent(100, 2).unwrap();
        asker.messenger.attached(Me {
            address: asker.address,
            epoch: asker.epoch,
        });
        world.run(Duration::from_secs(600));
        assert_eq!(world.instances[0].charged, world.instances[0].released);
        for (ticket, outcome) in &world.instances[0].outcomes {
            // Confirmed under the old label, so not sent again; its reply went to the old label.
            let lost_reply = matches!(
                outcome,
                Err(crate::SendError::NoReply {
                    receipted: true,
                    ..
                })
            );
            assert!(
                outcome.is_ok() || lost_reply,
                "seed {seed}: {ticket}: {outcome:?}"
            );
        }
        for (message, times) in world.delivered() {
            assert_eq!(*times, 1, "seed {seed}: once per source label: {message:?}");
        }
    }
}

#[test]
fn an_application_without_room_takes_nothing_and_loses_nothing() {
    let mut world = World::new(7, 2, CALM);
    let flow = 1 << 32 | 1;
    world.instances[0]
        .messenger
        .open_flow(flow, class(), FlowOptions::default());
    world.instances[1].room = 10;
    for number in 0..30 {
        world.submit(0, flow, Mode::Receipt, number, payload(number, 64, false));
    }
    world.run(Duration::from_millis(100));
    assert_eq!(world.instances[1].order.len(), 10);
    assert_eq!(
        world.instances[0].outcomes.len(),
        10,
        "receipts only for what was delivered"
    );
    world.instances[1].room = usize::MAX;
    for (carried_by, bytes) in std::mem::take(&mut world.instances[1].held) {
        world.arrive(1, carried_by, bytes);
    }
    world.run(Duration::from_secs(60));
    world.check_settled();
    assert_eq!(world.instances[1].order.len(), 30);
    assert_eq!(world.instances[0].outcomes.len(), 30);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let trace = |seed| {
        let mut world = World::new(seed, 3, ROUGH);
        traffic(&mut world, 500);
        world.run(Duration::from_secs(600));
        world.trace.finish()
    };
    assert_eq!(trace(11), trace(11));
    assert_ne!(trace(11), trace(12));
}

#[test]
fn what_is_sent_is_what_the_header_says() {
    let mut world = World::new(1, 2, CALM);
    let options = FlowOptions::default().deadline(true);
    world.instances[0].messenger.open_flow(77, class(), options);
    world.submit(0, 77, Mode::Receipt, 0, b"hello".to_vec());
    let now = world.clock();
    let lanes = world.instances[0].messenger.lane_count();
    let out = (0..lanes)
        .find_map(|lane| world.instances[0].messenger.next(now, Queue::Lane(lane)))
        .unwrap();
    assert_eq!(out.head.as_bytes().len(), 48 + DEADLINE_LEN);
    let header = HeaderRepr::parse(&Header::new_checked(out.head.as_bytes()).unwrap());
    assert_eq!(header.tenant, 9);
    assert_eq!(header.payload_len, 5);
    assert_eq!(usize::from(header.extension_len), DEADLINE_LEN);
    assert_eq!(out.payload, Bytes::from_static(b"hello"));
    assert!(
        header
            .flags
            .contains(Flags::RECEIPT | Flags::DEADLINE | Flags::AFFINITY)
    );
}
