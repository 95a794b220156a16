//! What the unit tests of this crate share: a small taxonomy, a store in memory that can be told
//! to fail, and updates in few words.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use caplane_proto::v1;
use caplane_proto::v1::entity::Entity as Body;
use caplane_proto::v1::update::Type;
use caplane_wire::Label;
use tokio::sync::watch;

use crate::change::{Atomicity, Checked, Refusal, parse, write};
use crate::commit::Transaction;
use crate::knowledge::Knowledge;
use crate::record::{CounterKind, Object, ObjectKey};
use crate::rib::Rib;
use crate::store::{AuditRow, Batch, ElectionId, Followed, Standing, Store, StoreError, Stored};
use crate::tables::LogRow;
use crate::taxonomy::Taxonomy;

pub(crate) const TAXONOMY: &str = r#"{"version": "1", "skills": [
 {"path": "travel", "uid": "1", "caption": "Travel", "description": "Going places."},
 {"path": "travel/hotels", "uid": "1.1", "caption": "Hotels", "description": "Places to sleep."},
 {"path": "travel/hotels/book_hotel", "uid": "1.1.1", "caption": "Book Hotel", "description": "Book a hotel room."},
 {"path": "travel/hotels/find_hotel", "uid": "1.1.2", "caption": "Find Hotel", "description": "Search for hotels by place."},
 {"path": "travel/flights", "uid": "1.2", "caption": "Flights", "description": "Flying."},
 {"path": "finance", "uid": "2", "caption": "Finance", "description": "Money."},
 {"path": "finance/currency_conversion", "uid": "2.1", "caption": "Currency Conversion", "description": "Convert an amount between currencies."}
]}"#;

pub(crate) fn knowledge() -> Arc<Knowledge> {
    let taxonomy = Taxonomy::from_json(TAXONOMY, "test").expect("the test taxonomy is good");
    Arc::new(Knowledge::new(taxonomy))
}

pub(crate) fn class(text: &str) -> Label {
    text.parse().expect("a label")
}

pub(crate) fn agent_uri(name: &str) -> String {
    format!("spiffe://caplane.local/tenant/t/agent/{name}")
}

pub(crate) fn router_uri(name: &str) -> String {
    format!("spiffe://caplane.local/router/{name}")
}

/// A card whose skills have these ids.
pub(crate) fn card(skills: &[&str]) -> Vec<u8> {
    let skills: Vec<_> = skills
        .iter()
        .map(|id| serde_json::json!({"id": id, "name": id, "description": "-", "tags": ["-"]}))
        .collect();
    serde_json::json!({
        "name": "An agent", "description": "-", "version": "1", "protocolVersion": "0.3.0",
        "url": "http://localhost:1/", "capabilities": {}, "defaultInputModes": ["text"],
        "defaultOutputModes": ["text"], "skills": skills,
    })
    .to_string()
    .into_bytes()
}

pub(crate) fn update(action: Type, body: Body) -> v1::Update {
    v1::Update {
        r#type: action.into(),
        entity: Some(v1::Entity { entity: Some(body) }),
    }
}

pub(crate) fn insert(body: Body) -> v1::Update {
    update(Type::Insert, body)
}

pub(crate) fn modify(body: Body) -> v1::Update {
    update(Type::Modify, body)
}

pub(crate) fn delete(body: Body) -> v1::Update {
    update(Type::Delete, body)
}

pub(crate) fn agent(name: &str, tenant: &str, skills: &[&str]) -> Body {
    Body::Agent(v1::Agent {
        uri: agent_uri(name),
        card: card(skills),
        tenant: tenant.into(),
        ..v1::Agent::default()
    })
}

pub(crate) fn grant(name: &str, class_path: &str) -> Body {
    Body::Grant(v1::Grant {
        agent_uri: agent_uri(name),
        class_path: class_path.into(),
        weight: 0,
        ..v1::Grant::default()
    })
}

pub(crate) fn router(name: &str) -> Body {
    Body::Router(v1::Router {
        name: name.into(),
        uri: router_uri(name),
        ..v1::Router::default()
    })
}

