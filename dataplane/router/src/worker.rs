//! A worker: one thread that owns an endpoint, its connections and a Forwarder,
//! and runs every message to completion.
//!
//! Each tick: wait, read the clock once, take the table and the commands, read the socket, act on
//! events, run timers, send what is queued, flush. Refuses to know the
//! controller, files and metrics names; it meets the control thread in [`crate::shared`] alone.
//!
//! Invariant: between two ticks nobody else touches what a worker owns. There is no lock, no
//! allocation and no formatting per message here; per connection there is.

mod attach;
mod bulk;
mod clock;
mod draining;
mod egress;
mod exchanging;
mod frames;
mod links;
mod log_limit;
mod peers;
mod sending;
mod snapshot;
mod streams;
mod welcomes;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use caplane_core::Now;
use caplane_core::forward::{Forwarder, ForwarderConfig};
use caplane_proto::v1::ByeCode;
use caplane_transport::{CloseCause, Endpoint, Event, PeerId};
use caplane_wire::CloseCode;
use crossbeam::channel::Receiver;
use tokio::sync::mpsc;

use self::attach::{Leaving, Refusal};
use self::bulk::Bulks;
use self::clock::Clock;
use self::draining::Drain;
use self::exchanging::Exchanging;
use self::links::{Action, Links};
use self::log_limit::LogLimit;
use self::peers::{Peers, Phase};
use self::welcomes::Welcomes;
use crate::config::{Limits, Timers};
use crate::exchange::{Port, Post};
use crate::shared::{Command, Note, Shared};

pub(crate) use self::frames::CONTROL_BYTES_MAX;
pub use self::snapshot::{BYE_CODES, WorkerCounts, WorkerSnapshot};

/// Commands taken in one tick: a flood of answers must not delay the socket.
const COMMANDS_PER_TICK: usize = 64;

/// Everything a worker is made of.
pub struct WorkerParts {
    /// Number of the worker, from 0.
    pub index: u8,
    /// Its bound endpoint.
    pub endpoint: Endpoint,
    /// Its side of the exchange with the other workers.
    pub port: Port,
    /// What it shares with the control thread.
    pub shared: Arc<Shared>,
    /// What the control thread asks of it.
    pub commands: Receiver<Command>,
    /// What it asks of the control thread.
    pub notes: mpsc::Sender<Note>,
    /// Upper bounds.
    pub limits: Limits,
    /// How long things may take.
    pub timers: Timers,
    /// Differentiated services codepoint of packets to neighbour routers.
    pub link_dscp: u8,
}

/// One worker.
pub struct Worker {
    index: u8,
    endpoint: Endpoint,
    forwarder: Forwarder,
    peers: Peers,
    links: Links<PeerId>,
    link_actions: Vec<Action<PeerId>>,
    bulks: Bulks,
    exchanging: Exchanging,
    /// Connections that end after a Bye.
    leaving: Vec<Leaving>,
    hello_deadlines: VecDeque<(Duration, PeerId)>,
    welcomes: Welcomes,
    drain: Option<Drain>,
    stop: bool,
    shared: Arc<Shared>,
    epoch: u64,
    commands: Receiver<Command>,
    notes: mpsc::Sender<Note>,
    clock: Clock,
    now: Now,
    counts: WorkerCounts,
    timers: Timers,
    link_dscp: u8,
    bulk_message_bytes_max: u64,
    refusal_log: LogLimit,
    /// The next tick must not sleep: something was resumed or is to be closed.
    hurry: bool,
}

impl Worker {
    /// A worker with the table that is published now.
    pub fn new(parts: WorkerParts) -> Self {
        let published = parts.shared.table.load_full();
        let config = ForwarderConfig {
            worker: parts.index,
            queue_bytes_max: parts.limits.queue_bytes_max,
            queue_total_bytes_max: parts.limits.queue_total_bytes_max,
            bulk_message_bytes_max: parts.limits.bulk_message_bytes_max,
            instance_rate: parts.limits.instance_rate,
            ..ForwarderConfig::default()
        };
        let links = Links::new(
            parts.timers.probe_interval,
            parts.timers.probe_misses,
            random_seed(),
        );
        let mut worker = Self {
            index: parts.index,
            endpoint: parts.endpoint,
            forwarder: Forwarder::new(config, published.fib.clone()),
            peers: Peers::new(parts.index),
            links,
            link_actions: Vec::new(),
            bulks: Bulks::default(),
            exchanging: Exchanging::new(parts.port),
            leaving: Vec::new(),
            hello_deadlines: VecDeque::new(),
            welcomes: Welcomes::default(),
            drain: None,
            stop: false,
            shared: parts.shared,
            epoch: published.epoch,
            commands: parts.commands,
            notes: parts.notes,
            clock: Clock::new(),
            now: Now::default(),
            counts: WorkerCounts::default(),
            timers: parts.timers,
            link_dscp: parts.link_dscp,
            bulk_message_bytes_max: parts.limits.bulk_message_bytes_max,
            refusal_log: LogLimit::default(),
            hurry: true,
        };
        worker.reconcile_links();
        worker
    }

