//! TLS towards the controller: mutual, 1.3 only, the controller named by the URI and the DNS
//! name in its certificate, under the roots of one trust domain. Refuses to know what is said inside.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, PeerIncompatible, RootCertStore,
    SignatureScheme,
};
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
    verifier: Arc<ControllerOnly>,
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
            verifier: Arc::new(ControllerOnly {
                inner: verifier,
                uri: controller.uri.clone(),
            }),
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

/// Who answered is no controller.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NoController(String);

/// WebPKI's verifier for certificates that name a controller, with TLS 1.2 taken away: a controller
/// that answers in 1.2 fails the handshake at its signature.
#[derive(Debug)]
struct ControllerOnly {
    inner: Arc<WebPkiServerVerifier>,
    /// Exact, or a beginning that ends in `/`.
    uri: String,
}

impl ControllerOnly {
    /// Whether the one URI that a certificate names is a controller's.
    fn named(&self, certificate: &CertificateDer<'_>) -> Result<(), String> {
        let certificate =
            webpki::EndEntityCert::try_from(certificate).map_err(|e| e.to_string())?;
        let mut uris = certificate.valid_uri_names();
        let (Some(uri), None) = (uris.next(), uris.next()) else {
            return Err("the certificate must name exactly one URI".to_owned());
        };
        let meant = match self.uri.ends_with('/') {
            true => uri.len() > self.uri.len() && uri.starts_with(&self.uri),
            false => uri == self.uri,
        };
        match meant {
            true => Ok(()),
            false => Err(format!(
                "\"{uri}\" is no controller, those are \"{}\" (controller.uri)",
                self.uri
            )),
        }
    }
}

impl ServerCertVerifier for ControllerOnly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        self.named(end_entity).map_err(|cause| {
            let other = OtherError(Arc::new(NoController(cause)));
            Error::InvalidCertificate(CertificateError::Other(other))
        })?;
        Ok(verified)
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
        self.inner
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
