//! Loads through a NATS server: one publisher at full speed, and round trips
//! at fixed times.

use super::nats_client::Client;
use super::{PeerError, ROUND_TRIP_SIZE, RoundTrip, Throughput};
use crate::load::{ProcessWatch, sleep_exactly};
use hdrhistogram::Histogram;
use rustls::ClientConfig;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes written at a time.
const BATCH: usize = 64 * 1024;
/// Bytes under way at most: NATS has no flow control from subscriber to publisher, and cuts off who is slow.
const WINDOW: u64 = 8 << 20;
/// A thread looks this often whether it is to end.
const NAP: Duration = Duration::from_millis(20);
/// The publisher looks this often whether there is room in the window.
const WINDOW_NAP: Duration = Duration::from_micros(100);

/// A server to load.
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) watch: ProcessWatch,
    /// Subjects that messages are spread over.
    pub(super) keys: usize,
}

#[derive(Default)]
struct Shared {
    subscribed: AtomicU64,
    received: AtomicU64,
    ended: AtomicBool,
}

impl Shared {
    fn received(&self) -> u64 {
        self.received.load(Ordering::Acquire)
    }

    fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

impl Target {
    fn connect(&self) -> io::Result<Client> {
        Client::connect(self.address, self.tls.as_ref())
    }

    /// One publisher, `receivers` subscribers with keys of their own.
    pub(super) fn throughput(
        &self,
        size: usize,
        receivers: usize,
        warm_up: Duration,
        duration: Duration,
    ) -> Result<Throughput, PeerError> {
        let shared = Shared::default();
        let failed = |e| PeerError::Io("NATS", e);
        std::thread::scope(|scope| {
            let shared = &shared;
            let mut threads = Vec::new();
            for n in 0..receivers {
                threads.push(scope.spawn(move || self.subscriber(n, shared)));
            }
            threads.push(scope.spawn(move || self.publisher(size, receivers, shared)));
            let measured = self.window(shared, warm_up, duration);
            shared.ended.store(true, Ordering::Release);
            for thread in threads {
                let ended = thread.join();
                ended
                    .map_err(|_| PeerError::Failed("a NATS thread panicked".to_owned()))?
                    .map_err(failed)?;
            }
            let mut measured = measured.map_err(failed)?;
            measured.payload_bytes = measured.messages * size as u64;
            Ok(measured)
        })
    }

    fn window(
        &self,
        shared: &Shared,
        warm_up: Duration,
        duration: Duration,
    ) -> io::Result<Throughput> {
        std::thread::sleep(warm_up);
        let (before, begun) = (self.watch.sample()?, Instant::now());
        let messages = shared.received();
        std::thread::sleep(duration);
        let after = self.watch.sample()?;
        Ok(Throughput {
            messages: shared.received() - messages,
            payload_bytes: 0,
            cpu: after.cpu.saturating_sub(before.cpu),
            elapsed: begun.elapsed(),
        })
    }

    fn subscriber(&self, n: usize, shared: &Shared) -> io::Result<()> {
        let mut client = self.connect()?;
        client.subscribe(&format!("b.{n}.*"), 1);
        client.flush()?;
        shared.subscribed.fetch_add(1, Ordering::AcqRel);
        while !shared.ended() {
            client.wait(NAP)?;
            let count = client.receive(|_, _| {})?;
            shared.received.fetch_add(count, Ordering::AcqRel);
            client.flush()?;
        }
        Ok(())
    }

    fn publisher(&self, size: usize, receivers: usize, shared: &Shared) -> io::Result<()> {
        let mut client = self.connect()?;
        let subjects: Vec<String> = (0..self.keys.max(receivers))
            .map(|n| format!("b.{}.{n}", n % receivers))
            .collect();
        let payload = vec![0x5a; size];
        let window = (WINDOW / (size as u64 + 64)).max(16);
        let batch = (BATCH / (size + 24)).max(1);
        let (mut sent, mut next) = (0u64, 0);
        while shared.subscribed.load(Ordering::Acquire) < receivers as u64 && !shared.ended() {
            client.wait(Duration::from_millis(1))?;
            client.receive(|_, _| {})?;
        }
        // Until the server has taken the subscriptions, messages would go nowhere.
        client.wait(Duration::from_millis(50))?;
        while !shared.ended() {
            let room = sent - shared.received() + batch as u64 <= window;
            if room && client.flush()? {
                for _ in 0..batch {
                    client.publish(&subjects[next], None, &payload);
                    next = (next + 1) % subjects.len();
                }
                sent += batch as u64;
                client.flush()?;
            } else {
                client.flush()?;
                client.wait(WINDOW_NAP)?;
            }
            client.receive(|_, _| {})?;
        }
        Ok(())
    }

