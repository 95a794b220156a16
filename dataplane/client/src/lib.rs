//! What an agent links to speak over Caplane: attach to a router, ask for capabilities, send, receive, answer.
//!
//! ```no_run
//! use std::path::Path;
//! use caplane_client::{
//!     Client, ClientConfig, ClientEvent, Credentials, Destination, FlowOptions, Query, TrustBundle,
//! };
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // Who we are, and whose certificates we believe.
//! let mut trust = TrustBundle::new();
//! trust.add_file("example.org", Path::new("ca.pem"))?;
//! let credentials = Credentials::from_files(
//!     Path::new("agent-planner.pem"),
//!     Path::new("agent-planner-key.pem"),
//!     trust,
//! )?;
//!
//! // Attach to the first router that takes us; on loss, come back to it or go to the other.
//! let config = ClientConfig::new(["router-1.example.org:4433", "router-2.example.org:4433"], credentials);
//! let client = Client::attach(config).await?;
//!
//! // Serve: whoever asks this agent is answered.
//! let server = client.clone();
//! tokio::spawn(async move {
//!     while let Ok(request) = server.recv().await {
//!         let answer = format!("{} bytes from {}", request.payload().len(), request.source());
//!         if let Err(error) = request.reply(answer).await {
//!             eprintln!("{error}");
//!         }
//!     }
//! });
//!
//! // Watch what happens outside of calls.
//! let mut events = client.events();
//! tokio::spawn(async move {
//!     while let Some(event) = events.next().await {
//!         if let ClientEvent::Detached { reason, .. } = event {
//!             eprintln!("lost the router: {reason}");
//!         }
//!     }
//! });
//!
//! // Resolve a need once; from then on its label is all that routers look at.
//! let found = client.resolve(Query::Text("convert currency".into())).await?;
//! let best = found.first().ok_or("nobody converts currency here")?;
//! let destination = Destination::try_from(best)?;
//!
//! // Ask, and wait for the reply. The flow stays with the instance that answered.
//! let flow = client.flow(destination, FlowOptions::default());
//! let reply = flow.request("100 EUR in JPY?").await?;
//! println!("{:?} says {:?}", reply.source(), reply.payload());
//!
//! // Send many with receipts: hand them in, then wait for all.
//! let mut pending = Vec::new();
//! for n in 0..1_000 {
//!     pending.push(flow.send_receipted(format!("rate update {n}")).await?);
//! }
//! for receipt in pending {
//!     receipt.await?;
//! }
//!
//! client.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! [`Flow::send`] hands a message over once. It may be lost where a queue is full or a router dies; a router that can tell
//! says so, as [`ClientEvent::Notice`].
//!
//! [`Flow::send_receipted`] and [`Flow::request`] send the same message, with the same flow and sequence, until its
//! receiver has confirmed it, a notice says that this is pointless, or the flow's timeout is over; the caller always learns
//! which. Hops repair what the network loses, so a resend is for what a full queue or a dead router took: while receipts of a
//! flow come in nothing of it is sent again but what they have passed by. The receiver remembers the last 1,024 sequences of each flow and delivers each once. So a receipted message is
//! delivered **exactly once while the receiving instance lives**, and at least once across its failover.
//!
//! **Reattaching.** The receiver knows a message by its sender's instance label. When the client loses its router and attaches
//! again, it asks for its old instance number under its instance name, and normally gets it: then exactly once still holds.
//! When it gets another one ([`ClientEvent::Reattached`] with `label_changed`), what was under way is sent again under
//! the new label, the receiver cannot know it again, and a message whose receipt was lost with the old connection is delivered
//! a second time: **at least once**. A request that was receipted under the old label is not sent again; its reply went to
//! the old label and is lost ([`SendError::NoReply`] with `receipted: true`). Applications for which this matters put a key
//! of their own into the payload.
//!
//! **Order** holds within one flow and one carrier for messages sent the first time. A resend may come late; with
//! [`FlowOptions::window`] 1 nothing overtakes it. Bulk messages of one flow wait for one another, so that two streams do not
//! race; for speed spread them over several flows.
//!
//! **Memory** is bounded: sending waits while `send_buffer_bytes` are under way; what the application does not take is
//! not read from the router, so its senders wait for their receipts.
//!
//! # Pinning
//!
//! With affinity (the default), the first receipt or reply of a flow to a class or an agent pins it to the instance that gave
//! it: later messages ask for that instance. When a router says that it is gone (`NO_ROUTE`, `UNREACHABLE`), or after three
//! resends without an answer, the flow asks for its class again, at once, with everything that is unconfirmed
//! ([`ClientEvent::Unpinned`]).

#![forbid(unsafe_code)]

mod address;
mod client;
mod command;
mod config;
mod delivery;
mod error;
mod event;
mod flow;
mod inbox;
mod options;
mod outbox;
mod protocol;
mod thread;

pub use address::{Address, Destination, NoDestination};
pub use caplane_proto::v1::{Candidate, Constraints};
pub use caplane_transport::{Credentials, CredentialsError, TrustBundle};
pub use caplane_wire::{
    CloseCode, CongestionAction, Flags, Label, LabelKind, NoticeCode, ParseLabelError, TrafficClass,
};
pub use client::{Client, Events, Query};
pub use config::{ClientConfig, ReceiveLimits};
pub use delivery::Delivery;
pub use error::{AttachError, CloseReason, Fault, ResolveError, SendError};
pub use event::{Attachment, ClientEvent};
pub use flow::{Flow, PendingReceipt};
pub use options::{Carrier, FlowOptions};
pub use protocol::{CarriedBy, Counters, Receipt};
