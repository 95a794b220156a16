//! A fabric in one process: certificates, a controller that says what the test tells
//! it to, routers from the library, and instances that are bare transport endpoints.
#![allow(dead_code, reason = "every test file uses a part of it")]

pub mod controller;
pub mod instance;
pub mod pki;
pub mod tables;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use caplane_router::Router;
use caplane_router::config::RouterConfig;

/// Nothing here takes longer, on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Starts router `name` with its state in `folder`, known to the controllers at `controllers`.
pub fn start_router(
    pki: &pki::Pki,
    folder: &Path,
    name: &str,
    controllers: &[SocketAddr],
) -> Router {
    start_router_at(pki, folder, name, controllers, "127.0.0.1:0")
}

/// The same on a chosen address.
pub fn start_router_at(
    pki: &pki::Pki,
    folder: &Path,
    name: &str,
    controllers: &[SocketAddr],
    listen: &str,
) -> Router {
    // CAPLANE_LOG=debug shows what the routers said when a test fails.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("CAPLANE_LOG"))
        .try_init();
    let text = config_text(pki, name, controllers, listen);
    let config = RouterConfig::parse(&folder.join("router.toml"), &text).unwrap();
    Router::start(&config).unwrap()
}

/// A `router.toml`; more sections may follow it.
pub fn config_text(pki: &pki::Pki, name: &str, controllers: &[SocketAddr], listen: &str) -> String {
    let files = pki.router(name);
    let addresses: Vec<String> = controllers.iter().map(|a| format!("\"{a}\"")).collect();
    format!(
        r#"
name = "{name}"
listen = "{listen}"
admin = "127.0.0.1:0"
state_dir = "{name}-state"
[controller]
addresses = [{}]
[credentials]
chain = "{}"
key = "{}"
trust = [{{ domain = "caplane.local", roots = "{}" }}]
[timers]
drain_period_ms = 3000
"#,
        addresses.join(", "),
        files.chain.display(),
        files.key.display(),
        pki.roots().display(),
    )
}

/// The metrics text of a router.
pub fn metrics(router: &Router) -> String {
    let mut stream = TcpStream::connect(router.addresses().admin).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// The value of one sample, by its name with labels.
pub fn metric(router: &Router, sample: &str) -> f64 {
    let text = metrics(router);
    let line = text
        .lines()
        .find(|line| {
            line.rsplit_once(' ')
                .is_some_and(|(name, _)| name == sample)
        })
        .unwrap_or_else(|| panic!("no sample {sample} in\n{text}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// Asks `condition` until it holds; fails the test after [`DEADLINE`].
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "still not so: {what}");
        // Gives the routers' threads the processor; the condition is what is waited for.
        std::thread::yield_now();
    }
}
