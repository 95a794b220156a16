//! Who leads, as routers and operators see it, with one controller on its own file.

mod bed;

use bed::{Controller, Held, SimulatedRouter, router_uri, write};
use caplane_proto::v1;
use caplane_proto::v1::entity::Entity as Body;
use caplane_proto::v1::update::Type::Insert;
use tonic::Code;

fn router(name: &str) -> Body {
    Body::Router(v1::Router {
        name: name.into(),
        uri: router_uri(name),
        ..v1::Router::default()
    })
}

#[tokio::test]
async fn each_start_leads_by_a_higher_id_and_who_has_a_lower_one_is_told() {
    let mut controller = Controller::start();
    let mut operator = controller.operator().await;
    operator
        .write(write(vec![(Insert, router("r1"))]))
        .await
        .expect("written");
    let status = operator.status(v1::StatusRequest {}).await;
    let first = status.expect("answers").into_inner();
    assert!(first.leading && first.election_id > 0, "{first:?}");
    assert_eq!((first.store.as_str(), first.generation), ("redb", 1));
    assert_eq!(first.intent_generation, 1);
    let leader = first.leader.clone().expect("itself");
    assert_eq!(leader.name, first.name);
    assert_eq!(
        leader.southbound,
        controller.addresses().southbound.to_string()
    );
    let r1 = SimulatedRouter::open(&controller, "r1", Held::default(), Vec::new())
        .await
        .expect("accepted");
    assert_eq!(r1.accepted.election_id, first.election_id);
    assert_eq!(r1.accepted.controller, first.name);
    let held = r1.held();
    r1.finish().await;
    drop(operator);

    controller.kill();
    controller.run();
    let mut operator = controller.operator().await;
    let status = operator.status(v1::StatusRequest {}).await;
    let second = status.expect("answers").into_inner();
    assert_eq!(second.store_id, first.store_id);
    assert!(second.election_id > first.election_id, "{second:?}");
    let mut r1 = SimulatedRouter::open(&controller, "r1", held.clone(), Vec::new())
        .await
        .expect("of an earlier one: accepted");
    assert_eq!(r1.accepted.election_id, second.election_id);
    // Each of its parts is checked to say the same.
    let update = r1.update().await;
    r1.accept(update).await;
    r1.finish().await;

    // A router that met a later one of this store, as when a copy of it runs elsewhere.
    let met = Held {
        election_id: second.election_id + 1,
        ..held
    };
    let refused = SimulatedRouter::open(&controller, "r1", met, Vec::new()).await;
    let status = refused.err().expect("refused");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(
        status.message().contains("stop one"),
        "{}",
        status.message()
    );
}
