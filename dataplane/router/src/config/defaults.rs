//! Every default of `router.toml`, with its unit and reason.

/// Prometheus endpoint. Loopback, because it is plain HTTP; 9464 is the port
/// OpenTelemetry's Prometheus exporters use.
pub const ADMIN: &str = "127.0.0.1:9464";

/// Worker threads. One core forwards gigabits; "auto" takes them all.
pub const WORKERS: u8 = 1;

/// Most worker threads. Each has a ring to every other and a socket of its own; the limit keeps both small.
pub const WORKERS_MAX: u8 = 64;

/// DNS name in the controller's certificate.
pub const CONTROLLER_SERVER_NAME: &str = "caplane-controller";

/// Bytes. Four packets of this size are the largest train of equal segments that the kernel hands to the
/// device whole (4 x 16,368 = 65,472; with all headers below 65,536).
pub const UDP_PAYLOAD_BYTES_MAX: usize = 16_368;

/// Packets larger than 1200 bytes are the largest lever on CPU per byte.
pub const PATH_MTU_DISCOVERY: bool = true;

/// Messages or bytes a second of one instance whose policy group names no rate; 0 = no limit. A fabric's owner knows its
/// agents, a default does not.
pub const INSTANCE_RATE: u64 = 0;

/// Best effort: what a network makes of other codepoints is for its operator to say.
pub const DSCP: usize = 0;

/// Microseconds. Off: spinning takes a core that others may want.
pub const BUSY_POLL_US: usize = 0;

/// Off: the kernel may know better, and other processes may sit on the same cores.
pub const PIN_WORKERS: bool = false;

/// Connections of one worker: 16,384 x about 48 KiB = 768 MiB when all are in use.
pub const PEERS_MAX: usize = 16_384;

/// Bytes: 16 MiB, the wire format's default bound of a bulk message.
pub const BULK_MESSAGE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Bytes per peer and traffic class: 64 of the largest lane messages, or 26 ms of a
/// 1.25 GB/s (10 Gb/s) receiver; more only adds delay.
pub const QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes per worker over all peers: 64 full queues. More peers than that
/// standing still at once is an outage, not a burst.
pub const QUEUE_TOTAL_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Questions: at 2 s timeout this admits 512 a second from a controller that never answers.
pub const RESOLVE_OUTSTANDING_MAX: usize = 1024;

/// Milliseconds. An instance that only listens sends a keepalive after half
/// of this; 10,000 of them are 667 packets a second.
pub const IDLE_TIMEOUT_MS: u64 = 30_000;

/// Milliseconds. A live peer answers an unacknowledged packet within a few round trips (QUIC
/// re-sends with its probe timeout); 0.9 s of silence is past three probe timeouts of a path of
/// 50 ms, and ends before a sender's first resend (1 s), which then reaches another member: flows
/// of a killed agent move well inside 2 s.
pub const SILENCE_TIMEOUT_MS: u64 = 900;

/// Milliseconds from the handshake's end to `Hello`: three lost packets' worth of retransmission.
pub const HELLO_TIMEOUT_MS: u64 = 5_000;

/// Milliseconds between probes of a neighbour link.
pub const PROBE_INTERVAL_MS: u64 = 250;

/// Probes without an answer before a link is down: 4 x 250 ms = 1 s, which a
/// busy two-core machine survives without false alarms.
pub const PROBE_MISSES: u32 = 4;

/// Milliseconds a drain may take: shorter than the 10 s most supervisors wait before SIGKILL.
pub const DRAIN_PERIOD_MS: u64 = 5_000;

/// Milliseconds for a relayed Resolve: a text search takes milliseconds, a controller's
/// failover does not fit anyway, and the asker has its own deadline.
pub const RESOLVE_TIMEOUT_MS: u64 = 2_000;
