use proptest::prelude::*;

use super::*;
use crate::change::{Atomicity, attach, write};
use crate::compile::everything;
use crate::record::GrantRecord;
use crate::testbed::{
    AGENTS, ROUTERS, agent, agent_uri, any_update, apply, attachment, card, change, checked,
    delete, grant, insert, link, modify, objects, router, router_label, router_uri, tenant,
};

const NOW: u64 = 1_000;

fn nothing_stored(_: u32) -> Result<Option<Vec<u8>>, String> {
    Ok(None)
}

/// Writes what waits to be confirmed; answers its name.
fn written(rib: &mut Rib, updates: &[caplane_proto::v1::Update]) -> Option<u64> {
    let parsed = checked(updates).expect("not too many");
    let wait = Wait {
        caller: "ada".into(),
        seconds: 10,
    };
    let (record, _) = change(rib, NOW, |tx| {
        let start = Start::of(tx);
        write::batch(tx, &parsed, Atomicity::ContinueOnError)?;
        hold(tx, start, &wait, nothing_stored)
    })
    .expect("goes on");
    record.map(|record| record.generation)
}

fn refused(rib: &mut Rib, update: caplane_proto::v1::Update) -> Refusal {
    let refusal = apply(rib, &[update]).expect_err("refused");
    assert_eq!(refusal.fault, Fault::State, "{refusal}");
    assert!(
        refusal.remedy.contains("caplane commit confirm"),
        "{refusal}"
    );
    refusal
}

#[test]
fn what_a_rollback_needs_is_left_alone_and_all_else_goes_on() {
    let mut rib = Rib::new();
    let setup = [
        insert(tenant("old")),
        insert(tenant("other")),
        insert(router("r1")),
        insert(router("r2")),
        insert(link("r1", "r2", 1)),
        insert(agent("a", "old", &["book_hotel"])),
        insert(agent("b", "other", &[])),
    ];
    apply(&mut rib, &setup).expect("written");
    let id = written(
        &mut rib,
        &[
            insert(tenant("new")),
            modify(agent("a", "new", &["book_hotel"])),
            delete(link("r1", "r2", 0)),
        ],
    );
    let id = id.expect("waits");
    assert!(
        refused(&mut rib, delete(agent("a", "", &[])))
            .reason
            .starts_with("was changed by")
    );
    let through = refused(&mut rib, insert(agent("c", "new", &[])));
    assert_eq!(
        (through.field.as_str(), through.value.as_str()),
        ("updates[0].tenant", "new")
    );
    let needed = refused(&mut rib, delete(tenant("old")));
    assert!(needed.reason.starts_with("would be needed"), "{needed}");
    refused(&mut rib, delete(router("r1")));
    refused(&mut rib, insert(link("r1", "r2", 7)));
    apply(
        &mut rib,
        &[modify(agent("b", "old", &[])), delete(tenant("other"))],
    )
    .expect("others");
    let error = none_waits(&rib).expect_err("one waits");
    assert_eq!(error.value, id.to_string());

    let (ended, _) = change(&mut rib, NOW, |tx| cancel(tx, id, "bob")).expect("cancelled");
    assert_eq!(
        (ended.outcome(), ended.ended_by.as_str()),
        (Outcome::Cancelled, "bob")
    );
    assert!(rib.tenant("new").is_none() && rib.tenant("other").is_none());
    let old = rib.tenant("old").expect("there").id;
    assert_eq!(rib.agent(&agent_uri("a")).expect("there").tenant, old);
    assert_eq!(
        rib.agent(&agent_uri("b")).expect("there").tenant,
        old,
        "not its business"
    );
    assert!(rib.link("r1", "r2").is_some());
    apply(&mut rib, &[delete(agent("a", "", &[]))]).expect("nothing waits");
}

