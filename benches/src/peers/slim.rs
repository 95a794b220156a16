//! SLIM (`agntcy-slim`): its node, loaded by the bench in its own command
//! line.
//!
//! The bench sends unreliably as fast as it can to names of its own choice
//! (it cannot spread messages over keys) and asks round trips one after the
//! other: there is no open-loop figure, and that is said instead of one.
//! Plain text, as its command line starts a node.

use super::server::{ServerProcess, free_port};
use super::{PeerError, RoundTrip, Settings, System, Throughput, install};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Messages a second that a first guess assumes: the run is long enough, not exactly as long as asked.
const GUESS_PER_S: f64 = 40_000.0;
/// A subscriber that waits longer for lost messages is ended; what it had is not reported then.
const PATIENCE: Duration = Duration::from_secs(90);

/// `slimctl slim start` as the server, `slimctl bench` as the load.
#[derive(Default)]
pub struct Server {
    program: Option<PathBuf>,
}

struct Running {
    process: ServerProcess,
    address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Server {
    fn program(&self) -> Result<&Path, PeerError> {
        let missing = || PeerError::Failed("slimctl is not installed".to_owned());
        self.program.as_deref().ok_or_else(missing)
    }

    fn start(&self, settings: &Settings) -> Result<Running, PeerError> {
        let folder = tempfile::tempdir().map_err(|e| PeerError::Io("temporary folder", e))?;
        let address = SocketAddr::new(settings.place.server, free_port()?);
        let arguments = ["slim", "start", "--endpoint", &address.to_string()].map(str::to_owned);
        let log = folder.path().join("log");
        let program = self.program()?;
        let mut process = ServerProcess::start("slim", &settings.place, program, &arguments, &log)?;
        process.wait_listening(address, &log)?;
        Ok(Running {
            process,
            address,
            folder,
        })
    }

    /// One side of the bench.
    fn bench(
        &self,
        running: &Running,
        side: &str,
        count: usize,
        messages: u64,
        size: usize,
    ) -> Result<Command, PeerError> {
        let mut command = Command::new(self.program()?);
        command
            .args(["bench", "--log-level", "error", side])
            .args(["--count", &count.to_string()])
            .args(["--msgs", &messages.to_string()])
            .args(["--size", &size.to_string()])
            .args(["--server", &format!("http://{}", running.address)])
            .arg("--csv")
            .arg(running.folder.path().join(format!("{side}.csv")))
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        Ok(command)
    }
}

impl System for Server {
    fn name(&self) -> &'static str {
        "slim"
    }

    fn transport(&self) -> &'static str {
        "grpc"
    }

    fn encrypted(&self) -> bool {
        false
    }

    fn install(&mut self, settings: &Settings) -> Result<(), PeerError> {
        self.program = Some(install::cargo(
            &settings.cache,
            install::SLIMCTL,
            "slimctl",
        )?);
        Ok(())
    }

    fn throughput(
        &mut self,
        settings: &Settings,
        size: usize,
        receivers: usize,
    ) -> Result<Throughput, PeerError> {
        let running = self.start(settings)?;
        let time = (settings.warm_up + settings.duration).as_secs_f64();
        let messages = ((GUESS_PER_S * time) as u64).next_multiple_of(receivers as u64);
        let failed = |e| PeerError::Io("slimctl bench", e);
        let mut subscribers = self
            .bench(&running, "sub", receivers, messages, size)?
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        wait_ready(&mut subscribers, receivers)?;
        let sample = |running: &Running| {
            let watch = running.process.watch();
            watch.sample().map_err(failed)
        };
        let (before, begun) = (sample(&running)?, Instant::now());
        let mut publishers = self
            .bench(&running, "pub", receivers, messages, size)?
            .stdout(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let ended = wait(&mut publishers).and_then(|()| wait(&mut subscribers));
        let elapsed = begun.elapsed();
        let after = sample(&running)?;
        end(&mut publishers);
        end(&mut subscribers);
        ended?;
        let (messages, payload_bytes) = received(&running.folder.path().join("sub.csv"))?;
        Ok(Throughput {
            messages,
            payload_bytes,
            cpu: after.cpu.saturating_sub(before.cpu),
            elapsed,
        })
    }

    fn round_trip(&mut self, _: &Settings, _: f64) -> Result<RoundTrip, PeerError> {
        Err(PeerError::Failed(
            "slim's bench asks one question after the other: no open-loop figure".to_owned(),
        ))
    }
}

/// Waits until each subscriber has said that it is ready.
fn wait_ready(child: &mut Child, count: usize) -> Result<(), PeerError> {
    let Some(output) = child.stdout.take() else {
        return Err(PeerError::Failed("slimctl bench says nothing".to_owned()));
    };
    let mut lines = BufReader::new(output).lines().map_while(Result::ok);
    let ready = lines
        .by_ref()
        .filter(|line| line.contains("] ready at"))
        .take(count)
        .count();
    // The pipe must stay open, and be emptied, while the bench runs.
    std::thread::spawn(move || lines.for_each(drop));
    if ready == count {
        Ok(())
    } else {
        Err(PeerError::Failed(format!(
            "{ready} of {count} slim subscribers became ready"
        )))
    }
}

fn wait(child: &mut Child) -> Result<(), PeerError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => {
                return Err(PeerError::Failed(format!(
                    "slimctl bench ended with {status}"
                )));
            }
            Ok(None) if Instant::now() < deadline => {
                std::thread::park_timeout(Duration::from_millis(5));
            }
            _ => {
                let what =
                    format!("slimctl bench did not end within {PATIENCE:?}: messages were lost");
                return Err(PeerError::Failed(what));
            }
        }
    }
}

fn end(child: &mut Child) {
    // It may have ended already.
    let _ = child.kill();
    let _ = child.wait();
}

/// Sums of `MsgCount` and `MsgBytes`.
fn received(csv: &Path) -> Result<(u64, u64), PeerError> {
    let file = File::open(csv).map_err(|e| PeerError::Io("slimctl's CSV", e))?;
    let (mut messages, mut bytes) = (0, 0);
    for line in BufReader::new(file).lines().map_while(Result::ok).skip(1) {
        let mut fields = line.split(',').skip(2).map(str::parse::<u64>);
        if let (Some(Ok(count)), Some(Ok(size))) = (fields.next(), fields.next()) {
            messages += count;
            bytes += size;
        }
    }
    Ok((messages, bytes))
}
