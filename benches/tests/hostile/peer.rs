//! A peer that may break every rule: bytes on a QUIC connection, as a test wants them. Knows QUIC and the shapes of the
//! wire format; refuses to know what a router ought to do about them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use boring::ssl::{SslContextBuilder, SslMethod, SslVerifyMode};
use caplane_proto::v1;
use caplane_proto::v1::ControlFrame;
use caplane_proto::v1::control_frame::Frame;
use caplane_wire::control::{self, LengthPrefix};
use caplane_wire::preface::PREFACE_LEN;
use caplane_wire::{
    HEADER_LEN, Header, HeaderRepr, Kind, Label, Notice, Preface, StreamKind, TrafficClass,
    message_len,
};
use prost::Message as _;
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::stage::{PATIENCE, within};

/// Certificate chain and key, in PEM.
pub type Identity<'a> = (&'a str, &'a str);

/// One connection, kept alive by a task.
pub struct Peer {
    inner: Arc<Mutex<Inner>>,
    changed: Arc<Notify>,
    task: JoinHandle<()>,
    /// Label and domain of this instance, from `Welcome`.
    pub label: Label,
    pub domain: u32,
}

/// What one received message was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub header: HeaderRepr,
    /// Extensions and payload.
    pub body: Vec<u8>,
    pub carrier: StreamKind,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// CONNECTION_CLOSE of the application; a TLS alert is one of the transport.
    pub application: bool,
    pub code: u64,
    pub reason: String,
}

struct Inner {
    quic: quiche::Connection,
    socket: Arc<UdpSocket>,
    local: SocketAddr,
    next_uni: u64,
    /// What QUIC has not taken yet, per stream, and whether FIN follows it.
    unsent: BTreeMap<u64, (Vec<u8>, bool)>,
    /// Streams being written, and the code with which the router stopped one.
    writing: BTreeMap<u64, Option<u64>>,
    streams: BTreeMap<u64, Incoming>,
    control: Vec<u8>,
    frames: Vec<Frame>,
    received: Vec<Message>,
}

/// A unidirectional stream that the router opened.
#[derive(Default)]
struct Incoming {
    bytes: Vec<u8>,
    kind: Option<StreamKind>,
    fin: bool,
    reset: Option<u64>,
}

impl Peer {
    /// Dials with a certificate, or none; nothing is awaited.
    pub async fn dial(router: &str, identity: Option<Identity<'_>>) -> Self {
        let router: SocketAddr = router.parse().expect("an address");
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
        let local = socket.local_addr().expect("an address");
        let mut config = quic_config(identity);
        let scid: [u8; 16] = local_id(local);
        let scid = quiche::ConnectionId::from_ref(&scid);
        let quic = quiche::connect(None, &scid, local, router, &mut config).expect("connect");
        let socket = Arc::new(socket);
        let inner = Arc::new(Mutex::new(Inner {
            quic,
            socket: Arc::clone(&socket),
            local,
            next_uni: 2,
            unsent: BTreeMap::new(),
            writing: BTreeMap::new(),
            streams: BTreeMap::new(),
            control: Vec::new(),
            frames: Vec::new(),
            received: Vec::new(),
        }));
        let changed = Arc::new(Notify::new());
        let task = tokio::spawn(drive(Arc::clone(&inner), socket, Arc::clone(&changed)));
        Self {
            inner,
            changed,
            task,
            label: Label::NONE,
            domain: 0,
        }
    }

    /// Dials, says Hello and waits for Welcome.
    pub async fn attach(router: &str, identity: Identity<'_>, name: &str) -> Self {
        let mut peer = Self::dial(router, Some(identity)).await;
        peer.hello(name);
        let welcome = peer
            .frame("Welcome", |frame| match frame {
                Frame::Welcome(welcome) => Some(welcome.clone()),
                _ => None,
            })
            .await;
        peer.label = Label::from_bits(welcome.label);
        peer.domain = welcome.domain;
        peer
    }

    pub fn hello(&self, name: &str) {
        self.say(Frame::Hello(v1::Hello {
            instance_name: name.to_owned(),
            role: v1::Role::Instance.into(),
            agent_card: Vec::new(),
            receive_window: 0,
            software: "hostile".to_owned(),
            worker: 0,
        }));
    }

