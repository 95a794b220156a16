//! Errors by who is at fault: a peer (counted and refused, never a panic), the operating system, or our caller.

use std::io;
use std::net::SocketAddr;

use thiserror::Error;

/// Why a connection was refused before it became a peer. Exhaustive, so it indexes [`crate::Counters::refused`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Error)]
#[repr(u8)]
pub enum RefuseReason {
    /// The peer sent no certificate.
    #[error("no certificate was presented: give this identity a certificate and key")]
    NoCertificate = 0,
    /// The certificate, or one of its chain, cannot be parsed.
    #[error("the certificate cannot be parsed")]
    MalformedCertificate,
    /// The certificate names nobody: no URI subject alternative name.
    #[error("the certificate has no URI subject alternative name")]
    NoUri,
    /// More than one URI subject alternative name.
    #[error("the certificate has several URI subject alternative names, exactly one is allowed")]
    SeveralUris,
    /// The URI is neither a SPIFFE id nor `acps://<AIC>`.
    #[error("the certificate's URI is neither a SPIFFE id nor an acps name")]
    MalformedUri,
    /// The trust bundle holds no roots for the URI's trust domain.
    #[error("the trust domain of the certificate is not in the trust bundle")]
    UnknownTrustDomain,
    /// The chain does not lead to a root of the URI's trust domain, or a signature does not verify.
    #[error("the certificate was not issued by a root of its trust domain")]
    UnknownIssuer,
    /// The certificate, or its issuer's, has expired.
    #[error("the certificate has expired")]
    Expired,
    /// The certificate is not valid yet: look at both clocks.
    #[error("the certificate is not valid yet")]
    NotYetValid,
    /// Key usage is present and does not allow digital signatures.
    #[error("the certificate's key usage does not allow digital signatures")]
    KeyUsage,
    /// Extended key usage is present and does not allow this role (client or server authentication).
    #[error("the certificate's extended key usage does not allow this role")]
    ExtendedKeyUsage,
    /// A CA certificate was presented as an end entity, or another path rule was broken (RFC 5280).
    #[error(
        "the certificate breaks a path rule (a CA as end entity, name constraints, path length)"
    )]
    PathRule,
    /// The dialled peer is authentic but is not the one expected.
    #[error("the peer is authentic but is not the expected one")]
    UnexpectedName,
    /// No common application protocol: the peer does not speak `caplane/1`.
    #[error("the peer does not speak caplane/1")]
    Protocol,
    /// The peer refused us: read its log for the reason.
    #[error("the peer refused the connection")]
    RefusedByPeer,
    /// No answer, or the handshake did not finish in time.
    #[error("the handshake did not finish in time")]
    Timeout,
    /// As many peers are connected as the configuration allows.
    #[error("as many peers are connected as peers_max allows")]
    PeersFull,
    /// Too many handshakes are pending.
    #[error("as many handshakes are pending as pending_handshakes_max allows")]
    HandshakesFull,
    /// Any other QUIC or TLS failure during the handshake.
    #[error("the handshake failed")]
    Handshake,
}

impl RefuseReason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Every reason, in the order of their numbers.
    pub const ALL: [RefuseReason; 19] = [
        Self::NoCertificate,
        Self::MalformedCertificate,
        Self::NoUri,
        Self::SeveralUris,
        Self::MalformedUri,
        Self::UnknownTrustDomain,
        Self::UnknownIssuer,
        Self::Expired,
        Self::NotYetValid,
        Self::KeyUsage,
        Self::ExtendedKeyUsage,
        Self::PathRule,
        Self::UnexpectedName,
        Self::Protocol,
        Self::RefusedByPeer,
        Self::Timeout,
        Self::PeersFull,
        Self::HandshakesFull,
        Self::Handshake,
    ];

    /// The name used in logs and metrics, in snake case.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::MalformedCertificate => "malformed_certificate",
            Self::NoUri => "no_uri",
            Self::SeveralUris => "several_uris",
            Self::MalformedUri => "malformed_uri",
            Self::UnknownTrustDomain => "unknown_trust_domain",
            Self::UnknownIssuer => "unknown_issuer",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::KeyUsage => "key_usage",
            Self::ExtendedKeyUsage => "extended_key_usage",
            Self::PathRule => "path_rule",
            Self::UnexpectedName => "unexpected_name",
            Self::Protocol => "protocol",
            Self::RefusedByPeer => "refused_by_peer",
            Self::Timeout => "timeout",
            Self::PeersFull => "peers_full",
            Self::HandshakesFull => "handshakes_full",
            Self::Handshake => "handshake",
        }
    }
}

/// An endpoint could not be made or could not dial.
#[derive(Debug, Error)]
pub enum EndpointError {
    /// The operating system refused.
    #[error("{operation} {address}: {source}")]
    Io {
        /// What was tried, such as "bind".
        operation: &'static str,
        /// The address it was tried on.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// The TLS context could not be made from the credentials.
    #[error("TLS context: {0}; check that the key belongs to the certificate")]
    Tls(String),
    /// A configuration value is out of range.
    #[error("configuration: {0}")]
    Config(String),
    /// QUIC refused the configuration or the connection.
    #[error("QUIC: {0}")]
    Quic(String),
    /// As many peers are held as `peers_max` allows.
    #[error("as many peers are held as peers_max allows ({0})")]
    PeersFull(usize),
}

/// A send could not be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SendError {
    /// The peer is gone, or the `PeerId` is of an earlier one.
    #[error("the peer is gone")]
    Gone,
    /// The stream was never opened, is finished, or was stopped by the peer.
    #[error("the stream is closed")]
    Closed,
    /// A remainder is still pending on this stream: wait for `Event::Writable`.
    #[error("an earlier send on this stream is still pending")]
    Busy,
    /// The peer allows no more streams now: wait for `Event::Writable`, or finish others.
    #[error("the peer allows no more streams now")]
    StreamLimit,
    /// A control message longer than `control_message_max`, or a bulk message beyond the limit.
    #[error("the message is longer than the limit of {max} bytes")]
    TooLarge {
        /// The limit in bytes.
        max: usize,
    },
    /// The control stream's bounded buffer is full: the peer does not read.
    #[error("the control stream's buffer is full")]
    Full,
}

/// A datagram was not taken; it was not sent and counts as refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DatagramRefused {
    /// Longer than one packet on this path can hold now.
    #[error("the datagram is longer than the {max} bytes that fit on this path now")]
    TooLarge {
        /// The most that fits now, in bytes.
        max: usize,
    },
    /// The send queue is full.
    #[error("the datagram queue is full")]
    QueueFull,
    /// The peer is gone or does not take datagrams.
    #[error("the peer is gone or takes no datagrams")]
    Gone,
}