    /// Runs until drained or stopped.
    ///
    /// # Errors
    ///
    /// When the socket or the poller fails for good.
    pub fn run(mut self) -> io::Result<()> {
        while !self.tick()? {}
        Ok(())
    }

    /// One turn of the loop. Returns whether it was the last.
    fn tick(&mut self) -> io::Result<bool> {
        let timeout = self.timeout();
        self.hurry = false;
        let idle = timeout != Some(Duration::ZERO) && self.exchanging.port.may_sleep();
        let timeout = if idle { timeout } else { Some(Duration::ZERO) };
        self.endpoint.wait(timeout)?;
        self.exchanging.port.awake();
        let (instant, now) = self.clock.tick();
        self.now = now;
        self.counts.ticks += 1;
        self.take_table();
        self.take_commands();
        self.take_posts();
        self.take_handed();
        self.endpoint.receive(instant)?;
        while let Some(event) = self.endpoint.next_event() {
            self.on_event(event);
        }
        self.run_links();
        self.expire_hellos();
        self.welcome_overdue();
        let done = self.drained() || self.stop;
        self.retry_stalled();
        self.send_all();
        self.hurry |= self.resume_unblocked();
        self.settle_exchange();
        self.endpoint.flush(instant)?;
        self.close_leaving();
        Ok(done)
    }

    fn timeout(&self) -> Option<Duration> {
        if self.hurry {
            return Some(Duration::ZERO);
        }
        let hello = self.hello_deadlines.front().map(|&(deadline, _)| deadline);
        let leaving = self.leaving.iter().map(|leaving| leaving.until);
        let soonest = [
            self.links.next_deadline(),
            hello,
            self.welcomes.next_deadline(),
            self.drain_deadline(),
        ];
        soonest
            .into_iter()
            .flatten()
            .chain(leaving)
            .min()
            .map(|deadline| deadline.saturating_sub(self.now.mono))
    }

    /// Takes a newly published table.
    fn take_table(&mut self) {
        let published = self.shared.table.load();
        if published.epoch == self.epoch {
            return;
        }
        let (epoch, fib) = (published.epoch, published.fib.clone());
        drop(published);
        self.epoch = epoch;
        let generation = fib.generation();
        for key in self.forwarder.set_fib(fib) {
            let Some(id) = self.peers.by_key(key).map(|peer| peer.id) else {
                continue;
            };
            let reason = "the identity was withdrawn from this router's table";
            self.leave(id, Refusal::new(ByeCode::Withdrawn, reason));
        }
        self.reconcile_links();
        self.welcome_routed();
        self.shared.report_live(self.index, epoch);
        tracing::debug!(event = "table_live", worker = self.index, %generation);
    }

    fn reconcile_links(&mut self) {
        if self.drain.is_some() {
            return;
        }
        let fib = self.forwarder.fib().clone();
        let mut actions = std::mem::take(&mut self.link_actions);
        self.links
            .set_neighbours(self.now.mono, fib.neighbours(), &mut actions);
        self.act_on_links(actions);
    }

    fn run_links(&mut self) {
        let mut actions = std::mem::take(&mut self.link_actions);
        self.links.tick(self.now.mono, &mut actions);
        self.act_on_links(actions);
    }

    /// Does what the links ask for; the vector's memory is kept for the next time.
    fn act_on_links(&mut self, mut actions: Vec<Action<PeerId>>) {
        for action in actions.drain(..) {
            match action {
                Action::Dial {
                    router,
                    address,
                    uri,
                } => {
                    let dialled = self
                        .endpoint
                        .connect_to_worker(address, Some(&uri), self.index);
                    if let Err(error) = &dialled {
                        tracing::warn!(event = "dial_failed", %router, %address, %error);
                    }
                    self.links.dialled(self.now.mono, router, dialled.ok());
                }
                Action::LookUp { router, name } => self.note(Note::LookUp {
                    worker: self.index,
                    router,
                    name,
                }),
                Action::Probe { peer, sequence } => {
                    self.send_control(peer, &crate::control_frame::probe(sequence, false));
                }
                Action::Alive { peer, alive } => {
                    let key = self.peers.key(peer);
                    self.forwarder.peer_alive(key, alive);
                    self.exchanging.port.post_all(&Post::Alive(key, alive));
                    let uri = self.peers.get(peer).map_or("", |p| p.uri.as_str());
                    tracing::warn!(event = "link_liveness", %uri, alive);
                }
                Action::Close { peer } => {
                    let reason = "the link was removed from this router's table";
                    self.leave(peer, Refusal::new(ByeCode::Withdrawn, reason));
                }
            }
        }
        if self.link_actions.capacity() == 0 {
            self.link_actions = actions;
        }
    }

