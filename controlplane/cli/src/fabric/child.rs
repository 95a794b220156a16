//! One child process: started with a pipe on its stdin that it watches, so
//! that it ends when this process does, however that ends; its log in a file;
//! signalled and awaited by its own id only.

use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use super::FabricError;

/// How often a condition outside of this process is looked at again.
pub(super) const POLL: Duration = Duration::from_millis(10);
/// Lines of a log that an error shows.
const LOG_LINES: usize = 12;

/// A running child, killed when dropped.
#[derive(Debug)]
pub(super) struct Child {
    name: String,
    process: Process,
    log: PathBuf,
}

impl Child {
    /// Starts `program --config <config> --exit-with-stdin`; stdout and stderr are appended to `log`.
    pub(super) fn start(
        name: &str,
        program: &Path,
        config: &Path,
        log: PathBuf,
    ) -> Result<Self, FabricError> {
        let failed = |operation, path: &Path, source| FabricError::Io {
            operation,
            path: path.to_owned(),
            source,
        };
        let open = || File::options().create(true).append(true).open(&log);
        let stdout = open().map_err(|e| failed("open the log", &log, e))?;
        let stderr = open().map_err(|e| failed("open the log", &log, e))?;
        let process = Command::new(program)
            .arg("--config")
            .arg(config)
            .arg("--exit-with-stdin")
            // A group of its own: Ctrl-C in the terminal is this process's to act on.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .map_err(|e| failed("start", program, e))?;
        Ok(Self {
            name: name.to_owned(),
            process,
            log,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Fails when the child has ended, with the end of its log.
    pub(super) fn check_running(&mut self) -> Result<(), FabricError> {
        match self.process.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.ended(status)),
            Err(source) => Err(FabricError::Io {
                operation: "look after",
                path: PathBuf::from(format!("/proc/{}", self.pid())),
                source,
            }),
        }
    }

    fn ended(&self, status: ExitStatus) -> FabricError {
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "no exit code".to_owned(),
        };
        FabricError::Ended {
            name: self.name.clone(),
            how,
            log: self.log.clone(),
            tail: self.tail(),
        }
    }

    /// The last lines of the child's log.
    pub(super) fn tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Sends a signal; a child that has ended meanwhile is no error.
    pub(super) fn signal(&mut self, signal: Signal) -> Result<(), FabricError> {
        // Not reaped yet, so the id is still this child's own.
        if matches!(self.process.try_wait(), Ok(Some(_))) {
            return Ok(());
        }
        let pid = Pid::from_child(&self.process);
        kill_process(pid, signal).map_err(|errno| FabricError::Io {
            operation: "signal",
            path: PathBuf::from(format!("/proc/{}", self.pid())),
            source: errno.into(),
        })
    }

    /// Waits until the child has ended.
    pub(super) async fn wait(&mut self, patience: Duration) -> Result<ExitStatus, FabricError> {
        let begun = Instant::now();
        let mut poll = tokio::time::interval(POLL);
        loop {
            poll.tick().await;
            if let Ok(Some(status)) = self.process.try_wait() {
                return Ok(status);
            }
            if begun.elapsed() > patience {
                return Err(FabricError::Deadline {
                    what: format!("{} to end", self.name),
                    patience,
                    seen: format!("it still runs as process {}", self.pid()),
                    tail: self.tail(),
                });
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
