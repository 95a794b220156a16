//! Who serves a class that nobody serves, and what a cut link changes.

use caplane::fabric::FabricConfig;
use caplane_client::{FlowOptions, NoticeCode, SendError};
use tokio::task::JoinSet;

use crate::stage::{CONVERSION, PARENT, RATES, Stage, answer, eventually, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_class_nobody_serves_goes_to_its_parents_own_members_and_never_to_a_sibling() {
    let mut stage = Stage::line(2).await;
    let sibling = stage.register("shared", "sibling", RATES, 0).await;
    let generalist = stage.register("shared", "generalist", PARENT, 0).await;
    let asker = stage.register("shared", "asker", "", 0).await;
    let sibling = stage.attach(&sibling, "r2", "one").await;
    let asker = stage.attach(&asker, "r1", "one").await;
    stage.settled(2).await;
    let _sibling = answer(&sibling, "sibling");
    let destination = stage.destination(&asker, CONVERSION).await;

    let flow = asker.flow(destination, FlowOptions::default());
    let error = within("a notice", flow.request("?"))
        .await
        .expect_err("a sibling never serves");
    assert!(
        matches!(
            error,
            SendError::Refused {
                code: NoticeCode::NoRoute,
                ..
            }
        ),
        "{error}"
    );
    assert!(
        stage
            .metric("r1", "router_drops_total", &[("reason", "no_route")])
            .await
            >= 1.0
    );

    // The parent asked for reaches whoever is anywhere below it.
    let parent = stage.destination(&asker, PARENT).await;
    let flow = asker.flow(parent, FlowOptions::default());
    let reply = within("the subtree serves", flow.request("?"))
        .await
        .expect("answered");
    assert_eq!(&reply.payload()[..], b"sibling");

    let generalist = stage.attach(&generalist, "r2", "one").await;
    stage.settled(3).await;
    let _generalist = answer(&generalist, "generalist");
    let flow = asker.flow(destination, FlowOptions::default());
    for _ in 0..20 {
        let reply = within("the generalist serves", flow.request("?"))
            .await
            .expect("answered");
        assert_eq!(&reply.payload()[..], b"generalist");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ring_with_one_link_cut_delivers_everything_the_other_way_round() {
    let mut stage =
        Stage::with(|folder| FabricConfig::ring(folder, 3).expect("programs are built")).await;
    let near = stage.register("shared", "near", CONVERSION, 0).await;
    let far = stage.register("shared", "far", CONVERSION, 0).await;
    let asker = stage.register("shared", "asker", "", 0).await;
    let near = stage.attach(&near, "r2", "one").await;
    let far = stage.attach(&far, "r3", "one").await;
    let asker = stage.attach(&asker, "r1", "one").await;
    stage.settled(3).await;
    let served = [answer(&near, "r2"), answer(&far, "r3")];
    let destination = stage.destination(&asker, CONVERSION).await;

    stage.remove_link("r1", "r3").await;
    stage.fabric.wait_live().await.expect("live");
    eventually("r1 has let go of the link", || async {
        stage.metric("r1", "router_links_alive", &[]).await == 1.0
    })
    .await;

    let mut requests = JoinSet::new();
    for n in 0..400 {
        let flow = asker.flow(destination, FlowOptions::default());
        requests.spawn(async move { flow.request(format!("{n}")).await.map(|r| r.into_payload()) });
    }
    let replies = within("all are answered", requests.join_all()).await;
    let mut by = [0_u32; 2];
    for reply in replies {
        let who = reply.expect("delivered whichever way");
        by[usize::from(&who[..] == b"r3")] += 1;
    }
    assert!(by[0] > 100 && by[1] > 100, "both serve: {by:?}");
    for router in ["r1", "r2", "r3"] {
        for reason in ["hop_limit", "no_route", "unreachable"] {
            let dropped = stage
                .metric(router, "router_drops_total", &[("reason", reason)])
                .await;
            assert_eq!(dropped, 0.0, "{router} dropped by {reason}");
        }
    }
    for client in [&near, &far, &asker] {
        client.close().await;
    }
    for task in served {
        task.await.expect("task");
    }
}
