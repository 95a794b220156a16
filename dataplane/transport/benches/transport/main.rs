//! What this crate costs alone, on loopback: a hop, a handshake, a connection that says nothing.
//!
//! `cargo bench -p caplane-transport [-- [SECONDS] [hop] [drivers] [handshakes] [idle]]` runs the parts named, or all, the hop
//! SECONDS (default 2; drivers 1) per row. Processor time is the measured thread's own (`/proc/thread-self/schedstat`), so that neither the number of
//! cores nor the other threads matter much.

#[path = "../../tests/support/mod.rs"]
mod support;

mod drivers;
mod handshakes;
mod hop;
mod idle;

use std::time::{Duration, Instant};

use caplane_transport::{Endpoint, EndpointConfig, Event};
use support::{Ca, v4};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [dialler, address, count] = &arguments[..]
        && dialler == idle::DIALLER
    {
        return idle::dial(address, count);
    }
    let seconds = arguments.iter().find_map(|argument| argument.parse().ok());
    let parts = ["hop", "drivers", "handshakes", "idle"];
    let all = !arguments.iter().any(|a| parts.contains(&a.as_str()));
    let wanted = |part: &str| all || arguments.iter().any(|argument| argument == part);
    if wanted("hop") {
        hop::lanes(Duration::from_secs_f64(seconds.unwrap_or(2.0)));
    }
    if wanted("drivers") {
        drivers::compare(Duration::from_secs_f64(seconds.unwrap_or(1.0)));
    }
    if wanted("handshakes") {
        handshakes::all();
    }
    if wanted("idle") {
        idle::idle(10_000);
    }
}

/// Processor time of the calling thread in nanoseconds.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux has schedstat");
    let first = text.split_whitespace().next().expect("a number");
    first.parse().expect("a number")
}

fn config(ca: &Ca, name: &str, payload: Option<usize>) -> EndpointConfig {
    let mut config = EndpointConfig::new(v4(), ca.credentials(name));
    config.pmtud = payload.is_none();
    config.udp_payload_fixed = payload;
    config
}

fn tick(endpoint: &mut Endpoint, on: impl FnMut(&mut Endpoint, Event)) {
    tick_within(endpoint, Duration::from_millis(5), on);
}

fn tick_within(endpoint: &mut Endpoint, sleep: Duration, mut on: impl FnMut(&mut Endpoint, Event)) {
    endpoint.wait(Some(sleep)).expect("wait");
    let now = Instant::now();
    endpoint.receive(now).expect("receive");
    while let Some(event) = endpoint.next_event() {
        on(endpoint, event);
    }
    endpoint.flush(now).expect("flush");
}
