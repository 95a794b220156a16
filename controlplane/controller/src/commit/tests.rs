use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use caplane_core::fib::{Entry, EntryKey};

use super::*;
use crate::change::{Atomicity, Fault, attach, write};
use crate::record::ObjectKey;
use crate::store::{RedbStore, StoreError};
use crate::tables::TableKey;
use crate::taxonomy::Taxonomy;
use crate::testbed::{
    MemoryStore, TAXONOMY, agent, agent_uri, any_update, attachment, checked, grant, insert,
    knowledge, objects, router, tenant,
};

fn open(store: &Arc<MemoryStore>) -> (Arc<State>, Committer) {
    let state = State::open(store.clone(), knowledge(), 1_000).expect("opens");
    let (committer, _) = Committer::start(state.clone(), Box::new(|_| {})).expect("a thread");
    (state, committer)
}

async fn submit(committer: &Committer, updates: Vec<caplane_proto::v1::Update>) -> Receipt<()> {
    let parsed = checked(&updates).expect("good");
    committer
        .submit(move |tx| write::batch(tx, &parsed, Atomicity::AllOrNone).map(|_| ()))
        .await
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
    assert_eq!(state.generation(), 1, "opening changes nothing");
    let (committer, _) = Committer::start(state.clone(), Box::new(|_| {})).expect("a thread");
    committer.settle().await.expect("leads");
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
    let (committer, _) = Committer::start(again.clone(), Box::new(|_| {})).expect("a thread");
    committer.settle().await.expect("leads");
    assert_eq!(again.generation(), 2, "only once");
}

#[tokio::test]
async fn what_a_commit_comes_back_to_follows_the_taxonomy() {
    use crate::change::confirm::{self, Start, Wait};
    use crate::testbed::{card, delete, modify};

    let store = Arc::new(MemoryStore::default());
    let (state, committer) = open(&store);
    let skills = ["book_hotel", "find_hotel"];
    let lost = "travel/hotels/find_hotel";
    let updates = vec![insert(agent("x", "", &skills)), insert(grant("x", lost))];
    write(&committer, updates).await.expect("accepted");
    let gone = checked(&[delete(grant("x", lost)), modify(agent("x", "", &[]))]).expect("good");
    let stored = state.clone();
    let held = committer.change(move |tx| {
        let wait = Wait {
            caller: "ada".into(),
            seconds: 600,
        };
        let start = Start::of(tx);
        write::batch(tx, &gone, Atomicity::AllOrNone)?;
        confirm::hold(tx, start, &wait, |number| {
            stored.card(number).map_err(|error| error.to_string())
        })
    });
    let id = held
        .await
        .expect("accepted")
        .value
        .expect("waits")
        .generation;
    drop((state, committer));

    let text = TAXONOMY.replace("find_hotel", "search_hotel");
    let text = text.replace("Find Hotel", "Seek");
    let taxonomy = Taxonomy::from_json(&text, "test").expect("good");
    let newer = Arc::new(Knowledge::new(taxonomy));
    let state = State::open(store, newer, 1_000).expect("opens");
    let (committer, _) = Committer::start(state.clone(), Box::new(|_| {})).expect("a thread");
    let ended = committer.change(move |tx| confirm::cancel(tx, id, "ada"));
    ended.await.expect("cancelled");
    let rib = state.rib();
    let agent = rib.agent(&agent_uri("x")).expect("there").clone();
    let classes: Vec<bool> = agent.skills.iter().map(|skill| skill.class != 0).collect();
    assert_eq!(classes, [true, false], "a class that is lost stays lost");
    assert_eq!(rib.grant(&agent_uri("x"), lost).expect("is back").class, 0);
    drop(rib);
    assert_eq!(
        state.card(agent.number).expect("reads"),
        Some(card(&skills))
    );
}

fn everything(state: &State) -> (u64, u64, Vec<crate::record::Object>, Vec<(TableKey, Entry)>) {
    let rib = state.rib();
    assert!(rib.touched().is_empty(), "nothing is left to compile");
    let entries = crate::compile::everything(&rib);
    (
        rib.generation(),
        rib.intent_generation(),
        objects(&rib),
        entries,
    )
}

/// Compare and set, then a batch.
async fn compared(committer: &Committer, expected: u64, name: &str) -> Receipt<()> {
    let parsed = checked(&[insert(tenant(name))]).expect("good");
    committer
        .submit(move |tx| {
            write::compare(tx, expected)?;
            write::batch(tx, &parsed, Atomicity::AllOrNone).map(|_| ())
        })
        .await
}

fn conflict(outcome: Result<Done<()>, CommitError>) -> Refusal {
    match outcome {
        Err(CommitError::Refused(refusal)) if refusal.fault == Fault::Conflict => refusal,
        other => panic!("no conflict: {other:?}"),
    }
}

