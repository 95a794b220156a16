use caplane_core::fib::{
    Allow, ClassEntry, Delta, Egress, Entry, EntryKey, Fib, Generation, IdentityEntry, PolicyEntry,
};
use caplane_proto::v1::entity::Entity as Body;
use proptest::prelude::*;

use super::{changes, everything};
use caplane_wire::Label;

use crate::change::{Atomicity, attach, write};
use crate::record::{GroupOf, policy_group};
use crate::rib::Rib;
use crate::tables::{TableKey, Tables};
use crate::testbed::*;

/// A state and the tables that followed it, change by change.
struct Fabric {
    rib: Rib,
    tables: Tables,
    generation: u64,
}

impl Fabric {
    fn new(updates: &[caplane_proto::v1::Update]) -> Self {
        let mut fabric = Self {
            rib: Rib::new(),
            tables: Tables::new(0, 0, Vec::new(), 1_000, Vec::new()),
            generation: 0,
        };
        fabric.write(updates);
        fabric
    }

    fn write(&mut self, updates: &[caplane_proto::v1::Update]) {
        apply(&mut self.rib, updates).expect("accepted");
        self.publish();
    }

    fn up(&mut self, router: &str, agent: &str, instance: u8) {
        let attachment = attachment(&self.rib, agent, instance, "");
        let router = router_label(&self.rib, router);
        let (refused, _) = change(&mut self.rib, 1_000, |tx| {
            attach::report(tx, router, &[attachment], &[])
        })
        .expect("reported");
        assert_eq!(refused, []);
        self.publish();
    }

    /// Publishes what was touched and answers the keys that came out different.
    fn publish(&mut self) -> Vec<TableKey> {
        let touched = self.rib.take_touched();
        let changes = changes(&self.rib, &touched, &self.tables);
        let keys = changes.iter().map(|(key, _)| key.clone()).collect();
        self.generation += 1;
        let rows = vec![(self.generation, changes)];
        self.tables.publish(rows, self.generation);
        self.rib.settle();
        keys
    }

    fn entry(&self, key: &TableKey) -> Option<Entry> {
        self.tables.entry(key).map(|row| row.entry.as_ref().clone())
    }

    fn class(&self, tenant: u32, label: &str) -> Option<ClassEntry> {
        let key = EntryKey::Class {
            tenant,
            label: class(label),
        };
        match self.entry(&TableKey::Shared(key)) {
            Some(Entry::Class(entry)) => Some(entry),
            _ => None,
        }
    }

    fn policy(&self, tenant: &str) -> PolicyEntry {
        let tenant = self.rib.tenant(tenant).expect("there").id;
        self.group(GroupOf::Tenant(tenant), 6)
            .expect("a policy group")
    }

    fn group(&self, of: GroupOf, priority: u8) -> Option<PolicyEntry> {
        let key = EntryKey::Policy(policy_group(of, priority));
        match self.entry(&TableKey::Shared(key)) {
            Some(Entry::Policy(entry)) => Some(entry),
            _ => None,
        }
    }

    fn identity(&self, agent: &str) -> IdentityEntry {
        match self.entry(&TableKey::Shared(EntryKey::Identity(agent_uri(agent)))) {
            Some(Entry::Identity(entry)) => entry,
            other => panic!("no identity: {other:?}"),
        }
    }

    fn egress(&self, members: &[Egress]) -> Vec<(String, u32)> {
        members
            .iter()
            .map(|egress| {
                let router = self.rib.router_by_label(egress.router).expect("there");
                (router.name.clone(), egress.weight)
            })
            .collect()
    }

    /// Every router's table is good by the router's own rules.
    fn check_with_core(&self) {
        for router in self.rib.routers_after("") {
            let snapshot = self.tables.snapshot(router.label());
            let delta = Delta {
                base: Generation(0),
                generation: Generation(self.generation),
                upserts: snapshot
                    .upserts
                    .iter()
                    .map(|row| row.entry.as_ref().clone())
                    .collect(),
                removes: Vec::new(),
            };
            if let Err(rejections) = Fib::empty(0, router.label()).apply(&delta) {
                panic!("router {} would refuse: {rejections:?}", router.name);
            }
        }
    }
}

fn line() -> Vec<caplane_proto::v1::Update> {
    vec![
        insert(router("r1")),
        insert(router("r2")),
        insert(router("r3")),
        insert(link("r1", "r2", 1)),
        insert(link("r2", "r3", 1)),
    ]
}

