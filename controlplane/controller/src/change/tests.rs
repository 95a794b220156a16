use caplane_proto::v1;
use caplane_proto::v1::ByeCode;
use caplane_proto::v1::entity::Entity as Body;
use caplane_wire::Label;

use super::*;
use crate::rib::Rib;
use crate::testbed::{
    agent, agent_uri, apply, attachment, change, checked, delete, grant, group, insert, link,
    modify, permission, router, router_label, tenant,
};

fn refused(rib: &mut Rib, update: v1::Update) -> Refusal {
    let generation = rib.generation();
    let refusal = apply(rib, &[update]).expect_err("must be refused");
    assert_eq!(rib.generation(), generation);
    refusal
}

fn fabric() -> Rib {
    let mut rib = Rib::new();
    let updates = [
        insert(router("r1")),
        insert(router("r2")),
        insert(link("r1", "r2", 1)),
        insert(tenant("t")),
        insert(agent("a", "t", &["book_hotel"])),
        insert(grant("a", "*")),
    ];
    apply(&mut rib, &updates).expect("accepted");
    rib
}

#[test]
fn each_refusal_names_field_value_and_remedy() {
    let mut rib = fabric();
    let cases: Vec<(v1::Update, Fault, &str)> = vec![
        (
            insert(agent("a", "t", &[])),
            Fault::Exists,
            "updates[0].agent.uri \"spiffe://caplane.local/tenant/t/agent/a\": is there already; use MODIFY",
        ),
        (
            modify(agent("zz", "t", &[])),
            Fault::Missing,
            "updates[0].agent.uri \"spiffe://caplane.local/tenant/t/agent/zz\": is not there; use INSERT",
        ),
        (
            insert(agent("b", "nowhere", &[])),
            Fault::Missing,
            "updates[0].agent.tenant \"nowhere\": there is no such tenant",
        ),
        (
            insert(grant("a", "travel/trains")),
            Fault::Invalid,
            "updates[0].grant.class_path \"travel/trains\": the taxonomy has no such class; look for it",
        ),
        (
            insert(link("r1", "r9", 1)),
            Fault::Missing,
            "updates[0].link.b \"r9\": there is no such router",
        ),
        (
            insert(link("r1", "r1", 1)),
            Fault::Invalid,
            "updates[0].link.b \"r1\": is the same router as a",
        ),
        (
            delete(router("r1")),
            Fault::State,
            "updates[0].router.name \"r1\": still has links to r2; DELETE the links first",
        ),
        (
            delete(tenant("t")),
            Fault::State,
            "updates[0].tenant.name \"t\": has agents",
        ),
        (
            insert(permission("t", "", "")),
            Fault::Invalid,
            "updates[0].permission.to \"shared\": every tenant reaches the shared one anyway",
        ),
        (
            insert(group("g", "", &["a"])),
            Fault::State,
            "is not an agent of tenant \"shared\"",
        ),
        (
            insert(router("no spaces")),
            Fault::Invalid,
            "updates[0].router.name \"no spaces\": is no name; use 1 to 64",
        ),
        (
            insert(Body::Agent(v1::Agent {
                uri: "http://a/b".into(),
                ..v1::Agent::default()
            })),
            Fault::Invalid,
            "updates[0].agent.uri \"http://a/b\"",
        ),
        (
            insert(Body::Agent(v1::Agent {
                uri: agent_uri("b"),
                card: b"{\n  \"name\": 7}".to_vec(),
                ..v1::Agent::default()
            })),
            Fault::Invalid,
            "agent card 2:",
        ),
        (
            insert(Body::Agent(v1::Agent {
                uri: agent_uri("b"),
                priority_max: Some(9),
                ..v1::Agent::default()
            })),
            Fault::Invalid,
            "updates[0].agent.priority_max \"9\": is no priority",
        ),
        (
            insert(Body::Override(v1::SkillOverride {
                agent_uri: agent_uri("a"),
                skill_id: "sing".into(),
                class_path: "travel".into(),
            })),
            Fault::Missing,
            "the agent's card has no such skill; its skills are: book_hotel",
        ),
        (
            insert(Body::Router(v1::Router {
                name: "r3".into(),
                uri: agent_uri("a"),
                ..v1::Router::default()
            })),
            Fault::Exists,
            "is the identity of an agent",
        ),
        (
            insert(Body::Class(v1::Class::default())),
            Fault::State,
            "classes are read only here; edit the taxonomy file",
        ),
        (
            v1::Update::default(),
            Fault::Invalid,
            "updates[0].type \"0\": says nothing; use INSERT, MODIFY or DELETE",
        ),
    ];
    for (update, fault, told) in cases {
        let refusal = refused(&mut rib, update.clone());
        assert_eq!(refusal.fault, fault, "{refusal}");
        assert!(refusal.to_string().contains(told), "{refusal}");
    }
    let none = apply(&mut rib, &[]).expect_err("empty");
    assert!(none.to_string().contains("1 to 10000"), "{none}");
}

