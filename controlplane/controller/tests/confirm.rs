//! Writes that wait to be confirmed: confirmed, cancelled, extended, and rolled back by time, also while the controller was away.

mod bed;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bed::{Controller, Held, SimulatedRouter, agent_uri, router_uri, sample_card, write};
use caplane_proto::v1;
use caplane_proto::v1::confirm_request::Action;
use caplane_proto::v1::entity::Entity as Body;
use caplane_proto::v1::northbound_client::NorthboundClient;
use caplane_proto::v1::pending_commit::State;
use caplane_proto::v1::read_request::Kind;
use caplane_proto::v1::update::Type::{Delete, Insert, Modify};
use tonic::transport::Channel;
use tonic::{Code, Status};

fn tenant(name: &str) -> Body {
    Body::Tenant(v1::Tenant {
        name: name.into(),
        id: 0,
        ..v1::Tenant::default()
    })
}

fn agent(name: &str, weight: u32) -> Body {
    Body::Agent(v1::Agent {
        uri: agent_uri(name),
        card: sample_card("currency_agent.json"),
        weight,
        ..v1::Agent::default()
    })
}

fn waiting(seconds: u32, updates: Vec<(v1::update::Type, Body)>) -> v1::WriteRequest {
    v1::WriteRequest {
        confirm: Some(v1::CommitConfirmed {
            timeout_seconds: seconds,
        }),
        ..write(updates)
    }
}

async fn say(
    operator: &mut NorthboundClient<Channel>,
    id: &str,
    action: Action,
) -> Result<v1::PendingCommit, Status> {
    let request = v1::ConfirmRequest {
        id: id.into(),
        action: action.into(),
        extend_seconds: 300,
    };
    let answer = operator.confirm(request).await?.into_inner();
    let pending = answer.pending.expect("always");
    if pending.state() != State::Waiting {
        assert!(answer.generation >= pending.ended_generation);
    }
    Ok(pending)
}

async fn read(operator: &mut NorthboundClient<Channel>, kind: Kind) -> Vec<Body> {
    let request = v1::ReadRequest {
        kind: kind.into(),
        ..v1::ReadRequest::default()
    };
    let read = operator.read(request).await.expect("read").into_inner();
    read.entities
        .into_iter()
        .filter_map(|entity| entity.entity)
        .collect()
}

async fn commits(operator: &mut NorthboundClient<Channel>) -> Vec<v1::PendingCommit> {
    let all = read(operator, Kind::PendingCommit).await;
    all.into_iter()
        .map(|body| match body {
            Body::PendingCommit(pending) => pending,
            other => panic!("no commit: {other:?}"),
        })
        .collect()
}

