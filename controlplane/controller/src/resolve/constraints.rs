//! What candidates must satisfy: checked once, then asked of one agent after the other.

use caplane_proto::v1;

use crate::change::parse::locality;
use crate::change::{Fault, Refusal};
use crate::record::AgentRecord;
use crate::rib::Rib;

/// Names in one list.
const LIST_MAX: usize = 64;
/// Longest text (bytes): that of a tag in a card of some sense.
const TEXT_BYTES_MAX: usize = 256;

/// See [`v1::Constraints`].
#[derive(Debug, Default)]
pub(super) struct Constraints {
    tenants: Vec<String>,
    /// Another domain is asked for: nobody of this one satisfies that.
    elsewhere: bool,
    /// In lower case; empty = any.
    provider: String,
    /// In lower case.
    tags: Vec<String>,
    version_min: Option<Version>,
    locality: String,
    cost_max: Option<u32>,
    serving_only: bool,
}

impl Constraints {
    /// Checks what is asked for, in the administrative domain `domain`.
    pub(super) fn check(given: &v1::Constraints, domain: u32) -> Result<Self, Refusal> {
        few("tenants", given.tenants.len())?;
        few("tags", given.tags.len())?;
        let texts = [
            ("provider", &given.provider),
            ("version_min", &given.version_min),
        ];
        let tags = given.tags.iter().map(|tag| ("tags", tag));
        for (field, text) in texts.into_iter().chain(tags) {
            bounded(field, text)?;
        }
        let version_min = match given.version_min.as_str() {
            "" => None,
            text => Some(Version::parse(text).ok_or_else(|| {
                let remedy = "write numbers between dots, as in \"2.10\"";
                refuse("version_min", text, "begins with no number", remedy)
            })?),
        };
        let place = locality("locality", &given.locality);
        Ok(Self {
            tenants: given.tenants.clone(),
            elsewhere: given
                .domain
                .is_some_and(|asked| asked != 0 && asked != domain),
            provider: given.provider.trim().to_lowercase(),
            tags: given
                .tags
                .iter()
                .map(|tag| tag.trim().to_lowercase())
                .collect(),
            version_min,
            locality: place.map_err(|refusal| refusal.within("query.constraints"))?,
            cost_max: given.cost_max,
            serving_only: given.serving_only,
        })
    }

    /// Whether anybody of a tenant may satisfy it.
    pub(super) fn tenant(&self, rib: &Rib, id: u32) -> bool {
        let named = || {
            rib.tenant_name(id)
                .is_some_and(|name| self.tenants.iter().any(|t| t == name))
        };
        !self.elsewhere && (self.tenants.is_empty() || named())
    }

    /// Whether an agent satisfies it, its tenant apart.
    pub(super) fn agent(&self, rib: &Rib, agent: &AgentRecord) -> bool {
        let has = |tag: &String| agent.tags.binary_search(tag).is_ok();
        self.cost_max.is_none_or(|most| agent.cost <= most)
            && (self.locality.is_empty() || is_within(&agent.locality, &self.locality))
            && (self.provider.is_empty() || agent.provider.trim().to_lowercase() == self.provider)
            && self.tags.iter().all(has)
            && self.version_min.as_ref().is_none_or(|least| {
                Version::parse(&agent.version).is_some_and(|version| version >= *least)
            })
            && (!self.serving_only || rib.instances(agent.number).next().is_some())
    }
}

fn refuse(field: &str, value: &str, reason: &str, remedy: &str) -> Refusal {
    let refusal = Refusal::new(Fault::Invalid, field, value, reason, remedy);
    refusal.within("query.constraints")
}

fn few(field: &str, given: usize) -> Result<(), Refusal> {
    if given <= LIST_MAX {
        return Ok(());
    }
    let (reason, remedy) = ("has too many", format!("give at most {LIST_MAX}"));
    Err(refuse(field, &given.to_string(), reason, &remedy).accepting([format!("0..={LIST_MAX}")]))
}

fn bounded(field: &str, text: &str) -> Result<(), Refusal> {
    if text.len() <= TEXT_BYTES_MAX {
        return Ok(());
    }
    let remedy = format!("give at most {TEXT_BYTES_MAX} bytes");
    Err(refuse(field, text, "is too long", &remedy))
}

/// Whether a place is another one, or in it.
fn is_within(place: &str, outer: &str) -> bool {
    let rest = place.strip_prefix(outer);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// How many segments two places begin with alike.
pub(super) fn alike(a: &str, b: &str) -> usize {
    if a.is_empty() || b.is_empty() {
        return 0;
    }
    let pairs = a.split('/').zip(b.split('/'));
    pairs.take_while(|(a, b)| a == b).count()
}

/// The numbers that a version begins with, without the zeros at their end.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(Vec<u64>);

impl Version {
    /// `None` = it begins with no number.
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = Vec::new();
        for part in text.trim().split('.') {
            let digits = part.bytes().take_while(u8::is_ascii_digit).count();
            if digits == 0 {
                break;
            }
            numbers.push(part[..digits].parse().unwrap_or(u64::MAX));
            if digits < part.len() {
                break;
            }
        }
        if numbers.is_empty() {
            return None;
        }
        while numbers.last() == Some(&0) {
            numbers.pop();
        }
        Some(Self(numbers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let version = |text: &str| Version::parse(text).expect(text);
        assert!(version("2.10") > version("2.9.9"));
        assert_eq!(version("2"), version("2.0.0"));
        assert_eq!(version("2.1-rc1"), version("2.1"));
        assert!(version("2.1.5-rc1") > version("2.1"));
        assert!(version("99999999999999999999") > version("7"));
        for text in ["", "v2", "latest", ".1"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_place_is_within_itself_and_what_it_is_part_of() {
        for (place, outer, is) in [
            ("eu/de/fra", "eu/de", true),
            ("eu/de", "eu/de", true),
            ("eu/denmark", "eu/de", false),
            ("eu", "eu/de", false),
            ("", "eu", false),
        ] {
            assert_eq!(is_within(place, outer), is, "{place} {outer}");
        }
        assert_eq!(alike("eu/de/fra", "eu/de/ber"), 2);
        assert_eq!((alike("", ""), alike("us", "eu")), (0, 0));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused = |given: v1::Constraints| {
            let refusal = Constraints::check(&given, 0).expect_err("refused");
            refusal.field
        };
        let field = refused(v1::Constraints {
            version_min: "latest".into(),
            ..v1::Constraints::default()
        });
        assert_eq!(field, "query.constraints.version_min");
        let field = refused(v1::Constraints {
            locality: "eu/".into(),
            ..v1::Constraints::default()
        });
        assert_eq!(field, "query.constraints.locality");
        let field = refused(v1::Constraints {
            tags: vec!["x".into(); 65],
            ..v1::Constraints::default()
        });
        assert_eq!(field, "query.constraints.tags");
        let field = refused(v1::Constraints {
            provider: "x".repeat(300),
            ..v1::Constraints::default()
        });
        assert_eq!(field, "query.constraints.provider");
    }
}
