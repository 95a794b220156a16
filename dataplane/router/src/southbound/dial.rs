//! Keeps a southbound stream open to one of the controllers, trying them in turn
//! with growing pauses. Refuses to know what is said on it.

use std::time::Duration;

use caplane_proto::v1;
use caplane_proto::v1::southbound_client::SouthboundClient;
use tokio::sync::mpsc;
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
        for address in &addresses {
            let outcome = session(&tls, address, &events).await;
            if outcome.spoke {
                backoff.succeeded();
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
        tokio::time::sleep(backoff.after_failure()).await;
    }
}

struct Outcome {
    /// The controller said something: the next round begins at once.
    spoke: bool,
    reason: String,
}

async fn session(
    tls: &ControllerTls,
    address: &HostPort,
    events: &mpsc::Sender<StreamEvent>,
) -> Outcome {
    let mut spoke = false;
    let reason = match stream(tls, address, events, &mut spoke).await {
        Ok(()) => "the controller ended the session".to_owned(),
        Err(reason) => reason,
    };
    Outcome { spoke, reason }
}

async fn stream(
    tls: &ControllerTls,
    address: &HostPort,
    events: &mpsc::Sender<StreamEvent>,
    spoke: &mut bool,
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
    let mut incoming = client
        .session(ReceiverStream::new(queue))
        .await
        .map_err(|status| status_text(&status))?
        .into_inner();
    while let Some(message) = incoming.message().await.map_err(|s| status_text(&s))? {
        *spoke = true;
        let message = StreamEvent::Message(Box::new(message));
        if events.send(message).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Code and message of a status, without its metadata.
fn status_text(status: &tonic::Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}
