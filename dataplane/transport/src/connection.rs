//! One connection: its life from handshake to close, its deadlines.
//!
//! Streams are in `rx` and `tx`; sockets, tables and other connections are the endpoint's.

mod path_mtu;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use caplane_wire::CloseCode;

use self::path_mtu::LossWatch;
use crate::config::EndpointConfig;
use crate::counters::Counters;
use crate::error::RefuseReason;
use crate::event::{CloseCause, Event, PeerId};
use crate::io::{Origin, Port, Way};
use crate::quic::Quic;
use crate::rx::RxStreams;
use crate::tls::{Handshakes, leaf_uri};
use crate::tx::TxStreams;

/// TLS alerts travel as transport error codes 0x100 + alert (RFC 9001 section 4.8).
const TLS_ALERT: u64 = 0x100;
const ALERT_CERTIFICATE_REQUIRED: u64 = TLS_ALERT + 116;
const ALERT_NO_APPLICATION_PROTOCOL: u64 = TLS_ALERT + 120;

/// Where a connection is in its life.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Not yet a peer.
    Handshaking {
        /// When it is given up.
        until: Instant,
    },
    /// A peer.
    Up,
    /// No peer any more; kept until QUIC's closing period is over.
    Closing,
}

/// The two ends of a connection as it begins.
pub(crate) struct Ends {
    /// Our port and its address, by which QUIC knows the path.
    pub(crate) port: Port,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
}

pub(crate) struct Connection {
    pub(crate) id: PeerId,
    pub(crate) quic: Quic,
    pub(crate) state: State,
    pub(crate) dialled: bool,
    pub(crate) uri: String,
    pub(crate) address: SocketAddr,
    /// Where its packets come in and leave, and the address of that, by which QUIC knows the path.
    pub(crate) port: Port,
    local: SocketAddr,
    /// Our address that the peer's packets come to, on a wildcard socket.
    source: Option<IpAddr>,
    /// The codepoint of its packets, where it is not the endpoint's.
    pub(crate) dscp: Option<u8>,
    /// Most slabs that its lanes may hold.
    pub(crate) slabs_max: usize,
    pub(crate) rx: RxStreams,
    pub(crate) tx: TxStreams,
    /// Largest UDP payload that the path is known to carry, in bytes.
    pub(crate) udp_payload: usize,
    /// The id that the peer's first packet was addressed to, while it stands in the table.
    pub(crate) original_cid: Option<quiche::ConnectionId<'static>>,
    /// In the list of connections to settle, to read, to flush.
    pub(crate) touched: bool,
    pub(crate) reading: bool,
    pub(crate) dirty: bool,
    /// The last event, held back until what was received before the end has been read.
    pub(crate) ending: Option<Event>,
    /// When sending streams may be asked next whether the peer stopped them, and whether that is owed.
    next_stop_look: Instant,
    stop_look_owed: bool,
    expected_uri: Option<Arc<str>>,
    /// A packet of the dialled peer's application space came: it has validated our certificate.
    confirmed: bool,
    last_heard: Instant,
    /// Since when an acknowledgement is owed to us with nothing heard.
    owed_since: Option<Instant>,
    pinged: bool,
    /// Half of the peer's idle timeout: the lower one of both sides' counts (RFC 9000 section 10.1).
    keepalive_max: Option<Duration>,
    losses: LossWatch,
    /// QUIC searches for the path MTU.
    searching: bool,
    /// Packets are kept to [`UDP_PAYLOAD_MIN`] whatever QUIC believes, until its search has come to an end.
    clamped: bool,
    /// Nothing was sent since the connection came up.
    fresh: bool,
    /// Packets built since the connection began to close.
    goodbyes: u32,
    /// Packets received since packets were last built.
    unanswered: u32,
    /// Something for the owner was among them, which may be answered.
    pub(crate) brought: bool,
    /// Packets in a row, keepalives mostly, to which there was nothing to say but an acknowledgement.
    bare: u8,
    /// When an acknowledgement that waits for company is sent alone.
    acknowledge_at: Option<Instant>,
}

/// Packets built for a closing connection: one carries the goodbye, the others are for epochs that QUIC still serves first.
/// QUIC 0.30 can repeat an acknowledgement of the handshake without end when an application closes before HANDSHAKE_DONE came.
const GOODBYES_MAX: u32 = 8;

