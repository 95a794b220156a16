//! What can go wrong at the edge of the library, split by whose fault it is. Every message says what failed, on what, and
//! what to do.

use std::time::Duration;

use caplane_wire::{CloseCode, Label, NoticeCode};
use thiserror::Error;

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The other side (a router or an agent) refused or broke a rule: ask its operator.
    Peer,
    /// The network or the system did not deliver: trying again may help.
    Operating,
    /// The caller asked for what cannot be: change the program or its configuration.
    Caller,
}

/// `Client::attach` failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AttachError {
    /// A value of the configuration cannot be used.
    #[error("client configuration: {0}")]
    Config(String),
    /// The transport could not be started.
    #[error("transport: {0}")]
    Transport(#[from] caplane_transport::EndpointError),
    /// The thread that carries the connection could not be started.
    #[error("start the transport thread: {0}; raise the limit of threads or memory")]
    Thread(std::io::Error),
    /// A router answered and refused this identity.
    #[error(
        "router {router} refused the attachment: {code} ({reason}); register the identity or correct what it may do, then attach again"
    )]
    Refused {
        /// "host:port" as configured.
        router: String,
        /// What it refused for.
        code: CloseCode,
        /// The router's words.
        reason: String,
    },
    /// No router of the list could be attached to within the time allowed.
    #[error(
        "no router answered within {waited:?}: {tried}; check the addresses, the certificates and that a router runs there"
    )]
    Unreachable {
        /// Each router and what came of the last attempt.
        tried: String,
        /// Time spent trying.
        waited: Duration,
    },
}

impl AttachError {
    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Config(_) => Fault::Caller,
            Self::Transport(_) | Self::Thread(_) | Self::Unreachable { .. } => Fault::Operating,
            Self::Refused { .. } => Fault::Peer,
        }
    }
}

/// A message was not delivered, as far as the sender can know.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// Longer than its carrier takes. Nothing was sent.
    #[error(
        "a message of {bytes} bytes is past the {max} that its carrier takes; split it, or send it over a stream"
    )]
    TooLarge {
        /// Header, extensions and payload together.
        bytes: usize,
        /// The carrier's limit.
        max: usize,
    },
    /// Receipts and replies do not come from groups. Nothing was sent.
    #[error("{0} is a group: its members answer neither receipts nor replies; use `send`")]
    Group(Label),
    /// A router said what became of the message, and that sending it again is pointless.
    #[error("{router} answered {code}: {}", remedy(*.code))]
    Refused {
        /// What became of it.
        code: NoticeCode,
        /// The router that said so.
        router: Label,
    },
    /// No receipt came in time. The message may have been delivered all the same.
    #[error(
        "no receipt within {waited:?} after {attempts} attempts; the message may have arrived all the same"
    )]
    NoReceipt {
        /// How often it was handed to the transport; 0 when it never left.
        attempts: u32,
        /// From the call to the end.
        waited: Duration,
        /// The last notice about it that did not stop the resending.
        last_notice: Option<NoticeCode>,
    },
    /// No reply came in time.
    #[error(
        "no reply within {waited:?} (request receipted: {receipted}); the request may have been carried out all the same"
    )]
    NoReply {
        /// Whether the receiver confirmed the request's delivery.
        receipted: bool,
        /// From the call to the end.
        waited: Duration,
    },
    /// The client was closed, by `Client::close` or because the routers will not have it back.
    #[error("the client is closed: {0}")]
    Closed(CloseReason),
}

impl SendError {
    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::TooLarge { .. } | Self::Group(_) => Fault::Caller,
            Self::Refused { code, .. } => match code {
                NoticeCode::Malformed | NoticeCode::TooLarge => Fault::Caller,
                NoticeCode::NoRoute | NoticeCode::PolicyDenied => Fault::Peer,
                _ => Fault::Operating,
            },
            Self::NoReceipt { .. } | Self::NoReply { .. } => Fault::Operating,
            Self::Closed(reason) => reason.fault(),
        }
    }
}

/// Why a client is closed for good.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// `Client::close` was called or every handle was dropped.
    #[error("closed by the application")]
    Application,
    /// The router closed the connection with a code that says not to come back (SPEC.md, WF-101).
    #[error("the router closed the attachment: {code} ({reason}); {}", comeback(*.code))]
    Refused {
        /// The code.
        code: CloseCode,
        /// The router's words.
        reason: String,
    },
    /// The socket failed for good.
    #[error("the transport failed: {0}; attach anew")]
    Transport(String),
}

impl CloseReason {
    fn fault(&self) -> Fault {
        match self {
            Self::Application => Fault::Caller,
            Self::Refused { .. } => Fault::Peer,
            Self::Transport(_) => Fault::Operating,
        }
    }
}

/// `Client::resolve` failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The router or the controller behind it could not answer.
    #[error("the router could not resolve: {0}")]
    Refused(String),
    /// No answer came in time.
    #[error(
        "no answer within {0:?}; the router may have no controller, try again later or ask by label"
    )]
    Timeout(Duration),
    /// The query is longer than a control frame may be.
    #[error("a query of {bytes} bytes is past the {max} a control frame takes; shorten it")]
    TooLarge {
        /// Encoded length.
        bytes: usize,
        /// Limit.
        max: usize,
    },
    /// More queries are waiting than allowed.
    #[error("{0} queries wait already; wait for some of them")]
    TooMany(usize),
    /// The client was closed.
    #[error("the client is closed: {0}")]
    Closed(CloseReason),
}

impl ResolveError {
    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Refused(_) => Fault::Peer,
            Self::Timeout(_) => Fault::Operating,
            Self::TooLarge { .. } | Self::TooMany(_) => Fault::Caller,
            Self::Closed(reason) => reason.fault(),
        }
    }
}

/// What a person should do about a closed attachment.
fn comeback(code: CloseCode) -> &'static str {
    match code {
        CloseCode::Replaced => "another process uses this instance name: give each its own",
        CloseCode::Withdrawn => "the identity was withdrawn: have it registered again",
        CloseCode::NotAllowed => "ask the operator what this identity may do",
        CloseCode::Protocol => {
            "the client and the router do not fit together: compare their versions"
        }
        _ => "attach again",
    }
}

/// What a person should do about a notice.
fn remedy(code: NoticeCode) -> &'static str {
    match code {
        NoticeCode::NoRoute => {
            "nobody serves this label; resolve again, or wait for an agent to attach"
        }
        NoticeCode::PolicyDenied => {
            "this identity may not reach it; ask the operator for the permission"
        }
        NoticeCode::StaleTable => "the router's table is too old to say; try again shortly",
        NoticeCode::HopLimit => "the message went round in circles; tell the operator",
        NoticeCode::Overloaded => "a queue on the way was full; send slower or with action Block",
        NoticeCode::RateLimited => "more was sent than this identity may; send slower",
        NoticeCode::TooLarge => "longer than its way can carry; split it",
        NoticeCode::Unreachable => "its agents cannot be reached now; try again shortly",
        NoticeCode::Malformed => {
            "the message breaks the protocol; the client and the router do not fit together"
        }
        NoticeCode::Deadline => {
            "its deadline passed on the way; allow more time and compare the clocks"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_what_to_do() {
        for code in NoticeCode::ALL {
            let text = SendError::Refused {
                code,
                router: Label::router(2).unwrap(),
            }
            .to_string();
            assert!(
                text.contains(code.name()) && text.contains("router:2"),
                "{text}"
            );
            assert!(text.contains(';'), "no remedy: {text}");
        }
    }
}
