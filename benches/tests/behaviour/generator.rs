//! The load generator as an operator uses it: a program of its own, pointed at routers that run already under a real
//! controller.

use std::process::Stdio;

use tokio::process::Command;

use crate::stage::{CONVERSION, Stage, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_measures_routers_that_run_already() {
    let mut stage = Stage::line(2).await;
    let sender = stage.register("shared", "sender", "", 0).await;
    let receiver = stage.register("shared", "receiver", CONVERSION, 0).await;
    stage.fabric.wait_live().await.expect("tables are live");
    let classes = stage.fabric.api().classes().await.expect("classes");
    let class = classes.iter().find(|class| class.path == CONVERSION);
    let class = caplane_client::Label::from_bits(class.expect("it is shipped").label);
    let pid = |router| stage.fabric.pid(router).expect("it runs").to_string();
    let address = |router| stage.fabric.router_address(router).expect("a router");

    let mut run = Command::new(env!("CARGO_BIN_EXE_caplane-load"));
    run.args(["run", "--json", "--size", "200", "--rate", "2000"])
        .args(["--duration", "1", "--warm-up", "1", "--flows", "20"])
        .args(["--router", address("r1"), "--egress", address("r2")])
        .args(["--router-pid", &pid("r1"), "--router-pid", &pid("r2")])
        .args(["--trust-domain", stage.fabric.authority().trust_domain()])
        .args(["--class", &class.to_string(), "--tenant", "0"])
        .arg("--roots")
        .arg(stage.fabric.roots())
        .arg("--sender-chain")
        .arg(&sender.files.chain)
        .arg("--sender-key")
        .arg(&sender.files.key)
        .arg("--receiver-chain")
        .arg(&receiver.files.chain)
        .arg("--receiver-key")
        .arg(&receiver.files.key)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let mut output = within("a run", run.output()).await.expect("it starts");
    for _ in 0..4 {
        // It says so when the machine gave it too little time.
        if !matches!(output.status.code(), Some(3 | 4)) {
            break;
        }
        output = within("a run", run.output()).await.expect("it starts");
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}\n{errors}");
    let report: serde_json::Value = serde_json::from_str(&text).expect("one JSON object");
    assert_eq!(report["verdict"], "valid");
    // It judged itself first, and knows that the routers are here.
    assert_eq!(report["self_test"]["verdict"], "valid", "{report}");
    assert_eq!(report["self_test"]["left_out"], serde_json::json!([]));
    assert_eq!(report["co_located"], true);
    // Those of the warm-up count too.
    let sent = report["sent"].as_u64().expect("a number");
    assert!((3_800..=4_200).contains(&sent), "{report}");
    assert_eq!(
        (&report["received"], &report["lost"]),
        (&report["sent"], &0.into())
    );
    assert!(
        report["router_cpu"]["ns_per_message"].is_number(),
        "{report}"
    );
    let forwarded = stage
        .metric("r1", "router_messages_forwarded_total", &[])
        .await;
    assert!(forwarded >= 2_000.0, "they went through r1: {forwarded}");
}
