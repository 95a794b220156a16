use std::collections::BTreeMap;

use proptest::prelude::*;

use super::request::{Token, check};
use super::*;
use crate::change::attach;
use crate::feed::{self, ChangeFeed};
use crate::testbed::{
    AGENTS, ROUTERS, any_update, apply, attachment, change, checked, knowledge, router_label,
};

/// Everything that can be watched in this scope, as Read gives it.
fn world(rib: &Rib, scope: &Scope) -> BTreeMap<Vec<u8>, v1::Entity> {
    let (knowledge, sessions) = (knowledge(), Sessions::default());
    let view = View {
        rib,
        knowledge: &knowledge,
        sessions: &sessions,
        scope,
    };
    let (wanted, _) = check(v1::WatchRequest::default()).expect("all");
    let window = read::Window {
        key: "",
        after: "",
        limit: usize::MAX,
    };
    let rows = wanted.kinds.iter();
    rows.flat_map(|kind| read::rows(&view, *kind, &window).rows)
        .map(|row| (key_of(&row.entity), row.entity))
        .collect()
}

/// The key fields of an entity.
fn key_of(entity: &v1::Entity) -> Vec<u8> {
    use v1::entity::Entity as Body;
    let mut entity = entity.clone();
    match entity.entity.as_mut().expect("set") {
        Body::Tenant(tenant) => {
            *tenant = v1::Tenant {
                name: tenant.name.clone(),
                ..v1::Tenant::default()
            };
        }
        Body::Policy(policy) => {
            *policy = v1::Policy {
                name: policy.name.clone(),
                ..v1::Policy::default()
            };
        }
        Body::Policer(policer) => {
            *policer = v1::Policer {
                name: policer.name.clone(),
                ..v1::Policer::default()
            };
        }
        Body::Router(router) => {
            *router = v1::Router {
                name: router.name.clone(),
                ..v1::Router::default()
            };
        }
        Body::Link(link) => link.cost = 0,
        Body::Agent(agent) => {
            *agent = v1::Agent {
                uri: agent.uri.clone(),
                ..v1::Agent::default()
            };
        }
        Body::Grant(grant) => {
            grant.weight = 0;
            grant.out_of_service = false;
        }
        Body::Override(told) => told.class_path.clear(),
        Body::Permission(_) => {}
        Body::Group(group) => {
            *group = v1::Group {
                name: group.name.clone(),
                ..v1::Group::default()
            };
        }
        Body::PendingCommit(pending) => {
            *pending = v1::PendingCommit {
                id: pending.id.clone(),
                ..v1::PendingCommit::default()
            };
        }
        Body::Class(_) => panic!("classes are not watched"),
    }
    entity.encode_to_vec()
}

/// Does to a copy what a watcher is told.
fn follow(copy: &mut Copy, rib: &Rib, feed: &ChangeFeed) -> Result<(), TestCaseError> {
    let (knowledge, sessions) = (knowledge(), Sessions::default());
    let view = View {
        rib,
        knowledge: &knowledge,
        sessions: &sessions,
        scope: &copy.scope,
    };
    let slice = feed.since(copy.told, |changed| concerning(&copy.scope, changed));
    let slice = slice.expect("nothing fell off");
    copy.told = slice.upto;
    for (changed, seen) in &slice.keys {
        let Some(Told { change, .. }) = entry::told(&view, changed, *seen) else {
            continue;
        };
        let entity = change.entity.expect("set");
        let key = key_of(&entity);
        // Who sees no tenant is not told even the names of their things.
        prop_assert!(copy.scope != Scope::of(Some(&[])) || changed.is_everybodys());
        if change.removed {
            copy.entities.remove(&key);
        } else {
            copy.entities.insert(key, entity);
        }
    }
    prop_assert_eq!(&copy.entities, &world(rib, &copy.scope));
    Ok(())
}

/// What somebody knows who was told everything there is to see for it.
struct Copy {
    scope: Scope,
    told: u64,
    entities: BTreeMap<Vec<u8>, v1::Entity>,
}

impl Copy {
    fn of(scope: Scope, rib: &Rib) -> Self {
        Self {
            told: 0,
            entities: world(rib, &scope),
            scope,
        }
    }
}

