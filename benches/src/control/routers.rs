//! Routers that a controller cannot tell from real ones, but for what they are made of: they take tables and say so, and
//! forward nothing. Some take nothing after the first word.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use caplane::pki::{CONTROLLER_DNS, Issued};
use caplane_proto::v1;
use caplane_proto::v1::controller_message::Message as FromController;
use caplane_proto::v1::router_message::Message as ToController;
use caplane_proto::v1::southbound_client::SouthboundClient;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

/// One session.
pub struct SimulatedRouter {
    generation: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl SimulatedRouter {
    /// Opens a session; one that is `stuck` reads nothing after it was accepted.
    pub async fn open(
        controller: &str,
        roots: &Path,
        issued: &Issued,
        stuck: bool,
    ) -> anyhow::Result<Self> {
        let roots = std::fs::read(roots).context("the roots")?;
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(roots))
            .domain_name(CONTROLLER_DNS)
            .identity(Identity::from_pem(&issued.chain_pem, &issued.key_pem));
        let channel = Endpoint::from_shared(format!("https://{controller}"))?
            .tls_config(tls)?
            .connect()
            .await?;
        let (to, outgoing) = mpsc::channel(16);
        let open = v1::SessionOpen {
            address: "simulated.example:4433".into(),
            software: "simulated 1".into(),
            ..v1::SessionOpen::default()
        };
        to.send(message(ToController::Open(open))).await?;
        let mut client = SouthboundClient::new(channel);
        let session = client.session(ReceiverStream::new(outgoing)).await?;
        let mut from = session.into_inner();
        let first = from.message().await?.and_then(|message| message.message);
        anyhow::ensure!(
            matches!(first, Some(FromController::Accepted(_))),
            "not accepted: {first:?}"
        );
        let (generation, bytes) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (held, taken) = (generation.clone(), bytes.clone());
        let task = tokio::spawn(async move {
            if stuck {
                // The stream stays open; nobody reads it.
                std::future::pending::<()>().await;
            }
            // An end is seen by what is not live any more.
            let _ = follow(&mut from, &to, &held, &taken).await;
        });
        Ok(Self {
            generation,
            bytes,
            task,
        })
    }

    /// The generation that it holds.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Bytes of the updates it took.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for SimulatedRouter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Takes updates, and says so at once.
async fn follow(
    from: &mut Streaming<v1::ControllerMessage>,
    to: &mpsc::Sender<v1::RouterMessage>,
    held: &AtomicU64,
    taken: &AtomicU64,
) -> anyhow::Result<()> {
    while let Some(message_in) = from.message().await? {
        let Some(FromController::Update(part)) = message_in.message else {
            continue;
        };
        taken.fetch_add(prost::Message::encoded_len(&part) as u64, Ordering::Relaxed);
        if !part.last {
            continue;
        }
        let generation = part.generation;
        let answer = v1::TableAnswer {
            nonce: part.nonce,
            generation,
            ..v1::TableAnswer::default()
        };
        to.send(message(ToController::Answer(answer))).await?;
        held.store(generation, Ordering::Relaxed);
        let live = v1::LiveReport {
            generation,
            took_us: 1,
        };
        to.send(message(ToController::Live(live))).await?;
    }
    Ok(())
}

fn message(body: ToController) -> v1::RouterMessage {
    v1::RouterMessage {
        message: Some(body),
    }
}
