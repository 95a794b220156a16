//! Three routers take the steps of a change in every order that the barriers allow, while messages are under way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use caplane_core::Now;
use caplane_core::fib::{Delta, Entry, EntryKey, Fib, Generation};
use caplane_core::forward::{Destination, Forwarder, ForwarderConfig, Outcome, PeerKey, PeerRole};
use caplane_proto::v1;
use caplane_wire::{Flags, HEADER_LEN, HeaderRepr, Label, LabelKind, TrafficClass};

use super::*;
use crate::change::attach;
use crate::compile;
use crate::rib::Rib;
use crate::testbed::*;
use crate::testbed::{agent, router};

const NOW: Now = Now {
    mono: Duration::from_secs(1),
    unix_us: 1,
};
const AT: [&str; 3] = ["r1", "r2", "r3"];
const WHO: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const IN: [&str; 3] = ["", "t1", "t2"];
const PATHS: [&str; 4] = ["*", "travel", "travel/hotels", "finance"];
const SKILLS: [&[&str]; 4] = [
    &["book_hotel"],
    &["find_hotel", "flights"],
    &[],
    &["book_hotel", "currency_conversion"],
];
const SEEDS: u64 = 600;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }

    fn of<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.roll(among.len())]
    }
}

/// A state, and the tables that it compiles to.
struct World {
    rib: Rib,
    tables: Tables,
    generation: u64,
}

impl World {
    fn new(dice: &mut Dice) -> Self {
        let mut rib = Rib::new();
        let mut updates = vec![insert(tenant("t1")), insert(tenant("t2"))];
        updates.extend(AT.map(|name| insert(router(name))));
        updates.push(insert(link("r1", "r2", 1)));
        updates.push(insert(link("r2", "r3", 1)));
        if dice.roll(2) == 0 {
            updates.push(insert(link("r1", "r3", 1)));
        }
        for (at, name) in WHO.iter().enumerate() {
            updates.push(insert(agent(name, IN[at / 2], dice.of(&SKILLS))));
        }
        updates.push(insert(group("g", "t1", &["c", "d"])));
        updates.push(insert(permission("t1", "t2", "")));
        apply(&mut rib, &updates).expect("accepted");
        for name in WHO {
            for _ in 0..dice.roll(3) {
                let _ = apply(&mut rib, &[insert(grant(name, dice.of(&PATHS)))]);
            }
            for instance in 1..=dice.roll(3) {
                let attached = attachment(&rib, name, instance as u8, "");
                let at = router_label(&rib, dice.of(&AT));
                change(&mut rib, 1_000, |tx| {
                    attach::report(tx, at, &[attached], &[])
                })
                .expect("up");
            }
        }
        rib.take_touched();
        rib.settle();
        let entries = compile::everything(&rib);
        let tables = Tables::new(1, 1, Vec::new(), 100_000, entries);
        Self {
            rib,
            tables,
            generation: 1,
        }
    }

    /// Changes something, and answers the steps.
    fn change(&mut self, dice: &mut Dice) -> Vec<Phase> {
        let mut updates: Vec<v1::Update> = (0..1 + dice.roll(3)).map(|_| update(dice)).collect();
        if dice.roll(2) == 0 {
            updates.extend(self.hand_over(dice));
        }
        for update in updates {
            let _ = apply(&mut self.rib, &[update]);
        }
        let touched = self.rib.take_touched();
        self.rib.settle();
        let changes = compile::changes(&self.rib, &touched, &self.tables);
        split(changes, &self.tables)
    }

    /// What one may serve, another of its tenant may from now on.
    fn hand_over(&self, dice: &mut Dice) -> Vec<v1::Update> {
        let pair = 2 * dice.roll(WHO.len() / 2);
        let (from, to) = match dice.roll(2) {
            0 => (WHO[pair], WHO[pair + 1]),
            _ => (WHO[pair + 1], WHO[pair]),
        };
        let uri = agent_uri(from);
        let grants = self.rib.grants_of(&uri);
        let moves = grants.flat_map(|held| {
            let (gone, new) = (grant(from, &held.class_path), grant(to, &held.class_path));
            [delete(gone), insert(new)]
        });
        moves.collect()
    }
}

