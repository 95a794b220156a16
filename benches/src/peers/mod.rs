//! The same load through other message routers, side by side with ours.
//!
//! Each system runs as its own server process, alone, in turn, repeatedly;
//! its CPU time comes from `/proc`, as ours does. Generator and server share
//! the machine's cores, so systems are compared by CPU time per message and
//! by round trip, not by rate. A system that cannot be installed or started
//! is a failed row, never a missing one.
//!
//! Settings, each system at its best reasonable ones: publishers batch writes
//! of 64 KiB and keep a window under way, so that nothing is dropped; every
//! subscriber has its own connection and keys of its own; round trips go
//! through the system both ways, one at a time as they fall due. Ours always
//! spreads messages over 10,000 labels and flows. Peers get one key for each
//! receiver unless told otherwise: several keep a cache of a thousand
//! subjects, and 10,000 would halve what they can do.

pub mod bars;
pub mod caplane;
mod foreign;
pub mod install;
pub mod nats;
pub mod results;
pub mod server;
pub mod slim;
pub mod table;
pub mod veth;
pub mod zenoh;

mod nats_client;
mod nats_load;

use self::foreign::Foreign;
use crate::ceiling::CeilingError;
use crate::load::RunError;
use crate::rig::RigError;
use serde::Serialize;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

/// Labels that messages through our router are spread over.
pub const LABELS: usize = 10_000;
/// Payload bytes of a round trip.
pub const ROUND_TRIP_SIZE: usize = 1_024;

/// Where servers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// Everything on the loopback interface: large packets.
    Loopback,
    /// The server behind a veth link of 1500 bytes, in a network namespace of its own.
    Veth,
}

/// How systems are measured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Time measured in each run.
    pub duration: Duration,
    /// Time before it.
    pub warm_up: Duration,
    /// Where servers run.
    pub place: Place,
    /// Subjects that messages through a peer are spread over, at least one for each receiver.
    pub keys: usize,
    /// Where peers are installed.
    pub cache: PathBuf,
}

/// A path's addresses, and how a program is started at its far end.
#[derive(Clone, Debug)]
pub struct Place {
    /// Which path it is.
    pub path: Path,
    /// Address of servers.
    pub server: IpAddr,
    /// Address of the generator, as servers see it.
    pub generator: IpAddr,
    /// What stands before a server's command line.
    pub prefix: Vec<String>,
}

impl Place {
    /// Everything on loopback.
    pub fn loopback() -> Place {
        Place {
            path: Path::Loopback,
            server: Ipv4Addr::LOCALHOST.into(),
            generator: Ipv4Addr::LOCALHOST.into(),
            prefix: Vec::new(),
        }
    }
}

/// Messages that came through a server, and what that cost it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Throughput {
    /// Messages received within the window.
    pub messages: u64,
    /// Their payload bytes.
    pub payload_bytes: u64,
    /// CPU time of the server meanwhile.
    pub cpu: Duration,
    /// Length of the window.
    pub elapsed: Duration,
}

/// Round trips at a rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct RoundTrip {
    /// Questions a second.
    pub rate: f64,
    /// Median (us), from the time a question was due.
    pub p50: f64,
    /// 99th percentile (us).
    pub p99: f64,
    /// Questions without an answer.
    pub unanswered: u64,
}

/// Why a system could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// It could not be installed.
    #[error("installing: {0}")]
    Install(String),
    /// A program could not be run.
    #[error("{0}: {1}")]
    Io(&'static str, io::Error),
    /// It did not behave.
    #[error("{0}")]
    Failed(String),
    /// Our own router could not be started.
    #[error(transparent)]
    Rig(#[from] RigError),
    /// A run through our own router failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A yardstick failed.
    #[error(transparent)]
    Ceiling(#[from] CeilingError),
}

/// One message router on one transport.
pub trait System {
    /// Its name: `caplane-router`, `nats-server`, ...
    fn name(&self) -> &'static str;

    /// What carries messages to and from it.
    fn transport(&self) -> &'static str;

    /// Whether messages are encrypted on the way.
    fn encrypted(&self) -> bool;

    /// Installs what is needed, into the cache.
    ///
    /// # Errors
    /// [`PeerError::Install`] says what is missing.
    fn install(&mut self, settings: &Settings) -> Result<(), PeerError>;

    /// One sender at full speed to `receivers`, each message to one of them.
    ///
    /// # Errors
    /// When the server does not start or the load fails.
    fn throughput(
        &mut self,
        settings: &Settings,
        size: usize,
        receivers: usize,
    ) -> Result<Throughput, PeerError>;

    /// Questions of 1 KiB at fixed times, each answered with the same.
    ///
    /// # Errors
    /// As [`System::throughput`].
    fn round_trip(&mut self, settings: &Settings, rate: f64) -> Result<RoundTrip, PeerError>;
}

/// Every system of the comparison.
pub fn systems() -> Vec<Box<dyn System>> {
    vec![
        Box::new(caplane::Router),
        Box::new(nats::Server::new(false)),
        Box::new(nats::Server::new(true)),
        Box::new(Foreign::new(zenoh::Zenohd { transport: "tcp" })),
        Box::new(Foreign::new(zenoh::Zenohd { transport: "tls" })),
        Box::new(Foreign::new(zenoh::Zenohd { transport: "quic" })),
        Box::new(Foreign::new(slim::SlimNode { tls: false })),
        Box::new(Foreign::new(slim::SlimNode { tls: true })),
    ]
}
