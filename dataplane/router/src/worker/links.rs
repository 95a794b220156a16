//! Neighbour links as a state machine: which to dial, when to try again, whether
//! the other side still answers. Time and addresses come in, [`Action`]s go out.
//! Refuses to know connections beyond a name of type `P`, and the Forwarder.
//!
//! The side the table says dials; the other accepts whoever carries the
//! neighbour's URI. A link is *up* from `Welcome` on; while up it is probed, and one
//! that stops answering is *not alive* until it answers again or QUIC gives it up.
//!
//! Every worker of the dialling side has a link of its own. Several of them may end at one worker of the
//! accepting side (when it has fewer): they are told apart by the dialling worker's number.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use caplane_core::fib::NeighbourEntry;
use caplane_wire::Label;

use crate::backoff::Backoff;

/// First wait after a failed dial: the neighbour may only be starting.
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// Longest wait: a router that returns is linked again within this.
const RETRY_LONGEST: Duration = Duration::from_secs(3);

/// What the worker is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action<P> {
    /// Dial; answer with [`Links::dialled`].
    Dial {
        router: Label,
        address: SocketAddr,
        uri: String,
    },
    /// The address is a host name: have it looked up, answer with [`Links::address_found`].
    LookUp { router: Label, name: String },
    /// Send a probe.
    Probe { peer: P, sequence: u64 },
    /// Tell the Forwarder whether the link passes traffic.
    Alive { peer: P, alive: bool },
    /// The table no longer has this neighbour: close the connection.
    Close { peer: P },
}

#[derive(Debug)]
struct Link<P> {
    entry: NeighbourEntry,
    state: State<P>,
    backoff: Backoff,
}

#[derive(Debug)]
enum State<P> {
    /// Nothing under way. A dialling side tries at `retry_at`; an accepting side waits.
    Idle { retry_at: Duration },
    /// A host name is being looked up; asked again at `give_up_at`.
    LookingUp { give_up_at: Duration },
    /// Dialled, and not up yet.
    Opening { peer: P },
    /// `Welcome` was said.
    Up(Up<P>),
}

#[derive(Debug)]
struct Up<P> {
    peer: P,
    next_probe: Duration,
    sequence: u64,
    unanswered: u32,
    alive: bool,
}

/// A neighbour's number, and the worker there that dialled; 0 on a link that this side dials.
type Key = (u32, u8);

/// All links of one worker.
#[derive(Debug)]
pub(super) struct Links<P> {
    /// For every neighbour there is one with worker 0; others while they are up.
    links: BTreeMap<Key, Link<P>>,
    probe_interval: Duration,
    probe_misses: u32,
    seed: u64,
}

impl<P: Copy + Eq> Links<P> {
    pub(super) fn new(probe_interval: Duration, probe_misses: u32, seed: u64) -> Self {
        Self {
            links: BTreeMap::new(),
            probe_interval,
            probe_misses,
            seed,
        }
    }

