//! TLS towards the controller: mutual, 1.3 only, the controller named by DNS
//! name under the roots of one trust domain. Refuses to know what is said inside.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, PeerIncompatible, RootCertStore, SignatureScheme};
use tonic::transport::{ClientTlsConfig, Endpoint, Identity};

use crate::config::{ControllerConfig, CredentialsConfig, HostPort};

/// Why the TLS side of the southbound session could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum ControllerTlsError {
    /// A file could not be read.
    #[error("{}: {cause}; check the path and its permissions", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's word.
        cause: std::io::Error,
    },
    /// A roots file holds no usable certificate.
    #[error("{}: {cause}; expected one or more PEM root certificates", path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// tonic does not take the address or the credentials.
    #[error("controller {address}: {cause}")]
    Endpoint {
        /// The address that was to be dialled.
        address: HostPort,
        /// What is wrong, with its causes.
        cause: String,
    },
}

/// Everything needed to dial any of the controllers, read once at start.
#[derive(Clone)]
pub struct ControllerTls {
    identity: Identity,
    server_name: String,
    verifier: Arc<Tls13Only>,
}

impl ControllerTls {
    /// Reads certificate, key and the roots of the controller's trust domain.
    ///
    /// # Errors
    ///
    /// [`ControllerTlsError`] naming the file.
    pub fn load(
        controller: &ControllerConfig,
        credentials: &CredentialsConfig,
    ) -> Result<Self, ControllerTlsError> {
        let identity = Identity::from_pem(read(&credentials.chain)?, read(&credentials.key)?);
        let roots_path = credentials
            .trust
            .iter()
            .find(|t| t.domain == controller.trust_domain)
            .map(|t| t.roots.as_path())
            .expect("the configuration admits only a trust domain that has roots");
        let verifier = WebPkiServerVerifier::builder_with_provider(
            Arc::new(roots(roots_path)?),
            Arc::new(rustls::crypto::ring::default_provider()),
        )
        .build()
        .map_err(|e| ControllerTlsError::Roots {
            path: roots_path.to_owned(),
            cause: e.to_string(),
        })?;
        Ok(Self {
            identity,
            server_name: controller.server_name.clone(),
            verifier: Arc::new(Tls13Only(verifier)),
        })
    }

    /// A tonic endpoint for one controller address.
    ///
    /// # Errors
    ///
    /// [`ControllerTlsError::Endpoint`] when the address or the credentials do not fit.
    pub fn endpoint(&self, address: &HostPort) -> Result<Endpoint, ControllerTlsError> {
        let tls = ClientTlsConfig::new()
            .domain_name(self.server_name.clone())
            .identity(self.identity.clone());
        Endpoint::from_shared(format!("https://{address}"))
            .and_then(|endpoint| {
                endpoint.tls_config_with_verifier(tls, self.verifier.clone() as Arc<_>)
            })
            .map_err(|e| ControllerTlsError::Endpoint {
                address: address.clone(),
                cause: crate::causes(&e),
            })
    }
}

impl std::fmt::Debug for ControllerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControllerTls")
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ControllerTlsError> {
    std::fs::read(path).map_err(|cause| ControllerTlsError::Unreadable {
        path: path.to_owned(),
        cause,
    })
}

fn roots(path: &Path) -> Result<RootCertStore, ControllerTlsError> {
    let fault = |cause: String| ControllerTlsError::Roots {
        path: path.to_owned(),
        cause,
    };
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&read(path)?) {
        let certificate = certificate.map_err(|e| fault(e.to_string()))?;
        store.add(certificate).map_err(|e| fault(e.to_string()))?;
    }
    if store.is_empty() {
        return Err(fault("no certificate in it".to_owned()));
    }
    Ok(store)
}

/// WebPKI's verifier with TLS 1.2 taken away: a controller that answers in 1.2
/// fails the handshake at its signature.
#[derive(Debug)]
struct Tls13Only(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for Tls13Only {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(
            PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
