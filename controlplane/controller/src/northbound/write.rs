//! Write: a batch is checked in itself off the async threads (cards are parsed and skills classified there), done or
//! rehearsed by the commit thread as one change, and answered with no more than clients take: an answer that is too
//! large would make a failure of what is durable.

use std::time::Duration;

use caplane_proto::v1;
use prost::Message;
use tonic::{Code, Status};

use super::errors::{broke, code, exceeded, not_committed, refused, update_status};
use super::render::View;
use super::{NorthboundService, rehearsal, rollout};
use crate::access::Principal;
use crate::audit::{Note, words};
use crate::change::confirm::{self, Start, Wait};
use crate::change::once::{self, KEY_BYTES_MAX, RequestName};
use crate::change::{Atomicity, Checked, Fault, Refusal, Update, parse, write};
use crate::commit::{CommitError, State, Transaction};
use crate::knowledge::Knowledge;
use crate::quota;
use crate::record::{RefusedUpdate, RequestRecord};
use crate::rib::Rib;
use crate::southbound::Sessions;

/// Bytes of an answer's entities, but for the first: half of what gRPC clients accept by default (4 MiB), as Read's pages.
const ENTITIES_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of an answer's statuses with their texts.
const STATUSES_BYTES_MAX: usize = 1024 * 1024;

/// A request, checked in itself.
struct Order {
    updates: Vec<Checked>,
    atomicity: Atomicity,
    dry_run: bool,
    expected_generation: Option<u64>,
    name: Option<RequestName>,
    confirm: Option<Wait>,
    caller: Principal,
    wait_live: Option<Duration>,
    omit_entities: bool,
    /// SHA-256 of the request as a whole.
    digest: Vec<u8>,
}

/// What became of an order.
struct Answer {
    /// The generation that holds it, when that is not the one of its own change.
    held_by: Option<u64>,
    entities: Vec<v1::Entity>,
    entities_left_out: u32,
    statuses: Vec<v1::UpdateStatus>,
    pending: Option<v1::PendingCommit>,
}

pub(super) async fn write(
    service: &NorthboundService,
    caller: Principal,
    request: v1::WriteRequest,
) -> Result<v1::WriteResponse, Status> {
    let updates = request.updates.len();
    let costs = [
        (quota::Kind::Updates, updates),
        (quota::Kind::Bytes, request.encoded_len()),
    ];
    let within = service.limits.take(&caller.uri, &costs);
    within.map_err(|error| exceeded(&error))?;
    let (knowledge, who) = (service.state.knowledge().clone(), caller.uri.clone());
    let denial = caller.note("Write", String::new());
    let order = tokio::task::spawn_blocking(move || check(&knowledge, caller, request)).await;
    let order = order
        .map_err(|_| broke("checking the batch"))?
        .map_err(|refusal| refused(&refusal))?;
    let (dry_run, wait_live) = (order.dry_run, order.wait_live);
    let (state, sessions) = (service.state.clone(), service.sessions.clone());
    let work = move |tx: &mut Transaction<'_>| carry_out(tx, order, &state, &sessions);
    let failed = |error: CommitError| {
        if let Some(note) = denied_beside(&error, &denial) {
            service.recorder.note(note);
        }
        not_committed(&error)
    };
    let (generation, answer, diff) = if dry_run {
        let tried = service.committer.rehearse(work).await;
        let tried = tried.map_err(failed)?;
        let diff = rehearsal::diff(&tried.value);
        (tried.generation, tried.value.value, diff)
    } else {
        let done = service.committer.change(work).await;
        let done = done.map_err(failed)?;
        (done.generation, done.value, Vec::new())
    };
    let generation = answer.held_by.unwrap_or(generation);
    // A batch that is denied as a whole is noted at the door.
    let code = Code::PermissionDenied as i32;
    let denied = answer.statuses.iter().find(|status| status.code == code);
    if let Some(status) = denied.filter(|_| answer.held_by.is_none()) {
        let what = status.message.clone();
        let note = Note {
            what,
            code,
            ..denial.clone()
        };
        service.recorder.note(note);
    }
    let refused = answer.statuses.iter().filter(|status| status.code != 0);
    tracing::info!(
        event = "write",
        %who,
        updates,
        refused = refused.count(),
        dry_run,
        repeated = answer.held_by.is_some(),
        pending = answer.pending.is_some() && !dry_run,
        generation,
    );
    let rollout = match wait_live {
        Some(limit) => Some(rollout::live(service, generation, limit).await),
        None => None,
    };
    Ok(v1::WriteResponse {
        generation,
        entities: answer.entities,
        statuses: answer.statuses,
        diff,
        pending: answer.pending.filter(|_| !dry_run),
        rollout,
        repeated_request: answer.held_by.is_some(),
        entities_left_out: answer.entities_left_out,
    })
}

