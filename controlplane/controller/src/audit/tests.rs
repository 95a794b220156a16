use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::watch;

use super::*;
use crate::change::{Atomicity, write};
use crate::commit::{CommitError, Committer, State};
use crate::testbed::{MemoryStore, checked, insert, knowledge, tenant};

struct Bed {
    folder: tempfile::TempDir,
    store: Arc<MemoryStore>,
    state: Arc<State>,
    committer: Committer,
}

impl Bed {
    fn new(records_max: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self::on(folder, Arc::new(MemoryStore::default()), records_max)
    }

    fn on(folder: tempfile::TempDir, store: Arc<MemoryStore>, records_max: u64) -> Self {
        let state = State::open(store.clone(), knowledge(), 1_000).expect("opens");
        let auditor = Auditor::open(folder.path(), store.as_ref(), records_max);
        state.audit_by(auditor.expect("opens"));
        let (committer, _) = Committer::start(state.clone(), Box::new(|_| {})).expect("a thread");
        Self {
            folder,
            store,
            state,
            committer,
        }
    }

    /// A new tenant, with its record.
    async fn add(&self, name: &str) -> Result<u64, CommitError> {
        let parsed = checked(&[insert(tenant(name))]).expect("good");
        let what = name.to_owned();
        let written = self.committer.change(move |tx| {
            tx.notes.push(Note {
                call: "Write".into(),
                what,
                ..Note::default()
            });
            write::batch(tx, &parsed, Atomicity::AllOrNone)
        });
        written.await.map(|done| done.generation)
    }

    fn bodies(&self) -> Vec<v1::AuditBody> {
        let records = self.state.audit(0, usize::MAX).expect("reads");
        let mut previous: Option<v1::AuditRecord> = None;
        let bodies = records.into_iter().map(|(sequence, record)| {
            let body = v1::AuditBody::decode(record.body.as_slice()).expect("a body");
            assert_eq!(body.sequence, sequence);
            assert_eq!(record.hash, hash(&record.body));
            let key = &ring::signature::ED25519;
            let key = ring::signature::UnparsedPublicKey::new(key, &record.public_key);
            key.verify(&record.hash, &record.signature).expect("signed");
            if let Some(previous) = &previous {
                assert_eq!(body.previous, previous.hash);
            }
            previous = Some(record);
            body
        });
        bodies.collect()
    }
}

#[tokio::test]
async fn there_is_no_act_without_its_record_and_no_record_without_its_act() {
    let bed = Bed::new(1_000);
    let generation = bed.add("a").await.expect("written");
    // Refused: it is there already. The transaction's note goes with it.
    bed.add("a").await.expect_err("refused");
    let told: Vec<_> = bed
        .bodies()
        .into_iter()
        .map(|b| (b.what, b.generation))
        .collect();
    assert_eq!(told, [("a".to_owned(), generation)]);
    // The store fails: neither is there, and the chain goes on from the last that is.
    bed.store.failing.store(true, Ordering::SeqCst);
    bed.add("b").await.expect_err("the store fails");
    bed.store.failing.store(false, Ordering::SeqCst);
    bed.add("c").await.expect("written");
    let told: Vec<_> = bed.bodies().into_iter().map(|b| b.what).collect();
    assert_eq!(told, ["a", "c"]);
    // What changes nothing makes no generation, and is recorded all the same.
    let alone = bed.committer.change(|tx| {
        tx.notes.push(Note::default());
        Ok(())
    });
    assert_eq!(alone.await.expect("recorded").generation, generation + 1);
    assert_eq!(bed.bodies().len(), 3);
    bed.add("d").await.expect("goes on");
}