fn at(places: &[(&str, u32)]) -> Vec<(String, u32)> {
    places
        .iter()
        .map(|(name, weight)| ((*name).to_owned(), *weight))
        .collect()
}

#[test]
fn a_claimed_skill_is_a_route_only_under_a_grant() {
    let mut fabric = Fabric::new(&line());
    fabric.write(&[insert(agent(
        "a",
        "",
        &["book_hotel", "currency_conversion"],
    ))]);
    fabric.up("r3", "a", 1);
    assert_eq!(fabric.class(0, "class:1.1.1"), None);
    assert_eq!(fabric.identity("a").classes, []);

    fabric.write(&[insert(grant("a", "travel"))]);
    let booked = fabric.class(0, "class:1.1.1").expect("granted");
    assert_eq!(fabric.egress(&booked.own), at(&[("r3", 100)]));
    let travel = fabric.class(0, "class:1").expect("above");
    assert_eq!(
        travel.own,
        [],
        "a skill lies under the grant, so it is no generalist"
    );
    assert_eq!(fabric.egress(&travel.subtree), at(&[("r3", 100)]));
    assert_eq!(fabric.class(0, "class:2.1"), None, "not granted");

    fabric.write(&[insert(grant("a", "*"))]);
    assert!(fabric.class(0, "class:2.1").is_some());
    fabric.write(&[delete(grant("a", "*")), delete(grant("a", "travel"))]);
    assert_eq!(fabric.class(0, "class:1"), None);
    fabric.check_with_core();
}

#[test]
fn a_grant_that_no_skill_lies_under_makes_a_generalist() {
    let mut fabric = Fabric::new(&line());
    fabric.write(&[
        insert(agent("a", "", &[])),
        insert(grant("a", "travel/hotels")),
    ]);
    fabric.up("r1", "a", 1);
    let hotels = fabric.class(0, "class:1.1").expect("granted");
    assert_eq!(fabric.egress(&hotels.own), at(&[("r1", 100)]));
    assert_eq!(fabric.class(0, "class:1.1.1"), None);
}

#[test]
fn weights_are_summed_per_router_and_an_agent_counts_once_in_a_subtree() {
    let mut fabric = Fabric::new(&line());
    fabric.write(&[
        insert(agent("a", "", &["book_hotel", "find_hotel"])),
        insert(agent("b", "", &["book_hotel"])),
        insert(grant("a", "*")),
        insert(Body::Grant(caplane_proto::v1::Grant {
            agent_uri: agent_uri("b"),
            class_path: "travel/hotels/book_hotel".into(),
            weight: 7,
            ..caplane_proto::v1::Grant::default()
        })),
    ]);
    fabric.up("r2", "a", 1);
    fabric.up("r3", "a", 2);
    fabric.up("r3", "b", 1);
    let hotels = fabric.class(0, "class:1.1").expect("members");
    assert_eq!(
        fabric.egress(&hotels.subtree),
        at(&[("r2", 100), ("r3", 107)])
    );
    assert_eq!(hotels.own, []);
    let count = fabric.rib.class_count(class("class:1"));
    assert_eq!((count.agents, count.instances), (2, 3));
}

#[test]
fn policy_is_own_tenant_shared_tenant_and_permissions_and_replies_follow() {
    let mut fabric = Fabric::new(&line());
    fabric.write(&[
        insert(tenant("a")),
        insert(tenant("b")),
        insert(agent("a1", "a", &[])),
        insert(agent("b1", "b", &[])),
        insert(agent("s1", "", &[])),
    ]);
    let id = |name: &str| fabric.rib.tenant(name).expect("there").id;
    let (a, b) = (id("a"), id("b"));
    let whole = |tenant| Allow {
        tenant,
        label: Label::NONE,
    };
    assert_eq!(fabric.policy("a").allow, [whole(a), whole(0)]);
    assert_eq!(fabric.policy("a").reply_tenants, [0u32; 0]);
    assert_eq!(fabric.policy("shared").allow, [whole(0)]);
    // However many tenants there are, the entry is as small.
    let shared = fabric.policy("shared");
    assert!(shared.reply_all && shared.reply_tenants.is_empty());
    assert!(!fabric.policy("a").reply_all);

    fabric.write(&[insert(permission("a", "b", "travel/hotels"))]);
    let hotels = Allow {
        tenant: b,
        label: class("class:1.1"),
    };
    assert_eq!(fabric.policy("a").allow, [whole(a), whole(0), hotels]);
    assert_eq!(fabric.policy("b").allow, [whole(b), whole(0)]);
    assert_eq!(fabric.policy("b").reply_tenants, [a]);
    fabric.check_with_core();
}

