//! Resolve against a look at every agent, one by one.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use caplane_proto::v1::entity::Entity as Body;
use proptest::prelude::*;

use super::*;
use crate::change::attach;
use crate::testbed::{
    agent_uri, apply, attachment, change, grant, insert, knowledge, permission, policy, router,
    router_label, tenant,
};

const AGENTS: usize = 1_000;
const SKILLS: [&str; 5] = [
    "book_hotel",
    "find_hotel",
    "flights",
    "currency_conversion",
    "no such class",
];
const GRANTS: [&str; 4] = ["*", "travel", "travel/hotels", "finance"];
const PROVIDERS: [&str; 3] = ["Example Inns", "Harbour", ""];
const VERSIONS: [(&str, Option<[u32; 2]>); 6] = [
    ("1.0", Some([1, 0])),
    ("1.2", Some([1, 2])),
    ("2.0.0", Some([2, 0])),
    ("2.10-rc", Some([2, 10])),
    ("", None),
    ("beta", None),
];
const TAGS: [&str; 3] = ["Rooms", "night", "Cheap"];
const PLACES: [&str; 5] = ["eu/de/fra", "eu/de", "eu/denmark", "us", ""];
const TENANTS: [&str; 3] = ["shared", "t1", "t2"];

/// What one agent was registered with, as the test knows it.
struct Fact {
    uri: String,
    tenant: &'static str,
    provider: &'static str,
    version: Option<[u32; 2]>,
    tags: Vec<&'static str>,
    place: &'static str,
    cost: u32,
    instances: u32,
}

struct World {
    rib: Rib,
    knowledge: std::sync::Arc<Knowledge>,
    facts: Vec<Fact>,
}

/// A fixed series of numbers that look random.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as usize % sides
    }
}

static WORLD: LazyLock<World> = LazyLock::new(world);

fn world() -> World {
    let mut rib = Rib::new();
    let direct = v1::Policy {
        direct: true,
        ..policy("direct", "t1", "shared", "finance")
    };
    let setup = [
        insert(router("r1")),
        insert(tenant("t1")),
        insert(tenant("t2")),
        insert(permission("t1", "t2", "travel")),
        insert(Body::Policy(direct)),
    ];
    apply(&mut rib, &setup).expect("accepted");
    let mut dice = Dice(7);
    let (mut facts, mut updates) = (Vec::new(), Vec::new());
    for n in 0..AGENTS {
        let name = format!("a{n}");
        let (version, numbers) = VERSIONS[dice.below(VERSIONS.len())];
        let tags: Vec<&str> = TAGS.into_iter().filter(|_| dice.below(2) == 0).collect();
        let fact = Fact {
            uri: agent_uri(&name),
            tenant: TENANTS[dice.below(3)],
            provider: PROVIDERS[dice.below(3)],
            version: numbers,
            tags,
            place: PLACES[dice.below(PLACES.len())],
            cost: dice.below(4) as u32,
            instances: [0, 1, 2][dice.below(3)],
        };
        let skills: Vec<&str> = SKILLS.into_iter().filter(|_| dice.below(4) == 0).collect();
        let skills: Vec<_> = skills
            .iter()
            .map(|id| serde_json::json!({"id": id, "name": id, "description": "-", "tags": fact.tags}))
            .chain([serde_json::json!({"id": "zz", "name": "zz", "description": "zz", "tags": fact.tags})])
            .collect();
        let card = serde_json::json!({
            "name": name, "description": "-", "version": version, "protocolVersion": "0.3.0",
            "url": format!("https://{name}.example/"), "provider": {"organization": fact.provider},
            "capabilities": {}, "defaultInputModes": [], "defaultOutputModes": [], "skills": skills,
        });
        updates.push(insert(Body::Agent(v1::Agent {
            uri: fact.uri.clone(),
            card: card.to_string().into_bytes(),
            tenant: fact.tenant.into(),
            locality: fact.place.into(),
            cost: fact.cost,
            out_of_service: dice.below(20) == 0,
            policy: if n % 7 == 0 && fact.tenant == "t1" {
                "direct"
            } else {
                ""
            }
            .into(),
            ..v1::Agent::default()
        })));
        if dice.below(10) > 0 {
            updates.push(insert(grant(&name, GRANTS[dice.below(GRANTS.len())])));
        }
        facts.push(fact);
    }
    apply(&mut rib, &updates).expect("accepted");
    let at = router_label(&rib, "r1");
    for (n, fact) in facts.iter().enumerate() {
        for instance in 1..=fact.instances {
            let here = attachment(&rib, &format!("a{n}"), instance as u8, "");
            change(&mut rib, 1, |tx| attach::report(tx, at, &[here], &[])).expect("reported");
        }
    }
    World {
        rib,
        knowledge: knowledge(),
        facts,
    }
}

