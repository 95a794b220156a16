//! What the relay did, to be compared with what the ends saw.

use super::{Direction, Loss};
use serde::Serialize;
use std::fmt;

/// Packets of one direction.
///
/// Once nothing is held: `received + duplicated = forwarded + lost + cut +
/// too_big + queue_full + unsent`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DirectionCounters {
    /// Packets that arrived at the relay.
    pub received: u64,
    /// UDP payload bytes of `received`.
    pub received_bytes: u64,
    /// Packets sent on, copies included.
    pub forwarded: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Lost because the path was cut.
    pub cut: u64,
    /// Larger than the MTU.
    pub too_big: u64,
    /// No room in a queue of the relay.
    pub queue_full: u64,
    /// Second copies made.
    pub duplicated: u64,
    /// Packets held back so that others overtook them.
    pub reordered: u64,
    /// The socket refused the packet, or it was still held when the relay stopped.
    pub unsent: u64,
}

impl DirectionCounters {
    /// Packets received or made that have neither been sent nor dropped yet.
    pub fn held(&self) -> u64 {
        self.received + self.duplicated
            - (self.forwarded + self.lost + self.cut + self.too_big + self.queue_full + self.unsent)
    }

    pub(super) fn count_loss(&mut self, loss: Loss) {
        match loss {
            Loss::Chance => self.lost += 1,
            Loss::Cut => self.cut += 1,
            Loss::TooBig => self.too_big += 1,
            Loss::QueueFull => self.queue_full += 1,
        }
    }
}

/// Everything the relay counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// From clients to the target.
    pub up: DirectionCounters,
    /// From the target to clients.
    pub down: DirectionCounters,
    /// Client addresses served.
    pub clients: u64,
    /// Packets of clients past `clients_max`.
    pub clients_refused: u64,
    /// Packets the kernel dropped before the relay could read them (its
    /// receive buffer was full). Not part of the seeded decisions: a run with
    /// any is not repeatable. Known once the relay has stopped.
    pub kernel_dropped: u64,
}

impl Counters {
    /// One direction's counters.
    pub fn direction(&self, direction: Direction) -> &DirectionCounters {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }

    pub(super) fn direction_mut(&mut self, direction: Direction) -> &mut DirectionCounters {
        match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, d) in [("up", &self.up), ("down", &self.down)] {
            writeln!(
                f,
                "{name:>4}: received {} ({} bytes), forwarded {}, lost {}, cut {}, too big {}, \
                 queue full {}, duplicated {}, reordered {}, unsent {}",
                d.received,
                d.received_bytes,
                d.forwarded,
                d.lost,
                d.cut,
                d.too_big,
                d.queue_full,
                d.duplicated,
                d.reordered,
                d.unsent
            )?;
        }
        write!(
            f,
            "clients {} (packets of refused ones {}), dropped by the kernel {}",
            self.clients, self.clients_refused, self.kernel_dropped
        )
    }
}
