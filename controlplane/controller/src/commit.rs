//! The one writer: applies changes in order, stores them in groups, publishes.
//!
//! Everything that changes the desired state comes here as a closure over a
//! [`Transaction`]. The commit thread takes what is waiting, applies each change
//! (one that is refused is undone alone), compiles what the group touched,
//! stores the group as *one* transaction and one generation (up to three, where
//! routers must take them in order), and only then publishes the tables, wakes
//! routers and answers. Many small changes so cost one disk write; none is
//! answered before it is durable.
//!
//! Of several controllers one leads; in the others the same thread follows what the leader
//! committed, batch by batch, and refuses changes (see `commit/role.rs`).
//!
//! Invariant: what [`State::tables`] shows is durable. The RIB may be one group
//! ahead; [`State::read`] answers from it only when that group is durable too.
//!
//! Refuses to know what the changes mean, gRPC and files.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot, watch};

use crate::audit::{Auditor, Note};
use crate::change::Refusal;
use crate::compile::phases::{self, Phase};
use crate::feed::{self, ChangeFeed, Changes};
use crate::knowledge::Knowledge;
use crate::record::{Object, ObjectKey};
use crate::rib::{Mark, Rib, Touched};
use crate::store::{Batch, ElectionId, Epoch, Leader, Standing, Store};
use crate::tables::{EntryChange, Tables};

mod audited;
mod history;
mod open;
mod rehearse;
mod release;
mod role;
mod state;

use release::Releases;

#[cfg(test)]
mod tests;

pub use history::{History, Made, Origin};
pub use open::OpenError;
pub use rehearse::{Difference, Rehearsed};
pub use release::{HeldBack, Verdict};

/// Changes stored together at most. One change of 10,000 updates is one of them, so a group is
/// bounded by 32 MiB x this in theory and by who is waiting in practice.
const GROUP_MAX: usize = 512;

/// Changes waiting for the commit thread; a sender beyond it waits.
const QUEUE_MAX: usize = 4_096;

/// The controller's state, shared by all that read it.
pub struct State {
    rib: RwLock<Rib>,
    tables: RwLock<Tables>,
    store: Arc<dyn Store>,
    store_id: RwLock<String>,
    /// What the stored state was made by.
    epoch: Mutex<Epoch>,
    change_log_entries_max: usize,
    knowledge: Arc<Knowledge>,
    /// What this controller may do, as the commit thread found it last.
    standing: watch::Sender<Standing>,
    committed: watch::Sender<Committed>,
    history: History,
    feed: ChangeFeed,
    auditor: OnceLock<Auditor>,
    releases: Releases,
}

/// What is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The generation in force.
    pub generation: u64,
    /// How often what the RIB showed was undone: the store failed, or another controller's word counted.
    pub undone: u64,
}

/// One change under way.
pub struct Transaction<'a> {
    /// The desired state.
    pub rib: &'a mut Rib,
    /// The first generation that will hold some of the change.
    pub generation: u64,
    /// The clock, in milliseconds since the Unix epoch.
    pub now_unix_ms: u64,
    /// Cards to store or remove (`None`), by agent number.
    pub cards: Vec<(u32, Option<Vec<u8>>)>,
    /// What routers are told once the change is durable: router, attachment.
    pub verdicts: Vec<Verdict>,
    /// Another name for the store, when its generations can no longer be told from others.
    pub store_id: Option<String>,
    /// What made the generation.
    pub origins: Vec<Origin>,
    /// What the audit log is to say of it.
    pub notes: Vec<Note>,
}

/// A place in a transaction to come back to.
struct Savepoint {
    mark: Mark,
    intent_generation: u64,
    touched: Touched,
    cards: usize,
    verdicts: usize,
    store_id: Option<String>,
    origins: usize,
    notes: usize,
}

