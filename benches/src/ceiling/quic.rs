//! QUIC as the yardsticks use it: certificates, settings, buffers that move.

use super::CeilingError;
use bytes::Bytes;
use quiche::{BufFactory, BufSplit, ConnectionId};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Nothing waits for flow control before this.
const WINDOW: u64 = 64 << 20;
/// Congestion control does not matter on loopback.
const INITIAL_WINDOW_PACKETS: usize = 1_000;
/// Connection ids of the yardsticks: the number of the connection, then a constant.
pub(super) const ID_LEN: usize = 16;

/// A connection that takes owned buffers.
pub(super) type Quic = quiche::Connection<Slices>;

/// Buffers are slices of slabs.
#[derive(Clone, Debug, Default)]
pub(super) struct Slices;

/// A slice of a slab.
#[derive(Clone, Debug)]
pub(super) struct Slice(pub(super) Bytes);

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl BufSplit for Slice {
    fn split_at(&mut self, at: usize) -> Slice {
        Slice(self.0.split_off(at))
    }
}

impl BufFactory for Slices {
    type Buf = Slice;
    type DgramBuf = Vec<u8>;

    fn buf_from_slice(bytes: &[u8]) -> Slice {
        Slice(Bytes::copy_from_slice(bytes))
    }

    fn dgram_buf_from_slice(bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }
}

/// Files of a certificate chain and its key.
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    /// Chain (PEM).
    pub chain: PathBuf,
    /// Key (PEM).
    pub key: PathBuf,
}

/// Settings at which a naive router is at its best: packets of `packet` bytes from the start, no client certificates, no
/// pacing, no waiting for windows.
pub(super) fn config(
    packet: usize,
    certificate: Option<&CertificateFiles>,
) -> Result<quiche::Config, CeilingError> {
    let failed = |what| move |e| CeilingError::Quic(what, e);
    let mut config =
        quiche::Config::new(quiche::PROTOCOL_VERSION).map_err(failed("configuration"))?;
    if let Some(files) = certificate {
        config
            .load_cert_chain_from_pem_file(&files.chain.to_string_lossy())
            .map_err(failed("certificate chain"))?;
        config
            .load_priv_key_from_pem_file(&files.key.to_string_lossy())
            .map_err(failed("key"))?;
    }
    config
        .set_application_protos(&[caplane_wire::ALPN])
        .map_err(failed("ALPN"))?;
    config.verify_peer(false);
    config.set_max_idle_timeout(30_000);
    config.set_max_recv_udp_payload_size(packet.max(1_500));
    config.set_max_send_udp_payload_size(packet);
    config.set_initial_max_data(WINDOW);
    config.set_max_connection_window(WINDOW);
    config.set_initial_max_stream_data_uni(WINDOW);
    config.set_initial_max_stream_data_bidi_remote(1 << 20);
    config.set_initial_max_stream_data_bidi_local(1 << 20);
    config.set_max_stream_window(WINDOW);
    config.set_initial_max_streams_uni(16);
    config.set_initial_max_streams_bidi(1);
    config.set_initial_congestion_window_packets(INITIAL_WINDOW_PACKETS);
    config.enable_pacing(false);
    config.grease(false);
    Ok(config)
}

/// The id of our connection number `n`.
pub(super) fn connection_id(n: u8) -> ConnectionId<'static> {
    let mut id = vec![0xca; ID_LEN];
    id[0] = n;
    ConnectionId::from_vec(id)
}

/// Accepts a connection as number `n`.
pub(super) fn accept(
    n: u8,
    local: SocketAddr,
    peer: SocketAddr,
    config: &mut quiche::Config,
) -> Result<Quic, CeilingError> {
    quiche::accept_with_buf_factory(&connection_id(n), None, local, peer, config)
        .map_err(|e| CeilingError::Quic("accepting", e))
}