    /// One well-formed control frame.
    pub fn say(&self, frame: Frame) {
        self.control_frame(&ControlFrame { frame: Some(frame) }.encode_to_vec());
    }

    /// Any bytes as one control frame with their right length.
    pub fn control_frame(&self, frame: &[u8]) {
        let prefix = LengthPrefix::new(frame.len()).expect("fits");
        self.write(0, &[prefix.as_bytes(), frame].concat(), false);
    }

    /// Opens a unidirectional stream: nothing is written.
    pub fn open(&self) -> u64 {
        let mut inner = self.lock();
        let stream = inner.next_uni;
        inner.next_uni += 4;
        stream
    }

    /// Opens a unidirectional stream with a right preface.
    pub fn open_with(&self, kind: StreamKind, class: TrafficClass) -> u64 {
        let stream = self.open();
        self.write(stream, &Preface { kind, class }.to_bytes(), false);
        stream
    }

    /// Writes bytes to a stream, as soon as QUIC takes them.
    pub fn write(&self, stream: u64, bytes: &[u8], fin: bool) {
        let mut inner = self.lock();
        let unsent = inner.unsent.entry(stream).or_default();
        unsent.0.extend_from_slice(bytes);
        unsent.1 |= fin;
        inner.writing.entry(stream).or_default();
        inner.turn();
        self.changed.notify_waiters();
    }

    /// One DATAGRAM frame of any bytes.
    pub fn datagram(&self, bytes: &[u8]) {
        let mut inner = self.lock();
        inner.quic.dgram_send(bytes).expect("room in the queue");
        inner.turn();
        self.changed.notify_waiters();
    }

    /// Waits until the handshake is complete, as far as this side can tell.
    pub async fn established(&self) {
        self.wait("a handshake", |inner| {
            inner.quic.is_established().then_some(())
        })
        .await;
    }

    /// RESET_STREAM.
    pub fn reset(&self, stream: u64, code: u64) {
        let mut inner = self.lock();
        inner.unsent.remove(&stream);
        inner
            .quic
            .stream_shutdown(stream, quiche::Shutdown::Write, code)
            .expect("an open stream");
        inner.turn();
        self.changed.notify_waiters();
    }

    /// Bidirectional streams that the router lets us open still.
    pub fn bidirectional_credit(&self) -> u64 {
        self.lock().quic.peer_streams_left_bidi()
    }

    /// A header from this instance to `to`, of `payload` bytes.
    pub fn header(&self, to: Label, class: TrafficClass, payload: usize) -> HeaderRepr {
        HeaderRepr {
            class,
            label: to,
            requested_label: to,
            source_label: self.label,
            source_domain: self.domain,
            flow: 7,
            payload_len: u32::try_from(payload).expect("short"),
            ..HeaderRepr::default()
        }
    }

    /// Opens a lane of the header's class for these bytes alone.
    pub fn send(&self, header: HeaderRepr, body: &[u8]) -> u64 {
        let lane = self.open_with(StreamKind::Lane, header.class);
        self.write(lane, &[&header.to_bytes()[..], body].concat(), false);
        lane
    }

    /// Writes bytes to a stream and waits until they have arrived.
    pub async fn deliver(&self, stream: u64, bytes: &[u8]) {
        let before = self.lock().quic.stats().acked_bytes;
        self.write(stream, bytes, false);
        self.wait("the bytes are acknowledged", |inner| {
            let waiting = inner.unsent.get(&stream);
            let sent = waiting.is_none_or(|(bytes, _)| bytes.is_empty());
            let acknowledged = inner.quic.stats().acked_bytes - before;
            (sent && acknowledged >= bytes.len() as u64).then_some(())
        })
        .await;
    }

    /// Waits for a control frame that `pick` wants, and takes it.
    pub async fn frame<T>(&self, what: &str, pick: impl Fn(&Frame) -> Option<T>) -> T {
        self.wait(what, |inner| {
            let at = inner.frames.iter().position(|f| pick(f).is_some())?;
            pick(&inner.frames.remove(at))
        })
        .await
    }

