//! What Write promises beyond a batch: errors as data, going on, compare and set, dry runs, and being sent twice.

mod bed;

use bed::{Controller, Held, SimulatedRouter, agent_uri, router_uri, sample_card, write};
use caplane_proto::v1;
use caplane_proto::v1::entity::Entity as Body;
use caplane_proto::v1::read_request::Kind;
use caplane_proto::v1::update::Type::{Delete, Insert, Modify};
use caplane_proto::v1::write_request::Atomicity;
use prost::Message;
use tonic::{Code, Status};

fn tenant(name: &str) -> Body {
    Body::Tenant(v1::Tenant {
        name: name.into(),
        id: 0,
        ..v1::Tenant::default()
    })
}

fn router(name: &str) -> Body {
    Body::Router(v1::Router {
        name: name.into(),
        uri: router_uri(name),
        ..v1::Router::default()
    })
}

fn agent(name: &str, card: Vec<u8>) -> Body {
    Body::Agent(v1::Agent {
        uri: agent_uri(name),
        card,
        ..v1::Agent::default()
    })
}

fn link(a: &str, b: &str, cost: u32) -> Body {
    Body::Link(v1::Link {
        a: a.into(),
        b: b.into(),
        cost,
    })
}

/// A detail of a status, as a client decodes it.
fn detail<T: Message + Default>(status: &Status, name: &str) -> Option<T> {
    let rich = v1::RichStatus::decode(status.details()).expect("details of a known form");
    assert_eq!(rich.code, status.code() as i32);
    assert_eq!(rich.message, status.message());
    let url = format!("type.googleapis.com/caplane.v1.{name}");
    let packed = rich.details.iter().find(|detail| detail.type_url == url)?;
    Some(T::decode(packed.value.as_slice()).expect("what its type says"))
}