#[tokio::test]
#[expect(
    clippy::await_holding_lock,
    reason = "the lock is what makes the changes wait; queueing them does not need it"
)]
async fn of_two_that_expect_the_same_generation_one_wins_also_in_one_group() {
    let store = Arc::new(MemoryStore::default());
    let (state, committer) = open(&store);
    let seen = write(&committer, vec![insert(tenant("a"))])
        .await
        .expect("accepted");
    let (first, second);
    {
        let _hold = state.rib();
        // What the commit thread waits with; the two behind it queue up for one group.
        committer.submit(|_| Ok(())).await;
        first = compared(&committer, seen, "b").await;
        second = compared(&committer, seen, "c").await;
    }
    let won = first.done().await.expect("the first wins").generation;
    let refusal = conflict(second.done().await);
    assert_eq!(won, seen + 1);
    assert_eq!(
        refusal.to_string(),
        "expected_generation \"1\": a Write changed something in generation 2; read again, and decide anew"
    );
    assert_eq!(store.commits.load(Ordering::SeqCst), 2);
    assert!(state.rib().tenant("c").is_none());
    let future = compared(&committer, 9, "d").await.done().await;
    assert!(conflict(future).reason.contains("newest generation is 2"));
}

#[tokio::test]
async fn what_nobody_ordered_does_not_count_as_a_write_also_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("c.redb");
    let (seen, last) = {
        let store = Arc::new(RedbStore::open(&path).expect("opens"));
        let state = State::open(store, knowledge(), 1_000).expect("opens");
        let (committer, ended) =
            Committer::start(state.clone(), Box::new(|_| {})).expect("a thread");
        let updates = vec![
            insert(router("r1")),
            insert(agent("x", "", &["book_hotel"])),
        ];
        let seen = write(&committer, updates).await.expect("accepted");
        let (label, up) = {
            let rib = state.rib();
            let ups: Vec<_> = (1..=60).map(|i| attachment(&rib, "x", i, "")).collect();
            (crate::testbed::router_label(&rib, "r1"), ups)
        };
        for up in up {
            let report = move |tx: &mut Transaction<'_>| attach::report(tx, label, &[up], &[]);
            committer.change(report).await.expect("reported");
        }
        let refused = write(&committer, vec![insert(tenant("t")), insert(tenant("t"))]).await;
        refused.expect_err("twice the same");
        let last = state.generation();
        drop(committer);
        ended.await.expect_err("the thread ends");
        (seen, last)
    };
    assert_eq!((seen, last), (1, 61));
    let store = Arc::new(RedbStore::open(&path).expect("opens again"));
    let state = State::open(store, knowledge(), 1_000).expect("opens again");
    let (committer, _) = Committer::start(state.clone(), Box::new(|_| {})).expect("a thread");
    conflict(compared(&committer, 0, "early").await.done().await);
    let done = compared(&committer, seen, "t").await.done().await;
    assert_eq!(done.expect("nobody wrote meanwhile").generation, 62);
    conflict(compared(&committer, 61, "late").await.done().await);
}

#[test]
fn a_store_from_before_cannot_tell_writes_and_takes_all_for_some() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("c.redb");
    let batch = Batch {
        generation: 7,
        intent_generation: 3,
        epoch: Some(knowledge().epoch().clone()),
        ..Batch::default()
    };
    let store = RedbStore::open(&path).expect("opens");
    let Standing::Leading(id) = store.standing() else {
        panic!("whoever has it open leads");
    };
    let earlier = store.commit(ElectionId(id.0 - 1), &batch);
    assert!(matches!(earlier, Err(StoreError::Deposed)), "{earlier:?}");
    store.commit(id, &batch).expect("stored");
    assert_eq!(store.load().expect("reads").intent_generation, 3);
    drop(store);
    let database = redb::Database::open(&path).expect("opens");
    let older = database.begin_write().expect("begins");
    let meta: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("meta");
    older
        .open_table(meta)
        .expect("there")
        .remove("intent_generation")
        .expect("removed");
    older.commit().expect("stored");
    drop(database);
    let store = RedbStore::open(&path).expect("opens");
    let later = store.standing();
    assert!(
        matches!(later, Standing::Leading(later) if later > id),
        "{later:?} after {id:?}"
    );
    let state = State::open(Arc::new(store), knowledge(), 1_000).expect("opens");
    assert_eq!(state.rib().intent_generation(), 7);
}

#[tokio::test]
async fn a_write_that_the_store_lost_is_no_write() {
    let store = Arc::new(MemoryStore::default());
    let (state, committer) = open(&store);
    let seen = write(&committer, vec![insert(tenant("a"))])
        .await
        .expect("accepted");
    store.failing.store(true, Ordering::SeqCst);
    let lost = compared(&committer, seen, "b").await.done().await;
    assert!(matches!(lost, Err(CommitError::Store(_))), "{lost:?}");
    store.failing.store(false, Ordering::SeqCst);
    assert_eq!(state.rib().intent_generation(), seen);
    compared(&committer, seen, "b")
        .await
        .done()
        .await
        .expect("nobody wrote");
}