#[test]
fn a_policy_says_what_its_agents_reach_and_a_policer_what_they_send() {
    use caplane_proto::v1;
    let mut fabric = Fabric::new(&line());
    let slow = policer("slow", 7, "b", "travel/hotels");
    let narrow = v1::Policy {
        base: v1::policy::Base::Nothing.into(),
        priority_max: Some(3),
        policer: "slow".into(),
        ..policy("narrow", "a", "b", "travel/hotels")
    };
    let named = |policy: &str| {
        Body::Agent(v1::Agent {
            uri: agent_uri("a1"),
            tenant: "a".into(),
            policy: policy.into(),
            ..v1::Agent::default()
        })
    };
    fabric.write(&[
        insert(tenant("a")),
        insert(tenant("b")),
        insert(Body::Policer(slow.clone())),
        insert(Body::Policy(narrow.clone())),
        insert(Body::Policy(policy("wide", "a", "b", ""))),
        insert(named("narrow")),
        insert(agent("a2", "a", &[])),
    ]);
    let id = |name: &str| fabric.rib.tenant(name).expect("there").id;
    let (a, b) = (id("a"), id("b"));
    let whole = |tenant| Allow {
        tenant,
        label: Label::NONE,
    };
    let hotels = Allow {
        tenant: b,
        label: class("class:1.1"),
    };
    let of = |fabric: &Fabric, name: &str| {
        let policy = fabric.rib.policy(name).expect("there");
        GroupOf::Policy(policy.number)
    };
    let group = fabric.group(of(&fabric, "narrow"), 6).expect("in use");
    assert_eq!(fabric.identity("a1").policy, group.id);
    assert_eq!((group.tenant, group.priority_max), (a, 3));
    assert_eq!(group.allow, [hotels]);
    assert_eq!(group.reply_tenants, [a], "its own tenant hears its answers");
    assert_eq!(group.rate.map(|rate| rate.messages_per_second), Some(7));
    let limits: Vec<_> = group
        .class_rates
        .iter()
        .map(|r| (r.tenant, r.label))
        .collect();
    assert_eq!(limits, [(b, hotels.label)]);
    assert_eq!(fabric.policy("a").rate, None, "the tenant has no policer");
    assert_eq!(
        fabric.group(of(&fabric, "wide"), 6),
        None,
        "nobody names it"
    );

    // The tenant's policer holds its agents, and those of a policy without one.
    fabric.write(&[
        insert(permission("a", "b", "finance")),
        modify(Body::Tenant(v1::Tenant {
            name: "a".into(),
            policer: "slow".into(),
            ..v1::Tenant::default()
        })),
        modify(named("wide")),
    ]);
    assert_eq!(
        fabric.group(of(&fabric, "narrow"), 6),
        None,
        "nobody names it"
    );
    let group = fabric.group(of(&fabric, "wide"), 6).expect("in use");
    let finance = Allow {
        tenant: b,
        label: class("class:2"),
    };
    assert_eq!(group.allow, [whole(a), whole(0), finance, whole(b)]);
    assert!(group.reply_tenants.is_empty());
    for group in [group, fabric.policy("a")] {
        assert_eq!(group.rate.map(|rate| rate.messages_per_second), Some(7));
        assert_eq!(group.priority_max, 6);
    }

    // A policer that changes recompiles the groups it holds, and no more.
    apply(
        &mut fabric.rib,
        &[modify(Body::Policer(policer("slow", 9, "", "travel")))],
    )
    .expect("accepted");
    assert_eq!(fabric.publish().len(), 2);
    let group = fabric.group(of(&fabric, "wide"), 6).expect("in use");
    assert_eq!(group.rate.map(|rate| rate.messages_per_second), Some(9));
    fabric.check_with_core();
}

