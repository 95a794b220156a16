//! The endpoint: one UDP socket, all connections of one worker, one thread.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use caplane_wire::TrafficClass;

use crate::config::EndpointConfig;
use crate::counters::Counters;
use crate::error::{DatagramRefused, EndpointError, SendError};
use crate::event::{BulkRx, BulkTx, Event, LaneRx, LaneTx, PeerId};

/// Wakes the endpoint's [`Endpoint::wait`] from another thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Waker(Arc<mio::Waker>);

impl Waker {
    /// Makes the endpoint's current or next `wait` return at once.
    ///
    /// # Errors
    /// When the system refuses the wake-up; the endpoint then wakes at its next timer.
    pub fn wake(&self) -> io::Result<()> {
        self.0.wake()
    }
}

/// One UDP socket and every QUIC connection of one worker. `Send`, so it may be bound on one thread and run on another.
pub struct Endpoint {
    counters: Counters,
}

#[allow(unused_variables, reason = "bodies follow")]
impl Endpoint {
    /// Binds the socket and prepares the TLS contexts.
    ///
    /// # Errors
    /// When the address cannot be bound or the credentials or limits do not fit.
    pub fn bind(config: EndpointConfig) -> Result<Self, EndpointError> {
        unimplemented!("under construction")
    }

    /// The address the socket is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        unimplemented!("under construction")
    }

    /// Something that wakes [`Endpoint::wait`] from another thread.
    pub fn waker(&self) -> Waker {
        unimplemented!("under construction")
    }

    /// Dials `remote`; the outcome comes as `Connected` or `Refused` with the same `PeerId`. With `expected_uri` any other
    /// authentic peer is refused; without, the caller must check the name in `Connected` itself.
    ///
    /// # Errors
    /// When no more peers may be held or QUIC refuses.
    pub fn connect(
        &mut self,
        remote: SocketAddr,
        expected_uri: Option<&str>,
    ) -> Result<PeerId, EndpointError> {
        unimplemented!("under construction")
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
        unimplemented!("under construction")
    }

    /// Sleeps until the socket is readable (or writable, when sends were put off), a timer is due, the waker was used, or
    /// `timeout` has passed.
    ///
    /// # Errors
    /// When polling fails.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        unimplemented!("under construction")
    }

    /// Reads the socket, runs due timers and prepares events. `now` is the tick's one clock read.
    ///
    /// # Errors
    /// When the socket fails for good.
    pub fn receive(&mut self, now: Instant) -> io::Result<()> {
        unimplemented!("under construction")
    }

    /// The next event; `None` when there is nothing more this tick.
    pub fn next_event(&mut self) -> Option<Event> {
        unimplemented!("under construction")
    }

    /// Builds and sends packets of every connection that has something to say.
    ///
    /// # Errors
    /// When the socket fails for good; a full socket buffer is no error.
    pub fn flush(&mut self, now: Instant) -> io::Result<()> {
        unimplemented!("under construction")
    }

    /// Gives back what was not consumed of an [`Event::Lane`]: the unfinished tail, possibly empty.
    pub fn lane_rest(&mut self, peer: PeerId, lane: LaneRx, rest: BytesMut) {
        unimplemented!("under construction")
    }

    /// Stops reading a lane; flow control then holds the sender back.
    pub fn pause(&mut self, peer: PeerId, lane: LaneRx) {
        unimplemented!("under construction")
    }

    /// Reads a paused lane again; what waits comes as an event of the next `next_event` round.
    pub fn resume(&mut self, peer: PeerId, lane: LaneRx) {
        unimplemented!("under construction")
    }

    /// Stops reading a bulk stream; flow control then holds the sender back.
    pub fn pause_bulk(&mut self, peer: PeerId, bulk: BulkRx) {
        unimplemented!("under construction")
    }

    /// Reads a paused bulk stream again.
    pub fn resume_bulk(&mut self, peer: PeerId, bulk: BulkRx) {
        unimplemented!("under construction")
    }

    /// Refuses the rest of a lane or bulk stream of a peer (STOP_SENDING with `code`) and forgets it: no more events of it.
    pub fn reset_rx(&mut self, peer: PeerId, stream_id: u64, code: u64) {
        unimplemented!("under construction")
    }

    /// Opens a lane and writes its preface.
    ///
    /// # Errors
    /// When the peer is gone or allows no more streams.
    pub fn open_lane(&mut self, peer: PeerId, class: TrafficClass) -> Result<LaneTx, SendError> {
        unimplemented!("under construction")
    }

    /// True when [`Endpoint::send_lane`] would take bytes now.
    pub fn lane_ready(&self, peer: PeerId, lane: LaneTx) -> bool {
        unimplemented!("under construction")
    }

    /// Takes whole messages for a lane, without copying. All of `data` is taken; what QUIC has no room for is kept, and the
    /// lane is not ready until `Event::Writable`.
    ///
    /// # Errors
    /// `Busy` when a remainder is pending (nothing is taken), `Closed`, `Gone`.
    pub fn send_lane(&mut self, peer: PeerId, lane: LaneTx, data: Bytes) -> Result<(), SendError> {
        unimplemented!("under construction")
    }

    /// Ends a lane with FIN after what was sent on it.
    ///
    /// # Errors
    /// `Closed`, `Gone`.
    pub fn finish_lane(&mut self, peer: PeerId, lane: LaneTx) -> Result<(), SendError> {
        unimplemented!("under construction")
    }

    /// Opens a bulk stream and writes its preface.
    ///
    /// # Errors
    /// When the peer is gone or allows no more streams.
    pub fn open_bulk(&mut self, peer: PeerId, class: TrafficClass) -> Result<BulkTx, SendError> {
        unimplemented!("under construction")
    }

    /// True when [`Endpoint::send_bulk`] would take bytes now.
    pub fn bulk_ready(&self, peer: PeerId, bulk: BulkTx) -> bool {
        unimplemented!("under construction")
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
        unimplemented!("under construction")
    }

    /// Cuts a bulk stream short (RESET_STREAM with `code`).
    pub fn reset_bulk(&mut self, peer: PeerId, bulk: BulkTx, code: u64) {
        unimplemented!("under construction")
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
        let _: Bytes = data.into();
        unimplemented!("under construction")
    }

    /// The longest datagram that fits on the path to `peer` now, in bytes; 0 when it is gone.
    pub fn datagram_max(&self, peer: PeerId) -> usize {
        unimplemented!("under construction")
    }

    /// Sends one frame on the control stream; the length is put before it.
    ///
    /// # Errors
    /// `TooLarge`, `Full`, `Gone`.
    pub fn send_control(&mut self, peer: PeerId, message: &[u8]) -> Result<(), SendError> {
        unimplemented!("under construction")
    }

    /// Closes a connection with an application code. `Event::Closed` follows.
    pub fn close(&mut self, peer: PeerId, code: u64, reason: &str) {
        unimplemented!("under construction")
    }

    /// True when everything written to this peer has been acknowledged by it (true also when it is gone).
    pub fn acked(&self, peer: PeerId) -> bool {
        unimplemented!("under construction")
    }

    /// The URI name of a connected peer.
    pub fn peer_uri(&self, peer: PeerId) -> Option<&str> {
        unimplemented!("under construction")
    }

    /// Where a peer is now.
    pub fn peer_address(&self, peer: PeerId) -> Option<SocketAddr> {
        unimplemented!("under construction")
    }

    /// The smoothed round-trip time to a peer.
    pub fn peer_rtt(&self, peer: PeerId) -> Option<Duration> {
        unimplemented!("under construction")
    }

    /// The largest UDP payload now sent to a peer, in bytes.
    pub fn peer_udp_payload(&self, peer: PeerId) -> Option<usize> {
        unimplemented!("under construction")
    }

    /// Every connected peer.
    pub fn peers(&self) -> impl Iterator<Item = PeerId> + '_ {
        std::iter::empty()
    }

    /// Totals since `bind`.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}
