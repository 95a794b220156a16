//! A relay between a client and a server, for paths that are not as loopback is.

use std::net::{SocketAddr, UdpSocket};

/// A relay that loses and reorders, by a fixed rule so that every run is the same, and can move the client to a new address.
pub struct Relay {
    /// What the server sees the client behind.
    outside: UdpSocket,
    /// What the client sees the server behind.
    pub inside: UdpSocket,
    server: SocketAddr,
    client: Option<SocketAddr>,
    /// Lose every n-th packet; 0: none.
    lose: u32,
    /// Hold every n-th packet back behind the next; 0: none.
    reorder: u32,
    count: u32,
    held: Vec<(bool, Vec<u8>)>,
}

impl Relay {
    pub fn new(server: SocketAddr, lose: u32, reorder: u32) -> Self {
        let bind = || {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
            socket.set_nonblocking(true).expect("non-blocking");
            socket
        };
        Self {
            outside: bind(),
            inside: bind(),
            server,
            client: None,
            lose,
            reorder,
            count: 0,
            held: Vec::new(),
        }
    }

    pub fn rebind(&mut self) {
        self.outside = UdpSocket::bind("127.0.0.1:0").expect("bind");
        self.outside.set_nonblocking(true).expect("non-blocking");
    }

    pub fn pump(&mut self) {
        let mut buffer = vec![0; 65_536];
        loop {
            let (to_server, length) = match self.inside.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    self.client = Some(from);
                    (true, length)
                }
                Err(_) => match self.outside.recv_from(&mut buffer) {
                    Ok((length, _)) => (false, length),
                    Err(_) => break,
                },
            };
            self.count += 1;
            if self.lose > 0 && self.count.is_multiple_of(self.lose) {
                continue;
            }
            let packet = (to_server, buffer[..length].to_vec());
            if self.reorder > 0 && self.count.is_multiple_of(self.reorder) {
                self.held.push(packet);
                continue;
            }
            self.forward(&packet);
            for held in std::mem::take(&mut self.held) {
                self.forward(&held);
            }
        }
        for held in std::mem::take(&mut self.held) {
            self.forward(&held);
        }
    }

    fn forward(&self, (to_server, packet): &(bool, Vec<u8>)) {
        let _ = match (*to_server, self.client) {
            (true, _) => self.outside.send_to(packet, self.server),
            (false, Some(client)) => self.inside.send_to(packet, client),
            (false, None) => return,
        };
    }
}
