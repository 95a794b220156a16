//! First packets: version negotiation, address validation by Retry, bounds, and the making of connections.

use std::net::SocketAddr;
use std::sync::Arc;

use quiche::{ConnectionId, Header, RetryConnectionIds, Type};

use crate::cid::{self, CID_LEN};
use crate::config::EndpointConfig;
use crate::connection::{Connection, Ends};
use crate::dispatch::Core;
use crate::error::{EndpointError, RefuseReason};
use crate::event::PeerId;
use crate::io::{self, Origin, Port};

/// Answers to first packets that may wait for the next flush; beyond, strangers get none.
const REPLIES_MAX: usize = 64;

/// A first packet in a datagram shorter than this is not answered (RFC 9000 section 14.1).
const INITIAL_DATAGRAM_MIN: usize = 1_200;

impl Core {
    /// Decides about a long-header packet that belongs to no connection; the slot of the new connection, if it is let in.
    pub(crate) fn admit(
        &mut self,
        header: &Header<'_>,
        datagram: usize,
        origin: Origin,
    ) -> Option<u32> {
        let from = origin.from;
        let welcome = self.config.accept && origin.port == Port::Listening;
        if !welcome || datagram < INITIAL_DATAGRAM_MIN {
            self.counters.packets_unknown += 1;
            return None;
        }
        if !quiche::version_is_supported(header.version) {
            self.counters.versions_negotiated += 1;
            let answer = written(|out| quiche::negotiate_version(&header.scid, &header.dcid, out));
            self.reply(origin, answer);
            return None;
        }
        if header.ty != Type::Initial || header.dcid.len() < 8 {
            self.counters.packets_unknown += 1;
            return None;
        }
        if self.pending >= self.config.pending_handshakes_max {
            self.count_refused(RefuseReason::HandshakesFull);
            return None;
        }
        if self.table.is_full() {
            self.count_refused(RefuseReason::PeersFull);
            return None;
        }
        let token = header.token.as_deref().unwrap_or(&[]);
        if !token.is_empty() {
            let Some(original) = self.retry.check(self.now(), from, &header.dcid, token) else {
                self.counters.tokens_refused += 1;
                return None;
            };
            return self.accept(header, origin, Some(&original));
        }
        if self.pending >= self.config.retry_threshold {
            let source = cid::new_cid(self.config.worker);
            let token = self.retry.mint(self.now(), from, &header.dcid, &source);
            self.counters.retries_sent += 1;
            let answer = written(|out| {
                quiche::retry(
                    &header.scid,
                    &header.dcid,
                    &source,
                    &token,
                    header.version,
                    out,
                )
            });
            self.reply(origin, answer);
            return None;
        }
        self.accept(header, origin, None)
    }

    fn accept(
        &mut self,
        header: &Header<'_>,
        origin: Origin,
        original: Option<&ConnectionId<'static>>,
    ) -> Option<u32> {
        let from = origin.from;
        let scid = cid::new_cid(self.config.worker);
        let local = self.listening();
        self.fit_to_route(from, false);
        let token = self.resets.token(&scid);
        self.accepting.set_stateless_reset_token(Some(token));
        let quic = match original {
            Some(original) => quiche::accept_with_retry(
                &scid,
                RetryConnectionIds {
                    original_destination_cid: original,
                    retry_source_cid: &header.dcid,
                },
                local,
                from,
                &mut self.accepting,
            ),
            None => quiche::accept_with_buf_factory(&scid, None, local, from, &mut self.accepting),
        };
        let quic = match quic {
            Ok(quic) => quic,
            Err(error) => {
                tracing::warn!(event = "accept_failed", %from, %error);
                return None;
            }
        };
        let id = self.table.next_id();
        let ends = Ends {
            port: Port::Listening,
            local,
            remote: from,
        };
        let mut connection = Connection::new(id, quic, ends, None, false, &self.config, self.now());
        let first = header.dcid.clone().into_owned();
        self.cids.insert(&first, id.slot());
        self.cids.insert(&scid, id.slot());
        connection.original_cid = Some(first);
        self.table.insert(connection);
        self.pending += 1;
        Some(id.slot())
    }

    /// Dials.
    pub(crate) fn connect(
        &mut self,
        remote: SocketAddr,
        expected_uri: Option<&str>,
        remote_worker: Option<u8>,
    ) -> Result<PeerId, EndpointError> {
        if self.table.is_full() {
            return Err(EndpointError::PeersFull(self.config.peers_max));
        }
        let remote = self.reachable(remote)?;
        let scid = cid::new_cid(self.config.worker);
        let (port, local) = self.dialling_from();
        self.fit_to_route(remote, true);
        let dialling = &mut self.dialling;
        let quic = match remote_worker {
            Some(worker) => {
                let dcid = cid::new_cid(worker);
                quiche::connect_with_dcid_and_buffer_factory(
                    None, &scid, &dcid, local, remote, dialling,
                )
            }
            None => quiche::connect_with_buffer_factory(None, &scid, local, remote, dialling),
        }
        .map_err(|e| EndpointError::Quic(e.to_string()))?;
        let id = self.table.next_id();
        let expected = expected_uri.map(Arc::from);
        let ends = Ends {
            port,
            local,
            remote,
        };
        let connection = Connection::new(id, quic, ends, expected, true, &self.config, self.now());
        self.cids.insert(&scid, id.slot());
        self.table.insert(connection);
        self.note_dialled(id.slot());
        Ok(id)
    }

    /// The address as our socket's family spells it.
    fn reachable(&self, remote: SocketAddr) -> Result<SocketAddr, EndpointError> {
        match (self.listening(), remote) {
            (SocketAddr::V4(_), SocketAddr::V4(_)) | (SocketAddr::V6(_), SocketAddr::V6(_)) => {
                Ok(remote)
            }
            (SocketAddr::V6(_), SocketAddr::V4(v4)) if self.config.dual_stack => Ok(
                SocketAddr::new(v4.ip().to_ipv6_mapped().into(), remote.port()),
            ),
            (local, remote) => Err(EndpointError::Config(format!(
                "{remote} cannot be reached from a socket bound to {local}: bind one of its family, or dual_stack"
            ))),
        }
    }

    /// Sets the largest packet of the next connection to what the route's first link takes.
    fn fit_to_route(&mut self, remote: SocketAddr, dialling: bool) {
        let most = match self.config.udp_payload_fixed {
            Some(size) if !self.config.pmtud => size,
            _ => self.config.udp_payload_max,
        };
        let interface = self.config.interface.as_deref();
        let fits = match self.config.pmtud {
            true => io::route_mtu(interface, remote).map_or(most, |mtu| mtu.clamp(1_200, most)),
            false => most,
        };
        let quic = match dialling {
            true => &mut self.dialling,
            false => &mut self.accepting,
        };
        EndpointConfig::apply_size(quic, fits);
    }

    /// Queues an answer to a stranger for the next flush.
    pub(crate) fn reply(&mut self, origin: Origin, packet: Option<Vec<u8>>) {
        if self.replies.len() < REPLIES_MAX {
            self.replies
                .extend(packet.map(|packet| (origin.back(), packet)));
        }
    }
}

/// The packet that `write` writes.
fn written(write: impl FnOnce(&mut [u8]) -> quiche::Result<usize>) -> Option<Vec<u8>> {
    let mut packet = vec![0; 512];
    let length = write(&mut packet).ok()?;
    packet.truncate(length);
    Some(packet)
}

/// The destination connection id of a short-header packet of ours.
pub(crate) fn short_cid(packet: &[u8]) -> Option<&[u8; CID_LEN]> {
    packet.get(1..)?.first_chunk()
}
