//! Several controllers on one store that loses answers, by seed: what was acknowledged holds, what was refused does not,
//! and all come to know the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use caplane_proto::v1;
use tokio::sync::watch;

use super::*;
use crate::change::{Atomicity, write};
use crate::commit::Committer;
use crate::knowledge::Knowledge;
use crate::store::{AuditRow, Store};
use crate::tables::TableKey;
use crate::taxonomy::Taxonomy;
use crate::testbed::{
    MemoryStore, TAXONOMY, agent, any_update, checked, grant, insert, knowledge, objects, router,
    tenant,
};

/// Dice that are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

/// The store itself: one history, and one leader at a time.
struct Shared {
    past: Mutex<Past>,
}

struct Past {
    dice: Dice,
    /// What the history comes to; it asserts that generations rise.
    content: Arc<MemoryStore>,
    batches: Vec<Batch>,
    elected: ElectionId,
    /// Batches whose fate their leader was not told: they may yet hold, while it leads.
    in_flight: Vec<(ElectionId, Batch)>,
    /// Some commits fail when it is set.
    faulty: bool,
}

impl Past {
    fn hold(&mut self, batch: &Batch) {
        self.content
            .commit(ElectionId(1), batch)
            .expect("holds whatever it is given");
        self.batches.push(batch.clone());
    }

    /// What is in flight arrives or never will.
    fn land(&mut self) {
        for (id, batch) in std::mem::take(&mut self.in_flight) {
            let next = self.batches.len() as u64 + 1;
            if id == self.elected && batch.generation == next && self.dice.roll(2) == 0 {
                self.hold(&batch);
            }
        }
    }
}

/// A controller's end of the store.
struct Seat {
    shared: Arc<Shared>,
    believes: Mutex<Standing>,
    news: watch::Sender<()>,
}

impl Seat {
    fn leave(&self) {
        *self.believes.lock().expect("whole") = Standing::Following(None);
    }

    /// Becomes the leader; the one before is not told.
    fn win(&self) {
        let mut past = self.shared.past.lock().expect("whole");
        past.land();
        past.elected.0 += 1;
        *self.believes.lock().expect("whole") = Standing::Leading(past.elected);
    }
}

impl Store for Seat {
    fn engine(&self) -> &'static str {
        "model"
    }

    fn load(&self) -> Result<Stored, StoreError> {
        self.shared.past.lock().expect("whole").content.load()
    }

    fn since(&self, generation: u64) -> Result<Followed, StoreError> {
        let mut past = self.shared.past.lock().expect("whole");
        if past.dice.roll(6) == 0 {
            return Ok(Followed::Reload(Box::new(past.content.load()?)));
        }
        Ok(Followed::Batches(
            past.batches[generation as usize..].to_vec(),
        ))
    }

    fn commit(&self, id: ElectionId, batch: &Batch) -> Result<(), StoreError> {
        let mut past = self.shared.past.lock().expect("whole");
        if past.elected != id {
            self.leave();
            return Err(StoreError::Deposed);
        }
        let place = String::from("model");
        let fate = if past.faulty { past.dice.roll(8) } else { 7 };
        match fate {
            0 => {
                return Err(StoreError::Engine {
                    place,
                    operation: "commit",
                    cause: "told to fail".into(),
                });
            }
            1 | 2 => {
                match fate {
                    1 => past.hold(batch),
                    _ => past.in_flight.push((id, batch.clone())),
                }
                self.leave();
                return Err(StoreError::Uncertain {
                    place,
                    cause: "no answer".into(),
                });
            }
            _ => past.hold(batch),
        }
        Ok(())
    }

    fn card(&self, number: u32) -> Result<Option<Vec<u8>>, StoreError> {
        self.shared.past.lock().expect("whole").content.card(number)
    }

    fn audit(&self, _: u64, _: usize) -> Result<Vec<AuditRow>, StoreError> {
        Ok(Vec::new())
    }

    fn audit_ends(&self) -> Result<Option<(u64, u64)>, StoreError> {
        Ok(None)
    }

    fn standing(&self) -> Standing {
        self.believes.lock().expect("whole").clone()
    }

    fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }
}