/// One step of a history: a batch of updates, or what a router reports.
fn step(rib: &mut Rib, dice: &[[usize; 6]]) {
    let [kind, action, one, two, three, _] = dice[0];
    let router = ROUTERS[one % ROUTERS.len()];
    if kind % 3 > 0 || rib.router(router).is_none() {
        let updates: Vec<_> = dice.iter().map(|dice| any_update(*dice)).collect();
        let Ok(parsed) = checked(&updates) else {
            return;
        };
        // As many of them as can be: most histories would be empty otherwise.
        let _ = change(rib, 1_000, |tx| {
            crate::change::write::batch(tx, &parsed, crate::change::Atomicity::ContinueOnError)
        });
        return;
    }
    let label = router_label(rib, router);
    let name = AGENTS[two % AGENTS.len()];
    if rib.agent(&crate::testbed::agent_uri(name)).is_none() {
        return;
    }
    let instance = attachment(rib, name, 1 + (three % 3) as u8, "");
    let report = |up: &[v1::Attachment], down: &[v1::Attachment], rib: &mut Rib| {
        let _ = change(rib, 1_000, |tx| attach::report(tx, label, up, down));
    };
    match action % 4 {
        0 | 1 => report(&[instance], &[], rib),
        2 => report(&[], &[instance], rib),
        _ => {
            let _ = change(rib, 1_000, |tx| Ok(attach::expire_router(tx, label)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Who applies what a watch tells has what Read gives, however many generations are told at once.
    #[test]
    fn a_copy_that_is_told_what_changed_is_what_read_gives(
        history in prop::collection::vec(
            prop::collection::vec(prop::array::uniform6(0usize..64), 1..5), 1..24),
        every in 1usize..4,
    ) {
        let mut rib = Rib::new();
        let names = ["t1", "t2"].map(|name| crate::testbed::insert(crate::testbed::tenant(name)));
        apply(&mut rib, &names).expect("written");
        rib.settle();
        let feed = ChangeFeed::starting_at(0, 1);
        let scopes = [None, Some(&["t1".to_owned()][..]), Some(&[][..])];
        let mut copies = scopes.map(|tenants| Copy::of(Scope::of(tenants), &rib));
        for (i, dice) in history.iter().enumerate() {
            let mark = rib.mark();
            step(&mut rib, dice);
            feed.push(i as u64 + 1, feed::changed(&rib, mark));
            rib.settle();
            for copy in &mut copies {
                if i % every == 0 {
                    follow(copy, &rib, &feed)?;
                }
            }
        }
    }
}

#[test]
fn what_is_asked_for_is_checked() {
    let refused = |request: v1::WatchRequest| check(request).expect_err("refused");
    let of = |kind: Kind| v1::WatchRequest {
        kinds: vec![kind.into()],
        ..v1::WatchRequest::default()
    };
    let class = refused(of(Kind::Class));
    assert_eq!(class.field, "kinds");
    assert!(class.remedy.contains("Read"), "{class}");
    assert!(refused(of(Kind::Unspecified)).remedy.contains("TENANT"));
    for (resume, initial) in [("x", false), ("s:1", false), ("s:1f:7", true)] {
        let request = v1::WatchRequest {
            resume: resume.into(),
            initial,
            ..v1::WatchRequest::default()
        };
        assert_eq!(refused(request).field, "resume");
    }
    // A store's name may hold colons.
    let token = Token::parse("s:t:1f:7").expect("a token");
    assert_eq!(token, Token::of("s:t", 31, 7));
    let (wanted, begin) = check(of(Kind::Link)).expect("good");
    assert_eq!((wanted.kinds, begin), (vec![Kind::Link], Begin::Now));
}

#[test]
fn a_key_means_for_each_kind_what_it_means_to_read() {
    let text = str::to_owned;
    let (wanted, _) = check(v1::WatchRequest {
        key: "r1".into(),
        ..v1::WatchRequest::default()
    })
    .expect("good");
    for (key, is_wanted) in [
        (EntityKey::Router(text("r1")), true),
        (EntityKey::Router(text("r2")), false),
        (EntityKey::Link(text("r0"), text("r1")), true),
        (EntityKey::Link(text("r1"), text("r2")), true),
        (EntityKey::Link(text("r2"), text("r3")), false),
        (EntityKey::Permission(text("r1"), text("x"), text("")), true),
        (
            EntityKey::Permission(text("x"), text("r1"), text("")),
            false,
        ),
        (EntityKey::Grant(text("r1"), text("*")), true),
        (EntityKey::Grant(text("x"), text("r1")), false),
        (EntityKey::Pending(1), false),
    ] {
        assert_eq!(wanted.wants(&key), is_wanted, "{key:?}");
    }
}