#[test]
fn deleting_an_agent_takes_its_grants_and_closes_its_instances() {
    let mut rib = fabric();
    let up = attachment(&rib, "a", 1, "pod");
    let r1 = router_label(&rib, "r1");
    change(&mut rib, 1, |tx| {
        attach::report(tx, r1, std::slice::from_ref(&up), &[])
    })
    .expect("reported");
    let parsed = checked(&[delete(agent("a", "", &[]))]).expect("good");
    let (_, verdicts) = change(&mut rib, 1, |tx| {
        write::batch(tx, &parsed, Atomicity::AllOrNone)
    })
    .expect("accepted");
    assert_eq!(verdicts.len(), 1);
    assert_eq!(verdicts[0].0, r1);
    assert_eq!(verdicts[0].1.code(), ByeCode::Withdrawn);
    assert_eq!(rib.grants_of(&agent_uri("a")).count(), 0);
    assert_eq!(rib.attached_at(r1).len(), 0);
}

#[test]
fn the_first_reporter_holds_an_instance_number() {
    let mut rib = fabric();
    let (r1, r2) = (router_label(&rib, "r1"), router_label(&rib, "r2"));
    let one = attachment(&rib, "a", 1, "pod-1");
    let other = attachment(&rib, "a", 1, "pod-2");
    let report = |rib: &mut Rib, router, up: &v1::Attachment| {
        change(rib, 1, |tx| {
            attach::report(tx, router, std::slice::from_ref(up), &[])
        })
        .expect("reported")
    };
    assert_eq!(report(&mut rib, r1, &one), (vec![], vec![]));
    let (refused, _) = report(&mut rib, r2, &other);
    assert_eq!(refused[0].code(), ByeCode::InstanceConflict);
    assert_eq!(refused[0].label, one.label);

    // A late "down" of the refused one must not take the holder away.
    change(&mut rib, 1, |tx| {
        attach::report(tx, r2, &[], std::slice::from_ref(&other))
    })
    .expect("reported");
    assert_eq!(rib.attached_at(r1).len(), 1);
}

#[test]
fn an_instance_that_moved_is_given_up_at_its_older_place() {
    let mut rib = fabric();
    let (r1, r2) = (router_label(&rib, "r1"), router_label(&rib, "r2"));
    let here = attachment(&rib, "a", 1, "pod");
    let there = attachment(&rib, "a", 2, "pod");
    change(&mut rib, 1, |tx| {
        attach::report(tx, r1, std::slice::from_ref(&here), &[])
    })
    .expect("reported");
    let (refused, verdicts) = change(&mut rib, 1, |tx| {
        attach::report(tx, r2, std::slice::from_ref(&there), &[])
    })
    .expect("reported");
    assert_eq!(refused, []);
    assert_eq!(verdicts[0].0, r1);
    assert_eq!(verdicts[0].1.code(), ByeCode::Replaced);
    assert_eq!(rib.attached_at(r1).len(), 0);
    assert_eq!(
        rib.attached_at(r2).collect::<Vec<_>>(),
        [Label::from_bits(there.label)]
    );
}

#[test]
fn a_router_that_lists_what_left_it_is_told_so() {
    let mut rib = fabric();
    let (r1, r2) = (router_label(&rib, "r1"), router_label(&rib, "r2"));
    let here = attachment(&rib, "a", 2, "pod");
    change(&mut rib, 50_000, |tx| {
        attach::report(tx, r2, std::slice::from_ref(&here), &[])
    })
    .expect("reported");
    // r1 opens a session and still lists the instance as of 10 s before it attached to r2.
    let mut stale = attachment(&rib, "a", 1, "pod");
    stale.age_ms = 12_000;
    let (refused, verdicts) = change(&mut rib, 52_000, |tx| {
        attach::open(tx, r1, "h:1", std::slice::from_ref(&stale))
    })
    .expect("opened");
    assert_eq!(
        (refused[0].code(), refused[0].label),
        (ByeCode::Replaced, stale.label)
    );
    assert_eq!(verdicts, []);
    assert_eq!(rib.attached_at(r2).len(), 1);
    // The other way round: the controller was away while it moved to r1.
    stale.age_ms = 1_000;
    let (refused, verdicts) =
        change(&mut rib, 52_000, |tx| attach::open(tx, r1, "h:1", &[stale])).expect("opened");
    assert_eq!(refused, []);
    assert_eq!(
        (verdicts[0].0, verdicts[0].1.code()),
        (r2, ByeCode::Replaced)
    );
    assert_eq!(
        (rib.attached_at(r1).len(), rib.attached_at(r2).len()),
        (1, 0)
    );
}