impl Transaction<'_> {
    /// Says who made the change, and what it is in words.
    pub fn made_by(&mut self, who: &str, what: impl Into<String>) {
        self.origins.push(Origin {
            who: who.to_owned(),
            what: what.into(),
        });
    }

    /// Does something that leaves no trace when it is refused.
    ///
    /// # Errors
    /// As `work`.
    pub fn attempt<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let before = self.savepoint();
        let outcome = work(self);
        match outcome {
            Ok(_) => self.keep(before),
            Err(_) => self.undo(before),
        }
        outcome
    }

    fn savepoint(&mut self) -> Savepoint {
        Savepoint {
            mark: self.rib.mark(),
            intent_generation: self.rib.intent_generation(),
            // Set aside, so that what an undone change touched can be told from what was touched before it.
            touched: self.rib.take_touched(),
            cards: self.cards.len(),
            verdicts: self.verdicts.len(),
            store_id: self.store_id.clone(),
            origins: self.origins.len(),
            notes: self.notes.len(),
        }
    }

    fn keep(&mut self, before: Savepoint) {
        if !self.rib.changed_since(before.mark) {
            // Who changed nothing made nothing.
            self.origins.truncate(before.origins);
        }
        self.rib.put_back_touched(before.touched);
    }

    fn undo(&mut self, before: Savepoint) {
        self.rib.rollback(before.mark);
        self.rib.take_touched();
        self.rib.put_back_touched(before.touched);
        self.rib.set_intent_generation(before.intent_generation);
        self.cards.truncate(before.cards);
        self.verdicts.truncate(before.verdicts);
        self.store_id = before.store_id;
        self.origins.truncate(before.origins);
        self.notes.truncate(before.notes);
    }
}

/// A change that is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done<T> {
    /// What the change answered.
    pub value: T,
    /// The generation that holds it.
    pub generation: u64,
}

/// Why a change did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// It may not be.
    #[error("{0}")]
    Refused(Refusal),
    /// The store failed; nothing of the change holds.
    #[error("nothing was changed, the store failed: {0}; try again when it is repaired")]
    Store(String),
    /// The store did not say whether the change holds; this controller leads no more.
    #[error(
        "it is not known whether the change holds: the store did not say; ask again, with the same idempotency_key: then it is done once"
    )]
    Uncertain,
    /// Another controller must be asked; it is named when it is known.
    #[error("this controller does not lead{}; nothing was changed", hint(.0.as_deref()))]
    NotLeader(Option<Arc<Leader>>),
    /// The controller is stopping.
    #[error("the controller is stopping; try again at the next one")]
    Stopped,
}

/// Where to go instead.
fn hint(leader: Option<&Leader>) -> String {
    leader.map_or_else(
        || ", and knows nobody who does; ask again in a moment".into(),
        |leader| format!(": ask {} at {}", leader.name, leader.northbound),
    )
}

/// Answer to a change that was submitted.
pub struct Receipt<T>(oneshot::Receiver<Result<Done<T>, CommitError>>);

impl<T> Receipt<T> {
    /// Waits until the change is durable or refused.
    ///
    /// # Errors
    /// [`CommitError`].
    pub async fn done(self) -> Result<Done<T>, CommitError> {
        self.0.await.unwrap_or(Err(CommitError::Stopped))
    }
}

/// Hands changes to the commit thread.
#[derive(Clone)]
pub struct Committer {
    queue: mpsc::Sender<Job>,
}

/// A generation that is durable.
struct Held {
    /// The first of its generations.
    first: u64,
    phases: Vec<Phase>,
    verdicts: Vec<Verdict>,
    store_id: Option<String>,
    epoch: Option<Epoch>,
    origins: Vec<Origin>,
    told: Changes,
}

/// What is done with verdicts once they are durable.
pub type Deliver = Box<dyn Fn(Vec<Verdict>) + Send>;

/// What a change did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Applied {
    /// It is to be stored.
    Held,
    /// It was refused, or only rehearsed: nothing of it may stay.
    Undone,
}

/// What the commit thread does.
enum Job {
    Change(Box<dyn Pending>),
    /// Looks whether this controller leads, and follows when it does not.
    Settle(oneshot::Sender<Result<Standing, CommitError>>),
}

