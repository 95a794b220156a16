//! One UDP hop over three I/O drivers, side by side: the product's two, whose
//! sources are compiled in, and tokio-uring.
//!
//! The same load for all: a source sends trains of equal datagrams (GSO), the
//! hop sends on what it receives, a sink counts. The hop is a process of its
//! own and its CPU time counts, kernel workers included. What tokio-uring can
//! and cannot do is in `tokio_hop.rs`.
//!
//! `udp-forward [--seconds 2] [--repeat 5]`

// The product's drivers, as they are. What of them this program does not use is dead code here and nowhere else.
#[allow(dead_code, unused_imports)]
#[path = "../../../dataplane/transport/src/io/mod.rs"]
mod io;

mod config;
mod driver_hop;
mod load;
mod tokio_hop;

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

type Failure = Box<dyn Error + Send + Sync>;

/// Datagram sizes: what crosses any path, and what fits loopback.
const PACKETS: [usize; 2] = [1_350, 16_368];

/// Who forwards.
const HOPS: [&str; 4] = ["mio", "uring", "tokio-uring", "tokio-uring-told"];

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let ["hop", hop, to, packet] = words[..] {
        return be_hop(hop, to.parse()?, packet.parse()?);
    }
    let value = |name: &str| {
        let at = words.iter().position(|word| *word == name)?;
        words.get(at + 1).copied()
    };
    let seconds = Duration::from_secs_f64(value("--seconds").map_or(Ok(2.0), str::parse)?);
    let repeat: usize = value("--repeat").map_or(Ok(5), str::parse)?;
    compare(seconds, repeat.max(1))
}

fn be_hop(hop: &str, to: SocketAddr, packet: usize) -> Result<(), Failure> {
    match hop {
        "mio" => driver_hop::forward(config::Io::Mio, to),
        "uring" => driver_hop::forward(config::Io::Uring, to),
        "tokio-uring" => tokio_hop::forward(to, packet, false),
        "tokio-uring-told" => tokio_hop::forward(to, packet, true),
        other => Err(format!("no hop {other}").into()),
    }
}

fn compare(seconds: Duration, repeat: usize) -> Result<(), Failure> {
    println!(
        "CPU of one UDP hop, ns a datagram: median [lowest..highest] of {repeat} interleaved runs of {} s",
        seconds.as_secs_f64()
    );
    for packet in PACKETS {
        let mut costs = HOPS.map(|_| Vec::new());
        for _ in 0..repeat {
            for (hop, costs) in HOPS.iter().zip(&mut costs) {
                costs.push(load::measure(hop, packet, seconds)?);
            }
        }
        let medians = costs.map(|mut costs| {
            costs.sort_by(f64::total_cmp);
            (costs[repeat / 2], costs[0], costs[repeat - 1])
        });
        for (hop, (median, low, high)) in HOPS.iter().zip(medians) {
            println!(
                "  {packet:>6} bytes  {hop:<18} {median:>7.0} [{low:.0}..{high:.0}]  {:.2} x mio",
                median / medians[0].0
            );
        }
    }
    println!("tokio-uring-told: the size of the datagrams is told to it beforehand, which no endpoint can know");
    Ok(())
}