fn fault(status: &Status) -> v1::ErrorDetail {
    detail(status, "ErrorDetail").expect("every refusal has one")
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_come_as_data() {
    let controller = Controller::start();
    let mut operator = controller.operator().await;
    let updates = vec![
        (Insert, tenant("good")),
        (Insert, link("r1", "r2", 70_000)),
        (Modify, tenant("nobody")),
    ];
    let status = operator.write(write(updates)).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    let first = fault(&status);
    assert_eq!(
        (
            first.field.as_str(),
            first.value.as_str(),
            first.update_index
        ),
        ("updates[1].link.cost", "70000", Some(1))
    );
    assert_eq!(first.accepted, ["0..=65535"]);
    let failure: v1::WriteFailure = detail(&status, "WriteFailure").expect("two are faulty");
    assert_eq!(failure.faulty, 2);
    let codes: Vec<i32> = failure.statuses.iter().map(|status| status.code).collect();
    assert_eq!(codes, [Code::InvalidArgument as i32, Code::NotFound as i32]);
    assert_eq!(failure.statuses[0].detail, Some(first));

    let status = operator.write(write(Vec::new())).await.expect_err("empty");
    assert_eq!(fault(&status).accepted, ["1..=10000"]);
    assert_eq!(fault(&status).update_index, None);
    let request = v1::ReadRequest {
        page_size: 1_000_000,
        kind: Kind::Agent.into(),
        ..v1::ReadRequest::default()
    };
    let status = operator.read(request).await.expect_err("too large a page");
    assert_eq!(fault(&status).field, "page_size");
    let status = operator.read(v1::ReadRequest::default()).await;
    let status = status.expect_err("no kind");
    assert!(
        fault(&status)
            .accepted
            .contains(&"SKILL_OVERRIDE".to_owned())
    );
    let status = operator.resolve(v1::ResolveRequest::default()).await;
    assert_eq!(fault(&status.expect_err("no target")).field, "query.target");

    // Too many to be told: the status is taken by a client all the same, and says how many.
    let long = "n".repeat(60);
    let updates = (0..10_000).map(|i| (Modify, tenant(&format!("{long}{}", i % 1_000))));
    let status = operator.write(write(updates.collect())).await;
    let status = status.expect_err("refused");
    assert_eq!(status.code(), Code::NotFound, "{status}");
    let failure: v1::WriteFailure = detail(&status, "WriteFailure").expect("many");
    assert_eq!(failure.faulty, 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_right_holds_when_asked_to_go_on() {
    let controller = Controller::start();
    let mut operator = controller.operator().await;
    let request = v1::WriteRequest {
        atomicity: Atomicity::ContinueOnError.into(),
        ..write(vec![
            (Insert, tenant("a")),
            (Insert, tenant("a")),
            (Insert, tenant("no name")),
            (Insert, tenant("b")),
            (Delete, tenant("nobody")),
        ])
    };
    let answer = operator.write(request).await.expect("goes on").into_inner();
    let codes: Vec<i32> = answer.statuses.iter().map(|status| status.code).collect();
    assert_eq!(
        codes,
        [
            0,
            Code::AlreadyExists as i32,
            Code::InvalidArgument as i32,
            0,
            Code::NotFound as i32
        ]
    );
    let told = answer.statuses[2].detail.as_ref().expect("told");
    assert_eq!(
        (told.field.as_str(), told.update_index),
        ("updates[2].tenant.name", Some(2))
    );
    assert!(answer.statuses[1].message.contains("is there already"));
    let ids: Vec<Option<u32>> = answer
        .entities
        .iter()
        .map(|entity| match &entity.entity {
            Some(Body::Tenant(tenant)) => Some(tenant.id),
            _ => None,
        })
        .collect();
    assert_eq!(
        ids,
        [Some(1), None, None, Some(2), None],
        "faulty ones took no number"
    );

    // All or none is what is meant when nothing is said; what is not known is refused.
    let status = operator
        .write(write(vec![(Insert, tenant("c")), (Insert, tenant("a"))]))
        .await
        .expect_err("refused");
    assert_eq!(status.code(), Code::AlreadyExists);
    let unknown = v1::WriteRequest {
        atomicity: 9,
        ..write(vec![(Insert, tenant("c"))])
    };
    let status = operator.write(unknown).await.expect_err("unknown");
    assert_eq!(
        fault(&status).accepted,
        ["ALL_OR_NONE", "CONTINUE_ON_ERROR"]
    );
    let done = operator.write(write(vec![(Insert, tenant("c"))])).await;
    let statuses = done.expect("written").into_inner().statuses;
    assert_eq!(statuses, [v1::UpdateStatus::default()], "one per update");
}

#[tokio::test(flavor = "multi_thread")]
async fn compare_and_set_is_lost_to_writers_only() {
    let controller = Controller::start();
    let mut operator = controller.operator().await;
    let setup = vec![(Insert, router("r1")), (Insert, tenant("a"))];
    operator.write(write(setup)).await.expect("written");
    let request = v1::ReadRequest {
        kind: Kind::Tenant.into(),
        ..v1::ReadRequest::default()
    };
    let seen = operator.read(request).await.expect("read").into_inner();
    // A router's address makes a generation, and is nobody's word.
    let mut r1 = SimulatedRouter::open(&controller, "r1", Held::default(), Vec::new())
        .await
        .expect("accepted");
    assert!(r1.accepted.generation > seen.generation);
    let update = r1.update().await;
    r1.accept(update).await;
    let expecting = |name: &str| v1::WriteRequest {
        expected_generation: Some(seen.generation),
        ..write(vec![(Insert, tenant(name))])
    };
    let won = operator.write(expecting("b")).await.expect("nobody wrote");
    let won = won.into_inner().generation;
    let status = operator.write(expecting("c")).await.expect_err("b did");
    assert_eq!(status.code(), Code::Aborted);
    let told = fault(&status);
    assert_eq!(told.field, "expected_generation");
    assert_eq!(told.accepted, [format!("{won}..={won}")]);
    assert!(told.remedy.contains("read again"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_what_each_router_then_gets() {
    let controller = Controller::start();
    let mut operator = controller.operator().await;
    let setup = ["r1", "r2", "r3"].map(|name| (Insert, router(name)));
    operator.write(write(setup.into())).await.expect("written");
    let mut r1 = SimulatedRouter::open(&controller, "r1", Held::default(), Vec::new())
        .await
        .expect("accepted");
    let update = r1.update().await;
    r1.accept(update).await;
    let request = write(vec![
        (Insert, link("r1", "r2", 3)),
        (Insert, agent("fx", sample_card("currency_agent.json"))),
    ]);
    let dry = v1::WriteRequest {
        dry_run: true,
        ..request.clone()
    };
    let tried = operator
        .write(dry.clone())
        .await
        .expect("tried")
        .into_inner();
    assert_eq!(tried.generation, r1.generation, "nothing was changed");
    let again = operator.write(dry).await.expect("tried").into_inner();
    assert_eq!(again, tried, "and nothing is left of it");

    let done = operator.write(request).await.expect("written").into_inner();
    // The link, then the ways over it.
    assert_eq!(done.generation, tried.generation + 2);
    assert_eq!(done.statuses, tried.statuses);
    let label = |answer: &v1::WriteResponse| match &answer.entities[1].entity {
        Some(Body::Agent(agent)) => agent.label,
        other => panic!("no agent: {other:?}"),
    };
    assert_eq!(label(&done), label(&tried), "the label it was promised");
    let names: Vec<&str> = tried
        .diff
        .iter()
        .map(|table| table.router.as_str())
        .collect();
    assert_eq!(names, ["", "r1", "r2"], "r3 has no link");
    let mut got: Vec<v1::Resource> = Vec::new();
    while r1.generation < done.generation {
        let update = r1.update().await;
        assert_eq!(update.removes, []);
        got.extend(update.upserts.iter().cloned());
        r1.accept(update).await;
    }
    let mut told: Vec<v1::Resource> = tried.diff[..2]
        .iter()
        .flat_map(|table| &table.entries)
        .filter_map(|entry| entry.after.clone())
        .collect();
    for resource in got.iter_mut().chain(&mut told) {
        resource.version = 0;
    }
    got.sort_by_key(Message::encode_to_vec);
    told.sort_by_key(Message::encode_to_vec);
    assert_eq!(told, got);

    // What goes is told with what it was.
    let dry = v1::WriteRequest {
        dry_run: true,
        ..write(vec![(Delete, link("r1", "r2", 0))])
    };
    let tried = operator.write(dry).await.expect("tried").into_inner();
    let counts: Vec<(u32, u32)> = tried.diff.iter().map(|t| (t.upserts, t.removes)).collect();
    assert_eq!(
        counts,
        [(0, 2), (0, 2)],
        "a neighbour and a way at both ends"
    );
    for entry in tried.diff.iter().flat_map(|table| &table.entries) {
        let before = entry.before.as_ref().expect("it is there");
        assert!(before.version > 0 && entry.after.is_none(), "{entry:?}");
        assert!(entry.entry.contains("router:"), "{entry:?}");
    }
    let refused = v1::WriteRequest {
        dry_run: true,
        ..write(vec![(Insert, router("r1"))])
    };
    let status = operator
        .write(refused)
        .await
        .expect_err("as the write would be");
    assert_eq!(status.code(), Code::AlreadyExists);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_with_a_key_is_done_once_also_across_sigkill() {
    let mut controller = Controller::start();
    let mut operator = controller.operator().await;
    let keyed = |key: &str, names: &[&str]| v1::WriteRequest {
        idempotency_key: key.into(),
        atomicity: Atomicity::ContinueOnError.into(),
        expected_generation: Some(0),
        ..write(names.iter().map(|name| (Insert, tenant(name))).collect())
    };
    let first = operator.write(keyed("k1", &["a", "a", "b"])).await;
    let first = first.expect("written").into_inner();
    assert!(!first.repeated_request);
    let later = operator.write(write(vec![(Insert, tenant("c"))])).await;
    let later = later.expect("written").into_inner().generation;
    // As if the answer had been lost.
    controller.kill();
    controller.run();
    let mut operator = controller.operator().await;
    let again = operator.write(keyed("k1", &["a", "a", "b"])).await;
    let again = again
        .expect("answered as it was, though others wrote since")
        .into_inner();
    assert!(again.repeated_request);
    assert_eq!(again.generation, first.generation);
    assert_eq!(again.entities, first.entities);
    let codes = |answer: &v1::WriteResponse| -> Vec<i32> {
        answer.statuses.iter().map(|status| status.code).collect()
    };
    assert_eq!(codes(&again), [0, Code::AlreadyExists as i32, 0]);
    assert_eq!(codes(&first), codes(&again));
    let request = v1::ReadRequest {
        kind: Kind::Tenant.into(),
        ..v1::ReadRequest::default()
    };
    let read = operator.read(request).await.expect("read").into_inner();
    assert_eq!(read.generation, later, "nothing was done");

    let status = operator.write(keyed("k1", &["d"])).await;
    let status = status.expect_err("another request");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(fault(&status).field, "idempotency_key");
    let status = operator.write(keyed(&"k".repeat(65), &["d"])).await;
    assert_eq!(
        fault(&status.expect_err("too long")).accepted,
        ["1..=64 bytes"]
    );
    let both = v1::WriteRequest {
        dry_run: true,
        ..keyed("k2", &["d"])
    };
    let status = operator.write(both).await.expect_err("nothing to remember");
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_never_more_than_a_client_takes() {
    let controller = Controller::start();
    // With gRPC's own limit of 4 MiB.
    let mut operator = controller.operator().await;
    let skills: Vec<_> = (0..40)
        .map(|i| {
            serde_json::json!({
                "id": format!("convert_currency_{i}"), "name": "Convert currency",
                "description": "Convert an amount between currencies", "tags": ["money"],
            })
        })
        .collect();
    let card = serde_json::json!({
        "name": "Many", "description": "-", "version": "1", "protocolVersion": "0.3.0",
        "url": "http://localhost:1/", "capabilities": {}, "defaultInputModes": ["text"],
        "defaultOutputModes": ["text"], "skills": skills,
    });
    let card = card.to_string().into_bytes();
    let agents = |action, prefix: &str| {
        let all = (0..1_000).map(|i| (action, agent(&format!("{prefix}{i}"), card.clone())));
        all.collect::<Vec<_>>()
    };
    let answer = operator.write(write(agents(Insert, "a"))).await;
    let answer = answer.expect("durable, and said so").into_inner();
    assert_eq!(
        (answer.entities.len(), answer.statuses.len()),
        (1_000, 1_000)
    );
    let given = answer
        .entities
        .iter()
        .filter(|entity| entity.entity.is_some());
    assert_eq!(given.count() + answer.entities_left_out as usize, 1_000);
    assert!(
        answer.entities_left_out > 0,
        "{} bytes",
        answer.encoded_len()
    );
    assert!(answer.encoded_len() < 3 * 1024 * 1024);

    // The same of statuses: every one of them a refusal with its texts.
    let again = v1::WriteRequest {
        atomicity: Atomicity::ContinueOnError.into(),
        ..write(
            (0..10_000)
                .map(|i| (Insert, agent(&format!("a{}", i % 1_000), Vec::new())))
                .collect(),
        )
    };
    let answer = operator.write(again).await.expect("goes on").into_inner();
    let exists = Code::AlreadyExists as i32;
    assert!(answer.statuses.iter().all(|status| status.code == exists));
    assert!(answer.statuses[0].detail.is_some() && answer.statuses[9_999].detail.is_none());

    let brief = v1::WriteRequest {
        omit_entities: true,
        ..write(agents(Delete, "a"))
    };
    let answer = operator.write(brief).await.expect("written").into_inner();
    assert_eq!((answer.entities.len(), answer.entities_left_out), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_can_be_written_back_and_changes_no_table() {
    let controller = Controller::start();
    let mut operator = controller.operator().await;
    let grant = Body::Grant(v1::Grant {
        agent_uri: agent_uri("fx"),
        class_path: "*".into(),
        weight: 7,
        ..v1::Grant::default()
    });
    let group = Body::Group(v1::Group {
        name: "g".into(),
        agent_uris: vec![agent_uri("fx")],
        ..v1::Group::default()
    });
    let permission = Body::Permission(v1::Permission {
        from: "t".into(),
        to: "u".into(),
        class_path: String::new(),
    });
    let setup = vec![
        (Insert, router("r1")),
        (Insert, router("r2")),
        (Insert, link("r1", "r2", 3)),
        (Insert, tenant("t")),
        (Insert, tenant("u")),
        (Insert, permission),
        (Insert, agent("fx", sample_card("currency_agent.json"))),
        (Insert, grant),
        (Insert, group),
    ];
    operator.write(write(setup)).await.expect("written");
    let kinds = [
        Kind::Tenant,
        Kind::Router,
        Kind::Link,
        Kind::Permission,
        Kind::Agent,
        Kind::Grant,
        Kind::Group,
    ];
    let mut before = Vec::new();
    for kind in kinds {
        let request = v1::ReadRequest {
            kind: kind.into(),
            ..v1::ReadRequest::default()
        };
        let read = operator.read(request).await.expect("read").into_inner();
        before.extend(read.entities.into_iter().filter_map(|entity| entity.entity));
    }
    assert_eq!(before.len(), 3 + 2 + 1 + 1 + 1 + 1 + 1);
    let back: Vec<_> = before.iter().map(|body| (Modify, body.clone())).collect();
    let dry = v1::WriteRequest {
        dry_run: true,
        ..write(back.clone())
    };
    let tried = operator.write(dry).await.expect("tried").into_inner();
    assert_eq!(tried.diff, [], "no table would differ");
    operator.write(write(back)).await.expect("written");
    let mut after = Vec::new();
    for kind in kinds {
        let request = v1::ReadRequest {
            kind: kind.into(),
            ..v1::ReadRequest::default()
        };
        let read = operator.read(request).await.expect("read").into_inner();
        after.extend(read.entities.into_iter().filter_map(|entity| entity.entity));
    }
    assert_eq!(after, before);
}