struct Controller {
    seat: Arc<Seat>,
    state: Arc<State>,
    committer: Committer,
}

fn shared(seed: u64) -> Arc<Shared> {
    Arc::new(Shared {
        past: Mutex::new(Past {
            dice: Dice(seed),
            content: Arc::default(),
            batches: Vec::new(),
            elected: ElectionId(0),
            in_flight: Vec::new(),
            faulty: true,
        }),
    })
}

fn controller(shared: &Arc<Shared>, knowledge: Arc<Knowledge>) -> Controller {
    let seat = Arc::new(Seat {
        shared: shared.clone(),
        believes: Mutex::new(Standing::Following(None)),
        news: watch::Sender::new(()),
    });
    let state = State::open(seat.clone(), knowledge, 1_000).expect("opens");
    let (committer, _) = Committer::start(state.clone(), Box::new(|_| {})).expect("a thread");
    Controller {
        seat,
        state,
        committer,
    }
}

impl Controller {
    async fn write(&self, updates: &[v1::Update]) -> Result<u64, CommitError> {
        let parsed = checked(updates).expect("good");
        let done = self
            .committer
            .change(move |tx| write::batch(tx, &parsed, Atomicity::ContinueOnError).map(|_| ()));
        done.await.map(|done| done.generation)
    }

    /// Everything that must be the same everywhere, and what the tables should be.
    fn known(
        &self,
    ) -> (
        (u64, u64, String),
        Vec<crate::record::Object>,
        BTreeMap<TableKey, caplane_core::fib::Entry>,
    ) {
        let rib = self.state.rib();
        assert!(rib.touched().is_empty(), "nothing is left to compile");
        let expected: BTreeMap<_, _> = compile::everything(&rib).into_iter().collect();
        let tables = self.state.tables();
        for (key, entry) in &expected {
            let held = tables.entry(key).map(|row| row.entry.as_ref());
            assert_eq!(held, Some(entry), "{key:?}");
        }
        assert_eq!(tables.generation(), rib.generation());
        assert_eq!(self.state.generation(), rib.generation());
        let numbers = (rib.generation(), rib.intent_generation());
        (
            (numbers.0, numbers.1, self.state.store_id()),
            objects(&rib),
            expected,
        )
    }
}

/// What became of names that were written.
#[derive(Default)]
struct Ledger {
    acknowledged: BTreeSet<String>,
    refused: BTreeSet<String>,
    unknown: usize,
}

async fn disturbed(seed: u64) -> (usize, usize, usize) {
    let shared = shared(seed);
    let mut dice = Dice(seed ^ 0x5eed);
    let controllers: Vec<Controller> = (0..3).map(|_| controller(&shared, knowledge())).collect();
    let mut ledger = Ledger::default();
    for round in 0..300 {
        let one = &controllers[dice.roll(3)];
        match dice.roll(10) {
            0 | 1 => one.seat.win(),
            2 | 3 => {
                let _ = one.committer.settle().await;
            }
            _ => {
                let name = format!("n{round}");
                let mut updates = vec![insert(tenant(&name))];
                updates
                    .extend((0..2).map(|_| any_update(std::array::from_fn(|_| dice.roll(1_000)))));
                match one.write(&updates).await {
                    Ok(_) => {
                        ledger.acknowledged.insert(name);
                    }
                    Err(CommitError::Uncertain) => {
                        assert!(one.state.election().is_none(), "it leads no more");
                        ledger.unknown += 1;
                    }
                    Err(CommitError::NotLeader(_) | CommitError::Store(_)) => {
                        ledger.refused.insert(name);
                    }
                    Err(other) => panic!("seed {seed}: {other}"),
                }
            }
        }
    }
    shared.past.lock().expect("whole").faulty = false;
    controllers[0].seat.win();
    controllers[0]
        .write(&[insert(tenant("last"))])
        .await
        .expect("leads");
    let mut known = Vec::new();
    for (i, one) in controllers.iter().enumerate() {
        if i > 0 {
            // Whoever still believes to lead learns better.
            one.write(&[insert(tenant("never"))])
                .await
                .expect_err("deposed");
            one.committer.settle().await.expect("follows");
        }
        let rib = one.state.rib();
        for name in &ledger.acknowledged {
            assert!(rib.tenant(name).is_some(), "seed {seed}: {name} is lost");
        }
        for name in &ledger.refused {
            assert!(rib.tenant(name).is_none(), "seed {seed}: {name} holds");
        }
        drop(rib);
        known.push(one.known());
    }
    assert_eq!(known[0], known[1], "seed {seed}");
    assert_eq!(known[0], known[2], "seed {seed}");
    (
        ledger.acknowledged.len(),
        ledger.refused.len(),
        ledger.unknown,
    )
}

