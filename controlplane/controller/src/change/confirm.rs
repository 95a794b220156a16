//! Writes that are rolled back unless they are confirmed.
//!
//! What such a Write changed is stored with it as it was before ([`hold`]). While it waits, other Writes leave alone what
//! a rollback needs ([`leave_alone`]), so that undoing it undoes nothing else. It ends by a word ([`confirm`], [`cancel`])
//! or by time ([`expire`]). What routers report is nobody's to undo: attachments, addresses, when a lease was renewed.
//! Refuses to know who may say what, stores and gRPC.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message;

use super::{Fault, Refusal};
use crate::commit::Transaction;
use crate::record::{AgentRecord, Object, ObjectKey, Outcome, PendingRecord, UndoCard, UndoRecord};
use crate::rib::{Mark, Rib};

mod alone;
mod rollback;

pub use alone::leave_alone;

/// How long a Write waits when nobody says: 10 minutes, in seconds.
pub const WAIT_DEFAULT_SECONDS: u32 = 600;
/// How long it may wait: a day, in seconds.
pub const WAIT_MAX_SECONDS: u32 = 86_400;
/// Largest stored undo (bytes).
pub const UNDO_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Tag and length of each of its parts (bytes).
const PART_BYTES: usize = 6;
/// Ended ones remembered; the oldest falls out.
pub const ENDED_MAX: usize = 16;

/// Where a Write began, of which it may be asked to come back.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    mark: Mark,
    cards: usize,
}

impl Start {
    /// Here.
    #[must_use]
    pub fn of(tx: &Transaction<'_>) -> Self {
        Self {
            mark: tx.rib.mark(),
            cards: tx.cards.len(),
        }
    }
}

/// Who asks, and for how long.
#[derive(Debug, Clone)]
pub struct Wait {
    /// Certificate URI of the caller.
    pub caller: String,
    /// 1..=[`WAIT_MAX_SECONDS`].
    pub seconds: u32,
}

/// Seconds to wait, of a field that may be 0.
///
/// # Errors
/// Too many.
pub fn seconds(field: &str, given: u32) -> Result<u32, Refusal> {
    match given {
        0 => Ok(WAIT_DEFAULT_SECONDS),
        1..=WAIT_MAX_SECONDS => Ok(given),
        _ => {
            let remedy = format!("use 1 to {WAIT_MAX_SECONDS}, or 0 for {WAIT_DEFAULT_SECONDS}");
            let refusal = Refusal::new(Fault::Invalid, field, given, "is too long", remedy);
            Err(refusal.accepting([format!("0..={WAIT_MAX_SECONDS}")]))
        }
    }
}

/// Refuses while another Write waits: there is one at a time.
///
/// # Errors
/// [`Fault::State`].
pub fn none_waits(rib: &Rib) -> Result<(), Refusal> {
    let Some(waiting) = rib.waiting() else {
        return Ok(());
    };
    let record = waiting.record();
    Err(Refusal::new(
        Fault::State,
        "confirm",
        record.generation,
        format!(
            "this commit of {} waits already, one may at a time",
            record.caller
        ),
        end_it(record),
    ))
}

/// Has what was written since `start` wait to be confirmed. Answers the record, or `None` when nothing was changed.
/// `stored_card` reads a card as it was before the group of changes under way.
///
/// # Errors
/// The undo would be too large, or cannot be read.
pub fn hold(
    tx: &mut Transaction<'_>,
    start: Start,
    wait: &Wait,
    stored_card: impl Fn(u32) -> Result<Option<Vec<u8>>, String>,
) -> Result<Option<Arc<PendingRecord>>, Refusal> {
    let mut room = Room(UNDO_BYTES_MAX);
    let cards = cards_before(tx, start, &mut room, stored_card)?;
    let undo = undo_since(tx.rib, start.mark, &cards, &mut room)?;
    if undo.is_empty() {
        return Ok(None);
    }
    let record = Arc::new(PendingRecord {
        generation: tx.generation,
        caller: wait.caller.clone(),
        deadline_unix_ms: end_of(tx, wait.seconds),
        objects: u32::try_from(undo.len()).unwrap_or(u32::MAX),
        cards,
        undo,
        ..PendingRecord::default()
    });
    tx.rib.put(Object::Pending(record.clone()));
    Ok(Some(record))
}

/// Bytes that an undo may still have: counted while it is read, so that one that is too large is not read whole.
struct Room(usize);

impl Room {
    fn take(&mut self, part: &impl Message) -> Result<(), Refusal> {
        let left = self.0.checked_sub(part.encoded_len() + PART_BYTES);
        self.0 = left.ok_or_else(|| {
            Refusal::new(
                Fault::Full,
                "confirm",
                format!("more than {UNDO_BYTES_MAX} bytes"),
                "is more than is kept to undo a batch",
                format!(
                    "write in several batches, each of which undoes at most {UNDO_BYTES_MAX} bytes"
                ),
            )
        })?;
        Ok(())
    }
}

