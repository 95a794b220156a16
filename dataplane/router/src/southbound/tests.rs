//! The session without sockets: the test is the controller and the worker.

use super::*;
use crate::attachments::Arrival;
use bytes::Bytes;
use caplane_core::forward::PeerKey;
use caplane_proto::v1::resource::Resource as Content;

struct Fixture {
    southbound: Southbound,
    shared: Arc<Shared>,
    counts: Arc<SessionCounts>,
    sent: mpsc::Receiver<v1::RouterMessage>,
}

fn router() -> Label {
    Label::router(1).unwrap()
}

/// A router without a table and with an open stream.
fn fixture() -> Fixture {
    let held = HeldTable::none();
    let shared = Arc::new(Shared::new("edge-1".into(), held.fib.clone(), 1));
    let counts = Arc::new(SessionCounts::default());
    let config = crate::config::RouterConfig::parse(
        std::path::Path::new("router.toml"),
        "name = \"edge-1\"\nlisten = \"127.0.0.1:0\"\nstate_dir = \"s\"\n[controller]\naddresses = [\"a:1\"]\n[credentials]\nchain = \"c\"\nkey = \"k\"\ntrust = [{ domain = \"d\", roots = \"r\" }]\n",
    )
    .unwrap();
    let about = SelfDescription {
        address: "127.0.0.1:4433".into(),
    };
    let mut southbound = Southbound::new(
        about,
        held,
        shared.clone(),
        Vec::new(),
        &config.limits,
        &config.timers,
        counts.clone(),
    );
    let (outgoing, sent) = mpsc::channel(16);
    southbound.on_connected(outgoing);
    Fixture {
        southbound,
        shared,
        counts,
        sent,
    }
}

impl Fixture {
    fn next(&mut self) -> Option<ToController> {
        self.sent.try_recv().ok().and_then(|m| m.message)
    }

    async fn say(&mut self, message: FromController) {
        let message = v1::ControllerMessage {
            message: Some(message),
        };
        self.southbound.on_message(message).await;
    }

    async fn accept(&mut self, generation: u64) {
        self.say(FromController::Accepted(v1::SessionAccepted {
            router_name: "edge-1".into(),
            router_label: router().bits(),
            domain: 0,
            store_id: "store-a".into(),
            lease_ms: 3_000,
            generation,
            election_id: 7,
            controller: "c1".into(),
        }))
        .await;
    }

    /// The answer to an update, which must be the next thing said.
    async fn update(&mut self, update: v1::TableUpdate) -> v1::TableAnswer {
        self.say(FromController::Update(update)).await;
        match self.next() {
            Some(ToController::Answer(answer)) => answer,
            other => panic!("expected an answer, got {other:?}"),
        }
    }

    fn generation(&self) -> u64 {
        self.shared.table.load().fib.generation().0
    }
}

fn neighbour(n: u32, uri: &str) -> v1::Resource {
    v1::Resource {
        version: 1,
        resource: Some(Content::Neighbour(v1::Neighbour {
            router: Label::router(n).unwrap().bits(),
            name: format!("edge-{n}"),
            uri: uri.into(),
            address: "127.0.0.1:1".into(),
            dial: true,
            cost: 1,
        })),
    }
}

fn update(base: u64, generation: u64, upserts: Vec<v1::Resource>) -> v1::TableUpdate {
    v1::TableUpdate {
        nonce: generation + 1000,
        generation,
        base_generation: base,
        upserts,
        removes: vec![],
        last: true,
        election_id: 7,
    }
}

const URI: &str = "spiffe://caplane.local/router/edge-2";

#[tokio::test]
async fn the_session_opens_with_what_the_router_holds() {
    let mut f = fixture();
    let Some(ToController::Open(open)) = f.next() else {
        panic!("SessionOpen must be first");
    };
    assert_eq!(open.address, "127.0.0.1:4433");
    assert_eq!((open.held_generation, open.store_id.as_str()), (0, ""));
    assert!(open.software.starts_with("caplane-router/"));
}

