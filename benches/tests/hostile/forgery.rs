//! Messages that claim to be another's, and priorities above the sender's own.

use caplane_wire::{CongestionAction, HeaderRepr, Kind, Label, Notice, NoticeCode, TrafficClass};

use crate::scene::{CLASS, Scene};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_sources_and_notices_are_dropped_and_counted_without_a_word() {
    let mut scene = Scene::set(1).await;
    let rogue = scene.rogue("rogue").await;
    let victim = scene.target();
    let right = rogue.header(victim, CLASS, 6);
    let sibling = Label::agent(rogue.label.agent_number(), rogue.label.instance() ^ 1);
    let sources = [
        victim,
        sibling.expect("another instance"),
        rogue.label.any_instance(),
        Label::NONE,
    ];
    let mut forged: Vec<HeaderRepr> = Vec::new();
    forged.extend(sources.map(|source_label| HeaderRepr {
        source_label,
        ..right
    }));
    forged.push(HeaderRepr {
        source_domain: rogue.domain + 1,
        ..right
    });
    for (number, header) in forged.into_iter().enumerate() {
        rogue.send(header, b"forged");
        scene.drops("forged_source", (number + 1) as f64).await;
    }

    // A notice that would make the victim believe that nobody can be reached.
    let offending = victim_header(&scene).to_bytes();
    let notice = Notice {
        code: NoticeCode::NoRoute,
        router: Label::router(1).expect("a router"),
        offending,
    };
    let header = HeaderRepr {
        kind: Kind::Notice,
        class: TrafficClass::NOTICE,
        ..rogue.header(victim, CLASS, notice.payload().len())
    };
    rogue.send(header, &notice.payload());
    scene.drops("forged_notice", 1.0).await;

    assert_eq!(scene.count("router_notices_total", &[]).await, 0.0);
    scene.serves("forgeries").await;
    // The same connection's right messages go on.
    scene.victim_got_nothing_but_from(&rogue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_priority_above_the_cap_is_lowered_in_the_header_and_counted() {
    let mut scene = Scene::set(1).await;
    let agent = scene
        .stage
        .fabric
        .issue_agent("shared", "eager")
        .expect("a certificate");
    let card = crate::stage::card("eager", "");
    let registered = scene
        .stage
        .fabric
        .register_agent(&agent, card.as_bytes(), |agent| {
            agent.priority_max = Some(2);
        });
    registered.await.expect("registered");
    let eager = scene.attach(&agent).await;

    let most = TrafficClass::new(TrafficClass::PRIORITY_MAX, CongestionAction::Block);
    let within = TrafficClass::new(2, CongestionAction::Block);
    for (number, class) in [most, within].into_iter().enumerate() {
        let header = HeaderRepr {
            sequence: number as u32,
            ..eager.header(scene.target(), class, 6)
        };
        eager.send(header, b"urgent");
        let got = scene.delivered().await;
        assert_eq!(got.header.class, within, "{:?}", got.header);
        assert_eq!(got.header.sequence, number as u32);
        assert_eq!(got.body, b"urgent");
        scene
            .counted("router_priority_capped_total", &[], 1.0)
            .await;
    }
    scene.serves("an eager sender").await;
}

/// What the victim might have sent.
fn victim_header(scene: &Scene) -> HeaderRepr {
    scene.victim.header(Label::from_bits(0x0010_0401), CLASS, 1)
}
