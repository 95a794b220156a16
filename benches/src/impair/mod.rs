//! A bad path on purpose: a seeded UDP relay that loses, delays, reorders,
//! duplicates, paces and clamps packets between clients and one target.
//!
//! Many kernels (and most CI machines) have no netem, so the path is impaired
//! here, in user space, one packet at a time: segmentation offload is off on
//! the relay's sockets, hence a GSO train that enters as one send is judged
//! packet by packet. The relay gives every client address an upstream socket
//! of its own, as a NAT does.
//!
//! What the n-th packet of a client suffers in one direction depends on the
//! seed, the client's number, the direction and n, and on nothing else: see
//! [`Lane`]. It knows nothing of QUIC and never looks into a payload.

mod command;
mod conditions;
mod counters;
mod handle;
mod lane;
mod relay;
mod socket;

pub use command::{Command, CommandError, Scope};
pub use conditions::Conditions;
pub use counters::{Counters, DirectionCounters};
pub use handle::{ImpairError, Impairer};
pub use lane::{Fate, Lane, Loss, Wire};

use std::net::SocketAddr;

/// Which way a packet travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From a client to the target.
    Up = 0,
    /// From the target to a client.
    Down = 1,
}

impl Direction {
    /// Both, in the order in which they index arrays.
    pub const BOTH: [Direction; 2] = [Direction::Up, Direction::Down];
}

/// How a relay starts.
#[derive(Clone, Debug)]
pub struct ImpairConfig {
    /// Where clients send; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Where their packets go.
    pub target: SocketAddr,
    /// Seed of every decision; the same seed judges the same packets alike.
    pub seed: u64,
    /// What packets suffer at the start, per direction: `[up, down]`.
    pub conditions: [Conditions; 2],
    /// Clients served at a time; packets of further ones are counted and dropped.
    pub clients_max: usize,
    /// Payload bytes held back at a time (delay and rate) before further
    /// packets are dropped and counted.
    pub held_bytes_max: usize,
}

impl ImpairConfig {
    /// A relay on a free loopback port of the target's address family, without impairment.
    ///
    /// 256 clients: a socket each, well below the usual limit of 1,024 open
    /// files. 64 MiB held: 1 Gbit/s over a 500 ms path.
    pub fn to(target: SocketAddr, seed: u64) -> ImpairConfig {
        let loopback = if target.is_ipv4() {
            SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0))
        } else {
            SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 0))
        };
        ImpairConfig {
            listen: loopback,
            target,
            seed,
            conditions: [Conditions::default(); 2],
            clients_max: 256,
            held_bytes_max: 64 * 1024 * 1024,
        }
    }

    /// The same conditions both ways.
    pub fn with(mut self, conditions: Conditions) -> ImpairConfig {
        self.conditions = [conditions; 2];
        self
    }
}
