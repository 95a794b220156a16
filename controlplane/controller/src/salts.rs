//! The salts of those who issue agent identity codes (ACPs AIC), and what they say of a code.
//!
//! A salt is the issuer's secret: who knows it can make codes that pass. So it is never shown, nor what the check
//! digits of a wrong code should have been. Refuses to know agents.

use std::fmt;

use caplane_wire::identity::{AIC_LEVELS, AIC_MAX};
use caplane_wire::{Aic, PeerName};

/// Longest salt in bytes.
pub const SALT_BYTES_MAX: usize = 64;

/// What the check digits of a code say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityCheck {
    /// No salt is known for it.
    NotChecked,
    /// They fit.
    Passed,
    /// They do not.
    Failed,
}

/// The salt of the codes below a prefix.
#[derive(Clone, PartialEq, Eq)]
pub struct Salt {
    prefix: String,
    bytes: Vec<u8>,
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { prefix, bytes } = self;
        write!(f, "{prefix}: {} bytes", bytes.len())
    }
}

impl Salt {
    /// `prefix` = the first levels of a code, one to nine of them; `salt` in hexadecimal digits.
    ///
    /// # Errors
    /// What is wrong and what to write, in words that do not show the salt.
    pub fn parse(prefix: &str, salt: &str) -> Result<Self, String> {
        let level = |level: &str| {
            !level.is_empty() && level.bytes().all(|byte| byte.is_ascii_alphanumeric())
        };
        let levels = prefix.split('.').count();
        if prefix.len() > AIC_MAX || levels >= AIC_LEVELS || !prefix.split('.').all(level) {
            return Err(format!(
                "prefix \"{prefix}\" is not the beginning of an AIC; write one to nine of its levels, for example \"1.2.156.3088\""
            ));
        }
        let bytes = hexadecimal(salt).ok_or_else(|| {
            format!(
                "salt is not 1 to {SALT_BYTES_MAX} bytes in hexadecimal digits; write for example \"1234\" for the two bytes 0x12 0x34"
            )
        })?;
        Ok(Self {
            prefix: prefix.to_ascii_uppercase(),
            bytes,
        })
    }

    /// The levels that the codes begin with, letters upper-case.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks_exact(2);
    if !digits.remainder().is_empty() || !(1..=SALT_BYTES_MAX).contains(&digits.len()) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    digits
        .map(|pair| Some((digit(pair[0])? << 4 | digit(pair[1])?) as u8))
        .collect()
}

/// All salts that are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Salts(Vec<Salt>);

impl Salts {
    /// Of several prefixes of a code the longest counts.
    #[must_use]
    pub fn new(mut salts: Vec<Salt>) -> Self {
        salts.sort_by_key(|salt| std::cmp::Reverse(salt.prefix.len()));
        Self(salts)
    }

    /// What the check digits of a code say.
    #[must_use]
    pub fn check(&self, code: Aic<'_>) -> IdentityCheck {
        let salt = self.0.iter().find(|salt| code.is_below(&salt.prefix));
        match salt.map(|salt| code.check(&salt.bytes)) {
            None => IdentityCheck::NotChecked,
            Some(true) => IdentityCheck::Passed,
            Some(false) => IdentityCheck::Failed,
        }
    }
}

/// The code of a name `acps://AIC`.
#[must_use]
pub fn code_of(uri: &str) -> Option<Aic<'_>> {
    PeerName::parse(uri).ok()?.aic()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn salts(salts: &[(&str, &str)]) -> Salts {
        let salt = |(prefix, salt): &(&str, &str)| Salt::parse(prefix, salt).expect("a salt");
        Salts::new(salts.iter().map(salt).collect())
    }

    fn check(salts: &Salts, code: &str) -> IdentityCheck {
        salts.check(Aic::parse(code).expect("a code"))
    }

    #[test]
    fn the_longest_prefix_counts() {
        let code = "1.2.156.3088.1.34C2.478BDF.3GF546.1.0SEN";
        let right = ("1.2.156.3088.1", "1234");
        let wrong = ("1.2.156.3088", "4321");
        assert_eq!(check(&salts(&[]), code), IdentityCheck::NotChecked);
        assert_eq!(check(&salts(&[wrong]), code), IdentityCheck::Failed);
        for order in [[right, wrong], [wrong, right]] {
            assert_eq!(check(&salts(&order), code), IdentityCheck::Passed);
        }
        let others = salts(&[("1.2.156.308", "1234"), ("1.2.156.3088.2", "1234")]);
        assert_eq!(check(&others, code), IdentityCheck::NotChecked);
        let lower = salts(&[("1.2.156.3088.1.34c2", "1234")]);
        assert_eq!(check(&lower, code), IdentityCheck::Passed);
    }

    #[test]
    fn salts_that_are_none_are_refused_and_never_shown() {
        let long = "00".repeat(SALT_BYTES_MAX + 1);
        for salt in ["", "abc", "abgh", "0xab", "é9", &long] {
            let told = Salt::parse("1.2", salt).expect_err(salt);
            assert!(salt.is_empty() || !told.contains(salt), "{told}");
        }
        for prefix in [
            "",
            ".",
            "1.",
            "1..2",
            "1.2-3",
            "1.2.3.4.5.6.7.8.9.A",
            &"1".repeat(54),
        ] {
            Salt::parse(prefix, "12").expect_err(prefix);
        }
        let shown = format!("{:?}", salts(&[("1.2", "abcd")]));
        assert!(!shown.contains("ab") && !shown.contains("171"), "{shown}");
    }

    #[test]
    fn only_acps_names_have_a_code() {
        let uri = "acps://1.2.156.3088.1.34C2.478BDF.3GF546.1.0SEN";
        assert!(code_of(uri).is_some_and(|code| uri.ends_with(code.as_str())));
        assert!(code_of("spiffe://example.org/agent/a").is_none());
    }
}
