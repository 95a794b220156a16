//! One flow as its sender keeps it: what waits for a number, what waits for a receipt, what waits for a reply, and where
//! the flow is pinned. Knows nothing of other flows.

use std::collections::VecDeque;
use std::time::Duration;

use caplane_wire::LabelKind;

use super::outstanding::{Outstanding, Phase};
use super::queues::{Queue, Queues, Waiting};
use super::receipts::{Due, LaneStates, Place, Receipts, Turn};
use super::rtt::ResendBounds;
use super::window::SendWindow;
use super::{Address, Message, Mode, Now};
use crate::address::Destination;
use crate::options::{Carrier, FlowOptions};

#[derive(Debug)]
pub(crate) struct FlowState<T> {
    pub(crate) id: u64,
    pub(crate) destination: Destination,
    pub(crate) options: FlowOptions,
    pub(crate) window: SendWindow<Outstanding<T>>,
    pub(crate) pending: VecDeque<Message<T>>,
    pub(crate) pending_bulk: VecDeque<Message<T>>,
    /// The bulk message that is not known to have arrived: the next one waits for it, since two streams do not keep order.
    pub(crate) bulk: Option<u32>,
    pub(crate) pin: Option<Address>,
    /// Policy allows the class and not its members by name: never pin again.
    pub(crate) pin_refused: bool,
    /// What receipts tell of messages on the flow's lane, or of its datagrams.
    pub(crate) receipts: Receipts,
    /// The same of its bulk messages: they take longer.
    pub(crate) bulk_receipts: Receipts,
    /// The earliest entry of this flow in the messenger's timers.
    pub(crate) armed: Option<Duration>,
    /// Loose messages in queues.
    pub(crate) loose: usize,
    pub(crate) open: bool,
}

impl<T> FlowState<T> {
    pub(crate) fn new(id: u64, destination: Destination, options: FlowOptions) -> Self {
        Self {
            id,
            destination,
            options,
            window: SendWindow::new(0),
            pending: VecDeque::new(),
            pending_bulk: VecDeque::new(),
            bulk: None,
            pin: None,
            pin_refused: false,
            receipts: Receipts::default(),
            bulk_receipts: Receipts::default(),
            armed: None,
            loose: 0,
            open: true,
        }
    }

    /// Where the next message goes.
    pub(crate) fn target(&self) -> Address {
        self.pin.unwrap_or(Address {
            domain: self.destination.domain,
            label: self.destination.label,
        })
    }

    /// Tenant of the next message: part of a class's name and of nothing else (WF-27).
    pub(crate) fn tenant(&self) -> u32 {
        match self.target().label.kind() {
            LabelKind::Class => self.destination.tenant,
            _ => 0,
        }
    }

    /// Holds on to the instance that answered, when the flow wants that and it is not decided already.
    pub(crate) fn pin_to(&mut self, answered_by: Address) {
        if self.pin.is_none()
            && !self.pin_refused
            && self.options.affinity
            && self.destination.is_anycast()
        {
            self.pin = Some(answered_by);
        }
    }

    /// Puts a message behind those that wait for a number.
    pub(crate) fn accept(&mut self, message: Message<T>) {
        if self.is_bulk(&message) {
            self.pending_bulk.push_back(message);
        } else {
            self.pending.push_back(message);
        }
    }

    fn is_bulk(&self, message: &Message<T>) -> bool {
        self.options.carrier == Carrier::Stream
            && message.total_len() > caplane_wire::LANE_MESSAGE_MAX
    }

    /// Numbers what the window has room for and puts it into its queue.
    pub(crate) fn admit(&mut self, queues: &mut Queues<T>) {
        let window = usize::from(self.options.window);
        if self.bulk.is_none()
            && self.window.span() < window
            && let Some(message) = self.pending_bulk.pop_front()
        {
            self.bulk = Some(self.track(message, Queue::Bulk, queues));
        }
        if self.pending.is_empty() {
            return;
        }
        let queue = match self.options.carrier {
            Carrier::Datagram => Queue::Datagram,
            Carrier::Stream => queues.lane_of(self.options.class, self.id),
        };
        while self.window.span() < window
            && let Some(message) = self.pending.pop_front()
        {
            if message.mode == Mode::Forget {
                let sequence = self.window.skip();
                self.loose += 1;
                queues.push(
                    queue,
                    Waiting::Loose {
                        flow: self.id,
                        sequence,
                        message,
                    },
                );
            } else {
                self.track(message, queue, queues);
            }
        }
    }

