//! Every limit of an endpoint, with its unit and the reason for its default.

use std::net::SocketAddr;
use std::time::Duration;

use crate::error::EndpointError;
use crate::tls::Credentials;

/// How an endpoint reads its sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Io {
    /// What measured faster (bench `transport`).
    #[default]
    Auto,
    /// epoll, a call per batch.
    Mio,
    /// io_uring, a call per tick; where the system does not allow it, `Mio`, and a line in the log says so.
    Uring,
}

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
    /// Which worker this is: byte 0 of every connection id we issue. `Endpoint::bind_group` sets it.
    pub worker: u8,
    /// Take connections from others. A pure client sets it false and drops unknown packets silently.
    pub accept: bool,
    /// Offer the hybrid key exchange X25519MLKEM768 first (default), so that traffic recorded today stays secret against a
    /// later quantum computer; or X25519 and P-256 only, which makes a handshake about a sixth cheaper (bench `transport`).
    pub hybrid_key_exchange: bool,
    /// Largest UDP payload to send and to announce, in bytes (1200..=16383). Default 16,368: four equal segments of it are
    /// 65,472, the largest train of four that stays one on its way to the device (65,473 bytes).
    pub udp_payload_max: usize,
    /// Probe for the path MTU up to `udp_payload_max` (RFC 8899). Off: every packet is at most 1200 bytes, unless
    /// `udp_payload_fixed` says otherwise.
    pub pmtud: bool,
    /// With `pmtud` off: send packets of this size from the start, in bytes. For measurements on known paths.
    pub udp_payload_fixed: Option<usize>,
    /// Close a connection when nothing was heard for this long. Default 30 s (RFC 9000 section 10.1 leaves it to us): a lost
    /// agent is noticed by then at the latest.
    pub idle_timeout: Duration,
    /// On connections we dialled: send a PING when nothing was heard for this long, or for half the peer's idle timeout if that is
    /// shorter, so that a living peer never idles out. Default half the idle timeout: a PING that is lost is sent again every probe timeout, so there is no need for a
    /// second period, and idle peers are what a router has most of. `None`: no keepalive. The accepting side never sends
    /// any, so idle peers cost a router one packet each per period.
    pub keepalive: Option<Duration>,
    /// Close a connection whose peer owes an acknowledgement and was silent for this long, without waiting for the idle
    /// timeout. Default 0.9 s: three probe timeouts on a path of 50 ms, each twice the one before. `None`: the idle timeout alone decides.
    pub silence: Option<Duration>,
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
    /// Largest receive window of one lane or bulk stream, in bytes; see `STREAM_WINDOW` for the derivation.
    pub stream_window: u64,
    /// Largest receive window of one connection, in bytes; at least the sum of the stream windows in use.
    pub connection_window: u64,
    /// Longest bulk message taken, in bytes (header and extensions included).
    pub bulk_message_max: u64,
    /// Longest control frame sent or taken, in bytes.
    pub control_message_max: usize,
    /// Most datagrams waiting to be sent to one peer, and most received and not yet handed over.
    pub datagram_queue_max: usize,
    /// Most slabs in existence (256 KiB each): the receive memory budget of this endpoint.
    pub slabs_max: usize,
    /// Most slabs in existence for bulk messages, beside those of `slabs_max`: each message to a receiver that stands still may pin
    /// one. When they are used up, bulk messages wait; lanes, datagrams and control streams do not.
    pub bulk_slabs_max: usize,
    /// Most slabs that the unfinished or unconsumed lanes of one peer may hold: no peer can starve the others of slabs.
    pub slabs_per_peer_max: usize,
    /// Differentiated services codepoint of all packets (0..=63, RFC 2474), unless `Endpoint::set_dscp` says otherwise for a
    /// peer. Default 0, best effort.
    pub dscp: u8,
    /// Send and receive by this network interface only (SO_BINDTODEVICE): for a VRF, its device's name.
    pub interface: Option<String>,
    /// Before `wait` sleeps, look at the sockets again and again for this long: a message that comes in that time saves a
    /// wake-up (some microseconds), for a processor that is never idle. Default zero: off.
    pub busy_poll: Duration,
    /// End each `wait` to the microsecond instead of the millisecond, for one more system call: for load generators, which
    /// have something to send at a given time. Default off.
    pub exact_waits: bool,
    /// How sockets are read.
    pub io: Io,
    /// Use UDP GRO and GSO where the system has them (default). Off only to work around a broken network driver: each
    /// datagram then costs a system call.
    pub offload: bool,
    /// SO_RCVBUF and SO_SNDBUF asked for, in bytes; the system may give less (`net.core.rmem_max`).
    pub socket_buffer_bytes: usize,
}