fn update(dice: &mut Dice) -> v1::Update {
    let name = dice.of(&WHO);
    match dice.roll(9) {
        0 | 1 => insert(grant(name, dice.of(&PATHS))),
        2 | 3 => delete(grant(name, dice.of(&PATHS))),
        4 => modify(agent(name, dice.of(&IN), dice.of(&SKILLS))),
        5 => delete(agent(name, "", &[])),
        6 => modify(group(
            "g",
            "t1",
            &[dice.of(&WHO), dice.of(&WHO)][..dice.roll(3)],
        )),
        7 => match dice.roll(2) {
            0 => insert(link("r1", "r3", 1)),
            _ => delete(link("r1", "r3", 1)),
        },
        _ => match dice.roll(2) {
            0 => insert(permission(dice.of(&IN[1..]), dice.of(&IN), "")),
            _ => delete(permission("t1", "t2", "")),
        },
    }
}

/// What each router's table is after each step; the first is before all of them.
struct Steps {
    routers: Vec<Label>,
    fibs: Vec<Vec<Arc<Fib>>>,
    awaits: Vec<Awaits>,
    /// Instances that are attached before the change: at which router, whose, and its label.
    instances: Vec<(usize, String, Label)>,
}

impl Steps {
    fn new(world: &mut World, instances: Vec<(usize, String, Label)>, phases: Vec<Phase>) -> Self {
        let routers: Vec<Label> = AT
            .iter()
            .map(|name| router_label(&world.rib, name))
            .collect();
        let awaits = phases.iter().map(|phase| phase.awaits.clone()).collect();
        let mut fibs: Vec<Vec<Arc<Fib>>> = Vec::new();
        let mut whole: Vec<BTreeMap<EntryKey, Entry>> = Vec::new();
        for router in &routers {
            let entries = entries(&world.tables, *router);
            let fib = Fib::empty(0, *router).apply(&Delta {
                base: Generation(0),
                generation: Generation(world.generation),
                upserts: entries.values().cloned().collect(),
                removes: Vec::new(),
            });
            fibs.push(vec![Arc::new(fib.expect("compiled"))]);
            whole.push(entries);
        }
        let first = world.generation + 1;
        let last = world.generation + phases.len() as u64;
        let rows = (first..).zip(phases.into_iter().map(|phase| phase.changes));
        world.tables.publish(rows.collect(), world.generation);
        for generation in first..=last {
            world.tables.release(generation);
            for (at, router) in routers.iter().enumerate() {
                let difference = world
                    .tables
                    .difference(*router, generation - 1)
                    .expect("logged");
                let delta = Delta {
                    base: Generation(generation - 1),
                    generation: Generation(generation),
                    upserts: difference
                        .upserts
                        .iter()
                        .map(|row| row.entry.as_ref().clone())
                        .collect(),
                    removes: difference.removes,
                };
                for key in &delta.removes {
                    whole[at].remove(key);
                }
                for entry in &delta.upserts {
                    whole[at].insert(entry.key(), entry.clone());
                }
                assert_eq!(
                    whole[at],
                    entries(&world.tables, *router),
                    "a snapshot is what differences come to"
                );
                let fib = fibs[at].last().expect("one").apply(&delta);
                fibs[at].push(Arc::new(fib.expect("each step is a sound table")));
            }
        }
        world.generation = last;
        Self {
            routers,
            fibs,
            awaits,
            instances,
        }
    }

    fn last(&self) -> usize {
        self.awaits.len()
    }

    /// How far routers may go when they are here.
    fn released(&self, at: &[usize]) -> usize {
        let unmet = self.awaits.iter().enumerate().position(|(step, awaits)| {
            let missing =
                |(router, held): (&Label, &usize)| awaits.concerns(*router) && *held < step;
            self.routers.iter().zip(at).any(missing)
        });
        unmet.unwrap_or(self.last())
    }

