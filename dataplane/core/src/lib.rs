//! Caplane's sans-IO forwarding: tables, choice, policy, queues and counters.
//!
//! - [`fib`] holds what the controller compiled for this router: an immutable, versioned table in
//!   copy-on-write shards.
//! - [`forward`] is the forwarding decision and the egress queues: one [`forward::Forwarder`] per worker.
//! - [`counters`] says what became of every message; [`drop_reason::DropReason`] is exhaustive.
//!
//! This crate refuses to know sockets, QUIC, threads, files, protobuf and the clock: time comes in
//! as [`Now`], bytes as `BytesMut`, and what leaves is `Bytes`. The router and the seeded simulation
//! (`tests/sim`) run the very same code.
#![forbid(unsafe_code)]

mod choice;
pub mod counters;
pub mod drop_reason;
pub mod fib;
pub mod forward;
mod mix;
mod time;

pub use counters::Counters;
pub use drop_reason::DropReason;
pub use fib::Fib;
pub use forward::Forwarder;
pub use time::Now;
