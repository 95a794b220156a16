//! Source and sink, and the hop's CPU time between them.

use crate::Failure;
use crate::config::{EndpointConfig, Io};
use crate::driver_hop::send;
use crate::io::{Driver, Port, Ports, drive};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const TRAIN_BYTES_MAX: usize = 65_507;
const TRAIN_SEGMENTS_MAX: usize = 64;
/// Trains under way: without GRO a datagram takes far more of a socket's buffer than its bytes.
const TRAINS_MAX: u64 = 3;
/// Nothing came for so long: what was under way is lost, and the source goes on.
const LOST_AFTER: Duration = Duration::from_millis(20);
const WARM_UP: Duration = Duration::from_millis(300);

/// The hop's process; ends with this.
struct Hop(Child);

impl Drop for Hop {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Nanoseconds of the hop's CPU a datagram.
pub fn measure(hop: &str, packet: usize, time: Duration) -> Result<f64, Failure> {
    let sink = drive(Ports::alone(&EndpointConfig::loopback())?, Io::Mio)?;
    let to = sink.local_addr(Port::Listening).to_string();
    let mut child = Hop(Command::new(std::env::current_exe()?)
        .args(["hop", hop, &to, &packet.to_string()])
        .stdout(Stdio::piped())
        .spawn()?);
    let output = child.0.stdout.take().ok_or("no output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let address: SocketAddr = line.trim().parse().map_err(|_| format!("{hop}: {line:?} is no address"))?;
    let (taken, ended) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (taken, ended) = (&taken, &ended);
        let source = scope.spawn(move || feed(address, packet, taken, ended));
        let drain = scope.spawn(move || count(sink, taken, ended));
        std::thread::sleep(WARM_UP);
        let before = (cpu(child.0.id())?, taken.load(Ordering::Relaxed));
        std::thread::sleep(time);
        let after = (cpu(child.0.id())?, taken.load(Ordering::Relaxed));
        ended.store(true, Ordering::Release);
        source.join().map_err(|_| "the source panicked")??;
        drain.join().map_err(|_| "the sink panicked")??;
        let datagrams = (after.1 - before.1) / packet as u64;
        if datagrams == 0 {
            return Err(format!("{hop}: nothing came through").into());
        }
        Ok((after.0 - before.0) * 1e9 / datagrams as f64)
    })
}

fn feed(to: SocketAddr, packet: usize, taken: &AtomicU64, ended: &AtomicBool) -> Result<(), Failure> {
    let mut driver = drive(Ports::alone(&EndpointConfig::loopback())?, Io::Mio)?;
    let segments = (TRAIN_BYTES_MAX / packet).min(TRAIN_SEGMENTS_MAX);
    let train = vec![0x5a; segments * packet];
    let under_way_max = TRAINS_MAX * train.len() as u64;
    let (mut sent, mut before, mut progress) = (0u64, 0, Instant::now());
    while !ended.load(Ordering::Acquire) {
        let now = taken.load(Ordering::Acquire);
        if now != before {
            (before, progress) = (now, Instant::now());
        }
        if sent.saturating_sub(now) + train.len() as u64 <= under_way_max {
            send(driver.as_mut(), to, packet, &train)?;
            sent += train.len() as u64;
        } else if progress.elapsed() > LOST_AFTER {
            (sent, progress) = (now, Instant::now());
        } else {
            std::thread::park_timeout(Duration::from_micros(20));
        }
    }
    Ok(())
}

fn count(mut sink: Box<dyn Driver>, taken: &AtomicU64, ended: &AtomicBool) -> Result<(), Failure> {
    while !ended.load(Ordering::Acquire) {
        sink.wait(Some(Duration::from_millis(20)), None)?;
        while let Some(batch) = sink.receive()? {
            taken.fetch_add(batch.data.len() as u64, Ordering::Release);
        }
    }
    Ok(())
}

/// User and system time of a process (seconds): 100 ticks a second on all common Linux machines.
fn cpu(pid: u32) -> Result<f64, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').ok_or("stat")?.1;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    Ok(ticks.collect::<Result<Vec<_>, _>>()?.iter().sum::<u64>() as f64 / 100.0)
}