    /// The routers, each with the table that it holds there.
    fn forwarders(&self, at: &[usize]) -> Vec<Forwarder> {
        let fib = |router: usize| &self.fibs[router][at[router]];
        (0..self.routers.len())
            .map(|router| {
                let mut forwarder = Forwarder::new(ForwarderConfig::default(), fib(router).clone());
                for (other, label) in self.routers.iter().enumerate() {
                    let linked = fib(router).neighbour(*label).is_some()
                        && fib(other).neighbour(self.routers[router]).is_some();
                    if linked {
                        let role = PeerRole::Neighbour { router: *label };
                        forwarder
                            .peer_up(neighbour_key(other), role)
                            .expect("a neighbour");
                    }
                }
                for (slot, (_, uri, label)) in (0..)
                    .zip(&self.instances)
                    .filter(|(_, (here, ..))| *here == router)
                {
                    // One whose identity is gone has been closed.
                    let role = PeerRole::Instance {
                        uri: uri.clone(),
                        label: *label,
                    };
                    let _ = forwarder.peer_up(PeerKey { worker: 1, slot }, role);
                }
                forwarder
            })
            .collect()
    }
}

fn entries(tables: &Tables, router: Label) -> BTreeMap<EntryKey, Entry> {
    let rows = tables.snapshot(router).upserts.into_iter();
    rows.map(|row| (row.entry.key(), row.entry.as_ref().clone()))
        .collect()
}

fn neighbour_key(other: usize) -> PeerKey {
    PeerKey {
        worker: 0,
        slot: other as u32,
    }
}

/// What somebody asks for.
type Asked = (u32, Label);

/// Routers in every state that they can be in together, made when they are asked for.
struct Walks<'a> {
    steps: &'a Steps,
    made: BTreeMap<Vec<usize>, Vec<Forwarder>>,
}

impl Walks<'_> {
    /// Who gets a message of an instance, when each router decides in one of these states, the later hops in later ones.
    fn walk(
        &mut self,
        from: usize,
        asked: Asked,
        states: &[Vec<usize>],
        dice: &mut Dice,
    ) -> BTreeSet<Label> {
        let (router, _, source) = &self.steps.instances[from];
        let header = HeaderRepr {
            class: TrafficClass::from_index(4),
            flags: Flags::AFFINITY,
            label: asked.1,
            requested_label: asked.1,
            tenant: asked.0,
            source_label: *source,
            flow: dice.roll(1 << 20) as u64,
            ..HeaderRepr::default()
        };
        let first = PeerKey {
            worker: 1,
            slot: from as u32,
        };
        let mut due: VecDeque<(usize, PeerKey, [u8; HEADER_LEN], usize)> =
            VecDeque::from([(*router, first, header.to_bytes(), 0)]);
        let mut got = BTreeSet::new();
        let mut hops = 0;
        while let Some((router, peer, message, when)) = due.pop_front() {
            hops += 1;
            assert!(hops < 100, "it goes in circles");
            let when = when + dice.roll(states.len() - when);
            let steps = self.steps;
            let routers = self.made.entry(states[when].clone());
            let routers = routers.or_insert_with(|| steps.forwarders(&states[when]));
            let copies = match routers[router].explain(NOW, peer, &message).outcome {
                Outcome::Unicast(copy) => vec![copy],
                Outcome::Group { copies, .. } => copies,
                Outcome::Refused(_) => Vec::new(),
            };
            for copy in copies {
                match copy.to {
                    Destination::Instance(label) => {
                        got.insert(label);
                    }
                    Destination::Router { next_hop, .. } => {
                        let next = self
                            .steps
                            .routers
                            .iter()
                            .position(|label| *label == next_hop)
                            .expect("known");
                        due.push_back((next, neighbour_key(router), copy.header, when));
                    }
                }
            }
        }
        got
    }
}

