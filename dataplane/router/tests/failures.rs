//! What breaks and what happens then: a killed instance, a receiver that stands still, a
//! neighbour that restarts.

mod support;

use std::time::{Duration, Instant};

use caplane_wire::{CongestionAction, HeaderRepr, Kind, TrafficClass};
use support::controller::FakeController;
use support::instance::Instance;
use support::pki::Pki;
use support::tables::{agent_at, class_at, identity, link_to, policy};
use support::{metric, start_router, start_router_at, wait_until};

const CLASS: &str = "class:7.12";

fn request(sequence: u32, action: CongestionAction) -> HeaderRepr {
    HeaderRepr {
        class: TrafficClass::new(3, action),
        requested_label: CLASS.parse().unwrap(),
        flow: 42,
        sequence,
        ..HeaderRepr::default()
    }
}

#[test]
fn a_killed_instance_is_missed_within_two_seconds_of_traffic() {
    let pki = Pki::new();
    let folder = tempfile::tempdir().unwrap();
    let mut controller = FakeController::start(&pki);
    let router = start_router(&pki, folder.path(), "r1", &[controller.address()]);
    let (asker_files, server_files) = (pki.agent("asker"), pki.agent("server"));
    let mut session = controller.session();
    session.accept(1, 1);
    let people = vec![
        policy(),
        identity(&asker_files.uri, 1, &[]),
        identity(&server_files.uri, 2, &[CLASS]),
    ];
    session.snapshot(1, people);
    let address = router.addresses().listen;
    let mut asker = Instance::attach(&pki, &asker_files, address, "a");
    let doomed = Instance::attach(&pki, &server_files, address, "doomed");
    let mut other = Instance::attach(&pki, &server_files, address, "other");
    let (doomed_label, other_label) = (doomed.label, other.label);
    session.delta(vec![class_at(CLASS, 1), agent_at(asker.label, 1)], vec![]);

    doomed.vanish();
    let killed = Instant::now();
    let mut sequence = 0;
    // Traffic of many flows: half of them want the dead one until it is missed.
    while metric(&router, "router_peers{role=\"instance\"}") > 2.0 {
        let header = HeaderRepr {
            flow: u64::from(sequence) * 7919,
            ..request(sequence, CongestionAction::Drop)
        };
        asker.send(header, b"who is there?");
        other.turn(Duration::from_millis(1));
        sequence += 1;
        assert!(killed.elapsed() < Duration::from_secs(3), "not missed");
    }
    let down = session.hear_down();
    assert_eq!(down.label, doomed_label.bits());
    assert!(
        killed.elapsed() < Duration::from_secs(2),
        "{:?}",
        killed.elapsed()
    );

    // Everything goes to the other one now; what the dead one held was lost with it.
    other.received.clear();
    for n in 0..20 {
        let header = HeaderRepr {
            flow: n * 31,
            ..request(n as u32 + 1_000_000, CongestionAction::Drop)
        };
        asker.send(header, b"now?");
    }
    other.until("all of them", |i| {
        i.received
            .iter()
            .filter(|m| m.header.sequence >= 1_000_000)
            .count()
            == 20
    });
    assert_ne!(other_label, doomed_label);
}

#[test]
fn a_receiver_that_stands_still_blocks_its_sender_and_loses_nothing() {
    const MESSAGES: u32 = 600;
    const BYTES: usize = 60_000;
    let pki = Pki::new();
    let folder = tempfile::tempdir().unwrap();
    let mut controller = FakeController::start(&pki);
    let router = start_router(&pki, folder.path(), "r1", &[controller.address()]);
    let (asker_files, server_files) = (pki.agent("asker"), pki.agent("server"));
    let mut session = controller.session();
    session.accept(1, 1);
    let people = vec![
        policy(),
        identity(&asker_files.uri, 1, &[]),
        identity(&server_files.uri, 2, &[CLASS]),
    ];
    session.snapshot(1, people);
    let address = router.addresses().listen;
    let mut asker = Instance::attach(&pki, &asker_files, address, "a");
    let mut server = Instance::attach(&pki, &server_files, address, "s");
    session.delta(vec![class_at(CLASS, 1), agent_at(asker.label, 1)], vec![]);
    server.hold = true;

    let payload = vec![7; BYTES];
    let mut sent = 0;
    let mut blocked = false;
    while sent < MESSAGES
        || !server
            .received
            .iter()
            .any(|m| m.header.sequence == MESSAGES - 1)
    {
        if sent < MESSAGES && asker.lane_ready(request(0, CongestionAction::Block).class) {
            asker.send(request(sent, CongestionAction::Block), &payload);
            sent += 1;
        } else {
            asker.turn(Duration::from_millis(1));
        }
        // Acknowledges packets but takes nothing from its lanes until the sender was stopped.
        server.turn(Duration::ZERO);
        if server.hold && metric(&router, "router_lanes_blocked_total") >= 1.0 {
            blocked = true;
            server.release();
        }
    }
    assert!(blocked, "36 MB fit into windows and queues of less");
    let sequences: Vec<u32> = server.received.iter().map(|m| m.header.sequence).collect();
    assert_eq!(sequences, (0..MESSAGES).collect::<Vec<_>>());
    assert!(server.received.iter().all(|m| m.payload == payload));
    assert_eq!(
        metric(&router, "router_drops_total{reason=\"overloaded\"}"),
        0.0
    );
}

#[test]
fn a_neighbour_that_restarts_is_linked_again() {
    let pki = Pki::new();
    let folder = tempfile::tempdir().unwrap();
    let mut controller = FakeController::start(&pki);
    let (asker_files, server_files) = (pki.agent("asker"), pki.agent("server"));
    let people = [
        policy(),
        identity(&asker_files.uri, 1, &[]),
        identity(&server_files.uri, 2, &[CLASS]),
        class_at(CLASS, 2),
    ];
    let r1 = start_router(&pki, folder.path(), "r1", &[controller.address()]);
    let mut s1 = controller.session();
    let r2 = start_router(&pki, folder.path(), "r2", &[controller.address()]);
    let mut s2 = controller.session();
    let r2_address = r2.addresses().listen;
    s1.accept(1, 1);
    s2.accept(2, 1);
    s1.snapshot(
        1,
        [&people[..], &link_to(2, &r2_address.to_string(), true)].concat(),
    );
    s2.snapshot(1, [&people[..], &link_to(1, "", false)].concat());
    let alive = || metric(&r1, "router_links_alive");
    wait_until("linked", || alive() == 1.0);
    drop(r2);
    wait_until("missed", || alive() == 0.0);

    let mut asker = Instance::attach(&pki, &asker_files, r1.addresses().listen, "a");
    asker.send(request(0, CongestionAction::Drop), b"x");
    assert_eq!(
        asker.message().header.kind,
        Kind::Notice,
        "said, not swallowed"
    );

    // No controller speaks to the new one: it goes by its stored table.
    let dead = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let listen = r2_address.to_string();
    let _r2 = start_router_at(&pki, folder.path(), "r2", &[dead], &listen);
    wait_until("linked again", || alive() == 1.0);
    let mut server = Instance::attach(&pki, &server_files, r2_address, "s");
    asker.send(request(1, CongestionAction::Drop), b"there again?");
    assert_eq!(server.message().payload, b"there again?");
}
