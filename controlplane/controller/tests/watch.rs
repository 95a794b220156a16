//! Watching: what changes is told once, to the end, and to nobody's cost but the watcher's.

mod bed;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bed::{Controller, DEADLINE, Held, SimulatedRouter, agent_uri, router_uri, write};
use caplane_proto::v1;
use caplane_proto::v1::entity::Entity as Body;
use caplane_proto::v1::northbound_client::NorthboundClient;
use caplane_proto::v1::read_request::Kind;
use caplane_proto::v1::update::Type::{self, Delete, Insert, Modify};
use caplane_proto::v1::watch_response::Message;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

fn tenant(name: &str) -> Body {
    Body::Tenant(v1::Tenant {
        name: name.into(),
        id: 0,
        ..v1::Tenant::default()
    })
}

fn permission(from: &str, to: &str) -> Body {
    Body::Permission(v1::Permission {
        from: from.into(),
        to: to.into(),
        class_path: String::new(),
    })
}

fn grant(agent: &str) -> Body {
    Body::Grant(v1::Grant {
        agent_uri: agent_uri(agent),
        class_path: "*".into(),
        weight: 0,
        ..v1::Grant::default()
    })
}

/// An agent whose card is this large (bytes), give or take the rest of it.
fn agent(name: &str, card_bytes: usize, weight: u32) -> Body {
    let card = serde_json::json!({
        "name": name, "description": "d".repeat(card_bytes), "version": "1", "url": "http://localhost:1/",
        "protocolVersion": "0.3.0", "capabilities": {}, "defaultInputModes": ["text"],
        "defaultOutputModes": ["text"], "skills": [],
    });
    Body::Agent(v1::Agent {
        uri: agent_uri(name),
        card: card.to_string().into_bytes(),
        weight,
        ..v1::Agent::default()
    })
}

fn of(kinds: &[Kind]) -> v1::WatchRequest {
    v1::WatchRequest {
        kinds: kinds.iter().map(|kind| i32::from(*kind)).collect(),
        ..v1::WatchRequest::default()
    }
}

/// A watch, and what it told.
struct Watch {
    /// Everything was asked for.
    initial: bool,
    stream: Streaming<v1::WatchResponse>,
    resume: String,
    generation: u64,
}

impl Watch {
    async fn open(operator: &mut NorthboundClient<Channel>, request: v1::WatchRequest) -> Self {
        let initial = request.initial;
        let stream = operator.watch(request).await.expect("watches").into_inner();
        Self {
            initial,
            stream,
            resume: String::new(),
            generation: 0,
        }
    }

    /// Not yet all that was asked for.
    fn is_partial(&self) -> bool {
        self.initial && self.resume.is_empty()
    }

    /// The next message; `None` = the stream is over.
    async fn next(&mut self) -> Result<Option<Message>, Status> {
        let next = tokio::time::timeout(DEADLINE, self.stream.message()).await;
        let message = next.expect("in time")?.and_then(|next| next.message);
        match &message {
            Some(Message::Changes(v1::WatchChanges {
                generation, resume, ..
            }))
            | Some(Message::Synced(v1::WatchSynced { generation, resume })) => {
                assert!(*generation >= self.generation, "it does not go back");
                self.generation = *generation;
                if self.is_partial() {
                    let told = matches!(message, Some(Message::Synced(_)));
                    assert_eq!(
                        told,
                        !resume.is_empty(),
                        "only what is whole can be gone on from"
                    );
                }
                self.resume = resume.clone();
            }
            _ => {}
        }
        Ok(message)
    }

    async fn changes(&mut self) -> Vec<v1::WatchChange> {
        match self.next().await.expect("goes on") {
            Some(Message::Changes(changes)) => changes.changes,
            other => panic!("expected changes, got {other:?}"),
        }
    }

    /// Everything up to `Synced`.
    async fn until_synced(&mut self) -> Vec<v1::WatchChange> {
        let mut all = Vec::new();
        loop {
            match self.next().await.expect("goes on") {
                Some(Message::Changes(changes)) => all.extend(changes.changes),
                Some(Message::Synced(_)) => return all,
                other => panic!("not synced: {other:?}"),
            }
        }
    }

    /// Everything up to a generation.
    async fn upto(&mut self, generation: u64) -> Vec<v1::WatchChange> {
        let mut all = Vec::new();
        while self.generation < generation {
            all.extend(self.changes().await);
        }
        all
    }