/// What is asked for, in dice.
fn constraints(dice: [usize; 8]) -> v1::Constraints {
    let [
        tenants,
        provider,
        tags,
        version,
        place,
        cost,
        serving,
        domain,
    ] = dice;
    v1::Constraints {
        tenants: match tenants % 4 {
            0 => vec!["t2".into(), "nobody".into()],
            1 => vec!["shared".into(), "t1".into()],
            _ => Vec::new(),
        },
        domain: [None, None, Some(0), Some(3)][domain % 4],
        provider: ["", "", "example INNS", "harbour"][provider % 4].into(),
        tags: [
            vec![],
            vec![],
            vec!["rooms".into()],
            vec!["NIGHT".into(), "cheap".into()],
        ][tags % 4]
            .clone(),
        version_min: ["", "", "1.2", "2"][version % 4].into(),
        locality: ["", "", "eu", "eu/de"][place % 4].into(),
        cost_max: [None, None, Some(0), Some(2)][cost % 4],
        serving_only: serving % 3 == 0,
    }
}

/// The same, told by what the test knows of the agent.
fn satisfied(fact: &Fact, constraints: &v1::Constraints) -> bool {
    let is_any_of = |names: &[String]| names.iter().any(|name| name == fact.tenant);
    let has = |tag: &String| fact.tags.iter().any(|t| t.eq_ignore_ascii_case(tag));
    let least = match constraints.version_min.as_str() {
        "" => None,
        "1.2" => Some([1, 2]),
        _ => Some([2, 0]),
    };
    let place = |outer: &str| fact.place == outer || fact.place.starts_with(&format!("{outer}/"));
    (constraints.tenants.is_empty() || is_any_of(&constraints.tenants))
        && constraints.domain != Some(3)
        && (constraints.provider.is_empty()
            || fact.provider.eq_ignore_ascii_case(&constraints.provider))
        && constraints.tags.iter().all(has)
        && least.is_none_or(|least| fact.version.is_some_and(|version| version >= least))
        && (constraints.locality.is_empty() || place(&constraints.locality))
        && constraints.cost_max.is_none_or(|most| fact.cost <= most)
        && (!constraints.serving_only || fact.instances > 0)
}

/// Tenants that one may reach, nearest first, and the class it is held to there (none = all of it).
fn reach(world: &World, asker: Option<&Fact>) -> Vec<(&'static str, Option<&'static str>)> {
    let Some(fact) = asker else {
        return TENANTS.map(|tenant| (tenant, None)).into();
    };
    let _ = world;
    match fact.tenant {
        "shared" => vec![("shared", None)],
        // Who names the policy may no more: it allows a part of what its tenant's agents reach anyhow.
        "t1" => vec![("t1", None), ("shared", None), ("t2", Some("travel"))],
        _ => vec![("t2", None), ("shared", None)],
    }
}

