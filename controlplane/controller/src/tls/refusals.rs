//! Peers turned away, counted by reason.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Mutex, PoisonError};

use rustls::{CertificateError, Error};

use super::NameFault;

/// How often peers were turned away, by reason.
#[derive(Debug, Default)]
pub struct Refusals {
    counts: Mutex<BTreeMap<&'static str, u64>>,
}

/// Refusals of one reason that are logged one by one; after them every power of two.
const LOGGED_EACH: u64 = 16;

impl Refusals {
    /// Counts a refusal and logs it, less often the more there are.
    pub fn count(&self, listener: &str, address: &dyn Display, reason: &'static str, cause: &str) {
        let count = {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            let count = counts.entry(reason).or_default();
            *count += 1;
            *count
        };
        if count <= LOGGED_EACH || count.is_power_of_two() {
            tracing::warn!(event = "peer_refused", listener, %address, reason, cause, count);
        }
    }

    /// How often each reason occurred.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<&'static str, u64> {
        self.counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Name of the reason in counts and logs, and the cause in words.
pub(super) fn reason(error: &std::io::Error) -> (&'static str, String) {
    let Some(tls) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())
    else {
        return ("connection", error.to_string());
    };
    let reason = match tls {
        Error::NoCertificatesPresented => "no_certificate",
        Error::InvalidCertificate(fault) => match fault {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired",
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "not_valid_yet"
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => "unknown_issuer",
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "key_usage"
            }
            CertificateError::Other(other) => match other.0.downcast_ref::<NameFault>() {
                Some(NameFault::Unreadable(_)) => "unreadable",
                Some(NameFault::UriCount(_)) => "uri_count",
                Some(NameFault::Name { .. }) => "name",
                Some(NameFault::KeyUsage) => "key_usage",
                Some(NameFault::TrustDomain(_)) => "trust_domain",
                None => "certificate",
            },
            _ => "certificate",
        },
        _ => "handshake",
    };
    (reason, tls.to_string())
}
