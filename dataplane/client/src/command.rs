//! What the application asks of the transport thread.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use caplane_proto::v1::{Resolve, Resolved};
use caplane_wire::TrafficClass;
use tokio::sync::oneshot;

use crate::address::Destination;
use crate::error::{ResolveError, SendError};
use crate::options::FlowOptions;
use crate::protocol::{Receipt, Received, ReplyKey, Submission};

/// Who waits for a message.
pub(crate) enum Ticket {
    Receipt(oneshot::Sender<Result<Receipt, SendError>>),
    Reply(oneshot::Sender<Result<Received, SendError>>),
}

pub(crate) enum Command {
    OpenFlow {
        flow: u64,
        destination: Destination,
        options: FlowOptions,
    },
    Submit {
        flow: u64,
        submission: Submission<Ticket>,
    },
    CloseFlow {
        flow: u64,
    },
    Reply {
        key: ReplyKey,
        class: TrafficClass,
        timeout: Duration,
        submission: Submission<Ticket>,
    },
    Resolve {
        query: Resolve,
        timeout: Duration,
        answer: oneshot::Sender<Result<Resolved, ResolveError>>,
    },
    /// The addresses of a router, looked up off the thread.
    Addresses {
        router: usize,
        found: io::Result<Vec<SocketAddr>>,
    },
    /// Finish what is under way, then end. `done` is told when the connection is closed.
    Close {
        done: Option<oneshot::Sender<()>>,
    },
}