/// Every object written since `mark` but for what is reported, as it was.
fn before_since(rib: &Rib, mark: Mark) -> BTreeMap<&ObjectKey, Option<&Object>> {
    let mut first = BTreeMap::new();
    for (key, before) in rib.written_since(mark) {
        if !is_reported(key) {
            first.entry(key).or_insert(before);
        }
    }
    first
}

/// Every object changed since `mark`, as it was; agents also when no more than their card was.
fn undo_since(
    rib: &Rib,
    mark: Mark,
    cards: &[UndoCard],
    room: &mut Room,
) -> Result<Vec<UndoRecord>, Refusal> {
    let cards: BTreeSet<u32> = cards.iter().map(|card| card.number).collect();
    let other_card = |object: Option<&Object>| match object {
        Some(Object::Agent(agent)) => cards.contains(&agent.number),
        _ => false,
    };
    let mut changed = Vec::new();
    for (key, before) in before_since(rib, mark) {
        let after = rib.object(key);
        if same(before, after.as_ref()) && !other_card(before) {
            continue;
        }
        let undo = UndoRecord {
            key: key.to_bytes(),
            before: before.map(Object::to_bytes),
            left: after.is_some(),
            lease_kept: lease(before, after.as_ref()) == Lease::Kept,
        };
        room.take(&undo)?;
        changed.push(undo);
    }
    Ok(changed)
}

/// What became of an agent's lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lease {
    /// It has one, begun before and no shorter.
    Kept,
    /// It has one that began or is shorter now.
    Hurried,
    /// It has none, or is not there, or not the same any more.
    None,
}

fn lease(before: Option<&Object>, after: Option<&Object>) -> Lease {
    match (before, after) {
        (Some(Object::Agent(before)), Some(Object::Agent(after)))
            if before.number == after.number && after.lease_seconds > 0 =>
        {
            if (1..=after.lease_seconds).contains(&before.lease_seconds) {
                Lease::Kept
            } else {
                Lease::Hurried
            }
        }
        _ => Lease::None,
    }
}

/// Agents whose lease may end because of what was written since `mark`, by number.
fn hurried(rib: &Rib, mark: Mark) -> BTreeSet<u32> {
    let written = before_since(rib, mark).into_iter();
    let hurried = written.filter_map(|(key, before)| match (before, rib.object(key)) {
        (Some(Object::Agent(agent)), after) if lease(before, after.as_ref()) == Lease::Hurried => {
            Some(agent.number)
        }
        _ => None,
    });
    hurried.collect()
}

/// Every card changed since `start`, as it was, and of agents that may go meanwhile those that were not.
fn cards_before(
    tx: &Transaction<'_>,
    start: Start,
    room: &mut Room,
    stored_card: impl Fn(u32) -> Result<Option<Vec<u8>>, String>,
) -> Result<Vec<UndoCard>, Refusal> {
    let (earlier, own) = tx.cards.split_at(start.cards.min(tx.cards.len()));
    // Of several of one agent the last counts.
    let own: BTreeMap<u32, &Option<Vec<u8>>> = own.iter().map(|(n, card)| (*n, card)).collect();
    let hurried = hurried(tx.rib, start.mark);
    let mut cards = Vec::new();
    for (number, after) in own {
        // Changes stored together with this one are not in the store yet.
        let waiting = earlier.iter().rev().find(|(of, _)| *of == number);
        let card = match waiting {
            Some((_, card)) => card.clone(),
            None => stored_card(number).map_err(|cause| {
                Refusal::new(
                    Fault::Store,
                    "confirm",
                    "",
                    format!("the cards to come back to cannot be read: {cause}"),
                    "try again when the store is repaired",
                )
            })?,
        };
        if card != *after || hurried.contains(&number) {
            let undo = UndoCard { number, card };
            room.take(&undo)?;
            cards.push(undo);
        }
    }
    Ok(cards)
}

/// What routers report, time ends, or the controller keeps for itself.
fn is_reported(key: &ObjectKey) -> bool {
    matches!(
        key,
        ObjectKey::Counter(_)
            | ObjectKey::Attachment(_)
            | ObjectKey::Request(..)
            | ObjectKey::Pending(_)
    )
}

/// Whether somebody's word made no difference.
fn same(before: Option<&Object>, after: Option<&Object>) -> bool {
    match (before, after) {
        (Some(Object::Agent(before)), Some(Object::Agent(after))) => {
            let renewed = AgentRecord {
                renewed_unix_ms: after.renewed_unix_ms,
                ..before.as_ref().clone()
            };
            renewed == **after
        }
        (before, after) => before == after,
    }
}

fn end_it(record: &PendingRecord) -> String {
    let id = record.generation;
    format!(
        "confirm or cancel it first (`caplane commit confirm {id}`, `caplane commit cancel {id}`)"
    )
}

fn end_of(tx: &Transaction<'_>, seconds: u32) -> u64 {
    tx.now_unix_ms + u64::from(seconds) * 1_000
}

