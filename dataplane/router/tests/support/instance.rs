//! An instance of an agent, as small as the wire allows: one endpoint, turned by the test.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use caplane_proto::v1;
use caplane_proto::v1::control_frame::Frame;
use caplane_router::control_frame;
use caplane_transport::{
    BulkRx, BulkTx, Credentials, Endpoint, EndpointConfig, Event, LaneRx, LaneTx, PeerId,
    TrustBundle,
};
use caplane_wire::{HeaderRepr, Label, TrafficClass};

use super::DEADLINE;
use super::pki::{Files, Pki};

pub struct Instance {
    endpoint: Endpoint,
    router: Option<PeerId>,
    lane: Option<(TrafficClass, LaneTx)>,
    pub label: Label,
    /// Whole messages, as they came.
    pub received: Vec<Message>,
    /// Control frames, as they came.
    pub frames: Vec<Frame>,
    /// Code and reason, when the connection is gone.
    pub closed: Option<(u64, String)>,
    bulk: Vec<(BulkRx, Vec<u8>)>,
    /// Read no lane: what comes is kept unread and given back at [`Instance::release`].
    pub hold: bool,
    held: Vec<(PeerId, LaneRx)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub header: HeaderRepr,
    pub payload: Vec<u8>,
    pub carrier: &'static str,
}

impl Instance {
    /// Dials and says Hello; does not wait for the answer.
    pub fn dial(pki: &Pki, files: &Files, router: SocketAddr, name: &str) -> Self {
        let mut trust = TrustBundle::new();
        trust.add_file("caplane.local", &pki.roots()).unwrap();
        let credentials = Credentials::from_files(&files.chain, &files.key, trust).unwrap();
        let mut config = EndpointConfig::new("127.0.0.1:0".parse().unwrap(), credentials);
        config.accept = false;
        let mut endpoint = Endpoint::bind(config).unwrap();
        endpoint.connect(router, None).unwrap();
        let mut instance = Self {
            endpoint,
            router: None,
            lane: None,
            label: Label::NONE,
            received: Vec::new(),
            frames: Vec::new(),
            closed: None,
            bulk: Vec::new(),
            hold: false,
            held: Vec::new(),
        };
        instance.until("connected", |i| i.router.is_some() || i.closed.is_some());
        instance.say(Frame::Hello(v1::Hello {
            instance_name: name.into(),
            role: v1::Role::Instance.into(),
            agent_card: Vec::new(),
            receive_window: 0,
            software: "test".into(),
            worker: 0,
        }));
        instance
    }

    /// Dials, says Hello and waits for Welcome.
    pub fn attach(pki: &Pki, files: &Files, router: SocketAddr, name: &str) -> Self {
        let mut instance = Self::dial(pki, files, router, name);
        let welcome = instance.welcome();
        instance.label = Label::from_bits(welcome.label);
        instance
    }

    pub fn welcome(&mut self) -> v1::Welcome {
        self.frame("Welcome", |frame| match frame {
            Frame::Welcome(welcome) => Some(welcome.clone()),
            _ => None,
        })
    }

    /// The Bye that the router says; the connection is gone then.
    pub fn bye(&mut self) -> v1::Bye {
        let bye = self.frame("Bye", |frame| match frame {
            Frame::Bye(bye) => Some(bye.clone()),
            _ => None,
        });
        self.until("closed after Bye", |i| i.closed.is_some());
        bye
    }

    /// Waits for a frame that `pick` wants.
    pub fn frame<T>(&mut self, what: &str, pick: impl Fn(&Frame) -> Option<T>) -> T {
        self.until(what, |i| i.frames.iter().any(|f| pick(f).is_some()));
        let at = self.frames.iter().position(|f| pick(f).is_some()).unwrap();
        pick(&self.frames.remove(at)).unwrap()
    }

    /// Waits for the next message.
    pub fn message(&mut self) -> Message {
        self.until("a message", |i| !i.received.is_empty());
        self.received.remove(0)
    }

