//! What a client is told before it attaches. Every limit with its unit and the reason for its default.

use std::time::Duration;

use bytes::Bytes;
use caplane_transport::Credentials;

use crate::error::AttachError;
use crate::protocol::{Jitter, ResendBounds};

/// How much the application may leave unread before the client stops reading from the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveLimits {
    /// Messages in the application's queue. Default 16,384: at 64 bytes each that is 1 MiB of payload, 5 ms at 3 M/s.
    pub messages_max: usize,
    /// Payload bytes in the application's queue. Default 64 MiB: four bulk messages of the largest size.
    pub bytes_max: usize,
    /// Bytes of bulk messages under assembly; a stream that would pass it waits. Default 64 MiB.
    pub assembly_bytes_max: usize,
    /// Flows of others whose last 1,024 sequences are remembered, about 200 bytes each. Default 65,536 (13 MiB).
    pub flows_max: usize,
}

impl Default for ReceiveLimits {
    fn default() -> Self {
        Self {
            messages_max: 16_384,
            bytes_max: 64 << 20,
            assembly_bytes_max: 64 << 20,
            flows_max: 65_536,
        }
    }
}

/// Everything a client needs to know. Made by [`ClientConfig::new`], then adjusted field by field.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Routers to attach to as "host:port", tried in turn.
    pub routers: Vec<String>,
    /// Who this agent is and whom it trusts.
    pub credentials: Credentials,
    /// What the certificate URI of a router must begin with, such as `spiffe://example.org/router/`. `None` (the
    /// default): any certificate that the trust bundle accepts for a server.
    pub router_uri_prefix: Option<String>,
    /// Name of this instance: 1 to 64 bytes of `[A-Za-z0-9._-]`, one per process. The same name gets the same instance
    /// label back where it is free. Default: random, the same for the life of the client.
    pub instance_name: String,
    /// Agent card (A2A JSON, as it is) offered for registration; may be empty. At most 64 KiB.
    pub agent_card: Bytes,
    /// Program and version, for the operator's eye. At most 64 bytes.
    pub software: String,
    /// Bounds on what waits for the application.
    pub receive: ReceiveLimits,
    /// Bytes of messages submitted and not settled (or, for those nobody waits for, not handed to the transport); beyond,
    /// sending waits. Default 64 MiB.
    pub send_buffer_bytes: usize,
    /// How long `attach` tries before it fails. Default 15 s: three rounds of a handshake timeout.
    pub attach_timeout: Duration,
    /// First wait before coming back to a lost router, doubled each time and shortened by up to half at random.
    /// Default 100 ms.
    pub reconnect_first: Duration,
    /// Longest wait between attempts to come back. Default 10 s (WF-101).
    pub reconnect_longest: Duration,
    /// Lanes for each traffic class, 1 to 7; receipts have one more, and a
    /// writer should open no more than eight (WF-64). Flows are spread over them; a lost packet holds up one lane only. Default 4.
    pub lanes_per_class: usize,
    /// Bulk streams sent at a time. Default 16: enough for the flows of one agent, few beside the peer's stream limit.
    pub bulk_streams_max: usize,
    /// Longest bulk message taken, header and extensions included (bytes). Default 16 MiB (SPEC.md).
    pub bulk_message_max: usize,
    /// Wait for a first receipt before sending again, while nothing is known of the flow's round trip. Default 1 s (RFC 6298).
    pub resend_initial: Duration,
    /// The connection ends after this long without a word, or after the router's time, if that is shorter. Default 15 s. A keepalive is
    /// sent after half of it, and a router that does not answer one within 0.9 s is given up: so a client that only listens
    /// notices a router's sudden death after 8.4 s at the latest, one that sends after 0.9 s. Shorter costs routers more: an idle
    /// client is one packet each way every half of this (10,000 of them by the default: under 2 % of a core).
    pub idle_timeout: Duration,
    /// How long `close` waits for messages under way. Default 5 s.
    pub linger: Duration,
}

impl ClientConfig {
    /// [`ClientConfig::idle_timeout`] unless told otherwise.
    pub const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

    /// Defaults for these routers and this identity.
    #[must_use]
    pub fn new<R: Into<String>>(
        routers: impl IntoIterator<Item = R>,
        credentials: Credentials,
    ) -> Self {
        Self {
            routers: routers.into_iter().map(Into::into).collect(),
            credentials,
            router_uri_prefix: None,
            instance_name: format!("i-{:016x}", Jitter::from_system().next()),
            agent_card: Bytes::new(),
            software: concat!("caplane-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            receive: ReceiveLimits::default(),
            send_buffer_bytes: 64 << 20,
            attach_timeout: Duration::from_secs(15),
            reconnect_first: Duration::from_millis(100),
            reconnect_longest: Duration::from_secs(10),
            lanes_per_class: 4,
            bulk_streams_max: 16,
            bulk_message_max: caplane_wire::BULK_MESSAGE_MAX_DEFAULT,
            resend_initial: Duration::from_secs(1),
            idle_timeout: Self::IDLE_TIMEOUT,
            linger: Duration::from_secs(5),
        }
    }

    /// The same under another instance name.
    #[must_use]
    pub fn instance_name(mut self, name: impl Into<String>) -> Self {
        self.instance_name = name.into();
        self
    }

    pub(crate) fn resend_bounds(&self) -> ResendBounds {
        ResendBounds {
            initial: self.resend_initial,
            least: ResendBounds::default().least.min(self.resend_initial),
            ..ResendBounds::default()
        }
    }

    /// Looks at every value once, before anything is started.
    pub(crate) fn check(&self) -> Result<(), AttachError> {
        let wrong = |text: String| Err(AttachError::Config(text));
        if self.routers.is_empty() {
            return wrong("no router is given; name at least one as \"host:port\"".into());
        }
        for router in &self.routers {
            let port = router.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
            if !matches!(port, Some(Ok(1..))) {
                return wrong(format!("router {router:?} is not \"host:port\""));
            }
        }
        let named = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let name = self.instance_name.as_bytes();
        if !(1..=64).contains(&name.len()) || !name.iter().copied().all(named) {
            return wrong(format!(
                "instance name {:?} is not 1 to 64 bytes of [A-Za-z0-9._-]",
                self.instance_name
            ));
        }
        if self.agent_card.len() > 64 << 10 {
            return wrong(format!(
                "the agent card of {} bytes is past the 65,536 that Hello takes",
                self.agent_card.len()
            ));
        }
        if self.software.len() > 64 {
            return wrong("the software name is longer than 64 bytes".into());
        }
        if !(1..=7).contains(&self.lanes_per_class) {
            return wrong(format!(
                "lanes_per_class is 1 to 7, not {}",
                self.lanes_per_class
            ));
        }
        let sizes = [
            ("send_buffer_bytes", self.send_buffer_bytes),
            ("bulk_message_max", self.bulk_message_max),
            ("receive.bytes_max", self.receive.bytes_max),
            (
                "receive.assembly_bytes_max",
                self.receive.assembly_bytes_max,
            ),
        ];
        for (name, value) in sizes {
            if !(caplane_wire::LANE_MESSAGE_MAX..=1 << 31).contains(&value) {
                return wrong(format!("{name} is 65,536 to 2^31 bytes, not {value}"));
            }
        }
        let counts = [
            ("receive.messages_max", self.receive.messages_max),
            ("receive.flows_max", self.receive.flows_max),
            ("bulk_streams_max", self.bulk_streams_max),
        ];
        for (name, value) in counts {
            if value == 0 {
                return wrong(format!("{name} is at least 1"));
            }
        }
        Ok(())
    }
}
