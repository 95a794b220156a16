//! Single fields of updates, checked in themselves.

use caplane_wire::PeerName;

use crate::card::{AgentCard, CARD_BYTES_MAX};
use crate::change::{Fault, Refusal};
use crate::record::SHARED_TENANT;

/// Longest name of a tenant, router, group, policy or policer (bytes).
pub const NAME_BYTES_MAX: usize = 64;
/// Weight of an agent that says none.
pub const WEIGHT_DEFAULT: u32 = 100;
/// Largest weight and link cost.
pub const WEIGHT_MAX: u32 = 65_535;
/// Longest place of an agent (bytes).
pub const LOCALITY_BYTES_MAX: usize = 128;

/// What places are made of, as a regular expression.
const LOCALITY_FORM: &str = "[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*";

/// How identities are written.
const URI_FORMS: [&str; 2] = ["spiffe://<trust-domain>/<path>", "acps://<AIC>"];

/// What names are made of, as a regular expression.
const NAME_FORM: &str = "[A-Za-z0-9._-]{1,64}";

pub(super) fn card(bytes: &[u8]) -> Result<AgentCard, Refusal> {
    if bytes.len() > CARD_BYTES_MAX {
        return Err(invalid(
            "card",
            format!("{} bytes", bytes.len()),
            format!("is larger than {CARD_BYTES_MAX} bytes"),
            "remove what is not needed to find the agent",
        )
        .accepting([format!("0..={CARD_BYTES_MAX} bytes")]));
    }
    AgentCard::parse(bytes).map_err(|error| {
        invalid(
            "card",
            &error.field,
            error.to_string(),
            "give the agent's A2A card or ACPs capability specification as it is (JSON)",
        )
    })
}

pub(super) fn invalid(
    field: &str,
    value: impl std::fmt::Display,
    reason: impl Into<String>,
    remedy: impl Into<String>,
) -> Refusal {
    Refusal::new(Fault::Invalid, field, value, reason, remedy)
}

pub(super) fn uri(field: &str, text: &str) -> Result<String, Refusal> {
    match PeerName::parse(text) {
        Ok(name) => Ok(name.as_str().to_owned()),
        Err(error) => Err(invalid(
            field,
            text,
            error.to_string(),
            "write spiffe://<trust-domain>/<path> or acps://<AIC>, as in the certificate",
        )
        .accepting(URI_FORMS)),
    }
}

pub(super) fn name(field: &str, text: &str) -> Result<String, Refusal> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.bytes().all(allowed) {
        return Err(invalid(
            field,
            text,
            "is no name",
            format!("use 1 to {NAME_BYTES_MAX} characters of A-Z a-z 0-9 . _ -"),
        )
        .accepting([NAME_FORM]));
    }
    Ok(text.to_owned())
}

pub(super) fn optional_name(field: &str, text: &str) -> Result<String, Refusal> {
    if text.is_empty() {
        Ok(String::new())
    } else {
        name(field, text)
    }
}

/// A priority; without one it is as `otherwise` says.
pub(super) fn priority(
    field: &str,
    given: Option<u32>,
    otherwise: &str,
) -> Result<Option<u32>, Refusal> {
    match given {
        Some(priority) if priority > 7 => Err(invalid(
            field,
            priority,
            "is no priority",
            format!("use 0 to 7, or leave it out for {otherwise}"),
        )
        .accepting(["0..=7"])),
        given => Ok(given),
    }
}

/// A place: segments of names, from large to small; may be empty.
///
/// # Errors
/// It is too long, or has an empty or strange segment.
pub fn locality(field: &str, text: &str) -> Result<String, Refusal> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let sound = |segment: &str| !segment.is_empty() && segment.bytes().all(allowed);
    if text.is_empty() || text.len() <= LOCALITY_BYTES_MAX && text.split('/').all(sound) {
        return Ok(text.to_owned());
    }
    Err(invalid(
        field,
        text,
        "is no place",
        format!("write it from large to small, as in \"eu/de/fra\", in at most {LOCALITY_BYTES_MAX} bytes of A-Z a-z 0-9 . _ - /"),
    )
    .accepting([LOCALITY_FORM]))
}

pub(super) fn tenant(field: &str, text: &str) -> Result<String, Refusal> {
    if text.is_empty() {
        Ok(SHARED_TENANT.to_owned())
    } else {
        name(field, text)
    }
}

/// A weight or a cost; 0 = the default.
pub(super) fn weight(field: &str, value: u32, default: u32) -> Result<u32, Refusal> {
    match value {
        0 => Ok(default),
        1..=WEIGHT_MAX => Ok(value),
        _ => Err(invalid(
            field,
            value,
            "is too large",
            format!("use 1 to {WEIGHT_MAX}, or 0 for the default"),
        )
        .accepting([format!("0..={WEIGHT_MAX}")])),
    }
}
