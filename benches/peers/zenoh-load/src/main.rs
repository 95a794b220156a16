//! Loads a zenoh router as `caplane-load peers` loads the others, and prints
//! one JSON object: messages received and CPU time of the server within the
//! window, or the round trip's percentiles.

use std::collections::HashMap;
use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use zenoh::bytes::ZBytes;
use zenoh::qos::CongestionControl;
use zenoh::{Config, Session, Wait};

type Failure = Box<dyn Error + Send + Sync>;

/// Bytes under way at most, as with every other system.
const WINDOW: u64 = 8 << 20;
/// A router that has just started may not listen yet.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

struct Arguments(HashMap<String, String>);

impl Arguments {
    fn read() -> Arguments {
        let words: Vec<String> = std::env::args().skip(1).collect();
        let pairs = words.chunks_exact(2);
        Arguments(pairs.map(|pair| (pair[0].clone(), pair[1].clone())).collect())
    }

    fn text(&self, name: &str) -> Result<&str, Failure> {
        let value = self.0.get(name).ok_or_else(|| format!("{name} is missing"))?;
        Ok(value)
    }

    fn number(&self, name: &str) -> Result<f64, Failure> {
        Ok(self.text(name)?.parse()?)
    }
}

fn main() -> Result<(), Failure> {
    let arguments = Arguments::read();
    if arguments.number("--rate")? > 0.0 {
        round_trip(&arguments)
    } else {
        throughput(&arguments)
    }
}

