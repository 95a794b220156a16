//! Rollout: which routers forward by a generation, since when, and what they refused of it. Joins what made the
//! generation with what routers said of it; keeps nothing itself.

use std::time::Duration;

use caplane_core::fib::EntryKey;
use caplane_proto::v1;
use caplane_proto::v1::rollout_summary::Step as Steps;
use caplane_proto::v1::router_rollout::State as Standing;
use caplane_wire::Label;
use tonic::Status;

use super::NorthboundService;
use super::errors::{not_committed, refused};
use crate::change::{Fault, Refusal};
use crate::commit::Made;
use crate::compile::phases::Step;
use crate::knowledge::Knowledge;
use crate::record::{GroupOf, RouterRecord, policy_group_parts};
use crate::rib::Rib;
use crate::southbound::{RefusedEntry, RouterStatus, Sessions};

/// Longest wait for a generation to be live (milliseconds).
const WAIT_MAX_MS: u32 = 60_000;

/// Refused entries that one answer tells, of all routers together: with their reasons they fit the 4 MiB that clients take.
const REFUSED_TOLD_MAX: usize = 2_048;

/// How long a Write waits to be live.
pub(super) fn wait(ms: u32, dry_run: bool) -> Result<Option<Duration>, Refusal> {
    let told = |reason: &str, remedy: String| {
        Refusal::new(Fault::Invalid, "wait_live_ms", ms, reason, remedy)
    };
    match ms {
        0 => Ok(None),
        _ if dry_run => Err(told(
            "means nothing to a dry run",
            "leave one of the two out".into(),
        )),
        1..=WAIT_MAX_MS => Ok(Some(Duration::from_millis(ms.into()))),
        _ => {
            let refusal = told("is too long", format!("use 0 to {WAIT_MAX_MS}"));
            Err(refusal.accepting([format!("0..={WAIT_MAX_MS}")]))
        }
    }
}

