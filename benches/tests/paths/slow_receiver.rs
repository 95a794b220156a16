//! A receiver that stands still, at r2, while others there go on behind the link from r1 that all share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use caplane_client::{
    Client, ClientEvent, CongestionAction, Destination, FlowOptions, NoticeCode, ReceiveLimits,
};
use caplane_load::impair::{Conditions, Impairer};
use tokio::task::{JoinHandle, JoinSet};

use crate::others::Others;
use crate::relayed::Relayed;
use crate::stage::{CONVERSION, PATIENCE, RATES, Stage, answer, eventually, within};
use crate::traffic;

/// Queue bytes of one peer and traffic class, and of a whole router.
const QUEUE_BYTES_MAX: u64 = 1 << 20;
const QUEUE_TOTAL_BYTES_MAX: u64 = 4 << 20;
/// What a router may grow by beside its queues: receive slabs (256 KiB each) and what QUIC holds of both connections to
/// the standing receiver.
const BESIDE_BYTES_MAX: u64 = 24 << 20;
/// What bulk messages may hold in the router that they enter, which does not know their receivers: all its slabs for bulk
/// (256), and of every message under way what waits in QUIC's receive buffer (a stream window of 256 KiB).
const BULK_BYTES_MAX: u64 = (256 + BULKS as u64) * (256 << 10);
/// Bulk streams that a client sends at a time.
const STREAMS: usize = 16;
/// Bulk messages of a client that sends as many at a time as it likes.
const BULKS: u32 = 200;
/// Bytes of a bulk message that stands whatever its receiver's transport has read by the time its client says no: a slab, and the
/// window after it, which QUIC doubles for a stream that is read at once.
const STANDS: usize = 1_000_000;
/// How long requests go on while bulk messages stand: longer than a link takes to be given up for its silence.
const STANDING: Duration = Duration::from_secs(4);
/// A request that takes longer has been held up: as long as a link takes to be given up here.
const HELD_UP: Duration = Duration::from_millis(2_500);
/// For the last receipts after a request has been answered.
const SETTLED: Duration = Duration::from_secs(5);
/// A machine that is busy otherwise gives a router no time for a second now and then. That is no dead link, and not what these
/// tests are about, so links and agents are given up later than by default.
const PATIENT: &str =
    "[timers]\nsilence_timeout_ms = 2500\nprobe_interval_ms = 250\nprobe_misses = 10\n";

/// A client that takes next to nothing from its router unless the application reads.
fn next_to_nothing() -> ReceiveLimits {
    ReceiveLimits {
        messages_max: 1,
        bytes_max: 65_536,
        assembly_bytes_max: 65_536,
        ..ReceiveLimits::default()
    }
}

/// Two routers. At r2 one agent that never takes a message, and one that answers all; at r1 who sends to the first, and
/// who asks the second.
struct Scene {
    stage: Stage,
    _link: Impairer,
    _standing: Client,
    answering: Client,
    sender: Client,
    asker: Client,
    to_standing: Destination,
    to_answering: Destination,
    _served: JoinHandle<u64>,
    resident_at_first: [u64; 2],
    /// Requests asked so far.
    asked: AtomicU64,
}

impl Scene {
    async fn set(receive: ReceiveLimits, delay: Duration, bulk_streams_max: usize) -> Self {
        let tables = format!(
            "{PATIENT}[limits]\nqueue_bytes_max = {QUEUE_BYTES_MAX}\nqueue_total_bytes_max = {QUEUE_TOTAL_BYTES_MAX}"
        );
        let path = Conditions::default().with_delay(delay);
        let Relayed { mut stage, link } = Relayed::start(path, &tables).await;
        let standing = stage.register("shared", "standing", CONVERSION, 0).await;
        let answering = stage.register("shared", "answering", RATES, 0).await;
        let sender = stage.register("shared", "sender", "", 0).await;
        let asker = stage.register("shared", "asker", "", 0).await;
        stage.fabric.wait_live().await.expect("live");
        let mut config = stage.client_config(&standing, "r2", "one");
        config.receive = receive;
        let standing = Client::attach(config).await.expect("attached");
        let answering = stage.attach(&answering, "r2", "one").await;
        let mut config = stage.client_config(&sender, "r1", "one");
        config.send_buffer_bytes = 512 << 20;
        config.bulk_streams_max = bulk_streams_max;
        let sender = Client::attach(config).await.expect("attached");
        let asker = stage.attach(&asker, "r1", "one").await;
        stage.settled(4).await;
        let to_standing = stage.destination(&sender, CONVERSION).await;
        let to_answering = stage.destination(&asker, RATES).await;
        Self {
            _served: answer(&answering, "at once"),
            resident_at_first: ["r1", "r2"].map(|router| resident(&stage, router)),
            asked: AtomicU64::new(0),
            stage,
            _link: link,
            _standing: standing,
            answering,
            sender,
            asker,
            to_standing,
            to_answering,
        }
    }

