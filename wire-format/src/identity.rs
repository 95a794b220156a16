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

/// Digits of the last level of an agent identity code, which checks the others.
pub const AIC_CHECK_DIGITS: usize = 4;

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

    /// The agent identity code, where that is the name.
    #[must_use]
    pub fn aic(&self) -> Option<Aic<'a>> {
        let text = self.uri.strip_prefix("acps://")?;
        Aic::parse(text).ok()
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

/// An agent identity code: ten levels of digits and letters. The last one checks the others, for whoever knows
/// the salt of their issuer. Letters count alike in both cases; [`PeerName`] takes the upper one only.
#[derive(Clone, Copy, Debug)]
pub struct Aic<'a> {
    text: &'a str,
    /// Bytes before the dot of the last level.
    checked: usize,
    /// Bytes of the levels that name the issuing system.
    trust: usize,
}

impl<'a> Aic<'a> {
    /// Checks the spelling of `text`, which has no scheme before it; not its check digits.
    ///
    /// # Errors
    /// [`PeerNameError`] with the byte position and the cause.
    pub fn parse(text: &'a str) -> Result<Self, PeerNameError> {
        if text.len() > AIC_MAX {
            return Err(PeerNameError::at(AIC_MAX, Cause::TooLong));
        }
        let (mut at, mut levels) = (0, 0);
        let (mut checked, mut trust) = (0, 0);
        for level in text.split('.') {
            if level.is_empty() {
                return Err(PeerNameError::at(at, Cause::Level));
            }
            if let Some(offset) = level.bytes().position(|byte| !byte.is_ascii_alphanumeric()) {
                return Err(PeerNameError::at(at + offset, Cause::Level));
            }
            at += level.len();
            levels += 1;
            match levels {
                AIC_TRUST_LEVELS => trust = at,
                9 => checked = at,
                _ => {}
            }
            at += 1;
        }
        if levels != AIC_LEVELS {
            return Err(PeerNameError::at(text.len(), Cause::Levels));
        }
        Ok(Self {
            text,
            checked,
            trust,
        })
    }

    /// The code as it is written.
    #[must_use]
    pub const fn as_str(&self) -> &'a str {
        self.text
    }

    /// Its ten levels, the most general first.
    pub fn levels(&self) -> impl Iterator<Item = &'a str> {
        self.text.split('.')
    }

    /// Is it `prefix`, or does it go on after it with a further level?
    #[must_use]
    pub fn is_below(&self, prefix: &str) -> bool {
        let (text, prefix) = (self.text.as_bytes(), prefix.as_bytes());
        let begin = text.get(..prefix.len());
        begin.is_some_and(|begin| begin.eq_ignore_ascii_case(prefix))
            && matches!(text.get(prefix.len()), None | Some(b'.'))
    }

    /// Do the check digits fit the levels before them? `salt` is the issuer's secret. No single wrong character
    /// and no two neighbours that changed places pass; of other mistakes one in 65,536 does (CRC-16).
    #[must_use]
    pub fn check(&self, salt: &[u8]) -> bool {
        let digits = &self.text.as_bytes()[self.checked + 1..];
        digits.eq_ignore_ascii_case(&self.check_digits(salt))
    }

    /// What the last level has to be: the CRC-16/CCITT-FALSE of the upper-case levels before it, with their dots, and the
    /// salt, as four digits of base 36.
    #[must_use]
    pub fn check_digits(&self, salt: &[u8]) -> [u8; AIC_CHECK_DIGITS] {
        let levels = self.text.as_bytes()[..self.checked].iter();
        let levels = levels.map(u8::to_ascii_uppercase);
        let mut left = crc16(levels.chain(salt.iter().copied()));
        let mut digits = [0; AIC_CHECK_DIGITS];
        for digit in digits.iter_mut().rev() {
            *digit = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[usize::from(left % 36)];
            left /= 36;
        }
        digits
    }
}

/// Letters count alike in both cases.
impl PartialEq for Aic<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.text.eq_ignore_ascii_case(other.text)
    }
}

impl Eq for Aic<'_> {}

impl fmt::Display for Aic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

/// CRC-16/CCITT-FALSE: polynomial 0x1021, from 0xffff on, highest bit first, nothing inverted.
fn crc16(bytes: impl Iterator<Item = u8>) -> u16 {
    bytes.fold(0xffff, |crc, byte| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| match crc & 0x8000 {
            0 => crc << 1,
            _ => crc << 1 ^ 0x1021,
        })
    })
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

fn acps<'a>(uri: &'a str, text: &'a str) -> Result<PeerName<'a>, PeerNameError> {
    let start = uri.len() - text.len();
    let shifted = |at, cause| PeerNameError::at(start + at, cause);
    let lower = text.bytes().position(|byte| byte.is_ascii_lowercase());
    match (Aic::parse(text), lower) {
        (Ok(aic), None) => Ok(PeerName {
            uri,
            trust_domain: &text[..aic.trust],
        }),
        (Ok(_), Some(at)) => Err(shifted(at, Cause::Case)),
        // The first of two faults is told.
        (Err(error), Some(at)) if at < error.position && error.cause != Cause::TooLong => {
            Err(shifted(at, Cause::Case))
        }
        (Err(error), _) => Err(shifted(error.position, error.cause)),
    }
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
    Case,
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
            Cause::Level => "levels of an AIC are digits and letters, separated by single dots",
            Cause::Levels => "an AIC has ten levels",
            Cause::Case => "letters of an AIC are upper-case in a peer's name",
        };
        write!(f, "not a peer's name at byte {}: {cause}", self.position)
    }
}

impl core::error::Error for PeerNameError {}
