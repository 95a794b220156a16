//! What may be changed, and when that is refused.
//!
//! [`parse`] turns a northbound update into a [`Target`] that cannot be
//! malformed, without looking at the state; [`mod@write`] applies targets to it;
//! [`attach`] does the same for what routers report, [`lease`] for what time
//! ends, [`migrate`] for a new taxonomy. Each refusal names the field, the
//! offending value and the remedy. Refuses to know gRPC sessions, stores and
//! tables.

pub mod attach;
pub mod lease;
pub mod migrate;
pub mod parse;
mod refusal;
pub mod write;

pub use parse::{Action, AgentSpec, ClassRef, Target, Update};
pub use refusal::{Fault, Refusal};

#[cfg(test)]
mod tests;
