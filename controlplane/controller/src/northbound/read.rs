//! Pages of entities: in key order, each at most 2 MiB.
//!
//! The page token is the last key of the page, so that a page costs what it shows, and what
//! is written meanwhile neither repeats nor hides other entities.

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
use crate::commit::State;
use crate::record::{AgentRecord, GroupRecord, PolicyRecord, TenantRecord};
use crate::southbound::Sessions;

/// Entities of a page when the caller does not say.
const PAGE_SIZE_DEFAULT: usize = 1_000;
/// Entities of a page at most.
const PAGE_SIZE_MAX: usize = 10_000;
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

/// Where a page begins and what it shows.
pub(super) struct Window<'a> {
    pub(super) key: &'a str,
    pub(super) after: &'a str,
    pub(super) limit: usize,
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
    let window = Window {
        key: &request.key,
        after: &request.page,
        // One more than asked for says whether another page follows.
        limit: limit + 1,
    };
    let (mut rows, generation) = state
        .read(|rib| {
            let view = View {
                rib,
                knowledge: state.knowledge(),
                sessions,
                scope,
            };
            rows(&view, kind, &window)
        })
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
pub(super) fn rows(view: &View<'_>, kind: Kind, window: &Window<'_>) -> Vec<Row> {
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
        Kind::Unspecified => Vec::new(),
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

fn agents(view: &View<'_>, window: &Window<'_>) -> Vec<Row> {
    let show = |agent: &AgentRecord| Row {
        entity: entity(Body::Agent(view.agent(agent))),
        token: agent.uri.clone(),
        card_of: Some(agent.number),
    };
    let visible = |agent: &AgentRecord| view.scope.has_number(view.rib, agent.tenant);
    if !window.key.is_empty() {
        return view
            .rib
            .agent(window.key)
            .filter(|agent| visible(agent))
            .map(|a| show(a))
            .into_iter()
            .collect();
    }
    view.rib
        .agents_after(window.after)
        .filter(|agent| visible(agent))
        .take(window.limit)
        .map(|agent| show(agent))
        .collect()
}

fn grants(view: &View<'_>, window: &Window<'_>) -> Vec<Row> {
    let (agent, path) = start(window);
    view.rib
        .grants_after(agent, path)
        .take_while(|grant| window.key.is_empty() || grant.agent == window.key)
        .filter(|grant| view.scope.has_agent(view.rib, &grant.agent))
        .take(window.limit)
        .map(|grant| {
            let token = join(&grant.agent, &grant.class_path);
            row(token, Body::Grant(View::grant(grant)))
        })
        .collect()
}

fn overrides(view: &View<'_>, window: &Window<'_>) -> Vec<Row> {
    let (agent, skill) = start(window);
    view.rib
        .overrides_after(agent, skill)
        .take_while(|told| window.key.is_empty() || told.agent == window.key)
        .filter(|told| view.scope.has_agent(view.rib, &told.agent))
        .take(window.limit)
        .map(|told| {
            let token = join(&told.agent, &told.skill);
            row(token, Body::Override(View::skill_override(told)))
        })
        .collect()
}

/// Where a read of a two-part key begins: after the token, or at the key's own first entity.
fn start<'a>(window: &Window<'a>) -> (&'a str, &'a str) {
    if window.after.is_empty() {
        (window.key, "")
    } else {
        pair(window.after)
    }
}

fn routers(view: &View<'_>, window: &Window<'_>) -> Vec<Row> {
    let show = |router: &crate::record::RouterRecord| {
        let mut shown = row(router.name.clone(), Body::Router(view.router(router)));
        view.scope.trim(&mut shown.entity);
        shown
    };
    if !window.key.is_empty() {
        return view.rib.router(window.key).map(show).into_iter().collect();
    }
    view.rib
        .routers_after(window.after)
        .take(window.limit)
        .map(show)
        .collect()
}

fn links(view: &View<'_>, window: &Window<'_>) -> Vec<Row> {
    let (a, b) = pair(window.after);
    view.rib
        .links_after(a, b)
        .filter(|link| window.key.is_empty() || link.a == window.key || link.b == window.key)
        .take(window.limit)
        .map(|link| row(join(&link.a, &link.b), Body::Link(View::link(link))))
        .collect()
}

