//! Names of peers as their certificates carry them: the one URI subject alternative name (WF-4).
//!
//! Either a SPIFFE id, `spiffe://trust-domain/path`, or an ACPs agent identity code, `acps://AIC`. Knows their
//! spelling and nothing of certificates; refuses to know who is registered. One identity has one spelling, so
//! names are compared as bytes.

use core::fmt;

/// Longest SPIFFE id in bytes (SPIFFE-ID section 2.3).
pub const SPIFFE_ID_MAX: usize = 2_048;

/// Longest trust domain in bytes (SPIFFE-ID section 2.1).
pub const TRUST_DOMAIN_MAX: usize = 255;

/// Longest agent identity code in characters (ACPs AIC).
pub const AIC_MAX: usize = 53;

/// Levels of an agent identity code.
pub const AIC_LEVELS: usize = 10;

/// Levels of an agent identity code that name its issuing system, and so its trust domain.
const AIC_TRUST_LEVELS: usize = 4;

/// A peer's name, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerName<'a> {
    uri: &'a str,
    trust_domain: &'a str,
}

impl<'a> PeerName<'a> {
    /// Checks `uri`.
    ///
    /// # Errors
    /// [`PeerNameError`] with the byte position and the cause.
    pub fn parse(uri: &'a str) -> Result<Self, PeerNameError> {
        if let Some(name) = uri.strip_prefix("spiffe://") {
            spiffe(uri, name)
        } else if let Some(aic) = uri.strip_prefix("acps://") {
            acps(uri, aic)
        } else {
            Err(PeerNameError::at(0, Cause::Scheme))
        }
    }

    /// The trust domain, by which the roots that may vouch for the name are chosen: of `spiffe://td/path` it is
    /// `td`, of `acps://1.2.156.3088...` it is `1.2.156.3088`, the first four levels.
    #[must_use]
    pub const fn trust_domain(&self) -> &'a str {
        self.trust_domain
    }

    /// The whole name as it stands in the certificate.
    #[must_use]
    pub const fn as_str(&self) -> &'a str {
        self.uri
    }

    /// What follows the trust domain of a SPIFFE id, with its leading slash; empty for an AIC.
    #[must_use]
    pub fn path(&self) -> &'a str {
        self.uri
            .strip_prefix("spiffe://")
            .map_or("", |name| &name[self.trust_domain.len()..])
    }
}

impl fmt::Display for PeerName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.uri)
    }
}

impl AsRef<str> for PeerName<'_> {
    fn as_ref(&self) -> &str {
        self.uri
    }
}

fn spiffe<'a>(uri: &'a str, name: &'a str) -> Result<PeerName<'a>, PeerNameError> {
    let start = uri.len() - name.len();
    if uri.len() > SPIFFE_ID_MAX {
        return Err(PeerNameError::at(SPIFFE_ID_MAX, Cause::TooLong));
    }
    let (trust_domain, path) = name.split_at(name.find('/').unwrap_or(name.len()));
    if trust_domain.is_empty() {
        return Err(PeerNameError::at(start, Cause::NoTrustDomain));
    }
    if trust_domain.len() > TRUST_DOMAIN_MAX {
        return Err(PeerNameError::at(start + TRUST_DOMAIN_MAX, Cause::TooLong));
    }
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    if let Some(offset) = trust_domain.bytes().position(|byte| !allowed(byte)) {
        return Err(PeerNameError::at(start + offset, Cause::TrustDomain));
    }
    let Some(path) = path.strip_prefix('/') else {
        return Err(PeerNameError::at(uri.len(), Cause::NoPath));
    };
    let mut at = uri.len() - path.len();
    for segment in path.split('/') {
        if matches!(segment, "" | "." | "..") {
            return Err(PeerNameError::at(at, Cause::Segment));
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if let Some(offset) = segment.bytes().position(|byte| !allowed(byte)) {
            return Err(PeerNameError::at(at + offset, Cause::Path));
        }
        at += segment.len() + 1;
    }
    Ok(PeerName { uri, trust_domain })
}

fn acps<'a>(uri: &'a str, aic: &'a str) -> Result<PeerName<'a>, PeerNameError> {
    let start = uri.len() - aic.len();
    if aic.len() > AIC_MAX {
        return Err(PeerNameError::at(start + AIC_MAX, Cause::TooLong));
    }
    let (mut at, mut levels, mut trust_domain) = (start, 0, "");
    for level in aic.split('.') {
        if level.is_empty() {
            return Err(PeerNameError::at(at, Cause::Level));
        }
        let allowed = |byte: u8| matches!(byte, b'0'..=b'9' | b'A'..=b'Z');
        if let Some(offset) = level.bytes().position(|byte| !allowed(byte)) {
            return Err(PeerNameError::at(at + offset, Cause::Level));
        }
        at += level.len();
        levels += 1;
        if levels == AIC_TRUST_LEVELS {
            trust_domain = &uri[start..at];
        }
        at += 1;
    }
    if levels != AIC_LEVELS {
        return Err(PeerNameError::at(uri.len(), Cause::Levels));
    }
    Ok(PeerName { uri, trust_domain })
}

/// Why a text is no peer's name, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerNameError {
    position: usize,
    cause: Cause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Cause {
    Scheme,
    TooLong,
    NoTrustDomain,
    TrustDomain,
    NoPath,
    Segment,
    Path,
    Level,
    Levels,
}

impl PeerNameError {
    const fn at(position: usize, cause: Cause) -> Self {
        Self { position, cause }
    }

    /// Where the text goes wrong, in bytes from its start.
    #[must_use]
    pub const fn position(&self) -> usize {
        self.position
    }
}

impl fmt::Display for PeerNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = match self.cause {
            Cause::Scheme => "it must begin with \"spiffe://\" or \"acps://\"",
            Cause::TooLong => "it is too long here",
            Cause::NoTrustDomain => "a trust domain must stand here",
            Cause::TrustDomain => "a trust domain has only a-z, 0-9, '.', '-' and '_'",
            Cause::NoPath => {
                "a path must follow the trust domain, as in spiffe://example.org/agent/hotels"
            }
            Cause::Segment => "a path segment may not be empty, \".\" or \"..\"",
            Cause::Path => "a path has only letters, digits, '.', '-' and '_'",
            Cause::Level => {
                "levels of an AIC are digits and upper-case letters, separated by single dots"
            }
            Cause::Levels => "an AIC has ten levels",
        };
        write!(f, "not a peer's name at byte {}: {cause}", self.position)
    }
}

impl core::error::Error for PeerNameError {}
