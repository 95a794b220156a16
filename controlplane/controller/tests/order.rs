//! Make before break between routers: what others will point at is live before they do, what nobody points at any more
//! goes last, and a router that does not come along is not waited for twice.

mod bed;

use std::time::{Duration, Instant};

use bed::{Controller, Held, SimulatedRouter, agent_uri, router_uri, write};
use caplane_proto::v1;
use caplane_proto::v1::controller_message::Message as FromController;
use caplane_proto::v1::entity::Entity as Body;
use caplane_proto::v1::northbound_client::NorthboundClient;
use caplane_proto::v1::rollout_summary::Step;
use caplane_proto::v1::router_message::Message as ToController;
use caplane_proto::v1::router_rollout::State;
use caplane_proto::v1::update::Type::{Delete, Insert};
use tonic::transport::Channel;

fn router(name: &str) -> Body {
    Body::Router(v1::Router {
        name: name.into(),
        uri: router_uri(name),
        ..v1::Router::default()
    })
}

fn agent(name: &str) -> Body {
    Body::Agent(v1::Agent {
        uri: agent_uri(name),
        ..v1::Agent::default()
    })
}

fn grant(name: &str, class: &str) -> Body {
    Body::Grant(v1::Grant {
        agent_uri: agent_uri(name),
        class_path: class.into(),
        ..v1::Grant::default()
    })
}

async fn open(controller: &Controller, name: &str) -> SimulatedRouter {
    let router = SimulatedRouter::open(controller, name, Held::default(), Vec::new()).await;
    let mut router = router.expect("accepted");
    let update = router.update().await;
    router.accept(update).await;
    router
}

async fn rollout(operator: &mut NorthboundClient<Channel>, generation: u64) -> v1::RolloutResponse {
    let request = v1::RolloutRequest { generation };
    operator.rollout(request).await.expect("told").into_inner()
}

async fn written(
    operator: &mut NorthboundClient<Channel>,
    updates: Vec<(v1::update::Type, Body)>,
) -> u64 {
    let answer = operator.write(write(updates)).await.expect("written");
    answer.into_inner().generation
}

/// Two routers that forward by everything, an agent attached at the first.
async fn fabric(
    controller: &Controller,
) -> (NorthboundClient<Channel>, SimulatedRouter, SimulatedRouter) {
    let mut operator = controller.operator().await;
    let setup = vec![
        (Insert, router("r1")),
        (Insert, router("r2")),
        (Insert, agent("a")),
    ];
    written(&mut operator, setup).await;
    let (mut r1, mut r2) = (open(controller, "r1").await, open(controller, "r2").await);
    let request = v1::ReadRequest {
        kind: v1::read_request::Kind::Agent.into(),
        ..v1::ReadRequest::default()
    };
    let read = operator.read(request).await.expect("read").into_inner();
    let label = match &read.entities[0].entity {
        Some(Body::Agent(agent)) => agent.label + 1,
        other => panic!("{other:?}"),
    };
    r1.send(ToController::Attachments(v1::AttachmentReport {
        up: vec![v1::Attachment {
            uri: agent_uri("a"),
            label,
            instance_name: "pod".into(),
            ..v1::Attachment::default()
        }],
        down: Vec::new(),
    }))
    .await;
    for router in [&mut r1, &mut r2] {
        let update = router.update().await;
        assert_eq!(update.upserts.len(), 1, "an attachment is one step");
        router.accept(update).await;
    }
    (operator, r1, r2)
}