#[test]
fn what_is_out_of_service_serves_no_class() {
    use caplane_proto::v1;
    let mut fabric = Fabric::new(&line());
    let with = |out_of_service| {
        Body::Agent(v1::Agent {
            uri: agent_uri("a"),
            card: card(&["book_hotel", "currency_conversion"]),
            out_of_service,
            ..v1::Agent::default()
        })
    };
    let hotels = |out_of_service| {
        Body::Grant(v1::Grant {
            agent_uri: agent_uri("a"),
            class_path: "travel/hotels".into(),
            weight: 0,
            out_of_service,
        })
    };
    fabric.write(&[
        insert(with(false)),
        insert(grant("a", "*")),
        insert(hotels(true)),
        insert(group("team", "", &["a"])),
    ]);
    fabric.up("r1", "a", 1);
    // The special grant is out of service, and the other one does not stand in for it.
    assert_eq!(fabric.class(0, "class:1.1.1"), None);
    assert_eq!(fabric.class(0, "class:1"), None);
    assert!(fabric.class(0, "class:2.1").is_some());
    fabric.write(&[modify(hotels(false))]);
    assert!(fabric.class(0, "class:1.1.1").is_some());

    fabric.write(&[modify(with(true))]);
    assert_eq!(fabric.class(0, "class:2"), None);
    assert_eq!(fabric.identity("a").classes, []);
    assert_eq!(
        fabric.identity("a").groups.len(),
        1,
        "in its groups it stays"
    );
    let label = fabric.rib.agent(&agent_uri("a")).expect("there").label();
    let by_label = TableKey::Shared(EntryKey::Agent(label));
    assert!(
        fabric.entry(&by_label).is_some(),
        "reached by its own label"
    );
    fabric.write(&[modify(with(false))]);
    assert!(fabric.class(0, "class:2").is_some());
    fabric.check_with_core();
}

#[test]
fn a_groups_routers_are_those_with_attached_members_of_its_tenant() {
    let mut fabric = Fabric::new(&line());
    fabric.write(&[
        insert(tenant("a")),
        insert(agent("x", "a", &[])),
        insert(agent("y", "a", &[])),
        insert(group("team", "a", &["x", "y", "not-there-yet"])),
    ]);
    fabric.up("r1", "x", 1);
    fabric.up("r3", "y", 1);
    let label = fabric.rib.group("team").expect("there").label();
    let key = TableKey::Shared(EntryKey::Group(label));
    let Some(Entry::Group(entry)) = fabric.entry(&key) else {
        panic!("no group route");
    };
    let (r1, r3) = (
        router_label(&fabric.rib, "r1"),
        router_label(&fabric.rib, "r3"),
    );
    assert_eq!(entry.routers, [r1, r3]);
    assert_eq!(fabric.identity("x").groups, [label]);
    fabric.write(&[modify(group("team", "a", &["y"]))]);
    assert_eq!(fabric.identity("x").groups, []);
    let Some(Entry::Group(entry)) = fabric.entry(&key) else {
        panic!("no group route");
    };
    assert_eq!(entry.routers, [r3]);
}

#[test]
fn the_lower_label_dials_and_transit_follows_the_links() {
    let mut fabric = Fabric::new(&line());
    let label = |name: &str| router_label(&fabric.rib, name);
    let (r1, r2, r3) = (label("r1"), label("r2"), label("r3"));
    let neighbour = |fabric: &Fabric, of, other| match fabric
        .entry(&TableKey::Router(of, EntryKey::Neighbour(other)))
    {
        Some(Entry::Neighbour(entry)) => entry,
        other => panic!("no neighbour: {other:?}"),
    };
    assert!(neighbour(&fabric, r1, r2).dial);
    assert!(!neighbour(&fabric, r2, r1).dial);
    let transit = |fabric: &Fabric, of, to| match fabric
        .entry(&TableKey::Router(of, EntryKey::Transit(to)))
    {
        Some(Entry::Transit(entry)) => Some((entry.next_hops, entry.alternates)),
        _ => None,
    };
    assert_eq!(transit(&fabric, r1, r3), Some((vec![r2], vec![])));
    fabric.write(&[insert(link("r3", "r1", 1))]);
    assert_eq!(transit(&fabric, r1, r3), Some((vec![r3], vec![r2])));
    fabric.write(&[delete(link("r1", "r2", 0)), delete(link("r2", "r3", 0))]);
    assert_eq!(transit(&fabric, r1, r2), None);
    fabric.write(&[delete(router("r2"))]);
    assert_eq!(fabric.tables.router_keys(r2).count(), 0);
    fabric.check_with_core();
}