    /// Questions at `rate`, answered by a responder on its own connection.
    pub(super) fn round_trip(
        &self,
        rate: f64,
        warm_up: Duration,
        duration: Duration,
    ) -> Result<RoundTrip, PeerError> {
        let shared = Shared::default();
        let failed = |e| PeerError::Io("NATS", e);
        std::thread::scope(|scope| {
            let answering = scope.spawn(|| self.responder(&shared));
            let asked = self.asker(rate, warm_up, duration, &shared);
            shared.ended.store(true, Ordering::Release);
            let answered = answering.join();
            answered
                .map_err(|_| PeerError::Failed("a NATS thread panicked".to_owned()))?
                .map_err(failed)?;
            asked.map_err(failed)
        })
    }

    fn responder(&self, shared: &Shared) -> io::Result<()> {
        let mut client = self.connect()?;
        client.subscribe("ask.*", 1);
        client.flush()?;
        shared.subscribed.fetch_add(1, Ordering::AcqRel);
        while !shared.ended() {
            client.wait(NAP)?;
            client.receive(|message, out| {
                if let Some(reply) = message.reply {
                    let head = format!("PUB {reply} {}\r\n", message.payload.len());
                    out.extend_from_slice(head.as_bytes());
                    out.extend_from_slice(message.payload);
                    out.extend_from_slice(b"\r\n");
                }
            })?;
            client.flush()?;
        }
        Ok(())
    }

    fn asker(
        &self,
        rate: f64,
        warm_up: Duration,
        duration: Duration,
        shared: &Shared,
    ) -> io::Result<RoundTrip> {
        sleep_exactly();
        let mut client = self.connect()?;
        client.subscribe("answers", 1);
        client.flush()?;
        while shared.subscribed.load(Ordering::Acquire) == 0 {
            client.wait(Duration::from_millis(1))?;
        }
        client.wait(Duration::from_millis(50))?;
        let subjects: Vec<String> = (0..self.keys).map(|n| format!("ask.{n}")).collect();
        let mut payload = vec![0x5a; ROUND_TRIP_SIZE];
        let mut took = Histogram::<u64>::new_with_bounds(1_000, 100_000_000_000, 3)
            .map_err(io::Error::other)?;
        let begun = Instant::now();
        let due = |n: u64| Duration::from_secs_f64(n as f64 / rate);
        let end = warm_up + duration;
        let (mut asked, mut measured, mut answered) = (0, 0, 0);
        loop {
            let now = begun.elapsed();
            while due(asked) <= now && due(asked) < end {
                let due_ns = due(asked).as_nanos() as u64;
                payload[..8].copy_from_slice(&due_ns.to_be_bytes());
                client.publish(
                    &subjects[asked as usize % subjects.len()],
                    Some("answers"),
                    &payload,
                );
                measured += u64::from(due(asked) >= warm_up);
                asked += 1;
            }
            client.flush()?;
            let left = due(asked).saturating_sub(begun.elapsed());
            client.wait(if due(asked) < end { left } else { NAP })?;
            client.receive(|message, _| {
                let due_ns = message
                    .payload
                    .first_chunk()
                    .map_or(0, |c| u64::from_be_bytes(*c));
                if due_ns >= warm_up.as_nanos() as u64 {
                    answered += 1;
                    took.saturating_record(begun.elapsed().as_nanos() as u64 - due_ns);
                }
            })?;
            let late = begun.elapsed() > end + Duration::from_secs(1);
            if due(asked) >= end && (answered == measured || late) {
                break;
            }
        }
        let at = |q| took.value_at_quantile(q) as f64 / 1e3;
        Ok(RoundTrip {
            rate,
            p50: at(0.5),
            p99: at(0.99),
            unanswered: measured - answered,
        })
    }
}