#[tokio::test]
async fn what_was_acknowledged_holds_and_what_was_refused_does_not_whoever_leads() {
    let mut sums = (0, 0, 0);
    for seed in 1..=20 {
        let (acknowledged, refused, unknown) = disturbed(seed).await;
        sums.0 += acknowledged;
        sums.1 += refused;
        sums.2 += unknown;
    }
    // The dice are the same in every run: all three happen.
    assert!(sums.0 > 200 && sums.1 > 200 && sums.2 > 100, "{sums:?}");
}

#[tokio::test]
async fn who_follows_takes_over_at_the_same_generation_and_routers_by_difference() {
    let shared = shared(4);
    shared.past.lock().expect("whole").faulty = false;
    let [one, two] = [(); 2].map(|()| controller(&shared, knowledge()));
    one.seat.win();
    let updates = [
        insert(router("r1")),
        insert(agent("x", "", &["book_hotel"])),
    ];
    one.write(&updates).await.expect("leads");
    let refused = two.write(&[insert(tenant("t"))]).await;
    assert!(
        matches!(refused, Err(CommitError::NotLeader(None))),
        "{refused:?}"
    );
    assert_eq!(two.state.generation(), 1, "it follows");
    one.write(&[insert(grant("x", "*"))]).await.expect("leads");
    two.seat.win();
    assert!(matches!(
        two.committer.settle().await,
        Ok(Standing::Leading(ElectionId(2)))
    ));
    let label = crate::testbed::router_label(&two.state.rib(), "r1");
    let difference = two.state.tables().difference(label, 1).expect("known");
    assert_eq!((difference.upserts.len(), difference.removes.len()), (1, 0));
    let deposed = one.write(&[insert(tenant("late"))]).await;
    assert!(
        matches!(deposed, Err(CommitError::NotLeader(_))),
        "{deposed:?}"
    );
    assert_eq!(one.state.election(), None);
    assert_eq!(one.known(), two.known());
}

#[tokio::test]
async fn another_taxonomy_waits_until_it_leads() {
    let shared = shared(5);
    shared.past.lock().expect("whole").faulty = false;
    let one = controller(&shared, knowledge());
    one.seat.win();
    let updates = [insert(agent("x", "", &["book_hotel", "find_hotel"]))];
    one.write(&updates).await.expect("leads");

    let text = TAXONOMY.replace("find_hotel", "search_hotel");
    let newer = Taxonomy::from_json(&text, "test").expect("good");
    let newer = controller(&shared, Arc::new(Knowledge::new(newer)));
    newer.committer.settle().await.expect("follows");
    assert_eq!(newer.state.generation(), 1, "who follows changes nothing");
    newer.seat.win();
    newer.committer.settle().await.expect("takes over");
    assert_eq!(newer.state.generation(), 2);
    // The one before finds that every entry may be another.
    let late = one.write(&[insert(tenant("late"))]).await;
    late.expect_err("deposed");
    one.committer.settle().await.expect("follows");
    assert_eq!(one.state.generation(), 2);
    assert_eq!(one.known().1, newer.known().1);
}
