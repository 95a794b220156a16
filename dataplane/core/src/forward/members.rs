//! Who of those that serve a label gets the message: classes with their fallbacks, agents, weights, the dead
//! left out. Reads tables, changes nothing; refuses to know where a message came from.

use caplane_wire::{Label, LabelKind, TrafficClass};

use super::Forwarder;
use super::decide::{Asker, Flow, Target};
use super::explain::{Candidate, Observe, Verdict};
use super::local::{Here, LocalMember, Several};
use super::peers::PeerIdx;
use crate::DropReason;
use crate::choice::{least_of_two, rendezvous};
use crate::fib::{Member, Members, Policy};
use crate::mix::mix_pair;

/// Remembers why nothing was found, the most telling reason first.
#[derive(Default)]
struct Misses {
    dead: bool,
    denied: bool,
}

impl Misses {
    fn reason(&self) -> DropReason {
        match (self.dead, self.denied) {
            (true, _) => DropReason::Unreachable,
            (_, true) => DropReason::PolicyDenied,
            _ => DropReason::NoRoute,
        }
    }
}

/// Classes.
impl Forwarder {
    /// Lookup order (R9, R13): (T, exact), (0, exact), (T, parent), (0, parent), ...; at the
    /// requested class everything below counts, at its parents only their own members. `elsewhere`: this
    /// router is out of the question.
    #[inline]
    pub(super) fn class_target(
        &self,
        asker: Asker<'_>,
        tenant: u32,
        requested: Label,
        flow: &Flow<'_>,
        elsewhere: bool,
        seen: &mut impl Observe,
    ) -> Result<Target, DropReason> {
        // Nearly every message: the class itself, at one egress router. It was allowed before.
        if let Some(view) = self.fib.class_view(tenant, requested)
            && let Members::One(member) = view.subtree()
        {
            let router = member.router;
            let found = if router != self.fib.router() {
                let reached = self.routes.reaches(router);
                reached.then_some(Target::Router(router))
            } else if !elsewhere {
                self.local_class((tenant, requested, true))
            } else {
                None
            };
            if let Some(target) = found {
                seen.of(tenant, requested);
                let chosen = || (Candidate::at(&member), Verdict::Chosen);
                seen.members(core::iter::once_with(chosen));
                return Ok(target);
            }
        }
        self.class_above(asker, tenant, requested, flow, elsewhere, seen)
    }

    /// The whole order of lookups.
    fn class_above(
        &self,
        asker: Asker<'_>,
        tenant: u32,
        requested: Label,
        flow: &Flow<'_>,
        elsewhere: bool,
        seen: &mut impl Observe,
    ) -> Result<Target, DropReason> {
        let mut misses = Misses::default();
        let mut label = requested;
        loop {
            let exact = label == requested;
            for owner in owners(tenant) {
                let Some(view) = self.fib.class_view(owner, label) else {
                    // An instance attached while the controller is away is not in the table yet.
                    if !elsewhere && let Some(target) = self.local_class((owner, label, exact)) {
                        seen.of(owner, label);
                        if self.may_match(asker, (owner, label), (tenant, requested)) {
                            return Ok(target);
                        }
                        seen.members(self.denied_here(target));
                        misses.denied = true;
                    }
                    continue;
                };
                let members = if exact { view.subtree() } else { view.own() };
                let members = members.as_slice();
                if members.is_empty() {
                    continue;
                }
                seen.of(owner, label);
                if !self.may_match(asker, (owner, label), (tenant, requested)) {
                    let members = members.iter().map(Candidate::at);
                    seen.members(members.map(|member| (member, Verdict::Denied)));
                    misses.denied = true;
                    continue;
                }
                match self.class_member(members, (owner, label, exact), flow, elsewhere, seen) {
                    Some(target) => return Ok(target),
                    None => misses.dead = true,
                }
            }
            match label.parent() {
                Some(parent) => label = parent,
                None => return Err(misses.reason()),
            }
        }
    }

    /// One live member of a class at one level.
    #[inline]
    fn class_member(
        &self,
        members: &[Member],
        class: (u32, Label, bool),
        flow: &Flow<'_>,
        elsewhere: bool,
        seen: &mut impl Observe,
    ) -> Option<Target> {
        let found = self.live_class_member(members, class, flow, elsewhere);
        seen.members(members.iter().map(|member| {
            let alive = self.serves_class(member, class, elsewhere);
            let chosen = match found {
                Some(Target::Router(router)) => router == member.router,
                Some(_) => member.router == self.fib.router(),
                None => false,
            };
            (Candidate::at(member), Verdict::of(alive, chosen))
        }));
        found
    }

    #[inline]
    fn live_class_member(
        &self,
        members: &[Member],
        class: (u32, Label, bool),
        flow: &Flow<'_>,
        elsewhere: bool,
    ) -> Option<Target> {
        let this = self.fib.router();
        // The common case: one egress router, and it is this one.
        if let [Member { router, .. }] = members
            && *router == this
        {
            return if elsewhere {
                None
            } else {
                self.local_class(class)
            };
        }
        let alive = |member: &Member| self.serves_class(member, class, elsewhere);
        match self.pick_router(members, flow, alive) {
            Some(router) if router == this => self.local_class(class),
            Some(router) => Some(Target::Router(router)),
            // The table does not name this router, or names nobody alive.
            None if !elsewhere => self.local_class(class),
            None => None,
        }
    }

