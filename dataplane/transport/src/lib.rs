//! Caplane's transport: authenticated QUIC connections over one UDP socket.
//!
//! An [`Endpoint`] owns the sockets and every connection of one worker, runs on one thread and is driven by four calls:
//! [`Endpoint::wait`], [`Endpoint::receive`], [`Endpoint::next_event`] and [`Endpoint::flush`]. It knows identities,
//! streams, lanes and datagrams; it refuses to know labels, tenants, routes or what a message means. Of a message it reads
//! the length only, and only when a slab is nearly full.
//!
//! | module | what it looks after |
//! |---|---|
//! | `endpoint` | the surface, and the order of a tick |
//! | `dispatch` | packets to connections (`mod`), their lives (`life`), events out (`events`); `accept` lets new ones in |
//! | `connection`, `table`, `timers`, `cid` | one connection; where all are kept, when they are due, how they are named |
//! | `rx`, `lanes`, `bulk`, `slab` | streams that peers send to us, read into pooled slabs |
//! | `tx`, `train`, `quic` | streams that we send, packets in GSO trains, buffers that move |
//! | `steering` | groups of endpoints, one per worker: whose packet is it, rings to the others |
//! | `retry`, `reset` | tokens: address validation, stateless reset |
//! | `tls` | identities, and every decision about a certificate |
//! | `io` | the socket; the only `unsafe` of the programs |
//!
//! What it does not do: move a connection to another local address by itself (a peer's moves are followed); ECN; codepoints per
//! traffic class (they are per connection, see [`Endpoint::set_dscp`]); find out that a path MTU *grew* before the next new
//! connection (QUIC has no call for it); pace packets.
//!
//! The tick of a worker:
//!
//! ```no_run
//! # fn tick(endpoint: &mut caplane_transport::Endpoint) -> std::io::Result<()> {
//! use std::time::Instant;
//! endpoint.wait(None)?;
//! let now = Instant::now(); // the one clock read of the tick
//! endpoint.receive(now)?;
//! while let Some(event) = endpoint.next_event() {
//!     // act on the event: consume lanes, queue sends
//! #   drop(event);
//! }
//! endpoint.flush(now)?;
//! # Ok(())
//! # }
//! ```

mod accept;
mod bulk;
mod cid;
mod config;
mod connection;
mod counters;
mod dispatch;
mod endpoint;
mod error;
mod event;
mod io;
mod lanes;
mod quic;
mod reset;
mod retry;
mod rx;
mod slab;
mod steering;
mod stream_ids;
mod table;
mod timers;
mod tls;
mod train;
mod tx;

#[cfg(test)]
extern crate self as caplane_transport;
#[cfg(test)]
mod tests;

pub use config::{EndpointConfig, Io};
pub use counters::Counters;
pub use endpoint::Endpoint;
pub use error::{DatagramRefused, EndpointError, RefuseReason, SendError};
pub use event::{BulkRx, BulkTx, CloseCause, Event, LaneRx, LaneTx, PeerId};

pub use io::Waker;
pub use tls::{Credentials, CredentialsError, TrustBundle};

pub use caplane_wire::TrafficClass;
