//! Tenants are apart unless a permission says otherwise; what is shared answers everybody.

use caplane_client::{Destination, FlowOptions, NoticeCode, Query, SendError};

use crate::stage::{CONVERSION, Stage, answer, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_agent_answers_a_tenants_and_a_tenants_agent_cannot_reach_anothers() {
    let mut stage = Stage::line(2).await;
    let shared = stage.register("shared", "bank", CONVERSION, 0).await;
    let red = stage.register("red", "asker", "", 0).await;
    let blue = stage.register("blue", "till", CONVERSION, 0).await;
    let shared = stage.attach(&shared, "r2", "one").await;
    let blue_client = stage.attach(&blue, "r2", "one").await;
    let red = stage.attach(&red, "r1", "one").await;
    stage.settled(3).await;
    let _served = [answer(&shared, "shared"), answer(&blue_client, "blue")];

    // The tenant's own class has no member: the shared one serves (WF-16: (T, exact), then (0, exact)).
    let own = red.attachment().expect("attached").tenant;
    let class = stage.destination(&red, CONVERSION).await.label;
    for tenant in [own, 0] {
        let flow = red.flow(Destination::new(class, tenant), FlowOptions::default());
        let reply = within("the shared agent answers", flow.request("?"))
            .await
            .expect("answered");
        assert_eq!(&reply.payload()[..], b"shared");
    }

    // Neither by class nor by agent does red reach blue.
    let theirs = blue_client.attachment().expect("attached").tenant;
    let by_agent = blue_client.address().expect("attached").label;
    for destination in [
        Destination::new(class, theirs),
        Destination::new(by_agent, 0),
        Destination::new(by_agent.any_instance(), 0),
    ] {
        let flow = red.flow(destination, FlowOptions::default());
        let error = within("a refusal", flow.request("?"))
            .await
            .expect_err("another tenant's");
        assert!(
            matches!(
                error,
                SendError::Refused {
                    code: NoticeCode::PolicyDenied,
                    ..
                }
            ),
            "{destination}: {error}"
        );
    }
    let found = red
        .resolve(Query::Agent(blue.uri.clone()))
        .await
        .expect("resolved");
    assert!(found.is_empty(), "red is told of {found:?}");

    // With a permission it does, and the answer comes back.
    stage.permit("red", "blue").await;
    stage.fabric.wait_live().await.expect("live");
    let flow = red.flow(Destination::new(class, theirs), FlowOptions::default());
    let reply = within("blue answers", flow.request("?"))
        .await
        .expect("answered");
    assert_eq!(&reply.payload()[..], b"blue");
}
