//! One router and its controller: attachment rules, verdicts, Resolve, resuming, and life without
//! a controller.

mod support;

use caplane_proto::v1;
use caplane_proto::v1::control_frame::Frame;
use caplane_proto::v1::controller_message::Message as Say;
use caplane_proto::v1::resolve::Target;
use caplane_proto::v1::router_message::Message as Heard;
use caplane_wire::{HeaderRepr, Label};
use support::controller::{FakeController, Session};
use support::instance::Instance;
use support::pki::Pki;
use support::tables::{agent_at, class_at, identity, policy};
use support::{metric, start_router, wait_until};

/// Bound, closed again: nothing listens there.
fn dead_address() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

fn resolve(instance: &mut Instance, query_id: u64, target: Target) {
    instance.say(Frame::Resolve(v1::Resolve {
        query_id,
        target: Some(target),
        limit: 0,
        ..v1::Resolve::default()
    }));
}

fn resolved(instance: &mut Instance) -> v1::Resolved {
    instance.frame("Resolved", |frame| match frame {
        Frame::Resolved(resolved) => Some(resolved.clone()),
        _ => None,
    })
}

/// In the order in which they go: the router saves its table into the folder at its end.
struct One {
    router: caplane_router::Router,
    session: Session,
    controller: FakeController,
    pki: Pki,
    folder: tempfile::TempDir,
}

fn one() -> One {
    let pki = Pki::new();
    let folder = tempfile::tempdir().unwrap();
    let mut controller = FakeController::start(&pki);
    // The first controller is dead: the router must try the next.
    let addresses = [dead_address(), controller.address()];
    let router = start_router(&pki, folder.path(), "r1", &addresses);
    let mut session = controller.session();
    assert_eq!(session.open.held_generation, 0);
    assert_eq!(session.open.address, router.addresses().listen.to_string());
    session.accept(1, 1);
    let uri = pki.agent("a").uri;
    session.snapshot(1, vec![policy(), identity(&uri, 1, &["class:7"])]);
    One {
        pki,
        folder,
        controller,
        router,
        session,
    }
}

#[test]
fn only_registered_identities_attach_and_each_name_once() {
    let mut one = one();
    let address = one.router.addresses().listen;
    let stranger = one.pki.agent("stranger");
    let mut refused = Instance::dial(&one.pki, &stranger, address, "x");
    assert_eq!(refused.bye().code(), v1::ByeCode::UnknownIdentity);
    let byes = "router_byes_total{code=\"unknown_identity\"}";
    assert_eq!(metric(&one.router, byes), 1.0);

    let files = one.pki.agent("a");
    let mut bad = Instance::dial(&one.pki, &files, address, "no such name");
    assert_eq!(bad.bye().code(), v1::ByeCode::Protocol);

    let mut first = Instance::dial(&one.pki, &files, address, "pod-1");
    let welcome = first.welcome();
    assert_eq!(welcome.router, Label::router(1).unwrap().bits());
    assert_eq!((welcome.generation, welcome.stale), (1, false));
    let limits = welcome.limits.unwrap();
    assert_eq!(limits.lane_message_bytes, 65_536);
    assert_eq!(limits.priority_max, 6);
    let up = one.session.hear_up();
    assert_eq!(
        (up.instance_name.as_str(), up.label),
        ("pod-1", welcome.label)
    );

    let mut again = Instance::attach(&one.pki, &files, address, "pod-1");
    assert_eq!(
        again.label.bits(),
        welcome.label,
        "the name keeps its number"
    );
    assert_eq!(first.bye().code(), v1::ByeCode::Replaced);
    assert_eq!(one.session.hear_up().label, welcome.label);

    one.session.say(Say::Verdict(v1::AttachmentVerdict {
        refused: vec![v1::RefusedAttachment {
            label: welcome.label,
            code: v1::ByeCode::InstanceConflict.into(),
            reason: "taken elsewhere".into(),
        }],
    }));
    let bye = again.bye();
    assert_eq!(bye.code(), v1::ByeCode::InstanceConflict);
    assert_eq!(bye.reason, "taken elsewhere");
    assert_eq!(one.session.hear_down().label, welcome.label);
}

#[test]
fn nothing_is_forwarded_before_hello() {
    let one = one();
    let address = one.router.addresses().listen;
    let files = one.pki.agent("a");
    let mut instance = Instance::dial(&one.pki, &files, address, "");
    let header = HeaderRepr {
        requested_label: "class:7".parse().unwrap(),
        ..HeaderRepr::default()
    };
    instance.send(header, b"too early");
    assert_eq!(instance.bye().code(), v1::ByeCode::Protocol);
    assert_eq!(metric(&one.router, "router_messages_forwarded_total"), 0.0);
}

#[test]
fn resolve_is_answered_by_the_table_or_relayed() {
    let mut one = one();
    let files = one.pki.agent("a");
    let address = one.router.addresses().listen;
    let mut instance = Instance::attach(&one.pki, &files, address, "pod-1");
    one.session.hear_up();
    let routes = vec![class_at("class:7", 1), agent_at(instance.label, 1)];
    one.session.delta(routes, vec![]);

    resolve(&mut instance, 5, Target::Path("class:7".into()));
    let answer = resolved(&mut instance);
    assert_eq!((answer.query_id, answer.candidates.len()), (5, 1));
    assert_eq!(
        answer.candidates[0].label,
        support::tables::label("class:7")
    );

    resolve(&mut instance, 6, Target::Text("convert currency".into()));
    let relay = one.session.hear_until(|heard| match heard {
        Heard::Resolve(relay) => Some(relay),
        _ => None,
    });
    assert_eq!(relay.asker, files.uri);
    one.session.say(Say::Resolved(v1::ResolveAnswer {
        relay_id: relay.relay_id,
        answer: Some(v1::Resolved {
            query_id: 999,
            candidates: vec![v1::Candidate {
                name: "finance/currency".into(),
                ..Default::default()
            }],
            ..Default::default()
        }),
    }));
    let answer = resolved(&mut instance);
    assert_eq!((answer.query_id, answer.candidates.len()), (6, 1));

    // Nobody answers this one: the time runs out.
    resolve(&mut instance, 7, Target::Text("hotel".into()));
    let answer = resolved(&mut instance);
    assert_eq!(answer.query_id, 7);
    assert!(answer.error.contains("in time"), "{}", answer.error);
}

