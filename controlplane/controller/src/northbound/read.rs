//! Pages of entities: in key order, each at most 2 MiB.
//!
//! The page token is the last key of the page, so that what is written meanwhile neither repeats nor hides other
//! entities. It is always the key of an entity that was shown: what a caller may not see is passed by here, some at a time,
//! and the one writer waits for no more than that.

use std::sync::Arc;

use caplane_proto::v1;
use caplane_proto::v1::entity::Entity as Body;
use caplane_proto::v1::read_request::Kind;
use prost::Message;
use tonic::Status;

use super::errors::{broke, not_committed, refused, unavailable};
use super::render::{View, entity};
use crate::access::Scope;
use crate::change::{Fault, Refusal};
use crate::commit::{CommitError, State};
use crate::record::{
    AgentRecord, GrantRecord, GroupRecord, LinkRecord, OverrideRecord, PendingRecord,
    PermissionRecord, PolicerRecord, PolicyRecord, RouterRecord, TenantRecord,
};
use crate::rib::Rib;
use crate::southbound::Sessions;
use crate::taxonomy::Class;

#[cfg(test)]
mod tests;

/// Entities of a page when the caller does not say.
const PAGE_SIZE_DEFAULT: usize = 1_000;
/// Entities of a page at most.
const PAGE_SIZE_MAX: usize = 10_000;
/// Entities shown under one lock.
const SLICE_MAX: usize = 256;
/// Entities looked at under one lock, shown or not: to pass one by costs a tenth of a microsecond or two.
pub(super) const LOOK_MAX: usize = 1_024;
/// Bytes of a page: half of what gRPC clients accept by default (4 MiB).
const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// What can be read, by the names of northbound.proto.
const KINDS: [&str; 12] = [
    "AGENT",
    "GRANT",
    "ROUTER",
    "LINK",
    "TENANT",
    "PERMISSION",
    "CLASS",
    "GROUP",
    "SKILL_OVERRIDE",
    "POLICY",
    "POLICER",
    "PENDING_COMMIT",
];
/// Between the parts of a key in a page token: no key part contains it.
const SEPARATOR: char = '\n';

/// An entity with the page token that continues after it, and the agent whose card it lacks.
pub(super) struct Row {
    pub(super) entity: v1::Entity,
    pub(super) token: String,
    pub(super) card_of: Option<u32>,
}

/// Where a look begins and how many entities it shows.
pub(super) struct Window<'a> {
    pub(super) key: &'a str,
    pub(super) after: &'a str,
    pub(super) limit: usize,
}

/// What one look found: under one lock, at most [`LOOK_MAX`] entities.
#[derive(Default)]
pub(super) struct Slice {
    /// What is shown.
    pub(super) rows: Vec<Row>,
    /// Where to go on; `None` = the end was seen. It may be the key of what the caller may not see: it is told to nobody.
    pub(super) rest: Option<String>,
    /// Entities looked at.
    looked: usize,
}

