//! Systems whose load is a program of its own, because their client has more
//! dependencies than this whole workspace: built on demand, it prints what it
//! measured as its last line.

use super::install::{self, Build};
use super::server::{ServerProcess, free_port};
use super::{PeerError, ROUND_TRIP_SIZE, RoundTrip, Settings, System, Throughput};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// What is particular to one of them, over one transport.
pub trait Product {
    /// As the table names it.
    fn name(&self) -> &'static str;
    fn transport(&self) -> &'static str;
    fn encrypted(&self) -> bool;
    /// Its server: crate with version, and program; and how server and load are built.
    fn server(&self) -> ((&'static str, &'static str), &'static str, Build);
    /// The load's folder below `benches/peers`, which is its program's name.
    fn load(&self) -> &'static str;
    /// What the load is told to connect to.
    fn endpoint(&self, address: SocketAddr) -> String;
    /// Name of the configuration file, whose ending says how to read it.
    fn file_name(&self) -> &'static str;
    /// Text of the configuration file.
    fn configuration(&self, address: SocketAddr, identity: Option<&Identity>) -> String;
    /// The server's arguments.
    fn arguments(&self, configuration: &str) -> Vec<String>;
    /// It takes TCP connections when it is ready.
    fn over_tcp(&self) -> bool {
        true
    }
}

/// PEM files of a server that signs for itself.
pub struct Identity {
    pub chain: PathBuf,
    pub key: PathBuf,
}

impl Identity {
    fn new(folder: &Path, address: SocketAddr) -> Result<Identity, PeerError> {
        let failed = |what| move |e| PeerError::Io(what, e);
        let pair = rcgen::generate_simple_self_signed([address.ip().to_string()])
            .map_err(|e| PeerError::Failed(format!("certificate: {e}")))?;
        let (chain, key) = (folder.join("chain.pem"), folder.join("key.pem"));
        std::fs::write(&chain, pair.cert.pem()).map_err(failed("certificate"))?;
        std::fs::write(&key, pair.signing_key.serialize_pem()).map_err(failed("key"))?;
        Ok(Identity { chain, key })
    }
}

/// A [`Product`] as a system to measure.
pub struct Foreign<P> {
    product: P,
    programs: Option<Programs>,
}

struct Programs {
    server: PathBuf,
    load: PathBuf,
}

/// The last line of a load at full speed; without any of these there is no result.
#[derive(Debug, Deserialize)]
struct FullSpeed {
    messages: u64,
    cpu_s: f64,
    elapsed_s: f64,
}

/// The last line of a load of round trips.
#[derive(Debug, Deserialize)]
struct Trips {
    p50_us: f64,
    p99_us: f64,
    unanswered: u64,
}

struct Running {
    process: ServerProcess,
    log: PathBuf,
    endpoint: String,
    identity: Option<Identity>,
    _folder: TempDir,
}

impl<P: Product> Foreign<P> {
    pub fn new(product: P) -> Foreign<P> {
        Foreign {
            product,
            programs: None,
        }
    }

    fn programs(&self) -> Result<&Programs, PeerError> {
        let missing = || PeerError::Failed(format!("{} is not installed", self.product.name()));
        self.programs.as_ref().ok_or_else(missing)
    }

    fn start(&self, settings: &Settings) -> Result<Running, PeerError> {
        let failed = |what| move |e| PeerError::Io(what, e);
        let folder = tempfile::tempdir().map_err(failed("temporary folder"))?;
        let address = SocketAddr::new(settings.place.server, free_port()?);
        let encrypted = self.product.encrypted();
        let identity = encrypted.then(|| Identity::new(folder.path(), address));
        let identity = identity.transpose()?;
        let text = self.product.configuration(address, identity.as_ref());
        let file = folder.path().join(self.product.file_name());
        std::fs::write(&file, text).map_err(failed("configuration"))?;
        let arguments = self.product.arguments(&file.display().to_string());
        let log = folder.path().join("log");
        let program = &self.programs()?.server;
        let (place, name) = (&settings.place, self.product.name());
        let mut process = ServerProcess::start(name, place, program, &arguments, &log)?;
        // Nobody can see from outside whether QUIC listens; the load tries until it does.
        if self.product.over_tcp() {
            process.wait_listening(address, &log)?;
        }
        Ok(Running {
            process,
            log,
            endpoint: self.product.endpoint(address),
            identity,
            _folder: folder,
        })
    }

