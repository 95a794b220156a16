//! `router.toml`, parsed once into types that cannot be invalid.
//!
//! Everything a router can be told is here; every default is in [`defaults`]
//! with its unit and reason. Knows nothing of sockets, certificates' contents or
//! the controller: files named here are read by whoever needs them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub mod defaults;
mod raw;

#[cfg(test)]
mod tests;

/// A whole, valid configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterConfig {
    /// Name in logs and in `addresses.json`: 1 to 64 bytes of `[A-Za-z0-9._-]`.
    pub name: String,
    /// UDP address of the QUIC socket; port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// TCP address of the Prometheus endpoint; always loopback.
    pub admin: SocketAddr,
    /// `host:port` other routers and instances reach this router at; `None` =
    /// the bound address of `listen`.
    pub advertise: Option<HostPort>,
    /// Folder of the stored table and `addresses.json`.
    pub state_dir: PathBuf,
    /// Worker threads, 1 to 64.
    pub workers: u8,
    /// Where the tables come from.
    pub controller: ControllerConfig,
    /// Who this router is and whom it believes.
    pub credentials: CredentialsConfig,
    /// Packet sizes of the QUIC socket.
    pub quic: QuicConfig,
    /// Sockets and threads.
    pub io: IoConfig,
    /// Upper bounds of everything that grows.
    pub limits: Limits,
    /// How long things may take.
    pub timers: Timers,
}

/// Where the tables come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerConfig {
    /// Tried in turn; at least one.
    pub addresses: Vec<HostPort>,
    /// DNS name the controller's certificate must carry.
    pub server_name: String,
    /// The URI its certificate must carry, or, ending in `/`, begin with.
    pub uri: String,
    /// Trust domain whose roots must have signed the controller's certificate.
    /// Always one of [`CredentialsConfig::trust`].
    pub trust_domain: String,
}

/// Who this router is and whom it believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialsConfig {
    /// PEM file: the router's certificate, then its intermediates.
    pub chain: PathBuf,
    /// PEM file: the private key of the first certificate.
    pub key: PathBuf,
    /// Roots per trust domain; at least one, no domain twice.
    pub trust: Vec<TrustRoots>,
}

/// The roots of one trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustRoots {
    /// Trust domain as it stands in `spiffe://<domain>/...`.
    pub domain: String,
    /// PEM file of one or more root certificates.
    pub roots: PathBuf,
}

/// Packet sizes of the QUIC socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuicConfig {
    /// Largest UDP payload tried (bytes), 1200..=16383.
    pub udp_payload_bytes_max: usize,
    /// Probe the path for packets above 1200 bytes.
    pub path_mtu_discovery: bool,
}

/// How the sockets and threads use the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IoConfig {
    /// How sockets are read.
    pub driver: caplane_transport::Io,
    /// Network device to send and receive by (a VRF's, say); `None` = any.
    pub interface: Option<String>,
    /// Differentiated services codepoint of packets to instances, 0..=63 (RFC 2474).
    pub agent_dscp: u8,
    /// The same of packets to neighbour routers.
    pub link_dscp: u8,
    /// How long a worker looks at its sockets before it sleeps.
    pub busy_poll: Duration,
    /// Worker n runs on the n-th core this process may use, and on no other.
    pub pin_workers: bool,
}

/// Upper bounds of everything that grows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections of one worker, instances and neighbours together.
    pub peers_max: usize,
    /// Largest message on a bulk stream, header included (bytes).
    pub bulk_message_bytes_max: u64,
    /// Bytes queued towards one peer in one traffic class.
    pub queue_bytes_max: usize,
    /// Bytes queued in one worker, all peers together.
    pub queue_total_bytes_max: usize,
    /// Resolve questions waiting for the controller, all instances together.
    pub resolve_outstanding_max: usize,
    /// What an instance may send where its policy group does not say; more is dropped as `rate_limited`.
    pub instance_rate: caplane_core::fib::Rate,
}

/// How long things may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timers {
    /// A connection silent for this long is gone.
    pub idle_timeout: Duration,
    /// A peer that owes an acknowledgement and stays silent for this long is gone.
    pub silence_timeout: Duration,
    /// From the handshake's end to `Hello`.
    pub hello_timeout: Duration,
    /// Between two probes of a neighbour link.
    pub probe_interval: Duration,
    /// Probes without an answer before the link is taken down, 2..=100.
    pub probe_misses: u32,
    /// Longest a drain may take.
    pub drain_period: Duration,
    /// Longest wait for the controller's answer to a relayed Resolve.
    pub resolve_timeout: Duration,
}

/// A host (name or address) and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort(String);

impl HostPort {
    /// Parses `host:port`, `1.2.3.4:port` or `[v6]:port`.
    ///
    /// # Errors
    ///
    /// What is wrong with the text, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| format!("\"{text}\" has no port; write it as \"host:port\""))?;
        if port.parse::<u16>().is_err() {
            return Err(format!("\"{port}\" in \"{text}\" is no port (0 to 65535)"));
        }
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let plain = !host.is_empty()
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-' || b == b'_');
        let valid = if bracketed {
            host[1..host.len() - 1]
                .parse::<std::net::Ipv6Addr>()
                .is_ok()
        } else {
            plain
        };
        if !valid {
            return Err(format!(
                "\"{host}\" in \"{text}\" is neither a host name, an IPv4 address nor an IPv6 address in brackets"
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// The text, as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is wrong with a configuration, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{}: cannot read the configuration: {cause}; check the path and its permissions", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's word.
        cause: String,
    },
    /// The file was read and says something it may not say.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// Cause and remedy.
        message: String,
    },
}

impl RouterConfig {
    /// Reads and checks `path`. Relative paths in it are relative to its folder.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with file, line and column of the first thing wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|e| ConfigError::Unreadable {
            path: path.to_owned(),
            cause: e.to_string(),
        })?;
        Self::parse(path, &text)
    }

    /// Checks `text` as the content of `path` (which is not read).
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] with line and column of the first thing wrong.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        raw::parse(text, path.parent().unwrap_or(Path::new("."))).map_err(|fault| {
            let (line, column) = line_and_column(text, fault.offset);
            ConfigError::Invalid {
                path: path.to_owned(),
                line,
                column,
                message: fault.message,
            }
        })
    }
}

/// Line and column, both from 1, of a byte offset; past the end = the end.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = before.bytes().filter(|&b| b == b'\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}