/// How often a connection's sending streams are asked whether the peer stopped them, when there are more than
/// [`STOP_LOOK_STREAMS`]; fewer are asked whenever packets came (15 ns each).
const STOP_LOOK: Duration = Duration::from_millis(2);
const STOP_LOOK_STREAMS: usize = 32;

/// How long an acknowledgement waits for something to travel with; well below the delay that we announce.
const ACKNOWLEDGE_WITHIN: Duration = Duration::from_millis(1);

/// QUIC remembers acknowledgements that it sent until they are acknowledged themselves, and of its own accord asks for that
/// after 24: some 400 bytes each, which an idle peer would cost for ever. So one of eight asks (RFC 9000 section 13.2.4).
const BARE_MAX: u8 = 7;

/// QUIC's smallest packet size, which every path carries.
pub(crate) const UDP_PAYLOAD_MIN: usize = 1_200;

impl Connection {
    pub(crate) fn new(
        id: PeerId,
        quic: Quic,
        ends: Ends,
        expected_uri: Option<Arc<str>>,
        dialled: bool,
        config: &EndpointConfig,
        now: Instant,
    ) -> Self {
        let udp_payload = match config.udp_payload_fixed {
            Some(size) if !config.pmtud => size,
            _ => UDP_PAYLOAD_MIN,
        };
        Self {
            id,
            quic,
            state: State::Handshaking {
                until: now + config.handshake_timeout,
            },
            dialled,
            uri: String::new(),
            address: ends.remote,
            port: ends.port,
            local: ends.local,
            source: None,
            dscp: None,
            slabs_max: config.slabs_per_peer_max,
            rx: RxStreams::new(),
            tx: TxStreams::new(dialled),
            udp_payload,
            original_cid: None,
            touched: false,
            reading: false,
            dirty: false,
            ending: None,
            next_stop_look: now,
            stop_look_owed: false,
            expected_uri,
            confirmed: false,
            last_heard: now,
            owed_since: None,
            pinged: false,
            keepalive_max: None,
            losses: LossWatch::new(now),
            searching: config.pmtud,
            clamped: false,
            fresh: true,
            goodbyes: 0,
            unanswered: 0,
            bare: 0,
            brought: false,
            acknowledge_at: None,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// Feeds one packet to QUIC; the reason when that ended the handshake.
    pub(crate) fn receive(
        &mut self,
        packet: &mut [u8],
        origin: Origin,
        now: Instant,
        handshakes: &Handshakes,
    ) -> Option<RefuseReason> {
        self.last_heard = now;
        self.unanswered = self.unanswered.saturating_add(1);
        self.owed_since = None;
        self.pinged = false;
        self.source = origin.to;
        let info = quiche::RecvInfo {
            from: origin.from,
            to: self.local,
        };
        if !matches!(self.state, State::Handshaking { .. }) {
            // An error closes the connection inside QUIC; `settle` sees that.
            let _ = self.quic.recv(packet, info);
            return None;
        }
        let short = packet.first().is_some_and(|first| first & 0x80 == 0);
        handshakes.begin(self.expected_uri.as_ref());
        let result = self.quic.recv(packet, info);
        if result.is_ok() && short && self.quic.is_established() {
            self.confirmed = true;
        }
        result
            .err()
            .map(|error| self.refusal(handshakes, Some(error)))
    }

    /// True when the packet is a stateless reset of this connection: it ends with the token that the peer gave us.
    pub(crate) fn is_reset_by(&mut self, packet: &mut [u8], from: SocketAddr) -> bool {
        if !self.is_up() {
            return false;
        }
        let to = self.local;
        let _ = self.quic.recv(packet, quiche::RecvInfo { from, to });
        self.quic.is_closed()
    }

    /// Why a handshake failed.
    pub(crate) fn refusal(
        &self,
        handshakes: &Handshakes,
        error: Option<quiche::Error>,
    ) -> RefuseReason {
        if let Some(reason) = handshakes.refused() {
            return reason;
        }
        if let Some(theirs) = self.quic.peer_error() {
            return match theirs.error_code {
                ALERT_NO_APPLICATION_PROTOCOL if !theirs.is_app => RefuseReason::Protocol,
                _ => RefuseReason::RefusedByPeer,
            };
        }
        if error == Some(quiche::Error::UnknownVersion) {
            return RefuseReason::Protocol;
        }
        match self.quic.local_error().map(|ours| ours.error_code) {
            Some(ALERT_CERTIFICATE_REQUIRED) => RefuseReason::NoCertificate,
            Some(ALERT_NO_APPLICATION_PROTOCOL) => RefuseReason::Protocol,
            _ if self.quic.is_timed_out() => RefuseReason::Timeout,
            _ => RefuseReason::Handshake,
        }
    }

    /// True when the handshake is complete on both sides. TLS 1.3 lets the dialling side finish before its certificate is
    /// looked at, so it waits for the first packet that the other side can only send afterwards.
    pub(crate) fn is_complete(&self) -> bool {
        self.quic.is_established() && (!self.dialled || self.confirmed)
    }

    /// Makes the connection a peer. The certificate is looked at once more: without one nothing may come up, whatever the
    /// TLS library was told.
    pub(crate) fn come_up(&mut self) -> Result<(), RefuseReason> {
        if self.quic.application_proto() != caplane_wire::ALPN {
            return Err(RefuseReason::Protocol);
        }
        let certificate = self.quic.peer_cert().ok_or(RefuseReason::NoCertificate)?;
        self.uri = leaf_uri(certificate)?;
        if self
            .expected_uri
            .as_deref()
            .is_some_and(|expected| expected != self.uri)
        {
            return Err(RefuseReason::UnexpectedName);
        }
        self.expected_uri = None;
        self.state = State::Up;
        // Zero: the peer names none.
        let theirs = self.quic.peer_transport_params();
        self.keepalive_max = theirs
            .map(|theirs| Duration::from_millis(theirs.max_idle_timeout) / 2)
            .filter(|half| !half.is_zero());
        Ok(())
    }

    /// The event of the connection's end, if it has ended.
    pub(crate) fn end(&self) -> Option<Event> {
        if self.quic.is_timed_out() {
            return Some(self.closed(CloseCause::IdleTimeout, 0, "idle timeout", false));
        }
        let (error, by_peer) = match (self.quic.peer_error(), self.quic.local_error()) {
            (Some(theirs), _) => (theirs, true),
            (None, Some(ours)) => (ours, false),
            (None, None) if self.quic.is_closed() => {
                return Some(self.closed(CloseCause::Transport, 0, "reset by peer", true));
            }
            (None, None) => return None,
        };
        let cause = if error.is_app {
            CloseCause::Application
        } else {
            CloseCause::Transport
        };
        let reason = String::from_utf8_lossy(&error.reason);
        Some(self.closed(cause, error.error_code, &reason, by_peer))
    }

    fn closed(&self, cause: CloseCause, code: u64, reason: &str, by_peer: bool) -> Event {
        Event::Closed {
            peer: self.id,
            code,
            reason: reason.to_owned(),
            by_peer,
            cause,
        }
    }

    /// The way to the peer at `to`.
    pub(crate) fn way(&self, to: SocketAddr) -> Way {
        Way {
            port: self.port,
            source: self.source,
            to,
            dscp: self.dscp,
        }
    }

    /// Builds the next packet; its length and destination.
    pub(crate) fn build(&mut self, room: &mut [u8]) -> Option<(usize, SocketAddr)> {
        if self.state == State::Closing {
            self.goodbyes += 1;
            if self.goodbyes > GOODBYES_MAX {
                return None;
            }
        }
        if self.clamped || self.fresh {
            // What is left for the whole room then is a probe, and that is wanted: the search must go on. And the first
            // packet after a handshake must carry HANDSHAKE_DONE, not a probe.
            let small = room.len().min(UDP_PAYLOAD_MIN);
            if let Some(built) = self.build_within(&mut room[..small]) {
                return Some(built);
            }
        }
        self.build_within(room)
    }

    fn build_within(&mut self, room: &mut [u8]) -> Option<(usize, SocketAddr)> {
        match self.quic.send(room) {
            Ok((length, info)) => Some((length, info.to)),
            Err(quiche::Error::Done) => None,
            Err(error) => {
                tracing::debug!(event = "build_failed", peer = ?self.id, %error);
                let _ = self.quic.close(false, 0x1, b"");
                None
            }
        }
    }

    /// True when all that is to be said is an acknowledgement of one packet, and it may wait for company: a reply that is
    /// about to be written carries it for nothing. Two packets are acknowledged at once (RFC 9000 section 13.2.2), and so is
    /// one that brought nothing to reply to: a keepalive, or an acknowledgement, after which there is nothing to say at all.
    pub(crate) fn may_wait(&mut self, now: Instant) -> bool {
        let may = self.is_up()
            && !self.fresh
            && self.unanswered == 1
            && self.brought
            && self.ending.is_none()
            && self.tx.acknowledged()
            && self.quic.dgram_send_queue_len() == 0;
        if may {
            self.acknowledge_at = Some(now + ACKNOWLEDGE_WITHIN);
        }
        may
    }

    /// Packets came: has the acknowledgement of every so many keepalives acknowledged.
    pub(crate) fn ask_for_acknowledgement(&mut self) {
        if self.dialled || self.brought || !self.is_up() || !self.tx.acknowledged() {
            self.bare = 0;
            return;
        }
        self.bare += 1;
        if self.bare == BARE_MAX {
            self.bare = 0;
            let _ = self.quic.send_ack_eliciting();
        }
    }

    /// There is more to say than an acknowledgement.
    pub(crate) fn say_soon(&mut self) {
        self.unanswered = self.unanswered.saturating_add(2);
    }

    /// True while an acknowledgement waits for company.
    pub(crate) fn is_waiting(&self) -> bool {
        self.acknowledge_at.is_some()
    }

    /// To be called after packets were built.
    pub(crate) fn sent(&mut self, now: Instant) {
        self.unanswered = 0;
        self.brought = false;
        self.acknowledge_at = None;
        self.fresh &= !self.is_up();
        if self.tx.unacknowledged() {
            // What acknowledges this acknowledges the rest.
            self.bare = 0;
        }
        if self.owed_since.is_none() && self.is_up() && self.tx.unacknowledged() {
            self.owed_since = Some(now);
        }
    }

    /// When something is to be done next.
    pub(crate) fn deadline(&self, config: &EndpointConfig) -> Option<Instant> {
        let handshake = match self.state {
            State::Handshaking { until } => Some(until),
            _ => None,
        };
        [
            self.quic.timeout_instant(),
            handshake,
            self.silence_at(config),
            self.keepalive_at(config),
            (self.stop_look_owed && self.is_up()).then_some(self.next_stop_look),
            self.acknowledge_at,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn silence_at(&self, config: &EndpointConfig) -> Option<Instant> {
        Some(self.owed_since.filter(|_| self.is_up())? + config.silence?)
    }

    fn keepalive_at(&self, config: &EndpointConfig) -> Option<Instant> {
        if !self.dialled || !self.is_up() || self.pinged {
            return None;
        }
        let every = config.keepalive?;
        Some(self.last_heard + self.keepalive_max.map_or(every, |most| every.min(most)))
    }

    /// Does what is due. The reason when the handshake is to be given up.
    pub(crate) fn on_deadline(
        &mut self,
        now: Instant,
        config: &EndpointConfig,
        counters: &mut Counters,
    ) -> Option<RefuseReason> {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if matches!(self.state, State::Handshaking { until } if until <= now) {
            return Some(RefuseReason::Timeout);
        }
        if due(self.silence_at(config)) {
            self.owed_since = None;
            let event = self.closed(
                CloseCause::IdleTimeout,
                0,
                "owes an acknowledgement and is silent",
                false,
            );
            self.ending = Some(event);
            let _ = self.quic.close(true, CloseCode::Normal.number(), b"silent");
            return None;
        }
        if due(self.acknowledge_at) {
            self.acknowledge_at = None;
            self.say_soon();
        }
        if due(self.keepalive_at(config)) {
            self.pinged = true;
            self.owed_since.get_or_insert(now);
            let _ = self.quic.send_ack_eliciting();
        }
        if due(self.quic.timeout_instant()) {
            self.quic.on_timeout();
            self.doubt_after_timeout(counters);
        }
        None
    }

    /// Packets came: finds the sending streams that the peer stopped. QUIC says so once per stream and forgets the stream
    /// when its reset is acknowledged, so the look must be soon; with many streams it is only every [`STOP_LOOK`].
    pub(crate) fn take_stopped(&mut self, now: Instant) -> Vec<Event> {
        let later = self.tx.open_count() > STOP_LOOK_STREAMS
            && now < self.next_stop_look
            && !self.tx.has_stopped();
        self.stop_look_owed = later;
        if later {
            return Vec::new();
        }
        self.next_stop_look = now + STOP_LOOK;
        self.tx.take_stopped(self.id, &mut self.quic)
    }

    fn active_path(&self) -> Option<quiche::PathStats> {
        self.quic.path_stats().find(|path| path.active)
    }

    /// The smoothed round-trip time.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.active_path().map(|path| path.rtt)
    }
}