pub(crate) fn link(a: &str, b: &str, cost: u32) -> Body {
    Body::Link(v1::Link {
        a: a.into(),
        b: b.into(),
        cost,
    })
}

pub(crate) fn tenant(name: &str) -> Body {
    Body::Tenant(v1::Tenant {
        name: name.into(),
        id: 0,
        ..v1::Tenant::default()
    })
}

pub(crate) fn permission(from: &str, to: &str, class_path: &str) -> Body {
    Body::Permission(v1::Permission {
        from: from.into(),
        to: to.into(),
        class_path: class_path.into(),
    })
}

pub(crate) fn group(name: &str, tenant: &str, agents: &[&str]) -> Body {
    Body::Group(v1::Group {
        name: name.into(),
        tenant: tenant.into(),
        agent_uris: agents.iter().map(|name| agent_uri(name)).collect(),
        label: 0,
    })
}

/// A policy that allows one thing.
pub(crate) fn policy(name: &str, tenant: &str, to: &str, class_path: &str) -> v1::Policy {
    v1::Policy {
        name: name.into(),
        tenant: tenant.into(),
        allow: vec![v1::ClassSelector {
            tenant: to.into(),
            class_path: class_path.into(),
        }],
        ..v1::Policy::default()
    }
}

/// A policer of so many messages a second, in all and to one class.
pub(crate) fn policer(name: &str, all: u64, tenant: &str, class_path: &str) -> v1::Policer {
    let rate = |messages_per_second| v1::Rate {
        messages_per_second,
        ..v1::Rate::default()
    };
    v1::Policer {
        name: name.into(),
        rate: Some(rate(all)),
        classes: vec![v1::PolicerClass {
            tenant: tenant.into(),
            class_path: class_path.into(),
            rate: Some(rate(1)),
        }],
    }
}

/// An instance of a registered agent as a router reports it.
pub(crate) fn attachment(rib: &Rib, agent: &str, instance: u8, name: &str) -> v1::Attachment {
    let record = rib.agent(&agent_uri(agent)).expect("registered");
    v1::Attachment {
        uri: record.uri.clone(),
        label: record
            .label()
            .with_instance(instance)
            .expect("1..=63")
            .bits(),
        instance_name: name.into(),
        agent_card: Vec::new(),
        age_ms: 0,
    }
}

pub(crate) fn router_label(rib: &Rib, name: &str) -> Label {
    rib.router(name).expect("registered").label()
}