#[test]
fn a_router_starts_without_a_controller_by_its_stored_table() {
    let One {
        pki,
        folder,
        controller,
        router,
        session,
        ..
    } = one();
    let files = pki.agent("a");
    drop(session);
    controller.kill();
    wait_until("the router noticed that the controller is gone", || {
        metric(&router, "router_table_stale") == 1.0
    });
    // Known identities attach still, and are told.
    let mut instance = Instance::dial(&pki, &files, router.addresses().listen, "pod-1");
    assert!(instance.welcome().stale);
    drop(instance);
    drop(router);

    let dead = dead_address();
    let router = start_router(&pki, folder.path(), "r1", &[dead]);
    let mut instance = Instance::dial(&pki, &files, router.addresses().listen, "pod-1");
    let welcome = instance.welcome();
    assert_eq!((welcome.generation, welcome.stale), (1, true));
    assert_eq!(metric(&router, "router_table_generation"), 1.0);
    resolve(&mut instance, 1, Target::Text("anything".into()));
    assert!(resolved(&mut instance).error.contains("no controller"));
    drop(router);

    // A controller again: the session resumes from what was stored.
    let mut controller = FakeController::start(&pki);
    let router = start_router(&pki, folder.path(), "r1", &[controller.address()]);
    let mut session = controller.session();
    assert_eq!(session.open.held_generation, 1);
    assert_eq!(session.open.store_id, "store-a");
    session.accept(1, 1);
    wait_until("the table is current", || {
        metric(&router, "router_table_stale") == 0.0
    });
    session.delta(vec![class_at("class:7", 1)], vec![]);
    assert_eq!(metric(&router, "router_table_generation"), 2.0);
    assert_eq!(metric(&router, "router_table_snapshots_total"), 0.0);
}

#[test]
fn a_refused_update_leaves_the_last_good_table_in_force() {
    let mut one = one();
    let answer = one.session.update(99, 100, vec![], vec![]);
    assert_eq!(answer.rejected.len(), 1);
    assert!(answer.rejected[0].reason.contains("snapshot"));
    assert_eq!(metric(&one.router, "router_table_generation"), 1.0);
    let rejected = "router_table_updates_rejected_total";
    assert_eq!(metric(&one.router, rejected), 1.0);
    one.session.delta(vec![class_at("class:7", 1)], vec![]);
}

#[test]
fn a_router_has_nothing_from_a_controller_that_led_before_another_it_met() {
    let pki = Pki::new();
    let folder = tempfile::tempdir().unwrap();
    let mut late = FakeController::start(&pki);
    let mut early = FakeController::start(&pki);
    let addresses = [early.address(), late.address()];
    // The one that leads now, and hands over a table.
    let router = start_router(&pki, folder.path(), "r1", &addresses[1..]);
    let mut session = late.session();
    session.election_id = 7;
    session.accept(1, 1);
    session.snapshot(1, vec![class_at("class:7", 1)]);
    drop(session);
    drop(router);

    // After a restart it meets the one before first: it leaves, and goes on to the next.
    let router = start_router(&pki, folder.path(), "r1", &addresses);
    let mut session = early.session();
    assert_eq!(session.open.highest_election_id, 7);
    session.election_id = 6;
    session.accept(1, 2);
    assert!(session.is_left(), "a session by a lower id is left");
    let mut session = late.session();
    assert_eq!(session.open.held_generation, 1);
    session.election_id = 7;
    session.accept(1, 2);
    session.delta(vec![class_at("class:8", 1)], vec![]);

    // Nor does a session go on when an update comes by a lower id.
    session.election_id = 6;
    let answer = session.update(2, 3, vec![class_at("class:9", 1)], vec![]);
    assert_eq!(answer.rejected.len(), 1);
    assert!(
        answer.rejected[0].reason.contains("6 is over, 7 was met"),
        "{answer:?}"
    );
    assert!(session.is_left(), "the session is left");
    assert_eq!(metric(&router, "router_table_generation"), 2.0);

    // A later one is followed, by difference.
    let mut session = early.session();
    session.election_id = 8;
    session.accept(1, 2);
    session.delta(vec![class_at("class:9", 1)], vec![]);
    assert_eq!(metric(&router, "router_table_snapshots_total"), 0.0);
}

#[test]
fn a_certificate_with_the_name_of_controllers_and_another_uri_is_no_controller() {
    let pki = Pki::new();
    let folder = tempfile::tempdir().unwrap();
    let pretender = FakeController::start_as(&pki.pretender());
    let mut controller = FakeController::start(&pki);
    let addresses = [pretender.address(), controller.address()];
    let _router = start_router(&pki, folder.path(), "r1", &addresses);
    let mut session = controller.session();
    session.accept(1, 1);
    assert!(!pretender.was_asked(), "it gets no session");
}