/// Makes it hold for good; once more is no error.
///
/// # Errors
/// It is not there, its time is over, or it was rolled back.
pub fn confirm(
    tx: &mut Transaction<'_>,
    generation: u64,
    caller: &str,
) -> Result<Arc<PendingRecord>, Refusal> {
    let record = known(tx.rib, generation)?;
    match record.outcome() {
        Outcome::Confirmed => Ok(record),
        Outcome::Waiting => {
            in_time(tx, &record)?;
            Ok(end(tx, &record, Outcome::Confirmed, caller))
        }
        Outcome::Cancelled | Outcome::Expired => Err(ended(&record)),
    }
}

/// Has it wait for so many seconds from now on.
///
/// # Errors
/// It is not there, its time is over, or it ended.
pub fn extend(
    tx: &mut Transaction<'_>,
    generation: u64,
    seconds: u32,
) -> Result<Arc<PendingRecord>, Refusal> {
    let record = known(tx.rib, generation)?;
    if record.outcome() != Outcome::Waiting {
        return Err(ended(&record));
    }
    in_time(tx, &record)?;
    let record = Arc::new(PendingRecord {
        deadline_unix_ms: end_of(tx, seconds),
        ..record.as_ref().clone()
    });
    tx.rib.put(Object::Pending(record.clone()));
    Ok(record)
}

/// Rolls it back now; once more is no error.
///
/// # Errors
/// It is not there, or holds for good.
pub fn cancel(
    tx: &mut Transaction<'_>,
    generation: u64,
    caller: &str,
) -> Result<Arc<PendingRecord>, Refusal> {
    let record = known(tx.rib, generation)?;
    match record.outcome() {
        Outcome::Waiting => {
            rollback::roll_back(tx, &record);
            Ok(end(tx, &record, Outcome::Cancelled, caller))
        }
        Outcome::Cancelled | Outcome::Expired => Ok(record),
        Outcome::Confirmed => Err(ended(&record)),
    }
}

/// Rolls back the Write that waits when its time is over.
///
/// # Errors
/// Never.
pub fn expire(tx: &mut Transaction<'_>) -> Result<Option<Arc<PendingRecord>>, Refusal> {
    let waiting = tx.rib.waiting().map(|waiting| waiting.record().clone());
    let Some(record) = waiting.filter(|record| is_over(tx, record)) else {
        return Ok(None);
    };
    tx.made_by(
        "",
        format!("commit {} was not confirmed", record.generation),
    );
    rollback::roll_back(tx, &record);
    Ok(Some(end(tx, &record, Outcome::Expired, "")))
}

fn is_over(tx: &Transaction<'_>, record: &PendingRecord) -> bool {
    record.deadline_unix_ms <= tx.now_unix_ms
}

fn in_time(tx: &Transaction<'_>, record: &PendingRecord) -> Result<(), Refusal> {
    if !is_over(tx, record) {
        return Ok(());
    }
    Err(Refusal::new(
        Fault::State,
        "id",
        record.generation,
        "its time is over, it is about to be rolled back",
        "write it again, with more time",
    ))
}

fn known(rib: &Rib, generation: u64) -> Result<Arc<PendingRecord>, Refusal> {
    rib.pending(generation).cloned().ok_or_else(|| {
        let refusal = Refusal::new(
            Fault::Missing,
            "id",
            generation,
            "no such commit waits to be confirmed, or did lately",
            "look what does with `caplane commit list`",
        );
        let waiting = rib
            .waiting()
            .map(|waiting| waiting.record().generation.to_string());
        refusal.accepting(waiting)
    })
}

fn ended(record: &PendingRecord) -> Refusal {
    let by = match record.ended_by.as_str() {
        "" => "when its time was over".to_owned(),
        who => format!("by {who}"),
    };
    let (what, remedy) = match record.outcome() {
        Outcome::Confirmed => ("confirmed", "undo it with a Write of its own"),
        _ => ("rolled back", "write it again"),
    };
    Refusal::new(
        Fault::State,
        "id",
        record.generation,
        format!(
            "it was {what} in generation {} {by}",
            record.ended_generation
        ),
        remedy,
    )
}

/// Remembers how it ended, and forgets the oldest that did.
fn end(
    tx: &mut Transaction<'_>,
    record: &PendingRecord,
    outcome: Outcome,
    caller: &str,
) -> Arc<PendingRecord> {
    let record = Arc::new(PendingRecord {
        outcome: outcome as u32,
        ended_generation: tx.generation,
        ended_by: caller.to_owned(),
        undo: Vec::new(),
        cards: Vec::new(),
        ..record.clone()
    });
    tx.rib.put(Object::Pending(record.clone()));
    let known: Vec<u64> = tx
        .rib
        .pending_after(0)
        .map(|known| known.generation)
        .collect();
    for oldest in known.iter().take(known.len().saturating_sub(ENDED_MAX)) {
        tx.rib.remove(&ObjectKey::Pending(*oldest));
    }
    record
}

#[cfg(test)]
mod tests;
