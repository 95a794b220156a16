//! The connection to a controller: mutual TLS 1.3, the controller named by the URI in its certificate.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, PeerIncompatible, RootCertStore,
    SignatureScheme,
};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint, Identity};

use super::{ApiCredentials, ApiError, causes};
use crate::pki::CONTROLLER_DNS;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for one answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// What is wrong with a certificate or with who it names.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Fault(String);

/// Connects to `address` ("host:port") and waits until TLS has named both sides.
pub(super) async fn open(address: &str, credentials: &ApiCredentials) -> Result<Channel, ApiError> {
    let verifier = verifier(credentials).map_err(|fault| ApiError::Unreachable {
        address: address.to_owned(),
        cause: fault.to_string(),
    })?;
    let tls = ClientTlsConfig::new()
        .domain_name(CONTROLLER_DNS)
        .identity(Identity::from_pem(
            &credentials.chain_pem,
            &credentials.key_pem,
        ));
    let endpoint = Endpoint::from_shared(format!("https://{address}"))
        .and_then(|endpoint| endpoint.tls_config_with_verifier(tls, verifier));
    connect(address, endpoint).await
}

/// Connects to a unix socket, "unix:///path".
pub(super) async fn open_local(address: &str) -> Result<Channel, ApiError> {
    connect(address, Endpoint::from_shared(address.to_owned())).await
}

async fn connect(
    address: &str,
    endpoint: Result<Endpoint, tonic::transport::Error>,
) -> Result<Channel, ApiError> {
    let unreachable = |error: tonic::transport::Error| ApiError::Unreachable {
        address: address.to_owned(),
        cause: causes(&error),
    };
    endpoint
        .map_err(unreachable)?
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(CALL_TIMEOUT)
        .connect()
        .await
        .map_err(unreachable)
}

fn verifier(credentials: &ApiCredentials) -> Result<Arc<dyn ServerCertVerifier>, Fault> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(credentials.roots_pem.as_bytes()) {
        let added = root
            .map_err(|error| error.to_string())
            .and_then(|root| roots.add(root).map_err(|error| error.to_string()));
        added.map_err(|cause| Fault(format!("the root certificates: {cause}")))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| Fault(format!("the root certificates: {error}")))?;
    let uri = match credentials.controller_uri.as_str() {
        "" => controllers_of(&credentials.chain_pem)?,
        given => given.to_owned(),
    };
    Ok(Arc::new(ControllerOnly { inner, uri }))
}

/// What URIs of controllers begin with in the trust domain that a certificate names.
fn controllers_of(chain_pem: &str) -> Result<String, Fault> {
    let fault = |cause: String| Fault(format!("the operator's certificate: {cause}"));
    let leaf = CertificateDer::from_pem_slice(chain_pem.as_bytes())
        .map_err(|error| fault(error.to_string()))?;
    let uri = one_uri(&leaf).map_err(fault)?;
    let domain = uri
        .strip_prefix("spiffe://")
        .and_then(|rest| rest.split_once('/'))
        .map(|(domain, _)| domain);
    let domain = domain.ok_or_else(|| {
        fault(format!(
            "\"{uri}\" does not say how controllers are named; give --controller-uri"
        ))
    })?;
    Ok(format!("spiffe://{domain}/controller/"))
}

fn one_uri(certificate: &CertificateDer<'_>) -> Result<String, String> {
    let certificate =
        webpki::EndEntityCert::try_from(certificate).map_err(|error| error.to_string())?;
    let mut uris = certificate.valid_uri_names();
    match (uris.next(), uris.next()) {
        (Some(uri), None) => Ok(uri.to_owned()),
        _ => Err("it must name exactly one URI".into()),
    }
}

/// WebPKI's verifier, for certificates that name a controller, and without TLS 1.2.
#[derive(Debug)]
struct ControllerOnly {
    inner: Arc<WebPkiServerVerifier>,
    /// Exact, or a beginning that ends in `/`.
    uri: String,
}

impl ControllerOnly {
    fn is_meant(&self, uri: &str) -> bool {
        match self.uri.ends_with('/') {
            true => uri.len() > self.uri.len() && uri.starts_with(&self.uri),
            false => uri == self.uri,
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
        let named = one_uri(end_entity).and_then(|uri| match self.is_meant(&uri) {
            true => Ok(()),
            false => Err(format!(
                "\"{uri}\" is no controller, those are \"{}\"",
                self.uri
            )),
        });
        named.map_err(|cause| {
            let other = OtherError(Arc::new(Fault(cause)));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, Request, Role, TRUST_DOMAIN};

    fn issued(authority: &Authority, role: &Role, name: &str) -> String {
        let request = Request::new(TRUST_DOMAIN, role, name).expect("request");
        authority.issue(&request).expect("issued").chain_pem
    }

    #[test]
    fn only_a_certificate_that_names_a_controller_is_one() {
        let authority = Authority::generate(TRUST_DOMAIN).expect("authority");
        let check = |uri: &str, role: &Role, name: &str| {
            let credentials = ApiCredentials {
                chain_pem: issued(&authority, &Role::Operator, "ada"),
                key_pem: String::new(),
                roots_pem: authority.certificate_pem().to_owned(),
                controller_uri: uri.into(),
            };
            let verifier = verifier(&credentials).expect("good roots");
            let leaf = issued(&authority, role, name);
            let leaf = CertificateDer::from_pem_slice(leaf.as_bytes()).expect("PEM");
            let host = ServerName::try_from(CONTROLLER_DNS).expect("a name");
            verifier
                .verify_server_cert(&leaf, &[], &host, &[], UnixTime::now())
                .map(|_| ())
        };
        check("", &Role::Controller, "c1").expect("a controller of the operator's domain");
        let exact = format!("spiffe://{TRUST_DOMAIN}/controller/c1");
        check(&exact, &Role::Controller, "c1").expect("this one");
        let error = check(&exact, &Role::Controller, "c2").expect_err("another");
        assert!(error.to_string().contains("is no controller"), "{error}");
        check("spiffe://other/controller/", &Role::Controller, "c1").expect_err("another domain");
        // Without the DNS name it is refused before that.
        check("", &Role::Router, "r1").expect_err("a router");
    }
}