#[test]
fn a_commit_ends_once_and_says_how() {
    let mut rib = Rib::new();
    let id = written(&mut rib, &[insert(tenant("t"))]).expect("waits");
    let (longer, _) = change(&mut rib, NOW, |tx| extend(tx, id, 100)).expect("extended");
    assert_eq!(longer.deadline_unix_ms, NOW + 100_000);
    let late = change(&mut rib, NOW + 100_000, |tx| confirm(tx, id, "ada"));
    assert!(late.expect_err("too late").reason.contains("time is over"));
    let (none, _) = change(&mut rib, NOW + 99_999, expire).expect("never fails");
    assert_eq!(none, None);
    for _ in 0..2 {
        let (ended, _) = change(&mut rib, NOW, |tx| confirm(tx, id, "ada")).expect("confirmed");
        assert_eq!(ended.outcome(), Outcome::Confirmed);
    }
    assert!(rib.tenant("t").is_some() && rib.waiting().is_none());
    let refusal = change(&mut rib, NOW, |tx| cancel(tx, id, "ada")).expect_err("holds for good");
    assert!(
        refusal.reason.contains("confirmed in generation"),
        "{refusal}"
    );
    let refusal = change(&mut rib, NOW, |tx| confirm(tx, 77, "ada")).expect_err("unknown");
    assert_eq!(refusal.fault, Fault::Missing);

    let id = written(&mut rib, &[delete(tenant("t"))]).expect("waits");
    let before = rib.intent_generation();
    let (ended, _) = change(&mut rib, NOW + 10_000, expire).expect("never fails");
    assert_eq!(ended.map(|record| record.outcome()), Some(Outcome::Expired));
    assert!(
        rib.intent_generation() > before,
        "it changed what writers may have read"
    );
    assert!(rib.tenant("t").is_some());
    let refusal = change(&mut rib, NOW, |tx| confirm(tx, id, "ada")).expect_err("gone");
    assert!(refusal.reason.contains("rolled back"), "{refusal}");
    change(&mut rib, NOW, |tx| cancel(tx, id, "ada")).expect("it is as asked for");

    assert_eq!(
        written(&mut rib, &[modify(tenant("t"))]),
        None,
        "nothing changed"
    );
    for i in 0..20 {
        let id = written(&mut rib, &[insert(tenant(&format!("t{i}")))]).expect("waits");
        change(&mut rib, NOW, |tx| confirm(tx, id, "ada")).expect("confirmed");
    }
    assert_eq!(rib.pending_after(0).count(), ENDED_MAX);
}

#[test]
fn what_routers_report_is_not_rolled_back() {
    let mut rib = Rib::new();
    let setup = [
        insert(router("r1")),
        insert(agent("stays", "", &["book_hotel"])),
        insert(agent("goes", "", &[])),
    ];
    apply(&mut rib, &setup).expect("written");
    let label = router_label(&rib, "r1");
    let goes = attachment(&rib, "goes", 1, "");
    let stays = attachment(&rib, "stays", 1, "");
    change(&mut rib, NOW, |tx| {
        attach::report(tx, label, std::slice::from_ref(&goes), &[])
    })
    .expect("reported");
    let id = written(
        &mut rib,
        &[
            modify(agent("stays", "", &[])),
            delete(agent("goes", "", &[])),
            insert(agent("new", "", &[])),
        ],
    )
    .expect("waits");
    let new = attachment(&rib, "new", 1, "");
    let number = goes.label;
    change(&mut rib, NOW, |tx| {
        attach::open(tx, label, "r1.example:1", &[stays, new.clone()])
    })
    .expect("opened");
    let (_, verdicts) = change(&mut rib, NOW, |tx| cancel(tx, id, "ada")).expect("cancelled");
    let told: Vec<u32> = verdicts.iter().map(|(_, verdict)| verdict.label).collect();
    assert_eq!(told, [new.label], "only what is no more is closed");
    let stays = rib.agent(&agent_uri("stays")).expect("there");
    assert_eq!(
        (stays.skills.len(), rib.instances(stays.number).count()),
        (1, 1)
    );
    let goes = rib.agent(&agent_uri("goes")).expect("is back");
    assert_eq!(
        goes.label().with_instance(1).expect("1").bits(),
        number,
        "with its label"
    );
    assert_eq!(
        rib.instances(goes.number).count(),
        0,
        "its instances attach again"
    );
    assert_eq!(rib.router("r1").expect("there").address, "r1.example:1");
}

