//! What an agent links to speak over Caplane.

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

pub use address::{Address, Destination};
pub use caplane_proto::v1::Candidate;
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
