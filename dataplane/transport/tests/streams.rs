//! Broken senders, limits, back pressure, control frames and closes.

mod support;

use std::time::Duration;

use bytes::Bytes;
use caplane_transport::{CloseCause, DatagramRefused, Event, SendError};
use caplane_wire::{BULK_MESSAGE_MAX_DEFAULT, LANE_MESSAGE_MAX, StreamCode};
use support::*;

#[test]
fn a_lane_may_come_one_byte_at_a_time() {
    let mut pair = Pair::new(v4(), |_| {});
    let lane = pair.lane();
    let sent = [message(1, 64), message(2, 48), message(3, 300)];
    let mut bytes = sent
        .iter()
        .flatten()
        .copied()
        .collect::<Vec<_>>()
        .into_iter();
    let to_server = pair.to_server;
    pair.drive("three messages", |client, server| {
        if client.endpoint.acked(to_server)
            && let Some(byte) = bytes.next()
        {
            client
                .endpoint
                .send_lane(to_server, lane, vec![byte].into())
                .expect("send");
        }
        server.messages.len() == 3
    });
    for (got, expected) in pair.server.messages.iter().zip(&sent) {
        assert_eq!(&got.2, expected);
    }
}

fn lane_end(event: &Event) -> Option<(bool, Option<u64>)> {
    match event {
        Event::LaneEnd { partial, code, .. } => Some((*partial, *code)),
        _ => None,
    }
}

#[test]
fn a_sender_that_stops_mid_message_is_told_apart() {
    for (cut, reset, expected) in [
        (100, None, (true, None)),
        (200, None, (false, None)),
        (100, Some(0x100), (true, Some(0x100))),
    ] {
        let mut pair = Pair::new(v4(), |_| {});
        let lane = pair.lane();
        let to_server = pair.to_server;
        let whole = message(1, 200);
        pair.client
            .endpoint
            .send_lane(to_server, lane, whole.slice(..cut))
            .expect("send");
        pair.drive("what was sent is there", |client, _| {
            client.endpoint.acked(to_server)
        });
        match reset {
            Some(code) => pair.client.endpoint.reset_lane(to_server, lane, code),
            None => pair
                .client
                .endpoint
                .finish_lane(to_server, lane)
                .expect("finish"),
        }
        let mut end = None;
        pair.drive("the lane's end", |_, server| {
            end = end.or_else(|| server.take(lane_end));
            end.is_some()
        });
        assert_eq!(end, Some(expected));
        assert_eq!(
            pair.client
                .endpoint
                .send_lane(to_server, lane, whole.clone()),
            Err(SendError::Closed)
        );
        assert_eq!(pair.server.messages.len(), usize::from(cut == 200));
    }
}

#[test]
fn the_longest_message_passes_and_one_byte_more_ends_the_lane() {
    let mut pair = Pair::new(v4(), |_| {});
    let lane = pair.lane();
    let to_server = pair.to_server;
    // Enough to come to a slab's end, where lengths are looked at.
    for n in 0..8 {
        let longest = message(n, LANE_MESSAGE_MAX);
        pair.drive("room", |client, _| {
            client.endpoint.lane_ready(to_server, lane)
        });
        pair.client
            .endpoint
            .send_lane(to_server, lane, longest)
            .expect("send");
    }
    pair.drive("eight messages", |_, server| server.messages.len() == 8);
    assert_eq!(pair.server.endpoint.counters().copied_bytes, 0);
    let too_long = message(9, LANE_MESSAGE_MAX + 1);
    pair.client
        .endpoint
        .send_lane(to_server, lane, too_long)
        .expect("taken: the sender's transport does not look");
    // The owner of the receiving endpoint finds the fault first and refuses the stream.
    pair.drive("the bytes are there", |client, _| {
        client.endpoint.acked(to_server)
    });
    let (peer, lane) = (pair.to_client, pair.server.messages[0].1);
    pair.server
        .endpoint
        .reset_rx(peer, lane.stream_id(), StreamCode::TooLarge.number());
    let mut code = None;
    pair.drive("the sender is told", |client, _| {
        code = code.or_else(|| {
            client.take(|event| match event {
                Event::LaneStopped { code, .. } => Some(*code),
                _ => None,
            })
        });
        code.is_some()
    });
    assert_eq!(code, Some(StreamCode::TooLarge.number()));
}