#[test]
fn an_agent_whose_lease_ended_meanwhile_stays_away() {
    let mut rib = Rib::new();
    apply(&mut rib, &[insert(leased(1, 1))]).expect("written");
    let id = written(&mut rib, &[modify(leased(1, 2))]).expect("waits");
    let (ended, _) =
        change(&mut rib, NOW + 2_000, crate::change::lease::expire_agents).expect("never fails");
    assert_eq!(ended, [agent_uri("a")]);
    change(&mut rib, NOW + 2_000, |tx| cancel(tx, id, "ada")).expect("cancelled");
    assert!(rib.agent(&agent_uri("a")).is_none());
}

fn leased(lease_seconds: u32, weight: u32) -> caplane_proto::v1::entity::Entity {
    caplane_proto::v1::entity::Entity::Agent(caplane_proto::v1::Agent {
        uri: agent_uri("a"),
        card: card(&["book_hotel"]),
        lease_seconds,
        weight,
        ..caplane_proto::v1::Agent::default()
    })
}

/// Writes a batch on an agent with this lease, which ends a minute later; what is left of the agent when that is
/// cancelled, and its card if it was pushed.
fn after_its_lease_ended(
    lease_seconds: u32,
    batch: &[caplane_proto::v1::Update],
) -> (Rib, u32, Option<Vec<u8>>) {
    let mut rib = Rib::new();
    apply(&mut rib, &[insert(leased(lease_seconds, 1))]).expect("written");
    let number = rib.agent(&agent_uri("a")).expect("there").number;
    let parsed = checked(batch).expect("good");
    let wait = Wait {
        caller: "ada".into(),
        seconds: 600,
    };
    let stored = |of: u32| Ok((of == number).then(|| card(&["book_hotel"])));
    let (record, _) = change(&mut rib, NOW, |tx| {
        let start = Start::of(tx);
        write::batch(tx, &parsed, Atomicity::AllOrNone)?;
        hold(tx, start, &wait, stored)
    })
    .expect("goes on");
    let id = record.expect("waits").generation;
    let (ended, _) =
        change(&mut rib, NOW + 61_000, crate::change::lease::expire_agents).expect("never fails");
    assert_eq!(ended, [agent_uri("a")]);
    let (mut cards, _) = change(&mut rib, NOW + 62_000, |tx| {
        cancel(tx, id, "ada")?;
        Ok(std::mem::take(&mut tx.cards))
    })
    .expect("cancelled");
    cards.retain(|(of, _)| *of == number);
    let card = cards.pop().and_then(|(_, card)| card);
    (rib, number, card)
}

#[test]
fn an_agent_whose_lease_ended_by_the_batch_comes_back() {
    let again = [delete(leased(0, 0)), insert(leased(60, 1))];
    for (before, batch) in [
        // A lease began.
        (0, &[modify(leased(60, 1))][..]),
        // It is shorter.
        (120, &[modify(leased(60, 1))]),
        // Its time began anew, as another registration.
        (0, &again),
        (60, &again),
    ] {
        let (rib, number, stored) = after_its_lease_ended(before, batch);
        let agent = rib.agent(&agent_uri("a")).expect("is back");
        assert_eq!((agent.number, agent.lease_seconds), (number, before));
        assert_eq!(agent.renewed_unix_ms, NOW + 62_000, "with all its time");
        assert_eq!(agent.skills.len(), 1);
        assert_eq!(stored, Some(card(&["book_hotel"])), "{before} {batch:?}");
    }
}

