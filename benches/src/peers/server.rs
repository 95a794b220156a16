//! A peer's server process: started at its place, waited for, watched, ended.

use super::{PeerError, Place};
use crate::load::ProcessWatch;
use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server listens in milliseconds; this is for a busy machine.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// One that does not end by itself within this time is killed.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// Lets a server end with us even where we are killed, and cannot end it (util-linux).
const TIED: [&str; 3] = ["setpriv", "--pdeathsig", "TERM"];

/// A running server; ends when dropped, and with its parent.
pub struct ServerProcess {
    child: Child,
    name: &'static str,
}

impl ServerProcess {
    /// Starts `program` at `place`; its output goes to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        name: &'static str,
        place: &Place,
        program: &Path,
        arguments: &[String],
        log: &Path,
    ) -> Result<ServerProcess, PeerError> {
        let failed = |e| PeerError::Io(name, e);
        let out = File::create(log).map_err(failed)?;
        let err = out.try_clone().map_err(failed)?;
        let mut words = place.prefix.iter().map(String::as_str).chain(TIED);
        let mut command = Command::new(words.next().unwrap_or(TIED[0]));
        let child = command
            .args(words)
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(failed)?;
        Ok(ServerProcess { child, name })
    }

    /// Waits until it takes TCP connections.
    ///
    /// # Errors
    /// When it ends or does not listen in time.
    pub fn wait_listening(&mut self, address: SocketAddr, log: &Path) -> Result<(), PeerError> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            if TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok() {
                return Ok(());
            }
            self.alive(log)?;
            if Instant::now() > deadline {
                let what = format!("{} does not listen on {address}", self.name);
                return Err(PeerError::Failed(what));
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// Fails with the end of its log when it has ended.
    ///
    /// # Errors
    /// [`PeerError::Failed`].
    pub fn alive(&mut self, log: &Path) -> Result<(), PeerError> {
        let Ok(Some(status)) = self.child.try_wait() else {
            return Ok(());
        };
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let end = lines[lines.len().saturating_sub(5)..].join(" / ");
        let skipped = end.chars().count().saturating_sub(LOG_END);
        let end: String = end.chars().skip(skipped).collect();
        Err(PeerError::Failed(format!(
            "{} ended with {status}: {end}",
            self.name
        )))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// For its CPU time.
    pub fn watch(&self) -> ProcessWatch {
        ProcessWatch::new(vec![self.child.id()])
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let terminate = rustix::process::Signal::TERM;
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            // It may have ended already.
            let _ = rustix::process::kill_process(pid, terminate);
        }
        let deadline = Instant::now() + END_PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Characters of a log that an error shows.
const LOG_END: usize = 600;

/// Ports that Linux gives to nobody who asks for any (`net.ipv4.ip_local_port_range` begins at 32,768): one of these stays
/// free until the server takes it.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A port that is free for TCP and UDP on all addresses: servers of others take no port 0.
///
/// # Errors
/// When the system has none.
pub fn free_port() -> Result<u16, PeerError> {
    let first = std::process::id() as usize;
    let ports = PORTS.cycle().skip(first % PORTS.len());
    for port in ports.take(PORTS.len()) {
        let free = TcpListener::bind(("0.0.0.0", port)).is_ok()
            && UdpSocket::bind(("0.0.0.0", port)).is_ok();
        if free {
            return Ok(port);
        }
    }
    Err(PeerError::Failed("no free port".to_owned()))
}