    /// Turns the endpoint until `condition` holds.
    pub fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !condition(self) {
            assert!(
                Instant::now() < end,
                "still not so: {what}; frames {:?}, closed {:?}, received {:?}",
                self.frames,
                self.closed,
                self.received
            );
            self.turn(Duration::from_millis(20));
        }
    }

    /// One turn: waits at most `wait`, takes events, flushes.
    pub fn turn(&mut self, wait: Duration) {
        self.endpoint.wait(Some(wait)).unwrap();
        let now = Instant::now();
        self.endpoint.receive(now).unwrap();
        while let Some(event) = self.endpoint.next_event() {
            self.on_event(event);
        }
        self.endpoint.flush(now).unwrap();
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Connected { peer, .. } => self.router = Some(peer),
            Event::Refused { reason, .. } => self.closed = Some((u64::MAX, reason.to_string())),
            Event::Control { message, .. } => {
                self.frames.push(control_frame::decode(message).unwrap());
            }
            Event::Lane {
                peer,
                lane,
                mut data,
                ..
            } => {
                if self.hold {
                    self.endpoint.pause(peer, lane);
                    self.held.push((peer, lane));
                    self.endpoint.lane_rest(peer, lane, data);
                    return;
                }
                while let Ok(Some(len)) = caplane_wire::message_len(&data, usize::MAX)
                    && data.len() >= len
                {
                    let message = data.split_to(len);
                    self.received.push(message_of(&message, "lane"));
                }
                self.endpoint.lane_rest(peer, lane, data);
            }
            Event::Datagram { data, .. } => self.received.push(message_of(&data, "datagram")),
            Event::Bulk {
                bulk, data, fin, ..
            } => {
                let at = match self.bulk.iter().position(|(known, _)| *known == bulk) {
                    Some(at) => at,
                    None => {
                        self.bulk.push((bulk, Vec::new()));
                        self.bulk.len() - 1
                    }
                };
                self.bulk[at].1.extend_from_slice(&data);
                if fin {
                    let (_, whole) = self.bulk.swap_remove(at);
                    self.received.push(message_of(&whole, "bulk"));
                }
            }
            Event::Closed { code, reason, .. } => self.closed = Some((code, reason)),
            _ => {}
        }
    }

    pub fn say(&mut self, frame: Frame) {
        if let Some(router) = self.router {
            let bytes = control_frame::encode(frame);
            self.endpoint.send_control(router, &bytes).unwrap();
            self.turn(Duration::ZERO);
        }
    }

    /// A message from this instance, with `header`'s class, label, flow and sequence.
    pub fn compose(&self, header: HeaderRepr, payload: &[u8]) -> Bytes {
        let header = HeaderRepr {
            source_label: self.label,
            label: header.requested_label,
            payload_len: payload.len() as u32,
            ..header
        };
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend_from_slice(payload);
        bytes.into()
    }

    /// Sends one message on the lane of its class.
    pub fn send(&mut self, header: HeaderRepr, payload: &[u8]) {
        let message = self.compose(header, payload);
        let router = self.router.expect("attached");
        let lane = match self.lane {
            Some((class, lane)) if class == header.class => lane,
            _ => self.endpoint.open_lane(router, header.class).unwrap(),
        };
        self.lane = Some((header.class, lane));
        self.endpoint.send_lane(router, lane, message).unwrap();
        self.turn(Duration::ZERO);
    }

    /// Sends one message as a datagram.
    pub fn send_datagram(&mut self, header: HeaderRepr, payload: &[u8]) {
        let message = self.compose(header, payload);
        let router = self.router.expect("attached");
        self.endpoint.send_datagram(router, message).unwrap();
        self.turn(Duration::ZERO);
    }

    /// Sends one message as a bulk stream, in pieces as flow control allows.
    pub fn send_bulk(&mut self, header: HeaderRepr, payload: &[u8]) {
        let whole = self.compose(header, payload).len();
        self.begin_bulk(header, payload, whole);
    }

    /// Sends the first `bytes` of a bulk message, or a little more.
    pub fn begin_bulk(&mut self, header: HeaderRepr, payload: &[u8], bytes: usize) -> BulkTx {
        let mut message = self.compose(header, payload);
        let total = message.len();
        let router = self.router.expect("attached");
        let bulk = self.endpoint.open_bulk(router, header.class).unwrap();
        while total - message.len() < bytes {
            if self.endpoint.bulk_ready(router, bulk) {
                let piece = message.split_to(message.len().min(32 * 1024));
                let fin = message.is_empty();
                self.endpoint.send_bulk(router, bulk, piece, fin).unwrap();
            }
            self.turn(Duration::from_millis(1));
        }
        bulk
    }

    /// Resets a bulk message that was begun.
    pub fn cut_bulk(&mut self, bulk: BulkTx) {
        let router = self.router.expect("attached");
        let code = caplane_wire::StreamCode::CutShort.number();
        self.endpoint.reset_bulk(router, bulk, code);
        self.turn(Duration::ZERO);
    }

    /// Reads lanes again.
    pub fn release(&mut self) {
        self.hold = false;
        for (peer, lane) in self.held.drain(..) {
            self.endpoint.resume(peer, lane);
        }
    }

    /// True when [`Instance::send`] on the lane of `class` would be taken now.
    pub fn lane_ready(&self, class: TrafficClass) -> bool {
        match (self.router, self.lane) {
            (Some(router), Some((of, lane))) if of == class => {
                self.endpoint.lane_ready(router, lane)
            }
            _ => true,
        }
    }

    /// Ends without a word, as a killed process does.
    pub fn vanish(self) {}
}

fn message_of(bytes: &[u8], carrier: &'static str) -> Message {
    let header = caplane_wire::Header::new_checked(bytes).unwrap();
    let header = HeaderRepr::parse(&header);
    let head = caplane_wire::HEADER_LEN + usize::from(header.extension_len);
    Message {
        header,
        payload: bytes[head..].to_vec(),
        carrier,
    }
}
