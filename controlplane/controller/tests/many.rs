//! A router with more instances than one gRPC message of the usual size holds.

mod bed;

use bed::{Controller, DEADLINE, Held, SimulatedRouter, agent_uri, router_uri, write};
use caplane_proto::v1;
use caplane_proto::v1::controller_message::Message as FromController;
use caplane_proto::v1::entity::Entity as Body;
use caplane_proto::v1::update::Type::Insert;
use prost::Message as _;

/// gRPC's usual bound of one message (bytes).
const GRPC_MESSAGE_BYTES: usize = 4 << 20;
const AGENTS: usize = 500;
const INSTANCES: usize = 60;

fn attachments(agents: &[v1::Agent]) -> Vec<v1::Attachment> {
    let mut all = Vec::new();
    for agent in agents {
        for number in 1..=INSTANCES as u32 {
            all.push(v1::Attachment {
                uri: agent.uri.clone(),
                label: agent.label + number,
                // As long as a name may be.
                instance_name: format!("{:-^64}", number),
                agent_card: Vec::new(),
                age_ms: 1_000,
            });
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_opens_with_thirty_thousand_attachments_and_as_many_may_be_refused() {
    let controller = Controller::start();
    let mut operator = controller.operator().await;
    let routers = ["r1", "r2"].map(|name| v1::Router {
        name: name.into(),
        uri: router_uri(name),
        ..v1::Router::default()
    });
    let routers = routers.map(|router| (Insert, Body::Router(router)));
    let written = operator.write(write(routers.to_vec())).await;
    written.expect("routers are registered");
    let agents = (0..AGENTS).map(|n| v1::Agent {
        uri: agent_uri(&format!("{n:a>40}")),
        ..v1::Agent::default()
    });
    let agents = agents.map(|agent| (Insert, Body::Agent(agent)));
    let written = operator.write(write(agents.collect())).await;
    let written = written.expect("agents are registered").into_inner();
    let agents: Vec<v1::Agent> = written
        .entities
        .into_iter()
        .filter_map(|entity| match entity.entity {
            Some(Body::Agent(agent)) => Some(agent),
            _ => None,
        })
        .collect();
    assert_eq!(agents.len(), AGENTS);
    let all = attachments(&agents);
    let bytes: usize = all.iter().map(|one| one.encoded_len()).sum();
    assert!(
        all.len() == 30_000 && bytes > GRPC_MESSAGE_BYTES,
        "{bytes} bytes"
    );

    let mut r1 = SimulatedRouter::open(&controller, "r1", Held::default(), all.clone())
        .await
        .expect("accepted");
    let snapshot = r1.update().await;
    r1.accept(snapshot).await;
    let begun = std::time::Instant::now();
    loop {
        let request = v1::ReadRequest {
            kind: v1::read_request::Kind::Router.into(),
            key: "r1".into(),
            ..v1::ReadRequest::default()
        };
        let read = operator.read(request).await.expect("read").into_inner();
        let router = read.entities.into_iter().find_map(|entity| entity.entity);
        if matches!(router, Some(Body::Router(router)) if router.instances == 30_000) {
            break;
        }
        assert!(begun.elapsed() < DEADLINE, "not all are attached");
        tokio::task::yield_now().await;
    }

    // Strangers, as many, with names so long that what is said of them is too much for one message.
    let strangers: Vec<v1::Agent> = (0..AGENTS)
        .map(|n| v1::Agent {
            uri: agent_uri(&format!("{n:b>200}")),
            label: agents[n].label + (1 << 20 << 6),
            ..v1::Agent::default()
        })
        .collect();
    let strangers = attachments(&strangers);
    let mut r2 = SimulatedRouter::open(&controller, "r2", Held::default(), strangers)
        .await
        .expect("accepted");
    let (mut refused, mut bytes, mut parts) = (0, 0, 0);
    while refused < 30_000 {
        let FromController::Verdict(verdict) = r2.next().await.expect("told") else {
            continue;
        };
        assert!(verdict.encoded_len() <= 1 << 20, "a part");
        (refused, parts) = (refused + verdict.refused.len(), parts + 1);
        bytes += verdict.encoded_len();
    }
    eprintln!("30,000 refusals: {bytes} bytes in {parts} verdicts");
    assert!(
        bytes > GRPC_MESSAGE_BYTES && parts > 4,
        "{bytes} in {parts}"
    );
}
