//! Caplane's controller: what should be, compiled into what routers forward by.
//!
//! | module | what it is for |
//! |---|---|
//! | [`config`] | `controller.toml`, parsed once |
//! | [`taxonomy`], [`classify`], [`card`], [`knowledge`] | capability classes, and which of them a card's skills mean |
//! | [`salts`] | whose agent identity codes can be checked |
//! | [`record`], [`rib`] | the desired state: what is stored, and its indexes |
//! | [`spf`], [`compile`] | pure: desired state to table entries |
//! | [`tables`] | the compiled tables, generations and the log of changes |
//! | [`store`] | what survives a crash |
//! | [`commit`] | the one writer: applies changes, stores them in groups, publishes |
//! | [`feed`] | which entities the last generations changed |
//! | [`change`] | what may be changed and when that is refused |
//! | [`resolve`] | the most suitable class or agent for a path, an id or a text |
//! | [`explain`] | what would become of a message, and why |
//! | [`access`] | who may call, write and see what |
//! | [`quota`] | how much each client may ask for |
//! | [`audit`] | who did what, in a chain that cannot be changed unseen |
//! | [`northbound`], [`southbound`], [`tls`], [`unix`] | the shells: orchestrators, routers, mutual TLS, the local command |
//! | [`service`] | starts and stops all of it |
//!
//! It refuses to know QUIC, message bytes and what an agent says: it never sees a message.
#![forbid(unsafe_code)]

pub mod access;
pub mod audit;
pub mod card;
pub mod change;
pub mod classify;
pub mod commit;
pub mod compile;
pub mod config;
pub mod convert;
pub mod explain;
pub mod feed;
pub mod knowledge;
pub mod northbound;
pub mod quota;
pub mod record;
pub mod resolve;
pub mod rib;
pub mod salts;
pub mod service;
pub mod southbound;
pub mod spf;
pub mod store;
pub mod tables;
pub mod taxonomy;
pub mod tls;
pub mod unix;

#[cfg(test)]
mod testbed;