    fn load<T: DeserializeOwned>(
        &self,
        settings: &Settings,
        size: usize,
        receivers: usize,
        rate: f64,
    ) -> Result<T, PeerError> {
        let mut running = self.start(settings)?;
        let name = self.product.load();
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
        if let Some(identity) = &running.identity {
            command.arg("--certificate").arg(&identity.chain);
        }
        let output = command
            .stdin(Stdio::null())
            .output()
            .map_err(|e| PeerError::Io(name, e))?;
        running.process.alive(&running.log)?;
        let last = |text: &[u8]| {
            let text = String::from_utf8_lossy(text);
            text.lines().last().unwrap_or("no word").to_owned()
        };
        if !output.status.success() {
            let last = last(&output.stderr);
            return Err(PeerError::Failed(format!("{name}: {last}")));
        }
        // A client may log on the same output.
        serde_json::from_str(&last(&output.stdout))
            .map_err(|e| PeerError::Failed(format!("{name}: {e}")))
    }
}

impl<P: Product> System for Foreign<P> {
    fn name(&self) -> &'static str {
        self.product.name()
    }

    fn transport(&self) -> &'static str {
        self.product.transport()
    }

    fn encrypted(&self) -> bool {
        self.product.encrypted()
    }

    fn install(&mut self, settings: &Settings) -> Result<(), PeerError> {
        let (package, program, build) = self.product.server();
        let load = self.product.load();
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("peers")
            .join(load)
            .join("Cargo.toml");
        self.programs = Some(Programs {
            server: install::cargo(&settings.cache, package, program, build)?,
            load: install::project(&settings.cache, &manifest, load, build)?,
        });
        Ok(())
    }

    fn throughput(
        &mut self,
        settings: &Settings,
        size: usize,
        receivers: usize,
    ) -> Result<Throughput, PeerError> {
        let found: FullSpeed = self.load(settings, size, receivers, 0.0)?;
        let seconds = |seconds: f64| {
            Duration::try_from_secs_f64(seconds)
                .map_err(|e| PeerError::Failed(format!("{}: {e}", self.product.load())))
        };
        Ok(Throughput {
            messages: found.messages,
            payload_bytes: found.messages * size as u64,
            cpu: seconds(found.cpu_s)?,
            elapsed: seconds(found.elapsed_s)?,
        })
    }

    fn round_trip(&mut self, settings: &Settings, rate: f64) -> Result<RoundTrip, PeerError> {
        let found: Trips = self.load(settings, ROUND_TRIP_SIZE, 1, rate)?;
        Ok(RoundTrip {
            rate,
            p50: found.p50_us,
            p99: found.p99_us,
            unanswered: found.unanswered,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_that_lacks_a_figure_is_none() {
        let whole = r#"{"messages": 5, "cpu_s": 0.5, "elapsed_s": 1.0}"#;
        let found: FullSpeed = serde_json::from_str(whole).expect("whole");
        assert_eq!(
            (found.messages, found.cpu_s, found.elapsed_s),
            (5, 0.5, 1.0)
        );
        for cut in [
            r#"{"messages": 5, "elapsed_s": 1.0}"#,
            r#"{"messages": 5, "cpu_s": null, "elapsed_s": 1.0}"#,
        ] {
            let error = serde_json::from_str::<FullSpeed>(cut).expect_err("no figure");
            assert!(error.is_data(), "{error}");
        }
        let trips = r#"{"p50_us": 1.5, "p99_us": 2.5}"#;
        let error = serde_json::from_str::<Trips>(trips).expect_err("no count");
        assert!(error.to_string().contains("unanswered"), "{error}");
    }
}