#[test]
fn a_change_recompiles_only_what_it_touches() {
    let mut fabric = Fabric::new(&line());
    let many: Vec<_> = (0..200)
        .flat_map(|i| {
            let name = format!("a{i}");
            [
                insert(agent(&name, "", &["book_hotel"])),
                insert(grant(&name, "*")),
            ]
        })
        .collect();
    fabric.write(&many);
    let attachment = attachment(&fabric.rib, "a7", 1, "");
    let router = router_label(&fabric.rib, "r1");
    change(&mut fabric.rib, 1, |tx| {
        attach::report(tx, router, &[attachment], &[])
    })
    .expect("reported");
    // Its agent route, the class and the two above.
    assert_eq!(fabric.publish().len(), 4);

    // A router's new address is its neighbours' business only.
    change(&mut fabric.rib, 1, |tx| {
        attach::open(tx, router, "r1.example:4433", &[])
    })
    .expect("opened");
    let keys = fabric.publish();
    let r2 = router_label(&fabric.rib, "r2");
    assert!(keys.contains(&TableKey::Router(r2, EntryKey::Neighbour(router))));
    assert_eq!(
        keys.len(),
        1 + 4,
        "and the attachment that was not reported again"
    );
}

fn any_attachment(fabric: &mut Fabric, dice: [usize; 6]) {
    let [_, action, one, two, three, _] = dice;
    let (agent, router) = (AGENTS[one % AGENTS.len()], ROUTERS[two % ROUTERS.len()]);
    if fabric.rib.agent(&agent_uri(agent)).is_none() || fabric.rib.router(router).is_none() {
        return;
    }
    let name = ["", "pod"][three % 2];
    let attachment = attachment(&fabric.rib, agent, 1 + (three % 3) as u8, name);
    let router = router_label(&fabric.rib, router);
    change(&mut fabric.rib, 1, |tx| match action % 4 {
        0 | 1 => attach::report(tx, router, &[attachment], &[]),
        2 => attach::report(tx, router, &[], &[attachment]),
        _ => attach::open(tx, router, "host:1", &[attachment]),
    })
    .expect("never refused as a whole");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Change by change or all at once: the same tables; and undoing leaves no trace.
    #[test]
    fn incremental_is_the_same_as_everything(
        steps in proptest::collection::vec(proptest::array::uniform6(0usize..1_000), 1..60)
    ) {
        let mut fabric = Fabric::new(&[insert(tenant("t1"))]);
        for dice in steps {
            let before = everything(&fabric.rib);
            let mark = fabric.rib.mark();
            if dice[0] % 3 == 0 {
                any_attachment(&mut fabric, dice);
            } else {
                // Refused ones must leave no trace either.
                let _ = apply(&mut fabric.rib, &[any_update(dice)]);
            }
            if dice[5] % 4 == 0 {
                fabric.rib.rollback(mark);
                prop_assert_eq!(&before, &everything(&fabric.rib));
            }
            fabric.publish();
            let whole = everything(&fabric.rib);
            for (key, entry) in &whole {
                let held = fabric.entry(key);
                prop_assert_eq!(held.as_ref(), Some(entry), "{:?}", key);
            }
            let held: usize = fabric.tables.snapshot(Label::NONE).upserts.len()
                + fabric.tables.routers().map(|r| fabric.tables.router_keys(r).count()).sum::<usize>();
            prop_assert_eq!(held, whole.len());
            fabric.check_with_core();
            let reloaded = Rib::from_objects(objects(&fabric.rib), 1);
            prop_assert_eq!(whole, everything(&reloaded));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// A batch that goes on after faults does what its updates do one by one, the faulty ones left out.
    #[test]
    fn going_on_is_the_same_as_one_by_one(
        before in proptest::collection::vec(proptest::array::uniform6(0usize..1_000), 0..30),
        batch in proptest::collection::vec(proptest::array::uniform6(0usize..1_000), 1..30),
    ) {
        let mut together = Rib::new();
        for dice in before {
            let _ = apply(&mut together, &[any_update(dice)]);
        }
        together.settle();
        together.take_touched();
        let mut apart = Rib::from_objects(objects(&together), together.generation());
        let updates: Vec<_> = batch.into_iter().map(any_update).collect();
        let parsed = checked(&updates).expect("not too many");
        let (refusals, _) = change(&mut together, 1_000, |tx| {
            write::batch(tx, &parsed, Atomicity::ContinueOnError)
        })
        .expect("goes on");
        let generation = apart.generation();
        for (i, (update, refusal)) in updates.iter().zip(&refusals).enumerate() {
            let alone = apply(&mut apart, std::slice::from_ref(update));
            apart.set_generation(generation);
            prop_assert_eq!(alone.is_err(), refusal.is_some(), "{}: {:?}", i, refusal);
            if let Some(refusal) = refusal {
                prop_assert_eq!(refusal.about.update, Some(i));
            }
        }
        prop_assert_eq!(objects(&together), objects(&apart));
        prop_assert_eq!(everything(&together), everything(&apart));
        prop_assert_eq!(together.touched(), apart.touched(), "faulty ones touch nothing");
    }
}
