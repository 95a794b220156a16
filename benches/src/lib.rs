//! Caplane's measuring room: the load generator and the path impairer, as a
//! library (tests use it in-process) and as the command `caplane-load`.
//!
//! It refuses to know how a router works inside: it sees packets, messages
//! and `/proc`.

pub mod bars;
pub mod ceiling;
pub mod impair;
pub mod load;
pub mod rig;
pub mod stub_controller;
