//! The two handshakes under real threads: nothing is lost, nobody sleeps through his bell.

mod orders;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use super::*;

/// Ports whose bells are channels: a sleeper waits for his.
fn belled(workers: usize) -> Vec<(Port, Receiver<()>)> {
    let (bells, ears): (Vec<Bell>, Vec<_>) = (0..workers)
        .map(|_| {
            let (sender, receiver) = channel();
            let bell: Bell = Box::new(move || {
                let _ = sender.send(());
            });
            (bell, receiver)
        })
        .unzip();
    ports(bells, 8).into_iter().zip(ears).collect()
}

fn sleep(port: &Port, ear: &Receiver<()>) {
    if port.may_sleep() {
        match ear.recv_timeout(Duration::from_secs(20)) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => panic!("slept through"),
            Err(RecvTimeoutError::Disconnected) => unreachable!("the exchange holds the bell"),
        }
    }
    port.awake();
}

fn piece(id: u32, bytes: usize) -> Handed {
    Handed::Bulk(BulkStep::Piece {
        id,
        data: Bytes::from(vec![0; bytes]),
        fin: false,
    })
}

fn number(handed: &Handed) -> u32 {
    match handed {
        Handed::Bulk(BulkStep::Piece { id, .. }) => *id,
        other => panic!("{other:?}"),
    }
}

/// A giver that sleeps when the ring is full and a taker that sleeps when it is empty: whoever missed the other's word
/// would sleep for ever. Every interleaving that matters comes up in 200,000 handovers.
#[test]
fn giver_and_taker_never_sleep_through_each_other() {
    const COUNT: u32 = 200_000;
    let mut ports = belled(2).into_iter();
    let (mut giver, giver_ear) = ports.next().unwrap();
    let (taker, taker_ear) = ports.next().unwrap();
    let giving = std::thread::spawn(move || {
        let mut next = 0;
        while next < COUNT {
            while next < COUNT && giver.room(1) {
                giver
                    .give(1, piece(next, 1 + (next as usize % 2_000)))
                    .unwrap();
                next += 1;
                if next.is_multiple_of(7) {
                    giver.ring_bells();
                }
            }
            giver.ring_bells();
            if next < COUNT {
                sleep(&giver, &giver_ear);
            }
        }
    });
    let mut expected = 0;
    while expected < COUNT {
        taker.take(|from, handed| {
            assert_eq!((from, number(&handed)), (0, expected));
            expected += 1;
        });
        if expected < COUNT {
            sleep(&taker, &taker_ear);
        }
    }
    giving.join().unwrap();
    let ring = &taker.mailboxes[1].rings[0];
    assert_eq!(ring.bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn a_ring_is_bounded_in_bytes_and_in_slices() {
    let mut ports = belled(2);
    let giver = &mut ports[0].0;
    let mut given = 0;
    while giver.room(1) {
        giver.give(1, piece(given, 64 << 10)).unwrap();
        given += 1;
    }
    assert_eq!(given, 8);
    ports[1].0.take(|_, _| {});
    let giver = &mut ports[0].0;
    given = 0;
    while giver.room(1) {
        giver.give(1, piece(given, 1)).unwrap();
        given += 1;
    }
    assert_eq!(given as usize, RING_SLICES);
    assert!(giver.give(1, piece(0, 1)).is_err());
    let bytes = &giver.mailboxes[1].rings[0].bytes;
    assert_eq!(
        bytes.load(Ordering::Relaxed),
        RING_SLICES,
        "a refusal costs nothing"
    );
}

#[test]
fn posts_keep_their_order_when_the_other_side_is_slow() {
    let mut ports = belled(3);
    let peer = |slot| PeerKey { worker: 0, slot };
    let count = POSTS_MAX as u32 + 100;
    for slot in 0..count {
        ports[0].0.post(2, Post::Down(peer(slot)));
    }
    assert!(ports[0].0.is_behind());
    let mut expected = 0;
    while expected < count {
        while let Some(Post::Down(key)) = ports[2].0.next_post() {
            assert_eq!(key, peer(expected));
            expected += 1;
        }
        assert!(!ports[0].0.is_behind());
    }
    assert!(ports[1].0.next_post().is_none());
}

#[test]
fn pressure_is_seen_by_all_and_its_end_is_posted() {
    let mut ports = belled(3);
    let peer = PeerKey { worker: 1, slot: 3 };
    let class = TrafficClass::from_index(5);
    assert!(!ports[0].0.is_pressed(peer, class));
    ports[1].0.set_pressure(peer, 1 << 5);
    assert!(ports[0].0.is_pressed(peer, class) && ports[2].0.is_pressed(peer, class));
    assert!(!ports[0].0.is_pressed(peer, TrafficClass::from_index(4)));
    assert!(ports[0].0.next_post().is_none());
    ports[1].0.set_pressure(peer, 0);
    for other in [0, 2] {
        assert!(!ports[other].0.is_pressed(peer, class));
        assert!(matches!(ports[other].0.next_post(), Some(Post::Eased(eased)) if eased == peer));
    }
}

#[test]
fn a_router_of_one_worker_exchanges_nothing() {
    let mut ports = belled(1);
    let (port, _) = &mut ports[0];
    assert!(port.is_alone() && port.may_sleep() && !port.is_behind());
    assert_eq!(port.others().count(), 0);
    let shared: Arc<[Mailbox]> = port.mailboxes.clone();
    assert!(shared[0].pressure.is_empty());
}
