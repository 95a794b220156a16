//! What the tests share: a certificate authority, endpoints on loopback, and a loop that drives them to a condition.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod relay;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use caplane_transport::{
    BulkTx, Credentials, Endpoint, EndpointConfig, Event, LaneRx, LaneTx, PeerId, TrafficClass,
    TrustBundle,
};
use caplane_wire::{CongestionAction, HeaderRepr, LANE_MESSAGE_MAX, Label, message_len};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

pub const DOMAIN: &str = "caplane.test";
pub const CLASS: TrafficClass = TrafficClass::new(3, CongestionAction::Drop);

/// What keys certificates hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    P256,
    Ed25519,
}

impl KeyKind {
    fn generate(self) -> KeyPair {
        match self {
            Self::P256 => KeyPair::generate().expect("a key"),
            Self::Ed25519 => {
                // PKCS#8 version 1 around a seed (RFC 8410 section 7), as openssl writes it; ring writes version 2, which
                // BoringSSL does not read.
                let mut der = *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20................................";
                boring::rand::rand_bytes(&mut der[16..]).expect("a seed");
                KeyPair::try_from(&der[..]).expect("a key")
            }
        }
    }
}

/// A certificate authority of the tests.
pub struct Ca {
    pub pem: String,
    keys: KeyKind,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub fn new(name: &str) -> Self {
        Self::with_keys(name, KeyKind::P256)
    }

    /// As `new`, with keys of this kind for itself and those it issues to.
    pub fn with_keys(name: &str, keys: KeyKind) -> Self {
        let key = keys.generate();
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).expect("a root certificate");
        Self {
            pem: certificate.pem(),
            keys,
            issuer: Issuer::new(params, key),
        }
    }

    pub fn trust(&self) -> TrustBundle {
        let mut trust = TrustBundle::new();
        trust
            .add_pem(DOMAIN, self.pem.as_bytes())
            .expect("a root certificate");
        trust
    }

    /// Chain and key of a certificate changed by `adjust`.
    pub fn issue(
        &self,
        uris: &[&str],
        adjust: impl FnOnce(&mut CertificateParams),
    ) -> (String, String) {
        self.issue_for(self.keys.generate(), uris, adjust)
    }

    /// As `issue`, with an RSA key.
    pub fn issue_rsa(
        &self,
        uris: &[&str],
        adjust: impl FnOnce(&mut CertificateParams),
    ) -> (String, String) {
        let key = boring::rsa::Rsa::generate(2048).expect("a key");
        let key = boring::pkey::PKey::from_rsa(key).expect("a key");
        let pem = key.private_key_to_pem_pkcs8().expect("PEM");
        let pem = String::from_utf8(pem).expect("PEM is ASCII");
        self.issue_for(KeyPair::from_pem(&pem).expect("a key"), uris, adjust)
    }

    fn issue_for(
        &self,
        key: KeyPair,
        uris: &[&str],
        adjust: impl FnOnce(&mut CertificateParams),
    ) -> (String, String) {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.subject_alt_names = uris
            .iter()
            .map(|uri| SanType::URI((*uri).try_into().expect("an ASCII name")))
            .collect();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        adjust(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    pub fn credentials(&self, name: &str) -> Credentials {
        let (chain, key) = self.issue(&[&uri(name)], |_| {});
        Credentials::from_pem(chain.as_bytes(), key.as_bytes(), self.trust()).expect("credentials")
    }
}

pub fn uri(name: &str) -> String {
    format!("spiffe://{DOMAIN}/{name}")
}

pub fn v4() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

pub fn v6() -> SocketAddr {
    "[::1]:0".parse().expect("an address")
}

/// An endpoint and what happened at it.
pub struct Node {
    pub endpoint: Endpoint,
    pub events: Vec<Event>,
    /// Whole messages per lane, as they came.
    pub messages: Vec<(PeerId, LaneRx, Bytes)>,
    /// Hand every lane's bytes back unconsumed until paused lanes are resumed.
    pub hold: bool,
    /// The lane that was held last.
    pub held: Option<LaneRx>,
    pub consumed: u64,
    pub keep: bool,
}

impl Node {
    pub fn bind(config: EndpointConfig) -> Self {
        Self::new(Endpoint::bind(config).expect("bind"))
    }

    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            events: Vec::new(),
            messages: Vec::new(),
            hold: false,
            held: None,
            consumed: 0,
            keep: true,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.endpoint.local_addr()
    }

    /// One tick without sleeping longer than `sleep`.
    pub fn tick(&mut self, sleep: Duration) {
        self.endpoint.wait(Some(sleep)).expect("wait");
        let now = Instant::now();
        self.endpoint.receive(now).expect("receive");
        while let Some(event) = self.endpoint.next_event() {
            match event {
                Event::Lane {
                    peer, lane, data, ..
                } => self.take_lane(peer, lane, data),
                event => self.events.push(event),
            }
        }
        self.endpoint.flush(now).expect("flush");
    }

    fn take_lane(&mut self, peer: PeerId, lane: LaneRx, mut data: BytesMut) {
        if self.hold {
            self.held = Some(lane);
            self.endpoint.pause(peer, lane);
            self.endpoint.lane_rest(peer, lane, data);
            return;
        }
        let mut whole = 0;
        while let Ok(Some(length)) = message_len(&data[whole..], LANE_MESSAGE_MAX) {
            if data.len() - whole < length {
                break;
            }
            whole += length;
        }
        self.consumed += whole as u64;
        let mut run = data.split_to(whole).freeze();
        if self.keep {
            while let Ok(Some(length)) = message_len(&run, LANE_MESSAGE_MAX) {
                self.messages.push((peer, lane, run.split_to(length)));
            }
        }
        self.endpoint.lane_rest(peer, lane, data);
    }

    pub fn take<T>(&mut self, mut pick: impl FnMut(&Event) -> Option<T>) -> Option<T> {
        let (at, found) = self
            .events
            .iter()
            .enumerate()
            .find_map(|(at, event)| pick(event).map(|found| (at, found)))?;
        self.events.remove(at);
        Some(found)
    }
}

