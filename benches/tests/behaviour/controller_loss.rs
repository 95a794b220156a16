//! Routers outlive the controller, and the controller outlives SIGKILL.

use std::time::Duration;

use caplane::fabric::{CONTROLLER, Signal};
use caplane_client::FlowOptions;

use crate::stage::{CONVERSION, Stage, answer, eventually, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_controller_costs_no_message_and_comes_back_with_the_same_generations() {
    let mut stage = Stage::line(2).await;
    let server = stage.register("shared", "server", CONVERSION, 0).await;
    let asker = stage.register("shared", "asker", "", 0).await;
    let known = stage.register("shared", "known", "", 0).await;
    let server = stage.attach(&server, "r2", "one").await;
    let asker = stage.attach(&asker, "r1", "one").await;
    stage.settled(2).await;
    let _served = answer(&server, "here");
    let destination = stage.destination(&asker, CONVERSION).await;
    let before = stage.fabric.wait_live().await.expect("live");

    // Traffic all the while.
    let traffic = {
        let asker = asker.clone();
        let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let flow = asker.flow(destination, FlowOptions::default());
            let mut sent = 0_u64;
            while stopped.try_recv().is_err() {
                let receipt = flow.send_receipted("tick").await.expect("taken");
                let receipt = receipt.await.expect("delivered");
                assert_eq!(receipt.attempts, 1, "message {sent} had to be sent again");
                sent += 1;
            }
            sent
        });
        (stop, task)
    };
    stage
        .fabric
        .stop(CONTROLLER, Signal::KILL)
        .await
        .expect("killed");
    // Forwarding goes on, and a known identity may attach meanwhile.
    let late = stage.client_config(&known, "r1", "late");
    let late = within(
        "attached without a controller",
        caplane_client::Client::attach(late),
    )
    .await
    .expect("attached");
    stage.fabric.restart(CONTROLLER).await.expect("back");
    stage.settled(3).await;
    let after = stage.fabric.wait_live().await.expect("live");
    assert!(after > before, "generation {after} follows {before}");
    for router in ["r1", "r2"] {
        let snapshots = stage
            .metric(router, "router_table_snapshots_total", &[])
            .await;
        assert_eq!(snapshots, 1.0, "{router} was brought up to date by deltas");
    }
    traffic.0.send(()).expect("running");
    let sent = within("traffic ends", traffic.1).await.expect("no loss");
    assert!(sent > 100, "{sent} messages flowed meanwhile");
    late.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_restarted_without_a_controller_forwards_by_its_stored_table_and_says_so() {
    let mut stage = Stage::line(2).await;
    let server = stage.register("shared", "server", CONVERSION, 0).await;
    let asker = stage.register("shared", "asker", "", 0).await;
    let server_client = stage.attach(&server, "r2", "one").await;
    let asker_client = stage.attach(&asker, "r1", "one").await;
    stage.settled(2).await;
    let _served = answer(&server_client, "here");
    let destination = stage.destination(&asker_client, CONVERSION).await;

    let generation = stage.fabric.wait_live().await.expect("live");
    let saved = format!("event=\"table_saved\" generation={generation}");
    let log = stage.fabric.log("r1").expect("a log");
    eventually("r1 has stored its table", || async {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains(&saved))
    })
    .await;

    stage
        .fabric
        .stop(CONTROLLER, Signal::KILL)
        .await
        .expect("killed");
    stage.fabric.stop("r1", Signal::KILL).await.expect("killed");
    stage.fabric.restart("r1").await.expect("back");
    // The client comes back by itself, and the link to r2 too.
    let request = async {
        loop {
            let flow = asker_client.flow(
                destination,
                FlowOptions::default().request_timeout(Duration::from_secs(2)),
            );
            if let Ok(reply) = flow.request("?").await {
                return reply.into_payload();
            }
        }
    };
    assert_eq!(&within("forwards again", request).await[..], b"here");
    eventually("says that it is stale", || async {
        stage.metric("r1", "router_table_stale", &[]).await == 1.0
    })
    .await;
    assert!(asker_client.attached().await.expect("attached").stale);

    stage.fabric.restart(CONTROLLER).await.expect("back");
    eventually("is not stale any more", || async {
        stage.metric("r1", "router_table_stale", &[]).await == 0.0
    })
    .await;
}
