//! Where the ceiling is: what a message must cost on this machine whoever
//! forwards it, and what a plain good router makes of that.
//!
//! Four yardsticks: QUIC alone in memory ([`relay`]), the kernel's UDP alone
//! ([`forward`]), encryption alone ([`aead`]), and the naive hop
//! ([`hop`], run as a process of its own by [`process`]): the floor that the
//! product has to reach. None of them knows a line of the product's router
//! or transport; time is CPU time, never wall time.

pub mod aead;
pub mod forward;
pub mod hop;
pub mod process;
pub mod relay;

mod datagrams;
mod quic;
mod spread;
mod yard;

pub use quic::CertificateFiles;
pub use spread::Spread;
pub use yard::{Yard, gigabits, millions};

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// UDP payloads measured: an Internet path, a jumbo frame, what loopback allows (four fit one send).
pub const PACKETS: [usize; 3] = [1_350, 9_000, 16_000];

/// What one layer costs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// CPU time a packet (nanoseconds).
    pub ns_per_packet: f64,
    /// Gigabits of payload one second of CPU carries.
    pub gbit_per_core_second: f64,
}

impl Cost {
    fn of(cpu: Duration, packets: u64, bytes: u64) -> Cost {
        let seconds = cpu.as_secs_f64().max(1e-9);
        Cost {
            ns_per_packet: seconds * 1e9 / packets.max(1) as f64,
            gbit_per_core_second: bytes as f64 * 8.0 / 1e9 / seconds,
        }
    }
}

/// Why a yardstick could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum CeilingError {
    /// The system refused something.
    #[error("ceiling: {0}: {1}")]
    Io(&'static str, std::io::Error),
    /// QUIC failed.
    #[error("ceiling: {0}: {1}")]
    Quic(&'static str, quiche::Error),
    /// BoringSSL failed.
    #[error("ceiling: encryption: {0}")]
    Aead(#[from] boring::error::ErrorStack),
    /// A certificate could not be made.
    #[error(transparent)]
    Pki(#[from] caplane::pki::PkiError),
    /// A certificate could not be used.
    #[error(transparent)]
    Credentials(#[from] caplane_transport::CredentialsError),
    /// The load through the naive hop failed.
    #[error(transparent)]
    Run(#[from] crate::load::RunError),
    /// Nothing moved any more.
    #[error("ceiling: {0}")]
    Stuck(&'static str),
}

/// CPU time of the calling thread, user and system.
fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Adds the CPU time of `work` to `sum`.
fn charged<T>(sum: &mut Duration, work: impl FnOnce() -> T) -> T {
    let before = thread_cpu();
    let done = work();
    *sum += thread_cpu().saturating_sub(before);
    done
}