/// Drives nodes until `done`.
pub fn drive<const N: usize>(
    nodes: [&mut Node; N],
    what: &str,
    mut done: impl FnMut(&mut [&mut Node; N]) -> bool,
) {
    let mut nodes = nodes;
    drive_all(&mut nodes, what, |nodes| {
        let nodes = nodes.try_into().expect("as many as were given");
        done(nodes)
    });
}

/// Drives any number of nodes until `done`.
pub fn drive_all<'a>(
    nodes: &mut [&'a mut Node],
    what: &str,
    mut done: impl FnMut(&mut [&'a mut Node]) -> bool,
) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done(nodes) {
        if Instant::now() > deadline {
            for node in &*nodes {
                eprintln!(
                    "events {:?}\ncounters {:?}",
                    node.events,
                    node.endpoint.counters()
                );
            }
            panic!("waited 20 s in vain for: {what}");
        }
        for node in &mut *nodes {
            node.tick(Duration::from_micros(200));
        }
    }
}

/// A dialling and an accepting node that are connected, and their names for each other.
pub struct Pair {
    pub client: Node,
    pub server: Node,
    /// The server, at the client.
    pub to_server: PeerId,
    /// The client, at the server.
    pub to_client: PeerId,
}

impl Pair {
    pub fn new(listen: SocketAddr, adjust: impl Fn(&mut EndpointConfig)) -> Self {
        Self::with(listen, |_, config| adjust(config))
    }

    /// `adjust` is told whether it adjusts the accepting side.
    pub fn with(listen: SocketAddr, adjust: impl Fn(bool, &mut EndpointConfig)) -> Self {
        let ca = Ca::new("test root");
        let mut config = EndpointConfig::new(listen, ca.credentials("router/one"));
        adjust(true, &mut config);
        let server = Node::bind(config);
        let mut config = EndpointConfig::new(listen, ca.credentials("agent/one"));
        config.accept = false;
        adjust(false, &mut config);
        let mut client = Node::bind(config);
        let to_server = client
            .endpoint
            .connect(server.address(), Some(&uri("router/one")))
            .expect("connect");
        let mut pair = Self {
            client,
            server,
            to_server,
            to_client: to_server,
        };
        let (mut at_client, mut at_server) = (None, None);
        drive(
            [&mut pair.client, &mut pair.server],
            "both connected",
            |[c, s]| {
                at_client = at_client.or_else(|| c.take(connected));
                at_server = at_server.or_else(|| s.take(connected));
                at_client.is_some() && at_server.is_some()
            },
        );
        pair.to_client = at_server.expect("connected");
        assert_eq!(at_client, Some(to_server));
        pair
    }

    pub fn drive(&mut self, what: &str, mut done: impl FnMut(&mut Node, &mut Node) -> bool) {
        drive([&mut self.client, &mut self.server], what, |[c, s]| {
            done(c, s)
        });
    }

    pub fn lane(&mut self) -> LaneTx {
        self.client
            .endpoint
            .open_lane(self.to_server, CLASS)
            .expect("open a lane")
    }

    pub fn bulk(&mut self) -> BulkTx {
        self.client
            .endpoint
            .open_bulk(self.to_server, CLASS)
            .expect("open a bulk stream")
    }
}

pub fn connected(event: &Event) -> Option<PeerId> {
    match event {
        Event::Connected { peer, .. } => Some(*peer),
        _ => None,
    }
}

/// A message of `length` bytes in all.
pub fn message(sequence: u32, length: usize) -> Bytes {
    let label = Label::agent(7, 1).expect("a label");
    let header = HeaderRepr {
        class: CLASS,
        label,
        requested_label: label,
        sequence,
        payload_len: (length - caplane_wire::HEADER_LEN) as u32,
        ..HeaderRepr::default()
    };
    let mut bytes = header.to_bytes().to_vec();
    bytes.resize(length, sequence as u8);
    bytes.into()
}
