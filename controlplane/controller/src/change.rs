//! What may be changed, and when that is refused.
//!
//! [`parse`] turns a northbound update into a [`Target`] that cannot be
//! malformed, without looking at the state; [`mod@write`] applies targets to it;
//! [`attach`] does the same for what routers report, [`lease`] for what time
//! ends, [`migrate`] for a new taxonomy; [`once`] keeps a Write from being done
//! twice, [`confirm`] takes it back unless it is confirmed. Each refusal names
//! the field, the offending value, the remedy and, where a list can say it, what
//! would be accepted. Refuses to know gRPC sessions, stores and tables.

pub mod attach;
mod codes;
pub mod confirm;
pub mod lease;
pub mod migrate;
pub mod once;
pub mod parse;
mod refusal;
pub mod write;

pub use parse::{Action, AgentSpec, Checked, ClassRef, Target, Update};
pub use refusal::{ACCEPTED_MAX, About, Fault, Refusal};
pub use write::Atomicity;

#[cfg(test)]
mod tests;