#[test]
fn an_agent_whose_own_lease_ended_stays_away() {
    for (before, batch) in [(60, modify(leased(60, 2))), (30, modify(leased(60, 1)))] {
        let (rib, _, stored) = after_its_lease_ended(before, &[batch]);
        assert!(rib.agent(&agent_uri("a")).is_none(), "{before}");
        assert_eq!(stored, None);
    }
}

#[test]
fn an_undo_that_is_too_large_is_not_read_whole() {
    let mut rib = Rib::new();
    let names: Vec<String> = (0..20).map(|i| format!("a{i}")).collect();
    let setup: Vec<_> = names
        .iter()
        .map(|name| insert(agent(name, "", &[])))
        .collect();
    apply(&mut rib, &setup).expect("written");
    let batch: Vec<_> = names
        .iter()
        .map(|name| modify(agent(name, "", &["book_hotel"])))
        .collect();
    let parsed = checked(&batch).expect("good");
    let wait = Wait {
        caller: "ada".into(),
        seconds: 10,
    };
    let held = |rib: &mut Rib, bytes: usize| {
        let read = std::cell::Cell::new(0);
        let outcome = change(rib, NOW, |tx| {
            let start = Start::of(tx);
            write::batch(tx, &parsed, Atomicity::AllOrNone)?;
            hold(tx, start, &wait, |_| {
                read.set(read.get() + 1);
                Ok(Some(vec![b' '; bytes]))
            })
        });
        // Short, should it be shown.
        let cards = outcome.map(|(record, _)| record.map(|record| record.cards.len()));
        (cards, read.get())
    };
    let (refused, read) = held(&mut rib, UNDO_BYTES_MAX / 4);
    let refusal = refused.expect_err("too large");
    assert_eq!(refusal.fault, Fault::Full, "{refusal}");
    assert_eq!(read, 4, "no more than it takes to know");
    assert!(rib.waiting().is_none());
    let (cards, read) = held(&mut rib, 1_024);
    assert_eq!((cards.expect("fits"), read), (Some(20), 20));
}

#[test]
fn identities_that_come_back_are_not_given_to_others() {
    let mut rib = Rib::new();
    apply(
        &mut rib,
        &[insert(router("r1")), insert(agent("a", "", &[]))],
    )
    .expect("written");
    let id = written(
        &mut rib,
        &[delete(router("r1")), delete(agent("a", "", &[]))],
    )
    .expect("waits");
    let named = |name: &str, uri: String| {
        caplane_proto::v1::entity::Entity::Router(caplane_proto::v1::Router {
            name: name.into(),
            uri,
            ..caplane_proto::v1::Router::default()
        })
    };
    refused(&mut rib, insert(named("r2", router_uri("r1"))));
    refused(&mut rib, insert(named("r2", agent_uri("a"))));
    apply(&mut rib, &[insert(router("r2"))]).expect("another one");
    change(&mut rib, NOW, |tx| cancel(tx, id, "ada")).expect("cancelled");
    let r1 = rib.router("r1").expect("is back");
    assert_eq!(r1.number, 1);
    assert_eq!(
        r1.since_generation,
        rib.generation(),
        "its router takes a snapshot"
    );
}

#[test]
fn a_card_that_says_the_same_in_other_words_comes_back_too() {
    let card = |description: &str| {
        caplane_proto::v1::entity::Entity::Agent(caplane_proto::v1::Agent {
            uri: agent_uri("a"),
            card: serde_json::json!({
                "name": "A", "description": description, "version": "1", "url": "http://localhost:1/",
                "protocolVersion": "0.3.0", "capabilities": {}, "defaultInputModes": ["text"],
                "defaultOutputModes": ["text"], "skills": [],
            })
            .to_string()
            .into_bytes(),
            ..caplane_proto::v1::Agent::default()
        })
    };
    let mut rib = Rib::new();
    apply(&mut rib, &[insert(card("one"))]).expect("written");
    let id = written(&mut rib, &[modify(card("two"))]).expect("waits");
    let refusal = refused(&mut rib, modify(card("three")));
    assert!(refusal.reason.starts_with("was changed by"), "{refusal}");
    change(&mut rib, NOW, |tx| confirm(tx, id, "ada")).expect("confirmed");
}

