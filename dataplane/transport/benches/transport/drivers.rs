//! The drivers side by side, interleaved: a hop under full load, and single requests that wait for their reply.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use caplane_transport::{Endpoint, Event, Io};

use crate::support::{CLASS, Ca, message};
use crate::{config, cpu_ns, hop, tick};

const ROUNDS: usize = 5;
const REQUESTS: u64 = 3_000;

pub fn compare(duration: Duration) {
    println!(
        "drivers: ns of the hop's processor per message, median of {ROUNDS} (lowest to highest)"
    );
    side_by_side("request and reply of 1024", requests);
    for (payload, size) in [
        (Some(1_350), 64),
        (Some(1_350), 1_024),
        (Some(1_350), 16_384),
        (None, 64),
        (None, 1_024),
        (None, 16_384),
    ] {
        let packet = payload.map_or("16368".to_owned(), |p| p.to_string());
        let name = format!("packets {packet}, messages {size}");
        side_by_side(&name, |io| hop::hop(io, payload, size, duration).message_ns);
    }
}

fn side_by_side(name: &str, mut measure: impl FnMut(Io) -> f64) {
    let mut results = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (io, results) in [Io::Mio, Io::Uring].into_iter().zip(&mut results) {
            results.push(measure(io));
        }
    }
    let [mio, uring] = results.map(|mut results| {
        results.sort_by(f64::total_cmp);
        results
    });
    let shown = |results: &[f64]| {
        let (low, median, high) = (results[0], results[ROUNDS / 2], results[ROUNDS - 1]);
        format!("{median:>7.0} ({low:.0} to {high:.0})")
    };
    println!(
        "  {name:<32} mio {:<24} uring {:<24} uring/mio {:.3}",
        shown(&mio),
        shown(&uring),
        uring[ROUNDS / 2] / mio[ROUNDS / 2],
    );
}

/// One client asks, waits, asks again; what an answer costs.
fn requests(io: Io) -> f64 {
    let ca = Ca::new("bench root");
    let mut own = config(&ca, "router/hop", None);
    own.io = io;
    let mut server = Endpoint::bind(own).expect("bind");
    let address = server.local_addr();
    let mut client = Endpoint::bind(config(&ca, "agent/one", None)).expect("bind");
    let stop = Arc::new(AtomicBool::new(false));
    let asking = {
        let stop = Arc::clone(&stop);
        thread::spawn(move || {
            let mut lane = None;
            client.connect(address, None).expect("connect");
            while !stop.load(Ordering::Relaxed) {
                tick(&mut client, |endpoint, event| match event {
                    Event::Connected { peer, .. } => {
                        let opened = endpoint.open_lane(peer, CLASS).expect("open");
                        lane = Some((peer, opened));
                        let sent = endpoint.send_lane(peer, opened, message(0, 1_024));
                        sent.expect("send");
                    }
                    Event::Lane {
                        peer,
                        lane: from,
                        mut data,
                        ..
                    } => {
                        let (to, lane) = lane.expect("connected");
                        let sent = endpoint.send_lane(to, lane, data.split().freeze());
                        sent.expect("send");
                        endpoint.lane_rest(peer, from, data);
                    }
                    _ => {}
                });
            }
        })
    };
    let (mut back, mut answered) = (None, 0);
    let mut answer = |server: &mut Endpoint, until: u64| {
        while answered < until {
            tick(server, |endpoint, event| {
                if let Event::Lane {
                    peer,
                    lane,
                    mut data,
                    ..
                } = event
                {
                    let back =
                        *back.get_or_insert_with(|| endpoint.open_lane(peer, CLASS).expect("open"));
                    let sent = endpoint.send_lane(peer, back, data.split().freeze());
                    sent.expect("send");
                    endpoint.lane_rest(peer, lane, data);
                    answered += 1;
                }
            });
        }
    };
    answer(&mut server, 500);
    let cpu = cpu_ns();
    answer(&mut server, 500 + REQUESTS);
    let cpu = (cpu_ns() - cpu) as f64;
    stop.store(true, Ordering::Relaxed);
    asking.join().expect("the client ends");
    cpu / REQUESTS as f64
}