/// Collects a bulk stream at a node.
fn take_bulk(node: &mut Node, into: &mut Vec<u8>) -> Option<Result<(), u64>> {
    while let Some((data, fin)) = node.take(|event| match event {
        Event::Bulk { data, fin, .. } => Some((data.clone(), *fin)),
        _ => None,
    }) {
        if into.is_empty() {
            assert!(data.len() >= 48, "the first chunk holds the header");
        }
        into.extend_from_slice(&data);
        if fin {
            return Some(Ok(()));
        }
    }
    node.take(|event| match event {
        Event::BulkReset { code, .. } => Some(Err(*code)),
        _ => None,
    })
}

#[test]
fn a_bulk_message_passes_through_in_chunks() {
    let mut pair = Pair::new(v4(), |_| {});
    let bulk = pair.bulk();
    let to_server = pair.to_server;
    let sent = message(3, 3_000_000);
    pair.client
        .endpoint
        .send_bulk(to_server, bulk, sent.clone(), true)
        .expect("send");
    let mut got = Vec::new();
    let mut end = None;
    pair.drive("the bulk message", |_, server| {
        end = end.or_else(|| take_bulk(server, &mut got));
        end.is_some()
    });
    assert_eq!(end, Some(Ok(())));
    assert_eq!(got, sent);
    assert_eq!(pair.server.endpoint.counters().copied_bytes, 0);
}

#[test]
fn bulk_streams_that_break_off_or_lie_about_their_length_are_reset() {
    // (bytes of a message of 100,000 that are sent, then what, the code)
    let long = message(1, 100_000);
    let mut past = long.to_vec();
    past.push(0);
    let too_large = message(1, BULK_MESSAGE_MAX_DEFAULT + 1).slice(..100);
    let cases: [(Bytes, Option<u64>, u64); 4] = [
        (long.slice(..50_000), Some(0x107), 0x107),
        (long.slice(..50_000), None, StreamCode::CutShort.number()),
        (past.into(), None, StreamCode::Malformed.number()),
        (too_large, None, StreamCode::TooLarge.number()),
    ];
    for (bytes, reset, expected) in cases {
        let mut pair = Pair::new(v4(), |_| {});
        let bulk = pair.bulk();
        let to_server = pair.to_server;
        pair.client
            .endpoint
            .send_bulk(to_server, bulk, bytes, reset.is_none())
            .expect("send");
        let mut end = None;
        let mut got = Vec::new();
        if let Some(code) = reset {
            pair.drive("sent", |client, _| client.endpoint.acked(to_server));
            pair.client.endpoint.reset_bulk(to_server, bulk, code);
        }
        pair.drive("the bulk stream's end", |_, server| {
            end = end.or_else(|| take_bulk(server, &mut got));
            end.is_some()
        });
        assert_eq!(end, Some(Err(expected)));
    }
}

