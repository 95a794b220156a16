//! Why a change is refused: field, offending value, reason, remedy, and what would be accepted.

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
    /// ABORTED: somebody else was first.
    Conflict,
    /// PERMISSION_DENIED: right, for somebody else.
    Denied,
    /// UNAVAILABLE: the store failed.
    Store,
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
    /// What else is known; apart, so that a result that holds a refusal stays small.
    pub about: Box<About>,
}

/// What else is known of a refusal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// What would be accepted there: values or forms of them; empty where no list can say it.
    pub accepted: Vec<String>,
    /// Place in its batch of the update it is about.
    pub update: Option<usize>,
    /// The batch's other faulty updates, in order; each of them has none.
    pub further: Vec<Refusal>,
    /// Milliseconds after which the same would do.
    pub retry_after_ms: Option<u32>,
}

/// Longest value repeated in a refusal, in characters.
const VALUE_CHARS_MAX: usize = 120;

/// Accepted values told at most.
pub const ACCEPTED_MAX: usize = 16;

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
        Self {
            fault,
            field: field.to_owned(),
            value: shortened(value.to_string()),
            reason: reason.into(),
            remedy: remedy.into(),
            about: Box::default(),
        }
    }

    /// The same, saying what would be accepted: the first [`ACCEPTED_MAX`] of these.
    #[must_use]
    pub fn accepting<T: Into<String>>(mut self, accepted: impl IntoIterator<Item = T>) -> Self {
        let first = accepted.into_iter().take(ACCEPTED_MAX);
        self.about.accepted = first.map(|text| shortened(text.into())).collect();
        self
    }

    /// The same, of one update of a batch.
    #[must_use]
    pub fn of_update(mut self, index: usize) -> Self {
        self.about.update = Some(index);
        self.within(&format!("updates[{index}]"))
    }

    /// The same, inside of something larger.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        self.field = format!("{outer}.{}", self.field);
        self
    }
}

fn shortened(mut text: String) -> String {
    if let Some((at, _)) = text.char_indices().nth(VALUE_CHARS_MAX) {
        text.truncate(at);
        text.push_str("...");
    }
    text
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
