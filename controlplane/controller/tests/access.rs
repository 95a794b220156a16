//! Roles at the listener itself: every call by every role, every kind of entity in Write, tenants, the unix socket.

mod bed;

use bed::{Controller, agent_uri, router_uri};
use caplane_proto::v1;
use caplane_proto::v1::entity::Entity as Body;
use caplane_proto::v1::explain_request::To;
use caplane_proto::v1::northbound_client::NorthboundClient;
use caplane_proto::v1::read_request::Kind;
use caplane_proto::v1::update::Type;
use caplane_proto::v1::watch_response::Message as Told;
use prost::Message as _;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

const ROLES: &str = r#"
[[roles]]
who = "spiffe://caplane.local/viewer/*"
role = "viewer"
[[roles]]
who = "spiffe://caplane.local/orchestrator/*"
role = "orchestrator"
[[roles]]
who = "spiffe://caplane.local/orchestrator/t"
role = "orchestrator"
tenants = ["t"]
[[roles]]
who = "spiffe://caplane.local/net/*"
role = "operator"
"#;

/// Names by rank, and one whom nobody knows.
const CALLERS: [(&str, Option<u8>); 5] = [
    ("spiffe://caplane.local/viewer/v", Some(0)),
    ("spiffe://caplane.local/orchestrator/o", Some(1)),
    ("spiffe://caplane.local/net/n", Some(2)),
    ("spiffe://caplane.local/operator/ada", Some(3)),
    ("spiffe://caplane.local/tenant/t/agent/a", None),
];

type Client = NorthboundClient<Channel>;

fn write(updates: impl IntoIterator<Item = (Type, Body)>) -> v1::WriteRequest {
    let updates = updates.into_iter().map(|(action, body)| v1::Update {
        r#type: action.into(),
        entity: Some(v1::Entity { entity: Some(body) }),
    });
    v1::WriteRequest {
        updates: updates.collect(),
        ..v1::WriteRequest::default()
    }
}

fn tenant(name: &str) -> Body {
    Body::Tenant(v1::Tenant {
        name: name.into(),
        ..v1::Tenant::default()
    })
}

fn agent(name: &str, tenant: &str) -> Body {
    Body::Agent(v1::Agent {
        uri: agent_uri(name),
        tenant: tenant.into(),
        ..v1::Agent::default()
    })
}

fn grant(name: &str) -> Body {
    Body::Grant(v1::Grant {
        agent_uri: agent_uri(name),
        class_path: "*".into(),
        ..v1::Grant::default()
    })
}

fn group(name: &str, tenant: &str) -> Body {
    Body::Group(v1::Group {
        name: name.into(),
        tenant: tenant.into(),
        ..v1::Group::default()
    })
}