#[test]
fn what_is_not_registered_cannot_be_attached() {
    let mut rib = fabric();
    let r1 = router_label(&rib, "r1");
    let mut up = attachment(&rib, "a", 1, "pod");
    let code = |rib: &mut Rib, up: &v1::Attachment| {
        let (refused, _) = change(rib, 1, |tx| {
            attach::report(tx, r1, std::slice::from_ref(up), &[])
        })
        .expect("reported");
        refused[0].code()
    };
    up.label = Label::agent(77, 1).expect("a label").bits();
    assert_eq!(code(&mut rib, &up), ByeCode::Withdrawn);
    up.label = Label::agent(1, 0).expect("a label").bits();
    assert_eq!(code(&mut rib, &up), ByeCode::Protocol);
    up.label = Label::agent(1, 1).expect("a label").bits();
    up.uri = agent_uri("stranger");
    assert_eq!(code(&mut rib, &up), ByeCode::UnknownIdentity);
}

#[test]
fn opening_a_session_replaces_what_was_believed() {
    let mut rib = fabric();
    let r1 = router_label(&rib, "r1");
    let one = attachment(&rib, "a", 1, "x");
    let two = attachment(&rib, "a", 2, "y");
    for up in [vec![one], vec![two.clone()]] {
        change(&mut rib, 1, |tx| attach::open(tx, r1, "h:1", &up)).expect("opened");
    }
    assert_eq!(
        rib.attached_at(r1).collect::<Vec<_>>(),
        [Label::from_bits(two.label)]
    );
    assert_eq!(rib.router("r1").expect("there").address, "h:1");
    let mark = rib.mark();
    change(&mut rib, 1, |tx| attach::open(tx, r1, "h:1", &[two])).expect("opened");
    assert!(
        !rib.changed_since(mark),
        "saying the same again changes nothing"
    );
}

#[test]
fn a_lease_runs_only_while_nothing_is_attached() {
    let mut rib = fabric();
    let leased = Body::Agent(v1::Agent {
        uri: agent_uri("b"),
        lease_seconds: 10,
        ..v1::Agent::default()
    });
    // `apply` writes at 1 s; so it ends at 11 s.
    apply(&mut rib, &[insert(leased), insert(grant("b", "travel"))]).expect("accepted");
    let due = |rib: &Rib, now| rib.expired_agents(now).count();
    assert_eq!((due(&rib, 10_999), due(&rib, 11_000)), (0, 1));

    let r1 = router_label(&rib, "r1");
    let up = attachment(&rib, "b", 1, "pod");
    change(&mut rib, 5_000, |tx| {
        attach::report(tx, r1, std::slice::from_ref(&up), &[])
    })
    .expect("reported");
    assert_eq!(due(&rib, u64::MAX), 0);
    change(&mut rib, 60_000, |tx| {
        attach::report(tx, r1, &[], std::slice::from_ref(&up))
    })
    .expect("reported");
    assert_eq!((due(&rib, 69_999), due(&rib, 70_000)), (0, 1));

    let (ended, _) = change(&mut rib, 70_000, lease::expire_agents).expect("expired");
    assert_eq!(ended, [agent_uri("b")]);
    assert!(rib.agent(&agent_uri("b")).is_none());
    assert!(
        rib.grant(&agent_uri("b"), "travel").is_some(),
        "it may come back"
    );
}

