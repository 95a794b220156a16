//! What this forwarder would do with a message now, and why: the decision itself, watched. Nothing of it is told
//! a second time here: [`Observe`] goes along through `decide.rs`, `members.rs` and `replicate.rs`, and on the way of a
//! real message it is `()`, of which nothing is left when compiled.
//!
//! Refuses to know rates and the room in queues, which depend on what else is sent: what is explained as sent may
//! still be dropped as `RateLimited`, `Overloaded` or, as a datagram, `TooLarge`.

use caplane_wire::{HEADER_LEN, Header, LANE_MESSAGE_MAX, Label, message_len};

use super::decide::{Step, Target};
use super::lanes::reason_of;
use super::local::LocalMember;
use super::peers::{Peer, PeerIdx, Role};
use super::replicate::{Fanout, write_copy, write_shared};
use super::{Forwarder, PeerKey};
use crate::fib::Member;
use crate::{DropReason, Now};

/// What the forwarder would do with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What becomes of it.
    pub outcome: Outcome,
    /// Whom the decision looked at, in the order in which it looked; at most [`Explanation::CONSIDERED_MAX`], and
    /// whoever was chosen.
    pub considered: Vec<Considered>,
    /// How many were left out.
    pub considered_more: u64,
}

impl Explanation {
    /// Longest list of members that were considered.
    pub const CONSIDERED_MAX: usize = 256;
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes one way.
    Unicast(Forwarded),
    /// It is for a group. At least one copy is due; each goes its own way or is dropped by itself.
    Group {
        /// Copies that go.
        copies: Vec<Forwarded>,
        /// Copies to routers without a live next hop.
        unreachable: u64,
        /// Copies to other routers for which the hop limit does not suffice.
        hop_limit: u64,
    },
    /// It is dropped.
    Refused(DropReason),
}

/// One copy of a message on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// Where it goes.
    pub to: Destination,
    /// The peer it is queued for.
    pub peer: PeerKey,
    /// Its header as it leaves.
    pub header: [u8; HEADER_LEN],
}

/// Where a message goes from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// To an instance attached here.
    Instance(Label),
    /// To another router.
    Router {
        /// The egress router; the message's label from here on.
        egress: Label,
        /// The neighbour it is sent to.
        next_hop: Label,
    },
}

/// A member that a decision looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Considered {
    /// Tenant of the class; 0 = shared, or no class.
    pub tenant: u32,
    /// The class (as matched: the one asked for or one above it), agent or group.
    pub label: Label,
    /// The router where the member is.
    pub router: Label,
    /// An instance, or, where all instances at a router count as one, the router.
    pub member: Label,
    /// Its share; 0 = it did not matter.
    pub weight: u32,
    /// What became of it.
    pub verdict: Verdict,
}

/// What a decision made of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It was taken.
    Chosen,
    /// It lives and is allowed; the flow, or the load, chose another.
    Passed,
    /// Nobody is attached there, or no next hop towards it lives.
    Dead,
    /// The sender's policy group does not allow what it serves.
    Denied,
    /// The hop limit does not suffice (copies for a group).
    HopLimit,
}

impl Verdict {
    pub(super) fn of(alive: bool, chosen: bool) -> Verdict {
        match (chosen, alive) {
            (true, _) => Verdict::Chosen,
            (_, true) => Verdict::Passed,
            _ => Verdict::Dead,
        }
    }
}

/// A way towards a router, as the table has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The neighbour.
    pub router: Label,
    /// Not on a shortest path: used when none of those lives.
    pub alternate: bool,
    /// Is it connected and alive?
    pub alive: bool,
}

/// Told what a decision looks at.
pub(super) trait Observe {
    /// Members told from here on are of this class, agent or group.
    fn of(&mut self, tenant: u32, label: Label);

    /// Members, and what became of each. Run through only where somebody listens.
    fn members(&mut self, members: impl Iterator<Item = (Candidate, Verdict)>);
}

/// Nobody listens.
impl Observe for () {
    #[inline(always)]
    fn of(&mut self, _: u32, _: Label) {}

    #[inline(always)]
    fn members(&mut self, _: impl Iterator<Item = (Candidate, Verdict)>) {}
}

/// A member before anything is known of it.
pub(super) struct Candidate {
    router: Label,
    member: Label,
    weight: u32,
}

impl Candidate {
    /// All members at an egress router.
    pub fn at(member: &Member) -> Candidate {
        Candidate {
            router: member.router,
            member: member.router,
            weight: member.weight,
        }
    }

    /// An instance of an agent, as the table has it.
    pub fn instance(agent: Label, member: &Member) -> Candidate {
        Candidate {
            member: Label::from_bits(agent.bits() | u32::from(member.instance)),
            ..Candidate::at(member)
        }
    }

    /// One of several attached instances.
    pub fn member(forwarder: &Forwarder, member: &LocalMember) -> Candidate {
        Candidate {
            router: forwarder.fib.router(),
            member: member.label,
            weight: member.weight,
        }
    }

    /// An attached instance that is not weighed.
    pub fn here(forwarder: &Forwarder, peer: PeerIdx) -> Candidate {
        let instance = forwarder.peers.get(peer).instance();
        Candidate {
            router: forwarder.fib.router(),
            member: instance.map_or(Label::NONE, |instance| instance.label),
            weight: 0,
        }
    }
}

/// Writes down what it is told.
#[derive(Default)]
struct Log {
    tenant: u32,
    label: Option<Label>,
    /// Where the members of the present label begin.
    begin: usize,
    considered: Vec<Considered>,
    more: u64,
}