    /// Is there somebody at this router, and a way to it?
    #[inline]
    fn serves_class(&self, member: &Member, class: (u32, Label, bool), elsewhere: bool) -> bool {
        match member.router == self.fib.router() {
            true => !elsewhere && self.local_class(class).is_some(),
            false => self.routes.reaches(member.router),
        }
    }

    /// Attached members of a class at one level: anything below counts where it is `exact`.
    #[inline]
    fn local_class(&self, (owner, label, exact): (u32, Label, bool)) -> Option<Target> {
        let members = match exact {
            true => self.local.subtree(owner, label),
            false => self.local.own(owner, label),
        };
        match members {
            Here::Nobody => None,
            Here::One(peer) => Some(Target::Here(peer)),
            Here::Many(set) => Some(Target::OneOf(set)),
        }
    }

    /// Attached instances for a requested class, in the order of [`Forwarder::class_target`].
    pub(super) fn class_here(
        &self,
        source: Label,
        tenant: u32,
        requested: Label,
        flow: &Flow<'_>,
        seen: &mut impl Observe,
    ) -> Option<Target> {
        let asker = Asker::Source(source);
        let mut label = requested;
        loop {
            let exact = label == requested;
            for owner in owners(tenant) {
                let Some(target) = self.local_class((owner, label, exact)) else {
                    continue;
                };
                if (owner, label) != (tenant, requested) {
                    // Another source's policy may say otherwise.
                    flow.depends();
                }
                seen.of(owner, label);
                if self.may_match(asker, (owner, label), (tenant, requested)) {
                    return Some(target);
                }
                seen.members(self.denied_here(target));
            }
            label = label.parent()?;
        }
    }

    /// Does policy allow the class matched? The class requested was allowed before.
    #[inline]
    fn may_match(&self, asker: Asker<'_>, matched: (u32, Label), requested: (u32, Label)) -> bool {
        if matched == requested {
            return true;
        }
        match asker {
            Asker::Policy(policy) => policy.allows_class(matched.0, matched.1),
            Asker::Source(source) => {
                let identity = self.fib.identity_of(source);
                let policy = identity.and_then(|identity| self.fib.policy(identity.policy));
                policy.is_some_and(|policy| policy.allows_class(matched.0, matched.1))
            }
        }
    }

    /// Does the table name this router for the requested label, at any level?
    pub(super) fn names_this_router(&self, tenant: u32, requested: Label) -> bool {
        let this = self.fib.router();
        let here = |members: &[Member]| members.iter().any(|member| member.router == this);
        if requested.kind() == LabelKind::Agent {
            let view = self.fib.agent_view(requested.any_instance());
            return view.is_some_and(|view| here(view.members.as_slice()));
        }
        core::iter::once(requested)
            .chain(requested.ancestors())
            .any(|label| {
                let mut owners = owners(tenant);
                owners.any(|owner| {
                    let view = self.fib.class_view(owner, label);
                    view.is_some_and(|view| match label == requested {
                        true => here(view.subtree().as_slice()),
                        false => here(view.own().as_slice()),
                    })
                })
            })
    }
}

/// Agents.
impl Forwarder {
    /// Unicast. `policy` = the sender's at the ingress router; `None` = a reroute, which was allowed
    /// before and does not come back here.
    #[inline]
    pub(super) fn agent_target(
        &self,
        policy: Option<&Policy>,
        requested: Label,
        flow: &Flow<'_>,
        seen: &mut impl Observe,
    ) -> Result<Target, DropReason> {
        let agent = requested.any_instance();
        seen.of(0, agent);
        let view = self.fib.agent_view(agent);
        let wanted = requested.instance();
        let asked = move |member: &Member| wanted == 0 || member.instance == wanted;
        let candidates = || {
            let members = view.as_ref().map_or(&[][..], |v| v.members.as_slice());
            let members = members.iter().filter(move |member| asked(member));
            members.map(move |member| (member, Candidate::instance(agent, member)))
        };
        if let Some(policy) = policy {
            let tenant = match &view {
                Some(view) => view.tenant,
                None => {
                    self.fib
                        .identity_of(agent)
                        .ok_or(DropReason::NoRoute)?
                        .tenant
                }
            };
            if !self.fib.allows_agent(policy, tenant, agent) {
                seen.members(candidates().map(|(_, member)| (member, Verdict::Denied)));
                return Err(DropReason::PolicyDenied);
            }
            if requested.is_instance()
                && let Some(peer) = self.local.instance(requested)
            {
                return Ok(Target::Here(peer));
            }
        }
        let this = self.fib.router();
        let alive = |member: &Member| {
            asked(member)
                && match member.router == this {
                    true => policy.is_some() && self.instance_here(agent, member).is_some(),
                    false => self.routes.reaches(member.router),
                }
        };
        let members = view
            .as_ref()
            .map_or(&[][..], |view| view.members.as_slice());
        let found = match wanted {
            0 => self.pick(
                members,
                flow,
                |m| (instance_bits(agent, m), m.weight),
                alive,
                |_| 0,
            ),
            // An instance stands once in its agent's entry.
            _ => members.iter().position(alive),
        };
        seen.members(candidates().map(|(member, candidate)| {
            let chosen = found.is_some_and(|at| members[at].instance == member.instance);
            (candidate, Verdict::of(alive(member), chosen))
        }));
        match found {
            Some(at) if members[at].router == this => {
                let peer = self.instance_here(agent, &members[at]);
                peer.map(Target::Here).ok_or(DropReason::Unreachable)
            }
            Some(at) => Ok(Target::Router(members[at].router)),
            None if policy.is_some() => {
                let peer = self.agent_here(requested, flow, seen);
                let known = view.is_some() || self.fib.identity_of(agent).is_some();
                let reason = if known {
                    DropReason::Unreachable
                } else {
                    DropReason::NoRoute
                };
                peer.map(Target::Here).ok_or(reason)
            }
            None => Err(DropReason::Unreachable),
        }
    }