/// Dice that are the same in every run.
fn dice(seed: &mut u64) -> [usize; 6] {
    std::array::from_fn(|_| {
        *seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 33) as usize % 1_000
    })
}

#[tokio::test]
async fn a_rehearsal_leaves_no_trace_and_tells_what_the_write_then_does() {
    let store = Arc::new(MemoryStore::default());
    let (state, committer) = open(&store);
    let mut seed = 1;
    let mut differed = 0;
    for round in 0..200 {
        let updates: Vec<_> = (0..4).map(|_| any_update(dice(&mut seed))).collect();
        let parsed = Arc::new(checked(&updates).expect("not too many"));
        let before = everything(&state);
        let commits = store.commits.load(Ordering::SeqCst);
        let work = {
            let parsed = parsed.clone();
            move |tx: &mut Transaction<'_>| write::batch(tx, &parsed, Atomicity::ContinueOnError)
        };
        let tried = committer.rehearse(work.clone()).await.expect("tried");
        assert_eq!(everything(&state), before, "round {round}: no trace");
        assert_eq!(
            store.commits.load(Ordering::SeqCst),
            commits,
            "nothing stored"
        );
        assert_eq!(tried.generation, before.0);

        let done = committer.change(work).await.expect("goes on");
        assert_eq!(
            done.value, tried.value.value,
            "round {round}: the same refusals"
        );
        let (was, is): (BTreeMap<_, _>, BTreeMap<_, _>) = (
            before.3.into_iter().collect(),
            everything(&state).3.into_iter().collect(),
        );
        let keys: BTreeSet<&TableKey> = was.keys().chain(is.keys()).collect();
        let expected: Vec<_> = keys
            .into_iter()
            .map(|key| (key.clone(), was.get(key).cloned(), is.get(key).cloned()))
            .filter(|(_, was, is)| was != is)
            .collect();
        let told: Vec<_> = tried
            .value
            .differences
            .iter()
            .map(|told| {
                let before = told.before.as_ref().map(|row| row.entry.as_ref().clone());
                (told.key.clone(), before, told.after.as_deref().cloned())
            })
            .collect();
        assert_eq!(told, expected, "round {round}");
        for (key, ..) in &told {
            if let TableKey::Router(router, _) = key {
                assert!(tried.value.routers.contains_key(router), "{key:?}");
            }
        }
        differed += usize::from(!told.is_empty());
    }
    assert!(differed > 50, "{differed} rounds changed something");
}

#[tokio::test]
async fn a_rehearsal_does_not_claim_what_others_of_its_group_do() {
    // The writer may wake between the two, and take them one after the other: then there is nothing to see.
    for _ in 0..100 {
        if rehearsed_beside_a_write().await {
            return;
        }
    }
    panic!("the two were never in one group");
}

/// Rehearses in the group of a write, and looks; false when they came into groups of their own.
#[expect(
    clippy::await_holding_lock,
    reason = "the lock is what makes the changes wait; queueing them does not need it"
)]
async fn rehearsed_beside_a_write() -> bool {
    let store = Arc::new(MemoryStore::default());
    let (state, committer) = open(&store);
    let good = |name: &str| checked(&[insert(agent(name, "", &[]))]).expect("good");
    let (written, tried) = {
        let _hold = state.rib();
        committer.submit(|_| Ok(())).await;
        let written = submit(&committer, vec![insert(agent("b", "", &[]))]).await;
        let parsed = good("c");
        let committer = committer.clone();
        // Queued at its first poll, which is before the lock is let go.
        let mut tried = Box::pin(async move {
            let work =
                move |tx: &mut Transaction<'_>| write::batch(tx, &parsed, Atomicity::AllOrNone);
            committer.rehearse(work).await
        });
        let polled =
            std::future::poll_fn(|cx| std::task::Poll::Ready(tried.as_mut().poll(cx).is_pending()));
        assert!(polled.await, "waits for the lock");
        (written, tried)
    };
    assert_eq!(written.done().await.expect("accepted").generation, 1);
    let tried = tried.await.expect("tried");
    let keys: Vec<TableKey> = tried.value.differences.into_iter().map(|d| d.key).collect();
    // Its policy group came with the agent before it, in the same group or in the one before.
    assert_eq!(keys, [TableKey::Shared(EntryKey::Identity(agent_uri("c")))]);
    // The group's own generation may hold more than what was tried.
    assert!(tried.generation <= 1);
    tried.generation == 0
}
