//! Taking a seat: a connection to a router, and the label it gives us.

use super::Plan;
use super::window::Window;
use caplane_proto::v1;
use caplane_proto::v1::control_frame::Frame;
use caplane_transport::{
    Credentials, Endpoint, EndpointConfig, EndpointError, Event, PeerId, RefuseReason,
};
use caplane_wire::{Flags, HeaderRepr, Kind, Label};
use prost::Message;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

/// A router that stands still for a while is to be measured, not given up as by default.
const SILENCE: Duration = Duration::from_secs(5);
/// A handshake takes a millisecond; this is for a machine that is busy building.
const ATTACH_PATIENCE: Duration = Duration::from_secs(20);

/// Hops a message may take: more than any fabric measured here has.
const HOP_LIMIT: u8 = 16;

/// An attached instance.
pub struct Seat {
    /// The endpoint, with one connection.
    pub endpoint: Endpoint,
    /// The router.
    pub peer: PeerId,
    /// Our label, with the instance number.
    pub label: Label,
    /// Our domain.
    pub domain: u32,
    /// What lanes brought before the label was known: a router serves an instance from the moment it lets it in.
    early: Vec<Event>,
}

/// Why an instance could not attach.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The endpoint could not be made.
    #[error("attaching to {0}: {1}")]
    Endpoint(SocketAddr, EndpointError),
    /// The socket failed.
    #[error("attaching to {0}: {1}")]
    Io(SocketAddr, std::io::Error),
    /// The handshake was refused.
    #[error("attaching to {0}: {1}")]
    Refused(SocketAddr, RefuseReason),
    /// The router closed the connection.
    #[error("attaching to {address}: closed with code {code}: {reason}")]
    Closed {
        /// The router.
        address: SocketAddr,
        /// `ByeCode` or a transport error code.
        code: u64,
        /// In words.
        reason: String,
    },
    /// The router's answer was not `Welcome`.
    #[error("attaching to {0}: {1}")]
    Protocol(SocketAddr, String),
    /// No answer came in time.
    #[error("attaching to {0}: no Welcome within {1:?}")]
    Deadline(SocketAddr, Duration),
}

/// An endpoint that only dials, on a free port of the right family.
pub(super) fn dialling(
    to: SocketAddr,
    credentials: Credentials,
    udp_payload_max: usize,
) -> Result<Endpoint, EndpointError> {
    dialling_with(to, credentials, |config| {
        config.udp_payload_max = udp_payload_max;
    })
}

/// The same with more to say about it.
pub(super) fn dialling_with(
    to: SocketAddr,
    credentials: Credentials,
    adjust: impl FnOnce(&mut EndpointConfig),
) -> Result<Endpoint, EndpointError> {
    let any: IpAddr = if to.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let mut config = EndpointConfig::new((any, 0).into(), credentials);
    config.accept = false;
    config.exact_waits = true;
    config.silence = Some(SILENCE);
    adjust(&mut config);
    Endpoint::bind(config)
}

/// The first control frame of an instance of this name.
pub(super) fn hello(instance_name: &str) -> Vec<u8> {
    v1::ControlFrame {
        frame: Some(Frame::Hello(v1::Hello {
            instance_name: instance_name.to_owned(),
            role: v1::Role::Instance.into(),
            software: concat!("caplane-load ", env!("CARGO_PKG_VERSION")).to_owned(),
            ..v1::Hello::default()
        })),
    }
    .encode_to_vec()
}

impl Seat {
    /// The header of a message of a plan to `label`, without flow and sequence.
    pub fn header(&self, plan: &Plan, label: Label, payload: usize) -> HeaderRepr {
        HeaderRepr {
            kind: Kind::Data,
            class: plan.class,
            hop_limit: HOP_LIMIT,
            flags: Flags::AFFINITY,
            label,
            tenant: plan.tenant,
            source_label: self.label,
            source_domain: self.domain,
            payload_len: payload as u32,
            requested_label: label,
            ..HeaderRepr::default()
        }
    }

    /// Attaches to a router as an instance of the certificate's agent.
    ///
    /// # Errors
    /// [`AttachError`] says which step failed.
    pub fn attach(
        router: SocketAddr,
        credentials: Credentials,
        instance_name: &str,
        udp_payload_max: usize,
    ) -> Result<Seat, AttachError> {
        let failed = |e| AttachError::Endpoint(router, e);
        let mut endpoint = dialling(router, credentials, udp_payload_max).map_err(failed)?;
        let peer = endpoint.connect(router, None).map_err(failed)?;
        let hello = hello(instance_name);
        let (mut welcome, mut early) = (None, Vec::new());
        pump(&mut endpoint, router, |endpoint, event| match event {
            Event::Connected { .. } => {
                endpoint
                    .send_control(peer, &hello)
                    .map_err(|e| AttachError::Protocol(router, format!("sending Hello: {e}")))?;
                Ok(false)
            }
            Event::Control { message, .. } => {
                welcome = Some(read_welcome(router, &message)?);
                Ok(true)
            }
            event @ Event::Lane { .. } => {
                early.push(event);
                Ok(false)
            }
            _ => Ok(false),
        })?;
        let welcome =
            welcome.ok_or_else(|| AttachError::Protocol(router, "no Welcome".to_owned()))?;
        Ok(Seat {
            endpoint,
            peer,
            label: Label::from_bits(welcome.label),
            domain: welcome.domain,
            early,
        })
    }

