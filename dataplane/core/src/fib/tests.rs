//! The table against a plain map, its rules, and its memory.

use std::collections::BTreeMap;

use caplane_wire::Label;
use proptest::prelude::*;

use super::*;

fn class(l1: u16, l2: u16, l3: u16) -> Label {
    Label::class(l1, l2, l3).unwrap()
}

fn router(number: u32) -> Label {
    Label::router(number).unwrap()
}

fn agent(number: u32) -> Label {
    Label::agent(number, 0).unwrap()
}

fn egress(router_number: u32, weight: u32) -> Egress {
    Egress {
        router: router(router_number),
        weight,
    }
}

fn class_entry(tenant: u32, label: Label, own: Vec<Egress>, subtree: Vec<Egress>) -> Entry {
    Entry::Class(ClassEntry {
        tenant,
        label,
        own,
        subtree,
    })
}

fn policy(id: u32, allow: Vec<Allow>) -> Entry {
    Entry::Policy(PolicyEntry {
        id,
        tenant: id,
        allow,
        reply_tenants: vec![],
        reply_all: false,
        priority_max: 6,
        rate: None,
        class_rates: vec![],
    })
}

fn identity(uri: &str, number: u32, policy: u32) -> Entry {
    Entry::Identity(IdentityEntry {
        uri: uri.into(),
        agent: agent(number),
        tenant: 1,
        policy,
        classes: vec![Membership {
            tenant: 1,
            label: class(7, 1, 0),
            weight: 10,
        }],
        groups: vec![],
    })
}

fn snapshot(upserts: Vec<Entry>) -> Delta {
    Delta {
        base: Generation(0),
        generation: Generation(1),
        upserts,
        removes: vec![],
    }
}

fn after(fib: &Fib, upserts: Vec<Entry>, removes: Vec<EntryKey>) -> Delta {
    let base = fib.generation();
    Delta {
        base,
        generation: Generation(base.0 + 1),
        upserts,
        removes,
    }
}

fn empty() -> Fib {
    Fib::empty(1, router(1))
}

fn dump(fib: &Fib) -> BTreeMap<EntryKey, Entry> {
    fib.entries().map(|entry| (entry.key(), entry)).collect()
}

#[test]
fn what_was_written_is_read_back() {
    let wide = (2..40).map(|n| egress(n, n * 70_000)).collect::<Vec<_>>();
    let written = vec![
        policy(
            3,
            vec![Allow {
                tenant: 3,
                label: Label::NONE,
            }],
        ),
        Entry::Neighbour(NeighbourEntry {
            router: router(2),
            name: "b".into(),
            uri: "spiffe://d/router/b".into(),
            address: String::new(),
            dial: true,
            cost: 1,
        }),
        Entry::Transit(TransitEntry {
            router: router(9),
            next_hops: vec![router(2)],
            alternates: vec![],
        }),
        identity("spiffe://d/a", 4711, 3),
        class_entry(0, class(7, 0, 0), vec![], vec![egress(1, 100)]),
        class_entry(
            5,
            class(7, 0, 0),
            vec![egress(3, 1)],
            vec![egress(3, 65_536)],
        ),
        class_entry(5, class(7, 1, 2), wide.clone(), wide),
        class_entry(5, class(7, 1, 3), vec![], vec![]),
        Entry::Agent(AgentEntry {
            label: agent(4711),
            tenant: 5,
            instances: vec![InstanceAt {
                instance: 63,
                router: router(8_191),
                weight: 4_095,
            }],
        }),
        Entry::Agent(AgentEntry {
            label: agent(4712),
            tenant: 5,
            instances: vec![InstanceAt {
                instance: 1,
                router: router(8_192),
                weight: 100,
            }],
        }),
        Entry::Group(GroupEntry {
            label: Label::group(9).unwrap(),
            tenant: 5,
            routers: vec![router(1), router(2)],
        }),
    ];
    let fib = empty().apply(&snapshot(written.clone())).unwrap();
    let expected: BTreeMap<_, _> = written.into_iter().map(|e| (e.key(), e)).collect();
    assert_eq!(dump(&fib), expected);
    assert_eq!(fib.labels(), 7);
    assert_eq!(
        fib.identity_of(Label::agent(4711, 5).unwrap()).unwrap().uri,
        "spiffe://d/a"
    );
    assert_eq!(fib.agent(Label::agent(4711, 9).unwrap()).unwrap().tenant, 5);
}

