//! Identities: credentials, the verification of a peer's certificate, and the TLS contexts built from both.
//!
//! Everything about a certificate is decided in [`verify`], by `rustls-webpki`: the callback set in [`context`] *replaces*
//! BoringSSL's own validation. Refuses to know connections and streams.

mod context;
mod credentials;
mod verify;

pub(crate) use context::{Handshakes, quic_config};
pub(crate) use verify::leaf_uri;

pub use credentials::{Credentials, CredentialsError, TrustBundle};

#[cfg(test)]
pub(crate) mod tests;
