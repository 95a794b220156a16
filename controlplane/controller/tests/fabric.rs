//! The controller process over real TLS: what orchestrators write, routers get; also after SIGKILL.

mod bed;

use bed::{Controller, DEADLINE, Held, SimulatedRouter, agent_uri, router_uri, sample_card, write};
use caplane_proto::v1;
use caplane_proto::v1::controller_message::Message as FromController;
use caplane_proto::v1::entity::Entity as Body;
use caplane_proto::v1::northbound_client::NorthboundClient;
use caplane_proto::v1::read_request::Kind;
use caplane_proto::v1::router_message::Message as ToController;
use caplane_proto::v1::update::Type::{Delete, Insert, Modify};
use tonic::Code;
use tonic::transport::Channel;

type Operator = NorthboundClient<Channel>;

fn router(name: &str) -> Body {
    Body::Router(v1::Router {
        name: name.into(),
        uri: router_uri(name),
        ..v1::Router::default()
    })
}

fn agent(name: &str, card: &str, tenant: &str) -> Body {
    Body::Agent(v1::Agent {
        uri: agent_uri(name),
        card: sample_card(card),
        tenant: tenant.into(),
        ..v1::Agent::default()
    })
}

fn grant(name: &str) -> Body {
    Body::Grant(v1::Grant {
        agent_uri: agent_uri(name),
        class_path: "*".into(),
        weight: 0,
        ..v1::Grant::default()
    })
}

async fn fabric(operator: &mut Operator) -> v1::WriteResponse {
    let updates = vec![
        (Insert, router("r1")),
        (Insert, router("r2")),
        (
            Insert,
            Body::Link(v1::Link {
                a: "r2".into(),
                b: "r1".into(),
                cost: 0,
            }),
        ),
        (
            Insert,
            Body::Tenant(v1::Tenant {
                name: "t".into(),
                id: 0,
                ..v1::Tenant::default()
            }),
        ),
        (Insert, agent("hotel", "hotel_booking_agent.json", "")),
        (Insert, agent("asker", "currency_agent.json", "t")),
        (Insert, grant("hotel")),
    ];
    let response = operator.write(write(updates)).await;
    response.expect("written").into_inner()
}

async fn read(operator: &mut Operator, kind: Kind, key: &str) -> Vec<Body> {
    let request = v1::ReadRequest {
        kind: kind.into(),
        key: key.into(),
        ..v1::ReadRequest::default()
    };
    let response = operator.read(request).await.expect("read").into_inner();
    response
        .entities
        .into_iter()
        .filter_map(|entity| entity.entity)
        .collect()
}

async fn read_agent(operator: &mut Operator, name: &str) -> v1::Agent {
    match read(operator, Kind::Agent, &agent_uri(name))
        .await
        .as_slice()
    {
        [Body::Agent(agent)] => agent.clone(),
        other => panic!("not one agent: {other:?}"),
    }
}

async fn read_router(operator: &mut Operator, name: &str) -> v1::Router {
    match read(operator, Kind::Router, name).await.as_slice() {
        [Body::Router(router)] => router.clone(),
        other => panic!("not one router: {other:?}"),
    }
}

/// Asks until a condition holds, or the deadline is past.
async fn until_router(
    operator: &mut Operator,
    name: &str,
    what: &str,
    holds: impl Fn(&v1::Router) -> bool,
) -> v1::Router {
    let begun = std::time::Instant::now();
    loop {
        let router = read_router(operator, name).await;
        if holds(&router) {
            return router;
        }
        assert!(begun.elapsed() < DEADLINE, "{what}: {router:?}");
        tokio::task::yield_now().await;
    }
}

fn instance(agent: &v1::Agent, number: u32, name: &str) -> v1::Attachment {
    v1::Attachment {
        uri: agent.uri.clone(),
        label: agent.label + number,
        instance_name: name.into(),
        agent_card: Vec::new(),
        age_ms: 0,
    }
}

