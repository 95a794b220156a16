//! The transport thread: it owns the socket, every link and the protocol state, and joins them once a tick. No async here,
//! and no lock but one per tick and direction.

mod attach;
mod dial;
mod link;
mod queries;
mod reader;
mod writer;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use caplane_proto::v1::control_frame::Frame;
use caplane_transport::{Endpoint, EndpointConfig, Event, PeerId};
use caplane_wire::CloseCode;
use tokio::sync::{broadcast, oneshot, watch};

use crate::address::Address;
use crate::client::Shared;
use crate::command::{Command, Ticket};
use crate::config::ClientConfig;
use crate::error::{AttachError, CloseReason, ResolveError};
use crate::event::ClientEvent;
use crate::inbox::{Inbox, Level};
use crate::outbox::Outbox;
use crate::protocol::{
    Backoff, Effect, FlowIds, Jitter, Limits, Messenger, Now, Received, Settled,
};

use attach::Attaching;
use dial::Dialer;
use link::{Link, Stage};
use queries::Queries;
use reader::Desk;

/// Events kept for a slow reader of `Client::events`: the notices that a router makes for one instance in a second.
const EVENTS_MAX: usize = 1_024;
/// Receipts that may wait for a lane: four times what one application queue holds by default.
const RECEIPTS_MAX: usize = 65_536;

/// Starts the thread and waits until it is attached.
pub(crate) async fn start(config: ClientConfig) -> Result<Arc<Shared>, AttachError> {
    config.check()?;
    let endpoint = bind(&config).await?;
    let shared = Arc::new(Shared {
        outbox: Outbox::new(config.send_buffer_bytes, endpoint.waker()),
        inbox: Inbox::new(Level {
            messages: config.receive.messages_max,
            bytes: config.receive.bytes_max,
        }),
        events: broadcast::Sender::new(EVENTS_MAX),
        attachment: watch::Sender::new(None),
        counters: Mutex::default(),
        flow_ids: FlowIds::new(),
        message_max: AtomicUsize::new(config.bulk_message_max),
    });
    let (told, attached) = oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    let thread = Thread::new(config, endpoint, shared.clone(), runtime, told);
    std::thread::Builder::new()
        .name("caplane-client".into())
        .spawn(move || thread.run())
        .map_err(AttachError::Thread)?;
    // A caller that stops waiting takes the thread with it.
    let mut abandoned = Abandon(Some(&shared));
    let outcome = attached
        .await
        .unwrap_or_else(|_| Err(AttachError::Thread(std::io::Error::other("it panicked"))));
    abandoned.0 = None;
    outcome.map(|()| shared.clone())
}

/// Closes the client when `attach` is dropped before it is done.
struct Abandon<'a>(Option<&'a Arc<Shared>>);

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.0 {
            let _ = shared.outbox.push(Command::Close { done: None });
        }
    }
}

/// Binds one socket for all routers: IPv4 alone when all their addresses are, else IPv6 that also takes IPv4.
async fn bind(config: &ClientConfig) -> Result<Endpoint, AttachError> {
    let mut v6 = false;
    for router in &config.routers {
        if let Ok(found) = tokio::net::lookup_host(router).await {
            v6 |= found.into_iter().any(|address| address.is_ipv6());
        }
    }
    let listen = |v6| match v6 {
        true => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        false => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
    };
    let endpoint = EndpointConfig {
        dual_stack: true,
        accept: false,
        idle_timeout: config.idle_timeout,
        keepalive: Some(config.idle_timeout / 2),
        // One attached, one leaving, one dialling, and as many closing.
        peers_max: 8,
        bulk_message_max: config.bulk_message_max as u64,
        // What the application may hold, and as much on its way there.
        slabs_max: 2 * config.receive.bytes_max / SLAB_BYTES + 64,
        ..EndpointConfig::new(listen(v6), config.credentials.clone())
    };
    match Endpoint::bind(endpoint.clone()) {
        // A host without IPv6 can still reach a router that has both.
        Err(_) if v6 => Ok(Endpoint::bind(EndpointConfig {
            listen: listen(false),
            ..endpoint
        })?),
        other => Ok(other?),
    }
}

/// Size of the transport's slabs (bytes).
const SLAB_BYTES: usize = 256 << 10;

