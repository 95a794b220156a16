//! A2A agent cards (protocol 0.3 and 1.0), read exactly as they are found.

use crate::classify::SkillClaim;

/// Largest card accepted (bytes): what `Hello.agent_card` may carry.
pub const CARD_BYTES_MAX: usize = 65_536;

/// What Caplane reads of an agent card. Everything else in it is kept by the caller, who holds the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentCard {
    /// Name of the agent.
    pub name: String,
    /// What it does.
    pub description: String,
    /// Version of the agent, free text; empty when not given.
    pub version: String,
    /// Organisation that provides it; empty when not given.
    pub provider: String,
    /// A2A protocol version; empty when not given.
    pub protocol_version: String,
    /// Where it can be reached directly, the preferred one first.
    pub endpoints: Vec<String>,
    /// Its skills, in the card's order; ids are unique and not empty.
    pub skills: Vec<SkillClaim>,
}

/// Why a card was refused, and where in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("agent card {line}:{column}: {field}: {cause}")]
pub struct CardError {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1; 0 = the start of the line.
    pub column: usize,
    /// Path of the field, `skills[2].id`; "." = the whole card.
    pub field: String,
    /// What is wrong.
    pub cause: String,
}

impl AgentCard {
    /// Reads a card.
    ///
    /// # Errors
    /// Line and column, the field and the cause.
    pub fn parse(_bytes: &[u8]) -> Result<Self, CardError> {
        Err(CardError {
            line: 1,
            column: 0,
            field: ".".into(),
            cause: "not read yet".into(),
        })
    }
}