#[test]
fn every_bad_entry_gets_its_verdict_and_nothing_is_applied() {
    let fib = empty().apply(&snapshot(vec![policy(1, vec![])])).unwrap();
    let bad = vec![
        class_entry(0, Label::NONE, vec![], vec![]),
        class_entry(0, class(1, 0, 0), vec![egress(1, 1)], vec![]),
        class_entry(0, class(2, 0, 0), vec![], vec![egress(1, 0)]),
        class_entry(0, class(3, 0, 0), vec![], vec![egress(1, 1), egress(1, 1)]),
        Entry::Agent(AgentEntry {
            label: agent(1),
            tenant: 0,
            instances: vec![InstanceAt {
                instance: 0,
                router: router(1),
                weight: 1,
            }],
        }),
        Entry::Group(GroupEntry {
            label: agent(1),
            tenant: 0,
            routers: vec![],
        }),
        identity("spiffe://d/x", 1, 99),
        Entry::Policy(PolicyEntry {
            id: 2,
            tenant: 0,
            allow: vec![],
            reply_tenants: vec![],
            reply_all: false,
            priority_max: 8,
            rate: None,
            class_rates: vec![],
        }),
        Entry::Transit(TransitEntry {
            router: router(5),
            next_hops: vec![router(4)],
            alternates: vec![],
        }),
    ];
    let keys: Vec<_> = bad.iter().map(|entry| Some(entry.key())).collect();
    let mut upserts = bad;
    upserts.push(class_entry(0, class(9, 0, 0), vec![], vec![egress(1, 1)]));
    let rejected = fib.apply(&after(&fib, upserts, vec![])).err().unwrap();
    assert_eq!(
        rejected.iter().map(|r| r.key.clone()).collect::<Vec<_>>(),
        keys
    );
    assert!(rejected.iter().all(|r| !r.reason.is_empty()));
    assert!(fib.class(0, class(9, 0, 0)).is_none());
}

#[test]
fn an_entry_may_stand_once() {
    let twice = class_entry(0, class(9, 0, 0), vec![], vec![egress(1, 1)]);
    let delta = snapshot(vec![twice.clone(), twice.clone()]);
    assert_eq!(empty().apply(&delta).err().unwrap().len(), 1);
    let mut delta = snapshot(vec![twice.clone()]);
    delta.removes = vec![twice.key()];
    assert_eq!(empty().apply(&delta).err().unwrap().len(), 1);
}

#[test]
fn nothing_is_removed_that_an_entry_still_names() {
    let neighbour = Entry::Neighbour(NeighbourEntry {
        router: router(2),
        name: "r2".into(),
        uri: "spiffe://d/router/r2".into(),
        address: String::new(),
        dial: false,
        cost: 1,
    });
    let route = Entry::Transit(TransitEntry {
        router: router(3),
        next_hops: vec![],
        alternates: vec![router(2)],
    });
    let agent = identity("spiffe://d/x", 1, 1);
    let all = vec![
        policy(1, vec![]),
        neighbour.clone(),
        agent.clone(),
        route.clone(),
    ];
    let fib = empty().apply(&snapshot(all)).unwrap();
    let named = vec![EntryKey::Policy(1), neighbour.key()];
    let rejected = fib
        .apply(&after(&fib, vec![], named.clone()))
        .err()
        .unwrap();
    let keys: Vec<_> = rejected.iter().filter_map(|r| r.key.clone()).collect();
    assert_eq!(keys, named);
    let with_users = [named, vec![agent.key(), route.key()]].concat();
    let fib = fib.apply(&after(&fib, vec![], with_users)).unwrap();
    assert_eq!(fib.entries().count(), 0);
}