    /// The longest of `count` requests to the agent that answers; all must be answered.
    async fn ask(&self, count: u32) -> Duration {
        let flow = self.asker.flow(self.to_answering, FlowOptions::default());
        let mut longest = Duration::ZERO;
        for n in 0..count {
            let begun = Instant::now();
            let payload = traffic::payload((0, n), 100);
            let reply = flow.request(payload).await.expect("answered");
            assert_eq!(&reply.payload()[..], b"at once");
            self.asked.fetch_add(1, Ordering::Relaxed);
            longest = longest.max(begun.elapsed());
        }
        longest
    }

    /// What those count who have nothing to do with the standing receiver, once nothing of theirs is under way.
    async fn others(&self) -> Others {
        Others::look(&self.stage, &self.asker, &self.answering).await
    }

    /// Nothing but their own requests has changed any counter of the others: `before` is from when nobody stood yet.
    async fn check_others(&self, before: &Others, dropped: &[&str]) {
        let asked = self.asked.load(Ordering::Relaxed);
        let begun = Instant::now();
        // The last receipts may still be under way.
        let mut counted = self.others().await.since(before);
        while !counted.is_of(asked) && begun.elapsed() < SETTLED {
            tokio::time::sleep(Duration::from_millis(20)).await;
            counted = self.others().await.since(before);
        }
        eprintln!("of {asked} requests: {counted:?}");
        counted.check(asked, dropped);
    }

    /// What the routers hold is within their budget; `beside` the queues they may grow by this many bytes.
    async fn check_memory(&self, beside: u64) {
        for (router, at_first) in ["r1", "r2"].into_iter().zip(self.resident_at_first) {
            let metrics = self.stage.fabric.metrics(router).await.expect("metrics");
            let charged = metrics.sum("router_queue_charged_bytes");
            assert!(
                charged <= QUEUE_TOTAL_BYTES_MAX as f64,
                "{router} holds {charged} bytes in queues"
            );
            let grown = resident(&self.stage, router).saturating_sub(at_first);
            assert!(
                grown <= QUEUE_TOTAL_BYTES_MAX + beside,
                "{router} has grown by {grown} bytes: {charged} in queues, {} slabs",
                metrics.sum("router_slabs")
            );
        }
    }

    /// Waits until the sender has heard that messages are dropped for want of room.
    async fn hears(&self, noticed: JoinHandle<()>) {
        match tokio::time::timeout(PATIENCE, noticed).await {
            Ok(noticed) => noticed.expect("noticed"),
            Err(_) => {
                let mut drops = Vec::new();
                for router in ["r1", "r2"] {
                    let metrics = self.stage.fabric.metrics(router).await.expect("metrics");
                    drops.push((router, metrics.by_label("router_drops_total", "reason")));
                }
                panic!("not within {PATIENCE:?}: the sender is noticed; dropped: {drops:?}");
            }
        }
    }

    async fn dropped(&self, reason: &str) -> f64 {
        let reason = [("reason", reason)];
        let [r1, r2] = ["r1", "r2"].map(|r| self.stage.metric(r, "router_drops_total", &reason));
        r1.await + r2.await
    }
}

/// Resident bytes of a router's process.
fn resident(stage: &Stage, router: &str) -> u64 {
    let pid = stage.fabric.pid(router).expect("it runs");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    kib.and_then(|kib| kib.parse::<u64>().ok()).expect("a size") << 10
}