#[test]
fn a_stop_is_told_though_bytes_still_wait() {
    let mut pair = Pair::new(v4(), |config| {
        config.stream_window = 64 << 10;
        config.connection_window = 64 << 10;
    });
    let (bulk, to_server, to_client) = (pair.bulk(), pair.to_server, pair.to_client);
    pair.client
        .endpoint
        .send_bulk(to_server, bulk, message(1, 1_000_000), true)
        .expect("send");
    let mut at_server = None;
    pair.drive("the bulk stream has begun", |_, server| {
        at_server = at_server.or_else(|| {
            server.take(|event| match event {
                Event::Bulk { bulk, .. } => Some(*bulk),
                _ => None,
            })
        });
        if let Some(bulk) = at_server {
            server.endpoint.pause_bulk(to_client, bulk);
        }
        at_server.is_some()
    });
    assert!(!pair.client.endpoint.bulk_ready(to_server, bulk));
    let stream = at_server.expect("begun").stream_id();
    pair.server.endpoint.reset_rx(to_client, stream, 0x106);
    let mut code = None;
    pair.drive("the sender is told", |client, _| {
        code = code.or_else(|| {
            client.take(|event| match event {
                Event::BulkStopped { code, .. } => Some(*code),
                _ => None,
            })
        });
        code.is_some()
    });
    assert_eq!(code, Some(0x106));
    pair.drive("nothing is owed", |client, _| {
        client.endpoint.acked(to_server)
    });
}

#[test]
fn a_paused_lane_holds_its_sender_back_and_nobody_else() {
    let mut pair = Pair::new(v4(), |config| {
        config.stream_window = 1 << 20;
        config.connection_window = 8 << 20;
    });
    let (held, free) = (pair.lane(), pair.lane());
    let to_server = pair.to_server;
    pair.server.hold = true;
    let mut sent = 0_u32;
    let big = message(0, 16_384);
    // The first bytes on the held lane make the server pause it; then it is filled until the window is used up.
    pair.drive("the window is used up", |client, _| {
        while client.endpoint.lane_ready(to_server, held) {
            client
                .endpoint
                .send_lane(to_server, held, big.clone())
                .expect("send");
            sent += 1;
        }
        sent >= 16 && client.endpoint.counters().packets_sent > 20
    });
    pair.server.hold = false;
    for n in 0..10 {
        pair.client
            .endpoint
            .send_lane(to_server, free, message(n, 100))
            .expect("send");
        pair.drive("room", |client, _| {
            client.endpoint.lane_ready(to_server, free)
        });
    }
    pair.drive("the free lane flows", |_, server| {
        server.messages.len() == 10
    });
    assert!(!pair.client.endpoint.lane_ready(to_server, held));
    // A window begins at 256 KiB: no more than that, what was read before the pause, and what waits at the sender can have
    // left.
    assert!(
        sent <= 40,
        "{sent} messages of 16 KiB against a window of 256 KiB"
    );

    let (peer, lane) = (pair.to_client, pair.server.held.expect("held"));
    pair.server.endpoint.resume(peer, lane);
    pair.drive("the held lane flows again", |_, server| {
        server.messages.len() == 10 + sent as usize
    });
}

#[test]
fn control_frames_arrive_whole_in_order_and_bounded() {
    let mut pair = Pair::new(v4(), |_| {});
    let (to_server, to_client) = (pair.to_server, pair.to_client);
    let max = caplane_wire::control::CONTROL_FRAME_MAX;
    let frames: Vec<Vec<u8>> = [0, 1, 127, 128, 20_000, max]
        .iter()
        .map(|length| vec![*length as u8; *length])
        .collect();
    for frame in &frames {
        pair.client
            .endpoint
            .send_control(to_server, frame)
            .expect("send");
    }
    assert_eq!(
        pair.client
            .endpoint
            .send_control(to_server, &vec![0; max + 1]),
        Err(SendError::TooLarge { max })
    );
    let mut got = Vec::new();
    let control = |event: &Event| match event {
        Event::Control { message, .. } => Some(message.clone()),
        _ => None,
    };
    pair.drive("all control frames", |_, server| {
        while let Some(message) = server.take(control) {
            got.push(message.to_vec());
        }
        got.len() == frames.len()
    });
    assert_eq!(got, frames);
    pair.server
        .endpoint
        .send_control(to_client, b"welcome")
        .expect("send");
    let mut answer = None;
    pair.drive("the answer", |client, _| {
        answer = client.take(control);
        answer.is_some()
    });
    assert_eq!(answer.as_deref(), Some(b"welcome".as_slice()));

    // A peer that does not read: the queue is bounded.
    let mut refused = None;
    for _ in 0..100 {
        if let Err(error) = pair.client.endpoint.send_control(to_server, &frames[5]) {
            refused = Some(error);
            break;
        }
    }
    assert_eq!(refused, Some(SendError::Full));
}

