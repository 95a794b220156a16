//! What connections that say nothing cost the accepting side: memory and processor. The dialling side is another process.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use caplane_transport::{Credentials, Endpoint, EndpointConfig, TrustBundle};

use crate::support::{Ca, DOMAIN, uri, v4};
use crate::{config, cpu_ns, tick, tick_within};

/// The first argument of the process that dials.
pub const DIALLER: &str = "idle-dialler";

/// Handshakes under way at a time.
const PENDING: u64 = 64;

/// How long the idle endpoint is watched: two keepalive periods.
const WATCH: Duration = Duration::from_secs(30);

pub fn idle(count: u64) {
    let ca = Ca::new("bench root");
    let mut server = Endpoint::bind(config(&ca, "router/hop", None)).expect("bind");
    let (chain, key) = ca.issue(&[&uri("agent/one")], |_| {});
    let before = resident();
    let mut dialler = Command::new(std::env::current_exe().expect("a program"))
        .args([
            DIALLER,
            &server.local_addr().to_string(),
            &count.to_string(),
        ])
        .stdin(Stdio::piped())
        .spawn()
        .expect("start the dialler");
    let mut input = dialler.stdin.take().expect("piped");
    for pem in [&chain, &key, &ca.pem] {
        writeln!(input, "{}", pem.len()).expect("write");
        input.write_all(pem.as_bytes()).expect("write");
    }
    while server.counters().connected < count {
        tick(&mut server, |_, _| {});
    }
    // The search for the path MTU, and what else comes after a handshake.
    let settle = Instant::now() + Duration::from_secs(20);
    while Instant::now() < settle {
        tick(&mut server, |_, _| {});
    }
    let memory = (resident() - before) / count as f64;
    let (cpu, received) = (cpu_ns(), server.counters().packets_received);
    let begin = Instant::now();
    while begin.elapsed() < WATCH {
        tick_within(&mut server, Duration::from_millis(250), |_, _| {});
    }
    let seconds = begin.elapsed().as_secs_f64();
    assert_eq!(server.peers().count() as u64, count, "all are still there");
    println!(
        "{count} idle connections with client certificates: {:.1} KiB resident each at the accepting end; it takes {:.2} % of a core \
         for {:.0} packets a second (keepalives)",
        memory / 1_024.0,
        (cpu_ns() - cpu) as f64 / seconds / 1e7,
        (server.counters().packets_received - received) as f64 / seconds,
    );
    // The end of its input ends the dialler.
    drop(input);
    dialler.wait().expect("the dialler ends");
}

/// The dialling side: keeps `count` connections to `address` until its input ends.
pub fn dial(address: &str, count: &str) {
    let address = address.parse().expect("an address");
    let count: u64 = count.parse().expect("a number");
    let mut input = std::io::stdin().lock();
    let [chain, key, roots] = std::array::from_fn(|_| pem(&mut input));
    let mut trust = TrustBundle::new();
    trust.add_pem(DOMAIN, &roots).expect("roots");
    let credentials = Credentials::from_pem(&chain, &key, trust).expect("credentials");
    let mut config = EndpointConfig::new(v4(), credentials);
    config.accept = false;
    let mut client = Endpoint::bind(config).expect("bind");
    drop(input);
    let end = std::thread::spawn(|| std::io::stdin().read(&mut [0]));
    let mut dialled = 0;
    while !end.is_finished() {
        while dialled < count && dialled < client.counters().connected + PENDING {
            client.connect(address, None).expect("connect");
            dialled += 1;
        }
        tick(&mut client, |_, _| {});
    }
}

/// A length, a line's end, and as many bytes.
fn pem(input: &mut impl Read) -> Vec<u8> {
    let mut length = 0;
    loop {
        let mut byte = [0];
        input.read_exact(&mut byte).expect("read");
        match byte[0] {
            b'\n' => break,
            digit => length = length * 10 + usize::from(digit - b'0'),
        }
    }
    let mut pem = vec![0; length];
    input.read_exact(&mut pem).expect("read");
    pem
}

/// Resident memory of this process in bytes.
fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux has statm");
    let pages = text.split_whitespace().nth(1).expect("a number");
    pages.parse::<f64>().expect("a number") * 4_096.0
}