/// Does to `rib` what the commit thread would, without a store; a refused change leaves no trace.
pub(crate) fn change<T>(
    rib: &mut Rib,
    now_unix_ms: u64,
    work: impl FnOnce(&mut Transaction<'_>) -> Result<T, Refusal>,
) -> Result<(T, Vec<(Label, v1::RefusedAttachment)>), Refusal> {
    let generation = rib.generation() + 1;
    let mut tx = Transaction {
        rib,
        generation,
        now_unix_ms,
        cards: Vec::new(),
        verdicts: Vec::new(),
        store_id: None,
        origins: Vec::new(),
        notes: Vec::new(),
    };
    let value = tx.attempt(work)?;
    let verdicts = tx.verdicts;
    rib.set_generation(generation);
    Ok((value, verdicts))
}

/// Applies northbound updates to `rib`.
pub(crate) fn apply(rib: &mut Rib, updates: &[v1::Update]) -> Result<(), Refusal> {
    let parsed = checked(updates)?;
    change(rib, 1_000, |tx| {
        write::batch(tx, &parsed, Atomicity::AllOrNone)
    })
    .map(|_| ())
}

/// Northbound updates, checked in themselves.
pub(crate) fn checked(updates: &[v1::Update]) -> Result<Vec<Checked>, Refusal> {
    parse::batch(&knowledge(), updates)
}

pub(crate) const AGENTS: [&str; 4] = ["a", "b", "c", "d"];
pub(crate) const ROUTERS: [&str; 4] = ["r1", "r2", "r3", "r4"];
const CLASSES: [&str; 5] = [
    "*",
    "travel",
    "travel/hotels",
    "travel/hotels/book_hotel",
    "finance/currency_conversion",
];
const TENANTS: [&str; 3] = ["", "t1", "t2"];
const POLICIES: [&str; 3] = ["", "p1", "p2"];
const POLICERS: [&str; 2] = ["", "slow"];

/// Any update, sensible or not, from dice.
pub(crate) fn any_update(dice: [usize; 6]) -> v1::Update {
    let [kind, action, one, two, three, four] = dice;
    let agent_name = AGENTS[one % AGENTS.len()];
    let body = match kind % 10 {
        0 => {
            let skills: &[&str] = [&["book_hotel"][..], &["find_hotel", "flights"], &[]][two % 3];
            Body::Agent(v1::Agent {
                uri: agent_uri(agent_name),
                card: card(skills),
                tenant: TENANTS[three % 3].into(),
                policy: POLICIES[four % 5 % 3].into(),
                out_of_service: four % 7 == 0,
                ..v1::Agent::default()
            })
        }
        1 => Body::Grant(v1::Grant {
            agent_uri: agent_uri(agent_name),
            class_path: CLASSES[two % CLASSES.len()].into(),
            weight: 0,
            out_of_service: three % 4 == 0,
        }),
        2 => router(ROUTERS[one % ROUTERS.len()]),
        3 => link(
            ROUTERS[one % ROUTERS.len()],
            ROUTERS[two % ROUTERS.len()],
            (three % 3) as u32,
        ),
        4 => Body::Tenant(v1::Tenant {
            name: TENANTS[1 + one % 2].into(),
            policer: POLICERS[two % 2].into(),
            ..v1::Tenant::default()
        }),
        5 => permission(
            TENANTS[one % 3],
            TENANTS[1 + two % 2],
            ["", "travel"][three % 2],
        ),
        6 => group("g", TENANTS[one % 3], &AGENTS[..two % 4]),
        7 => Body::Policy(v1::Policy {
            base: ((three % 3) as i32).min(2),
            priority_max: (three % 2 == 0).then_some(two as u32 % 8),
            policer: POLICERS[four % 2].into(),
            ..policy(
                POLICIES[1 + one % 2],
                TENANTS[two % 3],
                TENANTS[three % 3],
                ["", "travel", "finance"][four % 3],
            )
        }),
        8 => Body::Policer(policer(
            POLICERS[1],
            (one % 3) as u64,
            TENANTS[two % 3],
            CLASSES[1 + three % 4],
        )),
        _ => Body::Override(v1::SkillOverride {
            agent_uri: agent_uri(agent_name),
            skill_id: ["book_hotel", "flights"][two % 2].into(),
            class_path: CLASSES[1 + three % 4].into(),
        }),
    };
    match action % 4 {
        0 | 1 => insert(body),
        2 => modify(body),
        _ => delete(body),
    }
}

/// Everything a store would hold.
pub(crate) fn objects(rib: &Rib) -> Vec<Object> {
    let mut out: Vec<Object> = rib.agents_after("").cloned().map(Object::Agent).collect();
    out.extend(rib.tenants_after("").cloned().map(Object::Tenant));
    out.extend(rib.grants_after("", "").cloned().map(Object::Grant));
    out.extend(rib.overrides_after("", "").cloned().map(Object::Override));
    out.extend(rib.routers_after("").cloned().map(Object::Router));
    out.extend(rib.links_after("", "").cloned().map(Object::Link));
    out.extend(rib.permissions_after(None).cloned().map(Object::Permission));
    out.extend(rib.groups_after("").cloned().map(Object::Group));
    out.extend(rib.policies_after("").cloned().map(Object::Policy));
    out.extend(rib.policers_after("").cloned().map(Object::Policer));
    out.extend(rib.pending_after(0).cloned().map(Object::Pending));
    for agent in rib.agents_after("") {
        out.extend(rib.instances(agent.number).cloned().map(Object::Attachment));
    }
    let kinds = [
        CounterKind::Agent,
        CounterKind::Router,
        CounterKind::Group,
        CounterKind::Tenant,
        CounterKind::Policy,
    ];
    out.extend(
        kinds
            .iter()
            .filter_map(|kind| rib.object(&ObjectKey::Counter(*kind))),
    );
    out
}

/// A store in memory: what is committed stays, also across [`State`](crate::commit::State)s.
#[derive(Default)]
pub(crate) struct MemoryStore {
    content: Mutex<Content>,
    pub(crate) failing: AtomicBool,
    pub(crate) commits: AtomicUsize,
}

#[derive(Default)]
struct Content {
    store_id: Option<String>,
    generation: u64,
    intent_generation: u64,
    floor: u64,
    epoch: crate::store::Epoch,
    objects: BTreeMap<ObjectKey, Object>,
    cards: BTreeMap<u32, Vec<u8>>,
    log: Vec<LogRow>,
    audit: BTreeMap<u64, Vec<u8>>,
}

impl Store for MemoryStore {
    fn engine(&self) -> &'static str {
        "memory"
    }

    fn standing(&self) -> Standing {
        Standing::Leading(ElectionId(1))
    }

    fn news(&self) -> watch::Receiver<()> {
        watch::Sender::new(()).subscribe()
    }

    fn since(&self, _: u64) -> Result<Followed, StoreError> {
        Ok(Followed::Batches(Vec::new()))
    }

    fn load(&self) -> Result<Stored, StoreError> {
        let content = self.content.lock().expect("not poisoned");
        Ok(Stored {
            store_id: content.store_id.clone().unwrap_or("memory".into()),
            generation: content.generation,
            intent_generation: content.intent_generation,
            floor: content.floor,
            epoch: content.epoch.clone(),
            objects: content.objects.values().cloned().collect(),
            log: content.log.clone(),
        })
    }

    fn commit(&self, _: ElectionId, batch: &Batch) -> Result<(), StoreError> {
        if self.failing.load(Ordering::SeqCst) {
            return Err(StoreError::Engine {
                place: "memory".into(),
                operation: "commit",
                cause: "told to fail".into(),
            });
        }
        self.commits.fetch_add(1, Ordering::SeqCst);
        let mut content = self.content.lock().expect("not poisoned");
        let alone = batch.objects.is_empty() && batch.cards.is_empty() && !batch.audit.is_empty();
        let rises = batch.generation > content.generation;
        let stays = alone && batch.generation == content.generation;
        assert!(rises || stays, "generations rise");
        content.generation = batch.generation;
        content.intent_generation = batch.intent_generation;
        content.floor = batch.floor;
        if batch.store_id.is_some() {
            content.store_id.clone_from(&batch.store_id);
        }
        if let Some(epoch) = &batch.epoch {
            content.epoch = epoch.clone();
        }
        for (key, object) in batch.objects.clone() {
            match object {
                Some(object) => content.objects.insert(key, object),
                None => content.objects.remove(&key),
            };
        }
        for (number, card) in batch.cards.clone() {
            match card {
                Some(card) => content.cards.insert(number, card),
                None => content.cards.remove(&number),
            };
        }
        for (generation, keys) in batch.changed.clone() {
            if !keys.is_empty() {
                content.log.push(LogRow { generation, keys });
            }
        }
        content.log.retain(|row| row.generation > batch.floor);
        for row in &batch.audit {
            content.audit.insert(row.sequence, row.bytes.clone());
        }
        content
            .audit
            .retain(|sequence, _| *sequence > batch.audit_floor);
        Ok(())
    }

    fn audit(&self, from: u64, count: usize) -> Result<Vec<AuditRow>, StoreError> {
        let content = self.content.lock().expect("not poisoned");
        let rows = content.audit.range(from..).take(count);
        let rows = rows.map(|(sequence, bytes)| AuditRow {
            sequence: *sequence,
            bytes: bytes.clone(),
        });
        Ok(rows.collect())
    }

    fn audit_ends(&self) -> Result<Option<(u64, u64)>, StoreError> {
        let content = self.content.lock().expect("not poisoned");
        let oldest = content.audit.first_key_value();
        let newest = content.audit.last_key_value();
        Ok(oldest
            .zip(newest)
            .map(|((oldest, _), (newest, _))| (*oldest, *newest)))
    }

    fn card(&self, number: u32) -> Result<Option<Vec<u8>>, StoreError> {
        let content = self.content.lock().expect("not poisoned");
        Ok(content.cards.get(&number).cloned())
    }
}