/// Agents in the order due, each once, with the class they were found by, by looking at all of them.
fn by_force(
    world: &World,
    asker: Option<&Fact>,
    found: &[Found],
    constraints: &v1::Constraints,
) -> Vec<u32> {
    let rib = &world.rib;
    let mut best: BTreeMap<u32, (f64, usize, u32, usize)> = BTreeMap::new();
    for class in found {
        for (place, (tenant, held)) in reach(world, asker).into_iter().enumerate() {
            let held = held.map(|path| world.knowledge.class(path).expect("there").label);
            let allowed = |class: Label| held.is_none_or(|held| held.covers(class));
            if !allowed(class.label) {
                continue;
            }
            let those = |serves: &dyn Fn(Label) -> bool| -> Vec<(&Fact, u32)> {
                let all = world.facts.iter().filter(|fact| fact.tenant == tenant);
                all.filter(|fact| satisfied(fact, constraints))
                    .filter_map(|fact| {
                        let agent = rib.agent(&fact.uri).expect("registered");
                        let classes = rib.memberships(agent);
                        let serves = classes.iter().any(|member| serves(member.class));
                        let reached = classes.iter().any(|member| allowed(member.class));
                        (serves && reached).then_some((fact, agent.number))
                    })
                    .collect()
            };
            let mut members = those(&|serves| class.label.covers(serves));
            for above in class.label.ancestors().filter(|above| allowed(*above)) {
                if members.is_empty() {
                    members = those(&|serves| serves == above);
                }
            }
            for (fact, number) in members {
                let score = match fact.instances {
                    0 => class.score / 2.0,
                    _ => class.score,
                };
                let here = asker.map_or("", |asker| asker.place);
                let near = match (here, fact.place) {
                    ("", _) | (_, "") => 0,
                    (a, b) => a
                        .split('/')
                        .zip(b.split('/'))
                        .take_while(|(a, b)| a == b)
                        .count(),
                };
                best.entry(number)
                    .or_insert((score, near, fact.cost, place));
            }
        }
    }
    let mut ranked: Vec<_> = best.into_iter().collect();
    ranked.sort_by(|(a, x), (b, y)| {
        y.0.total_cmp(&x.0)
            .then(y.1.cmp(&x.1))
            .then(x.2.cmp(&y.2))
            .then(x.3.cmp(&y.3))
            .then(a.cmp(b))
    });
    ranked.into_iter().map(|(number, _)| number).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Every candidate satisfies the constraints, none that does is missing, and they are in the order due.
    #[test]
    fn constraints_are_what_a_look_at_every_agent_finds(
        need in 0usize..8,
        dice in proptest::array::uniform8(0usize..16),
        asker in proptest::option::of(0usize..AGENTS),
        limit in 1u32..=100,
    ) {
        let world = &*WORLD;
        let asker = asker.map(|n| &world.facts[n]);
        let constraints = constraints(dice);
        let target = match need {
            0 => Target::Path("travel".into()),
            1 => Target::Path("travel/hotels".into()),
            2 => Target::Path("travel/hotels/book_hotel".into()),
            3 => Target::Path("class:2.1".into()),
            4 => Target::Path("travel/flights".into()),
            5 => Target::Text("book a hotel room".into()),
            6 => Target::Text("convert money between currencies or book flights".into()),
            _ => Target::Text("hotels".into()),
        };
        let query = v1::Resolve {
            target: Some(target),
            limit,
            constraints: Some(constraints.clone()),
            ..v1::Resolve::default()
        };
        let uri = asker.map_or("", |fact| fact.uri.as_str());
        let question = Question::understand(&world.knowledge, &query, 0).expect("makes sense");
        let answer = question.answer(&world.rib, &world.knowledge, uri).expect("answered");
        let found = match &question.what {
            What::Class(found) => std::slice::from_ref(found),
            What::Text(found) => found,
            _ => panic!("classes are asked for"),
        };
        let mut due = by_force(world, asker, found, &constraints);
        due.truncate(limit as usize);
        let told: Vec<u32> = answer
            .iter()
            .map(|candidate| Label::from_bits(candidate.label).agent_number())
            .collect();
        prop_assert_eq!(told, due);
        let direct = asker.is_none_or(|fact| {
            world.rib.agent(&fact.uri).is_some_and(|agent| agent.policy != 0)
        });
        for candidate in &answer {
            prop_assert_eq!(!candidate.endpoints.is_empty(), direct);
            prop_assert!(candidate.provenance.contains("serves "), "{}", candidate.provenance);
        }
    }
}