    /// Waits for Bye.
    pub async fn bye(&self) -> v1::Bye {
        self.frame("Bye", |frame| match frame {
            Frame::Bye(bye) => Some(bye.clone()),
            _ => None,
        })
        .await
    }

    /// Waits for the next whole message.
    pub async fn message(&self) -> Message {
        self.wait("a message", |inner| {
            (!inner.received.is_empty()).then(|| inner.received.remove(0))
        })
        .await
    }

    /// Waits for the next whole message, which must be a notice.
    pub async fn notice(&self) -> Notice {
        let message = self.message().await;
        assert_eq!(message.header.kind, Kind::Notice, "{:?}", message.header);
        Notice::parse(&message.body).expect("a notice")
    }

    /// Waits for STOP_SENDING on a stream that we write.
    pub async fn stopped(&self, stream: u64) -> u64 {
        self.wait("STOP_SENDING", |inner| {
            inner.writing.get(&stream).copied().flatten()
        })
        .await
    }

    /// Waits until `bytes` of some bulk stream have come, and gives its id.
    pub async fn bulk_begun(&self, bytes: usize) -> u64 {
        self.wait("a bulk stream begins", |inner| {
            let begun =
                |s: &Incoming| s.kind == Some(StreamKind::Bulk) && s.bytes.len() >= bytes && !s.fin;
            let found = inner.streams.iter().find(|(_, s)| begun(s));
            found.map(|(stream, _)| *stream)
        })
        .await
    }

    /// Waits until the router resets a stream.
    pub async fn was_reset(&self, stream: u64) -> u64 {
        self.wait("RESET_STREAM", |inner| inner.streams.get(&stream)?.reset)
            .await
    }

    /// Waits for CONNECTION_CLOSE.
    pub async fn end(&self) -> End {
        self.wait("CONNECTION_CLOSE", |inner| {
            inner.quic.peer_error().map(|error| End {
                application: error.is_app,
                code: error.error_code,
                reason: String::from_utf8_lossy(&error.reason).into_owned(),
            })
        })
        .await
    }

    /// Ends without a word, as a killed process does: nothing is answered any more when this returns.
    pub async fn vanish(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    async fn wait<T>(&self, what: &str, mut pick: impl FnMut(&mut Inner) -> Option<T>) -> T {
        within(what, async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                // From now on a change is not missed.
                changed.as_mut().enable();
                if let Some(found) = pick(&mut self.lock()) {
                    return found;
                }
                changed.await;
            }
        })
        .await
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no test panics inside")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn drive(inner: Arc<Mutex<Inner>>, socket: Arc<UdpSocket>, changed: Arc<Notify>) {
    loop {
        let timeout = {
            let mut inner = inner.lock().expect("no test panics inside");
            inner.turn();
            inner.quic.timeout()
        };
        changed.notify_waiters();
        let woken = tokio::time::timeout(timeout.unwrap_or(PATIENCE), async {
            tokio::select! {
                ready = socket.readable() => ready.expect("a socket"),
                () = changed.notified() => {}
            }
        });
        let _ = woken.await;
    }
}

impl Inner {
    /// Takes what came, writes what may be written, sends.
    fn turn(&mut self) {
        let mut buffer = [0; 65_536];
        while let Ok((length, from)) = self.socket.try_recv_from(&mut buffer) {
            let info = quiche::RecvInfo {
                from,
                to: self.local,
            };
            // A packet that is no good is dropped, as QUIC does.
            let _ = self.quic.recv(&mut buffer[..length], info);
        }
        if self.quic.timeout().is_some_and(|left| left.is_zero()) {
            self.quic.on_timeout();
        }
        self.collect();
        self.push();
        while let Ok((length, info)) = self.quic.send(&mut buffer) {
            // Full sockets lose packets, and QUIC sends them again.
            let _ = self.socket.try_send_to(&buffer[..length], info.to);
        }
    }

