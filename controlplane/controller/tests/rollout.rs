//! Which routers forward by what: told after the fact, waited for, and no more claimed than routers said.

mod bed;

use std::time::{Duration, Instant};

use bed::{Controller, Held, SimulatedRouter, agent_uri, router_uri, write};
use caplane_proto::v1;
use caplane_proto::v1::entity::Entity as Body;
use caplane_proto::v1::northbound_client::NorthboundClient;
use caplane_proto::v1::router_rollout::State;
use caplane_proto::v1::update::Type::{Delete, Insert};
use tonic::Code;
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

fn tenant(name: &str) -> Body {
    Body::Tenant(v1::Tenant {
        name: name.into(),
        id: 0,
        ..v1::Tenant::default()
    })
}

async fn open(controller: &Controller, name: &str, held: Held) -> SimulatedRouter {
    let mut router = SimulatedRouter::open(controller, name, held, Vec::new())
        .await
        .expect("accepted");
    let update = router.update().await;
    router.accept(update).await;
    router
}

async fn rollout(operator: &mut NorthboundClient<Channel>, generation: u64) -> v1::RolloutResponse {
    let request = v1::RolloutRequest { generation };
    operator.rollout(request).await.expect("told").into_inner()
}

/// Looks until a router stands there with a generation.
async fn until(
    operator: &mut NorthboundClient<Channel>,
    generation: u64,
    name: &str,
    state: State,
) -> v1::RouterRollout {
    let begun = Instant::now();
    loop {
        let told = rollout(operator, generation).await;
        let found = told
            .routers
            .into_iter()
            .find(|router| router.router == name);
        let found = found.expect("registered");
        if found.state() == state {
            return found;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{state:?}: {found:?}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A write that waits to be live, under way.
async fn waiting(
    controller: &Controller,
    ms: u32,
    updates: Vec<(v1::update::Type, Body)>,
) -> tokio::task::JoinHandle<(v1::WriteResponse, Duration)> {
    let mut operator = controller.operator().await;
    let request = v1::WriteRequest {
        wait_live_ms: ms,
        ..write(updates)
    };
    tokio::spawn(async move {
        let begun = Instant::now();
        let answer = operator.write(request).await.expect("written").into_inner();
        (answer, begun.elapsed())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_waits_for_routers_that_are_here_and_the_rollout_says_what_became_of_it() {
    let controller = Controller::start();
    let mut operator = controller.operator().await;
    let setup = ["r1", "r2", "r3"].map(|name| (Insert, router(name)));
    operator.write(write(setup.into())).await.expect("written");
    let mut r1 = open(&controller, "r1", Held::default()).await;
    let mut r2 = open(&controller, "r2", Held::default()).await;
    r1.follow(r2.generation).await;

    let written = waiting(&controller, 30_000, vec![(Insert, agent("a"))]).await;
    for router in [&mut r1, &mut r2] {
        let update = router.update().await;
        assert!(!written.is_finished(), "nobody forwards by it yet");
        router.accept(update).await;
    }
    let (answer, took) = written.await.expect("ends");
    assert!(
        took < Duration::from_secs(30),
        "as soon as the last says so: {took:?}"
    );
    let summary = answer.rollout.expect("asked for");
    assert_eq!(
        (summary.live, summary.connected, summary.routers),
        (2, 2, 3)
    );
    assert_eq!(summary.generation, answer.generation);
    let origin = v1::Origin {
        who: "spiffe://caplane.local/operator/ada".into(),
        what: "1 update".into(),
    };
    assert_eq!(summary.origins, [origin]);
    assert!(summary.entries > 0 && summary.committed_unix_ms > 0);
    let told = rollout(&mut operator, answer.generation).await;
    assert_eq!(told.summary, Some(summary));
    let live = &told.routers[0];
    assert_eq!((live.router.as_str(), live.state()), ("r1", State::Live));
    assert!(live.took_us > 0 && live.live_unix_ms > 0, "{live:?}");
    assert_eq!(live.applied_us, 7);
    assert_eq!(told.routers[2].state(), State::Away);

    // One refuses: nobody waits for it any longer, and it is said what it refused.
    let written = waiting(&controller, 30_000, vec![(Insert, agent("b"))]).await;
    let update = r1.update().await;
    r1.accept(update).await;
    let update = r2.update().await;
    r2.refuse(&update, false).await;
    let (answer, _) = written.await.expect("ends");
    let summary = answer.rollout.expect("asked for");
    assert_eq!((summary.live, summary.refused), (1, 1));
    let told = rollout(&mut operator, answer.generation).await;
    let refused = &told.routers[1];
    assert_eq!(refused.state(), State::Refused);
    assert_eq!(
        refused.refused[0].entity,
        format!("agent {}", agent_uri("b"))
    );
    assert_eq!(
        refused.refused[0].entry,
        format!("identity {}", agent_uri("b"))
    );
    assert_eq!(refused.refused[0].reason, "told to");
    assert!(refused.live_generation < answer.generation);

    // One says nothing: the time is over, and it is not claimed.
    let written = waiting(&controller, 300, vec![(Delete, agent("b"))]).await;
    let update = r1.update().await;
    r1.accept(update).await;
    let silent = r2.update().await;
    let (answer, took) = written.await.expect("ends");
    assert!(took >= Duration::from_millis(300), "{took:?}");
    assert_eq!(answer.rollout.expect("asked for").live, 1);
    until(&mut operator, answer.generation, "r2", State::Sent).await;
    r2.accept(silent).await;
    let live = until(&mut operator, answer.generation, "r2", State::Live).await;
    assert!(live.refused.is_empty());
    // The generation that it refused is in force with the later one.
    until(&mut operator, answer.generation - 1, "r2", State::Live).await;

    let status = operator
        .rollout(v1::RolloutRequest { generation: 99_999 })
        .await;
    assert_eq!(status.expect_err("not yet").code(), Code::NotFound);
    for request in [
        v1::WriteRequest {
            wait_live_ms: 60_001,
            ..write(vec![(Insert, tenant("t"))])
        },
        v1::WriteRequest {
            wait_live_ms: 1,
            dry_run: true,
            ..write(vec![(Insert, tenant("t"))])
        },
    ] {
        let status = operator.write(request).await.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with("wait_live_ms "), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_needs_a_snapshot_gets_one_at_once() {
    let controller = Controller::start();
    let mut operator = controller.operator().await;
    operator
        .write(write(vec![(Insert, router("r1"))]))
        .await
        .expect("written");
    let mut r1 = open(&controller, "r1", Held::default()).await;
    let done = operator.write(write(vec![(Insert, agent("a"))])).await;
    let generation = done.expect("written").into_inner().generation;
    let update = r1.update().await;
    assert!(update.base > 0, "a difference");
    r1.refuse(&update, true).await;
    let snapshot = r1.update().await;
    assert_eq!(
        (snapshot.base, snapshot.generation),
        (0, generation),
        "nobody wrote in between"
    );
    r1.accept(snapshot).await;
    until(&mut operator, generation, "r1", State::Live).await;

    // A snapshot that is refused is not sent again and again.
    operator
        .write(write(vec![(Delete, agent("a"))]))
        .await
        .expect("written");
    let update = r1.update().await;
    r1.refuse(&update, true).await;
    let snapshot = r1.update().await;
    r1.refuse(&snapshot, true).await;
    let done = operator.write(write(vec![(Insert, agent("b"))])).await;
    let generation = done.expect("written").into_inner().generation;
    let next = r1.update().await;
    assert_eq!(
        (next.base, next.generation),
        (0, generation),
        "with the next change"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_router_holds_is_not_claimed_to_be_live() {
    let controller = Controller::start();
    let mut operator = controller.operator().await;
    operator
        .write(write(vec![(Insert, router("r1"))]))
        .await
        .expect("written");
    let r1 = open(&controller, "r1", Held::default()).await;
    until(&mut operator, r1.generation, "r1", State::Live).await;
    let held = Held {
        live: Some(0),
        ..r1.held()
    };
    let generation = held.generation;
    r1.finish().await;
    until(&mut operator, generation, "r1", State::Away).await;
    let mut r1 = SimulatedRouter::open(&controller, "r1", held, Vec::new())
        .await
        .expect("accepted");
    let told = until(&mut operator, generation, "r1", State::Accepted).await;
    assert_eq!(
        (told.live_generation, told.live_unix_ms, told.took_us),
        (0, 0, 0)
    );
    let update = r1.update().await;
    assert!(update.upserts.is_empty(), "it holds the newest");
    r1.accept(update).await;
    until(&mut operator, generation, "r1", State::Live).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn generations_that_change_nothing_of_a_router_are_told_together() {
    let controller = Controller::start();
    let mut operator = controller.operator().await;
    operator
        .write(write(vec![(Insert, router("r1"))]))
        .await
        .expect("written");
    let mut r1 = open(&controller, "r1", Held::default()).await;
    let mut newest = 0;
    const WRITES: usize = 200;
    let begun = Instant::now();
    for i in 0..WRITES {
        let done = operator
            .write(write(vec![(Insert, tenant(&format!("t{i}")))]))
            .await;
        newest = done.expect("written").into_inner().generation;
    }
    let took = begun.elapsed();
    let mut updates = 0;
    while r1.generation < newest {
        let update = r1.update().await;
        assert!(update.upserts.is_empty() && update.removes.is_empty());
        r1.accept(update).await;
        updates += 1;
    }
    let most = 2 + took.as_millis() / 100;
    assert!(
        updates <= most,
        "{updates} updates for {WRITES} writes in {took:?}"
    );
    // What does change something is told at once, with them.
    operator
        .write(write(vec![(Insert, tenant("last"))]))
        .await
        .expect("written");
    let done = operator.write(write(vec![(Insert, agent("a"))])).await;
    let generation = done.expect("written").into_inner().generation;
    let update = loop {
        let update = r1.update().await;
        if !update.upserts.is_empty() {
            break update;
        }
        r1.accept(update).await;
    };
    assert_eq!(update.generation, generation);
}