#[test]
fn a_control_frame_that_is_too_long_closes_the_connection() {
    let mut pair = Pair::with(v4(), |accepting, config| {
        if accepting {
            config.control_message_max = 10;
        }
    });
    let to_server = pair.to_server;
    pair.client
        .endpoint
        .send_control(to_server, &[0; 11])
        .expect("send");
    let mut end = None;
    pair.drive("closed", |client, _| {
        end = end.take().or_else(|| client.take(closed));
        end.is_some()
    });
    let (code, reason, by_peer, cause) = end.expect("closed");
    assert_eq!((code, by_peer, cause), (6, true, CloseCause::Application));
    assert!(reason.contains("control frame"), "{reason}");
}

fn closed(event: &Event) -> Option<(u64, String, bool, CloseCause)> {
    match event {
        Event::Closed {
            code,
            reason,
            by_peer,
            cause,
            ..
        } => Some((*code, reason.clone(), *by_peer, *cause)),
        _ => None,
    }
}

#[test]
fn a_close_tells_both_sides_its_code_and_reason() {
    let mut pair = Pair::new(v4(), |_| {});
    let to_server = pair.to_server;
    let lane = pair.lane();
    // What was sent and acknowledged before the close is delivered before the event of the close.
    pair.client
        .endpoint
        .send_lane(to_server, lane, message(1, 100))
        .expect("send");
    pair.drive("acknowledged", |client, _| client.endpoint.acked(to_server));
    pair.client.endpoint.close(to_server, 1, "done for today");
    assert_eq!(
        pair.client.take(closed),
        None,
        "events come from next_event only"
    );
    let (mut here, mut there) = (None, None);
    pair.drive("closed on both sides", |client, server| {
        here = here.take().or_else(|| client.take(closed));
        there = there.take().or_else(|| server.take(closed));
        here.is_some() && there.is_some()
    });
    let reason = || "done for today".to_owned();
    assert_eq!(here, Some((1, reason(), false, CloseCause::Application)));
    assert_eq!(there, Some((1, reason(), true, CloseCause::Application)));
    assert_eq!(pair.server.messages.len(), 1);
    assert_eq!(
        pair.client
            .endpoint
            .send_lane(to_server, lane, message(2, 100)),
        Err(SendError::Gone)
    );
    assert!(pair.client.endpoint.peer_uri(to_server).is_none());
    assert_eq!(pair.client.endpoint.peers().count(), 0);
}

