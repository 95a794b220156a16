//! Why a change is refused: field, offending value, reason, remedy.

use std::fmt;

/// Kind of a refusal; each is one gRPC status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// INVALID_ARGUMENT: wrong in itself.
    Invalid,
    /// ALREADY_EXISTS.
    Exists,
    /// NOT_FOUND.
    Missing,
    /// FAILED_PRECONDITION: right in itself, not in this state.
    State,
    /// RESOURCE_EXHAUSTED: a bound is reached.
    Full,
}

/// A change that may not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its kind.
    pub fault: Fault,
    /// Path of the field, `updates[3].agent.uri`.
    pub field: String,
    /// What stood there, shortened.
    pub value: String,
    /// What is wrong with it.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

/// Longest value repeated in a refusal, in characters.
const VALUE_CHARS_MAX: usize = 120;

impl Refusal {
    /// A refusal of a field.
    #[must_use]
    pub fn new(
        fault: Fault,
        field: &str,
        value: impl fmt::Display,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let mut value = value.to_string();
        if let Some((at, _)) = value.char_indices().nth(VALUE_CHARS_MAX) {
            value.truncate(at);
            value.push_str("...");
        }
        Self {
            fault,
            field: field.to_owned(),
            value,
            reason: reason.into(),
            remedy: remedy.into(),
        }
    }

    /// The same, inside of something larger.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        self.field = format!("{outer}.{}", self.field);
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            field,
            value,
            reason,
            remedy,
            ..
        } = self;
        write!(f, "{field} \"{value}\": {reason}; {remedy}")
    }
}

impl std::error::Error for Refusal {}