    /// Takes the neighbours of a new table. Links whose neighbour is gone, or has
    /// another identity, address or dialling side now, are closed.
    pub(super) fn set_neighbours<'a>(
        &mut self,
        now: Duration,
        neighbours: impl Iterator<Item = &'a NeighbourEntry>,
        actions: &mut Vec<Action<P>>,
    ) {
        let mut old = std::mem::take(&mut self.links);
        for entry in neighbours {
            let bits = entry.router.bits();
            let held: Vec<Key> = old
                .range((bits, 0)..=(bits, u8::MAX))
                .map(|(key, _)| *key)
                .collect();
            for key in held {
                let Some(link) = old.remove(&key) else {
                    continue;
                };
                let same = link.entry.uri == entry.uri
                    && link.entry.dial == entry.dial
                    && (!entry.dial || link.entry.address == entry.address);
                if same {
                    let entry = entry.clone();
                    self.links.insert(key, Link { entry, ..link });
                } else {
                    link.close(actions);
                }
            }
            let seed = self.seed ^ u64::from(bits);
            self.links.entry((bits, 0)).or_insert_with(|| Link {
                entry: entry.clone(),
                state: State::Idle { retry_at: now },
                backoff: Backoff::new(RETRY_FIRST, RETRY_LONGEST, seed),
            });
        }
        for link in old.into_values() {
            link.close(actions);
        }
    }

    /// Stops dialling and probing for good: the router drains.
    pub(super) fn stop_dialling(&mut self) {
        for link in self.links.values_mut() {
            link.entry.dial = false;
        }
    }

    /// The neighbour with this certificate URI, and whether this side dials it.
    pub(super) fn by_uri(&self, uri: &str) -> Option<(Label, bool)> {
        self.links
            .values()
            .find(|link| link.entry.uri == uri)
            .map(|link| (link.entry.router, link.entry.dial))
    }

    /// The neighbour whose connection this is, whatever its state.
    pub(super) fn by_peer(&self, peer: P) -> Option<Label> {
        self.links
            .values()
            .find(|link| link.peer() == Some(peer))
            .map(|link| link.entry.router)
    }

    /// Links that are up, and those of them that answer probes.
    pub(super) fn up_and_alive(&self) -> (usize, usize) {
        let ups = || {
            self.links.values().filter_map(|link| match &link.state {
                State::Up(up) => Some(up),
                _ => None,
            })
        };
        (ups().count(), ups().filter(|up| up.alive).count())
    }

    /// Neighbours in the table.
    pub(super) fn len(&self) -> usize {
        self.links.keys().filter(|(_, worker)| *worker == 0).count()
    }

    /// The outcome of [`Action::Dial`]; `None` when the transport refused at once.
    pub(super) fn dialled(&mut self, now: Duration, router: Label, peer: Option<P>) {
        if let Some(link) = self.links.get_mut(&(router.bits(), 0)) {
            match peer {
                Some(peer) => link.state = State::Opening { peer },
                None => link.fail(now),
            }
        }
    }

    /// The outcome of [`Action::LookUp`].
    pub(super) fn address_found(
        &mut self,
        now: Duration,
        router: Label,
        name: &str,
        address: Option<SocketAddr>,
        actions: &mut Vec<Action<P>>,
    ) {
        let Some(link) = self.links.get_mut(&(router.bits(), 0)) else {
            return;
        };
        if link.entry.address != name || !matches!(link.state, State::LookingUp { .. }) {
            return;
        }
        match address {
            Some(address) => actions.push(Action::Dial {
                router,
                address,
                uri: link.entry.uri.clone(),
            }),
            None => link.fail(now),
        }
    }

    /// `Welcome` was said on `peer`, which the neighbour's `worker` dialled (0 when this side did). Returns the
    /// connection it takes the place of.
    pub(super) fn up(&mut self, now: Duration, router: Label, worker: u8, peer: P) -> Option<P> {
        let key = (router.bits(), worker);
        if !self.links.contains_key(&key) {
            let first = self.links.get(&(router.bits(), 0))?;
            let link = Link {
                entry: first.entry.clone(),
                state: State::Idle { retry_at: now },
                backoff: Backoff::new(RETRY_FIRST, RETRY_LONGEST, self.seed),
            };
            self.links.insert(key, link);
        }
        let link = self.links.get_mut(&key)?;
        let before = link.peer().filter(|&old| old != peer);
        link.backoff.succeeded();
        link.state = State::Up(Up {
            peer,
            next_probe: now + self.probe_interval,
            sequence: 0,
            unanswered: 0,
            alive: true,
        });
        before
    }

    /// A connection is gone or was refused.
    pub(super) fn down(&mut self, now: Duration, peer: P) {
        let mut links = self.links.iter_mut();
        let Some((&key, link)) = links.find(|(_, link)| link.peer() == Some(peer)) else {
            return;
        };
        link.fail(now);
        if key.1 != 0 {
            self.links.remove(&key);
        }
    }

    /// The answer to a probe.
    pub(super) fn echoed(&mut self, peer: P, sequence: u64, actions: &mut Vec<Action<P>>) {
        let up = self
            .links
            .values_mut()
            .find_map(|link| match &mut link.state {
                State::Up(up) if up.peer == peer => Some(up),
                _ => None,
            });
        let Some(up) = up else { return };
        // Later answers leave fewer probes open; one so old that the link would be down anyway says
        // that it was slow, not that it passes traffic now.
        let open = up.sequence.saturating_sub(sequence);
        if sequence <= up.sequence && open < u64::from(self.probe_misses) {
            up.unanswered = up.unanswered.min(open as u32);
            if !up.alive {
                up.alive = true;
                actions.push(Action::Alive { peer, alive: true });
            }
        }
    }

    /// Dials and probes that are due.
    pub(super) fn tick(&mut self, now: Duration, actions: &mut Vec<Action<P>>) {
        for link in self.links.values_mut() {
            match &mut link.state {
                State::Idle { retry_at } if link.entry.dial && *retry_at <= now => {
                    link.dial(now, actions);
                }
                State::LookingUp { give_up_at } if *give_up_at <= now => link.fail(now),
                State::Up(up) if up.next_probe <= now => {
                    if up.unanswered >= self.probe_misses && up.alive {
                        up.alive = false;
                        actions.push(Action::Alive {
                            peer: up.peer,
                            alive: false,
                        });
                    }
                    up.sequence += 1;
                    up.unanswered = up.unanswered.saturating_add(1);
                    up.next_probe = now + self.probe_interval;
                    actions.push(Action::Probe {
                        peer: up.peer,
                        sequence: up.sequence,
                    });
                }
                _ => {}
            }
        }
    }

    /// When [`Links::tick`] is due next.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.links
            .values()
            .filter_map(|link| match &link.state {
                State::Idle { retry_at } => {
                    (link.entry.dial && !link.entry.address.is_empty()).then_some(*retry_at)
                }
                State::LookingUp { give_up_at } => Some(*give_up_at),
                State::Opening { .. } => None,
                State::Up(up) => Some(up.next_probe),
            })
            .min()
    }
}

/// A lookup that takes longer has failed.
const LOOKUP_LONGEST: Duration = Duration::from_secs(5);

impl<P: Copy + Eq> Link<P> {
    fn peer(&self) -> Option<P> {
        match &self.state {
            State::Opening { peer } => Some(*peer),
            State::Up(up) => Some(up.peer),
            State::Idle { .. } | State::LookingUp { .. } => None,
        }
    }

    fn close(&self, actions: &mut Vec<Action<P>>) {
        if let Some(peer) = self.peer() {
            actions.push(Action::Close { peer });
        }
    }

    fn fail(&mut self, now: Duration) {
        self.state = State::Idle {
            retry_at: now + self.backoff.after_failure(),
        };
    }

    fn dial(&mut self, now: Duration, actions: &mut Vec<Action<P>>) {
        // Unknown until the neighbour has reported where it listens; the table will say.
        if self.entry.address.is_empty() {
            return;
        }
        let router = self.entry.router;
        self.state = State::LookingUp {
            give_up_at: now + LOOKUP_LONGEST,
        };
        actions.push(match self.entry.address.parse() {
            Ok(address) => Action::Dial {
                router,
                address,
                uri: self.entry.uri.clone(),
            },
            Err(_) => Action::LookUp {
                router,
                name: self.entry.address.clone(),
            },
        });
    }
}

#[cfg(test)]
mod tests;