#[test]
fn cards_come_back_also_those_that_were_not_stored_yet() {
    let mut rib = Rib::new();
    let wait = Wait {
        caller: "ada".into(),
        seconds: 10,
    };
    let first = checked(&[insert(agent("a", "", &["book_hotel"]))]).expect("good");
    let second =
        checked(&[modify(agent("a", "", &[])), insert(agent("b", "", &[]))]).expect("good");
    let mut tx = Transaction {
        rib: &mut rib,
        generation: 1,
        now_unix_ms: NOW,
        cards: Vec::new(),
        verdicts: Vec::new(),
        store_id: None,
        origins: Vec::new(),
        notes: Vec::new(),
    };
    write::batch(&mut tx, &first, Atomicity::AllOrNone).expect("written");
    let given = tx.cards[0].clone();
    let start = Start::of(&tx);
    write::batch(&mut tx, &second, Atomicity::AllOrNone).expect("written");
    let record = hold(&mut tx, start, &wait, nothing_stored)
        .expect("kept")
        .expect("waits");
    tx.cards.clear();
    cancel(&mut tx, record.generation, "ada").expect("cancelled");
    let cards: BTreeMap<u32, Option<Vec<u8>>> = tx.cards.into_iter().collect();
    assert_eq!(cards, BTreeMap::from([given, (2, None)]));
}