#[tokio::test]
async fn a_snapshot_in_parts_is_answered_once_and_reported_live_when_it_is() {
    let mut f = fixture();
    f.next();
    f.accept(5).await;
    let mut first = update(0, 5, vec![neighbour(2, URI)]);
    first.last = false;
    f.say(FromController::Update(first)).await;
    assert!(f.next().is_none(), "nothing is said before the last part");
    assert_eq!(f.generation(), 0);
    let last = update(0, 5, vec![neighbour(3, &format!("{URI}3"))]);
    let answer = f.update(last).await;
    assert_eq!(
        (answer.nonce, answer.generation, answer.rejected.len()),
        (1005, 5, 0)
    );
    assert_eq!(f.generation(), 5);
    assert_eq!(f.shared.table.load().fib.neighbours().count(), 2);
    assert!(!f.shared.is_stale());

    f.southbound.on_woken();
    assert!(f.next().is_none(), "no worker has taken it yet");
    let epoch = f.shared.table.load().epoch;
    f.shared.report_live(0, epoch);
    f.southbound.on_woken();
    let Some(ToController::Live(live)) = f.next() else {
        panic!("expected LiveReport");
    };
    assert_eq!(live.generation, 5);
    f.southbound.on_woken();
    assert!(f.next().is_none(), "live is reported once");
    let (outgoing, sent) = mpsc::channel(16);
    f.sent = sent;
    f.southbound.on_connected(outgoing);
    let Some(ToController::Open(open)) = f.next() else {
        panic!("SessionOpen must be first");
    };
    assert_eq!(open.live_generation, 5);
    assert_eq!(f.southbound.take_unsaved().unwrap().0.store_id, "store-a");
    assert!(f.southbound.take_unsaved().is_none());
}