#[test]
fn a_delta_fits_its_base_and_goes_forward() {
    let fib = empty().apply(&snapshot(vec![])).unwrap();
    let mut delta = after(&fib, vec![], vec![]);
    delta.base = Generation(7);
    assert_eq!(fib.apply(&delta).err().unwrap()[0].key, None);
    delta.base = Generation(1);
    delta.generation = Generation(1);
    assert!(fib.apply(&delta).is_err());
    delta.generation = Generation(900);
    assert_eq!(fib.apply(&delta).unwrap().generation(), Generation(900));
}

#[test]
fn a_snapshot_replaces_everything() {
    let one = class_entry(0, class(1, 0, 0), vec![], vec![egress(1, 1)]);
    let two = class_entry(0, class(2, 0, 0), vec![], vec![egress(1, 1)]);
    let fib = empty()
        .apply(&snapshot(vec![one, policy(1, vec![])]))
        .unwrap();
    let fib = fib.apply(&snapshot(vec![two.clone()])).unwrap();
    assert_eq!(fib.entries().collect::<Vec<_>>(), vec![two]);
}

#[test]
fn policy_is_default_deny_and_covers_below() {
    let all = Allow {
        tenant: 2,
        label: Label::NONE,
    };
    let some = Allow {
        tenant: 3,
        label: class(7, 1, 0),
    };
    let agent_of_3 = Entry::Agent(AgentEntry {
        label: agent(30),
        tenant: 3,
        instances: vec![],
    });
    let group_of_3 = Entry::Group(GroupEntry {
        label: Label::group(3).unwrap(),
        tenant: 3,
        routers: vec![],
    });
    let fib = empty()
        .apply(&snapshot(vec![
            policy(1, vec![all, some]),
            agent_of_3.clone(),
            group_of_3,
        ]))
        .unwrap();
    assert!(fib.allows(1, 2, class(9, 9, 9)));
    assert!(fib.allows(1, 3, class(7, 1, 0)));
    assert!(fib.allows(1, 3, class(7, 1, 5)));
    assert!(!fib.allows(1, 3, class(7, 2, 0)));
    assert!(!fib.allows(1, 3, class(7, 0, 0)));
    assert!(!fib.allows(1, 0, class(7, 1, 0)));
    assert!(
        !fib.allows(1, 3, agent(30)),
        "a class permission alone reaches no agent"
    );
    assert!(!fib.allows(1, 3, Label::group(3).unwrap()));
    assert!(
        !fib.allows(9, 2, class(9, 9, 9)),
        "an unknown group may nothing"
    );
    // The agent serves class 7.1 of tenant 3: a pinned flow may address it.
    let Entry::Identity(mut served) = identity("spiffe://d/b", 30, 1) else {
        unreachable!()
    };
    served.classes = vec![Membership {
        tenant: 3,
        label: class(7, 1, 4),
        weight: 1,
    }];
    let fib = fib
        .apply(&after(&fib, vec![Entry::Identity(served)], vec![]))
        .unwrap();
    assert!(fib.allows(1, 3, agent(30)));
}

#[test]
fn who_may_answer_all_reaches_agents_of_every_tenant_and_nothing_else_of_them() {
    let Entry::Policy(mut answers) = policy(1, vec![]) else {
        unreachable!()
    };
    let agent_of_3 = Entry::Agent(AgentEntry {
        label: agent(30),
        tenant: 3,
        instances: vec![],
    });
    let with = |entry: PolicyEntry| {
        let entries = vec![Entry::Policy(entry), agent_of_3.clone()];
        empty().apply(&snapshot(entries)).unwrap()
    };
    assert!(!with(answers.clone()).allows(1, 3, agent(30)));
    answers.reply_all = true;
    let fib = with(answers);
    assert!(fib.allows(1, 3, agent(30)));
    assert!(!fib.allows(1, 3, class(7, 1, 0)));
}

