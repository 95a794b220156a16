//! Loads a SLIM node as `caplane-load peers` loads the others, and prints one
//! JSON object: messages received and CPU time of the node within the window,
//! or the round trip's percentiles.
//!
//! Sessions are point to point, unreliable, and without MLS: the node does
//! the same work for each message whatever is inside. TLS when a certificate
//! is named. Every receiver has a connection of its own.

use slim_auth::auth_provider::{AuthProvider, AuthVerifier};
use slim_auth::traits::{TokenProvider, Verifier};
use slim_config::client::ClientConfig;
use slim_config::component::ComponentBuilder;
use slim_config::tls::client::TlsClientConfig;
use slim_datapath::api::{ProtoMessage, ProtoName, ProtoPublishType, ProtoSessionType};
use slim_service::app::App;
use slim_service::{Service, ServiceBuilder};
use slim_session::context::SessionContext;
use slim_session::{Direction, Notification, SessionConfig, SessionError};
use std::collections::HashMap;
use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

type Failure = Box<dyn Error + Send + Sync>;
type Notifications = mpsc::Receiver<Result<Notification, SessionError>>;

/// Bytes under way at most, as with every other system.
const WINDOW: u64 = 8 << 20;
/// A node that has just started may not listen yet; sessions take a moment.
const PATIENCE: Duration = Duration::from_secs(20);
/// Any secret of 32 bytes and more: identities are not what is measured.
const SECRET: &str = "a secret that all programs of this load share";

struct Arguments(HashMap<String, String>);

impl Arguments {
    fn read() -> Arguments {
        let words: Vec<String> = std::env::args().skip(1).collect();
        let pairs = words.chunks_exact(2);
        Arguments(
            pairs
                .map(|pair| (pair[0].clone(), pair[1].clone()))
                .collect(),
        )
    }

    fn text(&self, name: &str) -> Result<&str, Failure> {
        let value = self
            .0
            .get(name)
            .ok_or_else(|| format!("{name} is missing"))?;
        Ok(value)
    }

    fn number(&self, name: &str) -> Result<f64, Failure> {
        Ok(self.text(name)?.parse()?)
    }

    fn seconds(&self, name: &str) -> Result<Duration, Failure> {
        Ok(Duration::from_secs_f64(self.number(name)?))
    }

    /// User and system time of the node (seconds).
    fn cpu_s(&self) -> Result<f64, Failure> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.text("--server-pid")?))?;
        let fields = stat.rsplit_once(')').ok_or("stat")?.1;
        let ticks = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(str::parse::<u64>);
        // 100 ticks a second on all common Linux machines.
        Ok(ticks.collect::<Result<Vec<_>, _>>()?.iter().sum::<u64>() as f64 / 100.0)
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    slim_config::tls::provider::initialize_crypto_provider();
    let arguments = Arguments::read();
    let line = if arguments.number("--rate")? > 0.0 {
        round_trip(&arguments).await?
    } else {
        throughput(&arguments).await?
    };
    println!("{line}");
    // Sessions that are still open would be closed one by one.
    std::process::exit(0);
}

/// An application with a connection of its own.
struct Seat {
    _service: Service,
    app: App<AuthProvider, AuthVerifier>,
    notifications: Notifications,
    connection: u64,
}

fn name(of: &str) -> ProtoName {
    ProtoName::from_strings(["caplane", "load", of])
}