    fn instance_here(&self, agent: Label, member: &Member) -> Option<PeerIdx> {
        self.local
            .instance(Label::from_bits(instance_bits(agent, member)))
    }

    /// An attached instance of the agent, or the very instance asked for.
    pub(super) fn agent_here(
        &self,
        requested: Label,
        flow: &Flow<'_>,
        seen: &mut impl Observe,
    ) -> Option<PeerIdx> {
        seen.of(0, requested.any_instance());
        if requested.is_instance() {
            return self.local.instance(requested);
        }
        self.choose(self.local.agent(requested)?, flow, seen)
    }
}

/// The same bits wherever the choice is made, so that ingress and egress router prefer the same instance.
#[inline]
fn instance_bits(agent: Label, member: &Member) -> u32 {
    agent.bits() | u32::from(member.instance)
}

/// The tenants whose class may match: the one asked for, then the shared one.
#[inline]
fn owners(tenant: u32) -> impl Iterator<Item = u32> {
    core::iter::once(tenant).chain((tenant != 0).then_some(0))
}

/// Members.
impl Forwarder {
    /// Of a single member nothing is asked but whether it is alive.
    #[inline]
    fn pick<T>(
        &self,
        members: &[T],
        flow: &Flow<'_>,
        name_and_weight: impl Fn(&T) -> (u32, u32),
        alive: impl Fn(&T) -> bool,
        load: impl Fn(&T) -> u64,
    ) -> Option<usize> {
        match members {
            [] => None,
            [one] => alive(one).then_some(0),
            _ if flow.affinity() => rendezvous(members, flow.hash(), name_and_weight, alive),
            _ => least_of_two(members, flow.hash(), name_and_weight, alive, load),
        }
    }

    #[inline]
    fn pick_router(
        &self,
        members: &[Member],
        flow: &Flow<'_>,
        alive: impl Fn(&Member) -> bool,
    ) -> Option<Label> {
        let load = |member: &Member| {
            let hop = self.routes.next_hop(member.router, || flow.hash(), None);
            hop.map_or(0, |hop| self.load(hop, flow.class))
        };
        let name = |member: &Member| (member.router.bits(), member.weight);
        self.pick(members, flow, name, alive, load)
            .map(|at| members[at].router)
    }

    /// One of several attached instances.
    #[inline(always)]
    pub(super) fn choose(
        &self,
        several: &Several,
        flow: &Flow<'_>,
        seen: &mut impl Observe,
    ) -> Option<PeerIdx> {
        let chosen = self.preferred(several, flow);
        seen.members(several.members().iter().map(|member| {
            let candidate = Candidate::member(self, member);
            (candidate, Verdict::of(true, chosen == Some(member.peer)))
        }));
        chosen
    }

    #[inline(never)]
    fn preferred(&self, several: &Several, flow: &Flow<'_>) -> Option<PeerIdx> {
        let load = |member: &LocalMember| self.load(member.peer, flow.class);
        if let Some(seats) = several.seats() {
            let first = seats.choose(flow.hash()).map(PeerIdx);
            if let (true, Some(_)) = (flow.affinity(), first) {
                return first;
            }
            let second = seats.choose(mix_pair(flow.hash(), 1)).map(PeerIdx);
            if let (Some(first), Some(second)) = (first, second) {
                let lighter = self.load(second, flow.class) < self.load(first, flow.class);
                return Some(if lighter { second } else { first });
            }
        }
        let name = |member: &LocalMember| (member.label.bits(), member.weight);
        let members = several.members();
        self.pick(members, flow, name, |_| true, load)
            .map(|at| members[at].peer)
    }

    fn load(&self, peer: PeerIdx, class: TrafficClass) -> u64 {
        let queue = self.peers.get(peer).egress.queue(class);
        queue.map_or(0, |queue| queue.bytes() as u64)
    }
}
