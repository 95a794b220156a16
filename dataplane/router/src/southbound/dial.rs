//! Keeps a southbound stream open to one of the controllers, trying them in turn
//! with growing pauses. A stream whose queue is dropped on this side is over. Refuses to know what is said on it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use caplane_proto::v1;
use caplane_proto::v1::southbound_client::SouthboundClient;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;

use super::tls::ControllerTls;
use crate::backoff::Backoff;
use crate::config::HostPort;

/// What happened to the stream.
#[derive(Debug)]
pub enum StreamEvent {
    /// A stream is open: what is sent here goes to the controller; the first must be `SessionOpen`.
    Connected(mpsc::Sender<v1::RouterMessage>),
    /// The controller said something.
    Message(Box<v1::ControllerMessage>),
    /// The stream is gone, or could not be opened: why.
    Lost(String),
}

/// Messages waiting for the stream. HTTP/2 flow control empties it; a controller that does not read
/// fills it and loses the session.
const OUTGOING_MAX: usize = 1024;

/// A TCP connection and TLS handshake that take longer have failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// HTTP/2 PING: a controller whose host died is noticed within the sum of both.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Between two rounds over all addresses.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(5);

/// The same while a controller answers that another one leads: soon one will, or does already.
const RETRY_FOLLOWERS: Duration = Duration::from_millis(500);

/// A stream that this side left is waited for so long, for the reason it ends with.
const FAREWELL: Duration = Duration::from_secs(1);

/// Parts are at most 1 MiB (southbound.proto); resolve answers are far smaller.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Runs until the receiver of `events` is dropped.
pub async fn run(
    tls: ControllerTls,
    addresses: Vec<HostPort>,
    seed: u64,
    events: mpsc::Sender<StreamEvent>,
) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST, seed);
    loop {
        let mut longest = RETRY_LONGEST;
        for address in &addresses {
            let outcome = session(&tls, address, &events).await;
            if outcome.spoke {
                backoff.succeeded();
            }
            if outcome.declined {
                longest = RETRY_FOLLOWERS;
            }
            tracing::info!(event = "controller_unreachable", %address, reason = %outcome.reason);
            if events
                .send(StreamEvent::Lost(outcome.reason))
                .await
                .is_err()
            {
                return;
            }
        }
        tokio::time::sleep(backoff.after_failure().min(longest)).await;
    }
}

#[derive(Default)]
struct Outcome {
    /// The controller said something: the next round begins at once.
    spoke: bool,
    /// It is there, and sent this router away for now.
    declined: bool,
    reason: String,
}

/// What goes to the controller. Once it ends, so does the receiver of `over`.
struct Outgoing {
    queue: ReceiverStream<v1::RouterMessage>,
    over: Option<oneshot::Sender<()>>,
}

impl Stream for Outgoing {
    type Item = v1::RouterMessage;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = Pin::new(&mut self.queue).poll_next(cx);
        if matches!(next, Poll::Ready(None)) {
            self.over = None;
        }
        next
    }
}

async fn session(
    tls: &ControllerTls,
    address: &HostPort,
    events: &mpsc::Sender<StreamEvent>,
) -> Outcome {
    let mut outcome = Outcome::default();
    outcome.reason = match stream(tls, address, events, &mut outcome).await {
        Ok(()) => "the controller ended the session".to_owned(),
        Err(reason) => reason,
    };
    outcome
}

async fn stream(
    tls: &ControllerTls,
    address: &HostPort,
    events: &mpsc::Sender<StreamEvent>,
    outcome: &mut Outcome,
) -> Result<(), String> {
    let endpoint = tls
        .endpoint(address)
        .map_err(|e| e.to_string())?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let channel = endpoint.connect().await.map_err(|e| crate::causes(&e))?;
    let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
    if events.send(StreamEvent::Connected(outgoing)).await.is_err() {
        return Ok(());
    }
    let mut client = SouthboundClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let (over, mut left) = oneshot::channel();
    let outgoing = Outgoing {
        queue: ReceiverStream::new(queue),
        over: Some(over),
    };
    let opened = client.session(outgoing).await;
    let mut incoming = opened
        .map_err(|status| {
            outcome.declined = is_declined(&status);
            status_text(&status)
        })?
        .into_inner();
    loop {
        let message = tokio::select! {
            biased;
            message = incoming.message() => message,
            _ = &mut left => {
                // Also when the connection broke: then the stream says so.
                let last = async {
                    while incoming.message().await?.is_some() {}
                    Ok(())
                };
                return match tokio::time::timeout(FAREWELL, last).await {
                    Ok(Err(status)) => Err(status_text(&status)),
                    Ok(Ok(())) | Err(_) => Err("this router left".to_owned()),
                };
            }
        };
        let Some(message) = message.map_err(|s| status_text(&s))? else {
            return Ok(());
        };
        outcome.spoke = true;
        let message = StreamEvent::Message(Box::new(message));
        if events.send(message).await.is_err() {
            return Ok(());
        }
    }
}

/// Whether the controller itself said that it cannot serve now: then it is there, and another one may lead.
fn is_declined(status: &tonic::Status) -> bool {
    // A status made on this side of the wire has a source.
    status.code() == tonic::Code::Unavailable && std::error::Error::source(status).is_none()
}

/// Code and message of a status, without its metadata.
fn status_text(status: &tonic::Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}
