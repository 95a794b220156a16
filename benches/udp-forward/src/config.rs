//! What the product's drivers read of an endpoint's configuration.

use std::net::SocketAddr;

/// How an endpoint reads its sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    /// epoll.
    Mio,
    /// io_uring.
    Uring,
}

/// The product's defaults, of the fields that sockets are made by.
pub struct EndpointConfig {
    pub listen: SocketAddr,
    pub dual_stack: bool,
    pub dscp: u8,
    pub interface: Option<String>,
    pub offload: bool,
    pub socket_buffer_bytes: usize,
}

impl EndpointConfig {
    pub fn loopback() -> EndpointConfig {
        EndpointConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            dual_stack: false,
            dscp: 0,
            interface: None,
            offload: true,
            socket_buffer_bytes: 4 << 20,
        }
    }
}
