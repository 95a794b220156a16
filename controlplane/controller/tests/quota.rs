//! Quotas at the listener: who asks for too much is told when to come again, and holds up nobody else.

mod bed;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bed::Controller;
use caplane_proto::v1;
use caplane_proto::v1::northbound_client::NorthboundClient;
use caplane_proto::v1::read_request::Kind;
use prost::Message;
use tonic::transport::Channel;
use tonic::{Code, Status};

const QUOTA: &str = "[quota]\ncalls_per_second = 20\nwatches = 1\n";

type Client = NorthboundClient<Channel>;

fn question() -> v1::ReadRequest {
    v1::ReadRequest {
        kind: Kind::Tenant.into(),
        ..v1::ReadRequest::default()
    }
}

fn retry_after(status: &Status) -> Duration {
    let rich = v1::RichStatus::decode(status.details()).expect("details");
    let url = "type.googleapis.com/caplane.v1.RetryAfter";
    let found = rich.details.iter().find(|detail| detail.type_url == url);
    let wait = v1::RetryAfter::decode(found.expect("told").value.as_slice());
    Duration::from_millis(wait.expect("a time").ms.into())
}

/// Asks as fast as it is answered until `stop`; answers how often it was refused.
async fn flood(mut client: Client, stop: Arc<AtomicBool>, passed: Arc<AtomicU64>) -> u64 {
    let mut refused = 0;
    while !stop.load(Ordering::Relaxed) {
        match client.read(question()).await {
            Ok(_) => drop(passed.fetch_add(1, Ordering::Relaxed)),
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                assert!(retry_after(&status) > Duration::ZERO);
                refused += 1;
            }
        }
    }
    refused
}

/// Median time of questions that are all answered.
async fn median(client: &mut Client, questions: usize) -> Duration {
    let mut times = Vec::new();
    for _ in 0..questions {
        let begun = Instant::now();
        client.read(question()).await.expect("within its own quota");
        times.push(begun.elapsed());
    }
    times.sort();
    times[questions / 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_at_its_limit_slows_nobody_else() {
    let controller = Controller::with(QUOTA);
    let mut patient = controller.caller("spiffe://caplane.local/operator/b").await;
    let alone = median(&mut patient, 60).await;
    let greedy = controller.caller("spiffe://caplane.local/operator/a").await;
    let (stop, passed) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let begun = Instant::now();
    let flood = tokio::spawn(flood(greedy, stop.clone(), passed.clone()));
    // Until it has nothing saved up any more.
    while passed.load(Ordering::Relaxed) < 200 {
        assert!(begun.elapsed() < bed::DEADLINE);
        tokio::task::yield_now().await;
    }
    let beside = median(&mut patient, 60).await;
    stop.store(true, Ordering::Relaxed);
    let refused = flood.await.expect("ended");
    let took = begun.elapsed().as_secs_f64();
    let passed = passed.load(Ordering::Relaxed) as f64;
    assert!(passed <= 201.0 + 20.0 * took, "{passed} in {took} s");
    assert!(refused > 0);
    // Ten times and 20 ms more: this machine is shared.
    assert!(
        beside < alone * 10 + Duration::from_millis(20),
        "{alone:?} {beside:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_as_long_as_told_is_answered_and_watches_are_counted() {
    let controller = Controller::with(QUOTA);
    let mut client = controller.operator().await;
    let status = loop {
        if let Err(status) = client.read(question()).await {
            break status;
        }
    };
    let wait = retry_after(&status);
    assert!(wait <= Duration::from_millis(101), "{wait:?}");
    tokio::time::sleep(wait).await;
    client.read(question()).await.expect("it waited");

    let mut other = controller.caller("spiffe://caplane.local/operator/b").await;
    let first = other.watch(v1::WatchRequest::default()).await.expect("one");
    let status = other
        .watch(v1::WatchRequest::default())
        .await
        .expect_err("two");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().starts_with("quota.watches"), "{status}");
    drop(first);
    let begun = Instant::now();
    while other.watch(v1::WatchRequest::default()).await.is_err() {
        assert!(begun.elapsed() < bed::DEADLINE, "still counted");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
