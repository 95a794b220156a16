//! nats-server, plain and with TLS.

use super::nats_client::{SERVER_NAME, tls_config};
use super::nats_load::Target;
use super::server::{ServerProcess, free_port};
use super::{PeerError, RoundTrip, Settings, System, Throughput, install};
use std::net::SocketAddr;
use std::path::PathBuf;

/// nats-server's default configuration but for the port and, with TLS, the certificate (TLS 1.3, AES-128-GCM).
pub struct Server {
    tls: bool,
    program: Option<PathBuf>,
}

/// One started for one run; its folder goes with it.
struct Running {
    _process: ServerProcess,
    target: Target,
    _folder: tempfile::TempDir,
}

impl Server {
    /// Plain, or with TLS.
    pub fn new(tls: bool) -> Server {
        Server { tls, program: None }
    }

    fn start(&self, settings: &Settings) -> Result<Running, PeerError> {
        let failed = |what| move |e| PeerError::Io(what, e);
        let program = self
            .program
            .as_ref()
            .ok_or_else(|| PeerError::Failed("nats-server is not installed".to_owned()))?;
        let folder = tempfile::tempdir().map_err(failed("temporary folder"))?;
        let address = SocketAddr::new(settings.place.server, free_port()?);
        let mut config = format!("host: \"{}\"\nport: {}\n", address.ip(), address.port());
        let mut tls = None;
        if self.tls {
            let pair = rcgen::generate_simple_self_signed([SERVER_NAME.to_owned()])
                .map_err(|e| PeerError::Failed(format!("certificate: {e}")))?;
            let (chain, key) = (
                folder.path().join("nats.pem"),
                folder.path().join("key.pem"),
            );
            std::fs::write(&chain, pair.cert.pem()).map_err(failed("certificate"))?;
            std::fs::write(&key, pair.signing_key.serialize_pem()).map_err(failed("key"))?;
            config.push_str(&format!(
                "tls {{ cert_file: \"{}\", key_file: \"{}\" }}\n",
                chain.display(),
                key.display()
            ));
            tls = Some(tls_config(pair.cert.der()).map_err(failed("TLS"))?);
        }
        let file = folder.path().join("nats.conf");
        std::fs::write(&file, config).map_err(failed("configuration"))?;
        let arguments = ["-c".to_owned(), file.display().to_string()];
        let log = folder.path().join("log");
        let mut process =
            ServerProcess::start("nats-server", &settings.place, program, &arguments, &log)?;
        process.wait_listening(address, &log)?;
        let watch = process.watch();
        Ok(Running {
            _process: process,
            target: Target {
                address,
                tls,
                watch,
                keys: settings.keys.max(1),
            },
            _folder: folder,
        })
    }
}

impl System for Server {
    fn name(&self) -> &'static str {
        "nats-server"
    }

    fn transport(&self) -> &'static str {
        if self.tls { "tls" } else { "tcp" }
    }

    fn encrypted(&self) -> bool {
        self.tls
    }

    fn install(&mut self, settings: &Settings) -> Result<(), PeerError> {
        self.program = Some(install::nats(&settings.cache)?);
        Ok(())
    }

    fn throughput(
        &mut self,
        settings: &Settings,
        size: usize,
        receivers: usize,
    ) -> Result<Throughput, PeerError> {
        let running = self.start(settings)?;
        running
            .target
            .throughput(size, receivers, settings.warm_up, settings.duration)
    }

    fn round_trip(&mut self, settings: &Settings, rate: f64) -> Result<RoundTrip, PeerError> {
        let running = self.start(settings)?;
        running
            .target
            .round_trip(rate, settings.warm_up, settings.duration)
    }
}