#[test]
fn an_override_moves_a_skill() {
    let mut rib = fabric();
    let told = Body::Override(v1::SkillOverride {
        agent_uri: agent_uri("a"),
        skill_id: "book_hotel".into(),
        class_path: "finance".into(),
    });
    apply(&mut rib, &[insert(told.clone())]).expect("accepted");
    let classes = |rib: &Rib| {
        let agent = rib.agent(&agent_uri("a")).expect("there").clone();
        rib.memberships(&agent)
            .iter()
            .map(|member| member.class.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(classes(&rib), ["class:2"]);
    apply(&mut rib, &[delete(told)]).expect("accepted");
    assert_eq!(classes(&rib), ["class:1.1.1"]);
}

#[test]
fn a_deletion_reads_the_key_only() {
    let mut rib = fabric();
    apply(&mut rib, &[insert(group("g", "t", &["a"]))]).expect("accepted");
    let broken = v1::Agent {
        uri: agent_uri("a"),
        card: b"no card".to_vec(),
        tenant: "no name".into(),
        weight: 70_000,
        priority_max: Some(9),
        ..v1::Agent::default()
    };
    let heavy = v1::Grant {
        agent_uri: agent_uri("a"),
        class_path: "*".into(),
        weight: 70_000,
        ..v1::Grant::default()
    };
    let nobodys = v1::Group {
        name: "g".into(),
        tenant: "no name".into(),
        agent_uris: vec!["nobody".into()],
        label: 0,
    };
    let updates = [
        delete(link("r1", "r2", 70_000)),
        delete(Body::Grant(heavy)),
        delete(Body::Group(nobodys)),
        delete(Body::Agent(broken)),
    ];
    apply(&mut rib, &updates).expect("only the keys are read");
    assert_eq!(rib.agent_count(), 0);
}

#[test]
fn a_refused_batch_names_every_faulty_update() {
    let mut rib = fabric();
    rib.settle();
    rib.take_touched();
    let updates = [
        insert(tenant("u")),
        insert(router("no spaces")),
        insert(agent("b", "u", &[])),
        insert(tenant("t")),
        insert(agent("c", "nowhere", &[])),
    ];
    let refusal = apply(&mut rib, &updates).expect_err("three are faulty");
    let told: Vec<(Option<usize>, Fault)> = std::iter::once(&refusal)
        .chain(&refusal.about.further)
        .map(|refusal| (refusal.about.update, refusal.fault))
        .collect();
    assert_eq!(
        told,
        [
            (Some(1), Fault::Invalid),
            (Some(3), Fault::Exists),
            (Some(4), Fault::Missing),
        ]
    );
    assert_eq!(
        refusal.about.further[1].about.accepted,
        ["shared", "t", "u"],
        "as it is at that place in the batch"
    );
    assert!(
        rib.tenant("u").is_none() && rib.touched().is_empty(),
        "no trace"
    );
    assert_eq!(rib.intent_generation(), 1);
}

#[test]
fn refusals_say_what_would_be_accepted() {
    let mut rib = fabric();
    let mut accepted = |update| refused(&mut rib, update).about.accepted;
    assert_eq!(
        accepted(insert(grant("a", "travel/hotel")))
            .first()
            .map(String::as_str),
        Some("travel/hotels"),
        "the class that was meant, probably"
    );
    assert_eq!(accepted(insert(link("r1", "r9", 1))), ["r1", "r2"]);
    assert_eq!(accepted(insert(link("r1", "r2", 70_000))), ["0..=65535"]);
    assert_eq!(
        accepted(insert(router("no spaces"))),
        ["[A-Za-z0-9._-]{1,64}"]
    );
    assert_eq!(
        accepted(v1::Update::default()),
        ["INSERT", "MODIFY", "DELETE"]
    );
}

fn request(caller: &str, key: &str, digest: u8) -> once::RequestName {
    once::RequestName {
        caller: caller.into(),
        key: key.into(),
        digest: [digest; 32],
    }
}

fn remember(rib: &mut Rib, now: u64, name: once::RequestName) {
    let ((), _) = change(rib, now, |tx| {
        once::remember(tx, name, Vec::new());
        Ok(())
    })
    .expect("remembered");
}

fn recalled(rib: &mut Rib, now: u64, name: &once::RequestName) -> Result<Option<u64>, Refusal> {
    let known = change(rib, now, |tx| once::recall(tx, name))?;
    Ok(known.0.map(|record| record.generation))
}

#[test]
fn a_write_is_remembered_by_caller_and_key_for_a_day() {
    let mut rib = Rib::new();
    let name = request("ada", "k", 1);
    remember(&mut rib, 1_000, name.clone());
    let end = 1_000 + once::REMEMBERED_MS;
    assert_eq!(recalled(&mut rib, end - 1, &name), Ok(Some(1)));
    assert_eq!(
        recalled(&mut rib, end - 1, &request("bob", "k", 2)),
        Ok(None)
    );
    let refusal = recalled(&mut rib, end - 1, &request("ada", "k", 2)).expect_err("another");
    assert_eq!(refusal.fault, Fault::Invalid);
    assert!(
        refusal.to_string().contains("generation 1 holds"),
        "{refusal}"
    );
    assert_eq!(
        recalled(&mut rib, end, &request("ada", "k", 2)),
        Ok(None),
        "a day later"
    );
    remember(&mut rib, end, request("bob", "other", 3));
    assert_eq!(
        rib.request_count(),
        1,
        "ended ones are forgotten by the way"
    );
    assert_eq!(rib.intent_generation(), 0, "remembering is nobody's word");
}

#[test]
fn each_caller_has_so_many_and_the_oldest_falls_out() {
    let mut rib = Rib::new();
    remember(&mut rib, 1, request("bob", "k", 1));
    for i in 0..=once::REQUESTS_OF_CALLER_MAX {
        remember(&mut rib, 2 + i as u64, request("ada", &format!("k{i}"), 1));
        rib.settle();
    }
    assert_eq!(rib.request_count_of("ada"), once::REQUESTS_OF_CALLER_MAX);
    assert!(rib.request("ada", "k0").is_none() && rib.request("ada", "k1").is_some());
    assert!(rib.request("bob", "k").is_some(), "others keep theirs");
}