fn find(links: &mut [Link], peer: PeerId) -> Option<&mut Link> {
    links.iter_mut().find(|link| link.peer == peer)
}

struct Closing {
    by: Duration,
    /// `Bye` is said: the end comes when it is acknowledged.
    bye: bool,
    done: Vec<oneshot::Sender<()>>,
}

struct Thread {
    config: ClientConfig,
    endpoint: Endpoint,
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
    started: Instant,
    messenger: Messenger<Ticket>,
    links: Vec<Link>,
    dialer: Dialer,
    /// The first attachment, while it is not granted.
    attaching: Option<Attaching>,
    epochs: u32,
    last_address: Option<Address>,
    queries: Queries,
    closing: Option<Closing>,
    /// Why the thread ends, once it does.
    ended: Option<CloseReason>,
    commands: Vec<Command>,
    batch: Vec<Received>,
}

impl Thread {
    fn new(
        config: ClientConfig,
        endpoint: Endpoint,
        shared: Arc<Shared>,
        runtime: tokio::runtime::Handle,
        told: oneshot::Sender<Result<(), AttachError>>,
    ) -> Self {
        let limits = Limits {
            lanes_per_class: config.lanes_per_class,
            dedup_flows_max: config.receive.flows_max,
            receipts_max: RECEIPTS_MAX,
            resend: config.resend_bounds(),
        };
        let backoff = Backoff::new(config.reconnect_first, config.reconnect_longest);
        let mut dialer = Dialer::new(config.routers.len(), backoff, Jitter::from_system());
        dialer.look(Duration::ZERO);
        Self {
            messenger: Messenger::new(limits, Jitter::from_system()),
            attaching: Some(Attaching::new(
                told,
                config.attach_timeout,
                config.routers.len(),
            )),
            config,
            endpoint,
            shared,
            runtime,
            started: Instant::now(),
            links: Vec::new(),
            dialer,
            epochs: 0,
            last_address: None,
            queries: Queries::default(),
            closing: None,
            ended: None,
            commands: Vec::new(),
            batch: Vec::new(),
        }
    }

    fn run(mut self) {
        // Whatever ends this thread, a panic included, nobody waits for ever.
        let _guard = CloseOnExit(self.shared.clone());
        let mut timeout = Some(Duration::ZERO);
        loop {
            timeout = match self.tick(timeout) {
                Ok(next) => next,
                Err(error) => {
                    self.ended = Some(CloseReason::Transport(error.to_string()));
                    None
                }
            };
            if let Some(reason) = self.ended.take() {
                return self.end(&reason);
            }
        }
    }