/// One call of each kind, sensible or not: only whether it may be made is looked at.
async fn code(client: &mut Client, call: &str) -> Code {
    fn of<T>(answer: Result<tonic::Response<T>, Status>) -> Code {
        answer.map_or_else(|status| status.code(), |_| Code::Ok)
    }
    match call {
        "Write" => of(client.write(write([])).await),
        "Confirm" => of(client.confirm(v1::ConfirmRequest::default()).await),
        "Read" => of(client
            .read(v1::ReadRequest {
                kind: Kind::Agent.into(),
                ..v1::ReadRequest::default()
            })
            .await),
        "Watch" => of(client.watch(v1::WatchRequest::default()).await),
        "Resolve" => of(client.resolve(v1::ResolveRequest::default()).await),
        "Explain" => of(client.explain(v1::ExplainRequest::default()).await),
        "ReadAudit" => of(client.read_audit(v1::ReadAuditRequest::default()).await),
        "Rollout" => of(client.rollout(v1::RolloutRequest::default()).await),
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_by_every_role() {
    let controller = Controller::with(ROLES);
    let calls = [
        ("Read", 0),
        ("Watch", 0),
        ("Resolve", 0),
        ("Explain", 0),
        ("Rollout", 0),
        ("Write", 1),
        ("Confirm", 1),
        ("ReadAudit", 3),
    ];
    for (uri, rank) in CALLERS {
        let mut client = controller.caller(uri).await;
        for (call, least) in calls {
            let code = code(&mut client, call).await;
            let passes = rank.is_some_and(|rank| rank >= least);
            assert_eq!(
                code != Code::PermissionDenied,
                passes,
                "{uri} {call}: {code:?}"
            );
        }
    }
    assert!(controller.log().contains("reason=\"stranger\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_in_write_by_every_role() {
    let controller = Controller::with(ROLES);
    let mut admin = controller.operator().await;
    let world = [(Type::Insert, tenant("t")), (Type::Insert, agent("a", "t"))];
    admin.write(write(world)).await.expect("written");
    let router = |name: &str| {
        Body::Router(v1::Router {
            name: name.into(),
            uri: router_uri(name),
            ..v1::Router::default()
        })
    };
    let kinds = [
        (agent("b", "t"), 1),
        (grant("a"), 1),
        (
            Body::Override(v1::SkillOverride {
                agent_uri: agent_uri("a"),
                skill_id: "x".into(),
                class_path: "travel".into(),
            }),
            1,
        ),
        (group("g", "t"), 1),
        (router("r9"), 2),
        (
            Body::Link(v1::Link {
                a: "r1".into(),
                b: "r2".into(),
                cost: 1,
            }),
            2,
        ),
        (tenant("u"), 3),
        (
            Body::Permission(v1::Permission {
                from: "t".into(),
                to: "u".into(),
                class_path: String::new(),
            }),
            3,
        ),
    ];
    for (uri, rank) in CALLERS {
        let mut client = controller.caller(uri).await;
        for (body, least) in &kinds {
            let request = v1::WriteRequest {
                dry_run: true,
                ..write([(Type::Insert, body.clone())])
            };
            let answer = client.write(request).await;
            let denied = answer.is_err_and(|status| status.code() == Code::PermissionDenied);
            let passes = rank.is_some_and(|rank| rank >= *least);
            assert_eq!(!denied, passes, "{uri} {body:?}");
        }
    }
}

async fn read(client: &mut Client, kind: Kind, page_size: u32) -> Vec<Body> {
    let (mut bodies, mut page) = (Vec::new(), String::new());
    loop {
        let request = v1::ReadRequest {
            kind: kind.into(),
            page_size,
            page,
            ..v1::ReadRequest::default()
        };
        let answer = client.read(request).await.expect("read").into_inner();
        bodies.extend(
            answer
                .entities
                .into_iter()
                .filter_map(|entity| entity.entity),
        );
        page = answer.next_page;
        if page.is_empty() {
            return bodies;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_orchestrator_sees_and_writes_its_tenants_only() {
    let controller = Controller::with(ROLES);
    let mut admin = controller.operator().await;
    let mut mine = controller
        .caller("spiffe://caplane.local/orchestrator/t")
        .await;
    let mut world = vec![(Type::Insert, tenant("t")), (Type::Insert, tenant("other"))];
    for i in 0..4 {
        world.push((Type::Insert, agent(&format!("mine{i}"), "t")));
        world.push((Type::Insert, agent(&format!("theirs{i}"), "other")));
        world.push((Type::Insert, grant(&format!("theirs{i}"))));
    }
    world.push((Type::Insert, group("theirs", "other")));
    admin.write(write(world)).await.expect("written");
    let mut watch = mine
        .watch(v1::WatchRequest::default())
        .await
        .expect("watched")
        .into_inner();

    // Pages too, though what lies between is another's.
    for page_size in [1, 3, 100] {
        let agents = read(&mut mine, Kind::Agent, page_size).await;
        assert_eq!(agents.len(), 4, "{page_size}");
        let all = agents
            .iter()
            .all(|body| matches!(body, Body::Agent(a) if a.tenant == "t"));
        assert!(all, "{agents:?}");
    }
    assert_eq!(read(&mut mine, Kind::Grant, 0).await, []);
    assert_eq!(read(&mut mine, Kind::Group, 0).await, []);
    assert_eq!(read(&mut mine, Kind::Tenant, 0).await.len(), 1);
    assert!(!read(&mut mine, Kind::Class, 0).await.is_empty());

    // One foreign update refuses the batch, and is told as data.
    let batch = [
        (Type::Insert, grant("mine0")),
        (Type::Insert, grant("theirs0")),
    ];
    let status = mine.write(write(batch)).await.expect_err("not its own");
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(
        status.message().starts_with("updates[1].grant.agent_uri"),
        "{status}"
    );
    let resolve = |asker: &str| v1::ResolveRequest {
        query: Some(v1::Resolve {
            target: Some(v1::resolve::Target::Text("book a hotel".into())),
            ..v1::Resolve::default()
        }),
        asker: asker.into(),
    };
    for (asker, code) in [
        ("", Code::PermissionDenied),
        (&agent_uri("theirs0"), Code::PermissionDenied),
    ] {
        let status = mine.resolve(resolve(asker)).await.expect_err("not its own");
        assert_eq!(status.code(), code, "{asker}");
    }
    mine.resolve(resolve(&agent_uri("mine0")))
        .await
        .expect("its own");

    // What others change is not told, not even that it is gone; what leaves the tenant is.
    let changes = [
        (Type::Delete, agent("theirs0", "")),
        (Type::Modify, agent("theirs1", "t")),
        (Type::Modify, agent("mine1", "other")),
        (Type::Delete, agent("mine2", "")),
    ];
    admin.write(write(changes)).await.expect("written");
    let mut told = Vec::new();
    while told.len() < 4 {
        let next = tokio::time::timeout(bed::DEADLINE, watch.message()).await;
        let next = next.expect("in time").expect("told").expect("goes on");
        if let Some(Told::Changes(changes)) = next.message {
            told.extend(changes.changes);
        }
    }
    let name = |change: &v1::WatchChange| {
        let entity = change
            .entity
            .as_ref()
            .and_then(|entity| entity.entity.as_ref());
        let (kind, uri) = match entity {
            Some(Body::Agent(agent)) => ("agent", &agent.uri),
            Some(Body::Grant(grant)) => ("grant", &grant.agent_uri),
            other => panic!("{other:?}"),
        };
        (
            kind,
            uri.rsplit('/').next().unwrap_or_default().to_owned(),
            change.removed,
        )
    };
    let told: Vec<_> = told.iter().map(name).collect();
    let expected = [
        ("agent", "mine1", true),
        ("agent", "mine2", true),
        ("agent", "theirs1", false),
        // It came with its agent.
        ("grant", "theirs1", false),
    ];
    let expected = expected.map(|(kind, name, removed)| (kind, name.to_owned(), removed));
    assert_eq!(told, expected);
}

/// What Explain said, the names asked for left out.
async fn explained(client: &mut Client, request: v1::ExplainRequest, names: &[&str]) -> String {
    let told = match client.explain(request).await {
        Ok(answer) => format!("{:?}", answer.into_inner()),
        Err(status) => format!("{:?} {}", status.code(), status.message()),
    };
    names
        .iter()
        .fold(told, |told, name| told.replace(name, "it"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_viewer_is_told_no_more_of_others_than_of_what_is_not_there() {
    const VIEWER: &str = "spiffe://caplane.local/viewer/bound";
    let bound =
        format!("{ROLES}[[roles]]\nwho = \"{VIEWER}\"\nrole = \"viewer\"\ntenants = [\"t\"]\n");
    let controller = Controller::with(&bound);
    let mut admin = controller.operator().await;
    let router = Body::Router(v1::Router {
        name: "r1".into(),
        uri: router_uri("r1"),
        ..v1::Router::default()
    });
    let world = [
        (Type::Insert, router),
        (Type::Insert, tenant("t")),
        (Type::Insert, tenant("other")),
        (Type::Insert, agent("mine", "t")),
        (Type::Insert, agent("mine2", "t")),
        (Type::Insert, agent("theirs", "other")),
        (Type::Insert, group("ours", "t")),
        (Type::Insert, group("their-group", "other")),
    ];
    admin.write(write(world)).await.expect("written");
    let agents = read(&mut admin, Kind::Agent, 0).await;
    let label = |name: &str| {
        let found = agents.iter().find_map(|body| match body {
            Body::Agent(agent) if agent.uri == agent_uri(name) => Some(agent.label),
            _ => None,
        });
        caplane_wire::Label::from_bits(found.expect("there")).to_string()
    };
    let ask = |source: &str, to: To| v1::ExplainRequest {
        source: agent_uri(source),
        router: "r1".into(),
        to: Some(to),
        ..v1::ExplainRequest::default()
    };
    let mut viewer = controller.caller(VIEWER).await;
    type Make = fn(String) -> To;
    let named: [(Make, String, String, String); 3] = [
        (
            To::Agent,
            agent_uri("theirs"),
            agent_uri("nobody"),
            agent_uri("mine2"),
        ),
        (
            To::Agent,
            label("theirs"),
            "agent:4000000".to_owned(),
            label("mine2"),
        ),
        (
            To::Group,
            "their-group".to_owned(),
            "no-group".to_owned(),
            "ours".to_owned(),
        ),
    ];
    for (to, theirs, nobody, ours) in named {
        let names = [theirs.as_str(), nobody.as_str()];
        let foreign = explained(&mut viewer, ask("mine", to(theirs.clone())), &names).await;
        let unknown = explained(&mut viewer, ask("mine", to(nobody.clone())), &names).await;
        assert_eq!(foreign, unknown);
        assert!(foreign.starts_with("NotFound"), "{foreign}");
        // Who is bound to nothing is told what becomes of it, the bound one of what its agent may reach.
        let whole = explained(&mut admin, ask("mine", to(theirs)), &[]).await;
        assert!(whole.contains("hops: [Hop"), "{whole}");
        let own = explained(&mut viewer, ask("mine", to(ours)), &[]).await;
        assert!(own.contains("hops: [Hop"), "{own}");
    }
    let path = || To::Path("travel".into());
    let of = |tenant: &str| v1::ExplainRequest {
        tenant: tenant.into(),
        ..ask("mine", path())
    };
    let names = ["other", "no-tenant"];
    let foreign = explained(&mut viewer, of("other"), &names).await;
    let unknown = explained(&mut viewer, of("no-tenant"), &names).await;
    assert_eq!(foreign, unknown);
    assert!(foreign.starts_with("NotFound"), "{foreign}");
    // Nor can one ask as another's, or find out so whether it is there.
    let (theirs, nobody) = (agent_uri("theirs"), agent_uri("nobody"));
    let names = [theirs.as_str(), nobody.as_str()];
    for to in [path(), To::Text("book a hotel".into())] {
        let foreign = explained(&mut viewer, ask("theirs", to.clone()), &names).await;
        assert_eq!(
            foreign,
            explained(&mut viewer, ask("nobody", to), &names).await
        );
        assert!(foreign.starts_with("PermissionDenied"), "{foreign}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_calls_by_the_unix_socket_without_a_certificate() {
    let mut controller = Controller::with_lines("listen_unix = \"c1.sock\"", ROLES);
    let path = controller.config().with_file_name("c1.sock");
    let connect = async || {
        let endpoint = Endpoint::from_shared(format!("unix://{}", path.display()));
        endpoint
            .expect("a path")
            .connect()
            .await
            .map(NorthboundClient::new)
    };
    let mut local = connect().await.expect("connected");
    let written = local.write(write([(Type::Insert, tenant("t"))])).await;
    written.expect("the owner is an administrator");
    let mut certified = controller.operator().await;
    let rollout = certified.rollout(v1::RolloutRequest::default()).await;
    let summary = rollout
        .expect("answered")
        .into_inner()
        .summary
        .expect("set");
    let who = &summary.origins[0].who;
    assert!(who.starts_with("unix:uid/"), "{who}");
    // Killed, it leaves the socket behind; the next start takes its place.
    controller.kill();
    assert!(path.exists());
    connect().await.expect_err("nobody listens");
    controller.run();
    let mut local = connect().await.expect("connected");
    assert_eq!(read(&mut local, Kind::Tenant, 0).await.len(), 2);
    drop(local);
    assert_eq!(controller.terminate(), Some(0), "{}", controller.log());
    assert!(!path.exists(), "it goes with the controller");
}

/// Denials in the audit log, once there are `count` of them: their calls and words.
async fn denials(admin: &mut Client, count: usize) -> Vec<(String, String)> {
    let end = tokio::time::Instant::now() + bed::DEADLINE;
    loop {
        let answer = admin.read_audit(v1::ReadAuditRequest::default()).await;
        let mut records = answer.expect("read").into_inner();
        let mut denied = Vec::new();
        while let Some(record) = records.message().await.expect("told") {
            let body = v1::AuditBody::decode(record.body.as_slice()).expect("a body");
            if body.code == Code::PermissionDenied as i32 {
                denied.push((body.call, body.what));
            }
        }
        if denied.len() >= count {
            return denied;
        }
        assert!(tokio::time::Instant::now() < end, "{denied:?}");
        // Each look is recorded too, and so many in a second are.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_left_the_tenant_is_not_told_again_and_no_denial_hides_behind_another_fault() {
    let controller = Controller::with(ROLES);
    let mut admin = controller.operator().await;
    let mut mine = controller
        .caller("spiffe://caplane.local/orchestrator/t")
        .await;
    admin
        .write(write([(Type::Insert, tenant("other"))]))
        .await
        .expect("written");

    // Its own tenant is not made yet: which others there are is not told.
    let early = mine.write(write([(Type::Insert, agent("a", "t"))])).await;
    let status = early.expect_err("no tenant");
    assert_eq!(status.code(), Code::NotFound, "{status}");
    let details = String::from_utf8_lossy(status.details()).into_owned();
    assert!(details.contains("administrator"), "{details}");
    assert!(!details.contains("other"), "{details}");

    admin
        .write(write([
            (Type::Insert, tenant("t")),
            (Type::Insert, agent("theirs", "other")),
        ]))
        .await
        .expect("written");
    let once = v1::WriteRequest {
        idempotency_key: "once".into(),
        ..write([
            (Type::Insert, agent("a", "t")),
            (Type::Insert, group("g", "t")),
        ])
    };
    let first = mine
        .write(once.clone())
        .await
        .expect("written")
        .into_inner();
    assert!(
        matches!(&first.entities[0].entity, Some(Body::Agent(a)) if a.tenant == "t"),
        "{first:?}"
    );
    admin
        .write(write([
            (Type::Modify, agent("a", "other")),
            (Type::Delete, group("g", "")),
            (Type::Insert, group("g", "other")),
        ]))
        .await
        .expect("written");
    let again = mine.write(once).await.expect("repeated").into_inner();
    assert!(again.repeated_request);
    let key = v1::Agent {
        uri: agent_uri("a"),
        ..v1::Agent::default()
    };
    assert_eq!(again.entities[0].entity, Some(Body::Agent(key)));
    assert_eq!(
        again.entities[1].entity,
        Some(Body::Group(v1::Group {
            name: "g".into(),
            ..v1::Group::default()
        }))
    );

    let hiding = mine
        .write(write([
            (Type::Unspecified, agent("b", "t")),
            (Type::Insert, grant("theirs")),
        ]))
        .await
        .expect_err("refused");
    assert_eq!(hiding.code(), Code::InvalidArgument, "{hiding}");
    let denied = denials(&mut admin, 1).await;
    let (call, what) = denied.last().expect("one");
    assert_eq!(call, "Write");
    assert!(what.contains("grant.agent_uri"), "{what}");
}
