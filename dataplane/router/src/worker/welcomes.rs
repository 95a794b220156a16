//! When an instance hears `Welcome`: once the tables name it, so that the reply to its first message finds the way back.
//!
//! An attachment is reported to the controller, which pushes the instance's route to every router; this router's own copy
//! arriving is the sign that the others' are on their way. A controller that is away or slow costs [`PATIENCE`] at most.

use std::collections::VecDeque;
use std::time::Duration;

use caplane_transport::PeerId;
use caplane_wire::Label;

use super::Worker;

/// A controller answers within one disk write and two trips, some 10 ms; past this the instance begins without a route back.
const PATIENCE: Duration = Duration::from_millis(250);

/// Attached instances that have not heard `Welcome`, in order of attachment.
#[derive(Debug, Default)]
pub(super) struct Welcomes {
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    id: PeerId,
    label: Label,
    until: Duration,
}

impl Welcomes {
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.waiting.front().map(|waiting| waiting.until)
    }
}

impl Worker {
    /// Welcomes an instance as soon as its route is known.
    pub(super) fn welcome_when_routed(&mut self, id: PeerId, label: Label) {
        if self.shared.is_stale() || self.routed_here(label) {
            self.welcome_instance(id, label);
            return;
        }
        let until = self.now.mono + PATIENCE;
        self.welcomes
            .waiting
            .push_back(Waiting { id, label, until });
    }

    /// A new table is in force: whoever it names is welcome.
    pub(super) fn welcome_routed(&mut self) {
        for waiting in std::mem::take(&mut self.welcomes.waiting) {
            if self.routed_here(waiting.label) {
                self.welcome_instance(waiting.id, waiting.label);
            } else {
                self.welcomes.waiting.push_back(waiting);
            }
        }
    }

    /// Whoever waited long enough is welcome without a route.
    pub(super) fn welcome_overdue(&mut self) {
        while let Some(waiting) = self.welcomes.waiting.front()
            && waiting.until <= self.now.mono
        {
            let (id, label) = (waiting.id, waiting.label);
            self.welcomes.waiting.pop_front();
            tracing::info!(event = "route_not_live_yet", %label, "welcomed all the same");
            self.welcome_instance(id, label);
        }
    }

    fn routed_here(&self, label: Label) -> bool {
        let fib = self.forwarder.fib();
        fib.agent(label).is_some_and(|agent| {
            let mut instances = agent.instances.iter();
            instances.any(|at| at.instance == label.instance() && at.router == fib.router())
        })
    }
}