impl Seat {
    async fn take(arguments: &Arguments, who: &str) -> Result<Seat, Failure> {
        let service = ServiceBuilder::new().build(format!("load-{who}"))?;
        let tls = match arguments.text("--certificate") {
            Ok(file) => TlsClientConfig::new()
                .with_include_system_ca_certs_pool(false)
                .with_ca_file(file),
            Err(_) => TlsClientConfig::insecure(),
        };
        let config =
            ClientConfig::with_endpoint(arguments.text("--endpoint")?).with_tls_setting(tls);
        let deadline = Instant::now() + PATIENCE;
        let connection = loop {
            match service.connect(&config).await {
                Ok(connection) => break connection,
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        let own = name(who);
        let text = own.to_string();
        let mut provider = AuthProvider::shared_secret_from_str(&text, SECRET)?;
        let mut verifier = AuthVerifier::shared_secret_from_str(&text, SECRET)?;
        provider.initialize().await?;
        verifier.initialize().await?;
        let (app, notifications) =
            service.create_app_with_direction(&own, provider, verifier, Direction::Bidirectional)?;
        app.subscribe(&own, Some(connection)).await?;
        Ok(Seat {
            _service: service,
            app,
            notifications,
            connection,
        })
    }

    /// An unreliable session to another application.
    async fn session(&self, to: &str) -> Result<SessionContext, Failure> {
        let to = name(to);
        self.app.set_route(&to, self.connection).await?;
        let config = SessionConfig {
            session_type: ProtoSessionType::PointToPoint,
            mls_settings: None,
            max_retries: None,
            interval: None,
            initiator: true,
            metadata: HashMap::new(),
        };
        let (session, ready) = self.app.create_session(config, to, None).await?;
        tokio::time::timeout(PATIENCE, ready).await??;
        Ok(session)
    }

    /// The next session that another application opens.
    async fn asked(&mut self) -> Result<SessionContext, Failure> {
        loop {
            match self.notifications.recv().await {
                Some(Ok(Notification::NewSession(session))) => return Ok(session),
                Some(_) => {}
                None => return Err("the node is gone".into()),
            }
        }
    }
}

fn payload(message: &ProtoMessage) -> Vec<u8> {
    match message.message_type.as_ref() {
        Some(ProtoPublishType(publish)) => publish
            .msg
            .as_ref()
            .and_then(|content| content.as_application_payload().ok())
            .map(|payload| payload.blob.clone())
            .unwrap_or_default(),
        _ => Vec::new(),
    }
}

async fn throughput(arguments: &Arguments) -> Result<String, Failure> {
    let size = arguments.number("--size")? as usize;
    let receivers = arguments.number("--receivers")? as usize;
    let (received, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    for n in 0..receivers {
        let mut seat = Seat::take(arguments, &format!("receiver-{n}")).await?;
        let received = Arc::clone(&received);
        tokio::spawn(async move {
            let mut session = seat.asked().await?;
            while let Some(Ok(message)) = session.rx.recv().await {
                let whole = payload(&message).len() == size;
                received.fetch_add(u64::from(whole), Ordering::Relaxed);
            }
            // The seat, and with it the connection, stays as long as messages come.
            drop(seat);
            Ok::<(), Failure>(())
        });
    }
    let seat = Seat::take(arguments, "sender").await?;
    let mut sessions = Vec::new();
    for n in 0..receivers {
        sessions.push(seat.session(&format!("receiver-{n}")).await?);
    }
    let window = (WINDOW / (size as u64 + 64)).max(16);
    let sending = {
        let (received, ended) = (Arc::clone(&received), Arc::clone(&ended));
        tokio::spawn(async move {
            let blob = vec![0x5a; size];
            let controllers: Vec<_> = sessions
                .iter()
                .map(|session| session.session_arc().ok_or("a session is closed"))
                .collect::<Result<_, _>>()?;
            let mut sent = 0u64;
            while !ended.load(Ordering::Relaxed) {
                if sent - received.load(Ordering::Relaxed) >= window {
                    tokio::time::sleep(Duration::from_micros(100)).await;
                    continue;
                }
                let to = &controllers[sent as usize % receivers];
                to.publish(to.dst(), blob.clone(), None, None).await?.await?;
                sent += 1;
            }
            Ok::<(), Failure>(())
        })
    };
    tokio::time::sleep(arguments.seconds("--warm-up")?).await;
    let (before, begun) = (arguments.cpu_s()?, Instant::now());
    let first = received.load(Ordering::Relaxed);
    tokio::time::sleep(arguments.seconds("--duration")?).await;
    let cpu_s = arguments.cpu_s()? - before;
    let messages = received.load(Ordering::Relaxed) - first;
    let elapsed_s = begun.elapsed().as_secs_f64();
    ended.store(true, Ordering::Relaxed);
    sending.await??;
    Ok(format!(
        "{{\"messages\": {messages}, \"cpu_s\": {cpu_s}, \"elapsed_s\": {elapsed_s}}}"
    ))
}

async fn round_trip(arguments: &Arguments) -> Result<String, Failure> {
    let rate = arguments.number("--rate")?;
    let size = arguments.number("--size")? as usize;
    let warm_up = arguments.seconds("--warm-up")?;
    let end = warm_up + arguments.seconds("--duration")?;
    let mut answering = Seat::take(arguments, "answers").await?;
    tokio::spawn(async move {
        let mut session = answering.asked().await?;
        let controller = session.session_arc().ok_or("the session is closed")?;
        while let Some(Ok(message)) = session.rx.recv().await {
            let (source, connection) = (message.get_source(), message.get_incoming_conn());
            // A lost answer is counted by the asker.
            let _ = controller
                .publish_to(&source, connection, payload(&message), None, None)
                .await;
        }
        drop(answering);
        Ok::<(), Failure>(())
    });
    let seat = Seat::take(arguments, "asks").await?;
    let (session, mut answers) = seat.session("answers").await?.into_parts();
    let controller = session.upgrade().ok_or("the session is closed")?;
    let begun = Instant::now() + Duration::from_millis(100);
    let took = Arc::new(Mutex::new(Vec::<u64>::new()));
    let results = Arc::clone(&took);
    tokio::spawn(async move {
        while let Some(Ok(message)) = answers.recv().await {
            let due_ns = payload(&message)
                .first_chunk()
                .map_or(0, |chunk| u64::from_be_bytes(*chunk));
            if due_ns > 0 {
                let now = begun.elapsed().as_nanos() as u64;
                if let Ok(mut all) = results.lock() {
                    all.push(now.saturating_sub(due_ns));
                }
            }
        }
    });
    let runtime = tokio::runtime::Handle::current();
    // A thread of its own: the runtime's timer counts in milliseconds.
    let asking = tokio::task::spawn_blocking(move || {
        let (mut asked, mut measured) = (0u64, 0u64);
        let mut blob = vec![0x5a; size];
        loop {
            let due = Duration::from_secs_f64(asked as f64 / rate);
            if due >= end {
                return Ok::<u64, Failure>(measured);
            }
            while begun.elapsed() < due || Instant::now() < begun {
                let wait = (begun + due).saturating_duration_since(Instant::now());
                std::thread::park_timeout(wait);
            }
            // Counted from the time it was due; 0 while warming up.
            let stamp = if due >= warm_up { due.as_nanos() as u64 } else { 0 };
            measured += u64::from(stamp > 0);
            blob[..8].copy_from_slice(&stamp.to_be_bytes());
            runtime.block_on(async {
                let sent = controller.publish(controller.dst(), blob.clone(), None, None);
                sent.await?.await
            })?;
            asked += 1;
        }
    });
    let measured = asking.await??;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut all = took.lock().map_err(|_| "poisoned")?.clone();
    all.sort_unstable();
    let at = |q: f64| {
        let us = all.get((all.len() as f64 * q) as usize);
        us.copied().unwrap_or(0) as f64 / 1e3
    };
    Ok(format!(
        "{{\"p50_us\": {}, \"p99_us\": {}, \"unanswered\": {}}}",
        at(0.5),
        at(0.99),
        measured.saturating_sub(all.len() as u64)
    ))
}
