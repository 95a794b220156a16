//! One router's session: its table goes out, its answers are written down.

use super::{State, Table};
use caplane_proto::v1::controller_message::Message as Down;
use caplane_proto::v1::resource::Resource as Kind;
use caplane_proto::v1::router_message::Message as Up;
use caplane_proto::v1::southbound_server::Southbound;
use caplane_proto::v1::{
    AgentRoute, Attachment, Candidate, ControllerMessage, InstanceAt, ResolveAnswer, ResolveRelay,
    Resolved, RouterMessage, SessionAccepted, SessionOpen, TableAnswer, resolve,
};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Updates waiting for a slow router; the next one waits for room.
const OUTGOING_MAX: usize = 64;
/// Long enough that no lease runs out under a measurement.
const LEASE_MS: u32 = 600_000;
/// Instance numbers are the low six bits of an agent label (wire-format/SPEC.md, labels).
const INSTANCE_MASK: u32 = 0x3F;

pub(super) struct Service(pub(super) Arc<State>);

#[tonic::async_trait]
impl Southbound for Service {
    type SessionStream = ReceiverStream<Result<ControllerMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<RouterMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let router = router_name(&request)?;
        let (outgoing, stream) = mpsc::channel(OUTGOING_MAX);
        let session = Session {
            state: Arc::clone(&self.0),
            router,
            outgoing,
            held: None,
            offered: None,
            refused: None,
            nonce: 0,
        };
        tokio::spawn(async move {
            let router = session.router.clone();
            if let Err(status) = session.run(request.into_inner()).await {
                tracing::debug!(%router, %status, "session ended");
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// The last part of the URI in the router's certificate.
fn router_name(request: &Request<Streaming<RouterMessage>>) -> Result<String, Status> {
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
    let chain = request
        .peer_certs()
        .ok_or_else(|| Status::unauthenticated("no client certificate"))?;
    let leaf = chain
        .first()
        .ok_or_else(|| Status::unauthenticated("empty certificate chain"))?;
    let (_, certificate) = X509Certificate::from_der(leaf)
        .map_err(|e| Status::unauthenticated(format!("certificate: {e}")))?;
    let names = certificate.subject_alternative_name().ok().flatten();
    names
        .iter()
        .flat_map(|san| &san.value.general_names)
        .find_map(|name| match name {
            GeneralName::URI(uri) => uri.rsplit_once("/router/").map(|(_, name)| name.to_owned()),
            _ => None,
        })
        .ok_or_else(|| Status::permission_denied("the certificate names no router"))
}

struct Session {
    state: Arc<State>,
    router: String,
    outgoing: mpsc::Sender<Result<ControllerMessage, Status>>,
    /// What the router accepted last.
    held: Option<(Arc<Table>, u64)>,
    /// What it was sent and has not answered; the next update waits for that.
    offered: Option<(Arc<Table>, u64)>,
    /// Generation it refused last: not offered again.
    refused: Option<u64>,
    nonce: u64,
}

impl Session {
    async fn run(mut self, mut incoming: Streaming<RouterMessage>) -> Result<(), Status> {
        let first = incoming.message().await?.and_then(|m| m.message);
        let Some(Up::Open(open)) = first else {
            return Err(Status::invalid_argument(
                "the first message must be SessionOpen",
            ));
        };
        let mut wakes = self.open(open).await?;
        self.push().await?;
        loop {
            tokio::select! {
                woken = wakes.recv() => match woken {
                    Some(()) => self.push().await?,
                    None => return Ok(()),
                },
                message = incoming.next() => match message {
                    Some(message) => self.answer(message?).await?,
                    None => return Ok(()),
                },
            }
        }
    }

    async fn send(&self, message: Down) -> Result<(), Status> {
        let message = ControllerMessage {
            message: Some(message),
        };
        self.outgoing
            .send(Ok(message))
            .await
            .map_err(|_| Status::cancelled("the router is gone"))
    }

    async fn open(&mut self, open: SessionOpen) -> Result<mpsc::UnboundedReceiver<()>, Status> {
        let (wake, wakes) = mpsc::unbounded_channel();
        let accepted = {
            let mut book = self.state.book();
            book.sessions.insert(self.router.clone(), wake);
            book.edit(&self.router, |view| {
                view.address = open.address;
                view.sessions += 1;
                view.attachments.clear();
                view.attachments.clone_from(&open.attachments);
            });
            book.attach(&self.router, &[], &open.attachments);
            let view = &book.routers[&self.router];
            SessionAccepted {
                router_name: self.router.clone(),
                router_label: view.table.router_label,
                domain: self.state.domain,
                store_id: "stub".to_owned(),
                lease_ms: LEASE_MS,
                generation: view.generation,
                ..SessionAccepted::default()
            }
        };
        self.send(Down::Accepted(accepted)).await?;
        self.state.changed.notify_waiters();
        Ok(wakes)
    }

    /// Sends what the router does not hold yet, once it has answered what it was sent before.
    async fn push(&mut self) -> Result<(), Status> {
        if self.offered.is_some() {
            return Ok(());
        }
        let (table, generation) = {
            let book = self.state.book();
            let view = &book.routers[&self.router];
            (Arc::clone(&view.table), view.generation)
        };
        let held = self.held.as_ref().map(|(_, held)| *held);
        if held == Some(generation) || self.refused == Some(generation) {
            return Ok(());
        }
        self.nonce += 1;
        let (before, nonce, wanted) = (self.held.clone(), self.nonce, Arc::clone(&table));
        // A million entries take a second: the session's keepalives must not wait for that.
        let parts = tokio::task::spawn_blocking(move || {
            let before = before.as_ref().map(|(table, held)| (table.as_ref(), *held));
            wanted.update(before, generation, nonce)
        })
        .await
        .map_err(|_| Status::internal("comparing tables failed"))?;
        self.note(|view| view.pushed = Some((generation, std::time::Instant::now())));
        for part in parts {
            self.send(Down::Update(part)).await?;
        }
        self.offered = Some((table, generation));
        Ok(())
    }

    async fn answer(&mut self, message: RouterMessage) -> Result<(), Status> {
        match message.message {
            Some(Up::Answer(answer)) => {
                self.table_answer(answer);
                self.push().await?;
            }
            Some(Up::Live(live)) => {
                let now = std::time::Instant::now();
                self.note(|view| {
                    view.live = Some((live.generation, live.took_us));
                    if let Some((pushed, at)) = view.pushed
                        && pushed <= live.generation
                    {
                        view.live_after = now.saturating_duration_since(at);
                    }
                });
            }
            Some(Up::Attachments(report)) => {
                self.note(|view| {
                    for down in &report.down {
                        view.attachments.retain(|a| a.label != down.label);
                    }
                    view.attachments.extend(report.up.iter().cloned());
                });
                self.state
                    .book()
                    .attach(&self.router, &report.down, &report.up);
            }
            Some(Up::Resolve(question)) => {
                let answer = self.resolve(question);
                self.send(Down::Resolved(answer)).await?;
            }
            Some(Up::Renewal(_)) | None => {}
            Some(Up::Open(_)) => return Err(Status::invalid_argument("SessionOpen came twice")),
        }
        self.state.changed.notify_waiters();
        Ok(())
    }

    fn note(&self, edit: impl FnOnce(&mut super::RouterView)) {
        if let Some(view) = self.state.book().routers.get_mut(&self.router) {
            edit(view);
        }
    }

    fn table_answer(&mut self, answer: TableAnswer) {
        let reasons: Vec<String> = answer
            .rejected
            .iter()
            .map(|rejected| format!("{:?}: {}", rejected.key, rejected.reason))
            .collect();
        let offered = self.offered.take();
        if reasons.is_empty() {
            self.held = offered;
        } else {
            self.refused = offered.map(|(_, generation)| generation);
        }
        self.note(|view| {
            if reasons.is_empty() {
                view.accepted_generation = view.accepted_generation.max(answer.generation);
            }
            view.refused = reasons;
        });
    }

    fn resolve(&self, relay: ResolveRelay) -> ResolveAnswer {
        let query = relay.query.unwrap_or_default();
        let text = match query.target {
            Some(
                resolve::Target::Path(t) | resolve::Target::AgentId(t) | resolve::Target::Text(t),
            ) => t,
            None => String::new(),
        };
        let book = self.state.book();
        let candidates = book
            .names
            .get(&text)
            .map(|(label, tenant)| Candidate {
                label: *label,
                tenant: *tenant,
                name: text.clone(),
                caption: text.clone(),
                score: 1.0,
                matched_by: "path".to_owned(),
                members: 1,
                ..Candidate::default()
            })
            .into_iter()
            .collect();
        ResolveAnswer {
            relay_id: relay.relay_id,
            answer: Some(Resolved {
                query_id: query.query_id,
                candidates,
                error: String::new(),
                generation: book.generation,
            }),
        }
    }
}

impl super::Book {
    /// Writes instances that came and went at `router` into every router's table, and wakes their sessions.
    fn attach(&mut self, router: &str, down: &[Attachment], up: &[Attachment]) {
        if down.is_empty() && up.is_empty() {
            return;
        }
        let label = self
            .routers
            .get(router)
            .map_or(0, |view| view.table.router_label);
        let names: Vec<String> = self.routers.keys().cloned().collect();
        for name in names {
            self.edit(&name, |view| {
                for attachment in down {
                    detach(Arc::make_mut(&mut view.table), attachment.label);
                }
                for attachment in up {
                    attach(Arc::make_mut(&mut view.table), attachment, label);
                }
            });
        }
    }
}

/// Adds the instance to its agent's route, so that replies and notices reach it.
fn attach(table: &mut Table, attachment: &Attachment, router: u32) {
    use caplane_proto::v1::resource_key::Key;
    let agent = attachment.label & !INSTANCE_MASK;
    let tenant = match table.resource(Key::Identity(attachment.uri.clone())) {
        Some(Kind::Identity(identity)) => identity.tenant,
        _ => 0,
    };
    let mut route = match table.resource(Key::Agent(agent)) {
        Some(Kind::Agent(route)) => route.clone(),
        _ => AgentRoute {
            label: agent,
            tenant,
            instances: Vec::new(),
        },
    };
    let instance = attachment.label & INSTANCE_MASK;
    route.instances.retain(|i| i.instance != instance);
    route.instances.push(InstanceAt {
        instance,
        router,
        weight: 1,
    });
    table.put(Kind::Agent(route));
}

/// Takes the instance out of its agent's route, and the route with its last instance.
fn detach(table: &mut Table, label: u32) {
    use caplane_proto::v1::resource_key::Key;
    let agent = label & !INSTANCE_MASK;
    let Some(Kind::Agent(route)) = table.resource(Key::Agent(agent)) else {
        return;
    };
    let mut route = route.clone();
    route
        .instances
        .retain(|i| i.instance != label & INSTANCE_MASK);
    if route.instances.is_empty() {
        table.remove(Key::Agent(agent));
    } else {
        table.put(Kind::Agent(route));
    }
}