#[test]
fn an_agent_may_pass_to_another_uri() {
    let fib = empty()
        .apply(&snapshot(vec![
            policy(1, vec![]),
            identity("spiffe://d/old", 7, 1),
        ]))
        .unwrap();
    let new = identity("spiffe://d/new", 7, 1);
    let fib = fib
        .apply(&after(
            &fib,
            vec![new],
            vec![EntryKey::Identity("spiffe://d/old".into())],
        ))
        .unwrap();
    assert_eq!(fib.identity_of(agent(7)).unwrap().uri, "spiffe://d/new");
    assert!(fib.identity("spiffe://d/old").is_none());
    assert_eq!(fib.identities().count(), 1);
}

#[test]
fn unused_sets_leave_with_their_labels() {
    let entry = |n: u16| {
        let set = vec![egress(u32::from(n), 70_000), egress(2_000, 1)];
        class_entry(0, class(1, 1 + n / 512, 1 + n % 512), vec![], set)
    };
    let mut fib = empty()
        .apply(&snapshot((1..2_000).map(entry).collect()))
        .unwrap();
    assert!(fib.edge.heap_bytes() > empty().edge.heap_bytes());
    let removes = (1..2_000).map(|n| entry(n).key()).collect();
    fib = fib.apply(&after(&fib, vec![], removes)).unwrap();
    assert_eq!(fib.labels(), 0);
    assert_eq!(fib.edge.heap_bytes(), empty().edge.heap_bytes());
    assert_eq!(fib.entries().count(), 0);
}

/// The bar is 64 bytes a label at 1 M labels; debug builds insert a quarter of that.
#[test]
fn a_label_costs_at_most_64_bytes() {
    const LABELS: u32 = 250_000;
    let entries = (0..LABELS).map(|n| {
        let label = class(1 + (n % 1_000) as u16, 1 + (n / 1_000 % 1_000) as u16, 1);
        let (a, b) = (2 + n % 50, 100 + n % 30);
        // One in four labels has two egress routers, in 1,500 different sets.
        let members = match n % 4 {
            0 => vec![egress(a, 100), egress(b, 50)],
            _ => vec![egress(a, 100 * (1 + n % 7))],
        };
        class_entry(n / 100_000, label, members.clone(), members)
    });
    let fib = empty().apply(&snapshot(entries.collect())).unwrap();
    assert_eq!(fib.labels(), LABELS as usize);
    let per_label = fib.edge.heap_bytes() as f64 / f64::from(LABELS);
    println!("{per_label:.1} bytes a label");
    assert!(per_label <= 64.0, "{per_label} bytes a label");
}

#[derive(Clone, Debug)]
enum Step {
    Put(u16, u8),
    Remove(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..400u16, any::<u8>()).prop_map(|(n, v)| Step::Put(n, v)),
        (0..400u16).prop_map(Step::Remove),
    ]
}

