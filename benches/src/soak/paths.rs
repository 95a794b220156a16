//! The lossy ways to the router, and what was lost on them.

use super::{Soak, SoakError};
use crate::impair::{Conditions, ImpairConfig, ImpairError, Impairer};
use std::net::SocketAddr;

/// One way for everybody who lasts; one for datagrams alone, so that it is known how many of its packets were lost.
pub(super) struct Paths {
    pub(super) lanes: Impairer,
    pub(super) datagrams: Impairer,
    /// Datagrams the kernel had dropped before, machine-wide.
    kernel_before: u64,
}

/// A lossy way to the router; `n` keeps the decisions of several apart.
pub(super) fn config(soak: &Soak, router: SocketAddr, n: u64) -> ImpairConfig {
    ImpairConfig {
        conditions: [Conditions::loss(soak.loss); 2],
        ..ImpairConfig::to(router, soak.seed + n)
    }
}

impl Paths {
    pub(super) fn start(soak: &Soak, router: SocketAddr) -> Result<Paths, SoakError> {
        Ok(Paths {
            lanes: Impairer::start(config(soak, router, 0))?,
            datagrams: Impairer::start(config(soak, router, 1))?,
            kernel_before: kernel_drops()?,
        })
    }

    /// Packets with a datagram that did not get through: lost on purpose, or by a socket without room.
    pub(super) fn datagrams_lost(&self) -> Result<u64, SoakError> {
        let counters = self.datagrams.counters();
        let kernel = kernel_drops()?.saturating_sub(self.kernel_before);
        Ok(counters.up.lost + counters.down.lost + kernel)
    }

    /// Ends both; packets they lost on purpose.
    pub(super) fn stop(self) -> Result<u64, SoakError> {
        let (lanes, datagrams) = (self.lanes.stop()?, self.datagrams.stop()?);
        Ok([lanes.up, lanes.down, datagrams.up, datagrams.down]
            .map(|way| way.lost)
            .iter()
            .sum())
    }
}

/// UDP datagrams that found no room in a socket of this machine, so far.
fn kernel_drops() -> Result<u64, SoakError> {
    let text = std::fs::read_to_string("/proc/net/snmp")?;
    Ok(receive_buffer_errors(&text).unwrap_or(0))
}

/// `RcvbufErrors` of `/proc/net/snmp`: a line of names, and one of numbers.
fn receive_buffer_errors(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with("Udp:"));
    let mut names = lines.next()?.split_whitespace();
    let at = names.position(|name| name == "RcvbufErrors")?;
    lines.next()?.split_whitespace().nth(at)?.parse().ok()
}

/// Clients that a relay serves at most: each takes a socket of it for good.
const RELAY_CLIENTS: u32 = 200;

/// The lossy way of mortals, however many come: a relay that has served its number is followed by another.
pub(super) struct LossyWay {
    config: ImpairConfig,
    relay: Option<Impairer>,
    clients_max: u32,
    clients: u32,
    packets_lost: u64,
}

impl LossyWay {
    /// Relays of this configuration.
    pub(super) fn new(config: ImpairConfig) -> LossyWay {
        LossyWay {
            clients_max: RELAY_CLIENTS,
            config: ImpairConfig {
                clients_max: RELAY_CLIENTS as usize,
                ..config
            },
            relay: None,
            clients: 0,
            packets_lost: 0,
        }
    }

    /// Where the next client is to send.
    pub(super) fn address(&mut self) -> Result<SocketAddr, ImpairError> {
        if self.clients == self.clients_max {
            self.stop()?;
        }
        self.clients += 1;
        let relay = match self.relay.take() {
            Some(relay) => relay,
            None => Impairer::start(self.config.clone())?,
        };
        Ok(self.relay.insert(relay).local_addr())
    }

    /// Ends the relay that serves now; the next client gets another.
    fn stop(&mut self) -> Result<(), ImpairError> {
        if let Some(relay) = self.relay.take() {
            let counters = relay.stop()?;
            self.packets_lost += counters.up.lost + counters.down.lost;
        }
        self.clients = 0;
        Ok(())
    }
}

impl LossyWay {
    /// Ends it; packets that its relays lost.
    pub(super) fn end(mut self) -> Result<u64, ImpairError> {
        self.stop()?;
        Ok(self.packets_lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::net::UdpSocket;

    #[test]
    fn there_is_a_lossy_way_for_however_many_come() {
        let router = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let mut way = LossyWay::new(ImpairConfig::to(router.local_addr().expect("bound"), 1));
        way.clients_max = 2;
        let mut relays = HashSet::new();
        for client in 0..5u8 {
            let address = way.address().expect("a relay");
            relays.insert(address);
            let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
            socket.send_to(&[client], address).expect("sent");
            let mut buffer = [0; 8];
            assert_eq!(router.recv(&mut buffer).expect("relayed"), 1);
            assert_eq!(buffer[0], client);
        }
        assert_eq!(relays.len(), 3);
        assert_eq!(way.end().expect("ended"), 0);
    }

    #[test]
    fn what_the_kernel_dropped_is_read() {
        let text = "Tcp: A B\nTcp: 1 2\nUdp: InDatagrams NoPorts RcvbufErrors SndbufErrors\nUdp: 5 6 7 8\nUdpLite: x\n";
        assert_eq!(receive_buffer_errors(text), Some(7));
        assert_eq!(receive_buffer_errors("Udp: InDatagrams\nUdp: 5\n"), None);
    }
}