/// Messages of all to everything, while routers take the steps in an order that dice say. Answers those that were lost.
fn lost(steps: &Steps, asked: &[Asked], barriers: bool, dice: &mut Dice) -> Vec<String> {
    let mut schedule = vec![vec![0; steps.routers.len()]];
    loop {
        let now = schedule.last().expect("one").clone();
        let released = if barriers {
            steps.released(&now)
        } else {
            steps.last()
        };
        let may: Vec<usize> = (0..now.len())
            .filter(|router| now[*router] < released)
            .collect();
        if may.is_empty() {
            break;
        }
        let router = dice.of(&may);
        let mut next = now.clone();
        // One that was away for a moment takes several at once.
        next[router] += 1 + dice.roll(released - now[router]);
        schedule.push(next);
    }
    assert_eq!(
        schedule.last(),
        Some(&vec![steps.last(); steps.routers.len()]),
        "it ends"
    );
    let mut walks = Walks {
        steps,
        made: BTreeMap::new(),
    };
    let (before, after) = (
        schedule[..1].to_vec(),
        schedule[schedule.len() - 1..].to_vec(),
    );
    let mut lost = Vec::new();
    for from in 0..steps.instances.len() {
        for asked in asked {
            let was = walks.walk(from, *asked, &before, dice);
            let will = walks.walk(from, *asked, &after, dice);
            // Of a group, those who are members all the time; of others, anybody.
            let wanted: BTreeSet<Label> = was.intersection(&will).copied().collect();
            let is_group = asked.1.kind() == LabelKind::Group;
            if was.is_empty() || will.is_empty() || is_group && wanted.is_empty() {
                continue;
            }
            for at in 0..schedule.len() {
                // It is under way for less than a round trip to the controller.
                let same =
                    |state: &&Vec<usize>| steps.released(state) == steps.released(&schedule[at]);
                let states: Vec<Vec<usize>> =
                    schedule[at..].iter().take_while(same).cloned().collect();
                let states = if barriers {
                    &states[..]
                } else {
                    &schedule[at..at + 1]
                };
                let got = walks.walk(from, *asked, states, dice);
                if got.is_empty() || is_group && !wanted.is_subset(&got) {
                    let (_, uri, _) = &steps.instances[from];
                    lost.push(format!(
                        "{uri} to {asked:?} in {states:?}: {got:?}, not {wanted:?}"
                    ));
                }
            }
        }
    }
    lost
}

/// What can be asked for.
fn asked(world: &World) -> Vec<Asked> {
    let knowledge = knowledge();
    let classes = [
        "travel",
        "travel/hotels",
        "travel/hotels/book_hotel",
        "travel/flights",
        "finance",
    ];
    let tenants: Vec<u32> = world.rib.tenant_ids().collect();
    let mut asked = Vec::new();
    for path in classes {
        let class = knowledge.class(path).expect("there").label;
        asked.extend(tenants.iter().map(|tenant| (*tenant, class)));
    }
    let group = world.rib.group("g").expect("there");
    asked.push((group.tenant, group.label()));
    let agents = world.rib.agents_after("");
    asked.extend(agents.map(|agent| (agent.tenant, agent.label())));
    asked
}

fn seeded(seed: u64, barriers: bool) -> Vec<String> {
    let mut dice = Dice(seed);
    let mut world = World::new(&mut dice);
    let mut instances = Vec::new();
    for (at, name) in AT.iter().enumerate() {
        let here: Vec<Label> = world
            .rib
            .attached_at(router_label(&world.rib, name))
            .collect();
        for label in here {
            let agent = world
                .rib
                .agent_by_number(label.agent_number())
                .expect("known");
            instances.push((at, agent.uri.clone(), label));
        }
    }
    let asked = asked(&world);
    let mut phases = world.change(&mut dice);
    if !barriers {
        phases = vec![Phase::whole(
            phases
                .into_iter()
                .flat_map(|phase| phase.changes)
                .collect::<BTreeMap<_, _>>()
                .into_iter()
                .collect(),
        )];
    }
    let steps = Steps::new(&mut world, instances, phases);
    lost(&steps, &asked, barriers, &mut dice)
}

#[test]
fn no_order_of_routers_loses_a_message_with_barriers_and_some_do_without() {
    let mut without = 0;
    for seed in 0..SEEDS {
        let lost = seeded(seed, true);
        assert!(
            lost.is_empty(),
            "seed {seed}: {} lost, first {}",
            lost.len(),
            lost[0]
        );
        without += usize::from(!seeded(seed, false).is_empty());
    }
    println!("of {SEEDS} seeds {without} lose messages without barriers, none with them");
    assert!(
        without > SEEDS as usize / 100,
        "{without} of {SEEDS}: the simulation finds too little"
    );
}

