//! A path whose MTU goes from 1500 to 1400 in mid flow: nothing is sent in IP fragments and nothing stalls.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use caplane::fabric::FabricConfig;
use caplane_client::{Client, Destination, FlowOptions};
use caplane_load::impair::{Command as Change, Conditions, DirectionCounters, Scope};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinSet;

use crate::namespace::{self, HERE, Neighbour};
use crate::relayed::Relayed;
use crate::stage::{CONVERSION, Stage, eventually, within};
use crate::traffic;

const MTU: u32 = 1_500;
const MTU_LOWERED: u32 = 1_400;
/// IPv4 and UDP headers.
const HEADERS: u64 = 28;
/// Acknowledgements are packets too: the mean is below what those with data have.
const LARGE: u64 = 1_300;
/// Longer than this without an answer is a stall. Doubt comes after a few probe timeouts.
const STALL: Duration = Duration::from_secs(5);
const FLOWS: u32 = 8;

/// Requests under way on several flows, until told to stop.
struct Requests {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    flows: JoinSet<Duration>,
}

impl Requests {
    /// Each request is answered with itself, or the test fails.
    fn start(client: &Client, to: Destination, bytes: usize) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut flows = JoinSet::new();
        for flow_number in 0..FLOWS {
            let flow = client.flow(to, FlowOptions::default());
            let (stop, answered) = (stop.clone(), answered.clone());
            flows.spawn(async move {
                let mut longest = Duration::ZERO;
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let (begun, payload) =
                        (Instant::now(), traffic::payload((flow_number, n), bytes));
                    let reply = flow.request(payload.clone()).await.expect("answered");
                    assert!(
                        *reply.payload() == payload,
                        "the echo of {flow_number}, {n}"
                    );
                    longest = longest.max(begun.elapsed());
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                longest
            });
        }
        Self {
            stop,
            answered,
            flows,
        }
    }

    /// Waits until `count` more were answered.
    async fn more(&self, count: u64) {
        let goal = self.answered.load(Ordering::Relaxed) + count;
        eventually("requests are answered", || async {
            self.answered.load(Ordering::Relaxed) >= goal
        })
        .await;
    }

    /// The longest time that one took.
    async fn end(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let longest = within("the last are answered", self.flows.join_all()).await;
        longest.into_iter().max().expect("flows")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_that_begin_to_vanish_between_two_routers_stall_nothing() {
    let conditions = Conditions::default().with_mtu(MTU as usize);
    let mut relayed = Relayed::start(conditions, "").await;
    let stage = &mut relayed.stage;
    let echo = stage.register("shared", "echo", CONVERSION, 0).await;
    let asker = stage.register("shared", "asker", "", 0).await;
    let echo = stage.attach(&echo, "r2", "one").await;
    let asker = stage.attach(&asker, "r1", "one").await;
    stage.settled(2).await;
    let echoing = tokio::spawn(async move {
        while let Ok(delivery) = echo.recv().await {
            let payload = delivery.payload().clone();
            let _ = delivery.reply(payload).await;
        }
    });
    let to = stage.destination(&asker, CONVERSION).await;
    let requests = Requests::start(&asker, to, 60_000);

    let link = &relayed.link;
    let mut seen = link.counters();
    loop {
        requests.more(50).await;
        let now = link.counters();
        let mean = [
            mean_packet(&seen.up, &now.up),
            mean_packet(&seen.down, &now.down),
        ];
        if mean.into_iter().all(|bytes| bytes > LARGE) {
            break;
        }
        seen = now;
    }

    let before = link.counters();
    link.command(Scope::Both, Change::Mtu(Some(MTU_LOWERED as usize)));
    requests.more(1_000).await;
    let after = link.counters();
    let longest = requests.end().await;
    let drops = relayed.drops().await;
    let vanished = [
        after.up.too_big - before.up.too_big,
        after.down.too_big - before.down.too_big,
    ];
    eprintln!("the longest request took {longest:?}; vanished {vanished:?}, dropped {drops:?}");
    assert!(
        vanished.into_iter().all(|n| n > 0),
        "large ones were in use: {vanished:?}"
    );
    assert!(longest < STALL, "a request took {longest:?}");
    asker.close().await;
    echoing.abort();
}

/// Bytes of the mean IP packet between two readings.
fn mean_packet(before: &DirectionCounters, after: &DirectionCounters) -> u64 {
    let packets = after.received - before.received;
    HEADERS + (after.received_bytes - before.received_bytes) / packets.max(1)
}

#[test]
fn a_link_of_the_system_that_becomes_smaller_sends_no_fragments_and_stalls_nothing() {
    if !namespace::inside() {
        return namespace::run_inside(
            "path_mtu::a_link_of_the_system_that_becomes_smaller_sends_no_fragments_and_stalls_nothing",
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime");
    runtime.block_on(a_link_becomes_smaller());
}

/// Router and asker in this namespace, the agent that echoes in another.
async fn a_link_becomes_smaller() {
    let neighbour = Neighbour::linked(MTU).await;
    let mut stage = Stage::with(|folder| {
        let mut config = FabricConfig::line(folder, 1).expect("programs are built");
        config.routers[0].listen = Some(format!("{HERE}:0").parse().expect("an address"));
        config
    })
    .await;
    let echo = stage.register("shared", "echo", CONVERSION, 0).await;
    let asker = stage.register("shared", "asker", "", 0).await;
    stage.fabric.wait_live().await.expect("live");
    let mut echoing = neighbour
        .command(program())
        .arg("listen")
        .args(["--as", "echo"])
        .arg("--state")
        .arg(stage.fabric.folder())
        .arg("--chain")
        .arg(&echo.files.chain)
        .arg("--key")
        .arg(&echo.files.key)
        .arg("--roots")
        .arg(stage.fabric.roots())
        .args([
            "--router",
            stage.fabric.router_address("r1").expect("a router"),
        ])
        .args(["--echo", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("nsenter runs");
    let mut lines = BufReader::new(echoing.stderr.take().expect("piped")).lines();
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            eprintln!("caplane listen: {line}");
        }
    });
    let asker = stage.attach(&asker, "r1", "one").await;
    stage.settled(2).await;
    let to = stage.destination(&asker, CONVERSION).await;
    let requests = Requests::start(&asker, to, 30_000);

    // Refused until now: probes for packets that the link does not take.
    let refused = async || {
        stage
            .metric("r1", "router_packets_too_large_total", &[])
            .await
    };
    let mut refused_before = -1.0;
    loop {
        requests.more(200).await;
        let now = refused().await;
        if now == refused_before {
            break;
        }
        refused_before = now;
    }
    neighbour.set_mtu(MTU_LOWERED).await;
    requests.more(1_000).await;
    let refused_after = refused().await;
    let longest = requests.end().await;
    let fragments = neighbour.fragments();
    eprintln!(
        "the longest request took {longest:?}; the link refused {refused_before} sends, then {refused_after}"
    );
    assert_eq!(fragments, 0, "IP fragments made or received");
    assert!(refused_after > refused_before, "large packets were in use");
    assert!(longest < STALL, "a request took {longest:?}");
    asker.close().await;
}

/// `caplane`, which is built beside the tests.
fn program() -> std::path::PathBuf {
    let this = std::env::current_exe().expect("this program");
    let deps = this.parent().expect("a folder");
    deps.parent().expect("a target folder").join("caplane")
}