    fn push(&mut self) {
        if !self.quic.is_established() {
            return;
        }
        for (stream, (bytes, fin)) in &mut self.unsent {
            if bytes.is_empty() && !*fin {
                continue;
            }
            match self.quic.stream_send(*stream, bytes, *fin) {
                Ok(sent) => {
                    bytes.drain(..sent);
                    *fin &= !bytes.is_empty();
                }
                Err(quiche::Error::StreamStopped(code)) => {
                    bytes.clear();
                    self.writing.insert(*stream, Some(code));
                }
                Err(quiche::Error::Done) => {}
                Err(_) => bytes.clear(),
            }
        }
        for (stream, stopped) in &mut self.writing {
            if stopped.is_none()
                && let Err(quiche::Error::StreamStopped(code)) = self.quic.stream_capacity(*stream)
            {
                *stopped = Some(code);
            }
        }
    }

    fn collect(&mut self) {
        let mut buffer = [0; 65_536];
        for stream in self.quic.readable() {
            loop {
                let incoming = self.streams.entry(stream).or_default();
                match self.quic.stream_recv(stream, &mut buffer) {
                    Ok((read, fin)) => {
                        let bytes = match stream {
                            0 => &mut self.control,
                            _ => &mut incoming.bytes,
                        };
                        bytes.extend_from_slice(&buffer[..read]);
                        incoming.fin |= fin;
                        if fin {
                            break;
                        }
                    }
                    Err(quiche::Error::StreamReset(code)) => {
                        incoming.reset = Some(code);
                        break;
                    }
                    Err(_) => break,
                }
            }
        }
        self.collect_frames();
        for incoming in self.streams.values_mut() {
            incoming.messages(&mut self.received);
        }
    }

    fn collect_frames(&mut self) {
        while let Ok(Some(range)) = control::frame(&self.control) {
            let frame =
                ControlFrame::decode(&self.control[range.clone()]).expect("a router's frame");
            self.frames.extend(frame.frame);
            self.control.drain(..range.end);
        }
    }
}

impl Incoming {
    fn messages(&mut self, received: &mut Vec<Message>) {
        if self.kind.is_none() && self.bytes.len() >= PREFACE_LEN {
            let preface = Preface::parse(&self.bytes).expect("a router's preface");
            self.kind = preface.map(|preface| preface.kind);
            self.bytes.drain(..PREFACE_LEN);
        }
        let Some(carrier) = self.kind else {
            return;
        };
        if carrier == StreamKind::Bulk && !self.fin {
            return;
        }
        while let Some(length) = message_len(&self.bytes, usize::MAX).expect("a router's message")
            && length <= self.bytes.len()
        {
            let message: Vec<u8> = self.bytes.drain(..length).collect();
            let header = Header::new_checked(&message).expect("checked");
            received.push(Message {
                header: HeaderRepr::parse(&header),
                body: message[HEADER_LEN..].to_vec(),
                carrier,
            });
        }
    }
}

fn quic_config(identity: Option<Identity<'_>>) -> quiche::Config {
    let mut tls = SslContextBuilder::new(SslMethod::tls()).expect("a context");
    if let Some((chain, key)) = identity {
        let chain = boring::x509::X509::stack_from_pem(chain.as_bytes()).expect("a chain");
        tls.set_certificate(&chain[0]).expect("a certificate");
        let key = boring::pkey::PKey::private_key_from_pem(key.as_bytes()).expect("a key");
        tls.set_private_key(&key).expect("a key");
    }
    tls.set_verify(SslVerifyMode::NONE);
    let mut config = quiche::Config::with_boring_ssl_ctx_builder(quiche::PROTOCOL_VERSION, tls)
        .expect("a configuration");
    config
        .set_application_protos(&[caplane_wire::ALPN])
        .expect("ALPN");
    config.set_max_idle_timeout(Duration::from_secs(30).as_millis() as u64);
    config.set_max_recv_udp_payload_size(16_384);
    config.set_initial_max_data(1 << 24);
    config.set_initial_max_stream_data_uni(1 << 20);
    config.set_initial_max_stream_data_bidi_local(1 << 18);
    config.set_initial_max_streams_uni(64);
    config.enable_dgram(true, 16, 16);
    config
}

/// Ports differ, so ids do.
fn local_id(local: SocketAddr) -> [u8; 16] {
    let mut id = [0x5A; 16];
    id[..2].copy_from_slice(&local.port().to_be_bytes());
    id
}