#[tokio::test]
async fn the_chain_goes_on_after_a_restart_and_says_when_it_was_changed() {
    let bed = Bed::new(1_000);
    for name in ["a", "b"] {
        bed.add(name).await.expect("written");
    }
    let Bed { folder, store, .. } = bed;
    let bed = Bed::on(folder, store, 1_000);
    bed.add("c").await.expect("written");
    let sequences: Vec<u64> = bed.bodies().iter().map(|body| body.sequence).collect();
    assert_eq!(sequences, [1, 2, 3]);
    let Bed { folder, store, .. } = bed;
    // The newest record is another than the one that was written.
    let row = store.audit(3, 1).expect("reads").remove(0);
    let mut record = v1::AuditRecord::decode(row.bytes.as_slice()).expect("a record");
    // Whoever changes it also knows how to hash, but has no key.
    let mut body = v1::AuditBody::decode(record.body.as_slice()).expect("a body");
    body.who = "somebody else".into();
    record.body = body.encode_to_vec();
    record.hash = super::hash(&record.body);
    let changed = AuditRow {
        bytes: record.encode_to_vec(),
        ..row
    };
    let generation = store.load().expect("loads").generation;
    let batch = crate::store::Batch {
        generation,
        audit: vec![changed],
        ..crate::store::Batch::default()
    };
    store
        .commit(crate::store::ElectionId(1), &batch)
        .expect("stored");
    let error = Auditor::open(folder.path(), store.as_ref(), 1_000).expect_err("changed");
    assert!(error.to_string().contains("audit record 3"), "{error}");
}

#[tokio::test]
async fn what_is_forgotten_is_said_and_the_log_stays_bounded() {
    let bed = Bed::new(100);
    let mut pruned = 0;
    for i in 0..250 {
        bed.add(&format!("t{i}")).await.expect("written");
        let (oldest, newest) = bed.store.audit_ends().expect("reads").expect("some");
        assert!(newest + 1 - oldest <= 101, "{oldest}..={newest}");
        if oldest > pruned + 1 {
            pruned = oldest - 1;
            let bodies = bed.bodies();
            let last = bodies.last().expect("some");
            assert_eq!((last.call.as_str(), last.pruned_through), ("prune", pruned));
            assert_eq!(last.pruned_hash, bodies[0].previous);
        }
    }
    assert!(pruned >= 100, "{pruned}");
}

#[tokio::test]
async fn of_much_that_is_to_be_forgotten_some_goes_at_a_time() {
    let bed = Bed::new(1_000_000);
    let many = bed.committer.change(|tx| {
        tx.notes.extend((0..10_000).map(|_| Note::default()));
        Ok(())
    });
    many.await.expect("recorded");
    let Bed { folder, store, .. } = bed;
    // Far fewer are to be kept from now on.
    let bed = Bed::on(folder, store, 100);
    let mut gone = Vec::new();
    for i in 0..4 {
        let (before, _) = bed.store.audit_ends().expect("reads").expect("some");
        bed.add(&format!("t{i}")).await.expect("written");
        let (oldest, _) = bed.store.audit_ends().expect("reads").expect("some");
        gone.push(oldest - before);
        bed.bodies();
    }
    // 10,004 records by then, of which 90 stay.
    assert_eq!(gone, [PRUNE_MAX, PRUNE_MAX, 1_724, 0]);
}

#[tokio::test]
async fn denials_are_bounded_and_what_is_not_recorded_is_counted() {
    let bed = Bed::new(10_000);
    let (stopping, stop) = watch::channel(false);
    let (recorder, task) = Recorder::start(bed.committer.clone(), stop);
    // More at once than may wait.
    let many = 5_000;
    for i in 0..many {
        recorder.note(Note {
            call: "Write".into(),
            what: i.to_string(),
            code: 7,
            ..Note::default()
        });
    }
    stopping.send_replace(true);
    task.await.expect("ended");
    let bodies = bed.bodies();
    let counted: u64 = bodies.iter().map(|body| body.left_out).sum();
    assert_eq!(
        bodies.len() as u64 + counted,
        many,
        "each is one or the other"
    );
    assert!(
        bodies.len() == denials::CALLER_BURST as usize,
        "{}",
        bodies.len()
    );
    assert_eq!(bed.state.generation(), 0, "nothing was changed");
}
