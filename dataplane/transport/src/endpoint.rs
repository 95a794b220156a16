//! The endpoint: the UDP sockets and all connections of one worker, one thread.
//!
//! This file is the surface. What happens below it: packets find their connection in `dispatch`, new ones are admitted in
//! `accept`, connections live in `connection`, and packets leave through `train`.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use caplane_wire::{StreamKind, TrafficClass};

#[cfg(test)]
use crate::config::Io;
use crate::config::{DSCP_MAX, EndpointConfig};
use crate::connection::Connection;
use crate::counters::Counters;
use crate::dispatch::Core;
use crate::error::{DatagramRefused, EndpointError, SendError};
use crate::event::{BulkRx, BulkTx, Event, LaneRx, LaneTx, PeerId};
use crate::io::{self as edge, Driver, Port, Ports, Waker, bind_group};
use crate::quic::DatagramBytes;
use crate::steering::{Group, Steering};
use crate::train::{Built, Trains};

/// What is read per tick, so that it is acted upon and sent on while it is in the processor's cache: eight full GRO batches. With
/// 32 of them a hop cost 7 to 8 % more per 1 KiB message in packets of 1350, with four 8 to 15 % more in large packets (bench
/// `transport`).
const BYTES_PER_TICK: usize = 512 << 10;

/// Batches read per tick, when they are small.
const BATCHES_PER_TICK: usize = 32;

/// When every slab is in use, look again after this time.
const STARVED_RETRY: Duration = Duration::from_millis(1);

/// The UDP sockets and every QUIC connection of one worker. `Send`, so it may be bound on one thread and run on another.
pub struct Endpoint {
    driver: Box<dyn Driver>,
    core: Core,
    trains: Trains,
    /// Scratch list of the connections being flushed.
    flushing: Vec<u32>,
}

impl Endpoint {
    /// Binds the socket and prepares the TLS contexts.
    ///
    /// # Errors
    /// When the address cannot be bound or the credentials or limits do not fit.
    pub fn bind(config: EndpointConfig) -> Result<Self, EndpointError> {
        config.check()?;
        let driver = Ports::alone(&config)
            .and_then(|ports| edge::drive(ports, config.io, config.exact_waits))
            .map_err(bind_error(&config))?;
        Self::new(config, driver, Steering::alone())
    }

    /// Binds one endpoint per worker to one port: endpoint i is worker i, and every packet goes to the worker that byte 0 of its
    /// destination connection id names, modulo their number. So a connection stays with its worker when its peer's address
    /// changes. Each endpoint dials from a port of its own; several in one process never share a peer's pair of ports.
    ///
    /// The port must be free: another process that holds it, or another group, is an error and is never joined. The endpoints
    /// belong together; when one is dropped before the others, packets go astray. For one worker this is [`Endpoint::bind`].
    ///
    /// # Errors
    /// When the address cannot be bound or the credentials or limits do not fit.
    pub fn bind_group(config: EndpointConfig, workers: u8) -> Result<Vec<Self>, EndpointError> {
        config.check()?;
        match workers {
            0 => return Err(EndpointError::Config("workers must be at least 1".into())),
            1 => {
                return Ok(vec![Self::bind(EndpointConfig {
                    worker: 0,
                    ..config
                })?]);
            }
            _ => {}
        }
        let drivers = bind_group(&config, workers)
            .and_then(|group| {
                group
                    .into_iter()
                    .map(|p| edge::drive(p, config.io, config.exact_waits))
                    .collect()
            })
            .map_err(bind_error(&config));
        let drivers: Vec<Box<dyn Driver>> = drivers?;
        let group = Group::new(drivers.iter().map(|driver| driver.waker()).collect());
        (0..workers)
            .zip(drivers)
            .map(|(worker, driver)| {
                let config = EndpointConfig {
                    worker,
                    ..config.clone()
                };
                Self::new(config, driver, Steering::member(group.clone(), worker))
            })
            .collect()
    }

