//! Control messages of UDP sockets: what travels beside the bytes of a send or receive (`struct cmsghdr` of 64-bit Linux).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Way;

/// Length of `struct cmsghdr`: length (8), level (4), type (4). Messages are aligned to 8.
const HEADER: usize = 16;

/// Room for the messages of one send or receive: segment size, codepoint, address (24 + 24 + 40), aligned as the kernel's C
/// structures are.
#[repr(C, align(8))]
pub(super) struct Control {
    bytes: [u8; 96],
    used: usize,
}

impl Control {
    pub(super) fn new() -> Self {
        Self {
            bytes: [0; 96],
            used: 0,
        }
    }

    /// What a send of segments of `segment` bytes needs; `None`: one datagram. `v6`: the socket is of that family, also when
    /// the receiver is shown as a mapped IPv4 address.
    pub(super) fn of_send(way: &Way, segment: Option<usize>, v6: bool) -> Self {
        let mut control = Self::new();
        if let Some(segment) = segment {
            let size = (segment as u16).to_ne_bytes();
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &size);
        }
        if let Some(dscp) = way.dscp {
            let tos = i32::from(dscp << 2).to_ne_bytes();
            match is_v4(way.to) {
                true => control.push(libc::IPPROTO_IP, libc::IP_TOS, &tos),
                false => control.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &tos),
            }
        }
        match way.source {
            Some(IpAddr::V4(address)) if !v6 => {
                // struct in_pktinfo: interface (any), the address to send from, the header's destination (unused).
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&address.octets());
                control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            Some(IpAddr::V6(address)) if v6 => {
                // struct in6_pktinfo: the address to send from, interface (any).
                let mut info = [0; 20];
                info[..16].copy_from_slice(&address.octets());
                control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            _ => {}
        }
        control
    }

    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let length = HEADER + data.len();
        let room = &mut self.bytes[self.used..];
        room[..8].copy_from_slice(&length.to_ne_bytes());
        room[8..12].copy_from_slice(&level.to_ne_bytes());
        room[12..16].copy_from_slice(&kind.to_ne_bytes());
        room[HEADER..length].copy_from_slice(data);
        self.used += length.next_multiple_of(8);
    }

    /// The messages to send.
    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    /// The whole room, for the kernel to write messages into.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// What the kernel wrote: `length` bytes.
    pub(super) fn received(&self, length: usize) -> Received {
        Received::read(&self.bytes[..length.min(self.bytes.len())])
    }
}

/// What the control messages of a receive say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Received {
    /// The GRO segment size: SOL_UDP, UDP_GRO, int.
    pub(super) segment: Option<usize>,
    /// The address that the datagrams were sent to.
    pub(super) to: Option<IpAddr>,
}

impl Received {
    pub(super) fn read(control: &[u8]) -> Self {
        let mut read = Self::default();
        for (level, kind, data) in Messages(control) {
            match (level, kind) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let size = data.first_chunk().copied().map(i32::from_ne_bytes);
                    let size = size.and_then(|size| usize::try_from(size).ok());
                    read.segment = size.filter(|size| *size > 0);
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let address = data.get(8..).and_then(<[u8]>::first_chunk::<4>);
                    read.to = address.map(|octets| Ipv4Addr::from(*octets).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let address = data.first_chunk::<16>();
                    read.to = address.map(|octets| Ipv6Addr::from(*octets).into());
                }
                _ => {}
            }
        }
        read
    }
}

/// Level, type and data of each message.
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (i32, i32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.0.first_chunk::<HEADER>()?;
        let length = usize::from_ne_bytes(*header.first_chunk()?);
        let level = i32::from_ne_bytes(*header[8..].first_chunk()?);
        let kind = i32::from_ne_bytes(*header[12..].first_chunk()?);
        let data = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(8)..).unwrap_or(&[]);
        Some((level, kind, data))
    }
}

/// True for an IPv4 address, also a mapped one: such packets leave as IPv4.
pub(super) fn is_v4(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_ipv4()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Port;

    #[test]
    fn messages_are_found_behind_others_and_cut_ones_are_not_read() {
        let mut control = Control::new();
        control.push(libc::SOL_SOCKET, 29, &7_i32.to_ne_bytes());
        control.push(libc::SOL_UDP, libc::UDP_GRO, &1_350_i32.to_ne_bytes());
        control.push(
            libc::IPPROTO_IP,
            libc::IP_PKTINFO,
            &[0, 0, 0, 1, 9, 9, 9, 9, 192, 0, 2, 1],
        );
        let bytes = control.filled();
        let all = Received {
            segment: Some(1_350),
            to: Some("192.0.2.1".parse().expect("an address")),
        };
        assert_eq!(Received::read(bytes), all);
        assert_eq!(control.received(usize::MAX), all);
        for length in 0..44 {
            assert_eq!(Received::read(&bytes[..length]), Received::default());
        }
        for length in 44..bytes.len() {
            let _ = Received::read(&bytes[..length]);
        }
        assert_eq!(Received::read(&[0; 64]), Received::default());
    }

    #[test]
    fn everything_a_send_can_need_fits() {
        let v6: Ipv6Addr = "2001:db8::1".parse().expect("an address");
        let way = Way {
            port: Port::Listening,
            source: Some(v6.into()),
            to: SocketAddr::new(v6.into(), 1),
            dscp: Some(46),
        };
        let control = Control::of_send(&way, Some(1_350), true);
        let kinds: Vec<_> = Messages(control.filled()).map(|m| (m.0, m.1)).collect();
        assert_eq!(
            kinds,
            [
                (libc::SOL_UDP, libc::UDP_SEGMENT),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO)
            ]
        );
        assert_eq!(Received::read(control.filled()).to, way.source);
    }
}