fn has_class(update: &bed::Update) -> bool {
    let is_class = |resource: &v1::Resource| {
        matches!(resource.resource, Some(v1::resource::Resource::Class(_)))
    };
    update.upserts.iter().any(is_class)
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_points_at_what_is_not_live_yet_and_withdrawn_agents_go_last() {
    let controller = Controller::with("[timers]\nmake_before_break_ms = 30000\n");
    let (mut operator, mut r1, mut r2) = fabric(&controller).await;
    let last = written(&mut operator, vec![(Insert, grant("a", "travel"))]).await;
    let make = r2.update().await;
    assert_eq!(
        make.generation,
        last - 1,
        "two generations, one after the other"
    );
    assert!(
        !has_class(&make),
        "who serves it, and nobody who points there"
    );
    r2.accept(make).await;
    // r1, where the agent is, has not said that it forwards by that.
    let slow = r1.update().await;
    let told = rollout(&mut operator, 0).await;
    let summary = told.summary.clone().expect("set");
    assert_eq!(
        (summary.generation, summary.last_generation, summary.step()),
        (last, last, Step::Point)
    );
    assert_eq!(summary.waits_for, ["r1"]);
    assert!(
        told.routers
            .iter()
            .all(|router| router.state() == State::HeldBack),
        "{told:?}"
    );
    let first = rollout(&mut operator, last - 1).await.summary.expect("set");
    assert_eq!((first.step(), first.last_generation), (Step::Make, last));
    r1.accept(slow).await;
    for router in [&mut r1, &mut r2] {
        let point = router.update().await;
        assert!(has_class(&point) && point.generation == last);
        router.accept(point).await;
    }

    // The other way round: routes go first, then who they led to, who is told last.
    let last = written(&mut operator, vec![(Delete, agent("a"))]).await;
    let (one, other) = (r1.update().await, r2.update().await);
    assert_eq!((one.generation, other.generation), (last - 1, last - 1));
    assert!(one.removes.len() > 1, "{:?}", one.removes);
    r1.accept(one).await;
    let begun = Instant::now();
    loop {
        let summary = rollout(&mut operator, last).await.summary.expect("set");
        if summary.waits_for == ["r2"] {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(15), "{summary:?}");
    }
    r2.accept(other).await;
    // The verdict and the table come from two tasks, in either order.
    let (mut verdict, mut gone) = (false, false);
    while !(verdict && gone) {
        match r1.next().await.expect("the session lives") {
            FromController::Verdict(told) => {
                assert_eq!(told.refused[0].code(), v1::ByeCode::Withdrawn);
                verdict = true;
            }
            FromController::Update(part) => {
                assert!(part.last && part.generation == last && !part.removes.is_empty());
                gone = true;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_come_along_is_not_waited_for_for_ever_nor_twice() {
    let controller = Controller::with("[timers]\nmake_before_break_ms = 400\n");
    let (mut operator, mut r1, mut r2) = fabric(&controller).await;
    let begun = Instant::now();
    let last = written(&mut operator, vec![(Insert, grant("a", "travel"))]).await;
    let _silent = r1.update().await;
    r2.follow(last).await;
    assert!(begun.elapsed() >= Duration::from_millis(400));
    let told = rollout(&mut operator, last).await.summary.expect("set");
    assert_eq!(told.gave_up_on, ["r1"]);
    let last = written(&mut operator, vec![(Delete, grant("a", "travel"))]).await;
    let third = written(&mut operator, vec![(Insert, grant("a", "finance"))]).await;
    r2.follow(third).await;
    assert!(third > last + 1, "steps of their own");
    for generation in [last, third] {
        let told = rollout(&mut operator, generation).await.summary;
        let gave_up_on = told.expect("set").gave_up_on;
        assert_eq!(gave_up_on, [""; 0], "nobody waits for r1 in {generation}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_waits_for_those_who_come_along_also_when_somebody_does_not() {
    let controller = Controller::with("[timers]\nmake_before_break_ms = 400\n");
    let (mut operator, mut r1, mut r2) = fabric(&controller).await;
    let last = written(&mut operator, vec![(Insert, grant("a", "travel"))]).await;
    for generation in [last - 1, last] {
        for router in [&mut r1, &mut r2] {
            let update = router.update().await;
            assert_eq!(update.generation, generation);
            router.accept(update).await;
        }
    }
    let moved = vec![
        (Delete, grant("a", "travel")),
        (Insert, grant("a", "finance")),
    ];
    let last = written(&mut operator, moved).await;
    let _silent = r1.update().await;
    let make = r2.update().await;
    assert_eq!(make.generation, last - 2, "three steps");
    r2.accept(make).await;
    // r1, where the agent is, is given up; that does not use up the time of r2 for the last step.
    let point = r2.update().await;
    assert_eq!(point.generation, last - 1);
    let summary = rollout(&mut operator, last - 1).await.summary.expect("set");
    assert_eq!(summary.gave_up_on, ["r1"]);
    r2.accept(point).await;
    r2.follow(last).await;
    let summary = rollout(&mut operator, last).await.summary.expect("set");
    assert_eq!(summary.gave_up_on, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_go_in_one_step_where_that_is_asked_for() {
    let controller = Controller::with("[timers]\nmake_before_break_ms = 0\n");
    let (mut operator, mut r1, _r2) = fabric(&controller).await;
    let before = r1.generation;
    let last = written(&mut operator, vec![(Insert, grant("a", "travel"))]).await;
    assert_eq!(last, before + 1);
    let whole = r1.update().await;
    assert!(has_class(&whole));
    let summary = rollout(&mut operator, last).await.summary.expect("set");
    assert_eq!(summary.step(), Step::Whole);
}