    fn new(
        config: EndpointConfig,
        driver: Box<dyn Driver>,
        steering: Steering,
    ) -> Result<Self, EndpointError> {
        Ok(Self {
            core: Core::new(config, &*driver, steering)?,
            driver,
            trains: Trains::new(),
            flushing: Vec::new(),
        })
    }

    /// The address that peers dial.
    pub fn local_addr(&self) -> SocketAddr {
        self.driver.local_addr(Port::Listening)
    }

    /// Something that wakes [`Endpoint::wait`] from another thread.
    pub fn waker(&self) -> Waker {
        self.driver.waker()
    }

    /// Dials `remote`; the outcome comes as `Connected` or `Refused` with the same `PeerId`. With `expected_uri` any other
    /// authentic peer is refused; without, the caller must check the name in `Connected` itself. Packets leave with the next
    /// `flush`.
    ///
    /// # Errors
    /// When no more peers may be held or QUIC refuses.
    pub fn connect(
        &mut self,
        remote: SocketAddr,
        expected_uri: Option<&str>,
    ) -> Result<PeerId, EndpointError> {
        self.core.connect(remote, expected_uri, None)
    }

    /// As [`Endpoint::connect`], to one worker of the remote side: `remote_worker` is byte 0 of the first destination
    /// connection id.
    ///
    /// # Errors
    /// As [`Endpoint::connect`].
    pub fn connect_to_worker(
        &mut self,
        remote: SocketAddr,
        expected_uri: Option<&str>,
        remote_worker: u8,
    ) -> Result<PeerId, EndpointError> {
        self.core.connect(remote, expected_uri, Some(remote_worker))
    }

