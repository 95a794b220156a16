//! Caplane's router: workers that join the transport to the forwarding core, and
//! a control thread that keeps their table fresh.
//!
//! [`Router::start`] is the way in; `main.rs` only reads arguments and signals. One thread per
//! [`worker`] runs every connection and every message to completion; one
//! control thread ([`control`]) speaks to the controller ([`southbound`]), answers
//! Prometheus ([`admin`]) and writes the stored table ([`fib_file`], [`table_log`]). They meet
//! in [`shared`]. What is forwarded where is `caplane-core`'s business, how
//! bytes travel is `caplane-transport`'s. `dataplane/ARCHITECTURE.md` tells the life of a message.

pub mod admin;
pub mod attachments;
mod backoff;
pub mod config;
pub mod control;
pub mod control_frame;
pub mod exchange;
pub mod fib_file;
mod fnv;
mod lookup;
mod router;
pub mod shared;
pub mod southbound;
mod state_file;
pub mod table;
pub mod table_log;
pub mod worker;

pub use router::{Addresses, Ended, Router, StartError};

/// An error and its causes on one line.
pub(crate) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
