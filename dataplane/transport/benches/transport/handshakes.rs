//! What a full handshake, both certificates checked, costs the accepting side.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use caplane_transport::{Endpoint, Event};

use crate::support::{Ca, KeyKind};
use crate::{config, cpu_ns, tick};

/// Handshakes per measurement, and measurements of each kind, interleaved.
const COUNT: u64 = 300;
const ROUNDS: usize = 5;

pub fn all() {
    let kinds = [
        ("X25519MLKEM768, P-256", true, KeyKind::P256),
        ("X25519MLKEM768, Ed25519", true, KeyKind::Ed25519),
        ("X25519, P-256", false, KeyKind::P256),
        ("X25519, Ed25519", false, KeyKind::Ed25519),
    ];
    let mut results = vec![Vec::new(); kinds.len()];
    for _ in 0..ROUNDS {
        for ((_, hybrid, key), results) in kinds.iter().zip(&mut results) {
            results.push(handshakes(*hybrid, *key));
        }
    }
    println!(
        "handshakes, mutual, accepting side: us of processor, a core-second (lowest to highest)"
    );
    for ((name, ..), results) in kinds.iter().zip(&mut results) {
        results.sort_by(f64::total_cmp);
        let median = results[ROUNDS / 2];
        println!(
            "  {name:<24} {median:>6.0} us {:>6.0}  ({:.0} to {:.0})",
            1e6 / median,
            1e6 / results[ROUNDS - 1],
            1e6 / results[0],
        );
    }
}

/// Handshakes one after the other against an accepting endpoint on this thread: microseconds each.
fn handshakes(hybrid: bool, key: KeyKind) -> f64 {
    let ca = Ca::with_keys("bench root", key);
    let mut server = config(&ca, "router/hop", None);
    server.hybrid_key_exchange = hybrid;
    let mut server = Endpoint::bind(server).expect("bind");
    let address = server.local_addr();
    let mut client = config(&ca, "agent/one", None);
    client.hybrid_key_exchange = hybrid;
    let mut client = Endpoint::bind(client).expect("bind");
    let stop = Arc::new(AtomicBool::new(false));
    let dialler = {
        let stop = Arc::clone(&stop);
        thread::spawn(move || {
            client.connect(address, None).expect("connect");
            while !stop.load(Ordering::Relaxed) {
                let mut again = false;
                tick(&mut client, |endpoint, event| match event {
                    Event::Connected { peer, .. } => endpoint.close(peer, 0, ""),
                    Event::Closed { .. } => again = true,
                    Event::Refused { reason, .. } => panic!("refused: {reason}"),
                    _ => {}
                });
                if again {
                    client.connect(address, None).expect("connect");
                }
            }
        })
    };
    while server.counters().connected < 20 {
        assert!(!dialler.is_finished(), "the dialler failed");
        tick(&mut server, |_, _| {});
    }
    let (cpu, before) = (cpu_ns(), server.counters().connected);
    while server.counters().connected < before + COUNT {
        assert!(!dialler.is_finished(), "the dialler failed");
        tick(&mut server, |_, _| {});
    }
    let cpu = (cpu_ns() - cpu) as f64;
    let count = (server.counters().connected - before) as f64;
    stop.store(true, Ordering::Relaxed);
    dialler.join().expect("the dialler ends");
    cpu / 1e3 / count
}
