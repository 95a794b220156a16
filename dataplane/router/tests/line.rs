//! Two routers in a line under a fake controller, and bare endpoints as instances: a
//! message finds an agent by its class, on every carrier, and the answer finds the asker.

mod support;

use caplane_proto::v1;
use caplane_proto::v1::control_frame::Frame;
use caplane_router::{Ended, Router};
use caplane_wire::{
    CloseCode, CongestionAction, HeaderRepr, Kind, Label, Notice, NoticeCode, TrafficClass,
};
use support::controller::{FakeController, Session};
use support::instance::Instance;
use support::pki::{Files, Pki};
use support::tables::{agent_at, class_at, identity, identity_key, link_to, policy};
use support::{metric, start_router, wait_until};

const CLASS: &str = "class:7.12";

/// Asker at router 1, server of [`CLASS`] at router 2.
struct Line {
    r1: Router,
    r2: Router,
    _s1: Session,
    s2: Session,
    asker: Instance,
    server: Instance,
    asker_files: Files,
    server_files: Files,
    pki: Pki,
    _controller: FakeController,
    _folder: tempfile::TempDir,
}

impl Line {
    fn start() -> Self {
        let pki = Pki::new();
        let folder = tempfile::tempdir().unwrap();
        let mut controller = FakeController::start(&pki);
        let (asker_files, server_files) = (pki.agent("asker"), pki.agent("server"));
        let r1 = start_router(&pki, folder.path(), "r1", &[controller.address()]);
        let mut s1 = controller.session();
        let r2 = start_router(&pki, folder.path(), "r2", &[controller.address()]);
        let mut s2 = controller.session();
        let people = [
            policy(),
            identity(&asker_files.uri, 1, &[]),
            identity(&server_files.uri, 2, &[CLASS]),
        ];
        s1.accept(1, 1);
        s2.accept(2, 1);
        let r2_address = r2.addresses().listen.to_string();
        s1.snapshot(1, [&people[..], &link_to(2, &r2_address, true)].concat());
        s2.snapshot(1, [&people[..], &link_to(1, "", false)].concat());
        let asker = Instance::attach(&pki, &asker_files, r1.addresses().listen, "asker-1");
        let server = Instance::attach(&pki, &server_files, r2.addresses().listen, "server-1");
        assert_eq!(s1.hear_up().label, asker.label.bits());
        assert_eq!(s2.hear_up().label, server.label.bits());
        let routes = vec![
            class_at(CLASS, 2),
            agent_at(asker.label, 1),
            agent_at(server.label, 2),
        ];
        s1.delta(routes.clone(), vec![]);
        s2.delta(routes, vec![]);
        wait_until("the link is up on both sides", || {
            metric(&r1, "router_links_alive") == 1.0 && metric(&r2, "router_links_alive") == 1.0
        });
        Self {
            r1,
            r2,
            _s1: s1,
            s2,
            asker,
            server,
            asker_files,
            server_files,
            pki,
            _controller: controller,
            _folder: folder,
        }
    }

    fn ended(router: &mut Router) -> Ended {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(router.ended())
    }
}

fn request(sequence: u32) -> HeaderRepr {
    HeaderRepr {
        class: TrafficClass::new(3, CongestionAction::Drop),
        requested_label: CLASS.parse().unwrap(),
        flow: 42,
        sequence,
        ..HeaderRepr::default()
    }
}

#[test]
fn a_request_by_class_is_answered_across_two_routers() {
    let mut line = Line::start();
    line.asker.send(request(0), b"convert 1 EUR");
    let got = line.server.message();
    assert_eq!(
        (got.carrier, &got.payload[..]),
        ("lane", &b"convert 1 EUR"[..])
    );
    assert_eq!(got.header.source_label, line.asker.label);
    assert_eq!(got.header.requested_label, CLASS.parse().unwrap());
    assert_eq!(got.header.hop_limit, caplane_wire::HOP_LIMIT_DEFAULT - 1);

    let reply = HeaderRepr {
        requested_label: got.header.source_label,
        ..got.header
    };
    line.server.send(reply, b"1.08 USD");
    let answer = line.asker.message();
    assert_eq!(answer.payload, b"1.08 USD");
    assert_eq!((answer.header.flow, answer.header.sequence), (42, 0));
    assert_eq!(answer.header.source_label, line.server.label);

    line.asker.send_datagram(request(1), b"by datagram");
    assert_eq!(line.server.message().carrier, "datagram");
    for router in [&line.r1, &line.r2] {
        assert_eq!(metric(router, "router_messages_forwarded_total"), 3.0);
        assert_eq!(metric(router, "router_copied_bytes_total"), 0.0);
        assert_eq!(metric(router, "router_table_stale"), 0.0);
    }
}