/// The state in words: without numbers, which depend on what else was written.
fn words(rib: &Rib) -> BTreeSet<String> {
    let tenant = |id: u32| rib.tenant_name(id).expect("every tenant named is there");
    let policer = |name: &str| {
        let there = name.is_empty() || rib.policer(name).is_some();
        assert!(there, "every policer named is there");
    };
    let told = objects(rib).into_iter().filter_map(|object| {
        Some(match object {
            Object::Tenant(t) => {
                policer(&t.policer);
                format!("tenant {} {} {}", t.name, t.policer, t.direct)
            }
            Object::Agent(a) => {
                let policy = rib.policy_of(&a).map(|policy| policy.name.as_str());
                assert_eq!(
                    policy.is_none(),
                    a.policy == 0,
                    "every policy named is there"
                );
                format!(
                    "agent {} {} {} {:?} {policy:?} {}",
                    a.uri,
                    tenant(a.tenant),
                    a.weight,
                    a.skills,
                    a.out_of_service
                )
            }
            Object::Grant(g) => format!("{g:?}"),
            Object::Override(o) => format!("{o:?}"),
            Object::Router(r) => format!("router {} {}", r.name, r.uri),
            Object::Link(l) => format!("{l:?}"),
            Object::Permission(p) => {
                format!(
                    "permission {} {} {}",
                    tenant(p.from),
                    tenant(p.to),
                    p.class_path
                )
            }
            Object::Group(g) => format!("group {} {} {:?}", g.name, tenant(g.tenant), g.agents),
            Object::Policy(p) => {
                let allow = p.allow.iter();
                let allow: Vec<_> = allow
                    .map(|a| (tenant(a.tenant), a.class_path.as_str()))
                    .collect();
                policer(&p.policer);
                let shared = (p.nothing_else, p.priority_max, &p.policer, p.direct);
                format!(
                    "policy {} {} {allow:?} {shared:?}",
                    p.name,
                    tenant(p.tenant)
                )
            }
            Object::Policer(p) => {
                let classes = p.classes.iter();
                let classes: Vec<_> = classes
                    .map(|c| (tenant(c.class.tenant), c.class.class_path.as_str(), c.rate))
                    .collect();
                format!("policer {} {:?} {classes:?}", p.name, p.rate)
            }
            _ => return None,
        })
    });
    told.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Rolled back, it is as if it had never been written, whatever others wrote meanwhile.
    #[test]
    fn undoing_it_undoes_nothing_else(
        before in proptest::collection::vec(proptest::array::uniform6(0usize..1_000), 0..40),
        batch in proptest::collection::vec(proptest::array::uniform6(0usize..1_000), 1..12),
        meanwhile in proptest::collection::vec(proptest::array::uniform6(0usize..1_000), 0..30),
    ) {
        let mut rib = Rib::new();
        for dice in before {
            let _ = apply(&mut rib, &[any_update(dice)]);
        }
        let mut without = Rib::from_objects(objects(&rib), rib.generation());
        let first = Rib::from_objects(objects(&rib), rib.generation());
        let updates: Vec<_> = batch.into_iter().map(any_update).collect();
        let Some(id) = written(&mut rib, &updates) else {
            return Ok(());
        };
        for dice in meanwhile {
            let update = any_update(dice);
            let as_it_was = words(&rib);
            if apply(&mut rib, std::slice::from_ref(&update)).is_ok() && words(&rib) != as_it_was {
                let alone = apply(&mut without, &[update]);
                prop_assert!(alone.is_ok(), "{:?}", alone);
            }
        }
        let stored = Object::Pending(rib.pending(id).expect("waits").clone());
        let read = Object::from_bytes(13, &stored.to_bytes());
        prop_assert_eq!(read, Ok(stored));
        change(&mut rib, NOW, |tx| cancel(tx, id, "ada")).expect("cancelled");
        prop_assert_eq!(words(&rib), words(&without));
        for name in AGENTS {
            let number = |rib: &Rib| rib.agent(&agent_uri(name)).map(|agent| agent.number);
            if number(&first) == number(&without) {
                prop_assert_eq!(number(&rib), number(&first), "{}", name);
            }
        }
        for name in ROUTERS {
            let number = |rib: &Rib| rib.router(name).map(|router| router.number);
            if number(&first) == number(&without) {
                prop_assert_eq!(number(&rib), number(&first), "{}", name);
            }
        }
        let reloaded = Rib::from_objects(objects(&rib), rib.generation());
        prop_assert_eq!(everything(&rib), everything(&reloaded));
    }
}

#[test]
fn a_grant_that_comes_back_finds_room() {
    let mut rib = Rib::new();
    apply(&mut rib, &[insert(grant("a", "travel"))]).expect("written");
    // As many as there may be; the test taxonomy has not as many classes.
    change(&mut rib, NOW, |tx| {
        for i in 1..write::GRANTS_MAX {
            tx.rib.put(Object::Grant(GrantRecord {
                agent: agent_uri("a"),
                class_path: format!("lost/{i}"),
                ..GrantRecord::default()
            }));
        }
        Ok(())
    })
    .expect("written");
    let id = written(&mut rib, &[delete(grant("a", "travel"))]).expect("waits");
    let refusal = apply(&mut rib, &[insert(grant("a", "finance"))]).expect_err("kept free");
    assert_eq!(refusal.fault, Fault::Full, "{refusal}");
    apply(&mut rib, &[insert(grant("b", "finance"))]).expect("another one's");
    change(&mut rib, NOW, |tx| cancel(tx, id, "ada")).expect("cancelled");
    assert!(rib.grant(&agent_uri("a"), "travel").is_some(), "is back");
    assert_eq!(rib.grants_of(&agent_uri("a")).count(), write::GRANTS_MAX);
    // Confirmed, the room is for others.
    let id = written(&mut rib, &[delete(grant("a", "travel"))]).expect("waits");
    change(&mut rib, NOW, |tx| confirm(tx, id, "ada")).expect("confirmed");
    apply(&mut rib, &[insert(grant("a", "finance"))]).expect("there is room");
}