#[test]
fn a_peer_that_owes_an_acknowledgement_and_is_silent_is_given_up_soon() {
    let mut pair = Pair::new(v4(), |config| {
        config.silence = Some(Duration::from_millis(300));
    });
    let lane = pair.lane();
    let to_server = pair.to_server;
    pair.drive("the lane's preface is acknowledged", |client, _| {
        client.endpoint.acked(to_server)
    });
    pair.client
        .endpoint
        .send_lane(to_server, lane, message(1, 100))
        .expect("send");
    // The server is not driven any more: it is as good as dead.
    let started = std::time::Instant::now();
    let mut end = None;
    drive([&mut pair.client], "given up", |[client]| {
        end = end.take().or_else(|| client.take(closed));
        end.is_some()
    });
    let (_, reason, by_peer, cause) = end.expect("closed");
    assert_eq!((by_peer, cause), (false, CloseCause::IdleTimeout));
    assert!(reason.contains("silent"), "{reason}");
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[test]
fn an_idle_connection_lives_by_keepalive_and_dies_without() {
    for keepalive in [Some(Duration::from_millis(100)), None] {
        let mut pair = Pair::new(v4(), |config| {
            config.idle_timeout = Duration::from_millis(300);
            config.keepalive = keepalive;
        });
        let until = std::time::Instant::now() + Duration::from_millis(900);
        let mut end = None;
        pair.drive("a while", |client, _| {
            end = end.take().or_else(|| client.take(closed));
            std::time::Instant::now() > until
        });
        match keepalive {
            Some(_) => assert_eq!(end, None),
            None => assert_eq!(end.map(|end| end.3), Some(CloseCause::IdleTimeout)),
        }
    }
}

#[test]
fn keepalives_follow_the_shorter_idle_timeout_of_both_sides() {
    let mut pair = Pair::with(v4(), |accepting, config| match accepting {
        true => config.idle_timeout = Duration::from_millis(400),
        false => config.keepalive = Some(Duration::from_secs(15)),
    });
    let until = std::time::Instant::now() + Duration::from_millis(1_200);
    let mut end = None;
    pair.drive("three of the server's idle timeouts", |client, server| {
        end = end.take().or_else(|| client.take(closed));
        end = end.take().or_else(|| server.take(closed));
        std::time::Instant::now() > until
    });
    assert_eq!(end, None);
}

#[test]
fn datagrams_are_bounded_counted_and_delivered() {
    let mut pair = Pair::new(v4(), |config| config.datagram_queue_max = 8);
    let to_server = pair.to_server;
    let datagram = |event: &Event| match event {
        Event::Datagram { data, .. } => Some(data.len()),
        _ => None,
    };
    let max = pair.client.endpoint.datagram_max(to_server);
    assert!(max > 1_100);
    assert!(matches!(
        pair.client.endpoint.send_datagram(to_server, vec![0; 20_000]),
        Err(DatagramRefused::TooLarge { max }) if max < 16_384
    ));
    let mut taken = 0;
    let full = loop {
        match pair.client.endpoint.send_datagram(to_server, vec![7; max]) {
            Ok(()) => taken += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!((full, taken), (DatagramRefused::QueueFull, 8));
    let mut got = Vec::new();
    pair.drive("eight datagrams", |_, server| {
        while let Some(length) = server.take(datagram) {
            got.push(length);
        }
        got.len() == 8
    });
    assert!(got.iter().all(|length| *length == max));
    let counters = pair.client.endpoint.counters();
    assert_eq!(
        (
            counters.datagrams_sent,
            counters.datagrams_too_large,
            counters.datagrams_queue_full
        ),
        (8, 1, 1)
    );
}

#[test]
fn refused_streams_do_not_use_up_the_peers_credit() {
    let mut pair = Pair::new(v4(), |_| {});
    let (to_server, to_client) = (pair.to_server, pair.to_client);
    let part = message(1, 100_000).slice(..2_000);
    // More than a peer may have open at a time (256): every one has to be let go of.
    for n in 0..300 {
        let mut opened = None;
        pair.drive("credit for one more stream", |client, _| {
            opened = client.endpoint.open_bulk(to_server, CLASS).ok();
            opened.is_some()
        });
        let bulk = opened.expect("just seen");
        pair.client
            .endpoint
            .send_bulk(to_server, bulk, part.clone(), false)
            .expect("send");
        let mut refused = None;
        pair.drive("its first bytes", |_, server| {
            refused = refused.or_else(|| {
                server.take(|event| match event {
                    Event::Bulk { bulk, .. } => Some(*bulk),
                    _ => None,
                })
            });
            refused.is_some()
        });
        let stream = refused.expect("just seen").stream_id();
        pair.server
            .endpoint
            .reset_rx(to_client, stream, StreamCode::Overloaded.number());
        if n >= 64 {
            // It is not told to stop any more: it ends by itself.
            pair.client.endpoint.reset_bulk(to_server, bulk, 0x100);
        }
    }
}