trait Pending: Send {
    /// Applies the change, beside the tables in force before it.
    fn apply(&mut self, transaction: &mut Transaction<'_>, tables: &Tables) -> Applied;
    /// Answers whoever asked.
    fn answer(self: Box<Self>, outcome: &Result<u64, CommitError>);
}

struct Change<F, T> {
    work: Option<F>,
    result: Option<Result<T, Refusal>>,
    reply: oneshot::Sender<Result<Done<T>, CommitError>>,
}

impl<F, T> Pending for Change<F, T>
where
    F: FnOnce(&mut Transaction<'_>) -> Result<T, Refusal> + Send,
    T: Send,
{
    fn apply(&mut self, transaction: &mut Transaction<'_>, _: &Tables) -> Applied {
        if let Some(work) = self.work.take() {
            self.result = Some(work(transaction));
        }
        match self.result {
            Some(Ok(_)) => Applied::Held,
            _ => Applied::Undone,
        }
    }

    fn answer(self: Box<Self>, outcome: &Result<u64, CommitError>) {
        let answer = match (self.result, outcome) {
            (Some(Err(refusal)), _) => Err(CommitError::Refused(refusal)),
            (Some(Ok(value)), Ok(generation)) => Ok(Done {
                value,
                generation: *generation,
            }),
            (_, Err(cause)) => Err(cause.clone()),
            (None, Ok(_)) => Err(CommitError::Stopped),
        };
        // Whoever asked may have gone; the change holds all the same.
        let _ = self.reply.send(answer);
    }
}

impl Committer {
    /// Starts the commit thread. It ends when every `Committer` is gone; the second value says so,
    /// also when the thread broke.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn start(
        state: Arc<State>,
        deliver: Deliver,
    ) -> std::io::Result<(Self, oneshot::Receiver<()>)> {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let (ended_tx, ended) = oneshot::channel::<()>();
        std::thread::Builder::new()
            .name("commit".into())
            .spawn(move || {
                // Dropped last, also when `run` panics: by then the thread holds the store no more.
                let _ended = ended_tx;
                let (state, deliver) = (state, deliver);
                run(&state, waiting, &deliver);
            })?;
        Ok((Self { queue }, ended))
    }

    /// Queues a change behind those queued before; the order of calls is the order of changes.
    pub async fn submit<F, T>(&self, work: F) -> Receipt<T>
    where
        F: FnOnce(&mut Transaction<'_>) -> Result<T, Refusal> + Send + 'static,
        T: Send + 'static,
    {
        let (reply, receipt) = oneshot::channel();
        let change = Change {
            work: Some(work),
            result: None,
            reply,
        };
        self.queue(Box::new(change)).await;
        Receipt(receipt)
    }

    async fn queue(&self, change: Box<dyn Pending>) {
        // A closed queue drops the change and its reply with it: the receipt says Stopped.
        let _ = self.queue.send(Job::Change(change)).await;
    }

    /// Brings what this controller may do, and when it follows what it knows, in line with the store; changes do that
    /// too. Answers what it may do.
    ///
    /// # Errors
    /// The store failed: it may do what it could before, or only look.
    pub async fn settle(&self) -> Result<Standing, CommitError> {
        let (reply, receipt) = oneshot::channel();
        let _ = self.queue.send(Job::Settle(reply)).await;
        receipt.await.unwrap_or(Err(CommitError::Stopped))
    }

    /// Submits a change and waits until it is durable.
    ///
    /// # Errors
    /// [`CommitError`].
    pub async fn change<F, T>(&self, work: F) -> Result<Done<T>, CommitError>
    where
        F: FnOnce(&mut Transaction<'_>) -> Result<T, Refusal> + Send + 'static,
        T: Send + 'static,
    {
        self.submit(work).await.done().await
    }
}

fn run(state: &State, mut waiting: mpsc::Receiver<Job>, deliver: &Deliver) {
    while let Some(first) = waiting.blocking_recv() {
        state.releases.wait_for_room();
        let mut group = Vec::new();
        let mut settling = Vec::new();
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::Change(change) => group.push(change),
                Job::Settle(reply) => settling.push(reply),
            }
            next = match group.len() < GROUP_MAX {
                true => waiting.try_recv().ok(),
                false => None,
            };
        }
        let settled = role::settle(state);
        for reply in settling {
            let _ = reply.send(settled.clone());
        }
        if group.is_empty() {
            continue;
        }
        let standing = state.standing.borrow().clone();
        match standing {
            Standing::Leading(id) => commit(state, id, group, deliver),
            Standing::Following(leader) => answer(group, &Err(CommitError::NotLeader(leader))),
        }
    }
}

/// Applies, stores and publishes one group.
fn commit(state: &State, id: ElectionId, mut group: Vec<Box<dyn Pending>>, deliver: &Deliver) {
    // Before any other lock: whoever lets generations go holds this one when it changes the tables.
    let gated = state.releases.gated();
    let mut rib = state.rib_mut();
    let tables = state.tables();
    let before = tables.generation();
    let (start, intent_before) = (rib.mark(), rib.intent_generation());
    let mut transaction = Transaction {
        rib: &mut rib,
        generation: before + 1,
        now_unix_ms: now_unix_ms(),
        cards: Vec::new(),
        verdicts: Vec::new(),
        store_id: None,
        origins: Vec::new(),
        notes: Vec::new(),
    };
    for change in &mut group {
        apply(change.as_mut(), &mut transaction, &tables);
    }
    let Transaction {
        generation,
        cards,
        verdicts,
        store_id,
        origins,
        notes,
        ..
    } = transaction;
    if !rib.changed_since(start) && cards.is_empty() && store_id.is_none() {
        rib.take_touched();
        let nothing = Batch {
            generation: before,
            intent_generation: intent_before,
            floor: tables.floor(),
            ..Batch::default()
        };
        drop((rib, tables));
        let recorded = match notes.is_empty() || !state.is_audited() {
            true => Ok(()),
            false => state.store_audited(id, nothing, notes),
        };
        deliver(verdicts);
        let recorded = recorded.map_err(|error| role::failed(state, &error));
        return answer(group, &recorded.map(|()| before));
    }
    let touched = rib.take_touched();
    let changes = crate::compile::changes(&rib, &touched, &tables);
    let phases = match gated {
        true => phases::split(changes, &tables),
        false => vec![Phase::whole(changes)],
    };
    let last = before + phases.len() as u64;
    held_by(&mut rib, start, generation, last);
    let batch = Batch {
        generation: last,
        intent_generation: rib.intent_generation(),
        objects: rib.changes(),
        cards,
        changed: rows(generation, &phases, |(key, _)| key.clone()),
        floor: tables.floor_after(&sizes(generation, &phases)),
        epoch: (before == 0).then(|| state.knowledge.epoch().clone()),
        store_id: store_id.clone(),
        ..Batch::default()
    };
    drop(tables);
    let told = feed::changed(&rib, start);
    rib.set_generation(last);
    // The disk is slow: readers go on meanwhile, and wait for it where they must.
    drop(rib);
    let (renamed, epoch) = (batch.store_id.clone(), batch.epoch.clone());
    match state.store_audited(id, batch, notes) {
        Ok(()) => {
            state.rib_mut().settle();
            deliver(state.publish(Held {
                first: generation,
                phases,
                verdicts,
                store_id: renamed,
                epoch,
                origins,
                told,
            }));
            answer(group, &Ok(last));
        }
        Err(error) => {
            tracing::error!(event = "store_failed", generation = last, %error, "changes undone");
            let mut rib = state.rib_mut();
            rib.rollback(start);
            rib.take_touched();
            rib.set_generation(before);
            rib.set_intent_generation(intent_before);
            drop(rib);
            let cause = role::failed(state, &error);
            state
                .committed
                .send_modify(|committed| committed.undone += 1);
            answer(group, &Err(cause));
        }
    }
}

/// Requests done in this group say which generation holds all of them.
fn held_by(rib: &mut Rib, start: Mark, first: u64, last: u64) {
    let written = rib.written_since(start).map(|(key, _)| key);
    let requests = written.filter(|key| matches!(key, ObjectKey::Request(..)));
    let requests: BTreeSet<ObjectKey> = requests.cloned().collect();
    for key in requests {
        if let Some(Object::Request(record)) = rib.object(&key)
            && record.first_generation == first
            && record.generation != last
        {
            let mut record = record.as_ref().clone();
            record.generation = last;
            rib.put(Object::Request(Arc::new(record)));
        }
    }
}

fn rows<T>(first: u64, phases: &[Phase], of: impl Fn(&EntryChange) -> T) -> Vec<(u64, Vec<T>)> {
    let rows = (first..).zip(phases);
    rows.map(|(generation, phase)| (generation, phase.changes.iter().map(&of).collect()))
        .collect()
}

fn sizes(first: u64, phases: &[Phase]) -> Vec<(u64, usize)> {
    let rows = (first..).zip(phases);
    rows.map(|(generation, phase)| (generation, phase.changes.len()))
        .collect()
}

/// Applies one change, or leaves no trace of it.
fn apply(change: &mut dyn Pending, transaction: &mut Transaction<'_>, tables: &Tables) {
    let before = transaction.savepoint();
    match change.apply(transaction, tables) {
        Applied::Held => transaction.keep(before),
        Applied::Undone => transaction.undo(before),
    }
}

fn answer(group: Vec<Box<dyn Pending>>, outcome: &Result<u64, CommitError>) {
    for change in group {
        change.answer(outcome);
    }
}

/// The clock, in milliseconds since the Unix epoch.
#[must_use]
pub fn now_unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}
