//! TLS contexts and the QUIC configurations around them: one per role, shared by all connections of an endpoint.
//!
//! One context per connection was measured at 1 MB and 7 ms each; a shared one costs 26 KB per connection.
//!
//! Key exchange: BoringSSL offers the hybrid X25519MLKEM768 before X25519, and we leave it so by default (recorded traffic
//! stays secret against a later quantum computer). `EndpointConfig::hybrid_key_exchange = false` offers X25519 and P-256
//! only; what each costs per handshake is printed by the bench `transport`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use boring::error::ErrorStack;
use boring::ssl::{
    SslAlert, SslContextBuilder, SslMethod, SslOptions, SslRef, SslSessionCacheMode,
    SslSignatureAlgorithm, SslVerifyError, SslVerifyMode, SslVersion,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::credentials::Credentials;
use super::verify::{PeerRole, verify_chain};
use crate::config::EndpointConfig;
use crate::error::{EndpointError, RefuseReason};

/// What passes between the endpoint and the verify callback of the handshake it is stepping: whom it expects, and why the
/// callback refused. One endpoint steps one connection at a time, so one slot is enough; it is locked in handshakes only.
#[derive(Clone, Default)]
pub(crate) struct Handshakes(Arc<Mutex<Step>>);

#[derive(Default)]
struct Step {
    expected_uri: Option<Arc<str>>,
    refused: Option<RefuseReason>,
}

impl Handshakes {
    fn step(&self) -> MutexGuard<'_, Step> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called before a handshake is stepped.
    pub(crate) fn begin(&self, expected_uri: Option<&Arc<str>>) {
        // Whatever is in the thread's error queue is of an earlier step.
        let _ = ErrorStack::get();
        *self.step() = Step {
            expected_uri: expected_uri.cloned(),
            refused: None,
        };
    }

    /// Why the last step refused the peer's certificate, if it did.
    pub(crate) fn refused(&self) -> Option<RefuseReason> {
        self.step().refused.take().or_else(library_refusal)
    }

    fn judge(
        &self,
        ssl: &SslRef,
        role: PeerRole,
        credentials: &Credentials,
    ) -> Result<(), RefuseReason> {
        let chain = peer_chain(ssl, role)?;
        let uri = verify_chain(&chain, role, credentials.trust(), UnixTime::now())?;
        match &self.step().expected_uri {
            Some(expected) if **expected != *uri => Err(RefuseReason::UnexpectedName),
            _ => Ok(()),
        }
    }
}

/// BoringSSL looks at some things before it asks us; its reason is in the thread's error queue.
fn library_refusal() -> Option<RefuseReason> {
    let errors = ErrorStack::get();
    errors
        .errors()
        .iter()
        .find_map(|error| match error.reason()? {
            "KEY_USAGE_BIT_INCORRECT" => Some(RefuseReason::KeyUsage),
            "PEER_DID_NOT_RETURN_A_CERTIFICATE" => Some(RefuseReason::NoCertificate),
            "CERTIFICATE_PARSE_ERROR" | "CANNOT_PARSE_LEAF_CERT" => {
                Some(RefuseReason::MalformedCertificate)
            }
            _ => None,
        })
}

/// The peer's certificates, its own first. BoringSSL's chain holds the peer's own on the dialling side only.
fn peer_chain(ssl: &SslRef, role: PeerRole) -> Result<Vec<CertificateDer<'static>>, RefuseReason> {
    let own = ssl.peer_certificate().ok_or(RefuseReason::NoCertificate)?;
    let skip = usize::from(role == PeerRole::Server);
    let rest = ssl.peer_cert_chain().into_iter().flatten().skip(skip);
    std::iter::once(own.to_der())
        .chain(rest.map(|certificate| certificate.to_der()))
        .map(|der| der.map(CertificateDer::from))
        .collect::<Result<_, _>>()
        .map_err(|_| RefuseReason::MalformedCertificate)
}

