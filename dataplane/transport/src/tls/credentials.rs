//! Who we are (certificate chain and key) and whom we trust (roots per trust domain).

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use boring::pkey::{PKey, Private};
use boring::x509::X509;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use thiserror::Error;

use super::verify::own_uri;
use crate::error::RefuseReason;
use crate::reset::ResetTokens;

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
        /// Which input, such as "certificate chain".
        what: &'static str,
        /// What is wrong and what is expected.
        cause: String,
    },
    /// Our own certificate does not name us as the wire format wants it, or may not be used here.
    #[error("own certificate: {0}")]
    Name(RefuseReason),
    /// The key does not belong to the first certificate of the chain.
    #[error("the private key does not belong to the first certificate of the chain")]
    KeyMismatch,
}

fn read(path: &Path) -> Result<Vec<u8>, CredentialsError> {
    std::fs::read(path).map_err(|source| CredentialsError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Root certificates per trust domain (WF-4): the domain of a SPIFFE id, or the first four levels of an AIC.
#[derive(Clone, Debug, Default)]
pub struct TrustBundle {
    roots: BTreeMap<String, Vec<TrustAnchor<'static>>>,
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
        let fault = |cause: String| CredentialsError::Pem {
            what: "trust roots",
            cause,
        };
        let mut anchors = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|e| fault(format!("bad PEM: {e}")))?;
            let anchor = webpki::anchor_from_trusted_cert(&certificate)
                .map_err(|e| fault(format!("certificate {}: {e}", anchors.len() + 1)))?;
            anchors.push(anchor.to_owned());
        }
        if anchors.is_empty() {
            return Err(fault("no certificate found, expected at least one".into()));
        }
        self.roots
            .entry(trust_domain.to_owned())
            .or_default()
            .extend(anchors);
        Ok(())
    }

    /// Adds the root certificates of a PEM file for `trust_domain`.
    ///
    /// # Errors
    /// As [`TrustBundle::add_pem`], and when the file cannot be read.
    pub fn add_file(&mut self, trust_domain: &str, path: &Path) -> Result<(), CredentialsError> {
        self.add_pem(trust_domain, &read(path)?)
    }

    /// The trust domains with at least one root, in order.
    pub fn domains(&self) -> impl Iterator<Item = &str> {
        self.roots.keys().map(String::as_str)
    }

    /// The roots that may vouch for names of `trust_domain`.
    pub(crate) fn roots(&self, trust_domain: &str) -> Option<&[TrustAnchor<'static>]> {
        self.roots.get(trust_domain).map(Vec::as_slice)
    }
}

/// Certificate chain, private key and trust bundle of one identity. Cheap to clone; never prints key material.
#[derive(Clone)]
pub struct Credentials {
    inner: Arc<Inner>,
}

struct Inner {
    uri: String,
    chain: Vec<X509>,
    key: PKey<Private>,
    /// The key's bytes.
    secret: Vec<u8>,
    trust: TrustBundle,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("uri", &self.uri())
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// From PEM text: the chain (own certificate first) and the key (PKCS#8, SEC1 or PKCS#1, not encrypted).
    ///
    /// # Errors
    /// When a part cannot be parsed, the key does not fit, or the certificate has not exactly one URI name.
    pub fn from_pem(
        chain: &[u8],
        key: &[u8],
        trust: TrustBundle,
    ) -> Result<Self, CredentialsError> {
        let pem = |what, cause| CredentialsError::Pem { what, cause };
        let chain = X509::stack_from_pem(chain)
            .map_err(|e| pem("certificate chain", format!("bad PEM: {e}")))?;
        let Some(leaf) = chain.first() else {
            return Err(pem(
                "certificate chain",
                "no certificate found, expected our own first".into(),
            ));
        };
        // The parser's text is not passed on: it may quote what it read.
        let key = PKey::private_key_from_pem(key).map_err(|_| {
            pem(
                "private key",
                "expected one unencrypted PKCS#8, SEC1 or PKCS#1 key in PEM".into(),
            )
        })?;
        let secret = key
            .private_key_to_der_pkcs8()
            .map_err(|_| pem("private key", "its kind cannot be used".into()))?;
        let public = leaf
            .public_key()
            .map_err(|e| pem("certificate chain", format!("bad public key: {e}")))?;
        if !public.public_eq(&key) {
            return Err(CredentialsError::KeyMismatch);
        }
        let der = leaf
            .to_der()
            .map_err(|e| pem("certificate chain", format!("bad certificate: {e}")))?;
        let uri = own_uri(&der).map_err(CredentialsError::Name)?;
        Ok(Self {
            inner: Arc::new(Inner {
                uri,
                chain,
                key,
                secret,
                trust,
            }),
        })
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
        Self::from_pem(&read(chain)?, &read(key)?, trust)
    }

    /// The name these credentials give us: the one URI subject alternative name of the first certificate.
    pub fn uri(&self) -> &str {
        &self.inner.uri
    }

    pub(super) fn chain(&self) -> &[X509] {
        &self.inner.chain
    }

    pub(super) fn key(&self) -> &PKey<Private> {
        &self.inner.key
    }

    /// Tokens that only the holder of this private key can make.
    pub(crate) fn reset_tokens(&self) -> ResetTokens {
        ResetTokens::new(&self.inner.secret)
    }

    pub(super) fn trust(&self) -> &TrustBundle {
        &self.inner.trust
    }
}
