//! Which roots a client certificate must lead to, by the trust domain in its URI.

use std::collections::BTreeMap;
use std::sync::Arc;

use caplane_wire::PeerName;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why a certificate names no peer of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// It is no X.509 certificate that can be read.
    #[error("the certificate cannot be read: {0}")]
    Unreadable(String),
    /// It names nobody, or several.
    #[error("the certificate has {0} URI names, exactly 1 is needed")]
    UriCount(usize),
    /// The name is neither a SPIFFE id nor an AIC.
    #[error("\"{uri}\" is no peer name: {cause}")]
    Name {
        /// What stood there.
        uri: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The key may not sign.
    #[error("the certificate's key usage does not allow signatures")]
    KeyUsage,
    /// Nobody vouches for its trust domain here.
    #[error("trust domain \"{0}\" has no roots here; add it to credentials.trust")]
    TrustDomain(String),
}

/// The one URI that names the holder of a certificate.
///
/// # Errors
/// [`NameFault`].
pub fn peer_uri(certificate: &[u8]) -> Result<String, NameFault> {
    let (_, certificate) = X509Certificate::from_der(certificate)
        .map_err(|error| NameFault::Unreadable(error.to_string()))?;
    let unreadable =
        |error: x509_parser::error::X509Error| NameFault::Unreadable(error.to_string());
    let names = certificate
        .subject_alternative_name()
        .map_err(unreadable)?
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    let uris: Vec<&str> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    let [uri] = uris.as_slice() else {
        return Err(NameFault::UriCount(uris.len()));
    };
    PeerName::parse(uri).map_err(|error| NameFault::Name {
        uri: (*uri).to_owned(),
        cause: error.to_string(),
    })?;
    if let Some(usage) = certificate.key_usage().map_err(unreadable)?
        && !usage.value.digital_signature()
    {
        return Err(NameFault::KeyUsage);
    }
    Ok((*uri).to_owned())
}

/// Verifies client certificates against the roots of their own trust domain.
#[derive(Debug, Default)]
pub struct UriVerifier {
    domains: BTreeMap<String, Arc<dyn ClientCertVerifier>>,
    subjects: Vec<DistinguishedName>,
}

impl UriVerifier {
    /// Adds a trust domain and its roots.
    ///
    /// # Errors
    /// What is wrong with the roots, in words.
    pub fn trust(
        &mut self,
        domain: &str,
        roots: RootCertStore,
        provider: &Arc<CryptoProvider>,
    ) -> Result<(), String> {
        self.subjects.extend(roots.subjects());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .map_err(|error| error.to_string())?;
        self.domains.insert(domain.to_owned(), verifier);
        Ok(())
    }

    fn any(&self) -> Option<&Arc<dyn ClientCertVerifier>> {
        self.domains.values().next()
    }
}

fn refuse(fault: NameFault) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(fault))))
}

impl ClientCertVerifier for UriVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let uri = peer_uri(end_entity).map_err(refuse)?;
        let domain = PeerName::parse(&uri).map_or("", |name| name.trust_domain());
        let verifier = self
            .domains
            .get(domain)
            .ok_or_else(|| refuse(NameFault::TrustDomain(domain.to_owned())))?;
        verifier.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".into()))
    }

    // Signatures are checked the same way whatever the trust domain.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.any() {
            Some(verifier) => verifier.verify_tls13_signature(message, cert, dss),
            None => Err(Error::General("no trust domain is configured".into())),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.any()
            .map_or_else(Vec::new, |verifier| verifier.supported_verify_schemes())
    }
}
