//! A router of the tests: one thread, one endpoint, no tables. It attaches whoever has a certificate, hands messages on
//! by agent label or by a list of a class's members, and does on request what networks do: drop, double, notice, drain,
//! close, vanish.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use caplane_client::{ClientConfig, Credentials, TrustBundle};
use caplane_proto::v1::control_frame::Frame;
use caplane_proto::v1::{Bye, Candidate, ControlFrame, Drain, Limits, Resolved, Welcome};
use caplane_transport::{BulkRx, BulkTx, Endpoint, EndpointConfig, Event, LaneTx, PeerId, Waker};
use caplane_wire::{
    CloseCode, Header, Kind, LANE_MESSAGE_MAX, Label, LabelKind, Notice, NoticeCode, StreamCode,
    TrafficClass, message_len,
};
use prost::Message as _;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

pub const DOMAIN: &str = "caplane.test";

/// A certificate authority of the tests.
pub struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).expect("a root certificate");
        Self {
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Credentials named `spiffe://caplane.test/{name}`.
    pub fn credentials(&self, name: &str) -> Credentials {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        let uri = format!("spiffe://{DOMAIN}/{name}");
        params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("ASCII"))];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let mut trust = TrustBundle::new();
        trust
            .add_pem(DOMAIN, self.pem.as_bytes())
            .expect("a root certificate");
        Credentials::from_pem(
            certificate.pem().as_bytes(),
            key.serialize_pem().as_bytes(),
            trust,
        )
        .expect("credentials")
    }

    /// Configuration of agent number `agent` towards these routers, impatient as tests are.
    pub fn agent(&self, agent: u32, routers: &[&Stub]) -> ClientConfig {
        let routers: Vec<String> = routers.iter().map(|r| r.address.to_string()).collect();
        let mut config = ClientConfig::new(routers, self.credentials(&format!("agent/{agent}")));
        config.resend_initial = Duration::from_millis(200);
        config.reconnect_first = Duration::from_millis(20);
        config.attach_timeout = Duration::from_secs(10);
        config.linger = Duration::from_secs(2);
        config.router_uri_prefix = Some(format!("spiffe://{DOMAIN}/router/"));
        config
    }
}

/// What the stub does to messages. Counts are over all messages of the kind, from 1.
#[derive(Default)]
pub struct Rules {
    pub drop_data_every: Option<u64>,
    pub drop_receipts_every: Option<u64>,
    pub double_every: Option<u64>,
    /// Members of each class, by agent number.
    pub members: HashMap<Label, Vec<u32>>,
    pub candidates: Vec<Candidate>,
    pub resolve_error: String,
    pub refuse_hello: Option<CloseCode>,
    /// Instances of an agent get numbers from here on.
    pub first_instance: u8,
    pub bulk_message_bytes: u64,
    pub stop_bulk: Option<StreamCode>,
}

/// What went through the stub.
#[derive(Default, Clone)]
pub struct Seen {
    pub data: u64,
    pub receipts: u64,
    pub bulk: u64,
    /// For each bulk message, how many messages of all kinds had come with it.
    pub bulk_came_as: Vec<u64>,
    pub datagrams: u64,
    pub notices: u64,
    pub hellos: Vec<String>,
    pub byes: u64,
    pub asked: BTreeMap<Label, u64>,
    pub attached: Vec<Label>,
}

pub enum Order {
    Drain(Duration),
    /// Bye and close, everyone or one agent.
    Close(Option<u32>, CloseCode),
    /// Stop without a word, as a killed process does.
    Vanish,
}

