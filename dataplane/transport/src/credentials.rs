//! Who we are (certificate chain and key) and whom we trust (roots per trust domain).

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

/// Credentials could not be read or do not fit together.
#[derive(Debug, Error)]
pub enum CredentialsError {
    /// A file could not be read.
    #[error("read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The PEM text holds something else than expected.
    #[error("{what}: {cause}")]
    Pem {
        /// Which input, such as "certificate chain" or a path.
        what: String,
        /// What is wrong and what is expected.
        cause: String,
    },
    /// The key does not belong to the first certificate of the chain.
    #[error("the private key does not belong to the first certificate of the chain")]
    KeyMismatch,
}

/// Root certificates per trust domain (SPIFFE trust domain, or the AIC registry of `acps://` names).
#[derive(Clone, Debug, Default)]
pub struct TrustBundle {
    roots: BTreeMap<String, Vec<Vec<u8>>>,
}

impl TrustBundle {
    /// A bundle that trusts nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the root certificates in `pem` for `trust_domain`.
    ///
    /// # Errors
    /// When the text holds no certificate or one that cannot be a root.
    pub fn add_pem(&mut self, trust_domain: &str, pem: &[u8]) -> Result<(), CredentialsError> {
        let _ = (trust_domain, pem);
        unimplemented!("under construction")
    }

    /// Adds the root certificates of a PEM file for `trust_domain`.
    ///
    /// # Errors
    /// As [`TrustBundle::add_pem`], and when the file cannot be read.
    pub fn add_file(&mut self, trust_domain: &str, path: &Path) -> Result<(), CredentialsError> {
        let _ = (trust_domain, path);
        unimplemented!("under construction")
    }

    /// The trust domains with at least one root, in order.
    pub fn domains(&self) -> impl Iterator<Item = &str> {
        self.roots.keys().map(String::as_str)
    }
}

/// Certificate chain, private key and trust bundle of one identity. Cheap to clone; never prints key material.
#[derive(Clone)]
pub struct Credentials {
    inner: Arc<Inner>,
}

struct Inner {
    uri: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("uri", &self.uri())
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// From PEM text: the chain (own certificate first) and the key (PKCS#8, SEC1 or PKCS#1).
    ///
    /// # Errors
    /// When a part cannot be parsed, the key does not fit, or the certificate has not exactly one URI name.
    pub fn from_pem(
        chain: &[u8],
        key: &[u8],
        trust: TrustBundle,
    ) -> Result<Self, CredentialsError> {
        let _ = (chain, key, trust);
        unimplemented!("under construction")
    }

    /// From PEM files.
    ///
    /// # Errors
    /// As [`Credentials::from_pem`], and when a file cannot be read.
    pub fn from_files(
        chain: &Path,
        key: &Path,
        trust: TrustBundle,
    ) -> Result<Self, CredentialsError> {
        let _ = (chain, key, trust);
        unimplemented!("under construction")
    }

    /// The name these credentials give us: the one URI subject alternative name of the first certificate.
    pub fn uri(&self) -> &str {
        &self.inner.uri
    }
}