/// What was denied in a batch that was refused for another fault, which is all that the door sees of it.
fn denied_beside(error: &CommitError, denial: &Note) -> Option<Note> {
    let CommitError::Refused(first) = error else {
        return None;
    };
    if first.fault == Fault::Denied {
        return None;
    }
    let denied = |refusal: &&Refusal| refusal.fault == Fault::Denied;
    let mut denied = first.about.further.iter().filter(denied);
    let told = denied.next()?;
    Some(Note {
        what: match denied.count() {
            0 => told.to_string(),
            more => format!("{told} (and {more} more in the same batch)"),
        },
        code: Code::PermissionDenied as i32,
        ..denial.clone()
    })
}

fn check(
    knowledge: &Knowledge,
    caller: Principal,
    mut request: v1::WriteRequest,
) -> Result<Order, Refusal> {
    use v1::write_request::Atomicity as Asked;
    let digest = digest(&request).as_ref().to_vec();
    // How it is answered is no part of what is asked: `name` does not see it.
    let omit_entities = std::mem::take(&mut request.omit_entities);
    let wait_live = rollout::wait(std::mem::take(&mut request.wait_live_ms), request.dry_run)?;
    let atomicity = match Asked::try_from(request.atomicity) {
        Ok(Asked::Unspecified | Asked::AllOrNone) => Atomicity::AllOrNone,
        Ok(Asked::ContinueOnError) => Atomicity::ContinueOnError,
        Err(_) => {
            let refusal = Refusal::new(
                Fault::Invalid,
                "atomicity",
                request.atomicity,
                "is unknown",
                "use ALL_OR_NONE or CONTINUE_ON_ERROR, or leave it out for the first",
            );
            return Err(refusal.accepting(["ALL_OR_NONE", "CONTINUE_ON_ERROR"]));
        }
    };
    let confirm = match request.confirm {
        Some(asked) => Some(Wait {
            caller: caller.uri.to_string(),
            seconds: confirm::seconds("confirm.timeout_seconds", asked.timeout_seconds)?,
        }),
        None => None,
    };
    Ok(Order {
        name: name(caller.uri.to_string(), &request)?,
        caller,
        confirm,
        wait_live,
        updates: parse::batch(knowledge, &request.updates)?,
        atomicity,
        dry_run: request.dry_run,
        expected_generation: request.expected_generation,
        omit_entities,
        digest,
    })
}

fn digest(request: &impl Message) -> ring::digest::Digest {
    ring::digest::digest(&ring::digest::SHA256, &request.encode_to_vec())
}

/// The name of a request that is to be done once.
fn name(caller: String, request: &v1::WriteRequest) -> Result<Option<RequestName>, Refusal> {
    let key = &request.idempotency_key;
    if key.is_empty() {
        return Ok(None);
    }
    let told = |reason: &str, remedy: String| {
        Refusal::new(Fault::Invalid, "idempotency_key", key, reason, remedy)
    };
    if key.len() > KEY_BYTES_MAX {
        let refusal = told("is too long", format!("use 1 to {KEY_BYTES_MAX} bytes"));
        return Err(refusal.accepting([format!("1..={KEY_BYTES_MAX} bytes")]));
    }
    if request.dry_run {
        return Err(told(
            "means nothing to a dry run",
            "leave one of the two out".into(),
        ));
    }
    let mut name = RequestName {
        caller,
        key: key.clone(),
        digest: [0; 32],
    };
    name.digest.copy_from_slice(digest(request).as_ref());
    Ok(Some(name))
}

