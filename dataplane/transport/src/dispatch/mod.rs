//! From packets to connections and from connections to events: the endpoint without its socket.
//!
//! Here packets find their connection, timers run and connections are chosen for flushing; what becomes of a connection is in
//! `life`, what is told to the owner in `events`. Only connections that were touched are looked at: a tick costs what
//! happened in it, not how many peers there are.

mod events;
mod life;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quiche::{ConnectionId, Header};

use crate::accept::short_cid;
use crate::cid::{CID_LEN, CidTable};
use crate::config::EndpointConfig;
use crate::connection::{Connection, State};
use crate::counters::Counters;
use crate::error::{EndpointError, RefuseReason};
use crate::event::{Event, LaneRx, PeerId};
use crate::io::{Batch, Driver, Origin, Port, Way};
use crate::reset::ResetTokens;
use crate::retry::RetryTokens;
use crate::slab::{Pools, SlabPool};
use crate::steering::Steering;
use crate::table::ConnectionTable;
use crate::timers::Timers;
use crate::tls::{Handshakes, quic_config};

/// After this time without its message's end an idle lane's tail is moved out of its slab.
const TAIL_IDLE: Duration = Duration::from_secs(1);

/// Everything of an endpoint but the socket.
pub(crate) struct Core {
    pub(crate) config: EndpointConfig,
    pub(crate) counters: Counters,
    pub(crate) accepting: quiche::Config,
    pub(crate) dialling: quiche::Config,
    pub(crate) table: ConnectionTable,
    pub(crate) cids: CidTable,
    pub(crate) retry: RetryTokens,
    pub(crate) resets: ResetTokens,
    /// Accepted connections still in their handshake.
    pub(crate) pending: usize,
    /// Answers to strangers: version negotiation and Retry.
    pub(crate) replies: Vec<(Way, Vec<u8>)>,
    handshakes: Handshakes,
    listening: SocketAddr,
    dialling_from: (Port, SocketAddr),
    steering: Steering,
    now: Instant,
    timers: Timers,
    events: VecDeque<Event>,
    pools: Pools,
    /// Slots of connections that packets or timers touched and that are to be settled.
    touched: Vec<u32>,
    /// Slots of connections with streams to read.
    readers: VecDeque<u32>,
    /// Slots of connections with something to send.
    dirty: Vec<u32>,
    /// Slots of connections that we dialled.
    dialled: Vec<u32>,
    /// Lanes that hold an unfinished message, and since when; oldest first.
    tails: VecDeque<(Instant, PeerId, LaneRx)>,
    /// Slots of connections with streams that found no slab.
    starving: Vec<u32>,
}

impl Core {
    pub(crate) fn new(
        config: EndpointConfig,
        driver: &dyn Driver,
        steering: Steering,
    ) -> Result<Self, EndpointError> {
        let port = driver.dialling_port();
        let handshakes = Handshakes::default();
        let now = Instant::now();
        Ok(Self {
            accepting: quic_config(&config, false, &handshakes)?,
            dialling: quic_config(&config, true, &handshakes)?,
            counters: Counters::default(),
            table: ConnectionTable::new(config.peers_max),
            cids: CidTable::default(),
            retry: RetryTokens::new(now),
            resets: config.credentials.reset_tokens(),
            pending: 0,
            replies: Vec::new(),
            handshakes,
            listening: driver.local_addr(Port::Listening),
            dialling_from: (port, driver.local_addr(port)),
            steering,
            now,
            timers: Timers::new(now),
            events: VecDeque::new(),
            pools: Pools {
                lanes: SlabPool::new(config.slabs_max),
                bulk: SlabPool::new(config.bulk_slabs_max),
            },
            touched: Vec::new(),
            readers: VecDeque::new(),
            dirty: Vec::new(),
            dialled: Vec::new(),
            tails: VecDeque::new(),
            starving: Vec::new(),
            config,
        })
    }

    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// The address of the port that all peers know.
    pub(crate) fn listening(&self) -> SocketAddr {
        self.listening
    }

    /// The port to dial from, and its address.
    pub(crate) fn dialling_from(&self) -> (Port, SocketAddr) {
        self.dialling_from
    }

    pub(crate) fn begin_tick(&mut self, now: Instant) {
        self.now = now;
    }

    /// True when there is something to do without waiting for the socket.
    pub(crate) fn is_busy(&self) -> bool {
        !self.dirty.is_empty()
            || !self.events.is_empty()
            || !self.readers.is_empty()
            || !self.replies.is_empty()
            || self.steering.has_waiting()
    }

    pub(crate) fn is_starved(&self) -> bool {
        !self.starving.is_empty()
    }