fn open(arguments: &Arguments) -> Result<Session, Failure> {
    let endpoint = arguments.text("--endpoint")?;
    let deadline = Instant::now() + CONNECT_PATIENCE;
    loop {
        let mut config = Config::default();
        config.insert_json5("mode", "\"client\"")?;
        config.insert_json5("connect/endpoints", &format!("[\"{endpoint}\"]"))?;
        config.insert_json5("scouting/multicast/enabled", "false")?;
        if let Ok(certificate) = arguments.text("--certificate") {
            config.insert_json5("transport/link/tls/root_ca_certificate", &format!("\"{certificate}\""))?;
        }
        match zenoh::open(config).wait() {
            Ok(session) => return Ok(session),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// User and system time of the server (seconds).
fn cpu_s(arguments: &Arguments) -> Result<f64, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", arguments.text("--server-pid")?))?;
    let fields = stat.rsplit_once(')').ok_or("stat")?.1;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    // 100 ticks a second on all common Linux machines.
    Ok(ticks.collect::<Result<Vec<_>, _>>()?.iter().sum::<u64>() as f64 / 100.0)
}

fn throughput(arguments: &Arguments) -> Result<(), Failure> {
    let size = arguments.number("--size")? as usize;
    let receivers = arguments.number("--receivers")? as usize;
    let keys = arguments.number("--keys")? as usize;
    let received = Arc::new(AtomicU64::new(0));
    let mut subscribers = Vec::new();
    for n in 0..receivers {
        let session = open(arguments)?;
        let count = Arc::clone(&received);
        let subscriber = session
            .declare_subscriber(format!("b/{n}/*"))
            .callback(move |_| {
                count.fetch_add(1, Ordering::Relaxed);
            })
            .wait()?;
        subscribers.push((session, subscriber));
    }
    let session = open(arguments)?;
    let mut publishers = Vec::with_capacity(keys);
    for n in 0..keys {
        publishers.push(
            session
                .declare_publisher(format!("b/{}/{n}", n % receivers))
                .congestion_control(CongestionControl::Block)
                .wait()?,
        );
    }
    // Declarations travel to the router first.
    std::thread::sleep(Duration::from_millis(200));
    let payload = ZBytes::from(vec![0x5a; size]);
    let window = (WINDOW / (size as u64 + 64)).max(16);
    let ended = AtomicBool::new(false);
    let (before, after, messages, elapsed) = std::thread::scope(|scope| {
        let (publishers, received, ended) = (&publishers, &received, &ended);
        let sending = scope.spawn(move || -> Result<(), Failure> {
            let mut sent = 0u64;
            while !ended.load(Ordering::Relaxed) {
                while sent - received.load(Ordering::Relaxed) >= window {
                    if ended.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                    std::thread::park_timeout(Duration::from_micros(100));
                }
                publishers[sent as usize % keys].put(payload.clone()).wait()?;
                sent += 1;
            }
            Ok(())
        });
        let measured = (|| -> Result<_, Failure> {
            std::thread::sleep(Duration::from_secs_f64(arguments.number("--warm-up")?));
            let (before, begun) = (cpu_s(arguments)?, Instant::now());
            let first = received.load(Ordering::Relaxed);
            std::thread::sleep(Duration::from_secs_f64(arguments.number("--duration")?));
            let after = cpu_s(arguments)?;
            let messages = received.load(Ordering::Relaxed) - first;
            Ok((before, after, messages, begun.elapsed()))
        })();
        ended.store(true, Ordering::Relaxed);
        sending.join().map_err(|_| "the sending thread panicked")??;
        measured
    })?;
    println!(
        "{{\"messages\": {messages}, \"cpu_s\": {}, \"elapsed_s\": {}}}",
        after - before,
        elapsed.as_secs_f64()
    );
    Ok(())
}

fn round_trip(arguments: &Arguments) -> Result<(), Failure> {
    let rate = arguments.number("--rate")?;
    let size = arguments.number("--size")? as usize;
    let keys = arguments.number("--keys")? as usize;
    let warm_up = Duration::from_secs_f64(arguments.number("--warm-up")?);
    let end = warm_up + Duration::from_secs_f64(arguments.number("--duration")?);
    let answering = open(arguments)?;
    let answers = answering
        .declare_publisher("answers")
        .congestion_control(CongestionControl::Block)
        .express(true)
        .wait()?;
    let _responder = answering
        .declare_subscriber("ask/*")
        .callback(move |sample| {
            // A lost answer is counted by the asker.
            let _ = answers.put(sample.payload().clone()).wait();
        })
        .wait()?;
    let session = open(arguments)?;
    let begun = Instant::now() + Duration::from_millis(300);
    let took = Arc::new(Mutex::new(Vec::<u64>::new()));
    let results = Arc::clone(&took);
    let _asker = session
        .declare_subscriber("answers")
        .callback(move |sample| {
            let bytes = sample.payload().to_bytes();
            let due_ns = bytes.first_chunk().map_or(0, |chunk| u64::from_be_bytes(*chunk));
            if due_ns >= warm_up.as_nanos() as u64 {
                let now = begun.elapsed().as_nanos() as u64;
                if let Ok(mut all) = results.lock() {
                    all.push(now.saturating_sub(due_ns));
                }
            }
        })
        .wait()?;
    let mut asks = Vec::with_capacity(keys);
    for n in 0..keys {
        asks.push(
            session
                .declare_publisher(format!("ask/{n}"))
                .congestion_control(CongestionControl::Block)
                .express(true)
                .wait()?,
        );
    }
    // Declaring may have taken longer than was left until the start: due times count from it all the same.
    let offset = Instant::now().saturating_duration_since(begun) + Duration::from_millis(200);
    let mut payload = vec![0x5a; size];
    let (mut asked, mut measured) = (0u64, 0u64);
    loop {
        let due = offset + Duration::from_secs_f64(asked as f64 / rate);
        if due >= offset + end {
            break;
        }
        while begun.elapsed() < due {
            std::thread::park_timeout(due.saturating_sub(begun.elapsed()));
        }
        let since_start = due - offset;
        // Counted from the true due time, told apart by whether the warm-up is over.
        let stamp = if since_start >= warm_up { due.as_nanos() as u64 } else { 0 };
        measured += u64::from(stamp > 0);
        payload[..8].copy_from_slice(&stamp.to_be_bytes());
        asks[asked as usize % keys].put(payload.clone()).wait()?;
        asked += 1;
    }
    std::thread::sleep(Duration::from_millis(500));
    let mut all = took.lock().map_err(|_| "poisoned")?.clone();
    all.sort_unstable();
    let at = |q: f64| all.get((all.len() as f64 * q) as usize).copied().unwrap_or(0) as f64 / 1e3;
    println!(
        "{{\"p50_us\": {}, \"p99_us\": {}, \"unanswered\": {}}}",
        at(0.5),
        at(0.99),
        measured.saturating_sub(all.len() as u64)
    );
    Ok(())
}