fn ask(target: Target, constraints: Option<v1::Constraints>, asker: &str) -> Vec<v1::Candidate> {
    let world = &*WORLD;
    let query = v1::Resolve {
        target: Some(target),
        constraints,
        ..v1::Resolve::default()
    };
    let question = Question::understand(&world.knowledge, &query, 0).expect("makes sense");
    let answer = question.answer(&world.rib, &world.knowledge, asker);
    answer.expect("answered")
}

#[test]
fn an_agent_asked_for_by_its_name_satisfies_the_constraints_too() {
    let world = &*WORLD;
    let fact = world
        .facts
        .iter()
        .find(|fact| fact.place == "us")
        .expect("one");
    let there = |locality: &str| {
        let constraints = v1::Constraints {
            locality: locality.into(),
            ..v1::Constraints::default()
        };
        ask(Target::AgentId(fact.uri.clone()), Some(constraints), "").len()
    };
    assert_eq!((there("us"), there("eu"), there("")), (1, 0, 1));
    let by_name = ask(Target::AgentId(fact.uri.clone()), None, "");
    assert_eq!(by_name[0].locality, "us");
    assert_eq!(by_name[0].provenance, "its id");
    assert_eq!(by_name[0].endpoints.len(), 1, "operators may know");
}

#[test]
fn without_constraints_candidates_are_classes_and_say_why() {
    let found = ask(Target::Text("book hotel".into()), None, "");
    assert_eq!(found[0].name, "travel/hotels/book_hotel");
    assert!(found[0].members > 0);
    assert_eq!(
        found[0].provenance,
        "\"book hotel\" is the last path segment of travel/hotels/book_hotel"
    );
    assert!(found[0].endpoints.is_empty());
    let all = ask(
        Target::Text("book hotel".into()),
        Some(v1::Constraints::default()),
        "",
    );
    assert!(all.iter().all(|one| one.name.starts_with("spiffe://")));
}

/// What is said of an agent later counts; what is gone is no candidate.
#[test]
fn candidates_follow_what_is_written() {
    let mut rib = Rib::new();
    let knowledge = knowledge();
    let agent = |cost| {
        let mut body = crate::testbed::agent("a", "", &["book_hotel"]);
        if let Body::Agent(agent) = &mut body {
            agent.cost = cost;
        }
        body
    };
    let cheap = |rib: &Rib| {
        let query = v1::Resolve {
            target: Some(Target::Path("travel".into())),
            constraints: Some(v1::Constraints {
                cost_max: Some(3),
                ..v1::Constraints::default()
            }),
            ..v1::Resolve::default()
        };
        let question = Question::understand(&knowledge, &query, 0).expect("makes sense");
        question
            .answer(rib, &knowledge, "")
            .expect("answered")
            .len()
    };
    apply(&mut rib, &[insert(agent(3))]).expect("accepted");
    assert_eq!(cheap(&rib), 0, "not granted");
    apply(&mut rib, &[insert(grant("a", "travel"))]).expect("accepted");
    assert_eq!(cheap(&rib), 1);
    let mark = rib.mark();
    apply(&mut rib, &[crate::testbed::modify(agent(4))]).expect("accepted");
    assert_eq!(cheap(&rib), 0);
    rib.rollback(mark);
    assert_eq!(cheap(&rib), 1, "undone");
    apply(&mut rib, &[crate::testbed::delete(agent(0))]).expect("accepted");
    assert_eq!(cheap(&rib), 0);
}