    /// The reason of the `Gone` that must come, perhaps after what was under way.
    async fn until_gone(mut self) -> String {
        loop {
            match self.next().await.expect("goes on") {
                Some(Message::Gone(gone)) => {
                    assert!(matches!(self.next().await, Ok(None)), "it is the last");
                    return gone.reason;
                }
                Some(_) => {}
                None => panic!("the stream ended without it"),
            }
        }
    }
}

/// What was told, in short.
fn words(changes: &[v1::WatchChange]) -> Vec<String> {
    let word = |change: &v1::WatchChange| {
        let entity = change.entity.as_ref().and_then(|e| e.entity.as_ref());
        let what = match entity.expect("set") {
            Body::Tenant(tenant) => format!("tenant {}", tenant.name),
            Body::Agent(agent) => format!("agent {}", agent.uri),
            Body::Grant(grant) => format!("grant {}", grant.agent_uri),
            Body::Router(router) => format!("router {}", router.name),
            Body::Permission(permission) => {
                format!("permission {} {}", permission.from, permission.to)
            }
            other => format!("{other:?}"),
        };
        format!("{}{what}", if change.removed { "-" } else { "+" })
    };
    changes.iter().map(word).collect()
}

async fn done(
    operator: &mut NorthboundClient<Channel>,
    updates: Vec<(Type, Body)>,
) -> v1::WriteResponse {
    let request = v1::WriteRequest {
        omit_entities: true,
        ..write(updates)
    };
    operator.write(request).await.expect("written").into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_is_told_once_also_to_one_who_comes_back() {
    let mut controller = Controller::start();
    let mut operator = controller.operator().await;
    done(
        &mut operator,
        vec![(Insert, tenant("a")), (Insert, tenant("b"))],
    )
    .await;
    let everything = v1::WatchRequest {
        initial: true,
        ..of(&[Kind::Tenant, Kind::Permission])
    };
    let mut watch = Watch::open(&mut operator, everything).await;
    let told = watch.until_synced().await;
    assert_eq!(words(&told), ["+tenant a", "+tenant b", "+tenant shared"]);

    let both = vec![(Insert, permission("a", "b")), (Insert, grant("x"))];
    let written = done(&mut operator, both).await;
    let told = watch.upto(written.generation).await;
    assert_eq!(words(&told), ["+permission a b"], "grants are not watched");

    // One goes away; what happens meanwhile is told once, however often it happened, and by its names when it is gone.
    let Watch { stream, resume, .. } = watch;
    drop(stream);
    for action in [Delete, Insert, Delete] {
        done(&mut operator, vec![(action, permission("a", "b"))]).await;
    }
    let last = done(
        &mut operator,
        vec![(Delete, tenant("a")), (Insert, tenant("c"))],
    )
    .await;
    let back = v1::WatchRequest {
        resume,
        ..of(&[Kind::Tenant, Kind::Permission])
    };
    let mut watch = Watch::open(&mut operator, back).await;
    let told = watch.until_synced().await;
    assert_eq!(words(&told), ["-tenant a", "+tenant c", "-permission a b"]);
    assert_eq!(watch.generation, last.generation);

    // The controller stops: the watch ends at once, and goes on at the next run, which nothing was missed by.
    let begun = Instant::now();
    let ended = tokio::task::spawn_blocking(move || {
        assert_eq!(controller.terminate(), Some(0));
        controller
    });
    match watch.next().await {
        Ok(None) => {}
        Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
        Ok(Some(message)) => panic!("{message:?}"),
    }
    let mut controller = ended.await.expect("ended");
    assert!(begun.elapsed() < Duration::from_secs(4), "not drained for");
    controller.run();
    let mut operator = controller.operator().await;
    let back = v1::WatchRequest {
        resume: watch.resume.clone(),
        ..of(&[Kind::Tenant])
    };
    let mut again = Watch::open(&mut operator, back.clone()).await;
    assert!(again.until_synced().await.is_empty());
    done(&mut operator, vec![(Insert, tenant("d"))]).await;
    assert_eq!(words(&again.changes().await), ["+tenant d"]);
    // But not what the run before it remembered, when that is not where this one began.
    controller.kill();
    controller.run();
    let mut operator = controller.operator().await;
    let reason = Watch::open(&mut operator, back).await.until_gone().await;
    assert!(reason.contains("started anew"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_routers_say_is_watched_too() {
    let controller = Controller::start();
    let mut operator = controller.operator().await;
    let router = Body::Router(v1::Router {
        name: "r1".into(),
        uri: router_uri("r1"),
        ..v1::Router::default()
    });
    let setup = vec![(Insert, router), (Insert, agent("fx", 0, 1))];
    let generation = done(&mut operator, setup).await.generation;
    let mut watch = Watch::open(&mut operator, of(&[Kind::Router, Kind::Agent])).await;
    assert!(watch.until_synced().await.is_empty(), "from now on");

    let request = v1::ReadRequest {
        kind: Kind::Agent.into(),
        ..v1::ReadRequest::default()
    };
    let read = operator.read(request).await.expect("read").into_inner();
    let Some(Body::Agent(fx)) = read.entities[0].entity.clone() else {
        panic!("no agent: {read:?}");
    };
    let instance = v1::Attachment {
        uri: fx.uri.clone(),
        label: fx.label | 1,
        ..v1::Attachment::default()
    };
    let mut r1 = SimulatedRouter::open(&controller, "r1", Held::default(), vec![instance])
        .await
        .expect("accepted");
    r1.follow(generation).await;
    // Every change of the two comes; the newest word of each counts.
    let (mut live, mut attached) = (false, false);
    while !(live && attached) {
        for change in watch.changes().await {
            match change.entity.and_then(|entity| entity.entity) {
                Some(Body::Router(r1)) => {
                    live = r1.live_generation > generation && r1.instances == 1;
                }
                Some(Body::Agent(fx)) => {
                    attached = fx.instances.len() == 1;
                    assert!(!fx.card.is_empty());
                }
                other => panic!("not watched: {other:?}"),
            }
        }
        if !live {
            let newest = operator.read(request_of(Kind::Tenant)).await;
            r1.follow(newest.expect("read").into_inner().generation)
                .await;
        }
    }
    let resume = watch.resume.clone();
    r1.finish().await;
    // Of a router that went while nobody watched it is known that it went.
    let back = v1::WatchRequest {
        resume,
        omit_cards: true,
        key: "r1".into(),
        ..of(&[])
    };
    let begun = Instant::now();
    loop {
        let mut watch = Watch::open(&mut operator, back.clone()).await;
        let told = watch.until_synced().await;
        assert_eq!(words(&told), ["+router r1"]);
        let Some(Body::Router(r1)) = told[0].entity.clone().and_then(|entity| entity.entity) else {
            panic!("no router: {told:?}");
        };
        if !r1.connected {
            break;
        }
        assert!(begun.elapsed() < DEADLINE, "{r1:?}");
    }
}

fn request_of(kind: Kind) -> v1::ReadRequest {
    v1::ReadRequest {
        kind: kind.into(),
        ..v1::ReadRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_watched_is_refused() {
    let controller = Controller::with("[quota]\nwatches = 1000\n");
    let mut operator = controller.operator().await;
    let resume = |text: &str| v1::WatchRequest {
        resume: text.into(),
        ..v1::WatchRequest::default()
    };
    for (request, field) in [
        (of(&[Kind::Class]), "kinds \""),
        (of(&[Kind::Unspecified]), "kinds \""),
        (resume("nonsense"), "resume \"nonsense\""),
    ] {
        let status = operator.watch(request).await.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().starts_with(field), "{status}");
    }
    let reason = Watch::open(&mut operator, resume("other:1:0")).await;
    assert!(reason.until_gone().await.contains("another store"));
    let mut open = Vec::new();
    let status = loop {
        match operator.watch(of(&[])).await {
            Ok(stream) => open.push(stream),
            Err(status) => break status,
        }
        assert!(open.len() <= 256);
    };
    assert_eq!((open.len(), status.code()), (256, Code::ResourceExhausted));
    // One that goes makes room.
    open.pop();
    let begun = Instant::now();
    while operator.watch(of(&[])).await.is_err() {
        assert!(begun.elapsed() < DEADLINE, "no room");
    }
}

const AGENTS: usize = 200;
const CARD_BYTES: usize = 16 * 1024;
const WRITERS: usize = 8;
/// Of one round.
const WRITES: usize = 1_600;
const ROUNDS: usize = 3;

/// Modifies agents round and round, several writers at once; answers how long each write took, sorted.
async fn load(operator: &NorthboundClient<Channel>) -> Vec<Duration> {
    let writers = (0..WRITERS).map(|writer| {
        let mut operator = operator.clone();
        tokio::spawn(async move {
            let mut took = Vec::new();
            for i in 0..WRITES / WRITERS {
                let name = format!("a{}", (i * WRITERS + writer) % AGENTS);
                let weight = 1 + i as u32;
                let body = agent(&name, CARD_BYTES, weight);
                let begun = Instant::now();
                done(&mut operator, vec![(Modify, body)]).await;
                took.push(begun.elapsed());
            }
            took
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut took = Vec::new();
    for writer in writers {
        took.extend(writer.await.expect("ends"));
    }
    took.sort();
    took
}

/// The least p50 and p99 of several rounds.
fn best(rounds: &[Vec<Duration>]) -> [Duration; 2] {
    [50, 99].map(|share| {
        let of = rounds.iter().map(|took| took[took.len() * share / 100]);
        of.min().expect("a round")
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_does_not_read_costs_writers_and_memory_nothing() {
    let controller = Controller::start();
    let mut operator = controller.operator().await;
    let agents = (0..AGENTS).map(|i| (Insert, agent(&format!("a{i}"), CARD_BYTES, 1)));
    done(&mut operator, agents.collect()).await;
    let everything = v1::WatchRequest {
        initial: true,
        ..of(&[Kind::Agent])
    };
    let mut watcher = controller.operator().await;
    let (mut alone, mut watched) = (Vec::new(), Vec::new());
    let mut standing = Vec::new();
    let before = controller.resident_kib();
    // In turns: what else the machine does meets both.
    for _ in 0..ROUNDS {
        alone.push(load(&operator).await);
        // It is not read: it stands as soon as its connection is full, after some 4 MiB of 25.
        let stands = Watch::open(&mut watcher, everything.clone()).await;
        watched.push(load(&operator).await);
        standing.push(stands);
        // One that stands may fill its connection.
        watcher = controller.operator().await;
    }
    let after = controller.resident_kib();
    let (alone, watched) = (best(&alone), best(&watched));
    println!(
        "write p50, p99: alone {alone:?}; somebody watches and does not read {watched:?}; memory {before} -> {after} KiB"
    );
    assert!(
        watched[0] < alone[0].mul_f64(1.5),
        "a write costs {watched:?}, without the watcher {alone:?}"
    );
    // What each is owed was written thousands of times, 50 MiB and more in all.
    let room = (ROUNDS * WRITES * CARD_BYTES / 1024 / 2) as u64;
    assert!(after < before + room, "{before} -> {after} KiB");
    let mut standing = standing.swap_remove(0);

    // It reads at last: each agent as it is now, after what was under way.
    let newest = done(&mut operator, vec![(Insert, tenant("last"))])
        .await
        .generation;
    let mut told = standing.until_synced().await;
    told.extend(standing.upto(newest).await);
    assert!(
        told.len() <= 3 * AGENTS,
        "{} for {} writes",
        told.len(),
        ROUNDS * WRITES,
    );
    let mut weights = BTreeMap::new();
    for change in told {
        if let Some(Body::Agent(agent)) = change.entity.and_then(|entity| entity.entity) {
            weights.insert(agent.uri, agent.weight);
        }
    }
    let request = v1::ReadRequest {
        page_size: 10_000,
        ..request_of(Kind::Agent)
    };
    let mut page = String::new();
    loop {
        let request = v1::ReadRequest {
            page: page.clone(),
            ..request.clone()
        };
        let read = operator.read(request).await.expect("read").into_inner();
        for entity in read.entities {
            let Some(Body::Agent(agent)) = entity.entity else {
                panic!("no agent: {entity:?}");
            };
            assert_eq!(weights.remove(&agent.uri), Some(agent.weight));
        }
        page = read.next_page;
        if page.is_empty() {
            break;
        }
    }
    assert!(weights.is_empty(), "nothing that is not there");

    // Another stands while more changes than is remembered: it is told so, and nobody else.
    let standing = Watch::open(&mut watcher, everything).await;
    load(&operator).await;
    for batch in 0..8 {
        let names = (0..10_000).map(|i| (Insert, grant(&format!("g{batch}-{i}"))));
        done(&mut operator, names.collect()).await;
    }
    let reason = standing.until_gone().await;
    assert!(
        reason.contains("more changed than is remembered"),
        "{reason}"
    );
}
