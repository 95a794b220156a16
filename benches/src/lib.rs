//! Caplane's measuring room: the load generator and the path impairer, as a
//! library (tests use it in-process) and as the command `caplane-load`.
//!
//! It refuses to know how a router works inside: it sees packets, messages
//! and `/proc`.

pub mod bars;
pub mod ceiling;
pub mod churn;
pub mod compare;
pub mod control;
pub mod impair;
pub mod load;
pub mod page;
pub mod peers;
pub mod rig;
#[cfg(test)]
mod schema;
pub mod search;
pub mod self_test;
pub mod soak;
pub mod stub_controller;
