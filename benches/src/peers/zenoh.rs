//! zenohd over TCP, TLS and QUIC.
//!
//! The load is a program of its own (`benches/peers/zenoh-load`), since
//! zenoh's client has more dependencies than this whole workspace: it is
//! built on demand and prints what it measured.

use super::install::Build;
use super::server::{ServerProcess, free_port};
use super::{PeerError, ROUND_TRIP_SIZE, RoundTrip, Settings, System, Throughput, install};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// zenohd's defaults but for scouting (off) and, with TLS and QUIC, the certificate; declared publishers, blocking when
/// congested, batching on for throughput and off (express) for round trips.
pub struct Server {
    transport: &'static str,
    programs: Option<Programs>,
}

struct Programs {
    server: PathBuf,
    load: PathBuf,
}

struct Running {
    process: ServerProcess,
    log: PathBuf,
    endpoint: String,
    certificate: Option<PathBuf>,
    _folder: tempfile::TempDir,
}

impl Server {
    /// "tcp", "tls" or "quic".
    pub fn new(transport: &'static str) -> Server {
        Server {
            transport,
            programs: None,
        }
    }

    fn programs(&self) -> Result<&Programs, PeerError> {
        let missing = || PeerError::Failed("zenohd is not installed".to_owned());
        self.programs.as_ref().ok_or_else(missing)
    }

    fn start(&self, settings: &Settings) -> Result<Running, PeerError> {
        let failed = |what| move |e| PeerError::Io(what, e);
        let folder = tempfile::tempdir().map_err(failed("temporary folder"))?;
        let address = SocketAddr::new(settings.place.server, free_port()?);
        let endpoint = format!("{}/{address}", self.transport);
        let mut tls = String::new();
        let mut certificate = None;
        if self.encrypted() {
            let pair = rcgen::generate_simple_self_signed([address.ip().to_string()])
                .map_err(|e| PeerError::Failed(format!("certificate: {e}")))?;
            let (chain, key) = (
                folder.path().join("zenoh.pem"),
                folder.path().join("key.pem"),
            );
            std::fs::write(&chain, pair.cert.pem()).map_err(failed("certificate"))?;
            std::fs::write(&key, pair.signing_key.serialize_pem()).map_err(failed("key"))?;
            tls = format!(
                ", transport: {{ link: {{ tls: {{ listen_certificate: \"{}\", listen_private_key: \"{}\" }} }} }}",
                chain.display(),
                key.display()
            );
            certificate = Some(chain);
        }
        let config = format!(
            "{{ mode: \"router\", listen: {{ endpoints: [\"{endpoint}\"] }}, scouting: {{ multicast: {{ enabled: false }}, gossip: {{ enabled: false }} }}{tls} }}\n"
        );
        let file = folder.path().join("zenoh.json5");
        std::fs::write(&file, config).map_err(failed("configuration"))?;
        let arguments = ["-c".to_owned(), file.display().to_string()];
        let log = folder.path().join("log");
        let program = &self.programs()?.server;
        let mut process =
            ServerProcess::start("zenohd", &settings.place, program, &arguments, &log)?;
        // Nobody can see from outside whether QUIC listens; the load tries until it does.
        if self.transport != "quic" {
            process.wait_listening(address, &log)?;
        }
        Ok(Running {
            process,
            log,
            endpoint,
            certificate,
            _folder: folder,
        })
    }

    fn load(
        &self,
        settings: &Settings,
        size: usize,
        receivers: usize,
        rate: f64,
    ) -> Result<Value, PeerError> {
        let mut running = self.start(settings)?;
        let mut command = Command::new(&self.programs()?.load);
        command
            .args(["--endpoint", &running.endpoint])
            .args(["--server-pid", &running.process.pid().to_string()])
            .args(["--size", &size.to_string()])
            .args(["--receivers", &receivers.to_string()])
            .args(["--keys", &settings.keys.max(receivers).to_string()])
            .args(["--warm-up", &settings.warm_up.as_secs_f64().to_string()])
            .args(["--duration", &settings.duration.as_secs_f64().to_string()])
            .args(["--rate", &rate.to_string()]);
        if let Some(certificate) = &running.certificate {
            command.arg("--certificate").arg(certificate);
        }
        let output = command
            .stdin(Stdio::null())
            .output()
            .map_err(|e| PeerError::Io("zenoh-load", e))?;
        running.process.alive(&running.log)?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            let last = text.lines().last().unwrap_or("no word").to_owned();
            return Err(PeerError::Failed(format!("zenoh-load: {last}")));
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|e| PeerError::Failed(format!("zenoh-load: {e}")))
    }
}

impl System for Server {
    fn name(&self) -> &'static str {
        "zenohd"
    }

    fn transport(&self) -> &'static str {
        self.transport
    }

    fn encrypted(&self) -> bool {
        self.transport != "tcp"
    }

    fn install(&mut self, settings: &Settings) -> Result<(), PeerError> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/zenoh-load/Cargo.toml");
        self.programs = Some(Programs {
            server: install::cargo(&settings.cache, install::ZENOHD, "zenohd", Build::Zenoh)?,
            load: install::project(&settings.cache, &manifest, "zenoh-load", Build::Zenoh)?,
        });
        Ok(())
    }

    fn throughput(
        &mut self,
        settings: &Settings,
        size: usize,
        receivers: usize,
    ) -> Result<Throughput, PeerError> {
        let found = self.load(settings, size, receivers, 0.0)?;
        let messages = found["messages"].as_u64().unwrap_or(0);
        let seconds = |key: &str| Duration::from_secs_f64(found[key].as_f64().unwrap_or(0.0));
        Ok(Throughput {
            messages,
            payload_bytes: messages * size as u64,
            cpu: seconds("cpu_s"),
            elapsed: seconds("elapsed_s"),
        })
    }

    fn round_trip(&mut self, settings: &Settings, rate: f64) -> Result<RoundTrip, PeerError> {
        let found = self.load(settings, ROUND_TRIP_SIZE, 1, rate)?;
        let us = |key: &str| found[key].as_f64().unwrap_or(0.0);
        Ok(RoundTrip {
            rate,
            p50: us("p50_us"),
            p99: us("p99_us"),
            unanswered: found["unanswered"].as_u64().unwrap_or(0),
        })
    }
}
