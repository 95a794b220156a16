//! SLIM (`agntcy-slim`): its node, in plain text and over TLS.
//!
//! The node is `slimctl slim start`. The bench of that command line knows no
//! TLS, no key but its own and no open loop, so the load is a program of ours
//! (`benches/peers/slim-load`) on SLIM's client.

use super::install::Build;
use super::server::{ServerProcess, free_port};
use super::{PeerError, ROUND_TRIP_SIZE, RoundTrip, Settings, System, Throughput, install};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The node's defaults: a thread a core. Sessions are unreliable and without MLS, which is between the ends and costs the node nothing.
pub struct Server {
    tls: bool,
    programs: Option<Programs>,
}

struct Programs {
    server: PathBuf,
    load: PathBuf,
}

struct Running {
    process: ServerProcess,
    log: PathBuf,
    address: SocketAddr,
    certificate: Option<PathBuf>,
    _folder: tempfile::TempDir,
}

impl Server {
    /// With TLS (server certificate only), or in plain text.
    pub fn new(tls: bool) -> Server {
        Server {
            tls,
            programs: None,
        }
    }

    fn programs(&self) -> Result<&Programs, PeerError> {
        let missing = || PeerError::Failed("slimctl is not installed".to_owned());
        self.programs.as_ref().ok_or_else(missing)
    }

    fn start(&self, settings: &Settings) -> Result<Running, PeerError> {
        let failed = |what| move |e| PeerError::Io(what, e);
        let folder = tempfile::tempdir().map_err(failed("temporary folder"))?;
        let address = SocketAddr::new(settings.place.server, free_port()?);
        let mut certificate = None;
        let tls = if self.tls {
            let pair = rcgen::generate_simple_self_signed([address.ip().to_string()])
                .map_err(|e| PeerError::Failed(format!("certificate: {e}")))?;
            let (chain, key) = (
                folder.path().join("slim.pem"),
                folder.path().join("key.pem"),
            );
            std::fs::write(&chain, pair.cert.pem()).map_err(failed("certificate"))?;
            std::fs::write(&key, pair.signing_key.serialize_pem()).map_err(failed("key"))?;
            let source = format!(
                "{{ source: {{ type: file, cert: \"{}\", key: \"{}\" }} }}",
                chain.display(),
                key.display()
            );
            certificate = Some(chain);
            source
        } else {
            "{ insecure: true }".to_owned()
        };
        let config = format!(
            "runtime: {{ n_cores: 0, thread_name: slim, drain_timeout: 1s }}\ntracing: {{ log_level: error }}\n\
             services:\n  slim/0:\n    dataplane:\n      servers:\n        - endpoint: \"{address}\"\n          tls: {tls}\n      clients: []\n"
        );
        let file = folder.path().join("slim.yaml");
        std::fs::write(&file, config).map_err(failed("configuration"))?;
        let arguments = ["slim", "start", "--config", &file.display().to_string()];
        let arguments = arguments.map(str::to_owned);
        let log = folder.path().join("log");
        let program = &self.programs()?.server;
        let mut process = ServerProcess::start("slim", &settings.place, program, &arguments, &log)?;
        process.wait_listening(address, &log)?;
        Ok(Running {
            process,
            log,
            address,
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
        let scheme = if self.tls { "https" } else { "http" };
        let mut command = Command::new(&self.programs()?.load);
        command
            .args(["--endpoint", &format!("{scheme}://{}", running.address)])
            .args(["--server-pid", &running.process.pid().to_string()])
            .args(["--size", &size.to_string()])
            .args(["--receivers", &receivers.to_string()])
            .args(["--warm-up", &settings.warm_up.as_secs_f64().to_string()])
            .args(["--duration", &settings.duration.as_secs_f64().to_string()])
            .args(["--rate", &rate.to_string()]);
        if let Some(certificate) = &running.certificate {
            command.arg("--certificate").arg(certificate);
        }
        let output = command
            .stdin(Stdio::null())
            .output()
            .map_err(|e| PeerError::Io("slim-load", e))?;
        running.process.alive(&running.log)?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            let last = text.lines().last().unwrap_or("no word").to_owned();
            return Err(PeerError::Failed(format!("slim-load: {last}")));
        }
        // SLIM's client may log on the same output; the result is the last line.
        let text = String::from_utf8_lossy(&output.stdout);
        let last = text.lines().last().unwrap_or_default();
        serde_json::from_str(last).map_err(|e| PeerError::Failed(format!("slim-load: {e}")))
    }
}

impl System for Server {
    fn name(&self) -> &'static str {
        "slim"
    }

    fn transport(&self) -> &'static str {
        if self.tls { "grpcs" } else { "grpc" }
    }

    fn encrypted(&self) -> bool {
        self.tls
    }

    fn install(&mut self, settings: &Settings) -> Result<(), PeerError> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/slim-load/Cargo.toml");
        self.programs = Some(Programs {
            server: install::cargo(&settings.cache, install::SLIMCTL, "slimctl", Build::Slim)?,
            load: install::project(&settings.cache, &manifest, "slim-load", Build::Slim)?,
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