pub struct Stub {
    pub address: SocketAddr,
    rules: Arc<Mutex<Rules>>,
    seen: Arc<Mutex<Seen>>,
    orders: Sender<Order>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Stub {
    pub fn start(ca: &Ca, number: u32) -> Self {
        Self::start_at(ca, number, "127.0.0.1:0".parse().expect("an address"))
    }

    pub fn start_at(ca: &Ca, number: u32, listen: SocketAddr) -> Self {
        let credentials = ca.credentials(&format!("router/r{number}"));
        let mut config = EndpointConfig::new(listen, credentials);
        // Small, so that a backlog stands in the client and not in QUIC, also when this thread gets little time.
        config.stream_window = 256 << 10;
        let endpoint = Endpoint::bind(config).expect("bind");
        let (address, waker) = (endpoint.local_addr(), endpoint.waker());
        let (orders, received) = channel();
        let rules = Arc::new(Mutex::new(Rules {
            first_instance: 1,
            ..Rules::default()
        }));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let router = Router {
            number,
            endpoint,
            orders: received,
            rules: rules.clone(),
            seen: seen.clone(),
            peers: HashMap::new(),
            names: HashMap::new(),
            assembling: HashMap::new(),
            draining: false,
        };
        let thread = std::thread::spawn(move || router.run());
        Self {
            address,
            rules,
            seen,
            orders,
            waker,
            thread: Some(thread),
        }
    }

    pub fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().expect("rules")
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().expect("seen").clone()
    }

    pub fn order(&self, order: Order) {
        self.orders.send(order).expect("the stub runs");
        self.waker.wake().expect("wake");
    }

    /// Stops without a word and frees the port.
    pub fn vanish(mut self) -> SocketAddr {
        self.order(Order::Vanish);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the stub did not panic");
        }
        self.address
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = self.orders.send(Order::Vanish);
            let _ = self.waker.wake();
            let outcome = thread.join();
            if !std::thread::panicking() {
                outcome.expect("the stub did not panic");
            }
        }
    }
}

struct Attached {
    agent: u32,
    label: Option<Label>,
    lanes: HashMap<TrafficClass, (Option<LaneTx>, VecDeque<Bytes>)>,
    bulks: VecDeque<(TrafficClass, Bytes)>,
    sending: Vec<(BulkTx, Bytes)>,
}

struct Router {
    number: u32,
    endpoint: Endpoint,
    orders: Receiver<Order>,
    rules: Arc<Mutex<Rules>>,
    seen: Arc<Mutex<Seen>>,
    peers: HashMap<PeerId, Attached>,
    names: HashMap<(u32, String), u8>,
    assembling: HashMap<(PeerId, BulkRx), BytesMut>,
    draining: bool,
}

enum By {
    Lane,
    Bulk,
    Datagram,
}

impl Router {
    fn run(mut self) {
        loop {
            self.endpoint.wait(None).expect("wait");
            let now = Instant::now();
            self.endpoint.receive(now).expect("receive");
            while let Some(event) = self.endpoint.next_event() {
                self.event(event);
            }
            while let Ok(order) = self.orders.try_recv() {
                match order {
                    Order::Vanish => return,
                    Order::Drain(period) => {
                        self.draining = true;
                        let drain = Drain {
                            period_ms: period.as_millis() as u32,
                            reason: "maintenance".into(),
                        };
                        for peer in self.all() {
                            self.say(peer, Frame::Drain(drain.clone()));
                        }
                    }
                    Order::Close(agent, code) => {
                        for peer in self.all() {
                            if agent.is_none_or(|agent| self.peers[&peer].agent == agent) {
                                self.bye(peer, code);
                            }
                        }
                    }
                }
            }
            for peer in self.all() {
                self.pump(peer);
            }
            self.endpoint.flush(now).expect("flush");
        }
    }

    fn all(&self) -> Vec<PeerId> {
        self.peers.keys().copied().collect()
    }

    fn say(&mut self, peer: PeerId, frame: Frame) {
        let frame = ControlFrame { frame: Some(frame) };
        let _ = self.endpoint.send_control(peer, &frame.encode_to_vec());
    }

