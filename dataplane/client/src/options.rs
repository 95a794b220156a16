//! How a flow's messages travel. Plain values with their ranges; refuses to know flows.

use std::time::Duration;

use caplane_wire::{CongestionAction, Flags, TrafficClass};

/// What carries a message to the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Carrier {
    /// A lane for messages of at most 64 KiB in all, a bulk stream for longer ones.
    #[default]
    Stream,
    /// One QUIC datagram each: no retransmission below the client, and no longer than one packet of the path.
    Datagram,
}

/// Options of one flow. Made by `FlowOptions::default()` and adjusted method by method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowOptions {
    pub(crate) class: TrafficClass,
    pub(crate) carrier: Carrier,
    pub(crate) affinity: bool,
    pub(crate) window: u16,
    pub(crate) receipt_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) deadline: bool,
}

/// Most sequences a flow may run ahead of its oldest unsettled message: one less than the receiver remembers, so a resend
/// is always inside the receiver's window (SPEC.md, "Receipts").
pub(crate) const WINDOW_MAX: u16 = caplane_wire::DEDUPLICATION_WINDOW as u16 - 1;

impl Default for FlowOptions {
    /// Priority 3, blocking, over streams, with affinity, window 1,023, 30 s for a receipt and for a reply, no deadline
    /// extension.
    fn default() -> Self {
        Self {
            class: TrafficClass::new(3, CongestionAction::Block),
            carrier: Carrier::Stream,
            affinity: true,
            window: WINDOW_MAX,
            receipt_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(30),
            deadline: false,
        }
    }
}

impl FlowOptions {
    /// Priority of the flow's messages, 0 (least urgent) to 7. The ingress router lowers it to what the identity may use.
    ///
    /// # Panics
    /// When `priority` is above 7.
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        self.class = TrafficClass::new(priority, self.class.congestion_action());
        self
    }

    /// What happens when the ingress router has no room: `Block` holds this flow's lane back (the default), `Drop` drops
    /// the message and sends a notice.
    #[must_use]
    pub fn congestion(mut self, action: CongestionAction) -> Self {
        self.class = TrafficClass::new(self.class.priority(), action);
        self
    }

    /// What carries the messages.
    #[must_use]
    pub fn carrier(mut self, carrier: Carrier) -> Self {
        self.carrier = carrier;
        self
    }

    /// With affinity (the default) every message of the flow goes to one member of a class while it lives, and the flow
    /// is pinned to the instance that answers first. Without, members are chosen message by message.
    #[must_use]
    pub fn affinity(mut self, affinity: bool) -> Self {
        self.affinity = affinity;
        self
    }

    /// How many messages the flow may run ahead of its oldest unsettled one, 1 to 1,023. With 1 each receipted message
    /// waits for the one before it: order then holds across resends too, at the price of one round trip a message.
    ///
    /// # Panics
    /// When `window` is 0 or above 1,023.
    #[must_use]
    pub fn window(mut self, window: u16) -> Self {
        assert!(
            (1..=WINDOW_MAX).contains(&window),
            "a flow's window is 1 to {WINDOW_MAX}, not {window}"
        );
        self.window = window;
        self
    }

    /// How long a message is resent before its receipt is given up.
    #[must_use]
    pub fn receipt_timeout(mut self, timeout: Duration) -> Self {
        self.receipt_timeout = timeout;
        self
    }

    /// How long a request waits for its reply.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// Also writes the deadline into each message (8 bytes and 3 of head), so that routers and the receiver drop it once
    /// nobody waits for it any more. Needs clocks that agree better than the timeouts are long.
    #[must_use]
    pub fn deadline(mut self, on_the_wire: bool) -> Self {
        self.deadline = on_the_wire;
        self
    }

    pub(crate) fn flags(&self) -> Flags {
        if self.affinity {
            Flags::AFFINITY
        } else {
            Flags::NONE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_keeps_both_halves() {
        let options = FlowOptions::default()
            .congestion(CongestionAction::Drop)
            .priority(6);
        assert_eq!(options.class, TrafficClass::new(6, CongestionAction::Drop));
    }

    #[test]
    #[should_panic(expected = "a flow's window is 1 to 1023, not 1024")]
    fn a_window_past_the_receivers_memory_is_a_mistake() {
        let _ = FlowOptions::default().window(1024);
    }
}
