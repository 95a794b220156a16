//! The naive hop as a process of its own, so that `/proc` counts the hop and
//! nothing else, just as it counts a router.

use super::CeilingError;
use super::hop::Hop;
use super::quic::CertificateFiles;
use crate::load::{Approach, ProcessWatch, Target, class_labels};
use caplane_transport::Credentials;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Labels in the hop's table; a load uses as many of the first ones as it has classes.
pub const LABELS: usize = 1_000_000;
/// The subcommand that this program runs as the hop.
pub const SUBCOMMAND: &str = "naive-hop";
/// It ends at once when its standard input does; a machine that is busy may need a moment.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// A running hop for one sender and one receiver; ends when dropped.
pub struct HopProcess {
    child: Child,
    address: SocketAddr,
    packet: usize,
}

impl HopProcess {
    /// Starts the hop; its packets are `packet` bytes from the start.
    ///
    /// # Errors
    /// When the program is not found or does not say where it listens.
    pub fn start(
        packet: usize,
        certificate: &CertificateFiles,
    ) -> Result<HopProcess, CeilingError> {
        let program = this_program().map_err(|e| CeilingError::Io("finding caplane-load", e))?;
        let mut child = Command::new(program)
            .arg(SUBCOMMAND)
            .args(["--packet", &packet.to_string()])
            .arg("--chain")
            .arg(&certificate.chain)
            .arg("--key")
            .arg(&certificate.key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| CeilingError::Io("starting the naive hop", e))?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output)
                .read_line(&mut line)
                .map_err(|e| CeilingError::Io("the naive hop's address", e))?;
        }
        let Ok(address) = line.trim().parse() else {
            // It has ended, or is of no use.
            let _ = child.kill();
            let _ = child.wait();
            return Err(CeilingError::Stuck("the naive hop said no address"));
        };
        Ok(HopProcess {
            child,
            address,
            packet,
        })
    }

    /// What to measure: one sender, one receiver.
    pub fn target(&self, sender: Credentials, receiver: Credentials) -> Target {
        Target {
            name: format!("naive hop, packets of {} bytes", self.packet),
            ingress: self.address,
            egress: self.address,
            sender,
            receivers: vec![receiver],
            watch: ProcessWatch::new(vec![self.child.id()]),
            approach: Approach::Plain,
            co_located: true,
        }
    }
}

impl Drop for HopProcess {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + END_PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::park_timeout(Duration::from_millis(2));
        }
        // Errors mean that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the subcommand does: says its address, forwards until its standard input ends or a connection does.
///
/// # Errors
/// When the system or QUIC refuses.
pub fn serve(packet: usize, certificate: &CertificateFiles) -> Result<(), CeilingError> {
    let labels = class_labels(LABELS).into_iter();
    let mut hop = Hop::bind(packet, labels, certificate)?;
    println!("{}", hop.address());
    io::stdout()
        .flush()
        .map_err(|e| CeilingError::Io("standard output", e))?;
    std::thread::spawn(|| {
        // Whatever comes: the end is what counts.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    hop.run()?;
    let [messages, unknown, copied] = hop.counts();
    tracing::info!(messages, unknown, copied, "naive hop ended");
    Ok(())
}

/// `caplane-load` itself, also when a test runs this library.
fn this_program() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    if program
        .file_name()
        .is_some_and(|name| name == "caplane-load")
    {
        return Ok(program);
    }
    let beside = program
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder: &Path| folder.join("caplane-load"))
        .find(|path| path.is_file());
    beside.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "not beside this program"))
}
