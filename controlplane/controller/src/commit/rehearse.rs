//! Changes that are tried and taken back: what they would make of the tables.

use std::collections::BTreeMap;
use std::sync::Arc;

use caplane_core::fib::Entry;
use caplane_wire::Label;
use tokio::sync::oneshot;

use super::{Applied, CommitError, Committer, Done, Mark, Pending, Receipt, Transaction};
use crate::change::Refusal;
use crate::compile;
use crate::rib::Rib;
use crate::tables::{EntryChange, TableKey, Tables, Versioned};

/// A change that was tried.
#[derive(Debug, Clone)]
pub struct Rehearsed<T> {
    /// What the change answered.
    pub value: T,
    /// Table entries that would differ, in key order.
    pub differences: Vec<Difference>,
    /// Names of the routers whose own entries are among them.
    pub routers: BTreeMap<Label, String>,
}

/// A table entry that would differ.
#[derive(Debug, Clone)]
pub struct Difference {
    /// Whose it is.
    pub key: TableKey,
    /// As it is; `None` = there is none. The version is 0 when it is not in force yet.
    pub before: Option<Versioned>,
    /// As it would be; `None` = it would go.
    pub after: Option<Arc<Entry>>,
}

struct Rehearsal<F, T> {
    work: Option<F>,
    result: Option<Result<Done<Rehearsed<T>>, Refusal>>,
    reply: oneshot::Sender<Result<Done<Rehearsed<T>>, CommitError>>,
}

impl<F, T> Pending for Rehearsal<F, T>
where
    F: FnOnce(&mut Transaction<'_>) -> Result<T, Refusal> + Send,
    T: Send,
{
    fn apply(&mut self, transaction: &mut Transaction<'_>, tables: &Tables) -> Applied {
        if let Some(work) = self.work.take() {
            let mark = transaction.rib.mark();
            // Of its group the generation before is all that can be named: what was queued with it
            // may be refused, or come later and share the next one.
            let generation = transaction.generation - 1;
            self.result = Some(work(transaction).map(|value| Done {
                value: differences(transaction.rib, mark, tables, value),
                generation,
            }));
        }
        Applied::Undone
    }

    fn answer(self: Box<Self>, outcome: &Result<u64, CommitError>) {
        let answer = match (self.result, outcome) {
            (Some(Err(refusal)), _) => Err(CommitError::Refused(refusal)),
            // What it was tried on may be a change of its group that does not hold.
            (_, Err(cause)) => Err(cause.clone()),
            (Some(Ok(done)), Ok(_)) => Ok(done),
            (None, Ok(_)) => Err(CommitError::Stopped),
        };
        let _ = self.reply.send(answer);
    }
}

impl Committer {
    /// Does a change, tells what it would make of the tables, and undoes it: nothing is stored.
    /// The generation answered is the one it was tried on.
    ///
    /// # Errors
    /// [`CommitError`], as the change would have.
    pub async fn rehearse<F, T>(&self, work: F) -> Result<Done<Rehearsed<T>>, CommitError>
    where
        F: FnOnce(&mut Transaction<'_>) -> Result<T, Refusal> + Send + 'static,
        T: Send + 'static,
    {
        let (reply, receipt) = oneshot::channel();
        self.queue(Box::new(Rehearsal {
            work: Some(work),
            result: None,
            reply,
        }))
        .await;
        Receipt(receipt).done().await
    }
}

/// Compiles what was touched since `mark`, takes the changes back, and compiles it again: others
/// of the same group may have touched the same entries before.
fn differences<T>(rib: &mut Rib, mark: Mark, tables: &Tables, value: T) -> Rehearsed<T> {
    let touched = rib.touched().clone();
    let mut after = by_key(compile::changes(rib, &touched, tables));
    let mut routers = BTreeMap::new();
    name(rib, after.keys(), &mut routers);
    rib.rollback(mark);
    let mut before = by_key(compile::changes(rib, &touched, tables));
    name(rib, after.keys().chain(before.keys()), &mut routers);
    let keys: Vec<TableKey> = after.keys().chain(before.keys()).cloned().collect();
    let in_force = |key: &TableKey| tables.entry(key).cloned();
    let mut differences: Vec<Difference> = Vec::new();
    for key in keys {
        // `None` = as in force.
        let (was, is) = (before.remove(&key), after.remove(&key));
        if was.is_none() && is.is_none() {
            continue;
        }
        let fresh = |entry: Option<Entry>| {
            entry.map(|entry| Versioned {
                version: 0,
                entry: Arc::new(entry),
            })
        };
        let was = was.map_or_else(|| in_force(&key), fresh);
        let is = is
            .map_or_else(|| in_force(&key), fresh)
            .map(|row| row.entry);
        if was.as_ref().map(|row| &row.entry) != is.as_ref() {
            differences.push(Difference {
                key,
                before: was,
                after: is,
            });
        }
    }
    differences.sort_by(|a, b| a.key.cmp(&b.key));
    Rehearsed {
        value,
        differences,
        routers,
    }
}

fn by_key(changes: Vec<EntryChange>) -> BTreeMap<TableKey, Option<Entry>> {
    changes.into_iter().collect()
}

fn name<'a>(
    rib: &Rib,
    keys: impl Iterator<Item = &'a TableKey>,
    names: &mut BTreeMap<Label, String>,
) {
    for key in keys {
        if let TableKey::Router(router, _) = key
            && let Some(record) = rib.router_by_label(*router)
        {
            names.insert(*router, record.name.clone());
        }
    }
}