fn carry_out(
    tx: &mut Transaction<'_>,
    order: Order,
    state: &State,
    sessions: &Sessions,
) -> Result<Answer, Refusal> {
    let knowledge = state.knowledge();
    if let Some(name) = &order.name
        && let Some(known) = once::recall(tx, name)?
    {
        let codes = codes(&known, order.updates.len());
        let statuses: Vec<v1::UpdateStatus> = codes
            .into_iter()
            .map(|code| v1::UpdateStatus {
                code,
                ..v1::UpdateStatus::default()
            })
            .collect();
        let pending = tx.rib.pending(known.commit());
        let pending = pending.filter(|_| order.confirm.is_some());
        return Ok(Answer {
            held_by: Some(known.generation),
            pending: pending.map(|record| View::pending(record)),
            ..answer(tx, &order, statuses, knowledge, sessions)
        });
    }
    if let Some(expected) = order.expected_generation {
        write::compare(tx, expected)?;
    }
    if order.confirm.is_some() {
        confirm::none_waits(tx.rib)?;
    }
    let start = Start::of(tx);
    tx.made_by(&order.caller.uri, in_words(order.updates.len()));
    let may = |rib: &Rib, update: &Update| order.caller.may_write(rib, update);
    let refusals = write::batch_as(tx, &order.updates, order.atomicity, &may)?;
    let pending = match &order.confirm {
        Some(wait) => confirm::hold(tx, start, wait, |number| {
            state.card(number).map_err(|error| error.to_string())
        })?,
        None => None,
    };
    let held = refusals.iter().any(Option::is_none);
    if held {
        tx.notes.push(Note {
            request_sha256: order.digest.clone(),
            ..order
                .caller
                .note("Write", words::of_batch(&order.updates, &refusals))
        });
    }
    if let Some(name) = &order.name
        && held
    {
        once::remember(tx, name.clone(), refused_updates(&refusals));
    }
    let statuses = statuses(&refusals);
    Ok(Answer {
        pending: pending.map(|record| View::pending(&record)),
        ..answer(tx, &order, statuses, knowledge, sessions)
    })
}

fn in_words(updates: usize) -> String {
    match updates {
        1 => "1 update".to_owned(),
        many => format!("{many} updates"),
    }
}

fn answer(
    tx: &Transaction<'_>,
    order: &Order,
    statuses: Vec<v1::UpdateStatus>,
    knowledge: &Knowledge,
    sessions: &Sessions,
) -> Answer {
    let view = View {
        rib: tx.rib,
        knowledge,
        sessions,
        scope: &order.caller.scope,
    };
    let (entities, entities_left_out) = if order.omit_entities {
        (Vec::new(), 0)
    } else {
        entities(&view, &order.updates, &statuses)
    };
    Answer {
        held_by: None,
        entities,
        entities_left_out,
        statuses,
        pending: None,
    }
}

/// One entity per update, and how many are empty for their size.
fn entities(
    view: &View<'_>,
    updates: &[Checked],
    statuses: &[v1::UpdateStatus],
) -> (Vec<v1::Entity>, u32) {
    let (mut bytes, mut left_out) = (0, 0);
    let entities = updates
        .iter()
        .zip(statuses)
        .map(|(update, status)| {
            let (Ok(update), 0) = (update, status.code) else {
                return v1::Entity::default();
            };
            if bytes <= ENTITIES_BYTES_MAX {
                let entity = view.written(update);
                let first = bytes == 0;
                bytes += entity.encoded_len();
                if first || bytes <= ENTITIES_BYTES_MAX {
                    return entity;
                }
            }
            left_out += 1;
            v1::Entity::default()
        })
        .collect();
    (entities, left_out)
}

fn statuses(refusals: &[Option<Refusal>]) -> Vec<v1::UpdateStatus> {
    let mut bytes = 0;
    refusals
        .iter()
        .map(|refusal| {
            let Some(refusal) = refusal else {
                return v1::UpdateStatus::default();
            };
            if bytes <= STATUSES_BYTES_MAX {
                let status = update_status(refusal);
                bytes += status.encoded_len();
                if bytes <= STATUSES_BYTES_MAX {
                    return status;
                }
            }
            v1::UpdateStatus {
                code: code(refusal.fault) as i32,
                ..v1::UpdateStatus::default()
            }
        })
        .collect()
}

fn refused_updates(refusals: &[Option<Refusal>]) -> Vec<RefusedUpdate> {
    (0..)
        .zip(refusals)
        .filter_map(|(index, refusal)| {
            let code = code(refusal.as_ref()?.fault) as i32;
            Some(RefusedUpdate { index, code })
        })
        .collect()
}

/// The codes that a remembered Write of so many updates was answered with.
fn codes(known: &RequestRecord, updates: usize) -> Vec<i32> {
    let mut codes = vec![0; updates];
    for refused in &known.refused {
        if let Some(code) = codes.get_mut(refused.index as usize) {
            *code = refused.code;
        }
    }
    codes
}