    fn track(&mut self, message: Message<T>, queue: Queue, queues: &mut Queues<T>) -> u32 {
        let sequence = self
            .window
            .push(Outstanding::new(message, queue, self.options.class));
        queues.push(
            queue,
            Waiting::Flow {
                flow: self.id,
                sequence,
            },
        );
        sequence
    }

    /// Takes a message out of the window.
    pub(crate) fn settle(&mut self, sequence: u32) -> Option<Outstanding<T>> {
        let settled = self.window.settle(sequence)?;
        if self.bulk == Some(sequence) {
            self.bulk = None;
        }
        Some(settled)
    }

    /// The receipts of one kind of carrier.
    pub(crate) fn receipts_of(&mut self, queue: Queue) -> &mut Receipts {
        match queue {
            Queue::Bulk => &mut self.bulk_receipts,
            Queue::Lane(_) | Queue::Datagram => &mut self.receipts,
        }
    }

    /// Looks at everything unsettled: names what is due to `found`, and answers when to look again.
    pub(crate) fn look(
        &self,
        now: Now,
        lanes: &LaneStates,
        bounds: &ResendBounds,
        found: &mut Found,
    ) -> Option<Duration> {
        let pending = self.pending.iter().chain(&self.pending_bulk);
        let mut next = pending.map(|message| message.deadline).min();
        let ordered = self.options.affinity && self.options.carrier == Carrier::Stream;
        let mut place = if ordered { Place::Oldest } else { Place::Loose };
        for (sequence, out) in self.window.iter() {
            let mut again = out.message.deadline;
            let due = self.due(now, out, place, lanes, bounds);
            if place == Place::Oldest && out.is_under_way() && out.queue != Queue::Bulk {
                place = Place::Behind;
            }
            let resend = due.filter(|due| due.at <= now.mono);
            if out.message.deadline <= now.mono || (resend.is_some() && out.paces_only()) {
                found.expired.push(sequence);
                continue;
            }
            match (resend, due) {
                (Some(due), _) => found.resend.push((sequence, due.timeout)),
                (None, Some(due)) => again = again.min(due.at),
                (None, None) => {}
            }
            next = Some(next.map_or(again, |next| next.min(again)));
        }
        next
    }

    /// When a message is due to be sent again.
    fn due(
        &self,
        now: Now,
        out: &Outstanding<T>,
        place: Place,
        lanes: &LaneStates,
        bounds: &ResendBounds,
    ) -> Option<Due> {
        let Phase::Sent { at } = out.phase else {
            return None;
        };
        let mut turn = Turn {
            order: out.order,
            attempts: out.attempts,
            at: lanes.left(out.queue, at, now.mono),
            place,
            patience: out.patience,
        };
        if out.queue == Queue::Bulk {
            turn.place = Place::Oldest; // there is one at a time
            return self.bulk_receipts.due(&turn, &bounds.for_bulk());
        }
        self.receipts.due(&turn, bounds)
    }

    /// When to look because a receipt has passed the oldest message by.
    pub(crate) fn passed_by(&self, bounds: &ResendBounds) -> Option<Duration> {
        let oldest = self.window.iter().next().map(|(_, out)| out)?;
        match oldest.phase {
            Phase::Sent { at } if self.receipts.passed(oldest.order) => {
                Some(at + self.receipts.wait(oldest.attempts, bounds))
            }
            _ => None,
        }
    }

    /// Whether nothing is left that would need this flow remembered.
    pub(crate) fn is_over(&self) -> bool {
        !self.open
            && self.loose == 0
            && self.window.is_empty()
            && self.pending.is_empty()
            && self.pending_bulk.is_empty()
    }

    /// Whether something is not settled.
    pub(crate) fn is_busy(&self) -> bool {
        self.loose > 0
            || !self.window.is_empty()
            || !self.pending.is_empty()
            || !self.pending_bulk.is_empty()
    }
}

/// What a look at a flow found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Their time is over.
    pub(crate) expired: Vec<u32>,
    /// To be sent again; whether the timer of its carrier fired with it.
    pub(crate) resend: Vec<(u32, bool)>,
}