    /// One round: wait, take what came in and what is asked, send what can be sent. Answers how long to wait at most.
    fn tick(&mut self, timeout: Option<Duration>) -> std::io::Result<Option<Duration>> {
        self.endpoint.wait(timeout)?;
        let instant = Instant::now();
        let now = Now {
            mono: instant - self.started,
            unix_us: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_micros() as u64),
        };
        self.endpoint.receive(instant)?;
        let mut desk = Desk {
            batch: std::mem::take(&mut self.batch),
            level: self.shared.inbox.level(),
            max: *self.shared.inbox.max(),
        };
        for link in &mut self.links {
            if link.reader.is_held() {
                link.reader
                    .retry(now, &mut desk, &mut self.messenger, &mut self.endpoint);
            }
        }
        while let Some(event) = self.endpoint.next_event() {
            self.event(now, event, &mut desk);
        }
        // Receipts leave below, after what they confirm is the application's.
        self.shared.inbox.push(&mut desk.batch);
        self.batch = desk.batch;
        self.run_commands(now);
        let attach_timer = self.step_attachment(now.mono);
        self.messenger.tick(now);
        if let Some(link) = self.links.iter_mut().find(|l| l.stage == Stage::Attached) {
            link.writer
                .pump(now, &mut self.messenger, &mut self.endpoint);
        }
        self.pass_on_effects();
        let closing_timer = self.step_closing(now.mono);
        self.endpoint.flush(instant)?;
        let timers = [
            attach_timer,
            closing_timer,
            self.queries.tick(now.mono),
            self.messenger.next_timer(),
        ];
        let next = timers.into_iter().flatten().min();
        let held = self.links.iter().any(|link| link.reader.is_held());
        if held && !self.shared.inbox.wait_for_room() {
            return Ok(Some(Duration::ZERO));
        }
        Ok(next.map(|at| at.saturating_sub(now.mono)))
    }

    fn event(&mut self, now: Now, event: Event, desk: &mut Desk) {
        let Self {
            links,
            messenger,
            endpoint,
            ..
        } = self;
        match event {
            Event::Lane {
                peer,
                lane,
                class,
                data,
            } => match find(links, peer) {
                Some(link) => link
                    .reader
                    .lane(now, lane, class, data, desk, messenger, endpoint),
                None => endpoint.lane_rest(peer, lane, data),
            },
            Event::Bulk {
                peer,
                bulk,
                class,
                data,
                fin,
            } => {
                if let Some(link) = find(links, peer) {
                    link.reader
                        .bulk(now, bulk, class, data, fin, desk, messenger, endpoint);
                }
            }
            Event::Datagram { peer, data } => {
                if let Some(link) = find(links, peer) {
                    link.reader.datagram(now, data, desk, messenger);
                }
            }
            Event::BulkReset { peer, bulk, .. } => {
                if let Some(link) = find(links, peer) {
                    link.reader.bulk_reset(bulk, endpoint);
                }
            }
            Event::LaneStopped { peer, lane, code } => {
                tracing::warn!(
                    event = "lane_stopped",
                    code,
                    "the router stopped a lane; another is opened"
                );
                if let Some(link) = find(links, peer) {
                    link.writer.lane_stopped(lane);
                }
            }
            Event::BulkStopped { peer, bulk, code } => {
                let router = self
                    .shared
                    .attachment
                    .borrow()
                    .as_ref()
                    .map(|a| a.router_label);
                if let Some((tag, code)) =
                    find(links, peer).and_then(|l| l.writer.bulk_stopped(bulk, code))
                {
                    messenger.rejected(now, tag, None, code, router.unwrap_or_default());
                }
            }
            Event::LaneEnd { .. } | Event::Writable { .. } | Event::MtuChanged { .. } => {}
            Event::Connected { peer, uri, .. } => self.connected(now.mono, peer, &uri),
            Event::Refused {
                peer: Some(peer),
                address,
                reason,
            } => self.refused(peer, &format!("{address}: {reason}")),
            Event::Refused { peer: None, .. } => {} // we accept nobody
            Event::Control { peer, message } => self.control(now.mono, peer, &message),
            Event::Closed {
                peer,
                code,
                reason,
                by_peer,
                cause,
            } => self.closed(now.mono, peer, code, &reason, by_peer, cause),
        }
    }

    fn run_commands(&mut self, now: Now) {
        let mut commands = std::mem::take(&mut self.commands);
        self.shared.outbox.take(&mut commands);
        for command in commands.drain(..) {
            self.run_command(now, command);
        }
        self.commands = commands;
    }

    fn run_command(&mut self, now: Now, command: Command) {
        match command {
            Command::Submit { flow, submission } => self.messenger.submit(now, flow, submission),
            Command::Reply {
                key,
                class,
                timeout,
                submission,
            } => self
                .messenger
                .submit_reply(now, key, class, timeout, submission),
            Command::OpenFlow {
                flow,
                destination,
                options,
            } => self.messenger.open_flow(flow, destination, options),
            Command::CloseFlow { flow } => self.messenger.close_flow(flow),
            Command::Resolve {
                query,
                timeout,
                answer,
            } => {
                if let Some(query) = self.queries.ask(now.mono, query, timeout, answer) {
                    self.ask(query);
                }
            }
            Command::Addresses { router, found } => {
                let found = match found {
                    Ok(found) => found,
                    Err(error) => {
                        self.note_failure(router, &format!("look up: {error}"));
                        Vec::new()
                    }
                };
                self.dialer.addresses(router, found);
            }
            Command::Close { done } => {
                let by = now.mono + self.config.linger;
                let closing = self.closing.get_or_insert(Closing {
                    by,
                    bye: false,
                    done: Vec::new(),
                });
                closing.done.extend(done);
            }
        }
    }

    /// Sends a question where one can be sent now; otherwise it is asked after attaching.
    fn ask(&mut self, query: caplane_proto::v1::Resolve) {
        let Some(link) = self.links.iter().find(|l| l.stage == Stage::Attached) else {
            return;
        };
        let id = query.query_id;
        let bytes = prost::Message::encoded_len(&query);
        if let Err(caplane_transport::SendError::TooLarge { max }) =
            link.say(Frame::Resolve(query), &mut self.endpoint)
        {
            self.queries
                .refuse(id, ResolveError::TooLarge { bytes, max });
        }
    }

    fn pass_on_effects(&mut self) {
        for effect in self.messenger.drain_effects() {
            match effect {
                // Nobody is there any more to hear the others.
                Effect::Settled { ticket, outcome } => match (ticket, outcome) {
                    (Ticket::Receipt(asker), Ok(Settled::Receipt(receipt))) => {
                        let _ = asker.send(Ok(receipt));
                    }
                    (Ticket::Reply(asker), Ok(Settled::Reply(reply))) => {
                        let _ = asker.send(Ok(reply));
                    }
                    (Ticket::Receipt(asker), Err(error)) => {
                        let _ = asker.send(Err(error));
                    }
                    (Ticket::Reply(asker), Err(error)) => {
                        let _ = asker.send(Err(error));
                    }
                    (Ticket::Receipt(_), Ok(Settled::Reply(_)))
                    | (Ticket::Reply(_), Ok(Settled::Receipt(_))) => {
                        debug_assert!(false, "a ticket's kind is its message's mode");
                    }
                },
                Effect::Event(event) => {
                    let _ = self.shared.events.send(event);
                }
            }
        }
        self.shared.outbox.release(self.messenger.take_released());
        *self
            .shared
            .counters
            .lock()
            .unwrap_or_else(|e| e.into_inner()) = self.messenger.counters();
    }

    /// Ends once everything is settled, or when its time is over. Answers when to look again.
    fn step_closing(&mut self, now: Duration) -> Option<Duration> {
        let closing = self.closing.as_mut()?;
        let Some(link) = self.links.iter().find(|l| l.stage == Stage::Attached) else {
            if closing.by <= now || !self.messenger.is_busy() {
                self.ended = Some(CloseReason::Application);
            }
            return Some(closing.by);
        };
        let acked = self.endpoint.acked(link.peer);
        if closing.by <= now || (closing.bye && acked) {
            self.ended = Some(CloseReason::Application);
        } else if !closing.bye && acked && link.writer.is_empty() && !self.messenger.is_busy() {
            link.say_bye("the application closed", &mut self.endpoint);
            closing.bye = true;
        }
        Some(closing.by)
    }

    /// Ends every wait and the connections.
    fn end(mut self, reason: &CloseReason) {
        for link in &self.links {
            let code = CloseCode::Normal.number();
            self.endpoint.close(link.peer, code, "the client closed");
        }
        if let Err(error) = self.endpoint.flush(Instant::now()) {
            tracing::debug!(event = "close_unsent", %error, "the router notices by its timeout");
        }
        // Askers among the commands that were not run learn it from their dropped channels.
        drop(self.shared.outbox.close(reason.clone()));
        self.shared.attachment.send_replace(None);
        // Waits end last: who learns of the end by one finds the client closed and detached.
        self.messenger.close(reason);
        self.queries.close(reason);
        self.pass_on_effects();
        self.shared.inbox.close(reason.clone());
        let _ = self.shared.events.send(ClientEvent::Closed(reason.clone()));
        if let Some(attaching) = self.attaching.take() {
            attaching.failed(AttachError::Config(
                "the client was closed while attaching".into(),
            ));
        }
        for done in self.closing.into_iter().flat_map(|closing| closing.done) {
            let _ = done.send(());
        }
    }
}

/// Closes both queues when the thread ends, however it does.
struct CloseOnExit(Arc<Shared>);

impl Drop for CloseOnExit {
    fn drop(&mut self) {
        if !self.0.outbox.is_closed() {
            let reason = CloseReason::Transport("the transport thread panicked".into());
            drop(self.0.outbox.close(reason.clone()));
            self.0.attachment.send_replace(None);
            self.0.inbox.close(reason);
        }
    }
}