/// One of each table kind by number, its content by `value`.
fn nth(n: u16, value: u8) -> Entry {
    let members: Vec<_> = (0..u32::from(value % 4))
        .map(|at| egress(100 + at, 1 + u32::from(value) * 400))
        .collect();
    match n % 3 {
        0 => class_entry(
            u32::from(n % 2),
            class(1 + n, 0, 0),
            members.clone(),
            members,
        ),
        1 => Entry::Agent(AgentEntry {
            label: agent(u32::from(n)),
            tenant: u32::from(value),
            instances: members
                .iter()
                .zip(1..)
                .map(|(m, instance)| InstanceAt {
                    instance,
                    router: m.router,
                    weight: m.weight,
                })
                .collect(),
        }),
        _ => Entry::Group(GroupEntry {
            label: Label::group(u32::from(n)).unwrap(),
            tenant: u32::from(value),
            routers: members.iter().map(|m| m.router).collect(),
        }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any sequence of deltas leaves what a plain map holds, and earlier generations as they were.
    #[test]
    fn the_table_is_a_map(deltas in prop::collection::vec(prop::collection::vec(step(), 0..60), 1..12)) {
        let mut fib = empty().apply(&snapshot(vec![])).unwrap();
        let mut model = BTreeMap::new();
        for steps in deltas {
            let before = (fib.clone(), dump(&fib));
            let mut changed = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Put(n, value) => changed.insert(nth(n, 0).key(), Some(nth(n, value))),
                    Step::Remove(n) => changed.insert(nth(n, 0).key(), None),
                };
            }
            let mut delta = after(&fib, vec![], vec![]);
            for (key, entry) in changed {
                match entry {
                    Some(entry) => {
                        delta.upserts.push(entry.clone());
                        model.insert(key, entry);
                    }
                    None => {
                        model.remove(&key);
                        delta.removes.push(key);
                    }
                }
            }
            fib = fib.apply(&delta).unwrap();
            prop_assert_eq!(&dump(&fib), &model);
            prop_assert_eq!(fib.labels(), model.len());
            prop_assert_eq!(dump(&before.0), before.1);
        }
    }
}

/// Batches of questions are answered as single ones, level by level (R9, R13).
#[test]
fn many_questions_at_once_are_answered_as_one_by_one() {
    let one = |tenant, label, router_number| {
        let members = vec![Egress {
            router: Label::router(router_number).unwrap(),
            weight: 1,
        }];
        Entry::Class(ClassEntry {
            tenant,
            label,
            own: members.clone(),
            subtree: members,
        })
    };
    let label = |a, b, c| Label::class(a, b, c).unwrap();
    let below_only = Entry::Class(ClassEntry {
        own: vec![],
        ..match one(1, label(2, 0, 0), 9) {
            Entry::Class(entry) => entry,
            _ => unreachable!(),
        }
    });
    let delta = Delta {
        generation: Generation(1),
        upserts: vec![
            one(1, label(1, 1, 1), 1),
            one(1, label(1, 1, 0), 2),
            one(0, label(1, 1, 2), 3),
            one(0, label(1, 0, 0), 4),
            below_only,
        ],
        ..Delta::default()
    };
    let fib = Fib::empty(1, Label::router(1).unwrap())
        .apply(&delta)
        .unwrap();
    let cases = [
        ((1, label(1, 1, 1)), Some((1, label(1, 1, 1), 1))),
        ((1, label(1, 1, 2)), Some((0, label(1, 1, 2), 3))),
        ((1, label(1, 1, 3)), Some((1, label(1, 1, 0), 2))),
        ((7, label(1, 1, 3)), Some((0, label(1, 0, 0), 4))),
        ((0, label(1, 9, 9)), Some((0, label(1, 0, 0), 4))),
        // Members below a parent do not serve its other children, but its own label.
        ((1, label(2, 5, 0)), None),
        ((1, label(2, 0, 0)), Some((1, label(2, 0, 0), 9))),
        ((1, label(3, 0, 0)), None),
    ];
    // Several batches, the last one short.
    let asked: Vec<_> = cases.iter().cycle().take(83).map(|case| case.0).collect();
    let mut found = vec![None; 83];
    fib.serving_all(&asked, &mut found);
    for (at, found) in found.iter().enumerate() {
        let ((tenant, label), due) = cases[at % cases.len()];
        let matched = found.map(|f: Serving| (f.tenant, f.label, f.egress.number()));
        assert_eq!(matched, due, "{tenant} {label}");
        assert_eq!(*found, fib.serving(tenant, label));
    }
}
