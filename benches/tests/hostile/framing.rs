//! Messages that come in pieces, half, or too long.

use caplane_wire::{HEADER_LEN, LANE_MESSAGE_MAX, NoticeCode, StreamCode, StreamKind};

use crate::scene::{CLASS, Scene};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_dies_inside_a_message_leaves_no_half_of_it() {
    let mut scene = Scene::set(2).await;
    let honest = scene.rogue("honest").await;
    let doomed = scene.rogue("doomed").await;
    scene.stage.settled(5).await;
    let header = doomed.header(scene.target(), CLASS, 1_000);
    let lane = doomed.open_with(StreamKind::Lane, CLASS);
    let whole = [&header.to_bytes()[..], &[1; 1_000]].concat();
    let half = [&header.to_bytes()[..], &[2; 500]].concat();
    doomed.deliver(lane, &[whole, half].concat()).await;
    let bulk = doomed.open_with(StreamKind::Bulk, CLASS);
    let long = doomed.header(scene.target(), CLASS, 1_000_000);
    let begun = [&long.to_bytes()[..], &[3; 200_000]].concat();
    doomed.deliver(bulk, &begun).await;
    let arriving = scene.victim.bulk_begun(HEADER_LEN + 100_000).await;

    let label = doomed.label;
    doomed.vanish().await;
    // Whoever owes an acknowledgement and is silent is gone.
    honest.send(honest.header(label, CLASS, 4), b"dead");
    scene.drops("cut_short", 2.0).await;
    let code = scene.victim.was_reset(arriving).await;
    assert_eq!(code, StreamCode::CutShort.number());
    let got = scene.delivered().await;
    assert_eq!(got.body, [1; 1_000], "the whole one arrived");
    scene.serves("a death").await;
    scene.victim_got_nothing_but_from(&honest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_come_one_by_one_are_a_message_all_the_same() {
    let mut scene = Scene::set(2).await;
    let slow = scene.rogue("slow").await;
    let lane = slow.open();
    let header = slow.header(scene.target(), CLASS, 5);
    let preface = caplane_wire::Preface {
        kind: StreamKind::Lane,
        class: CLASS,
    };
    let message = [&header.to_bytes()[..], b"drops"].concat();
    for byte in [&preface.to_bytes()[..], &message, &message].concat() {
        slow.deliver(lane, &[byte]).await;
    }
    for _ in 0..2 {
        let got = scene.delivered().await;
        assert_eq!(got.body, b"drops");
        assert_eq!(got.header.payload_len, 5);
    }
    assert_eq!(scene.count("router_drops_total", &[]).await, 0.0);
    // What stands between two messages may be an end.
    slow.write(lane, &[], true);
    scene.serves("a slow sender").await;
    assert_eq!(scene.count("router_drops_total", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_cut_inside_a_message_is_counted_and_a_bulk_reset_is_passed_on() {
    let mut scene = Scene::set(2).await;
    let rogue = scene.rogue("rogue").await;
    let header = rogue.header(scene.target(), CLASS, 1_000);
    let half = [&header.to_bytes()[..], &[1; 500]].concat();

    let lane = rogue.open_with(StreamKind::Lane, CLASS);
    rogue.write(lane, &half, true);
    scene.drops("cut_short", 1.0).await;
    let lane = rogue.open_with(StreamKind::Lane, CLASS);
    rogue.deliver(lane, &half).await;
    rogue.reset(lane, StreamCode::CutShort.number());
    scene.drops("cut_short", 2.0).await;

    // Reset half way.
    let long = rogue.header(scene.target(), CLASS, 1_000_000);
    let begun = [&long.to_bytes()[..], &[3; 400_000]].concat();
    let bulk = rogue.open_with(StreamKind::Bulk, CLASS);
    rogue.deliver(bulk, &begun).await;
    let arriving = scene.victim.bulk_begun(HEADER_LEN + 1).await;
    rogue.reset(bulk, StreamCode::CutShort.number());
    let code = scene.victim.was_reset(arriving).await;
    assert_eq!(code, StreamCode::CutShort.number());
    scene.drops("cut_short", 3.0).await;

    // FIN half way is a cut as well; the receiver never takes it for the end.
    let bulk = rogue.open_with(StreamKind::Bulk, CLASS);
    rogue.deliver(bulk, &begun).await;
    let arriving = scene.victim.bulk_begun(HEADER_LEN + 1).await;
    rogue.write(bulk, &[], true);
    let code = scene.victim.was_reset(arriving).await;
    assert_eq!(code, StreamCode::CutShort.number());
    scene.drops("cut_short", 4.0).await;

    scene.serves("cut streams").await;
    scene.victim_got_nothing_but_from(&rogue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_message_has_65_536_bytes_and_not_one_more() {
    let mut scene = Scene::set(2).await;
    let rogue = scene.rogue("rogue").await;
    let most = LANE_MESSAGE_MAX - HEADER_LEN;
    assert_eq!(LANE_MESSAGE_MAX, 65_536);
    let body: Vec<u8> = (0..=most).map(|n| n as u8).collect();

    let header = rogue.header(scene.target(), CLASS, most);
    let lane = rogue.send(header, &body[..most]);
    let got = scene.delivered().await;
    assert_eq!(got.body, body[..most]);
    assert_eq!(got.carrier, StreamKind::Lane);

    // One more, on the same lane: the lane is stopped, the sender told.
    let header = rogue.header(scene.target(), CLASS, most + 1);
    rogue.write(lane, &[&header.to_bytes()[..], &body].concat(), false);
    assert_eq!(rogue.stopped(lane).await, StreamCode::TooLarge.number());
    let notice = rogue.notice().await;
    assert_eq!(notice.code, NoticeCode::TooLarge);
    scene.drops("too_large", 1.0).await;

    // One more takes a bulk stream.
    let bulk = rogue.open_with(StreamKind::Bulk, CLASS);
    rogue.write(bulk, &[&header.to_bytes()[..], &body].concat(), true);
    let got = scene.delivered().await;
    assert_eq!(got.body, body);
    assert_eq!(got.carrier, StreamKind::Bulk);

    // A bulk message above its own limit, and one with bytes after its end.
    let header = rogue.header(scene.target(), CLASS, 16 * 1024 * 1024);
    let bulk = rogue.open_with(StreamKind::Bulk, CLASS);
    rogue.write(bulk, &header.to_bytes(), false);
    assert_eq!(rogue.stopped(bulk).await, StreamCode::TooLarge.number());
    let header = rogue.header(scene.target(), CLASS, 10);
    let bulk = rogue.open_with(StreamKind::Bulk, CLASS);
    rogue.write(bulk, &[&header.to_bytes()[..], &[0; 11]].concat(), false);
    assert_eq!(rogue.stopped(bulk).await, StreamCode::Malformed.number());
    scene
        .counted("router_streams_refused_total", &[], 2.0)
        .await;

    scene.serves("limits passed by one").await;
    scene.victim_got_nothing_but_from(&rogue).await;
}
