//! Every limit of an endpoint, with its unit and the reason for its default.

use std::net::SocketAddr;
use std::time::Duration;

use crate::credentials::Credentials;

/// Everything an endpoint needs to know before it binds. Made by [`EndpointConfig::new`], then adjusted field by field.
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// Where to bind; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// When `listen` is IPv6: also take IPv4 (as mapped addresses). Ignored for IPv4. Set explicitly either way, so the
    /// system's default does not matter.
    pub dual_stack: bool,
    /// Who we are and whom we trust.
    pub credentials: Credentials,
    /// Which worker this is: byte 0 of every connection id we issue.
    pub worker: u8,
    /// Take connections from others. A pure client sets it false and drops unknown packets silently.
    pub accept: bool,
    /// Largest UDP payload to send and to announce, in bytes (1200..=16383). Default 16,376: four equal segments of it are
    /// 65,504, the largest train of four that one UDP send of at most 65,507 can hold.
    pub udp_payload_max: usize,
    /// Probe for the path MTU up to `udp_payload_max` (RFC 8899). Off: every packet is at most 1200 bytes, unless
    /// `udp_payload_fixed` says otherwise.
    pub pmtud: bool,
    /// With `pmtud` off: send packets of this size from the start, in bytes. For measurements on known paths.
    pub udp_payload_fixed: Option<usize>,
    /// Close a connection when nothing was heard for this long. Default 30 s (RFC 9000 section 10.1 leaves it to us): a lost
    /// agent is noticed by then at the latest.
    pub idle_timeout: Duration,
    /// Send a PING when nothing was sent for this long, so that a living peer never idles out. Default a third of the
    /// idle timeout, so two may be lost. `None`: no keepalive.
    pub keepalive: Option<Duration>,
    /// A handshake must finish within this time. Default 5 s: three lost flights at an initial RTT of 333 ms.
    pub handshake_timeout: Duration,
    /// Most connections held, pending ones included.
    pub peers_max: usize,
    /// Most handshakes pending on the accepting side; beyond, new ones are dropped and counted.
    pub pending_handshakes_max: usize,
    /// From this many pending handshakes on, a new address must first prove itself by Retry (RFC 9000 section 8.1.2).
    pub retry_threshold: usize,
    /// Most unidirectional streams (lanes and bulk) a peer may have open at a time.
    pub streams_per_peer_max: u64,
    /// Receive window of one lane or bulk stream, in bytes; see `window` in this module for the derivation.
    pub stream_window: u64,
    /// Receive window of one connection, in bytes; at least the sum of the stream windows in use.
    pub connection_window: u64,
    /// Longest bulk message taken, in bytes (header and extensions included).
    pub bulk_message_max: u64,
    /// Longest control frame sent or taken, in bytes.
    pub control_message_max: usize,
    /// Most datagrams waiting to be sent to one peer, and most received and not yet handed over.
    pub datagram_queue_max: usize,
    /// Most slabs in existence (256 KiB each): the receive memory budget of this endpoint.
    pub slabs_max: usize,
    /// SO_RCVBUF and SO_SNDBUF asked for, in bytes; the system may give less (`net.core.rmem_max`).
    pub socket_buffer_bytes: usize,
}

/// Bandwidth-delay product behind the default stream window: 10 Gb/s x 6 ms (a metro path), rounded up to 8 MiB. A longer
/// path at that rate needs a larger window; autotuning up to this value is left to QUIC.
const STREAM_WINDOW: u64 = 8 << 20;

/// Connection window: eight lanes at full window. Streams beyond that share it.
const CONNECTION_WINDOW: u64 = 8 * STREAM_WINDOW;

impl EndpointConfig {
    /// Defaults for an endpoint at `listen` with these credentials.
    pub fn new(listen: SocketAddr, credentials: Credentials) -> Self {
        Self {
            listen,
            dual_stack: false,
            credentials,
            worker: 0,
            accept: true,
            udp_payload_max: 16_376,
            pmtud: true,
            udp_payload_fixed: None,
            idle_timeout: Duration::from_secs(30),
            keepalive: Some(Duration::from_secs(10)),
            handshake_timeout: Duration::from_secs(5),
            peers_max: 16_384,
            pending_handshakes_max: 1_024,
            retry_threshold: 256,
            streams_per_peer_max: 256,
            stream_window: STREAM_WINDOW,
            connection_window: CONNECTION_WINDOW,
            bulk_message_max: caplane_wire::BULK_MESSAGE_MAX_DEFAULT as u64,
            control_message_max: 1 << 20,
            datagram_queue_max: 1_024,
            slabs_max: 2_048,
            socket_buffer_bytes: 4 << 20,
        }
    }
}