fn tenants(view: &View<'_>, window: &Window<'_>) -> Vec<Row> {
    let show = |tenant: &TenantRecord| row(tenant.name.clone(), Body::Tenant(View::tenant(tenant)));
    let visible = |tenant: &&TenantRecord| view.scope.has(&tenant.name);
    if !window.key.is_empty() {
        let tenant = view.rib.tenant(window.key).filter(visible);
        return tenant.map(show).into_iter().collect();
    }
    view.rib
        .tenants_after(window.after)
        .filter(visible)
        .take(window.limit)
        .map(show)
        .collect()
}

fn permissions(view: &View<'_>, window: &Window<'_>) -> Vec<Row> {
    let from = if window.key.is_empty() {
        None
    } else {
        match view.rib.tenant(window.key) {
            Some(tenant) => Some(tenant.id),
            None => return Vec::new(),
        }
    };
    view.rib
        .permissions_after(permission_token(window.after))
        .filter(|permission| from.is_none_or(|from| permission.from == from))
        .filter(|permission| {
            let both = [permission.from, permission.to];
            both.iter().any(|id| view.scope.has_number(view.rib, *id))
        })
        .take(window.limit)
        .map(|permission| {
            let token = format!(
                "{}{SEPARATOR}{}{SEPARATOR}{}",
                permission.from, permission.to, permission.class_path
            );
            row(token, Body::Permission(view.permission(permission)))
        })
        .collect()
}

fn permission_token(token: &str) -> Option<(u32, u32, String)> {
    let mut parts = token.splitn(3, SEPARATOR);
    let from = parts.next()?.parse().ok()?;
    let to = parts.next()?.parse().ok()?;
    Some((from, to, parts.next()?.to_owned()))
}

fn classes(view: &View<'_>, window: &Window<'_>) -> Vec<Row> {
    let show = |class: &crate::taxonomy::Class| {
        let token = class.label.bits().to_string();
        row(token, Body::Class(view.class(class)))
    };
    if !window.key.is_empty() {
        let class = view.knowledge.class(window.key);
        return class.map(show).into_iter().collect();
    }
    let after: u32 = window.after.parse().unwrap_or(0);
    view.knowledge
        .taxonomy()
        .iter()
        .filter(|class| class.label.bits() > after)
        .take(window.limit)
        .map(show)
        .collect()
}

fn groups(view: &View<'_>, window: &Window<'_>) -> Vec<Row> {
    let show = |group: &GroupRecord| row(group.name.clone(), Body::Group(view.group(group)));
    let visible = |group: &&GroupRecord| view.scope.has_number(view.rib, group.tenant);
    if !window.key.is_empty() {
        let group = view.rib.group(window.key).filter(visible);
        return group.map(show).into_iter().collect();
    }
    view.rib
        .groups_after(window.after)
        .filter(visible)
        .take(window.limit)
        .map(show)
        .collect()
}

fn policies(view: &View<'_>, window: &Window<'_>) -> Vec<Row> {
    let show =
        |policy: &Arc<PolicyRecord>| row(policy.name.clone(), Body::Policy(view.policy(policy)));
    let visible = |policy: &&Arc<PolicyRecord>| view.scope.has_number(view.rib, policy.tenant);
    if !window.key.is_empty() {
        let policy = view.rib.policy(window.key).filter(visible);
        return policy.map(show).into_iter().collect();
    }
    let policies = view.rib.policies_after(window.after).filter(visible);
    policies.take(window.limit).map(show).collect()
}

fn policers(view: &View<'_>, window: &Window<'_>) -> Vec<Row> {
    // They may hold several tenants: who is bound to some sees none.
    if view.scope.is_bound() {
        return Vec::new();
    }
    let show = |policer: &Arc<crate::record::PolicerRecord>| {
        row(policer.name.clone(), Body::Policer(view.policer(policer)))
    };
    if !window.key.is_empty() {
        return view.rib.policer(window.key).map(show).into_iter().collect();
    }
    let policers = view.rib.policers_after(window.after);
    policers.take(window.limit).map(show).collect()
}

fn pending(view: &View<'_>, window: &Window<'_>) -> Vec<Row> {
    let show = |record: &Arc<crate::record::PendingRecord>| {
        let pending = View::pending(record);
        row(pending.id.clone(), Body::PendingCommit(pending))
    };
    if !window.key.is_empty() {
        let generation = window.key.parse().ok();
        let record = generation.and_then(|generation| view.rib.pending(generation));
        return record.map(show).into_iter().collect();
    }
    view.rib
        .pending_after(window.after.parse().unwrap_or(0))
        .take(window.limit)
        .map(show)
        .collect()
}
