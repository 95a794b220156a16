//! The whole verification of a peer's certificate: name, trust root, path, time, key usage.
//!
//! A pure function of the chain, the trust bundle and the time. The order is part of the security: the one URI name is read
//! first, its trust domain chooses the roots, and only those may vouch for it; so no domain can speak for another.

use caplane_wire::PeerName;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::credentials::TrustBundle;
use crate::error::RefuseReason;

/// What the verified certificate must be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerRole {
    /// The peer dialled us.
    Client,
    /// We dialled the peer.
    Server,
}

/// The one URI subject alternative name of a certificate, checked for its spelling (WF-4).
pub(crate) fn leaf_uri(der: &[u8]) -> Result<String, RefuseReason> {
    let (_, leaf) =
        X509Certificate::from_der(der).map_err(|_| RefuseReason::MalformedCertificate)?;
    one_uri(&leaf)
}

fn one_uri(leaf: &X509Certificate<'_>) -> Result<String, RefuseReason> {
    let names = leaf
        .subject_alternative_name()
        .map_err(|_| RefuseReason::MalformedCertificate)?;
    let mut uris = names
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    let uri = uris.next().ok_or(RefuseReason::NoUri)?;
    if uris.next().is_some() {
        return Err(RefuseReason::SeveralUris);
    }
    PeerName::parse(uri).map_err(|_| RefuseReason::MalformedUri)?;
    Ok(uri.to_owned())
}

/// Verifies a peer's chain (own certificate first) and gives its name.
pub(crate) fn verify_chain(
    chain: &[CertificateDer<'_>],
    role: PeerRole,
    trust: &TrustBundle,
    now: UnixTime,
) -> Result<String, RefuseReason> {
    let leaf = chain.first().ok_or(RefuseReason::NoCertificate)?;
    let (_, parsed) =
        X509Certificate::from_der(leaf).map_err(|_| RefuseReason::MalformedCertificate)?;
    let uri = one_uri(&parsed)?;
    let name = PeerName::parse(&uri).map_err(|_| RefuseReason::MalformedUri)?;
    let roots = trust
        .roots(name.trust_domain())
        .ok_or(RefuseReason::UnknownTrustDomain)?;

    let usage = match role {
        PeerRole::Client => KeyUsage::client_auth(),
        PeerRole::Server => KeyUsage::server_auth(),
    };
    EndEntityCert::try_from(leaf)
        .and_then(|end_entity| {
            end_entity
                .verify_for_usage(
                    webpki::ALL_VERIFICATION_ALGS,
                    roots,
                    &chain[1..],
                    now,
                    usage,
                    None,
                    None,
                )
                .map(|_| ())
        })
        .map_err(reason)?;

    may_sign(&parsed)?;
    Ok(uri)
}

/// webpki looks at extended key usage only; RFC 5280 section 4.2.1.3 wants this bit for the signatures of TLS 1.3.
fn may_sign(leaf: &X509Certificate<'_>) -> Result<(), RefuseReason> {
    let key_usage = leaf
        .key_usage()
        .map_err(|_| RefuseReason::MalformedCertificate)?;
    if key_usage.is_some_and(|usage| !usage.value.digital_signature()) {
        return Err(RefuseReason::KeyUsage);
    }
    Ok(())
}

/// The name in our own certificate, which must be fit to be presented.
pub(crate) fn own_uri(der: &[u8]) -> Result<String, RefuseReason> {
    let (_, leaf) =
        X509Certificate::from_der(der).map_err(|_| RefuseReason::MalformedCertificate)?;
    may_sign(&leaf)?;
    one_uri(&leaf)
}

fn reason(error: webpki::Error) -> RefuseReason {
    use webpki::Error as E;
    match error {
        E::CertExpired { .. } => RefuseReason::Expired,
        E::CertNotValidYet { .. } => RefuseReason::NotYetValid,
        E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => RefuseReason::ExtendedKeyUsage,
        E::CaUsedAsEndEntity
        | E::EndEntityUsedAsCa
        | E::NameConstraintViolation
        | E::PathLenConstraintViolated
        | E::MaximumPathBuildCallsExceeded
        | E::MaximumPathDepthExceeded
        | E::MaximumSignatureChecksExceeded
        | E::MaximumNameConstraintComparisonsExceeded
        | E::UnsupportedCriticalExtension => RefuseReason::PathRule,
        E::UnknownIssuer
        | E::InvalidSignatureForPublicKey
        | E::SignatureAlgorithmMismatch
        | E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => RefuseReason::UnknownIssuer,
        _ => RefuseReason::MalformedCertificate,
    }
}
