//! See the crate description in Cargo.toml.

pub mod card;
pub mod classify;
pub mod spf;
pub mod taxonomy;
