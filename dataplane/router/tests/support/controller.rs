//! A southbound server over mutual TLS that hands each session to the test.

use std::net::SocketAddr;
use std::pin::Pin;

use caplane_proto::v1;
use caplane_proto::v1::controller_message::Message as Say;
use caplane_proto::v1::router_message::Message as Heard;
use caplane_proto::v1::southbound_server::{Southbound, SouthboundServer};
use caplane_wire::Label;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use super::DEADLINE;
use super::pki::{Files, Pki};

pub struct FakeController {
    runtime: Runtime,
    address: SocketAddr,
    sessions: mpsc::UnboundedReceiver<Incoming>,
}

/// A stream as the server got it.
struct Incoming {
    say: mpsc::Sender<Result<v1::ControllerMessage, Status>>,
    heard: Streaming<v1::RouterMessage>,
}

/// One router's session, driven by the test.
pub struct Session {
    handle: tokio::runtime::Handle,
    incoming: Incoming,
    pub open: v1::SessionOpen,
    pub generation: u64,
    /// What the controller says it leads by.
    pub election_id: u64,
    nonce: u64,
}

impl FakeController {
    pub fn start(pki: &Pki) -> Self {
        Self::start_as(&pki.controller())
    }

    /// A server with this certificate.
    pub fn start_as(files: &Files) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let read = |path: &std::path::Path| std::fs::read(path).unwrap();
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(read(&files.chain), read(&files.key)))
            .client_ca_root(Certificate::from_pem(read(&files.roots)));
        let (sender, sessions) = mpsc::unbounded_channel();
        let address = runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = Server::builder()
                .tls_config(tls)
                .unwrap()
                .add_service(SouthboundServer::new(Service { sender }))
                .serve_with_incoming(TcpListenerStream::new(listener));
            tokio::spawn(server);
            address
        });
        Self {
            runtime,
            address,
            sessions,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next session; its `SessionOpen` has been read and nothing answered.
    pub fn session(&mut self) -> Session {
        let handle = self.runtime.handle().clone();
        let (incoming, open) = self.runtime.block_on(async {
            let next = tokio::time::timeout(DEADLINE, self.sessions.recv());
            let mut incoming = next.await.expect("a session in time").unwrap();
            match hear(&mut incoming.heard).await {
                Heard::Open(open) => (incoming, open),
                other => panic!("the first message must be SessionOpen, not {other:?}"),
            }
        });
        Session {
            handle,
            generation: open.held_generation,
            election_id: 0,
            incoming,
            open,
            nonce: 0,
        }
    }

    /// Whether a router opened a session that the test has not seen.
    pub fn was_asked(&self) -> bool {
        !self.sessions.is_empty()
    }

    /// Ends the server and every session, as a killed controller does.
    pub fn kill(self) {
        self.runtime.shutdown_background();
    }
}

async fn hear(heard: &mut Streaming<v1::RouterMessage>) -> Heard {
    tokio::time::timeout(DEADLINE, heard.message())
        .await
        .expect("a message in time")
        .expect("an open stream")
        .expect("a message")
        .message
        .expect("content")
}

impl Session {
    pub fn say(&mut self, message: Say) {
        let message = v1::ControllerMessage {
            message: Some(message),
        };
        self.handle
            .block_on(self.incoming.say.send(Ok(message)))
            .expect("the router reads");
    }

    pub fn hear(&mut self) -> Heard {
        self.handle.block_on(hear(&mut self.incoming.heard))
    }

    /// Reads what the router still says; true when it ends the session then, and not within the deadline when it goes on.
    pub fn is_left(&mut self) -> bool {
        let heard = &mut self.incoming.heard;
        let end = async { while let Ok(Some(_)) = heard.message().await {} };
        let end = async { tokio::time::timeout(DEADLINE, end).await };
        self.handle.block_on(end).is_ok()
    }

    /// The next message that `pick` wants; lease renewals and the like are passed over.
    pub fn hear_until<T>(&mut self, mut pick: impl FnMut(Heard) -> Option<T>) -> T {
        loop {
            if let Some(found) = pick(self.hear()) {
                return found;
            }
        }
    }

    pub fn accept(&mut self, router: u32, newest: u64) {
        self.say(Say::Accepted(v1::SessionAccepted {
            router_name: "by certificate".into(),
            router_label: Label::router(router).unwrap().bits(),
            domain: 0,
            store_id: "store-a".into(),
            lease_ms: 30_000,
            generation: newest,
            election_id: self.election_id,
            controller: "fake".into(),
        }));
    }

    /// Sends an update and returns the answer.
    pub fn update(
        &mut self,
        base: u64,
        generation: u64,
        upserts: Vec<v1::Resource>,
        removes: Vec<v1::ResourceKey>,
    ) -> v1::TableAnswer {
        self.nonce += 1;
        let nonce = self.nonce;
        self.say(Say::Update(v1::TableUpdate {
            nonce,
            generation,
            base_generation: base,
            upserts,
            removes,
            last: true,
            election_id: self.election_id,
        }));
        let answer = self.hear_until(|heard| match heard {
            Heard::Answer(answer) => Some(answer),
            _ => None,
        });
        assert_eq!(answer.nonce, nonce);
        answer
    }

    /// Sends a snapshot and waits until it is live on every worker.
    pub fn snapshot(&mut self, generation: u64, upserts: Vec<v1::Resource>) {
        let answer = self.update(0, generation, upserts, vec![]);
        assert_eq!(answer.rejected, []);
        self.generation = generation;
        self.wait_live();
    }

    /// Sends a difference to what the router holds and waits until it is live.
    pub fn delta(&mut self, upserts: Vec<v1::Resource>, removes: Vec<v1::ResourceKey>) {
        let base = self.generation;
        let answer = self.update(base, base + 1, upserts, removes);
        assert_eq!(answer.rejected, []);
        self.generation = base + 1;
        self.wait_live();
    }

    fn wait_live(&mut self) {
        let generation = self.generation;
        self.hear_until(|heard| match heard {
            Heard::Live(live) if live.generation == generation => Some(()),
            _ => None,
        });
    }

    /// The next report that says an instance came.
    pub fn hear_up(&mut self) -> v1::Attachment {
        self.hear_until(|heard| match heard {
            Heard::Attachments(report) => report.up.into_iter().next(),
            _ => None,
        })
    }

    /// The next report that says an instance went.
    pub fn hear_down(&mut self) -> v1::Attachment {
        self.hear_until(|heard| match heard {
            Heard::Attachments(report) => report.down.into_iter().next(),
            _ => None,
        })
    }
}

struct Service {
    sender: mpsc::UnboundedSender<Incoming>,
}

#[tonic::async_trait]
impl Southbound for Service {
    type SessionStream =
        Pin<Box<dyn Stream<Item = Result<v1::ControllerMessage, Status>> + Send + 'static>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::RouterMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (say, queue) = mpsc::channel(16);
        let heard = request.into_inner();
        self.sender
            .send(Incoming { say, heard })
            .map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }
}