fn steps_of(world: &mut World, updates: &[v1::Update]) -> Vec<(Step, usize, Awaits)> {
    if !updates.is_empty() {
        apply(&mut world.rib, updates).expect("accepted");
    }
    let touched = world.rib.take_touched();
    world.rib.settle();
    let phases = split(
        compile::changes(&world.rib, &touched, &world.tables),
        &world.tables,
    );
    let told = phases
        .iter()
        .map(|phase| (phase.step, phase.changes.len(), phase.awaits.clone()));
    let told = told.collect();
    for phase in phases {
        world.generation += 1;
        world
            .tables
            .publish(vec![(world.generation, phase.changes)], world.generation);
    }
    let whole: BTreeMap<TableKey, Entry> = compile::everything(&world.rib).into_iter().collect();
    for (key, entry) in &whole {
        let row = world.tables.entry(key).expect("compiled");
        assert_eq!(
            row.entry.as_ref(),
            entry,
            "the steps come to what is wanted"
        );
    }
    told
}

#[test]
fn a_change_has_as_many_steps_as_it_needs() {
    let rib = Rib::new();
    let mut world = World {
        rib,
        tables: Tables::new(1, 1, Vec::new(), 1_000, Vec::new()),
        generation: 1,
    };
    let setup = [
        insert(router("r1")),
        insert(router("r2")),
        insert(tenant("t1")),
        insert(agent("a", "", &["book_hotel"])),
        insert(agent("b", "t1", &[])),
    ];
    let told = steps_of(&mut world, &setup);
    assert_eq!(
        told.len(),
        1,
        "nobody is attached and no router linked: {told:?}"
    );
    let told = steps_of(&mut world, &[insert(link("r1", "r2", 1))]);
    let ends: BTreeSet<Label> = ["r1", "r2"]
        .map(|name| router_label(&world.rib, name))
        .into();
    assert_eq!(
        told,
        [
            (Step::Make, 2, Awaits::Nobody),
            (Step::Point, 2, Awaits::Some(ends.clone())),
        ]
    );
    let (r1, attached) = (
        router_label(&world.rib, "r1"),
        attachment(&world.rib, "a", 1, ""),
    );
    change(&mut world.rib, 1, |tx| {
        attach::report(tx, r1, &[attached], &[])
    })
    .expect("reported");
    assert_eq!(
        steps_of(&mut world, &[]),
        [(Step::Whole, 1, Awaits::Nobody)]
    );
    let told = steps_of(&mut world, &[insert(grant("a", "*"))]);
    // The class and the two above it.
    assert_eq!(
        told,
        [
            (Step::Make, 1, Awaits::Nobody),
            (Step::Point, 3, Awaits::Some(BTreeSet::from([r1]))),
        ]
    );
    let told = steps_of(&mut world, &[delete(grant("a", "*"))]);
    assert_eq!(
        told,
        [
            (Step::Point, 3, Awaits::Nobody),
            (Step::Break, 1, Awaits::Everybody)
        ]
    );
    let told = steps_of(
        &mut world,
        &[insert(tenant("t2")), insert(agent("c", "t2", &[]))],
    );
    assert_eq!(told.len(), 1, "{told:?}");
    let told = steps_of(&mut world, &[insert(permission("t1", "t2", ""))]);
    assert_eq!(
        told,
        [
            (Step::Make, 1, Awaits::Nobody),
            (Step::Point, 1, Awaits::Everybody)
        ]
    );
    let told = steps_of(
        &mut world,
        &[delete(agent("a", "", &[])), delete(link("r1", "r2", 1))],
    );
    let last = told.last().expect("some");
    assert_eq!((last.0, &last.2), (Step::Break, &Awaits::Everybody));
    assert_eq!(
        steps_of(&mut world, &[delete(agent("c", "", &[]))]).len(),
        1
    );
}