    fn bye(&mut self, peer: PeerId, code: CloseCode) {
        let bye = Bye {
            code: code.number() as i32,
            reason: "as ordered".into(),
        };
        self.say(peer, Frame::Bye(bye));
        self.endpoint.close(peer, code.number(), "as ordered");
        self.peers.remove(&peer);
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Connected { peer, uri, .. } => {
                let agent = uri.rsplit('/').next().and_then(|n| n.parse().ok());
                let attached = Attached {
                    agent: agent.expect("agents of the tests are numbered"),
                    label: None,
                    lanes: HashMap::new(),
                    bulks: VecDeque::new(),
                    sending: Vec::new(),
                };
                self.peers.insert(peer, attached);
            }
            Event::Closed { peer, .. } => {
                self.peers.remove(&peer);
            }
            Event::Control { peer, message } => {
                let frame = ControlFrame::decode(message).expect("clients send what decodes");
                self.control(peer, frame.frame.expect("clients send what is defined"));
            }
            Event::Lane {
                peer,
                lane,
                class,
                mut data,
            } => {
                while let Some(total) = message_len(&data, LANE_MESSAGE_MAX).expect("a message") {
                    if total > data.len() {
                        break;
                    }
                    let message = data.split_to(total);
                    assert_eq!(Header::new_checked(&message[..]).unwrap().class(), class);
                    self.route(peer, By::Lane, message);
                }
                self.endpoint.lane_rest(peer, lane, data);
            }
            Event::Bulk {
                peer,
                bulk,
                data,
                fin,
                ..
            } => {
                let stop = self.rules.lock().unwrap().stop_bulk;
                if let Some(code) = stop {
                    return self
                        .endpoint
                        .reset_rx(peer, bulk.stream_id(), code.number());
                }
                let buffer = self.assembling.entry((peer, bulk)).or_default();
                buffer.extend_from_slice(&data);
                if fin {
                    let message = self.assembling.remove(&(peer, bulk)).unwrap();
                    self.route(peer, By::Bulk, message);
                }
            }
            Event::Datagram { peer, data } => self.route(peer, By::Datagram, data),
            _ => {}
        }
    }

    fn control(&mut self, peer: PeerId, frame: Frame) {
        match frame {
            Frame::Hello(hello) => {
                let refuse = self.rules.lock().unwrap().refuse_hello;
                self.seen
                    .lock()
                    .unwrap()
                    .hellos
                    .push(hello.instance_name.clone());
                if let Some(code) = refuse {
                    return self.bye(peer, code);
                }
                self.welcome(peer, hello.instance_name);
            }
            Frame::Resolve(resolve) => {
                let rules = self.rules.lock().unwrap();
                let resolved = Resolved {
                    query_id: resolve.query_id,
                    candidates: rules.candidates.clone(),
                    error: rules.resolve_error.clone(),
                    generation: 7,
                };
                drop(rules);
                self.say(peer, Frame::Resolved(resolved));
            }
            Frame::Bye(_) => self.seen.lock().unwrap().byes += 1,
            other => panic!("a client sent {other:?}"),
        }
    }

    fn welcome(&mut self, peer: PeerId, name: String) {
        let rules = self.rules.lock().unwrap();
        let attached = self.peers.get_mut(&peer).expect("connected");
        let agent = attached.agent;
        let taken = self.names.keys().filter(|(a, _)| *a == agent).count() as u8;
        let instance = *self
            .names
            .entry((agent, name))
            .or_insert(rules.first_instance + taken);
        let label = Label::agent(agent, instance).unwrap();
        attached.label = Some(label);
        let welcome = Welcome {
            label: label.bits(),
            domain: 5,
            tenant: 1,
            router: Label::router(self.number).unwrap().bits(),
            router_name: format!("r{}", self.number),
            generation: 7,
            stale: false,
            limits: Some(Limits {
                lane_message_bytes: 0,
                bulk_message_bytes: rules.bulk_message_bytes,
                priority_max: 6,
                idle_timeout_ms: 30_000,
            }),
        };
        drop(rules);
        self.seen.lock().unwrap().attached.push(label);
        self.say(peer, Frame::Welcome(welcome));
    }

    fn find(&self, fits: impl Fn(Label) -> bool) -> Option<PeerId> {
        let fits = |a: &Attached| a.label.is_some_and(&fits);
        self.peers.iter().find(|(_, a)| fits(a)).map(|(p, _)| *p)
    }

    fn route(&mut self, from: PeerId, by: By, message: BytesMut) {
        let header = Header::new_checked(&message[..]).expect("a header");
        let source = header.source_label();
        assert_eq!(header.source_domain(), 5);
        let asked = header.requested_label();
        let (drop_it, copies) = self.fate(header.kind(), &by, asked);
        if drop_it {
            return;
        }
        let to = match asked.kind() {
            LabelKind::Class => {
                let rules = self.rules.lock().unwrap();
                let members = rules.members.get(&asked).cloned().unwrap_or_default();
                drop(rules);
                let here: Vec<PeerId> = members
                    .iter()
                    .filter_map(|agent| self.find(|label| label.agent_number() == *agent))
                    .collect();
                (!here.is_empty()).then(|| here[header.flow() as usize % here.len()])
            }
            _ => self.find(|label| asked == label || asked == label.any_instance()),
        };
        let Some(to) = to else {
            if header.kind() == Kind::Data {
                self.notice(from, source, asked, header.as_bytes());
            }
            return;
        };
        let class = header.class();
        let message = message.freeze();
        for _ in 0..copies {
            match by {
                By::Lane => self.queue(to, class, message.clone()),
                By::Bulk => {
                    let attached = self.peers.get_mut(&to).unwrap();
                    attached.bulks.push_back((class, message.clone()));
                }
                By::Datagram => {
                    let _ = self.endpoint.send_datagram(to, message.clone());
                }
            }
        }
    }

    fn fate(&mut self, kind: Kind, by: &By, asked: Label) -> (bool, u32) {
        let rules = self.rules.lock().unwrap();
        let mut seen = self.seen.lock().unwrap();
        let (count, drop_every) = match kind {
            Kind::Receipt => (&mut seen.receipts, rules.drop_receipts_every),
            _ => (&mut seen.data, rules.drop_data_every),
        };
        *count += 1;
        let count = *count;
        match by {
            By::Lane => {}
            By::Bulk => {
                seen.bulk += 1;
                seen.bulk_came_as.push(count);
            }
            By::Datagram => seen.datagrams += 1,
        }
        if kind == Kind::Data {
            *seen.asked.entry(asked).or_default() += 1;
        }
        let due = |every: Option<u64>| every.is_some_and(|every| count % every == 0);
        (due(drop_every), 1 + u32::from(due(rules.double_every)))
    }

    fn notice(&mut self, from: PeerId, source: Label, asked: Label, offending: &[u8; 48]) {
        self.seen.lock().unwrap().notices += 1;
        let code = match asked.is_instance() {
            true => NoticeCode::Unreachable,
            false => NoticeCode::NoRoute,
        };
        let notice = Notice {
            code,
            router: Label::router(self.number).unwrap(),
            offending: *offending,
        };
        assert_eq!(self.peers[&from].label, Some(source));
        let message = Bytes::copy_from_slice(&notice.to_message(5));
        self.queue(from, TrafficClass::NOTICE, message);
    }

    fn queue(&mut self, to: PeerId, class: TrafficClass, message: Bytes) {
        let attached = self.peers.get_mut(&to).unwrap();
        let lane = attached.lanes.entry(class).or_default();
        lane.1.push_back(message);
    }

    fn pump(&mut self, peer: PeerId) {
        let Some(attached) = self.peers.get_mut(&peer) else {
            return;
        };
        for (class, (lane, queue)) in &mut attached.lanes {
            if lane.is_none() {
                *lane = self.endpoint.open_lane(peer, *class).ok();
            }
            let Some(lane) = lane else { continue };
            while !queue.is_empty() && self.endpoint.lane_ready(peer, *lane) {
                let message = queue.pop_front().unwrap();
                let _ = self.endpoint.send_lane(peer, *lane, message);
            }
        }
        while let Some((class, message)) = attached.bulks.pop_front() {
            match self.endpoint.open_bulk(peer, class) {
                Ok(bulk) => attached.sending.push((bulk, message)),
                Err(_) => {
                    attached.bulks.push_front((class, message));
                    break;
                }
            }
        }
        let endpoint = &mut self.endpoint;
        attached.sending.retain(|(bulk, message)| {
            if !endpoint.bulk_ready(peer, *bulk) {
                return true;
            }
            let _ = endpoint.send_bulk(peer, *bulk, message.clone(), true);
            false
        });
    }
}

/// Fails the test when `future` takes longer than `seconds`.
pub async fn within<F: std::future::Future>(seconds: u64, what: &str, future: F) -> F::Output {
    match tokio::time::timeout(Duration::from_secs(seconds), future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {seconds} s"),
    }
}