fn resolve(target: v1::resolve::Target, asker: &str) -> v1::ResolveRequest {
    v1::ResolveRequest {
        query: Some(v1::Resolve {
            query_id: 0,
            target: Some(target),
            limit: 3,
            ..v1::Resolve::default()
        }),
        asker: asker.into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_read_back_with_what_the_controller_decided() {
    let controller = Controller::start();
    let mut operator = controller.operator().await;
    let written = fabric(&mut operator).await;
    assert_eq!(written.entities.len(), 7);

    let hotel = read_agent(&mut operator, "hotel").await;
    assert_eq!(
        hotel.card,
        sample_card("hotel_booking_agent.json"),
        "the card as it was"
    );
    assert_eq!((hotel.tenant.as_str(), hotel.weight), ("shared", 100));
    assert!(
        hotel.skills.iter().any(|skill| skill.granted),
        "{:?}",
        hotel.skills
    );
    for skill in &hotel.skills {
        assert!(!skill.provenance.is_empty(), "{skill:?}");
    }
    let links = read(&mut operator, Kind::Link, "").await;
    let link = Body::Link(v1::Link {
        a: "r1".into(),
        b: "r2".into(),
        cost: 1,
    });
    assert_eq!(links, [link]);
    assert!(read(&mut operator, Kind::Class, "").await.len() > 20);

    // Paged, one by one, each once.
    let (mut page, mut seen) = (String::new(), Vec::new());
    loop {
        let request = v1::ReadRequest {
            kind: Kind::Agent.into(),
            page_size: 1,
            page,
            ..v1::ReadRequest::default()
        };
        let response = operator.read(request).await.expect("read").into_inner();
        seen.extend(response.entities);
        page = response.next_page;
        if page.is_empty() {
            break;
        }
    }
    assert_eq!(seen.len(), 2);

    // All or nothing, and told why.
    let bad = write(vec![
        (Insert, router("r3")),
        (Modify, agent("nobody", "hotel_booking_agent.json", "")),
    ]);
    let status = operator.write(bad).await.expect_err("refused");
    assert_eq!(status.code(), Code::NotFound);
    assert!(
        status.message().starts_with("updates[1].agent.uri \""),
        "{status}"
    );
    assert_eq!(read(&mut operator, Kind::Router, "r3").await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn resolve_finds_by_text_path_and_id_what_the_asker_may_reach() {
    use v1::resolve::Target;
    let controller = Controller::start();
    let mut operator = controller.operator().await;
    fabric(&mut operator).await;
    let hotel = read_agent(&mut operator, "hotel").await;
    let class = hotel
        .skills
        .iter()
        .find(|skill| skill.granted)
        .expect("granted")
        .clone();
    let up = vec![instance(&hotel, 1, "pod")];
    let _r2 = SimulatedRouter::open(&controller, "r2", Held::default(), up)
        .await
        .expect("accepted");
    let asker = agent_uri("asker");
    let by_path = resolve(Target::Path(class.class_path.clone()), &asker);
    let found = operator
        .resolve(by_path)
        .await
        .expect("answered")
        .into_inner();
    assert_eq!(found.candidates[0].label, class.class_label);
    assert_eq!(
        (found.candidates[0].tenant, found.candidates[0].members),
        (0, 1),
        "in the shared tenant"
    );
    let by_text = resolve(Target::Text("book a hotel".into()), &asker);
    let found = operator
        .resolve(by_text)
        .await
        .expect("answered")
        .into_inner();
    assert_eq!(found.candidates[0].label, class.class_label, "{found:?}");
    let by_id = resolve(Target::AgentId(agent_uri("hotel")), &asker);
    let found = operator
        .resolve(by_id)
        .await
        .expect("answered")
        .into_inner();
    assert_eq!(found.candidates[0].label, hotel.label);
    // A shared agent may not reach a tenant's.
    let denied = resolve(Target::AgentId(asker.clone()), &agent_uri("hotel"));
    let found = operator
        .resolve(denied)
        .await
        .expect("answered")
        .into_inner();
    assert_eq!(found.candidates, []);
    let empty = resolve(Target::Text(" ".into()), &asker);
    let status = operator.resolve(empty).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_gets_a_snapshot_then_differences_and_its_answers_are_remembered() {
    let controller = Controller::start();
    let mut operator = controller.operator().await;
    let generation = fabric(&mut operator).await.generation;
    let hotel = read_agent(&mut operator, "hotel").await;

    let mut r1 = SimulatedRouter::open(&controller, "r1", Held::default(), vec![])
        .await
        .expect("accepted");
    assert_eq!(r1.accepted.router_name, "r1");
    let snapshot = r1.update().await;
    assert_eq!(snapshot.base, 0);
    assert!(
        snapshot.generation > generation,
        "its address made a generation"
    );
    assert!(
        snapshot.upserts.len() >= 6,
        "identities, policies, transit, neighbour"
    );
    r1.accept(snapshot).await;
    let status = until_router(&mut operator, "r1", "live", |router| {
        router.live_generation == r1.generation
    })
    .await;
    assert!(status.connected);
    assert_eq!(
        (status.live_took_us, status.software.as_str()),
        (7, "simulated 1")
    );
    assert_eq!(status.address, "r1.example:4433");

    // An attachment becomes routes.
    r1.send(ToController::Attachments(v1::AttachmentReport {
        up: vec![instance(&hotel, 1, "pod")],
        down: vec![],
    }))
    .await;
    let difference = r1.update().await;
    assert_eq!(difference.base, r1.generation);
    assert!(
        difference.upserts.len() >= 2,
        "the agent's route and its classes"
    );
    let routes = difference.upserts.len();
    r1.accept(difference).await;
    assert_eq!(
        read_agent(&mut operator, "hotel").await.instances[0].router,
        "r1"
    );

    // A refused update: remembered with its reason; the next starts from what was accepted.
    let held = r1.generation;
    let permission = Body::Permission(v1::Permission {
        from: "shared".into(),
        to: "t".into(),
        class_path: String::new(),
    });
    operator
        .write(write(vec![(Insert, permission.clone())]))
        .await
        .expect("written");
    let refused = r1.update().await;
    r1.send(ToController::Answer(v1::TableAnswer {
        nonce: refused.nonce,
        generation: refused.generation,
        rejected: vec![v1::Rejected {
            key: Some(bed::key_of(&refused.upserts[0])),
            reason: "told to".into(),
        }],
        needs_snapshot: false,
    }))
    .await;
    let status = until_router(&mut operator, "r1", "rejected", |router| {
        router.rejected_generation == refused.generation
    })
    .await;
    assert!(
        status.rejected_reasons[0].contains("policy group"),
        "{status:?}"
    );
    assert!(
        status.rejected_reasons[0].ends_with("told to"),
        "{status:?}"
    );
    operator
        .write(write(vec![(Delete, permission)]))
        .await
        .expect("written");
    let next = r1.update().await;
    assert_eq!(next.base, held);
    r1.accept(next).await;

    // Gone and back: a difference from what it held.
    let held = r1.held();
    drop(r1);
    until_router(&mut operator, "r1", "gone", |router| !router.connected).await;
    operator
        .write(write(vec![(
            Delete,
            agent("asker", "currency_agent.json", ""),
        )]))
        .await
        .expect("written");
    let mut r1 = SimulatedRouter::open(
        &controller,
        "r1",
        held.clone(),
        vec![instance(&hotel, 1, "pod")],
    )
    .await
    .expect("accepted");
    let difference = r1.update().await;
    assert_eq!(difference.base, held.generation);
    assert!(!difference.removes.is_empty(), "the agent's identity");
    r1.accept(difference).await;
    let mut fresh = SimulatedRouter::open(
        &controller,
        "r1",
        Held::default(),
        vec![instance(&hotel, 1, "pod")],
    )
    .await
    .expect("accepted");
    let snapshot = fresh.update().await;
    assert!(snapshot.upserts.len() >= routes);
    fresh.accept(snapshot).await;
    assert_eq!(
        fresh.entries(),
        r1.entries(),
        "differences lead to the same table"
    );
    let status = r1.next().await.expect_err("the newer session took over");
    assert_eq!(status.code(), Code::Aborted);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_sigkill_the_generations_go_on_and_routers_take_differences() {
    let mut controller = Controller::start();
    let mut operator = controller.operator().await;
    fabric(&mut operator).await;
    let hotel = read_agent(&mut operator, "hotel").await;
    let up = vec![instance(&hotel, 1, "pod")];
    let mut r1 = SimulatedRouter::open(&controller, "r1", Held::default(), up.clone())
        .await
        .expect("accepted");
    let snapshot = r1.update().await;
    r1.accept(snapshot).await;
    let held = r1.held();
    // The last thing it acknowledged must be there afterwards; the router has not seen it.
    drop(r1);
    let done = operator
        .write(write(vec![(Delete, grant("hotel"))]))
        .await
        .expect("written")
        .into_inner();
    controller.kill();

    controller.run();
    let mut operator = controller.operator().await;
    let mut r1 = SimulatedRouter::open(&controller, "r1", held.clone(), up)
        .await
        .expect("accepted");
    assert_eq!(r1.accepted.store_id, held.store_id);
    assert_eq!(
        r1.accepted.generation, done.generation,
        "nothing lost, nothing new"
    );
    let difference = r1.update().await;
    assert_eq!(
        (difference.base, difference.generation),
        (held.generation, done.generation)
    );
    assert_eq!(
        difference.upserts.len(),
        1,
        "the identity, without its classes"
    );
    assert!(!difference.removes.is_empty(), "the class routes");
    r1.accept(difference).await;
    let next = operator
        .write(write(vec![(Insert, grant("hotel"))]))
        .await
        .expect("written")
        .into_inner();
    // Who serves it, then who points there.
    assert_eq!(next.generation, done.generation + 2);
    r1.follow(next.generation).await;
    assert_eq!(r1.entries().len(), held.table.len());
    assert_eq!(
        controller.terminate(),
        Some(0),
        "log:\n{}",
        controller.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_is_told_a_silent_routers_attachments_end_and_a_relay_is_answered() {
    let controller = Controller::with("[timers]\nrouter_lease_ms = 600\n");
    let mut operator = controller.operator().await;
    fabric(&mut operator).await;
    let hotel = read_agent(&mut operator, "hotel").await;
    let mut r1 = SimulatedRouter::open(
        &controller,
        "r1",
        Held::default(),
        vec![instance(&hotel, 1, "one")],
    )
    .await
    .expect("accepted");
    let snapshot = r1.update().await;
    r1.accept(snapshot).await;
    let mut r2 = SimulatedRouter::open(
        &controller,
        "r2",
        Held::default(),
        vec![instance(&hotel, 1, "two")],
    )
    .await
    .expect("accepted");
    let FromController::Verdict(verdict) = r2.next().await.expect("told") else {
        panic!("expected the verdict first");
    };
    assert_eq!(verdict.refused[0].code(), v1::ByeCode::InstanceConflict);

    // r2 relays a question; r1 says nothing more.
    r2.send(ToController::Resolve(v1::ResolveRelay {
        relay_id: 4,
        asker: agent_uri("asker"),
        query: Some(v1::Resolve {
            query_id: 9,
            target: Some(v1::resolve::Target::AgentId(agent_uri("hotel"))),
            limit: 0,
            ..v1::Resolve::default()
        }),
    }))
    .await;
    let answer = loop {
        match r2.next().await.expect("answered") {
            FromController::Resolved(answer) => break answer,
            FromController::Update(_) => {}
            other => panic!("{other:?}"),
        }
    };
    let resolved = answer.answer.expect("set");
    assert_eq!((answer.relay_id, resolved.query_id), (4, 9));
    assert_eq!(resolved.candidates[0].label, hotel.label);

    let status = loop {
        if let Err(status) = r1.next().await {
            break status;
        }
    };
    assert_eq!(status.code(), Code::Aborted, "{status}");
    until_router(&mut operator, "r1", "attachments ended", |router| {
        router.instances == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_store_is_noticed_and_every_router_takes_a_snapshot() {
    let mut controller = Controller::start();
    let mut operator = controller.operator().await;
    fabric(&mut operator).await;
    let store = controller.state_dir().join("controller.redb");
    let copy = controller.state_dir().join("copy.redb");
    assert_eq!(controller.terminate(), Some(0));
    std::fs::copy(&store, &copy).expect("copied");
    controller.run();
    let mut r1 = SimulatedRouter::open(&controller, "r1", Held::default(), vec![])
        .await
        .expect("accepted");
    let snapshot = r1.update().await;
    r1.accept(snapshot).await;
    let held = r1.held();
    drop(r1);
    controller.kill();
    std::fs::copy(&copy, &store).expect("put back");

    controller.run();
    let mut r1 = SimulatedRouter::open(&controller, "r1", held.clone(), vec![])
        .await
        .expect("accepted");
    assert_ne!(r1.accepted.store_id, held.store_id);
    assert_eq!(r1.update().await.base, 0, "a snapshot");
    assert!(controller.log().contains("store_went_back"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_reads_nothing_delays_nobody_and_takes_one_update_for_all_it_missed() {
    let controller = Controller::start();
    let mut operator = controller.operator().await;
    fabric(&mut operator).await;
    // Identities of about 100 bytes: a snapshot of more than one part.
    for batch in 0..2 {
        let agents = (0..8_000)
            .map(|i| {
                let agent = v1::Agent {
                    uri: agent_uri(&format!("one-of-many-with-a-long-name-{batch}-{i}")),
                    ..v1::Agent::default()
                };
                (Insert, Body::Agent(agent))
            })
            .collect();
        operator.write(write(agents)).await.expect("written");
    }
    let mut slow = SimulatedRouter::open(&controller, "r1", Held::default(), vec![])
        .await
        .expect("accepted");
    let mut quick = SimulatedRouter::open(&controller, "r2", Held::default(), vec![])
        .await
        .expect("accepted");
    let snapshot = quick.update().await;
    assert!(snapshot.parts > 1, "in parts");
    quick.accept(snapshot).await;
    let mut newest = 0;
    for i in 0..100 {
        let action = if i % 2 == 0 { Delete } else { Insert };
        let done = operator.write(write(vec![(action, grant("hotel"))])).await;
        newest = done.expect("written").into_inner().generation;
    }
    quick.follow(newest).await;

    let first = slow.update().await;
    assert!(first.generation < newest, "made before the others");
    slow.accept(first).await;
    let rest = slow.update().await;
    assert_eq!(rest.generation, newest, "one update for all it missed");
    assert!(rest.upserts.len() <= 2, "each entry once, as it is now");
    slow.accept(rest).await;
    let shared = |router: &SimulatedRouter| {
        let mut entries = router.entries();
        entries.retain(|key, _| {
            let key = <v1::ResourceKey as prost::Message>::decode(key.as_slice());
            !matches!(
                key.expect("a key").key,
                Some(v1::resource_key::Key::Transit(_) | v1::resource_key::Key::Neighbour(_))
            )
        });
        entries
    };
    assert_eq!(shared(&slow), shared(&quick));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_router_says_last_holds_after_its_session() {
    let controller = Controller::start();
    let mut operator = controller.operator().await;
    fabric(&mut operator).await;
    let hotel = read_agent(&mut operator, "hotel").await;
    let here = instance(&hotel, 1, "pod");
    let r1 = SimulatedRouter::open(&controller, "r1", Held::default(), vec![here.clone()])
        .await
        .expect("accepted");
    assert_eq!(read_router(&mut operator, "r1").await.instances, 1);
    // A router that drains: its last report, then the end of the stream, without a pause.
    r1.send(ToController::Attachments(v1::AttachmentReport {
        up: vec![],
        down: vec![here],
    }))
    .await;
    r1.finish().await;
    until_router(&mut operator, "r1", "detached", |router| {
        router.instances == 0
    })
    .await;
    until_router(&mut operator, "r1", "gone", |router| !router.connected).await;
}