#[tokio::test]
async fn a_delta_builds_on_what_is_held_and_on_nothing_else() {
    let mut f = fixture();
    f.next();
    f.accept(5).await;
    f.update(update(0, 5, vec![neighbour(2, URI)])).await;
    let answer = f
        .update(update(5, 6, vec![neighbour(3, &format!("{URI}3"))]))
        .await;
    assert!(answer.rejected.is_empty());
    assert_eq!(f.shared.table.load().fib.neighbours().count(), 2);

    let answer = f.update(update(5, 7, vec![])).await;
    assert_eq!(answer.rejected.len(), 1);
    assert!(answer.rejected[0].reason.contains("snapshot"), "{answer:?}");
    assert!(answer.needs_snapshot);
    assert_eq!(f.generation(), 6, "the last good table stays");
    assert_eq!(f.counts.updates_rejected.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_bad_entry_is_rejected_by_name_and_changes_nothing() {
    let mut f = fixture();
    f.next();
    f.accept(5).await;
    f.update(update(0, 5, vec![neighbour(2, URI)])).await;
    let bad = v1::Resource {
        version: 6,
        resource: Some(Content::Transit(v1::TransitRoute {
            router: Label::group(9).unwrap().bits(),
            next_hops: vec![],
            alternates: vec![],
        })),
    };
    let good = neighbour(3, &format!("{URI}3"));
    let answer = f.update(update(5, 6, vec![good, bad])).await;
    assert_eq!(answer.rejected.len(), 1);
    assert!(!answer.needs_snapshot, "it would be as bad in a snapshot");
    let key = answer.rejected[0].key.as_ref().unwrap().key.as_ref();
    assert!(
        matches!(key, Some(v1::resource_key::Key::Transit(_))),
        "{key:?}"
    );
    assert_eq!(f.shared.table.load().fib.neighbours().count(), 1);
}

#[tokio::test]
async fn losing_the_controller_makes_the_table_stale_and_keeps_it() {
    let mut f = fixture();
    assert!(f.shared.is_stale());
    f.accept(5).await;
    assert!(f.shared.is_stale(), "the controller has a newer table");
    f.update_only(update(0, 5, vec![neighbour(2, URI)])).await;
    assert!(!f.shared.is_stale());
    f.southbound.on_lost("reset");
    assert!(f.shared.is_stale());
    assert_eq!(f.generation(), 5);

    // The next session resumes from it and is current at once.
    let (outgoing, sent) = mpsc::channel(16);
    f.sent = sent;
    f.southbound.on_connected(outgoing);
    let Some(ToController::Open(open)) = f.next() else {
        panic!("SessionOpen must be first");
    };
    assert_eq!(
        (open.held_generation, open.store_id.as_str()),
        (5, "store-a")
    );
    assert_eq!(open.live_generation, 0, "no worker has taken it yet");
    f.accept(5).await;
    assert!(!f.shared.is_stale());
    let answer = f.update(update(5, 5, vec![])).await;
    assert!(answer.rejected.is_empty(), "what is held is the newest");
    assert_eq!(f.generation(), 5);
}

impl Fixture {
    async fn update_only(&mut self, update: v1::TableUpdate) {
        self.say(FromController::Update(update)).await;
    }
}

#[tokio::test]
async fn an_update_before_acceptance_is_refused() {
    let mut f = fixture();
    f.next();
    let answer = f.update(update(0, 5, vec![])).await;
    assert!(answer.rejected[0].reason.contains("SessionAccepted"));
    assert_eq!(f.generation(), 0);
}

#[tokio::test]
async fn no_worker_is_the_last_to_let_go_of_a_table() {
    let mut f = fixture();
    f.next();
    f.accept(5).await;
    f.update(update(0, 5, vec![neighbour(2, URI)])).await;
    // What a worker does: it holds the table in force, and lets go of it when it takes the next.
    let of_worker = f.shared.table.load().fib.clone();
    let table = Arc::downgrade(&of_worker);
    f.shared.report_live(0, f.shared.table.load().epoch);
    f.southbound.on_woken();
    assert!(matches!(f.next(), Some(ToController::Live(_))));
    f.update(update(5, 6, vec![neighbour(3, &format!("{URI}3"))]))
        .await;
    f.southbound.on_woken();
    drop(of_worker);
    f.shared.report_live(0, f.shared.table.load().epoch);
    assert!(table.upgrade().is_some(), "the worker would have freed it");
    f.southbound.on_woken();
    let end = Instant::now() + Duration::from_secs(20);
    while table.upgrade().is_some() {
        assert!(Instant::now() < end, "nobody freed it");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn attachments_are_collected_into_one_report_and_leases_renewed() {
    let mut f = fixture();
    f.next();
    f.accept(0).await;
    for slot in 0..3 {
        let arrival = Arrival {
            uri: "spiffe://caplane.local/tenant/t/agent/a".into(),
            agent: Label::agent(7, 0).unwrap(),
            instance_name: format!("i{slot}"),
            card: Bytes::new(),
            peer: PeerKey { worker: 0, slot },
        };
        f.shared.attachments().attach(arrival, 0).unwrap();
        f.southbound.on_woken();
    }
    assert!(f.next().is_none());
    let due = f.southbound.next_deadline().unwrap();
    f.southbound.on_timer(due);
    let Some(ToController::Attachments(report)) = f.next() else {
        panic!("expected AttachmentReport");
    };
    assert_eq!((report.up.len(), report.down.len()), (3, 0));
    assert!(f.next().is_none());
    let due = f.southbound.next_deadline().unwrap();
    f.southbound.on_timer(due);
    let Some(ToController::Renewal(renewal)) = f.next() else {
        panic!("expected LeaseRenewal");
    };
    assert_eq!(renewal.attachments, 3);
}

#[tokio::test]
async fn a_controller_that_does_not_read_loses_the_session() {
    let mut f = fixture();
    f.accept(0).await;
    for hour in 1..20 {
        let due = Instant::now() + Duration::from_secs(3600 * hour);
        f.southbound.on_timer(due);
    }
    assert!(f.shared.is_stale());
    assert_eq!(f.counts.connected.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_controller_that_led_before_another_is_left_and_nothing_of_it_is_applied() {
    let mut f = fixture();
    f.next();
    f.accept(5).await;
    f.update(update(0, 5, vec![neighbour(2, URI)])).await;
    assert_eq!(f.southbound.take_unsaved().unwrap().0.election_id, 7);
    let mut late = update(5, 6, vec![]);
    late.election_id = 6;
    let answer = f.update(late).await;
    assert!(
        answer.rejected[0].reason.contains("7 was met"),
        "{answer:?}"
    );
    assert!(!answer.needs_snapshot);
    assert!(f.sent.try_recv().is_err() && f.sent.is_closed(), "left");
    assert_eq!(f.generation(), 5);

    let (outgoing, sent) = mpsc::channel(16);
    f.sent = sent;
    f.southbound.on_connected(outgoing);
    let Some(ToController::Open(open)) = f.next() else {
        panic!("SessionOpen must be first");
    };
    assert_eq!(open.highest_election_id, 7);
    let mut accepted = v1::SessionAccepted {
        router_label: router().bits(),
        store_id: "store-a".into(),
        election_id: 8,
        ..Default::default()
    };
    f.say(FromController::Accepted(accepted.clone())).await;
    let (held, since) = f.southbound.take_unsaved().expect("a later id is stored");
    assert_eq!(held.election_id, 8);
    assert!(matches!(since, Since::Whole));

    // Another store has its own order.
    let (outgoing, sent) = mpsc::channel(16);
    f.sent = sent;
    f.southbound.on_connected(outgoing);
    accepted.store_id = "store-b".into();
    accepted.election_id = 1;
    f.say(FromController::Accepted(accepted)).await;
    f.next();
    let mut first = update(0, 1, vec![]);
    first.election_id = 1;
    assert!(f.update(first).await.rejected.is_empty());
    assert_eq!(f.southbound.take_unsaved().unwrap().0.election_id, 1);
}