impl Slice {
    /// One entity, or none, and nothing after it.
    fn only(row: Option<Row>) -> Self {
        Self {
            rows: row.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Of entities in order those that `show` has a row for; `token` is where to go on after one.
    fn of<T>(
        limit: usize,
        entities: impl Iterator<Item = T>,
        token: impl Fn(&T) -> String,
        show: impl Fn(&T) -> Option<Row>,
    ) -> Self {
        let mut slice = Self::default();
        for entity in entities {
            slice.looked += 1;
            slice.rows.extend(show(&entity));
            if slice.rows.len() >= limit || slice.looked == LOOK_MAX {
                slice.rest = Some(token(&entity));
                return slice;
            }
        }
        slice
    }
}

/// Answers one page.
pub(super) async fn page(
    state: &Arc<State>,
    sessions: &Arc<Sessions>,
    scope: &Scope,
    request: &v1::ReadRequest,
) -> Result<v1::ReadResponse, Status> {
    let limit = match request.page_size as usize {
        0 => PAGE_SIZE_DEFAULT,
        size if size <= PAGE_SIZE_MAX => size,
        size => {
            let refusal = Refusal::new(
                Fault::Invalid,
                "page_size",
                size,
                "is too large",
                format!("use 1 to {PAGE_SIZE_MAX}, or 0 for {PAGE_SIZE_DEFAULT}"),
            );
            return Err(refused(
                &refusal.accepting([format!("0..={PAGE_SIZE_MAX}")]),
            ));
        }
    };
    let kind = request.kind();
    if kind == Kind::Unspecified {
        let refusal = Refusal::new(
            Fault::Invalid,
            "kind",
            request.kind,
            "says nothing",
            format!("use one of {}", KINDS.join(", ")),
        );
        return Err(refused(&refusal.accepting(KINDS)));
    }
    // One more than asked for says whether another page follows.
    let (mut rows, generation) = look(state, sessions, scope, request, limit + 1)
        .await
        .map_err(|error| not_committed(&error))?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let state = state.clone();
    let (entities, next_page) = tokio::task::spawn_blocking(move || fill(&state, rows, more))
        .await
        .map_err(|_| broke("reading"))??;
    Ok(v1::ReadResponse {
        entities,
        next_page,
        generation,
    })
}

/// The rows of a page. The generation is that of the first look: to compare and set by it is right for all of them.
async fn look(
    state: &State,
    sessions: &Sessions,
    scope: &Scope,
    request: &v1::ReadRequest,
    limit: usize,
) -> Result<(Vec<Row>, u64), CommitError> {
    let (kind, mut after) = (request.kind(), request.page.clone());
    let (mut page, mut first) = (Vec::new(), None);
    loop {
        let window = Window {
            key: &request.key,
            after: &after,
            limit: (limit - page.len()).min(SLICE_MAX),
        };
        let look = |rib: &Rib| {
            let view = View {
                rib,
                knowledge: state.knowledge(),
                sessions,
                scope,
            };
            rows(&view, kind, &window)
        };
        let (slice, generation) = state.read(look).await?;
        let first = *first.get_or_insert(generation);
        page.extend(slice.rows);
        match slice.rest {
            Some(rest) if page.len() < limit => after = rest,
            _ => return Ok((page, first)),
        }
        tokio::task::yield_now().await;
    }
}

/// Adds cards and cuts the page at its bound in bytes.
fn fill(state: &State, rows: Vec<Row>, more: bool) -> Result<(Vec<v1::Entity>, String), Status> {
    let mut entities = Vec::with_capacity(rows.len());
    let (mut bytes, mut last) = (0, String::new());
    for mut row in rows {
        if let (Some(number), Some(Body::Agent(agent))) = (row.card_of, &mut row.entity.entity) {
            agent.card = state
                .card(number)
                .map_err(|error| unavailable(error.to_string()))?
                .unwrap_or_default();
        }
        bytes += row.entity.encoded_len();
        if bytes > PAGE_BYTES_MAX && !entities.is_empty() {
            return Ok((entities, last));
        }
        last = row.token;
        entities.push(row.entity);
    }
    Ok((entities, if more { last } else { String::new() }))
}

/// The entities of a window, agents without their cards.
pub(super) fn rows(view: &View<'_>, kind: Kind, window: &Window<'_>) -> Slice {
    match kind {
        Kind::Agent => agents(view, window),
        Kind::Grant => grants(view, window),
        Kind::Router => routers(view, window),
        Kind::Link => links(view, window),
        Kind::Tenant => tenants(view, window),
        Kind::Permission => permissions(view, window),
        Kind::Class => classes(view, window),
        Kind::Group => groups(view, window),
        Kind::SkillOverride => overrides(view, window),
        Kind::Policy => policies(view, window),
        Kind::Policer => policers(view, window),
        Kind::PendingCommit => pending(view, window),
        Kind::Unspecified => Slice::default(),
    }
}

fn row(token: String, body: Body) -> Row {
    Row {
        entity: entity(body),
        token,
        card_of: None,
    }
}

/// First and second part of a token.
fn pair(token: &str) -> (&str, &str) {
    token.split_once(SEPARATOR).unwrap_or((token, ""))
}

fn join(a: &str, b: &str) -> String {
    format!("{a}{SEPARATOR}{b}")
}

fn agents(view: &View<'_>, window: &Window<'_>) -> Slice {
    let show = |agent: &&Arc<AgentRecord>| {
        let visible = view.scope.has_number(view.rib, agent.tenant);
        visible.then(|| Row {
            entity: entity(Body::Agent(view.agent(agent))),
            token: agent.uri.clone(),
            card_of: Some(agent.number),
        })
    };
    if !window.key.is_empty() {
        return Slice::only(view.rib.agent(window.key).as_ref().and_then(show));
    }
    let agents = view.rib.agents_after(window.after);
    Slice::of(window.limit, agents, |agent| agent.uri.clone(), show)
}

fn grants(view: &View<'_>, window: &Window<'_>) -> Slice {
    let (agent, path) = start(window);
    let grants = view
        .rib
        .grants_after(agent, path)
        .take_while(|grant| window.key.is_empty() || grant.agent == window.key);
    let token = |grant: &&GrantRecord| join(&grant.agent, &grant.class_path);
    Slice::of(window.limit, grants, token, |grant| {
        let visible = view.scope.has_agent(view.rib, &grant.agent);
        visible.then(|| row(token(grant), Body::Grant(View::grant(grant))))
    })
}

fn overrides(view: &View<'_>, window: &Window<'_>) -> Slice {
    let (agent, skill) = start(window);
    let overrides = view
        .rib
        .overrides_after(agent, skill)
        .take_while(|told| window.key.is_empty() || told.agent == window.key);
    let token = |told: &&OverrideRecord| join(&told.agent, &told.skill);
    Slice::of(window.limit, overrides, token, |told| {
        let visible = view.scope.has_agent(view.rib, &told.agent);
        visible.then(|| row(token(told), Body::Override(View::skill_override(told))))
    })
}

/// Where a read of a two-part key begins: after the token, or at the key's own first entity.
fn start<'a>(window: &Window<'a>) -> (&'a str, &'a str) {
    if window.after.is_empty() {
        (window.key, "")
    } else {
        pair(window.after)
    }
}

fn routers(view: &View<'_>, window: &Window<'_>) -> Slice {
    let show = |router: &&RouterRecord| {
        let mut shown = row(router.name.clone(), Body::Router(view.router(router)));
        view.scope.trim(&mut shown.entity);
        Some(shown)
    };
    if !window.key.is_empty() {
        return Slice::only(view.rib.router(window.key).as_ref().and_then(show));
    }
    let routers = view.rib.routers_after(window.after);
    Slice::of(window.limit, routers, |router| router.name.clone(), show)
}

fn links(view: &View<'_>, window: &Window<'_>) -> Slice {
    let (a, b) = pair(window.after);
    let token = |link: &&LinkRecord| join(&link.a, &link.b);
    let links = view.rib.links_after(a, b);
    Slice::of(window.limit, links, token, |link| {
        let asked = window.key.is_empty() || link.a == window.key || link.b == window.key;
        asked.then(|| row(token(link), Body::Link(View::link(link))))
    })
}

fn tenants(view: &View<'_>, window: &Window<'_>) -> Slice {
    let show = |tenant: &&TenantRecord| {
        let visible = view.scope.has(&tenant.name);
        visible.then(|| row(tenant.name.clone(), Body::Tenant(View::tenant(tenant))))
    };
    if !window.key.is_empty() {
        return Slice::only(view.rib.tenant(window.key).as_ref().and_then(show));
    }
    let tenants = view.rib.tenants_after(window.after);
    Slice::of(window.limit, tenants, |tenant| tenant.name.clone(), show)
}

fn permissions(view: &View<'_>, window: &Window<'_>) -> Slice {
    let from = if window.key.is_empty() {
        None
    } else {
        match view.rib.tenant(window.key) {
            Some(tenant) => Some(tenant.id),
            None => return Slice::default(),
        }
    };
    let token = |permission: &&PermissionRecord| {
        format!(
            "{}{SEPARATOR}{}{SEPARATOR}{}",
            permission.from, permission.to, permission.class_path
        )
    };
    let permissions = view.rib.permissions_after(permission_token(window.after));
    Slice::of(window.limit, permissions, token, |permission| {
        let asked = from.is_none_or(|from| permission.from == from);
        let mut both = [permission.from, permission.to].into_iter();
        let visible = asked && both.any(|id| view.scope.has_number(view.rib, id));
        visible.then(|| {
            row(
                token(permission),
                Body::Permission(view.permission(permission)),
            )
        })
    })
}

fn permission_token(token: &str) -> Option<(u32, u32, String)> {
    let mut parts = token.splitn(3, SEPARATOR);
    let from = parts.next()?.parse().ok()?;
    let to = parts.next()?.parse().ok()?;
    Some((from, to, parts.next()?.to_owned()))
}

fn classes(view: &View<'_>, window: &Window<'_>) -> Slice {
    let token = |class: &&Class| class.label.bits().to_string();
    let show = |class: &&Class| Some(row(token(class), Body::Class(view.class(class))));
    if !window.key.is_empty() {
        return Slice::only(view.knowledge.class(window.key).as_ref().and_then(show));
    }
    let after: u32 = window.after.parse().unwrap_or(0);
    let classes = view.knowledge.taxonomy().iter();
    let classes = classes.filter(|class| class.label.bits() > after);
    Slice::of(window.limit, classes, token, show)
}

fn groups(view: &View<'_>, window: &Window<'_>) -> Slice {
    let show = |group: &&GroupRecord| {
        let visible = view.scope.has_number(view.rib, group.tenant);
        visible.then(|| row(group.name.clone(), Body::Group(view.group(group))))
    };
    if !window.key.is_empty() {
        return Slice::only(view.rib.group(window.key).as_ref().and_then(show));
    }
    let groups = view.rib.groups_after(window.after);
    Slice::of(window.limit, groups, |group| group.name.clone(), show)
}

fn policies(view: &View<'_>, window: &Window<'_>) -> Slice {
    let show = |policy: &&Arc<PolicyRecord>| {
        let visible = view.scope.has_number(view.rib, policy.tenant);
        visible.then(|| row(policy.name.clone(), Body::Policy(view.policy(policy))))
    };
    if !window.key.is_empty() {
        return Slice::only(view.rib.policy(window.key).as_ref().and_then(show));
    }
    let policies = view.rib.policies_after(window.after);
    Slice::of(window.limit, policies, |policy| policy.name.clone(), show)
}

fn policers(view: &View<'_>, window: &Window<'_>) -> Slice {
    // They may hold several tenants: who is bound to some sees none.
    if view.scope.is_bound() {
        return Slice::default();
    }
    let show = |policer: &&Arc<PolicerRecord>| {
        let body = Body::Policer(view.policer(policer));
        Some(row(policer.name.clone(), body))
    };
    if !window.key.is_empty() {
        return Slice::only(view.rib.policer(window.key).as_ref().and_then(show));
    }
    let policers = view.rib.policers_after(window.after);
    Slice::of(window.limit, policers, |policer| policer.name.clone(), show)
}

fn pending(view: &View<'_>, window: &Window<'_>) -> Slice {
    let show = |record: &&Arc<PendingRecord>| {
        let pending = View::pending(record);
        Some(row(pending.id.clone(), Body::PendingCommit(pending)))
    };
    if !window.key.is_empty() {
        let generation = window.key.parse().ok();
        let record = generation.and_then(|generation| view.rib.pending(generation));
        return Slice::only(record.as_ref().and_then(show));
    }
    let pending = view.rib.pending_after(window.after.parse().unwrap_or(0));
    let token = |record: &&Arc<PendingRecord>| record.generation.to_string();
    Slice::of(window.limit, pending, token, show)
}
