//! Bytes that are no message, no stream and no control frame.

use caplane_proto::v1;
use caplane_proto::v1::control_frame::Frame;
use caplane_wire::{
    CloseCode, Flags, HeaderRepr, Kind, Label, NoticeCode, Preface, StreamCode, StreamKind,
    TrafficClass,
};

use crate::peer::Peer;
use crate::scene::{CLASS, Scene};

/// Byte 0 of a header: version and kind.
const VERSION_KIND: usize = 0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_cannot_be_understood_is_stopped_and_the_connection_stays() {
    let mut scene = Scene::set(1).await;
    let rogue = scene.rogue("rogue").await;
    let header = rogue.header(scene.target(), CLASS, 5);
    let right = [&header.to_bytes()[..], b"right"].concat();
    let mut version = right.clone();
    version[VERSION_KIND] = 0x20;
    let mut kind = right.clone();
    kind[VERSION_KIND] = 0x1F;
    let class = HeaderRepr {
        class: TrafficClass::from_bits(CLASS.bits() ^ 0x20),
        ..header
    };
    let class = [&class.to_bytes()[..], b"class"].concat();
    let wrong = [("a version", version), ("a kind", kind), ("a class", class)];
    for (number, (what, wrong)) in wrong.into_iter().enumerate() {
        // What was complete before it arrives; what follows it does not.
        let lane = rogue.open_with(StreamKind::Lane, CLASS);
        rogue.write(lane, &[&right[..], &wrong, &right].concat(), false);
        let code = rogue.stopped(lane).await;
        assert_eq!(code, StreamCode::Malformed.number(), "{what}");
        scene.drops("malformed", (number + 1) as f64).await;
        assert_eq!(scene.delivered().await.body, b"right", "before {what}");
        scene.serves(what).await;
    }

    let prefaces: [(&str, &[u8]); 3] = [
        ("magic", b"CPL2\x01\x80\0\0"),
        ("a stream kind", b"CPL1\x03\x80\0\0"),
        ("another protocol", b"GET / HTTP/1.1\r\n\r\n"),
    ];
    for (number, (what, preface)) in prefaces.into_iter().enumerate() {
        let stream = rogue.open();
        rogue.write(stream, &[preface, &right].concat(), false);
        let code = rogue.stopped(stream).await;
        assert_eq!(code, StreamCode::Malformed.number(), "{what}");
        scene
            .counted("router_streams_refused_total", &[], (number + 1) as f64)
            .await;
        scene.serves(what).await;
    }
    scene.victim_got_nothing_but_from(&rogue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_with_a_wrong_extension_or_label_is_dropped_noticed_and_the_lane_goes_on() {
    let mut scene = Scene::set(1).await;
    let rogue = scene.rogue("rogue").await;
    let deadline = Flags::default().with(Flags::DEADLINE);
    let later = [1, 0, 8, 0xFF, 0, 0, 0, 0, 0, 0, 0];
    let cases: [(&str, &[u8]); 6] = [
        ("an unknown type that must be understood", &[0xFF, 0, 0]),
        ("a deadline flag without the extension", &[0x7F, 0, 0]),
        ("an item past the end", &[1, 0, 8, 0, 0]),
        ("half an item head", &[1, 0]),
        ("a deadline of another length", &[1, 0, 1, 0]),
        ("a deadline twice", &[later, later].concat()),
    ];
    let lane = rogue.open_with(StreamKind::Lane, CLASS);
    let mut sent = 0;
    for (what, extensions) in cases {
        let must = if what.starts_with("an unknown") {
            [&later[..], extensions].concat()
        } else {
            extensions.to_vec()
        };
        let header = HeaderRepr {
            flags: deadline,
            extension_len: must.len() as u16,
            sequence: sent,
            ..rogue.header(scene.target(), CLASS, 3)
        };
        rogue.write(
            lane,
            &[&header.to_bytes()[..], &must, b"tlv"].concat(),
            false,
        );
        sent += 1;
        let notice = rogue.notice().await;
        assert_eq!(notice.code, NoticeCode::Malformed, "{what}");
        assert_eq!(notice.offending().sequence(), header.sequence, "{what}");
        scene.drops("malformed", f64::from(sent)).await;
    }
    for requested in [Label::NONE, Label::router(1).expect("a router")] {
        let header = HeaderRepr {
            sequence: sent,
            ..rogue.header(requested, CLASS, 3)
        };
        rogue.write(lane, &[&header.to_bytes()[..], b"dst"].concat(), false);
        sent += 1;
        assert_eq!(rogue.notice().await.code, NoticeCode::Malformed);
        scene.drops("malformed", f64::from(sent)).await;
    }
    // An unknown one that may be skipped does no harm on the same lane.
    let skipped = [&later[..], &[0x7F, 0, 1, 9]].concat();
    let header = HeaderRepr {
        flags: deadline,
        extension_len: skipped.len() as u16,
        ..rogue.header(scene.target(), CLASS, 4)
    };
    rogue.write(
        lane,
        &[&header.to_bytes()[..], &skipped, b"fine"].concat(),
        false,
    );
    assert_eq!(
        scene.delivered().await.body,
        [&skipped[..], b"fine"].concat()
    );
    scene.serves("wrong extensions").await;
    scene.victim_got_nothing_but_from(&rogue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_breaks_the_control_stream_is_let_go_with_protocol() {
    let mut scene = Scene::set(1).await;
    let honest = scene.rogue("honest").await;
    type Deed = fn(&Peer);
    let deeds: [(&str, Deed); 9] = [
        ("garbage in a frame", |p| {
            p.control_frame(&[0x0A, 0xFF, 0xFF])
        }),
        ("no protobuf", |p| p.control_frame(b"GET / HTTP/1.1")),
        ("a frame past 128 KiB", |p| {
            p.write(0, &[0x81, 0x80, 0x08], false)
        }),
        ("a length of four bytes", |p| {
            p.write(0, &[0x80, 0x80, 0x80, 1], false)
        }),
        ("a second Hello", |p| p.hello("one")),
        ("a router's frame", |p| {
            p.say(Frame::Welcome(v1::Welcome::default()))
        }),
        ("another router's frame", |p| {
            p.say(Frame::Resolved(v1::Resolved::default()))
        }),
        ("a probe", |p| {
            p.say(Frame::Probe(v1::Probe {
                sequence: 1,
                echo: false,
            }));
        }),
        ("the end of the control stream", |p| p.write(0, &[], true)),
    ];
    for (number, (what, deed)) in deeds.into_iter().enumerate() {
        let rogue = scene.rogue(&format!("rogue{number}")).await;
        deed(&rogue);
        let end = rogue.end().await;
        assert!(end.application, "{what}: {end:?}");
        assert_eq!(end.code, CloseCode::Protocol.number(), "{what}: {end:?}");
        assert!(!end.reason.is_empty(), "{what}: why?");
        scene
            .counted(
                "router_byes_total",
                &[("code", "protocol")],
                (number + 1) as f64,
            )
            .await;
        scene.serves(what).await;
    }
    scene.victim_got_nothing_but_from(&honest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_taken_before_hello_and_silence_is_not_borne() {
    let mut scene = Scene::set(1).await;
    let honest = scene.rogue("honest").await;
    let identity = scene.stage.register("shared", "early", "", 0).await;
    scene.stage.fabric.wait_live().await.expect("live");
    let (chain, key) = crate::scene::pem(&identity);
    let target = scene.target();
    let refused = StreamCode::Refused.number();

    let early = Peer::dial(scene.entry(), Some((&chain, &key))).await;
    early.established().await;
    let header = early.header(target, CLASS, 5);
    let lane = early.send(header, b"early");
    assert_eq!(early.stopped(lane).await, refused);
    scene.drops("unknown_peer", 1.0).await;
    let bulk = early.open_with(StreamKind::Bulk, CLASS);
    early.write(bulk, &[&header.to_bytes()[..], b"earl"].concat(), false);
    assert_eq!(early.stopped(bulk).await, refused);
    scene.drops("unknown_peer", 2.0).await;
    early.datagram(&[&header.to_bytes()[..], b"early"].concat());
    scene.drops("unknown_peer", 3.0).await;
    scene
        .serves("a lane, a bulk stream and a datagram before Hello")
        .await;

    // There is no control stream that a Bye could be said on.
    let end = early.end().await;
    assert_eq!(end.code, CloseCode::Protocol.number(), "{end:?}");
    assert!(end.reason.contains("Hello"), "{end:?}");
    scene
        .counted("router_byes_total", &[("code", "protocol")], 1.0)
        .await;

    let asking = Peer::dial(scene.entry(), Some((&chain, &key))).await;
    asking.say(Frame::Resolve(v1::Resolve::default()));
    let bye = asking.bye().await;
    assert_eq!(bye.code(), v1::ByeCode::Protocol, "{bye:?}");
    assert!(bye.reason.contains("Hello"), "{bye:?}");
    scene
        .counted("router_byes_total", &[("code", "protocol")], 2.0)
        .await;
    scene.serves("a question before Hello").await;
    scene.victim_got_nothing_but_from(&honest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_to_be_ignored_is_ignored() {
    let mut scene = Scene::set(1).await;
    let rogue = scene.rogue("rogue").await;
    // A frame without content, one of a kind of the future, and an unknown field beside a known frame (WF-110).
    rogue.control_frame(&[]);
    rogue.control_frame(&[0xFA, 0x01, 2, 0xCA, 0xFE]);
    let resolve = v1::ControlFrame {
        frame: Some(Frame::Resolve(v1::Resolve {
            query_id: 9,
            target: Some(v1::resolve::Target::Path("no/such/class".to_owned())),
            limit: 0,
            ..v1::Resolve::default()
        })),
    };
    let resolve = prost::Message::encode_to_vec(&resolve);
    rogue.control_frame(&[&resolve[..], &[0xFA, 0x01, 1, 0]].concat());
    let answer = rogue.frame("Resolved", |frame| match frame {
        Frame::Resolved(resolved) => Some(resolved.clone()),
        _ => None,
    });
    assert_eq!(answer.await.query_id, 9);

    // Reserved bits and bytes are passed on or cleared (WF-21).
    let lane = rogue.open();
    let mut preface = Preface {
        kind: StreamKind::Lane,
        class: CLASS,
    }
    .to_bytes();
    preface[6..].fill(0xFF);
    let mut header = rogue.header(scene.target(), CLASS, 3).to_bytes();
    header[1] |= 0x0F;
    header[3] |= 0x07;
    header[46..].fill(0xFF);
    rogue.write(lane, &[&preface[..], &header, b"odd"].concat(), false);
    assert_eq!(scene.delivered().await.body, b"odd");

    // Datagrams that are no message, or more than one, are dropped and counted (WF-70).
    let header = rogue.header(scene.target(), CLASS, 3);
    let whole = [&header.to_bytes()[..], b"one"].concat();
    let more = [&whole[..], b"more"].concat();
    let datagrams = [&whole[..20], &whole[..50], &more];
    for (number, datagram) in datagrams.into_iter().enumerate() {
        rogue.datagram(datagram);
        scene.drops("malformed", (number + 1) as f64).await;
    }
    // A probe goes where data would, a receipt too.
    for kind in [Kind::Probe, Kind::Receipt] {
        let header = HeaderRepr {
            kind,
            flags: Flags::NONE,
            ..rogue.header(scene.target(), CLASS, 0)
        };
        rogue.send(header, b"");
        assert_eq!(scene.delivered().await.header.kind, kind);
    }
    // There is credit for the control stream and no second one.
    assert_eq!(rogue.bidirectional_credit(), 0);
    assert_eq!(scene.count("router_byes_total", &[]).await, 0.0);
    scene.serves("oddities").await;
    scene.victim_got_nothing_but_from(&rogue).await;
}