fn alert(reason: RefuseReason) -> SslAlert {
    match reason {
        RefuseReason::NoCertificate => SslAlert::CERTIFICATE_REQUIRED,
        RefuseReason::Expired | RefuseReason::NotYetValid => SslAlert::CERTIFICATE_EXPIRED,
        RefuseReason::UnknownTrustDomain | RefuseReason::UnknownIssuer => SslAlert::UNKNOWN_CA,
        RefuseReason::KeyUsage | RefuseReason::ExtendedKeyUsage => {
            SslAlert::UNSUPPORTED_CERTIFICATE
        }
        RefuseReason::UnexpectedName => SslAlert::ACCESS_DENIED,
        _ => SslAlert::BAD_CERTIFICATE,
    }
}

/// Signatures that a peer may prove its key with. BoringSSL's own list has no Ed25519.
const SIGNATURES: [SslSignatureAlgorithm; 6] = [
    SslSignatureAlgorithm::ECDSA_SECP256R1_SHA256,
    SslSignatureAlgorithm::ED25519,
    SslSignatureAlgorithm::ECDSA_SECP384R1_SHA384,
    SslSignatureAlgorithm::RSA_PSS_RSAE_SHA256,
    SslSignatureAlgorithm::RSA_PSS_RSAE_SHA384,
    SslSignatureAlgorithm::RSA_PSS_RSAE_SHA512,
];

/// A TLS context for connections where the *peer* has `role`.
fn context(
    config: &EndpointConfig,
    role: PeerRole,
    handshakes: &Handshakes,
) -> Result<SslContextBuilder, ErrorStack> {
    let credentials = &config.credentials;
    let mut context = SslContextBuilder::new(SslMethod::tls())?;
    context.set_min_proto_version(Some(SslVersion::TLS1_3))?;
    context.set_max_proto_version(Some(SslVersion::TLS1_3))?;
    let mut chain = credentials.chain().iter();
    if let Some(own) = chain.next() {
        context.set_certificate(own)?;
    }
    for issuer in chain {
        context.add_extra_chain_cert(issuer.clone())?;
    }
    context.set_private_key(credentials.key())?;
    context.check_private_key()?;
    context.set_verify_algorithm_prefs(&SIGNATURES)?;
    // A resumed session would not show its client certificate again, so there is no resumption and no 0-RTT.
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    context.set_options(SslOptions::NO_TICKET);
    if !config.hybrid_key_exchange {
        context.set_curves_list("X25519:P-256")?;
    }
    // The callback replaces BoringSSL's own validation, and `Config::verify_peer` must not be called after it: that would
    // reset the mode and let a peer without a certificate in.
    let handshakes = handshakes.clone();
    let credentials = credentials.clone();
    context.set_custom_verify_callback(
        SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT,
        move |ssl| {
            handshakes.judge(ssl, role, &credentials).map_err(|reason| {
                handshakes.step().refused = Some(reason);
                SslVerifyError::Invalid(alert(reason))
            })
        },
    );
    Ok(context)
}

/// The QUIC configuration for accepting (`dialling` false) or dialling.
pub(crate) fn quic_config(
    config: &EndpointConfig,
    dialling: bool,
    handshakes: &Handshakes,
) -> Result<quiche::Config, EndpointError> {
    let role = if dialling {
        PeerRole::Server
    } else {
        PeerRole::Client
    };
    let context =
        context(config, role, handshakes).map_err(|e| EndpointError::Tls(e.to_string()))?;
    let quic = |e: quiche::Error| EndpointError::Quic(e.to_string());
    let mut quic_config =
        quiche::Config::with_boring_ssl_ctx_builder(quiche::PROTOCOL_VERSION, context)
            .map_err(quic)?;
    quic_config
        .set_application_protos(&[caplane_wire::ALPN])
        .map_err(quic)?;
    config.apply(&mut quic_config, dialling);
    Ok(quic_config)
}