    /// Connects to a receiver without a router between, for the self-test.
    ///
    /// # Errors
    /// [`AttachError`] says which step failed.
    pub fn direct(
        receiver: SocketAddr,
        credentials: Credentials,
        udp_payload_max: usize,
    ) -> Result<Seat, AttachError> {
        let failed = |e| AttachError::Endpoint(receiver, e);
        let mut endpoint = dialling(receiver, credentials, udp_payload_max).map_err(failed)?;
        let peer = endpoint.connect(receiver, None).map_err(failed)?;
        pump(&mut endpoint, receiver, |_, event| {
            Ok(matches!(event, Event::Connected { .. }))
        })?;
        Ok(Seat {
            endpoint,
            peer,
            label: Label::NONE,
            domain: 0,
            early: Vec::new(),
        })
    }

    /// What came with the welcome, to be treated as any other event; each lane in it is not read before it is given back.
    pub fn take_early(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.early)
    }

    /// Gives back unread what came with the welcome: it is read when more comes.
    pub(super) fn put_back_early(&mut self) {
        for event in self.take_early() {
            if let Event::Lane {
                peer, lane, data, ..
            } = event
            {
                self.endpoint.lane_rest(peer, lane, data);
            }
        }
    }

    /// Says goodbye and waits until that has left.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn leave(mut self) -> std::io::Result<()> {
        self.endpoint.close(self.peer, 0, "leaving");
        self.endpoint.flush(Instant::now())
    }

    /// Keeps the connection alive until the run begins; false when it was called off.
    ///
    /// # Errors
    /// When the socket fails.
    pub(super) fn wait_for_start(&mut self, window: &Window) -> std::io::Result<bool> {
        window.seat();
        while window.start().is_none() {
            if window.stopped() {
                return Ok(false);
            }
            let now = Instant::now();
            self.endpoint.receive(now)?;
            while let Some(event) = self.endpoint.next_event() {
                if let Event::Lane {
                    peer, lane, data, ..
                } = event
                {
                    self.endpoint.lane_rest(peer, lane, data);
                }
            }
            self.endpoint.flush(now)?;
            self.endpoint.wait(Some(Duration::from_millis(1)))?;
        }
        Ok(true)
    }
}

/// Runs the endpoint until `step` says it is done, the connection ends or time is up.
fn pump(
    endpoint: &mut Endpoint,
    address: SocketAddr,
    mut step: impl FnMut(&mut Endpoint, Event) -> Result<bool, AttachError>,
) -> Result<(), AttachError> {
    let failed = |e| AttachError::Io(address, e);
    let deadline = Instant::now() + ATTACH_PATIENCE;
    loop {
        let now = Instant::now();
        if now >= deadline {
            return Err(AttachError::Deadline(address, ATTACH_PATIENCE));
        }
        endpoint.receive(now).map_err(failed)?;
        while let Some(event) = endpoint.next_event() {
            match event {
                Event::Refused { reason, .. } => return Err(AttachError::Refused(address, reason)),
                Event::Closed { code, reason, .. } => {
                    return Err(AttachError::Closed {
                        address,
                        code,
                        reason,
                    });
                }
                event => {
                    if step(endpoint, event)? {
                        return endpoint.flush(now).map_err(failed);
                    }
                }
            }
        }
        endpoint.flush(now).map_err(failed)?;
        endpoint
            .wait(Some(Duration::from_millis(50)))
            .map_err(failed)?;
    }
}

pub(super) fn read_welcome(router: SocketAddr, message: &[u8]) -> Result<v1::Welcome, AttachError> {
    let wrong = |text: String| AttachError::Protocol(router, text);
    let frame = v1::ControlFrame::decode(message).map_err(|e| wrong(e.to_string()))?;
    match frame.frame {
        Some(Frame::Welcome(welcome)) => Ok(welcome),
        Some(Frame::Bye(bye)) => Err(wrong(format!("refused: {:?}: {}", bye.code(), bye.reason))),
        other => Err(wrong(format!("instead of Welcome came {other:?}"))),
    }
}