/// Resolves when the client hears that a message was dropped for want of room.
fn overloaded(client: &Client) -> JoinHandle<()> {
    let mut events = client.events();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            if matches!(
                event,
                ClientEvent::Notice {
                    code: NoticeCode::Overloaded,
                    ..
                }
            ) {
                return;
            }
        }
        panic!("the client was closed before any notice");
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standing_receiver_of_small_messages_costs_bounded_memory_and_holds_up_nobody() {
    let scene = Scene::set(next_to_nothing(), Duration::ZERO, STREAMS).await;
    let (noticed, before) = (overloaded(&scene.sender), scene.others().await);
    let options = FlowOptions::default().congestion(CongestionAction::Drop);
    let (sender, to) = (scene.sender.clone(), scene.to_standing);
    // 40 MB of payload: far more than all queues and windows on the way hold.
    let sending = tokio::spawn(async move {
        let flows: Vec<_> = (0..8).map(|_| sender.flow(to, options)).collect();
        for n in 0..400_000_u32 {
            let flow = &flows[n as usize % flows.len()];
            flow.send(traffic::payload((0, n), 100))
                .await
                .expect("sent");
        }
    });
    let mut longest = Duration::ZERO;
    while !sending.is_finished() {
        longest = longest.max(within("requests are answered", scene.ask(20)).await);
        scene.check_memory(BESIDE_BYTES_MAX).await;
    }
    sending.await.expect("sent");
    eventually("drops are counted", || async {
        scene.dropped("overloaded").await > 0.0
    })
    .await;
    scene.hears(noticed).await;
    longest = longest.max(within("requests are answered", scene.ask(100)).await);
    scene.check_memory(BESIDE_BYTES_MAX).await;
    scene.check_others(&before, &["overloaded"]).await;
    eprintln!(
        "the longest request took {longest:?}; dropped {}, grown from {:?} to {:?}",
        scene.dropped("overloaded").await,
        scene.resident_at_first,
        ["r1", "r2"].map(|router| resident(&scene.stage, router)),
    );
    assert!(longest < HELD_UP, "a request took {longest:?}");
}

/// Sends `count` bulk messages of `bytes` to the standing receiver, then asks the other for a while.
async fn bulk_stands(scene: &Scene, count: u32, bytes: usize) {
    let before = scene.others().await;
    let mut sending = JoinSet::new();
    for n in 0..count {
        let flow = scene.sender.flow(scene.to_standing, FlowOptions::default());
        sending.spawn(async move { flow.send(traffic::payload((0, n), bytes)).await });
    }
    eventually("bulk messages stand", || async {
        scene.stage.metric("r2", "router_bulk_active", &[]).await >= STREAMS as f64
    })
    .await;
    let begun = Instant::now();
    let mut longest = Duration::ZERO;
    while begun.elapsed() < STANDING {
        longest = longest.max(within("requests are answered", scene.ask(20)).await);
    }
    eprintln!(
        "the longest request took {longest:?}; {} stand at r2; grown from {:?} to {:?}",
        scene.stage.metric("r2", "router_bulk_active", &[]).await,
        scene.resident_at_first,
        ["r1", "r2"].map(|router| resident(&scene.stage, router)),
    );
    scene.check_others(&before, &[]).await;
    assert!(longest < HELD_UP, "a request took {longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_messages_to_a_standing_receiver_do_not_stop_the_lanes_of_the_link() {
    let scene = Scene::set(next_to_nothing(), Duration::ZERO, STREAMS).await;
    bulk_stands(&scene, 24, 2_000_000).await;
    scene.check_memory(BESIDE_BYTES_MAX).await;
}

/// More than a link has streams for; others have bulk messages too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_messages_to_a_standing_receiver_leave_streams_to_others() {
    let scene = Scene::set(next_to_nothing(), Duration::ZERO, BULKS as usize).await;
    let (noticed, before) = (overloaded(&scene.sender), scene.others().await);
    for n in 0..BULKS {
        let flow = scene.sender.flow(scene.to_standing, FlowOptions::default());
        flow.send(traffic::payload((0, n), STANDS))
            .await
            .expect("sent");
    }
    scene.hears(noticed).await;
    for n in 0..20 {
        let flow = scene.asker.flow(scene.to_answering, FlowOptions::default());
        let request = flow.request(traffic::payload((1, n), 300_000));
        let reply = within("a bulk request is answered", request)
            .await
            .expect("answered");
        assert_eq!(&reply.payload()[..], b"at once");
        scene.asked.fetch_add(1, Ordering::Relaxed);
    }
    // What r2 does not take is cut short at r1.
    scene
        .check_others(&before, &["overloaded", "cut_short"])
        .await;
    assert!(scene.dropped("overloaded").await > 0.0);
    scene.check_memory(BESIDE_BYTES_MAX + BULK_BYTES_MAX).await;
}

/// The windows of their streams have grown while the receiver read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_messages_to_a_receiver_that_stops_reading_do_not_stop_the_lanes_of_the_link() {
    let receive = ReceiveLimits {
        assembly_bytes_max: 64 << 20,
        ..next_to_nothing()
    };
    let scene = Scene::set(receive, Duration::from_millis(10), STREAMS).await;
    bulk_stands(&scene, 24, 12_000_000).await;
}
