//! A hop: a sender, a hop and a receiver on three threads; the processor time is the hop's own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use caplane_transport::{Endpoint, Event, Io, LaneTx, PeerId};
use caplane_wire::{LANE_MESSAGE_MAX, message_len};

use crate::support::{CLASS, Ca, message, uri};
use crate::{config, cpu_ns, tick};

pub fn lanes(duration: Duration) {
    println!(
        "packet  message  messages/core-s   Gb/core-s  ns/message  ns/packet in+out  packets/send  copied %"
    );
    for payload in [Some(1_350), Some(9_000), None] {
        for size in [64, 1_024, 16_384] {
            print(payload, size, &hop(Io::Auto, payload, size, duration));
        }
    }
}

/// The hop: what comes on a lane of the one peer leaves on a lane of the other.
struct Hop {
    endpoint: Endpoint,
    out: Option<(PeerId, LaneTx)>,
    queue: VecDeque<Bytes>,
    paused: Option<(PeerId, caplane_transport::LaneRx)>,
    messages: u64,
}

impl Hop {
    fn tick(&mut self) {
        let Self {
            out,
            queue,
            paused,
            messages,
            ..
        } = self;
        tick(&mut self.endpoint, |endpoint, event| match event {
            Event::Connected { peer, uri, .. } if uri.ends_with("receiver") => {
                let lane = endpoint.open_lane(peer, CLASS).expect("open a lane");
                *out = Some((peer, lane));
            }
            Event::Lane {
                peer,
                lane,
                mut data,
                ..
            } => {
                let mut whole = 0;
                while let Ok(Some(length)) = message_len(&data[whole..], LANE_MESSAGE_MAX) {
                    if data.len() - whole < length {
                        break;
                    }
                    whole += length;
                    *messages += 1;
                }
                queue.push_back(data.split_to(whole).freeze());
                if queue.len() > 16 {
                    endpoint.pause(peer, lane);
                    *paused = Some((peer, lane));
                }
                endpoint.lane_rest(peer, lane, data);
                send(endpoint, *out, queue);
            }
            _ => {}
        });
        send(&mut self.endpoint, self.out, &mut self.queue);
        if self.queue.len() < 8
            && let Some((peer, lane)) = self.paused.take()
        {
            self.endpoint.resume(peer, lane);
        }
    }
}

fn send(endpoint: &mut Endpoint, out: Option<(PeerId, LaneTx)>, queue: &mut VecDeque<Bytes>) {
    let Some((peer, lane)) = out else { return };
    while endpoint.lane_ready(peer, lane) {
        let Some(run) = queue.pop_front() else { return };
        endpoint.send_lane(peer, lane, run).expect("send");
    }
}

/// What was measured at the hop.
pub struct Measured {
    /// Nanoseconds of processor per message.
    pub message_ns: f64,
    /// The same per packet, half of those received and sent.
    packet_ns: f64,
    packets_per_send: f64,
    copied_percent: f64,
}

fn print(payload: Option<usize>, size: usize, measured: &Measured) {
    println!(
        "{:>6}  {size:>7}  {:>15.0}  {:>10.2}  {:>10.0}  {:>16.0}  {:>12.1}  {:>8.3}",
        payload.map_or("pmtud".to_owned(), |p| p.to_string()),
        1e9 / measured.message_ns,
        size as f64 * 8.0 / measured.message_ns,
        measured.message_ns,
        measured.packet_ns,
        measured.packets_per_send,
        measured.copied_percent,
    );
}

pub fn hop(io: Io, payload: Option<usize>, size: usize, duration: Duration) -> Measured {
    let ca = Ca::new("bench root");
    let mut own = config(&ca, "router/hop", payload);
    own.io = io;
    let endpoint = Endpoint::bind(own).expect("bind");
    let address = endpoint.local_addr();
    let mut hop = Hop {
        endpoint,
        out: None,
        queue: VecDeque::new(),
        paused: None,
        messages: 0,
    };
    let stop = Arc::new(AtomicBool::new(false));
    let received = Arc::new(AtomicU64::new(0));

    let receiver = {
        let (stop, received) = (Arc::clone(&stop), Arc::clone(&received));
        let mut endpoint = Endpoint::bind(config(&ca, "agent/receiver", payload)).expect("bind");
        endpoint
            .connect(address, Some(&uri("router/hop")))
            .expect("connect");
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                tick(&mut endpoint, |endpoint, event| {
                    if let Event::Lane {
                        peer,
                        lane,
                        mut data,
                        ..
                    } = event
                    {
                        // Not walked: the receiver is not what is measured. A whole number of messages is the rule.
                        let whole = data.len() - data.len() % size;
                        received.fetch_add((whole / size) as u64, Ordering::Relaxed);
                        drop(data.split_to(whole));
                        endpoint.lane_rest(peer, lane, data);
                    }
                });
            }
        })
    };
    let sender = {
        let stop = Arc::clone(&stop);
        let mut endpoint = Endpoint::bind(config(&ca, "agent/sender", payload)).expect("bind");
        let peer = endpoint
            .connect(address, Some(&uri("router/hop")))
            .expect("connect");
        let run: Bytes = std::iter::repeat_with(|| message(0, size))
            .take((65_536 / size).max(1))
            .flatten()
            .collect();
        thread::spawn(move || {
            let mut lane = None;
            while !stop.load(Ordering::Relaxed) {
                tick(&mut endpoint, |endpoint, event| {
                    if let Event::Connected { peer, .. } = event {
                        lane = Some(endpoint.open_lane(peer, CLASS).expect("open a lane"));
                    }
                });
                if let Some(lane) = lane {
                    while endpoint.lane_ready(peer, lane) {
                        endpoint.send_lane(peer, lane, run.clone()).expect("send");
                    }
                }
            }
        })
    };

    let warm = Instant::now() + Duration::from_millis(500);
    while Instant::now() < warm {
        hop.tick();
    }
    let before = hop.endpoint.counters().clone();
    let (messages, cpu) = (hop.messages, cpu_ns());
    let end = Instant::now() + duration;
    while Instant::now() < end {
        hop.tick();
    }
    let cpu = (cpu_ns() - cpu) as f64;
    let messages = (hop.messages - messages) as f64;
    let after = hop.endpoint.counters();
    let packets = (after.packets_sent - before.packets_sent + after.packets_received
        - before.packets_received) as f64;
    let measured = Measured {
        message_ns: cpu / messages,
        packet_ns: cpu / packets * 2.0,
        packets_per_send: (after.packets_sent - before.packets_sent) as f64
            / (after.send_calls - before.send_calls).max(1) as f64,
        copied_percent: (after.copied_bytes - before.copied_bytes) as f64 * 100.0
            / (after.lane_bytes_received - before.lane_bytes_received).max(1) as f64,
    };
    stop.store(true, Ordering::Relaxed);
    sender.join().expect("the sender ends");
    receiver.join().expect("the receiver ends");
    measured
}
