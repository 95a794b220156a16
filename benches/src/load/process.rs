//! What `/proc` says about the router's processes and this machine.

use serde::Serialize;
use std::fs;
use std::io;
use std::time::Duration;

/// CPU time and context switches of some processes, summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessSample {
    /// User plus system time.
    pub cpu: Duration,
    /// Context switches, voluntary and not, of threads that live now.
    pub context_switches: u64,
    /// Resident memory now (bytes).
    pub resident_bytes: u64,
}

/// The processes that are watched.
#[derive(Clone, Debug, Default)]
pub struct ProcessWatch {
    pids: Vec<u32>,
    ticks_per_second: u64,
}

impl ProcessWatch {
    /// Watches these processes.
    pub fn new(pids: Vec<u32>) -> ProcessWatch {
        ProcessWatch {
            pids,
            ticks_per_second: ticks_per_second(),
        }
    }

    /// Reads `/proc/<pid>/stat`, `/statm` and `/task/*/status`.
    ///
    /// # Errors
    /// When a process is gone or a file cannot be understood; the error names it.
    pub fn sample(&self) -> io::Result<ProcessSample> {
        let mut sum = ProcessSample::default();
        for pid in &self.pids {
            let ticks = cpu_ticks(&read(&format!("/proc/{pid}/stat"))?)
                .ok_or_else(|| wrong(&format!("/proc/{pid}/stat")))?;
            sum.cpu += Duration::from_nanos(ticks * 1_000_000_000 / self.ticks_per_second);
            let pages = read(&format!("/proc/{pid}/statm"))?;
            let resident = pages
                .split_whitespace()
                .nth(1)
                .and_then(|p| p.parse::<u64>().ok());
            sum.resident_bytes += resident.unwrap_or(0) * PAGE_BYTES;
            for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
                // A thread may end between the listing and the reading.
                if let Ok(status) = fs::read_to_string(task.path().join("status")) {
                    sum.context_switches += context_switches(&status);
                }
            }
        }
        Ok(sum)
    }

    /// Whether any process is watched.
    pub fn is_empty(&self) -> bool {
        self.pids.is_empty()
    }

    /// The resolution of `cpu`.
    pub fn resolution(&self) -> Duration {
        Duration::from_nanos(1_000_000_000 / self.ticks_per_second.max(1))
    }
}

/// Linux pages on every machine this runs on (x86-64; arm64 as distributed).
const PAGE_BYTES: u64 = 4096;

fn read(path: &str) -> io::Result<String> {
    fs::read_to_string(path).map_err(|e| io::Error::new(e.kind(), format!("{path}: {e}")))
}

fn wrong(path: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{path}: not as proc(5) says"),
    )
}

/// Fields 14 and 15 (utime, stime), counted behind the command name, which may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn context_switches(status: &str) -> u64 {
    status
        .lines()
        .filter_map(|line| line.split_once("ctxt_switches:"))
        .filter_map(|(_, number)| number.trim().parse::<u64>().ok())
        .sum()
}

/// AT_CLKTCK of the auxiliary vector; 100 where it is missing, as on all common Linux machines.
fn ticks_per_second() -> u64 {
    const AT_CLKTCK: u64 = 17;
    let auxv = fs::read("/proc/self/auxv").unwrap_or_default();
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
    auxv.chunks_exact(16)
        .find(|pair| word(&pair[..8]) == AT_CLKTCK)
        .map(|pair| word(&pair[8..]))
        .filter(|ticks| *ticks > 0)
        .unwrap_or(100)
}

/// What a figure was measured on and with.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Kernel release.
    pub kernel: String,
    /// CPU model.
    pub cpu: String,
    /// CPUs this process may use.
    pub cpus: usize,
    /// Commit of the tree around the program, "-dirty" when it has changes; "unknown" outside one.
    pub commit: String,
    /// The exact command line.
    pub command_line: String,
}

impl Machine {
    /// Reads it all.
    pub fn read() -> Machine {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo
            .lines()
            .find_map(|line| {
                line.strip_prefix("model name")?
                    .split_once(':')
                    .map(|(_, m)| m.trim())
            })
            .unwrap_or("unknown");
        Machine {
            kernel: release.trim().to_owned(),
            cpu: model.to_owned(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            commit: commit().unwrap_or_else(|| "unknown".to_owned()),
            command_line: std::env::args().collect::<Vec<_>>().join(" "),
        }
    }
}

fn commit() -> Option<String> {
    let program = std::env::current_exe().ok()?;
    let output = std::process::Command::new("git")
        .args([
            "describe",
            "--always",
            "--dirty",
            "--abbrev=12",
            "--exclude=*",
        ])
        .current_dir(program.parent()?)
        .stderr(std::process::Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_any_command_name() {
        let stat = "12 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 4 0 100 1 2";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("12 (x"), None);
    }

    #[test]
    fn switches_of_both_kinds_are_added() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t5\n";
        assert_eq!(context_switches(status), 12);
    }

    #[test]
    fn this_process_can_be_sampled_and_a_missing_one_is_named() {
        let watch = ProcessWatch::new(vec![std::process::id()]);
        let sample = watch.sample().expect("own process");
        assert!(sample.resident_bytes > 0);
        assert!(watch.resolution() >= Duration::from_millis(1));
        let gone = ProcessWatch::new(vec![u32::MAX - 1])
            .sample()
            .expect_err("gone");
        assert!(gone.to_string().contains("/proc/4294967294/stat"), "{gone}");
        assert!(!Machine::read().kernel.is_empty());
    }
}