    fn take_commands(&mut self) {
        for _ in 0..COMMANDS_PER_TICK {
            let Ok(command) = self.commands.try_recv() else {
                return;
            };
            self.on_command(command);
        }
        self.hurry = true;
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Report(answer) => {
                // The asker may have given up waiting.
                let _ = answer.send(self.snapshot());
            }
            Command::Resolved { peer, answer } => self.on_resolved(peer, answer),
            Command::CloseInstance {
                label,
                code,
                reason,
            } => {
                let key = self.shared.attachments().peer(label);
                if let Some(id) = key.and_then(|k| self.peers.by_key(k)).map(|p| p.id) {
                    self.leave(id, Refusal::new(code, reason));
                }
            }
            Command::NeighbourAddress {
                router,
                name,
                address,
            } => {
                let mut actions = std::mem::take(&mut self.link_actions);
                self.links
                    .address_found(self.now.mono, router, &name, address, &mut actions);
                self.act_on_links(actions);
            }
            Command::Drain(period) => self.start_drain(period),
            Command::Stop => self.stop = true,
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Lane {
                peer,
                lane,
                class,
                data,
            } => self.on_lane(peer, lane, class, data),
            Event::Bulk {
                peer,
                bulk,
                class,
                data,
                fin,
            } => self.on_bulk(peer, bulk, class, data, fin),
            Event::Datagram { peer, data } => {
                let key = self.peers.key(peer);
                self.forwarder.datagram(self.now, key, data);
            }
            Event::Writable { peer } => self.on_writable(peer),
            Event::LaneEnd {
                peer,
                lane,
                partial,
                ..
            } => self.on_lane_end(peer, lane, partial),
            Event::BulkReset { peer, bulk, .. } => self.on_bulk_reset(peer, bulk),
            Event::LaneStopped { peer, lane, .. } => self.on_lane_stopped(peer, lane),
            Event::BulkStopped { peer, bulk, code } => self.on_bulk_stopped(peer, bulk, code),
            other => self.on_connection_event(other),
        }
    }

    fn on_connection_event(&mut self, event: Event) {
        match event {
            Event::Control { peer, message } => self.on_control(peer, message),
            Event::Connected {
                peer, uri, dialled, ..
            } => self.on_connected(peer, uri, dialled),
            Event::Refused {
                peer,
                address,
                reason,
            } => {
                if self.refusal_log.allows(self.now.mono) {
                    tracing::warn!(event = "connection_refused", %address, dialled = peer.is_some(), %reason);
                }
                if let Some(peer) = peer {
                    self.links.down(self.now.mono, peer);
                }
            }
            Event::MtuChanged { peer, .. } => self.on_mtu_changed(peer),
            Event::Closed {
                peer,
                code,
                reason,
                by_peer,
                cause,
            } => {
                let uri = self.peers.get(peer).map_or("", |p| p.uri.as_str());
                tracing::debug!(event = "closed", %uri, code, reason, by_peer, ?cause);
                if !by_peer && cause == CloseCause::Application {
                    self.count_fault(peer, code);
                }
                self.on_closed(peer);
            }
            // Streams and datagrams were taken by `on_event`.
            _ => {}
        }
    }

    fn on_mtu_changed(&mut self, peer: PeerId) {
        if self.peers.get(peer).is_some_and(|p| p.attached()) {
            let key = self.peers.key(peer);
            let datagram_max = self.endpoint.datagram_max(peer);
            self.forwarder.peer_datagram_max(key, datagram_max);
            let post = Post::DatagramMax(key, datagram_max);
            self.exchanging.port.post_all(&post);
        }
    }

    /// The transport closed a peer that broke its framing: no Bye of ours was counted.
    fn count_fault(&mut self, peer: PeerId, code: u64) {
        let said = self
            .peers
            .get(peer)
            .is_none_or(|p| p.phase == Phase::Leaving);
        if !said && code == CloseCode::Protocol.number() {
            self.counts.bye(ByeCode::Protocol);
        }
    }

    fn on_closed(&mut self, peer: PeerId) {
        self.detach(peer);
        self.leaving.retain(|leaving| leaving.id != peer);
        self.links.down(self.now.mono, peer);
        self.peers.remove(peer);
    }

    fn snapshot(&mut self) -> WorkerSnapshot {
        let (up, alive) = self.links.up_and_alive();
        self.counts.neighbours = self.links.len() as u64;
        self.counts.links_up = up as u64;
        self.counts.links_alive = alive as u64;
        self.counts.bulk_active = (self.bulks.len() + self.exchanging.bulks()) as u64;
        WorkerSnapshot {
            forwarder: self.forwarder.counters().clone(),
            transport: self.endpoint.counters().clone(),
            worker: self.counts.clone(),
        }
    }
}

/// Differs between processes and workers; nothing secret hangs on it.
pub(crate) fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}