/// Answers when every router that has a session forwards by the generation or refused it, and no later than after `limit`.
pub(super) async fn live(
    service: &NorthboundService,
    generation: u64,
    limit: Duration,
) -> v1::RolloutSummary {
    let mut changes = service.sessions.changes();
    let settled = async {
        loop {
            // Before it is looked at: what changes meanwhile is looked at again.
            changes.borrow_and_update();
            let routers = routers(service, &service.state.rib(), generation);
            if !routers.iter().any(|(_, standing, _)| is_awaited(*standing))
                || changes.changed().await.is_err()
            {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(limit, settled).await;
    let routers = routers(service, &service.state.rib(), generation);
    summary(service, generation, &routers)
}

fn is_awaited(standing: Standing) -> bool {
    matches!(
        standing,
        Standing::Accepted | Standing::Sent | Standing::Behind | Standing::HeldBack
    )
}

/// The call.
pub(super) async fn answer(
    service: &NorthboundService,
    request: &v1::RolloutRequest,
) -> Result<v1::RolloutResponse, Status> {
    let (state, sessions) = (&service.state, &service.sessions);
    let asked = request.generation;
    let read = state
        .read(|rib| {
            let newest = rib.generation();
            let generation = if asked == 0 { newest } else { asked };
            if generation > newest {
                return Err(unknown(generation, newest));
            }
            let routers = routers(service, rib, generation);
            let made = state.history().of(generation);
            let mut room = REFUSED_TOLD_MAX;
            let told = routers.iter().map(|(router, standing, status)| {
                let mut told = router_rollout(
                    sessions,
                    made.as_deref(),
                    generation,
                    router,
                    *standing,
                    status,
                );
                if *standing == Standing::Refused {
                    let (some, others) = status.rejected.split_at(room.min(status.rejected.len()));
                    room -= some.len();
                    told.refused = refusals(rib, state.knowledge(), some);
                    let left_out = status.rejected_left_out + others.len();
                    told.refused_left_out = u32::try_from(left_out).unwrap_or(u32::MAX);
                }
                told
            });
            let told: Vec<v1::RouterRollout> = told.collect();
            Ok((generation, routers, told))
        })
        .await;
    let (answer, _) = read.map_err(|error| not_committed(&error))?;
    let (generation, routers, told) = answer.map_err(|refusal| refused(&refusal))?;
    Ok(v1::RolloutResponse {
        summary: Some(summary(service, generation, &routers)),
        routers: told,
    })
}

/// Takes out what it tells of everybody's things: refused entries, which are counted all the same.
pub(super) fn trim(answer: &mut v1::RolloutResponse) {
    for router in &mut answer.routers {
        let told = std::mem::take(&mut router.refused).len();
        let told = u32::try_from(told).unwrap_or(u32::MAX);
        router.refused_left_out = router.refused_left_out.saturating_add(told);
    }
}

fn unknown(generation: u64, newest: u64) -> Refusal {
    let refusal = Refusal::new(
        Fault::Missing,
        "generation",
        generation,
        format!("the newest generation is {newest}"),
        "ask for that or an older one, or for 0",
    );
    refusal.accepting([format!("0..={newest}")])
}

/// Every router, where it stands, and what is known of it.
fn routers(
    service: &NorthboundService,
    rib: &Rib,
    generation: u64,
) -> Vec<(RouterRecord, Standing, RouterStatus)> {
    let released = *service.state.released().borrow();
    let all = rib.routers_after("").map(|router| {
        let status = service.sessions.status(router.label());
        let standing = match standing(&status, generation) {
            Standing::Behind if generation > released => Standing::HeldBack,
            standing => standing,
        };
        (router.clone(), standing, status)
    });
    all.collect()
}

/// Where a router stands with a generation.
fn standing(status: &RouterStatus, generation: u64) -> Standing {
    if !status.connected {
        Standing::Away
    } else if status.live_generation >= generation {
        Standing::Live
    } else if status.accepted_generation >= generation {
        Standing::Accepted
    } else if status.rejected_generation >= generation {
        Standing::Refused
    } else if status.pushed_generation >= generation {
        Standing::Sent
    } else {
        Standing::Behind
    }
}

fn summary(
    service: &NorthboundService,
    generation: u64,
    routers: &[(RouterRecord, Standing, RouterStatus)],
) -> v1::RolloutSummary {
    let count = |which: fn(Standing) -> bool| {
        let found = routers.iter().filter(|(_, standing, _)| which(*standing));
        u32::try_from(found.count()).unwrap_or(u32::MAX)
    };
    let names = |labels: &[Label]| -> Vec<String> {
        let named = routers.iter();
        let named = named.filter(|(router, ..)| labels.contains(&router.label()));
        named.map(|(router, ..)| router.name.clone()).collect()
    };
    let mut summary = v1::RolloutSummary {
        generation,
        routers: count(|_| true),
        connected: count(|standing| standing != Standing::Away),
        live: count(|standing| standing == Standing::Live),
        refused: count(|standing| standing == Standing::Refused),
        ..v1::RolloutSummary::default()
    };
    if let Some(made) = service.state.history().of(generation) {
        summary.committed_unix_ms = i64::try_from(made.unix_ms).unwrap_or(i64::MAX);
        let origins = made.origins.iter().map(|origin| v1::Origin {
            who: origin.who.clone(),
            what: origin.what.clone(),
        });
        summary.origins = origins.collect();
        summary.origins_left_out = u32::try_from(made.origins_left_out).unwrap_or(u32::MAX);
        summary.entries = u32::try_from(made.entries).unwrap_or(u32::MAX);
        summary.last_generation = made.last;
        summary.step = step(made.step).into();
        summary.gave_up_on = names(&made.gave_up_on);
    }
    if routers.iter().any(|(_, at, _)| *at == Standing::HeldBack)
        && let Some((after, awaits)) = service.state.waits_for()
    {
        let sessions = &service.sessions;
        summary.waits_for = names(&sessions.awaited(after, |router| awaits.concerns(router)));
    }
    summary
}

fn step(step: Step) -> Steps {
    match step {
        Step::Whole => Steps::Whole,
        Step::Make => Steps::Make,
        Step::Point => Steps::Point,
        Step::Break => Steps::Break,
    }
}

fn router_rollout(
    sessions: &Sessions,
    made: Option<&Made>,
    generation: u64,
    router: &RouterRecord,
    standing: Standing,
    status: &RouterStatus,
) -> v1::RouterRollout {
    let mut told = v1::RouterRollout {
        router: router.name.clone(),
        state: standing.into(),
        live_generation: status.live_generation,
        ..v1::RouterRollout::default()
    };
    if let Some(live) = sessions.live_at(router.label(), generation) {
        told.live_unix_ms = i64::try_from(live.unix_ms).unwrap_or(i64::MAX);
        told.applied_us = live.took_us;
        told.took_us = made.map_or(0, |made| {
            // Never 0 when it is known.
            let took = live.at.saturating_duration_since(made.at).as_micros();
            u64::try_from(took).unwrap_or(u64::MAX).max(1)
        });
    }
    told
}

fn refusals(rib: &Rib, knowledge: &Knowledge, entries: &[RefusedEntry]) -> Vec<v1::RefusedEntry> {
    let told = entries.iter().map(|refused| v1::RefusedEntry {
        entry: refused
            .key
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
        entity: refused
            .key
            .as_ref()
            .and_then(|key| entity(rib, knowledge, key))
            .unwrap_or_default(),
        reason: refused.reason.clone(),
    });
    told.collect()
}

/// What a table entry was made from; `None` = that is gone.
fn entity(rib: &Rib, knowledge: &Knowledge, key: &EntryKey) -> Option<String> {
    Some(match key {
        EntryKey::Class { label, .. } => {
            let class = knowledge.taxonomy().by_label(*label)?;
            format!("class {}", class.path)
        }
        EntryKey::Agent(label) => {
            format!("agent {}", rib.agent_by_number(label.agent_number())?.uri)
        }
        EntryKey::Group(label) => format!("group {}", rib.group_by_label(*label)?.name),
        EntryKey::Identity(uri) => {
            // An identity is in tables when it is registered.
            format!("agent {}", rib.agent(uri)?.uri)
        }
        EntryKey::Policy(id) => match policy_group_parts(*id).0 {
            GroupOf::Tenant(tenant) => format!("tenant {}", rib.tenant_name(tenant)?),
            GroupOf::Policy(number) => {
                format!("policy {}", rib.policy_by_number(number)?.name)
            }
        },
        EntryKey::Transit(label) | EntryKey::Neighbour(label) => {
            format!("router {}", rib.router_by_label(*label)?.name)
        }
    })
}
