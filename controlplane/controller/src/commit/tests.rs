use std::sync::atomic::Ordering;

use super::*;
use crate::change::{parse, write};
use crate::record::ObjectKey;
use crate::store::RedbStore;
use crate::taxonomy::Taxonomy;
use crate::testbed::{
    MemoryStore, TAXONOMY, agent, agent_uri, grant, insert, knowledge, router, tenant,
};

fn open(store: &Arc<MemoryStore>) -> (Arc<State>, Committer) {
    let state = State::open(store.clone(), knowledge(), 1_000).expect("opens");
    let (committer, _) = Committer::start(state.clone(), Box::new(|_| {})).expect("a thread");
    (state, committer)
}

async fn submit(committer: &Committer, updates: Vec<caplane_proto::v1::Update>) -> Receipt<()> {
    let parsed = parse::batch(&knowledge(), &updates).expect("good");
    committer.submit(move |tx| write::batch(tx, &parsed)).await
}

async fn write(
    committer: &Committer,
    updates: Vec<caplane_proto::v1::Update>,
) -> Result<u64, CommitError> {
    let receipt = submit(committer, updates).await;
    receipt.done().await.map(|done| done.generation)
}

#[tokio::test]
async fn a_batch_is_all_or_nothing_and_others_go_on() {
    let store = Arc::new(MemoryStore::default());
    let (state, committer) = open(&store);
    let good = submit(&committer, vec![insert(tenant("a"))]).await;
    let bad = submit(&committer, vec![insert(tenant("b")), insert(tenant("a"))]).await;
    let after = submit(&committer, vec![insert(tenant("c"))]).await;
    good.done().await.expect("accepted");
    let refusal = bad.done().await.expect_err("a is there already");
    assert!(
        refusal.to_string().contains("updates[1].tenant.name \"a\""),
        "{refusal}"
    );
    after.done().await.expect("accepted");
    let rib = state.rib();
    assert!(rib.tenant("b").is_none());
    assert_eq!(rib.tenant("c").expect("there").id, 2, "b took no number");
}

#[tokio::test]
#[expect(
    clippy::await_holding_lock,
    reason = "the lock is what makes the changes wait; queueing them does not need it"
)]
async fn changes_that_wait_together_are_stored_together() {
    let store = Arc::new(MemoryStore::default());
    let (state, committer) = open(&store);
    let mut receipts = Vec::new();
    {
        // The commit thread waits for this lock with the first change; the rest queue up.
        let _hold = state.rib();
        for i in 0..100 {
            receipts.push(submit(&committer, vec![insert(agent(&format!("a{i}"), "", &[]))]).await);
        }
    }
    for receipt in receipts {
        receipt.done().await.expect("accepted");
    }
    let commits = store.commits.load(Ordering::SeqCst);
    assert!(commits <= 3, "{commits} commits for 100 changes");
    assert_eq!(state.rib().agent_count(), 100);
}

#[tokio::test]
async fn a_failed_store_leaves_no_trace() {
    let store = Arc::new(MemoryStore::default());
    let (state, committer) = open(&store);
    assert_eq!(
        write(&committer, vec![insert(tenant("a"))]).await.ok(),
        Some(1)
    );
    store.failing.store(true, Ordering::SeqCst);
    let error = write(&committer, vec![insert(agent("x", "a", &[]))])
        .await
        .expect_err("the store fails");
    assert!(error.to_string().contains("told to fail"), "{error}");
    assert!(state.rib().agent(&agent_uri("x")).is_none());
    assert_eq!(state.generation(), 1);
    store.failing.store(false, Ordering::SeqCst);
    assert_eq!(
        write(&committer, vec![insert(agent("x", "a", &[]))])
            .await
            .ok(),
        Some(2)
    );
    let (name, generation) = state
        .read(|rib| rib.agent(&agent_uri("x")).map(|agent| agent.number))
        .await
        .expect("durable");
    assert_eq!((name, generation), (Some(1), 2));
}

#[tokio::test]
async fn a_restart_goes_on_where_the_store_ended_and_routers_take_differences() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("c.redb");
    let label;
    let (generation, store_id) = {
        let store = Arc::new(RedbStore::open(&path).expect("opens"));
        let state = State::open(store, knowledge(), 1_000).expect("opens");
        let (committer, ended) =
            Committer::start(state.clone(), Box::new(|_| {})).expect("a thread");
        let first = vec![insert(router("r1")), insert(router("r2"))];
        write(&committer, first).await.expect("accepted");
        write(&committer, vec![insert(agent("x", "", &["book_hotel"]))])
            .await
            .expect("accepted");
        let last = write(&committer, vec![insert(grant("x", "*"))]).await;
        label = crate::testbed::router_label(&state.rib(), "r1");
        drop(committer);
        ended.await.expect_err("the thread ends");
        (last.expect("accepted"), state.store_id())
    };
    let store = Arc::new(RedbStore::open(&path).expect("opens again"));
    let state = State::open(store, knowledge(), 1_000).expect("opens again");
    assert_eq!(
        (state.generation(), state.store_id()),
        (generation, store_id)
    );
    let tables = state.tables();
    let identity = |held| {
        tables
            .difference(label, held)
            .map(|d| (d.upserts.len(), d.removes.len()))
    };
    assert_eq!(identity(3), Some((0, 0)), "up to date");
    assert_eq!(identity(2), Some((1, 0)), "the identity with its class");
    assert_eq!(identity(1), Some((2, 0)), "and its policy group");
    assert_eq!(identity(0), None, "nothing held: a snapshot");
    assert_eq!(identity(9), None, "held what was never pushed: a snapshot");
    assert_eq!(tables.snapshot(label).upserts.len(), 2);
    assert_eq!(
        state.card(1).expect("reads"),
        Some(crate::testbed::card(&["book_hotel"]))
    );
}

#[tokio::test]
async fn another_taxonomy_classifies_again_and_asks_for_snapshots() {
    let store = Arc::new(MemoryStore::default());
    let (state, committer) = open(&store);
    let updates = vec![
        insert(router("r1")),
        insert(agent("x", "", &["book_hotel", "find_hotel"])),
        insert(grant("x", "travel/hotels")),
    ];
    write(&committer, updates).await.expect("accepted");
    let label = crate::testbed::router_label(&state.rib(), "r1");
    drop((state, committer));

    let text = TAXONOMY
        .replace("find_hotel", "search_hotel")
        .replace("Find Hotel", "Seek");
    let taxonomy = Taxonomy::from_json(&text, "test").expect("good");
    let newer = Arc::new(Knowledge::new(taxonomy));
    let state = State::open(store.clone(), newer.clone(), 1_000).expect("opens");
    assert_eq!(state.generation(), 2);
    assert!(state.tables().difference(label, 1).is_none());
    {
        let rib = state.rib();
        let agent = rib.agent(&agent_uri("x")).expect("there");
        assert_ne!(
            agent.skills[0].class, 0,
            "unchanged classes keep their labels"
        );
        assert_eq!(
            agent.skills[1].class, 0,
            "a lost class waits for an operator"
        );
        assert!(rib.object(&ObjectKey::Agent(agent_uri("x"))).is_some());
    }
    let again = State::open(store, newer, 1_000).expect("opens");
    assert_eq!(again.generation(), 2, "only once");
}