#[test]
fn a_bulk_message_passes_cut_through_and_a_cut_one_is_counted() {
    let mut line = Line::start();
    let payload: Vec<u8> = (0..3_000_000u32).map(|n| (n * 31 % 251) as u8).collect();
    std::thread::scope(|scope| {
        let server = &mut line.server;
        let receiving = scope.spawn(move || server.message());
        line.asker.send_bulk(request(0), &payload);
        while !receiving.is_finished() {
            line.asker.turn(std::time::Duration::from_millis(1));
        }
        let got = receiving.join().unwrap();
        assert_eq!(got.carrier, "bulk");
        assert!(got.payload == payload, "the bytes differ");
    });
    let begun = line.asker.begin_bulk(request(1), &payload, 100_000);
    // A reset that overtakes the head would leave nothing to count.
    wait_until("both routers are at it", || {
        line.asker.turn(std::time::Duration::ZERO);
        metric(&line.r1, "router_bulk_active") == 1.0
            && metric(&line.r2, "router_bulk_active") == 1.0
    });
    line.asker.cut_bulk(begun);
    let cut = "router_drops_total{reason=\"cut_short\"}";
    wait_until("both routers counted the cut", || {
        line.asker.turn(std::time::Duration::ZERO);
        line.server.turn(std::time::Duration::ZERO);
        metric(&line.r1, cut) == 1.0 && metric(&line.r2, cut) == 1.0
    });
    wait_until("nothing is under way any more", || {
        line.server.turn(std::time::Duration::ZERO);
        metric(&line.r1, "router_bulk_active") == 0.0
            && metric(&line.r2, "router_bulk_active") == 0.0
    });
}

#[test]
fn a_withdrawn_identity_is_closed_and_its_class_is_noticed_as_unreachable() {
    let mut line = Line::start();
    let gone = vec![identity_key(&line.server_files.uri)];
    line.s2.delta(vec![], gone);
    let bye = line.server.bye();
    assert_eq!(bye.code(), v1::ByeCode::Withdrawn);
    assert_eq!(
        line.server.closed.as_ref().unwrap().0,
        CloseCode::Withdrawn.number()
    );
    assert_eq!(line.s2.hear_down().label, line.server.label.bits());

    line.asker.send(request(7), b"anybody?");
    let notice = line.asker.message();
    assert_eq!(notice.header.kind, Kind::Notice);
    assert_eq!((notice.header.flow, notice.header.sequence), (42, 7));
    let notice = Notice::parse(&notice.payload).unwrap();
    assert!(
        matches!(notice.code, NoticeCode::Unreachable | NoticeCode::NoRoute),
        "{notice:?}"
    );
    assert_eq!(notice.router, Label::router(2).unwrap());
    assert_eq!(
        metric(&line.r2, "router_byes_total{code=\"withdrawn\"}"),
        1.0
    );
}

#[test]
fn a_drained_router_says_so_sends_what_it_holds_and_ends() {
    let mut line = Line::start();
    line.asker.send(request(0), b"last words");
    assert_eq!(line.server.message().payload, b"last words");
    line.r2.drain();
    line.server.frame("Drain", |frame| match frame {
        Frame::Drain(drain) => Some(drain.period_ms),
        _ => None,
    });
    // Nobody new is taken meanwhile.
    let address = line.r2.addresses().listen;
    let mut late = Instance::dial(&line.pki, &line.asker_files, address, "late");
    let bye = std::thread::scope(|scope| {
        let server = &mut line.server;
        let waiting = scope.spawn(move || server.bye());
        assert_eq!(late.bye().code(), v1::ByeCode::Drained);
        waiting.join().unwrap()
    });
    assert_eq!(bye.code(), v1::ByeCode::Drained);
    assert!(matches!(Line::ended(&mut line.r2), Ended::Asked));
    wait_until("the neighbour took the link down", || {
        metric(&line.r1, "router_links_alive") == 0.0
    });
}