    /// Streams that found no slab are tried again, once a tick.
    pub(crate) fn retry_starved(&mut self) {
        for slot in std::mem::take(&mut self.starving) {
            if let Some(connection) = self.table.slot(slot) {
                connection.rx.retry_starved();
                self.read_later(slot);
            }
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let tail = self.tails.front().map(|(since, ..)| *since + TAIL_IDLE);
        [self.timers.next(), tail].into_iter().flatten().min()
    }

    /// A connected peer.
    pub(crate) fn up(&self, peer: PeerId) -> Option<&Connection> {
        self.table.get(peer).filter(|connection| connection.is_up())
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.table.iter().filter(|c| c.is_up()).map(|c| c.id)
    }

    /// A connected peer that is about to be written to.
    pub(crate) fn sending(&mut self, peer: PeerId) -> Option<&mut Connection> {
        let connection = self.table.get_mut(peer).filter(|c| c.is_up())?;
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(peer.slot);
        }
        Some(connection)
    }

    pub(crate) fn mark_dirty(&mut self, slot: u32) {
        if let Some(connection) = self.table.slot(slot)
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push(slot);
        }
    }

    /// Notes a connection that we dialled.
    pub(crate) fn note_dialled(&mut self, slot: u32) {
        self.dialled.push(slot);
        self.mark_dirty(slot);
    }

    pub(crate) fn count_refused(&mut self, reason: RefuseReason) {
        self.counters.refused[reason as usize] += 1;
    }

    // ---- packets in ----

    /// Takes a batch from the socket.
    pub(crate) fn batch(&mut self, batch: Batch<'_>) {
        let (origin, segment) = (batch.origin, batch.segment);
        self.counters.receive_calls += 1;
        self.counters.bytes_received += batch.data.len() as u64;
        self.counters.packets_received += batch.data.len().div_ceil(segment) as u64;
        self.packets(batch);
        self.steering.hand_over(origin, segment, &mut self.counters);
    }

    /// Sends what other workers were gathered for, and takes over what they have for us.
    pub(crate) fn exchange(&mut self) {
        self.steering.wake();
        let mut bundles = self.steering.bundles();
        while bundles.next(|batch| {
            self.counters.packets_taken_over += batch.data.len().div_ceil(batch.segment) as u64;
            self.packets(batch);
        }) {}
    }

    /// Hands every segment of a batch to its connection.
    fn packets(&mut self, batch: Batch<'_>) {
        let mut last = None;
        for packet in batch.data.chunks_mut(batch.segment) {
            let slot = self.packet(packet, batch.origin);
            if slot != last {
                last.into_iter().for_each(|slot| self.take_datagrams(slot));
                last = slot;
            }
        }
        last.into_iter().for_each(|slot| self.take_datagrams(slot));
    }

    fn packet(&mut self, packet: &mut [u8], origin: Origin) -> Option<u32> {
        let slot = if packet[0] & 0x80 == 0 {
            let Some(cid) = short_cid(packet) else {
                self.counters.packets_unknown += 1;
                return None;
            };
            match self.cids.find(cid) {
                Some(slot) => slot,
                None => {
                    self.unknown(packet, origin);
                    return None;
                }
            }
        } else {
            let datagram = packet.len();
            let Ok(header) = Header::from_slice(packet, CID_LEN) else {
                self.counters.packets_unknown += 1;
                return None;
            };
            match self.cids.find_any(&header.dcid) {
                Some(slot) => slot,
                // The system's rule stands at a fixed place, whatever the length of the id: a first packet and its
                // repetition go to the same worker.
                None if origin.port == Port::Listening && self.steering.divert(packet) => {
                    return None;
                }
                None => self.admit(&header, datagram, origin)?,
            }
        };
        let now = self.now;
        let connection = self.table.slot(slot)?;
        let refused = connection.receive(packet, origin, now, &self.handshakes);
        self.touch(slot);
        if let Some(reason) = refused {
            self.refuse(slot, reason);
        }
        Some(slot)
    }

    /// A short-header packet that names no connection of ours: a reset from a peer that we dialled and that has forgotten us,
    /// another worker's, a packet of a connection that we have forgotten, or noise.
    fn unknown(&mut self, packet: &mut [u8], origin: Origin) {
        let Some(cid) = short_cid(packet).copied() else {
            self.counters.packets_unknown += 1;
            return;
        };
        for at in 0..self.dialled.len() {
            let slot = self.dialled[at];
            let candidate = |c: &&mut Connection| c.address == origin.from && c.port == origin.port;
            let Some(connection) = self.table.slot(slot).filter(candidate) else {
                continue;
            };
            if connection.is_reset_by(packet, origin.from) {
                self.touch(slot);
                return;
            }
        }
        let listening = origin.port == Port::Listening;
        if listening && self.steering.divert(packet) {
            return;
        }
        self.counters.packets_unknown += 1;
        if self.config.accept && listening {
            let answer = self
                .resets
                .answer(&ConnectionId::from_ref(&cid), packet.len());
            self.reply(origin, answer);
        }
    }

    /// Hands received datagrams over, before QUIC's bounded queue drops any.
    fn take_datagrams(&mut self, slot: u32) {
        let Some(connection) = self.table.slot(slot) else {
            return;
        };
        if !connection.is_up() {
            return;
        }
        while let Ok(datagram) = connection.quic.dgram_recv_buf() {
            self.counters.datagrams_received += 1;
            connection.brought = true;
            self.events.push_back(Event::Datagram {
                peer: connection.id,
                data: BytesMut::from(datagram.0),
            });
        }
    }

    fn touch(&mut self, slot: u32) {
        if let Some(connection) = self.table.slot(slot)
            && !connection.touched
        {
            connection.touched = true;
            self.touched.push(slot);
        }
    }

    // ---- timers ----

    pub(crate) fn run_timers(&mut self) {
        while let Some(slot) = self.timers.due(self.now) {
            let Some(connection) = self.table.slot(slot) else {
                continue;
            };
            // The deadline of this entry may have moved on since.
            let deadline = connection.deadline(&self.config);
            if deadline.is_none_or(|deadline| deadline > self.now) {
                self.timers.arm(slot, deadline);
                continue;
            }
            let reason = connection.on_deadline(self.now, &self.config, &mut self.counters);
            self.touch(slot);
            if let Some(reason) = reason {
                self.refuse(slot, reason);
            }
        }
        self.move_idle_tails();
    }

    fn move_idle_tails(&mut self) {
        while let Some((since, peer, lane)) = self.tails.front().copied() {
            if since + TAIL_IDLE > self.now {
                break;
            }
            self.tails.pop_front();
            let Some((connection, mut context)) = self.reading(peer) else {
                continue;
            };
            let again = connection.rx.compact(lane, &mut context);
            let ready = connection.rx.has_ready();
            if again {
                self.tails.push_back((self.now, peer, lane));
            }
            if ready {
                self.read_later(peer.slot);
            }
        }
    }

    // ---- packets out ----

    /// Moves the list of connections to flush into `slots`.
    pub(crate) fn take_dirty(&mut self, slots: &mut Vec<u32>) {
        self.counters.slabs = self.pools.existing() as u64;
        slots.append(&mut self.dirty);
    }

    pub(crate) fn connection_to_flush(
        &mut self,
        slot: u32,
    ) -> Option<(&mut Connection, &mut Counters)> {
        let connection = self.table.slot(slot)?;
        connection.dirty = false;
        Some((connection, &mut self.counters))
    }

    /// A connection's packets were built: its timer is set, and it is forgotten when it is over.
    pub(crate) fn flushed(&mut self, slot: u32, more: bool) {
        let Some(connection) = self.table.slot(slot) else {
            return;
        };
        if more {
            connection.dirty = false;
            self.mark_dirty(slot);
            return;
        }
        if connection.quic.is_closed() {
            if connection.state == State::Closing {
                self.forget(slot);
            } else {
                self.touch(slot);
                self.settle();
            }
            return;
        }
        if connection.is_up() {
            self.settle_path_mtu(slot);
        }
        let Some(connection) = self.table.slot(slot) else {
            return;
        };
        let deadline = connection.deadline(&self.config);
        self.timers.arm(slot, deadline);
    }

    pub(crate) fn on_too_large(&mut self, slot: u32) {
        if let Some(connection) = self.table.slot(slot) {
            connection.on_too_large();
            self.touch(slot);
        }
        self.settle();
    }

    fn forget(&mut self, slot: u32) {
        let Some(mut connection) = self.table.remove(slot) else {
            return;
        };
        connection.rx.release(&mut self.pools);
        if connection.dialled {
            self.dialled.retain(|dialled| *dialled != slot);
        }
        for cid in connection.quic.source_ids() {
            self.cids.remove(cid);
        }
        if let Some(original) = &connection.original_cid {
            self.cids.remove(original);
        }
        while let Some(cid) = connection.quic.retired_scid_next() {
            self.cids.remove(&cid);
        }
    }

    /// Sends the answers to strangers; what the socket does not take is lost, and they ask again.
    pub(crate) fn send_replies(&mut self, driver: &mut dyn Driver) {
        for (way, packet) in self.replies.drain(..) {
            let _ = driver.send(&way, packet.len(), &packet);
        }
    }
}

/// An IPv4 address is shown as one, also when it came through an IPv6 socket.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
