//! One connection to one router, from dialling to leaving, and the frames of its control stream.

use std::time::Duration;

use caplane_proto::v1::control_frame::Frame;
use caplane_proto::v1::{Bye, ByeCode, ControlFrame, Hello, Role, Welcome};
use caplane_transport::{Endpoint, PeerId, SendError};
use caplane_wire::{BULK_MESSAGE_MAX_DEFAULT, CloseCode, Label, TrafficClass};
use prost::Message as _;

use super::reader::Reader;
use super::writer::Writer;
use crate::address::Address;
use crate::config::ClientConfig;
use crate::event::Attachment;

/// How far the connection has come. Times are since the process's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The handshake is under way; the transport bounds it.
    Dialling,
    /// `Hello` is sent; `Welcome` must come by then.
    Greeting { by: Duration },
    /// This is where messages are sent.
    Attached,
    /// Another link took over; this one is read until what was sent on it is settled, or then.
    Leaving { by: Duration },
    /// `Bye` is said; closed once that is acknowledged, or then.
    Parting { by: Duration },
}

pub(crate) struct Link {
    pub(crate) peer: PeerId,
    /// Index into the configuration's routers.
    pub(crate) router: usize,
    pub(crate) stage: Stage,
    /// Number of the attachment, from 1; 0 before.
    pub(crate) epoch: u32,
    pub(crate) writer: Writer,
    pub(crate) reader: Reader,
    /// The router asked us to leave.
    pub(crate) drain: Option<Duration>,
}

/// A router must answer `Hello` within this time: as long as it waits for ours (WF-111).
pub(crate) const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a `Bye` may wait for its acknowledgement: several round trips of any path worth using.
pub(crate) const BYE_TIMEOUT: Duration = Duration::from_millis(500);

impl Link {
    pub(crate) fn new(peer: PeerId, router: usize, lanes: usize, config: &ClientConfig) -> Self {
        Self {
            peer,
            router,
            stage: Stage::Dialling,
            epoch: 0,
            writer: Writer::new(peer, lanes, config.bulk_streams_max),
            reader: Reader::new(
                peer,
                config.receive.assembly_bytes_max,
                config.bulk_message_max,
            ),
            drain: None,
        }
    }

    /// Whether an attachment was granted on this link.
    pub(crate) fn is_attached(&self) -> bool {
        matches!(
            self.stage,
            Stage::Attached | Stage::Leaving { .. } | Stage::Parting { .. }
        )
    }

    pub(crate) fn say_hello(
        &mut self,
        now: Duration,
        config: &ClientConfig,
        endpoint: &mut Endpoint,
    ) {
        self.stage = Stage::Greeting {
            by: now + WELCOME_TIMEOUT,
        };
        let hello = Hello {
            instance_name: config.instance_name.clone(),
            role: Role::Instance.into(),
            agent_card: config.agent_card.to_vec(),
            receive_window: config.receive.bytes_max as u64,
            software: config.software.clone(),
            worker: 0,
        };
        if let Err(error) = self.say(Frame::Hello(hello), endpoint) {
            tracing::warn!(event = "hello_unsent", %error, "the connection is closed");
            endpoint.close(self.peer, CloseCode::Protocol.number(), "Hello not sent");
        }
    }

    /// Puts a frame on the control stream.
    pub(crate) fn say(&self, frame: Frame, endpoint: &mut Endpoint) -> Result<(), SendError> {
        let frame = ControlFrame { frame: Some(frame) };
        endpoint.send_control(self.peer, &frame.encode_to_vec())
    }

    /// Says goodbye; the caller closes once that is acknowledged.
    pub(crate) fn say_bye(&self, reason: &str, endpoint: &mut Endpoint) {
        let bye = Bye {
            code: ByeCode::Normal.into(),
            reason: reason.to_owned(),
        };
        // When even this finds no room the close that follows says as much.
        let _ = self.say(Frame::Bye(bye), endpoint);
    }
}

/// What a `Welcome` grants, or the rule that it breaks.
pub(crate) fn granted(welcome: &Welcome, router: &str) -> Result<Attachment, &'static str> {
    let label = Label::from_bits(welcome.label);
    if !label.is_instance() {
        return Err("Welcome gives a label that names no instance");
    }
    let limits = welcome.limits.unwrap_or_default();
    let or = |value: u64, default: usize| match value {
        0 => default,
        value => usize::try_from(value).unwrap_or(usize::MAX),
    };
    Ok(Attachment {
        address: Address {
            domain: welcome.domain,
            label,
        },
        tenant: welcome.tenant,
        router: router.to_owned(),
        router_name: welcome.router_name.clone(),
        router_label: Label::from_bits(welcome.router),
        generation: welcome.generation,
        stale: welcome.stale,
        bulk_message_max: or(limits.bulk_message_bytes, BULK_MESSAGE_MAX_DEFAULT),
        priority_max: limits
            .priority_max
            .min(u32::from(TrafficClass::PRIORITY_MAX)) as u8,
    })
}

/// Whether a router that closed with this code should not be bothered again (WF-101).
pub(crate) fn is_final(code: CloseCode) -> bool {
    match code {
        CloseCode::NotAllowed
        | CloseCode::Protocol
        | CloseCode::Withdrawn
        | CloseCode::Replaced => true,
        CloseCode::Normal
        | CloseCode::Drained
        | CloseCode::UnknownIdentity
        | CloseCode::InstanceLimit
        | CloseCode::InstanceConflict
        | CloseCode::Overloaded => false,
    }
}