fn now_unix_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    i64::try_from(since.as_millis()).expect("in range")
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_confirmed_cancelled_or_extended_by_whoever_says_so() {
    let controller = Controller::start();
    let mut operator = controller.operator().await;
    let dry = v1::WriteRequest {
        dry_run: true,
        ..waiting(5, vec![(Insert, tenant("a"))])
    };
    let tried = operator.write(dry).await.expect("tried").into_inner();
    assert_eq!(tried.pending, None, "nothing waits");
    let request = waiting(0, vec![(Insert, tenant("a"))]);
    let done = operator.write(request).await.expect("written").into_inner();
    let pending = done.pending.expect("waits");
    assert_eq!(pending.who, "spiffe://caplane.local/operator/ada");
    assert_eq!((pending.generation, pending.objects), (done.generation, 1));
    let left = pending.deadline_unix_ms - now_unix_ms();
    assert!(
        (500_000..=600_000).contains(&left),
        "{left} ms of 10 minutes"
    );
    assert_eq!(commits(&mut operator).await, std::slice::from_ref(&pending));

    let second = operator
        .write(waiting(5, vec![(Insert, tenant("b"))]))
        .await;
    let status = second.expect_err("one at a time");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    let status = operator.write(write(vec![(Delete, tenant("a"))])).await;
    let status = status.expect_err("it waits");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(
        status.message().contains("updates[0].tenant \"a\""),
        "{status}"
    );
    operator
        .write(write(vec![(Insert, tenant("b"))]))
        .await
        .expect("all else goes on");

    let longer = say(&mut operator, &pending.id, Action::Extend)
        .await
        .expect("extended");
    assert_eq!(longer.state(), State::Waiting);
    assert!(
        longer.deadline_unix_ms < pending.deadline_unix_ms,
        "from now on"
    );
    let ended = say(&mut operator, &pending.id, Action::Confirm)
        .await
        .expect("confirmed");
    assert_eq!(ended.state(), State::Confirmed);
    say(&mut operator, &pending.id, Action::Confirm)
        .await
        .expect("once more");
    let status = say(&mut operator, &pending.id, Action::Cancel).await;
    assert_eq!(status.expect_err("holds").code(), Code::FailedPrecondition);
    operator
        .write(write(vec![(Delete, tenant("a"))]))
        .await
        .expect("nothing waits");

    let request = waiting(60, vec![(Insert, tenant("c")), (Delete, tenant("b"))]);
    let done = operator.write(request).await.expect("written").into_inner();
    let id = done.pending.expect("waits").id;
    say(&mut operator, &id, Action::Cancel)
        .await
        .expect("cancelled");
    let names: Vec<String> = read(&mut operator, Kind::Tenant)
        .await
        .into_iter()
        .filter_map(|body| match body {
            Body::Tenant(tenant) => Some(tenant.name),
            _ => None,
        })
        .collect();
    assert_eq!(names, ["b", "shared"]);
    let states: Vec<State> = commits(&mut operator)
        .await
        .iter()
        .map(|c| c.state())
        .collect();
    assert_eq!(states, [State::Confirmed, State::Cancelled]);

    for (id, action, code) in [
        ("x", Action::Confirm, Code::InvalidArgument),
        ("77777", Action::Confirm, Code::NotFound),
        (id.as_str(), Action::Unspecified, Code::InvalidArgument),
    ] {
        let status = say(&mut operator, id, action).await.expect_err("refused");
        assert_eq!(status.code(), code, "{status}");
    }
    let long = operator
        .write(waiting(86_401, vec![(Insert, tenant("d"))]))
        .await;
    let status = long.expect_err("too long");
    assert!(
        status
            .message()
            .starts_with("confirm.timeout_seconds \"86401\""),
        "{status}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn routers_get_back_what_they_had_when_time_is_over() {
    let controller = Controller::start();
    let mut operator = controller.operator().await;
    let router = Body::Router(v1::Router {
        name: "r1".into(),
        uri: router_uri("r1"),
        ..v1::Router::default()
    });
    let setup = vec![
        (Insert, router),
        (Insert, agent("fx", 10)),
        (Insert, agent("gone", 0)),
    ];
    let done = operator
        .write(write(setup))
        .await
        .expect("written")
        .into_inner();
    let mut r1 = SimulatedRouter::open(&controller, "r1", Held::default(), Vec::new())
        .await
        .expect("accepted");
    r1.follow(done.generation).await;
    let (entries, agents) = (r1.entries(), read(&mut operator, Kind::Agent).await);
    let request = waiting(
        1,
        vec![
            (Modify, agent("fx", 20)),
            (Delete, agent("gone", 0)),
            (Insert, agent("new", 0)),
        ],
    );
    let done = operator.write(request).await.expect("written").into_inner();
    r1.follow(done.generation).await;
    assert_ne!(r1.entries(), entries);
    let deadline = done.pending.expect("waits").deadline_unix_ms;
    r1.follow(done.generation + 1).await;
    assert!(now_unix_ms() >= deadline, "not before its time");
    assert_eq!(r1.entries(), entries);
    assert_eq!(
        read(&mut operator, Kind::Agent).await,
        agents,
        "labels and cards too"
    );
    let ended = commits(&mut operator).await;
    assert_eq!(
        (ended[0].state(), ended[0].ended_by.as_str()),
        (State::Expired, "")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_rolled_back_also_when_the_controller_was_away() {
    let mut controller = Controller::start();
    let mut operator = controller.operator().await;
    operator
        .write(write(vec![(Insert, agent("fx", 10))]))
        .await
        .expect("written");
    let agents = read(&mut operator, Kind::Agent).await;
    let keyed = v1::WriteRequest {
        idempotency_key: "k".into(),
        ..waiting(2, vec![(Modify, agent("fx", 20)), (Insert, tenant("t"))])
    };
    let done = operator
        .write(keyed.clone())
        .await
        .expect("written")
        .into_inner();
    let pending = done.pending.expect("waits");
    // It waits on, in the store.
    controller.kill();
    controller.run();
    let mut operator = controller.operator().await;
    let again = operator
        .write(keyed)
        .await
        .expect("answered as it was")
        .into_inner();
    assert!(again.repeated_request);
    assert_eq!(
        again.pending.map(|pending| pending.id),
        Some(pending.id.clone())
    );
    controller.kill();
    let runs = controller.log().len();
    while now_unix_ms() <= pending.deadline_unix_ms {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    controller.run();
    // It listens a moment before it says so.
    let begun = Instant::now();
    let log = loop {
        let log = controller.log()[runs..].to_owned();
        if log.contains("\"ready\"") || begun.elapsed() > bed::DEADLINE {
            break log;
        }
        std::thread::yield_now();
    };
    let place = |event: &str| {
        log.find(event)
            .unwrap_or_else(|| panic!("no {event} in:\n{log}"))
    };
    assert!(place("not_confirmed") < place("\"ready\""), "{log}");
    let mut operator = controller.operator().await;
    assert_eq!(read(&mut operator, Kind::Agent).await, agents);
    assert_eq!(commits(&mut operator).await[0].state(), State::Expired);
    let status = say(&mut operator, &pending.id, Action::Confirm).await;
    let status = status.expect_err("too late");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("rolled back"), "{status}");
}
