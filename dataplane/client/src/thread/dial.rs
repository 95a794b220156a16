//! Which router to try, and when. Sans-IO: it is told what happened and answers what to do; it refuses to know sockets,
//! names' lookups and what an attachment is.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use crate::protocol::{Backoff, Jitter};

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Find the addresses of this router, then tell `addresses`.
    LookUp(usize),
    /// Dial this address of this router, then tell `failed` or `succeeded`.
    Dial(usize, SocketAddr),
    /// Nothing before this time (since the process's start); `None`: nothing at all.
    Wait(Option<Duration>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Not looking for a router.
    Idle,
    /// Looking from this time on.
    Due(Duration),
    LookingUp(usize),
    /// These addresses of the router are left to try.
    Ready(usize, VecDeque<SocketAddr>),
    Trying(usize, VecDeque<SocketAddr>),
}

/// Goes through the routers in turn; after a round in which all failed it waits, ever longer.
#[derive(Debug)]
pub(crate) struct Dialer {
    routers: usize,
    next: usize,
    /// The router that asked us to leave: not tried while there is another.
    avoid: Option<usize>,
    failed_in_a_row: usize,
    backoff: Backoff,
    jitter: Jitter,
    state: State,
}

impl Dialer {
    /// # Panics
    /// When there is no router: the configuration was checked.
    pub(crate) fn new(routers: usize, backoff: Backoff, jitter: Jitter) -> Self {
        assert!(routers > 0, "a configuration names at least one router");
        Self {
            routers,
            next: 0,
            avoid: None,
            failed_in_a_row: 0,
            backoff,
            jitter,
            state: State::Idle,
        }
    }

    /// Whether it is looking for a router.
    pub(crate) fn is_looking(&self) -> bool {
        self.state != State::Idle
    }

    /// Looks for a router from now on, if it does not already.
    pub(crate) fn look(&mut self, now: Duration) {
        if self.state == State::Idle {
            self.state = State::Due(now);
        }
    }

    /// Looks for a router after a wait that grows from call to call until `succeeded`. Answers the wait.
    pub(crate) fn look_later(&mut self, now: Duration) -> Duration {
        let wait = self.backoff.next(&mut self.jitter);
        if self.state == State::Idle {
            self.state = State::Due(now + wait);
        }
        wait
    }

    /// Begins with another router than this one.
    pub(crate) fn leave(&mut self, router: usize) {
        self.avoid = Some(router);
        self.next = (router + 1) % self.routers;
    }

    /// Whether there is another router than this one.
    pub(crate) fn has_other(&self, router: usize) -> bool {
        self.routers > 1 && router < self.routers
    }

    /// What to do now. A `LookUp` or `Dial` is answered once.
    pub(crate) fn step(&mut self, now: Duration) -> Step {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle => Step::Wait(None),
            State::Due(at) if at > now => {
                self.state = State::Due(at);
                Step::Wait(Some(at))
            }
            State::Due(_) => {
                if self.avoid == Some(self.next) && self.routers > 1 {
                    self.next = (self.next + 1) % self.routers;
                }
                self.state = State::LookingUp(self.next);
                Step::LookUp(self.next)
            }
            State::Ready(router, mut addresses) => match addresses.pop_front() {
                Some(address) => {
                    self.state = State::Trying(router, addresses);
                    Step::Dial(router, address)
                }
                None => {
                    self.router_failed(now, router);
                    self.step(now)
                }
            },
            waiting @ (State::LookingUp(_) | State::Trying(..)) => {
                self.state = waiting;
                Step::Wait(None)
            }
        }
    }

    /// The addresses of a router were found; empty when none were.
    pub(crate) fn addresses(&mut self, router: usize, found: Vec<SocketAddr>) {
        if self.state == State::LookingUp(router) {
            self.state = State::Ready(router, found.into());
        }
    }

    /// The address that was dialled last did not lead to an attachment.
    pub(crate) fn failed(&mut self) {
        if let State::Trying(router, rest) = &mut self.state {
            self.state = State::Ready(*router, std::mem::take(rest));
        }
    }

    /// The router that was dialled last took us.
    pub(crate) fn succeeded(&mut self) {
        if let State::Trying(router, _) = self.state {
            // A lost connection comes back to the same router first: it may know our instance number still.
            self.next = router;
        }
        self.state = State::Idle;
        self.avoid = None;
        self.failed_in_a_row = 0;
        self.backoff.reset();
    }

    fn router_failed(&mut self, now: Duration, router: usize) {
        self.next = (router + 1) % self.routers;
        self.failed_in_a_row += 1;
        let wait = if self.failed_in_a_row.is_multiple_of(self.routers) {
            self.avoid = None; // better the one that leaves than none
            self.backoff.next(&mut self.jitter)
        } else {
            Duration::ZERO
        };
        self.state = State::Due(now + wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialer(routers: usize) -> Dialer {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        Dialer::new(routers, backoff, Jitter::seeded(3))
    }

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn goes_through_addresses_and_routers_in_turn_then_waits() {
        let mut dialer = dialer(2);
        let mut now = Duration::ZERO;
        assert_eq!(dialer.step(now), Step::Wait(None));
        dialer.look(now);
        let mut waits = Vec::new();
        for _round in 0..5 {
            assert_eq!(dialer.step(now), Step::LookUp(0));
            assert_eq!(dialer.step(now), Step::Wait(None));
            dialer.addresses(0, vec![address(1), address(2)]);
            assert_eq!(dialer.step(now), Step::Dial(0, address(1)));
            dialer.failed();
            assert_eq!(dialer.step(now), Step::Dial(0, address(2)));
            dialer.failed();
            assert_eq!(dialer.step(now), Step::LookUp(1));
            dialer.addresses(1, vec![]);
            let Step::Wait(Some(at)) = dialer.step(now) else {
                panic!("a failed round is followed by a wait");
            };
            waits.push(at - now);
            now = at;
        }
        assert!(waits[4] > waits[0] * 4, "{waits:?}");
    }

    #[test]
    fn comes_back_to_the_router_it_knows_and_avoids_one_that_leaves() {
        let mut dialer = dialer(2);
        let now = Duration::ZERO;
        dialer.look(now);
        dialer.step(now);
        dialer.addresses(0, vec![]);
        assert_eq!(dialer.step(now), Step::LookUp(1));
        dialer.addresses(1, vec![address(1)]);
        dialer.step(now);
        dialer.succeeded();
        assert!(!dialer.is_looking());
        dialer.look(now);
        assert_eq!(dialer.step(now), Step::LookUp(1), "back to the same");
        dialer.addresses(1, vec![address(1)]);
        dialer.step(now);
        dialer.succeeded();
        assert!(dialer.has_other(1));
        dialer.leave(1);
        dialer.look(now);
        assert_eq!(dialer.step(now), Step::LookUp(0));
        dialer.addresses(0, vec![]);
        assert_eq!(dialer.step(now), Step::LookUp(0), "not the one that leaves");
    }
}
