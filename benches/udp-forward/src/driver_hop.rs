//! The hop over the product's drivers: a GRO batch in, a GSO train out.
//!
//! The batch is copied once on the way, as QUIC copies it, since a driver lends it until the next call.

use crate::Failure;
use crate::config::{EndpointConfig, Io};
use crate::io::{Driver, Port, Ports, Sent, Way, drive};
use std::net::SocketAddr;
use std::time::Duration;

/// Forwards to `to` until killed; says its address on the standard output.
pub fn forward(io: Io, to: SocketAddr) -> Result<(), Failure> {
    let mut driver = drive(Ports::alone(&EndpointConfig::loopback())?, io)?;
    println!("{}", driver.local_addr(Port::Listening));
    let mut train = Vec::with_capacity(65_536);
    loop {
        driver.wait(None, None)?;
        while let Some(batch) = driver.receive()? {
            let segment = batch.segment;
            train.clear();
            train.extend_from_slice(batch.data);
            send(driver.as_mut(), to, segment, &train)?;
        }
    }
}

/// Waits for room in the socket's buffer.
pub fn send(
    driver: &mut dyn Driver,
    to: SocketAddr,
    segment: usize,
    data: &[u8],
) -> Result<(), Failure> {
    let way = Way {
        port: Port::Listening,
        source: None,
        to,
        dscp: None,
    };
    loop {
        match driver.send(&way, segment, data) {
            Sent::Done => return Ok(()),
            Sent::Blocked => {
                driver.wait(Some(Duration::from_millis(10)), Some(Port::Listening))?;
            }
            Sent::TooLarge => return Err("a datagram is larger than loopback takes".into()),
            // As when the sink is gone: the datagrams are lost.
            Sent::Failed(_) => return Ok(()),
        }
    }
}
