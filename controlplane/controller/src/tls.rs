//! Mutual TLS 1.3 of both listeners: who a peer is, before a byte of gRPC is read.
//!
//! A client must present a certificate with exactly one URI SAN, a SPIFFE id or
//! an `acps://` name. The URI's trust domain chooses the roots; path, time and
//! extended key usage are then checked by webpki. Resumption is off, so every
//! connection shows its certificate. Refusals are counted by reason and logged.
//! Refuses to know what a peer may do once it is known.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::CredentialsConfig;

mod listener;
mod refusals;
mod verifier;

pub use listener::{Gate, PeerIdentity, PeerStream};
pub use refusals::Refusals;
pub use verifier::{NameFault, UriVerifier, peer_uri};

/// Why the credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read, or holds no such thing.
    #[error("{what} {}: {cause}", path.display())]
    File {
        /// Which of the credentials.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// The parts do not fit together.
    #[error("credentials: {0}")]
    Mismatch(String),
}

/// The server side of mutual TLS.
///
/// # Errors
/// Names the file and the cause.
pub fn server_config(
    credentials: &CredentialsConfig,
) -> Result<Arc<rustls::ServerConfig>, CredentialsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates("certificate chain", &credentials.chain)?;
    let key =
        PrivateKeyDer::from_pem_file(&credentials.key).map_err(|error| CredentialsError::File {
            what: "private key",
            path: credentials.key.clone(),
            cause: error.to_string(),
        })?;
    let verifier = verifier(credentials, &provider)?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| CredentialsError::Mismatch(error.to_string()))?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(chain, key)
        .map_err(|error| {
            CredentialsError::Mismatch(format!(
                "{} and {}: {error}",
                credentials.chain.display(),
                credentials.key.display()
            ))
        })?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

fn verifier(
    credentials: &CredentialsConfig,
    provider: &Arc<CryptoProvider>,
) -> Result<UriVerifier, CredentialsError> {
    let mut verifier = UriVerifier::default();
    for trust in &credentials.trust {
        let fault = |cause: String| CredentialsError::File {
            what: "trust roots",
            path: trust.roots.clone(),
            cause,
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates("trust roots", &trust.roots)? {
            roots.add(certificate).map_err(|e| fault(e.to_string()))?;
        }
        verifier
            .trust(&trust.domain, roots, provider)
            .map_err(fault)?;
    }
    Ok(verifier)
}

fn certificates(
    what: &'static str,
    path: &PathBuf,
) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let fault = |cause: String| CredentialsError::File {
        what,
        path: path.clone(),
        cause,
    };
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| fault(error.to_string()))?;
    if found.is_empty() {
        return Err(fault("holds no certificate (PEM)".into()));
    }
    Ok(found)
}