    /// Sleeps until the socket is readable (or writable, when sends were put off), a timer is due, the waker was used, or
    /// `timeout` has passed. Returns at once when `flush` left something to do.
    ///
    /// # Errors
    /// When polling fails.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let socket_full = self.trains.waiting();
        let timeout = if self.core.is_busy() && socket_full.is_none() {
            Some(Duration::ZERO)
        } else {
            // Counted from the tick's clock read: reading it again would cost more than waking a little late.
            let timer = self
                .core
                .next_deadline()
                .map(|at| at.saturating_duration_since(self.core.now()));
            let starved = self.core.is_starved().then_some(STARVED_RETRY);
            [timeout, timer, starved].into_iter().flatten().min()
        };
        self.sleep(timeout, socket_full)
    }

    /// Looks again and again for `busy_poll`, then sleeps.
    fn sleep(&mut self, timeout: Option<Duration>, writable: Option<Port>) -> io::Result<()> {
        let spin = self.core.config.busy_poll;
        if spin.is_zero() || timeout.is_some_and(|timeout| timeout.is_zero()) {
            return self.driver.wait(timeout, writable).map(drop);
        }
        let begin = Instant::now();
        let spin = timeout.map_or(spin, |timeout| timeout.min(spin));
        let spun = loop {
            if self.driver.wait(Some(Duration::ZERO), writable)? {
                return Ok(());
            }
            let spun = begin.elapsed();
            if spun >= spin {
                break spun;
            }
            std::hint::spin_loop();
        };
        let timeout = timeout.map(|timeout| timeout.saturating_sub(spun));
        self.driver.wait(timeout, writable).map(drop)
    }

    /// Reads the socket, runs due timers and prepares events. `now` is the tick's one clock read.
    ///
    /// # Errors
    /// When the socket fails for good.
    pub fn receive(&mut self, now: Instant) -> io::Result<()> {
        self.core.begin_tick(now);
        let (mut bytes, mut batches) = (0, 0);
        while bytes < BYTES_PER_TICK
            && batches < BATCHES_PER_TICK
            && let Some(batch) = self.driver.receive()?
        {
            bytes += batch.data.len();
            batches += 1;
            self.core.batch(batch);
        }
        self.core.exchange();
        self.core.run_timers();
        self.core.retry_starved();
        self.core.settle();
        Ok(())
    }

    /// The next event; `None` when there is nothing more this tick.
    pub fn next_event(&mut self) -> Option<Event> {
        self.core.next_event()
    }

    /// Builds and sends packets of every connection that has something to say.
    ///
    /// # Errors
    /// When the socket fails for good; a full socket buffer is no error.
    pub fn flush(&mut self, now: Instant) -> io::Result<()> {
        self.core.begin_tick(now);
        let core = &mut self.core;
        let driver = &mut *self.driver;
        if !self.trains.drain(driver, &mut core.counters) {
            return Ok(());
        }
        core.take_dirty(&mut self.flushing);
        let mut flushing = self.flushing.drain(..);
        for slot in flushing.by_ref() {
            let Some((connection, counters)) = core.connection_to_flush(slot) else {
                continue;
            };
            let built = self.trains.send_all(connection, driver, counters);
            connection.sent(now);
            for slot in self.trains.take_too_large() {
                core.on_too_large(slot);
            }
            core.flushed(slot, built != Built::All);
            if built == Built::SocketFull {
                break;
            }
        }
        for slot in flushing {
            core.flushed(slot, true);
        }
        core.send_replies(driver);
        Ok(())
    }

    /// Gives back what was not consumed of an [`Event::Lane`]: the unfinished tail, possibly empty. When it begins with whole
    /// messages, the lane must have been paused before.
    pub fn lane_rest(&mut self, peer: PeerId, lane: LaneRx, rest: BytesMut) {
        self.core.lane_rest(peer, lane, rest);
    }

    /// Stops reading a lane; flow control then holds the sender back.
    pub fn pause(&mut self, peer: PeerId, lane: LaneRx) {
        self.core.set_paused(peer, lane.0, true);
    }

    /// Reads a paused lane again; what waits comes as an event of this or the next tick.
    pub fn resume(&mut self, peer: PeerId, lane: LaneRx) {
        self.core.set_paused(peer, lane.0, false);
    }

    /// Stops reading a bulk stream; flow control then holds the sender back.
    pub fn pause_bulk(&mut self, peer: PeerId, bulk: BulkRx) {
        self.core.set_paused(peer, bulk.0, true);
    }

    /// Reads a paused bulk stream again.
    pub fn resume_bulk(&mut self, peer: PeerId, bulk: BulkRx) {
        self.core.set_paused(peer, bulk.0, false);
    }

    /// Lets the lanes of one peer hold up to `slabs` slabs, instead of `slabs_per_peer_max`: a neighbour router carries the
    /// traffic of many.
    pub fn set_slabs_max(&mut self, peer: PeerId, slabs: usize) {
        self.core.set_slabs_max(peer, slabs);
    }

    /// Marks the packets to one peer with this differentiated services codepoint (0..=63; RFC 2474), instead of
    /// `EndpointConfig::dscp`.
    ///
    /// It is one codepoint for all classes of a connection: packets of one connection that travel in different queues overtake
    /// each other, QUIC takes that for loss, and slows down (RFC 7657 section 5.1 asks the same of TCP and SCTP). To keep classes
    /// apart in the network, give them connections of their own.
    pub fn set_dscp(&mut self, peer: PeerId, dscp: u8) {
        if let Some(connection) = self.core.table.get_mut(peer) {
            connection.dscp = Some(dscp & DSCP_MAX);
        }
    }

    /// Refuses the rest of a lane or bulk stream of a peer (STOP_SENDING with `code`) and forgets it: no more events of it.
    pub fn reset_rx(&mut self, peer: PeerId, stream_id: u64, code: u64) {
        self.core.refuse_stream(peer, stream_id, code);
    }

    /// Opens a lane and writes its preface.
    ///
    /// # Errors
    /// When the peer is gone or allows no more streams.
    pub fn open_lane(&mut self, peer: PeerId, class: TrafficClass) -> Result<LaneTx, SendError> {
        let connection = self.sending(peer)?;
        connection
            .tx
            .open(StreamKind::Lane, class, &mut connection.quic)
            .map(LaneTx)
    }

    /// True when [`Endpoint::send_lane`] would take bytes now.
    pub fn lane_ready(&self, peer: PeerId, lane: LaneTx) -> bool {
        self.core.up(peer).is_some_and(|c| c.tx.ready(lane.0))
    }

    /// Takes whole messages for a lane, without copying. All of `data` is taken; what QUIC has no room for is kept, and the
    /// lane is not ready until `Event::Writable`.
    ///
    /// # Errors
    /// `Busy` when a remainder is pending (nothing is taken), `Closed`, `Gone`.
    pub fn send_lane(&mut self, peer: PeerId, lane: LaneTx, data: Bytes) -> Result<(), SendError> {
        self.send_messages(peer, lane, data, 0)
    }

    /// As [`Endpoint::send_lane`], for an owner that wants to know how many messages were not acknowledged when a connection
    /// ended ([`Counters::messages_unacknowledged`]): `messages` end in `data`. With bulk streams that is one with the last byte.
    ///
    /// # Errors
    /// As [`Endpoint::send_lane`].
    pub fn send_messages(
        &mut self,
        peer: PeerId,
        lane: LaneTx,
        data: Bytes,
        messages: u32,
    ) -> Result<(), SendError> {
        let length = data.len() as u64;
        let connection = self.sending(peer)?;
        connection
            .tx
            .send(lane.0, data, messages, false, &mut connection.quic)?;
        self.core.counters.lane_bytes_sent += length;
        Ok(())
    }

    /// Ends a lane with FIN after what was sent on it.
    ///
    /// # Errors
    /// `Closed`, `Gone`.
    pub fn finish_lane(&mut self, peer: PeerId, lane: LaneTx) -> Result<(), SendError> {
        let connection = self.sending(peer)?;
        connection
            .tx
            .send(lane.0, Bytes::new(), 0, true, &mut connection.quic)
    }

    /// Cuts a lane short (RESET_STREAM with `code`): what the peer has not received of it is lost.
    pub fn reset_lane(&mut self, peer: PeerId, lane: LaneTx, code: u64) {
        if let Ok(connection) = self.sending(peer) {
            connection.tx.reset(lane.0, code, &mut connection.quic);
        }
    }

    /// Opens a bulk stream and writes its preface.
    ///
    /// # Errors
    /// When the peer is gone or allows no more streams.
    pub fn open_bulk(&mut self, peer: PeerId, class: TrafficClass) -> Result<BulkTx, SendError> {
        let connection = self.sending(peer)?;
        connection
            .tx
            .open(StreamKind::Bulk, class, &mut connection.quic)
            .map(BulkTx)
    }

    /// True when [`Endpoint::send_bulk`] would take bytes now.
    pub fn bulk_ready(&self, peer: PeerId, bulk: BulkTx) -> bool {
        self.core.up(peer).is_some_and(|c| c.tx.ready(bulk.0))
    }

    /// Takes the next bytes of a bulk message, without copying; `fin` with the last. As `send_lane` otherwise.
    ///
    /// # Errors
    /// `Busy` when a remainder is pending (nothing is taken), `Closed`, `Gone`.
    pub fn send_bulk(
        &mut self,
        peer: PeerId,
        bulk: BulkTx,
        data: Bytes,
        fin: bool,
    ) -> Result<(), SendError> {
        let length = data.len() as u64;
        let connection = self.sending(peer)?;
        connection
            .tx
            .send(bulk.0, data, u32::from(fin), fin, &mut connection.quic)?;
        self.core.counters.bulk_bytes_sent += length;
        Ok(())
    }

    /// Cuts a bulk stream short (RESET_STREAM with `code`).
    pub fn reset_bulk(&mut self, peer: PeerId, bulk: BulkTx, code: u64) {
        if let Ok(connection) = self.sending(peer) {
            connection.tx.reset(bulk.0, code, &mut connection.quic);
        }
    }

    /// Takes one datagram. It may be lost on the way, and no one is told.
    ///
    /// # Errors
    /// When it cannot be sent now; it is counted.
    pub fn send_datagram(
        &mut self,
        peer: PeerId,
        data: impl Into<Bytes>,
    ) -> Result<(), DatagramRefused> {
        let data = data.into();
        let queue_max = self.core.config.datagram_queue_max;
        let connection = self.sending(peer).map_err(|_| DatagramRefused::Gone)?;
        let max = connection.datagram_max().ok_or(DatagramRefused::Gone)?;
        if data.len() > max {
            self.core.counters.datagrams_too_large += 1;
            return Err(DatagramRefused::TooLarge { max });
        }
        if connection.quic.dgram_send_queue_len() >= queue_max
            || connection.quic.dgram_send_buf(DatagramBytes(data)).is_err()
        {
            self.core.counters.datagrams_queue_full += 1;
            return Err(DatagramRefused::QueueFull);
        }
        self.core.counters.datagrams_sent += 1;
        Ok(())
    }

    /// The longest datagram that fits on the path to `peer` now, in bytes; 0 when it is gone.
    pub fn datagram_max(&self, peer: PeerId) -> usize {
        self.core
            .up(peer)
            .and_then(Connection::datagram_max)
            .unwrap_or(0)
    }

    /// Sends one frame on the control stream; the length is put before it.
    ///
    /// # Errors
    /// `TooLarge`, `Full`, `Gone`.
    pub fn send_control(&mut self, peer: PeerId, message: &[u8]) -> Result<(), SendError> {
        let max = self.core.config.control_message_max;
        if message.len() > max {
            return Err(SendError::TooLarge { max });
        }
        let connection = self.sending(peer)?;
        connection.tx.send_control(message, &mut connection.quic)
    }

    /// Closes a connection with an application code. `Event::Closed` follows.
    pub fn close(&mut self, peer: PeerId, code: u64, reason: &str) {
        self.core.close(peer, code, reason);
    }

    /// True when everything written to this peer has been acknowledged by it (true also when it is gone).
    pub fn acked(&self, peer: PeerId) -> bool {
        self.core.up(peer).is_none_or(|c| c.tx.acknowledged())
    }

    /// The URI name of a connected peer.
    pub fn peer_uri(&self, peer: PeerId) -> Option<&str> {
        self.core.up(peer).map(|c| c.uri.as_str())
    }

    /// Where a peer is now.
    pub fn peer_address(&self, peer: PeerId) -> Option<SocketAddr> {
        self.core.up(peer).map(|c| c.address)
    }

    /// The smoothed round-trip time to a peer.
    pub fn peer_rtt(&self, peer: PeerId) -> Option<Duration> {
        self.core.up(peer).and_then(Connection::rtt)
    }

    /// The largest UDP payload now sent to a peer, in bytes.
    pub fn peer_udp_payload(&self, peer: PeerId) -> Option<usize> {
        self.core.up(peer).map(|c| c.udp_payload)
    }

    /// Every connected peer.
    pub fn peers(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.core.peers()
    }

    /// Totals since the endpoint was bound.
    pub fn counters(&self) -> &Counters {
        &self.core.counters
    }

    /// Puts another driver around or in place of the one there is.
    #[cfg(test)]
    pub(crate) fn replace_driver(&mut self, wrap: impl FnOnce(Box<dyn Driver>) -> Box<dyn Driver>) {
        let nothing = Ports::alone(&self.core.config.rebound());
        let nothing = nothing.and_then(|ports| edge::drive(ports, Io::Mio, false));
        let driver = std::mem::replace(&mut self.driver, nothing.expect("bind"));
        self.driver = wrap(driver);
    }

    #[cfg(test)]
    pub(crate) fn connection(&mut self, peer: PeerId) -> &mut Connection {
        self.core.sending(peer).expect("a connected peer")
    }

    /// A connected peer about to be written to: its packets leave with the next flush.
    fn sending(&mut self, peer: PeerId) -> Result<&mut Connection, SendError> {
        self.core.sending(peer).ok_or(SendError::Gone)
    }
}

fn bind_error(config: &EndpointConfig) -> impl FnOnce(io::Error) -> EndpointError + use<> {
    let address = config.listen;
    move |source| EndpointError::Io {
        operation: "bind",
        address,
        source,
    }
}