/// Bandwidth-delay product behind the default stream window: 10 Gb/s x 6 ms (a metro path), rounded up to 8 MiB. A longer
/// path at that rate needs a larger window; autotuning up to this value is left to QUIC.
const STREAM_WINDOW: u64 = 8 << 20;

/// Largest connection window: sixteen streams at full window, which is more than have been grown by use and then left unread
/// at one time; streams at their first window fit in any number (see below).
const CONNECTION_WINDOW: u64 = 16 * STREAM_WINDOW;

/// Where the window of a stream begins. It doubles while its owner reads fast enough to use it up within two round trips, so
/// a stream that nobody reads costs no more than this. The window of a connection begins at the sum of these for every stream
/// a peer may open, so that streams left unread never hold up the others: 256 x 256 KiB = 64 MiB.
const INITIAL_STREAM_WINDOW: u64 = 256 << 10;

impl EndpointConfig {
    /// Defaults for an endpoint at `listen` with these credentials.
    pub fn new(listen: SocketAddr, credentials: Credentials) -> Self {
        Self {
            listen,
            dual_stack: false,
            credentials,
            worker: 0,
            accept: true,
            hybrid_key_exchange: true,
            udp_payload_max: 16_368,
            pmtud: true,
            udp_payload_fixed: None,
            idle_timeout: Duration::from_secs(30),
            keepalive: Some(Duration::from_secs(15)),
            silence: Some(Duration::from_millis(900)),
            handshake_timeout: Duration::from_secs(5),
            peers_max: 16_384,
            pending_handshakes_max: 1_024,
            retry_threshold: 256,
            streams_per_peer_max: 256,
            stream_window: STREAM_WINDOW,
            connection_window: CONNECTION_WINDOW,
            bulk_message_max: caplane_wire::BULK_MESSAGE_MAX_DEFAULT as u64,
            control_message_max: caplane_wire::control::CONTROL_FRAME_MAX,
            datagram_queue_max: 1_024,
            slabs_max: 2_048,
            bulk_slabs_max: 1_024,
            slabs_per_peer_max: 16,
            dscp: 0,
            interface: None,
            busy_poll: Duration::ZERO,
            exact_waits: false,
            io: Io::Auto,
            offload: true,
            socket_buffer_bytes: 4 << 20,
        }
    }
}

/// Initial congestion window in bytes: what one core of ours can send in about 150 us. A fabric runs on provisioned
/// networks; RFC 9002's 14,720 bytes would also keep the first 16 KiB path MTU probe from being sent, as QUIC probes only
/// inside the window.
const INITIAL_WINDOW_BYTES: usize = 160_000;

/// The largest differentiated services codepoint: six bits.
pub(crate) const DSCP_MAX: u8 = 63;

/// Connection ids a peer may hold: one in use and seven for changes of address. quiche 0.30 keeps every address of a peer as a
/// path with an id of its own and has no call to let go of one, so this is also the number of addresses in a connection's
/// life; beyond, the peer's packets are dropped and it must connect anew. Each costs about 350 bytes.
pub(crate) const CONNECTION_IDS: u64 = 8;

/// Delay of acknowledgements that we announce, in milliseconds. We acknowledge every tick; the default of 25 ms would only
/// lengthen the peer's probe timeout.
const ACK_DELAY_MS: u64 = 5;

