//! Members of one class share its load; a member that dies leaves its flows to the others; replies find who asked.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use caplane_client::{Client, Flow, FlowOptions, SendError};

use tokio::task::JoinSet;

use crate::stage::{CONVERSION, Stage, answer, within};

/// Who answered a request on `flow`.
async fn served_by(flow: &Flow) -> Result<String, SendError> {
    let reply = flow.request("who?").await?;
    Ok(String::from_utf8_lossy(reply.payload()).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_agents_share_flows_by_weight_and_a_flow_stays() {
    let mut stage = Stage::line(2).await;
    let light = stage.register("shared", "light", CONVERSION, 100).await;
    let heavy = stage.register("shared", "heavy", CONVERSION, 300).await;
    let asker = stage.register("shared", "asker", "", 0).await;
    let light = stage.attach(&light, "r2", "one").await;
    let heavy = stage.attach(&heavy, "r2", "one").await;
    let asker = stage.attach(&asker, "r1", "one").await;
    stage.settled(3).await;
    let served = [answer(&light, "light"), answer(&heavy, "heavy")];
    let destination = stage.destination(&asker, CONVERSION).await;

    const FLOWS: usize = 800;
    let mut share = BTreeMap::<String, usize>::new();
    for n in 0..FLOWS {
        let flow = asker.flow(destination, FlowOptions::default());
        let first = served_by(&flow).await.expect("answered");
        if n % 40 == 0 {
            for _ in 0..5 {
                assert_eq!(
                    served_by(&flow).await.expect("answered"),
                    first,
                    "the flow moved"
                );
            }
        }
        *share.entry(first).or_default() += 1;
    }
    // Binomial with p = 1/4: 200 +- 5 standard deviations of 12.3.
    let light_share = share["light"];
    assert!(
        (139..=261).contains(&light_share),
        "weights 100 and 300 gave {share:?} of {FLOWS} flows"
    );
    for client in [&light, &heavy, &asker] {
        client.close().await;
    }
    let [light, heavy] = served;
    let total = light.await.expect("task") + heavy.await.expect("task");
    assert_eq!(total, FLOWS as u64 + (FLOWS as u64).div_ceil(40) * 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_of_a_killed_agent_go_on_with_the_other_within_two_seconds() {
    let mut stage = Stage::line(2).await;
    let doomed = stage.register("shared", "doomed", CONVERSION, 100).await;
    let survivor = stage.register("shared", "survivor", CONVERSION, 100).await;
    let asker = stage.register("shared", "asker", "", 0).await;
    let doomed = stage.listener(&doomed, "r2", "doomed").await;
    let survivor = stage.attach(&survivor, "r2", "one").await;
    let asker = stage.attach(&asker, "r1", "one").await;
    stage.settled(3).await;
    let _served = answer(&survivor, "survivor");
    let destination = stage.destination(&asker, CONVERSION).await;

    // Flows that the doomed one serves.
    let mut flows = Vec::new();
    while flows.len() < 10 {
        let flow = asker.flow(destination, FlowOptions::default());
        if served_by(&flow).await.expect("answered") == "doomed" {
            flows.push(flow);
        }
    }
    doomed.kill().await;
    let killed = Instant::now();
    let mut moves = JoinSet::new();
    for flow in flows {
        moves.spawn(async move {
            let receipt = flow.send_receipted("after the kill").await?.await?;
            Ok::<_, SendError>((receipt.from, killed.elapsed()))
        });
    }
    let moved = within("all flows have moved", moves.join_all()).await;
    let home = survivor.address().expect("attached");
    for outcome in moved {
        let (from, took) = outcome.expect("delivered to the survivor");
        assert_eq!(from, home);
        assert!(
            took < Duration::from_secs(2),
            "a flow took {took:?} to move"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_go_to_the_instance_that_asked() {
    let mut stage = Stage::line(2).await;
    let server = stage.register("shared", "server", CONVERSION, 0).await;
    let asker = stage.register("shared", "asker", "", 0).await;
    let server = stage.attach(&server, "r2", "one").await;
    let first = stage.attach(&asker, "r1", "first").await;
    let second = stage.attach(&asker, "r1", "second").await;
    stage.settled(3).await;
    let echo = server.clone();
    tokio::spawn(async move {
        while let Ok(delivery) = echo.recv().await {
            let payload = delivery.payload().clone();
            let _ = delivery.reply(payload).await;
        }
    });
    let destination = stage.destination(&first, CONVERSION).await;
    let ask = |client: &Client, name: &'static str| {
        let flow = client.flow(destination, FlowOptions::default());
        async move {
            for n in 0..100 {
                let question = format!("{name} {n}");
                let reply = flow.request(question.clone()).await.expect("answered");
                assert_eq!(reply.payload(), &question);
            }
        }
    };
    within("both have their answers", async {
        tokio::join!(ask(&first, "first"), ask(&second, "second"))
    })
    .await;
    assert_ne!(first.address(), second.address());
}