impl Observe for Log {
    fn of(&mut self, tenant: u32, label: Label) {
        if (self.tenant, self.label) != (tenant, Some(label)) {
            (self.tenant, self.label) = (tenant, Some(label));
            self.begin = self.considered.len();
        }
    }

    fn members(&mut self, members: impl Iterator<Item = (Candidate, Verdict)>) {
        let Some(label) = self.label else {
            return;
        };
        for (candidate, verdict) in members {
            let mut told = self.considered[self.begin..].iter_mut();
            // An agent's instance may be told by the table and then as one that is here.
            if let Some(told) = told.find(|told| told.member == candidate.member) {
                if verdict == Verdict::Chosen {
                    told.verdict = verdict;
                }
                continue;
            }
            if self.considered.len() >= Explanation::CONSIDERED_MAX && verdict != Verdict::Chosen {
                self.more += 1;
                continue;
            }
            let Candidate {
                router,
                member,
                weight,
            } = candidate;
            self.considered.push(Considered {
                tenant: self.tenant,
                label,
                router,
                member,
                weight,
                verdict,
            });
        }
    }
}

impl Forwarder {
    /// What would become of a message of this peer, and why. `message` is a header and what follows it up to the end
    /// of the extensions at least; the payload is not looked at. Changes nothing.
    ///
    /// It is explained as a message on a lane or in a datagram. One on a bulk stream goes the same way, but may be larger
    /// and is never for a group.
    pub fn explain(&self, now: Now, from: PeerKey, message: &[u8]) -> Explanation {
        let mut log = Log::default();
        let outcome = self.outcome(now, from, message, &mut log);
        Explanation {
            outcome: outcome.unwrap_or_else(Outcome::Refused),
            considered: log.considered,
            considered_more: log.more,
        }
    }

    fn outcome(
        &self,
        now: Now,
        from: PeerKey,
        message: &[u8],
        log: &mut Log,
    ) -> Result<Outcome, DropReason> {
        let from = self.peers.find(from).ok_or(DropReason::UnknownPeer)?;
        message_len(message, LANE_MESSAGE_MAX).map_err(|error| reason_of(&error))?;
        let split = message.split_first_chunk::<HEADER_LEN>();
        let (head, body) = split.ok_or(DropReason::Malformed)?;
        let (sender, _) = self.sender_afresh(from, Header::new_unchecked(head).class());
        let step = self.decide_afresh(now, &sender, head, body, log)?;
        let mut head = *head;
        if step.to != PeerIdx::MEMBERS {
            step.write(sender.class, &mut head);
            return Ok(Outcome::Unicast(self.copy(&step, head)));
        }
        let mut fanout = Fanout::default();
        let mut header = Header::new_unchecked(&mut head);
        self.find_members(&header, sender.is_instance, &mut fanout, log);
        if fanout.copies() == 0 {
            return Err(DropReason::Unreachable);
        }
        let hops = header.hop_limit();
        write_shared(&mut header, sender.class);
        let here = fanout.here.iter().map(|to| self.copy_to(*to, None, head));
        let routers = fanout.routers.iter().map(|(router, hop)| {
            let mut head = head;
            write_copy(&mut head, *router, hops);
            self.copy_to(*hop, Some(*router), head)
        });
        Ok(Outcome::Group {
            copies: here.chain(routers).collect(),
            unreachable: fanout.unreachable,
            hop_limit: fanout.hopless,
        })
    }

    fn copy(&self, step: &Step, header: [u8; HEADER_LEN]) -> Forwarded {
        self.copy_to(step.to, Some(step.label), header)
    }

    /// `egress` counts where the peer is a neighbour.
    fn copy_to(&self, to: PeerIdx, egress: Option<Label>, header: [u8; HEADER_LEN]) -> Forwarded {
        let Peer { key, role, .. } = self.peers.get(to);
        let to = match role {
            Role::Instance(instance) => Destination::Instance(instance.label),
            Role::Neighbour { router, .. } => Destination::Router {
                egress: egress.unwrap_or(*router),
                next_hop: *router,
            },
        };
        Forwarded {
            to,
            peer: *key,
            header,
        }
    }

    /// The ways towards a router: those on shortest paths, then the alternates, best first. Empty = the table has none.
    pub fn next_hops(&self, egress: Label) -> Vec<NextHop> {
        let Some(entry) = self.fib.transit(egress) else {
            return Vec::new();
        };
        let shortest = entry.next_hops.iter().map(|hop| (*hop, false));
        let alternates = entry.alternates.iter().map(|hop| (*hop, true));
        shortest
            .chain(alternates)
            .map(|(router, alternate)| NextHop {
                router,
                alternate,
                alive: self.has_live(router),
            })
            .collect()
    }

    fn has_live(&self, neighbour: Label) -> bool {
        self.peers.iter().any(|(_, peer)| match peer.role {
            Role::Neighbour { router, alive } => alive && router == neighbour,
            Role::Instance(_) => false,
        })
    }

    /// Attached instances of a class that the asker may not reach.
    pub(super) fn denied_here(&self, target: Target) -> impl Iterator<Item = (Candidate, Verdict)> {
        let several = move || match target {
            Target::OneOf(set) => self.local.set(set).members(),
            _ => &[],
        };
        let one = core::iter::once(target).filter_map(|target| match target {
            Target::Here(peer) => Some(Candidate::here(self, peer)),
            _ => None,
        });
        let several = core::iter::once_with(several).flatten();
        let several = several.map(|member| Candidate::member(self, member));
        one.chain(several).map(|member| (member, Verdict::Denied))
    }
}