/// How many datagrams QUIC may hold for us between two of our looks at them: we look after every GRO batch of at most 64 KiB,
/// which holds at most 1,285 datagrams of a bare header (48 + 3 bytes of frame).
const DATAGRAMS_RECEIVED_MAX: usize = 2_048;

impl EndpointConfig {
    /// The same at any free port.
    #[cfg(test)]
    pub(crate) fn rebound(&self) -> Self {
        let mut config = self.clone();
        config.listen.set_port(0);
        config
    }

    pub(crate) fn check(&self) -> Result<(), EndpointError> {
        let fault = |what: &str| Err(EndpointError::Config(what.to_owned()));
        if !(1_200..=16_383).contains(&self.udp_payload_max) {
            return fault("udp_payload_max must be 1200 to 16383 bytes");
        }
        if self
            .udp_payload_fixed
            .is_some_and(|size| !(1_200..=self.udp_payload_max).contains(&size))
        {
            return fault("udp_payload_fixed must be 1200 bytes to udp_payload_max");
        }
        if self.peers_max == 0 || self.peers_max > u32::MAX as usize / 2 {
            return fault("peers_max must be at least 1 and below 2^31");
        }
        if self.control_message_max > caplane_wire::control::CONTROL_FRAME_MAX {
            return fault("control_message_max is above what the wire format allows");
        }
        if self.slabs_max == 0 || self.bulk_slabs_max == 0 || self.slabs_per_peer_max == 0 {
            return fault("slabs_max, bulk_slabs_max and slabs_per_peer_max must be at least 1");
        }
        if self.dscp > DSCP_MAX {
            return fault("dscp must be 0 to 63");
        }
        if self.connection_window < self.stream_window {
            return fault("connection_window must be at least stream_window");
        }
        Ok(())
    }

    /// Sets the largest packet of the next connection; the initial window counts in packets of that size.
    pub(crate) fn apply_size(quic: &mut quiche::Config, udp_payload: usize) {
        quic.set_max_send_udp_payload_size(udp_payload);
        quic.set_initial_congestion_window_packets(INITIAL_WINDOW_BYTES.div_ceil(udp_payload));
    }

    /// Sets everything of a QUIC configuration that does not concern TLS.
    pub(crate) fn apply(&self, quic: &mut quiche::Config, dialling: bool) {
        quic.set_max_idle_timeout(self.idle_timeout.as_millis() as u64);
        quic.set_max_recv_udp_payload_size(self.udp_payload_max.max(1_500));
        Self::apply_size(quic, self.udp_payload_max);
        quic.discover_pmtu(self.pmtud);
        let all_streams = self.streams_per_peer_max * INITIAL_STREAM_WINDOW;
        quic.set_initial_max_data(self.connection_window.min(all_streams));
        quic.set_max_connection_window(self.connection_window);
        quic.set_initial_max_stream_data_uni(self.stream_window.min(INITIAL_STREAM_WINDOW));
        quic.set_max_stream_window(self.stream_window);
        // The control stream is the only bidirectional one and the dialling side opens it.
        let control_window = 2 * caplane_wire::control::CONTROL_FRAME_MAX as u64;
        quic.set_initial_max_stream_data_bidi_local(control_window);
        quic.set_initial_max_stream_data_bidi_remote(control_window);
        quic.set_initial_max_streams_bidi(u64::from(!dialling));
        quic.set_initial_max_streams_uni(self.streams_per_peer_max);
        quic.set_active_connection_id_limit(CONNECTION_IDS);
        quic.set_max_ack_delay(ACK_DELAY_MS);
        quic.set_cc_algorithm(quiche::CongestionControlAlgorithm::CUBIC);
        // Packets leave in GSO trains; pacing would break them up and needs a timer per packet.
        quic.enable_pacing(false);
        quic.enable_dgram(true, DATAGRAMS_RECEIVED_MAX, self.datagram_queue_max);
        quic.grease(false);
    }
}
