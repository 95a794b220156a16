//! The forwarding decision: where does this header go? Reads tables and peers, changes nothing.
//!
//! From an instance: ingress (source, kind, policy, priority cap; chooses the egress router, or the
//! instance when that is this router). From a neighbour: transit by router label, or egress by
//! requested label when the label is this router's own.

use caplane_wire::{
    Flags, HEADER_LEN, Header, Kind, KnownExtensions, Label, LabelKind, TrafficClass,
};

use super::Forwarder;
use super::local::{Here, LocalMember};
use super::peers::{Instance, PeerIdx, Role};
use crate::choice::{least_of_two, rendezvous};
use crate::fib::{Member, Policy};
use crate::mix::mix_pair;
use crate::{DropReason, Now};

type View<'a> = Header<&'a [u8; HEADER_LEN]>;

/// What happens to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Forward(Step),
    /// To the members of a group; `class` after the cap, `routers` = copies to other routers too.
    Replicate {
        class: TrafficClass,
        routers: bool,
    },
    Drop(DropReason),
}

/// Where it goes and what is written into its header on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub to: PeerIdx,
    pub label: Label,
    pub class: TrafficClass,
    pub hop_limit: u8,
    pub flags: Flags,
    /// The priority was lowered.
    pub capped: bool,
}

impl Step {
    #[inline]
    pub fn write(&self, head: &mut [u8; HEADER_LEN]) {
        let mut header = Header::new_unchecked(head);
        header.set_class(self.class);
        header.set_hop_limit(self.hop_limit);
        header.set_flags(self.flags);
        header.set_label(self.label);
    }
}

/// A destination before next hops are looked at.
#[derive(Clone, Copy)]
enum Target {
    /// An attached instance.
    Here(PeerIdx),
    /// An egress router with a live next hop.
    Router(Label),
}

/// How a member is chosen: by the flow, or by the load.
#[derive(Clone, Copy)]
struct Key {
    hash: u64,
    affinity: bool,
    class: TrafficClass,
}

impl Key {
    #[inline]
    fn of(header: &View<'_>, class: TrafficClass) -> Key {
        let affinity = header.flags().contains(Flags::AFFINITY);
        let flow = mix_pair(header.flow(), u64::from(header.source_label().bits()));
        let hash = match affinity {
            true => flow,
            false => mix_pair(flow, u64::from(header.sequence())),
        };
        Key {
            hash,
            affinity,
            class,
        }
    }
}

/// Whose permission a match needs.
#[derive(Clone, Copy)]
enum Asker<'a> {
    /// The sender's policy group, at the ingress router.
    Policy(&'a Policy),
    /// The source label, at the egress router, where only a match other than the requested class is
    /// still in question.
    Source(Label),
}

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

impl Forwarder {
    /// Decides one message: `head` is its header (version and kind checked), `body` what follows, which
    /// begins with the extensions.
    #[inline]
    pub(super) fn decide(
        &self,
        now: Now,
        from: PeerIdx,
        head: &[u8; HEADER_LEN],
        body: &[u8],
    ) -> Verdict {
        let header = Header::new_unchecked(head);
        let verdict = match &self.peers.get(from).role {
            Role::Instance(instance) => self.ingress(now, instance, &header, body),
            Role::Neighbour { .. } => self.from_neighbour(now, from, &header, body),
        };
        verdict.unwrap_or_else(Verdict::Drop)
    }

    /// In the order of WF-73.
    #[inline]
    fn ingress(
        &self,
        now: Now,
        instance: &Instance,
        header: &View<'_>,
        body: &[u8],
    ) -> Result<Verdict, DropReason> {
        if header.kind() == Kind::Notice {
            return Err(DropReason::ForgedNotice);
        }
        let domain = header.source_domain();
        if header.source_label() != instance.label || !self.is_ours(domain) {
            return Err(DropReason::ForgedSource);
        }
        let requested = header.requested_label();
        if !requested.is_destination() {
            return Err(DropReason::Malformed);
        }
        in_time(now, header, body)?;
        if !self.is_ours(header.destination_domain()) {
            return Err(DropReason::NoRoute);
        }
        let policy = instance.policy.as_deref().ok_or(DropReason::PolicyDenied)?;
        let class = header.class().capped(policy.priority_max());
        let key = Key::of(header, class);
        let target = match requested.kind() {
            LabelKind::Class => {
                let tenant = header.tenant();
                if !policy.allows_class(tenant, requested) {
                    return Err(DropReason::PolicyDenied);
                }
                self.class_target(Asker::Policy(policy), tenant, requested, key, false)?
            }
            LabelKind::Agent => self.agent_target(Some(policy), requested, key)?,
            LabelKind::Group | LabelKind::Router => {
                let group = self.fib.group_view(requested).ok_or(DropReason::NoRoute)?;
                if !policy.allows_tenant(group.tenant) {
                    return Err(DropReason::PolicyDenied);
                }
                return Ok(Verdict::Replicate {
                    class,
                    routers: true,
                });
            }
        };
        let flags = header.flags().without(Flags::REROUTED);
        self.step(target, header, class, flags, None)
            .map(Verdict::Forward)
    }

    #[inline]
    fn from_neighbour(
        &self,
        now: Now,
        from: PeerIdx,
        header: &View<'_>,
        body: &[u8],
    ) -> Result<Verdict, DropReason> {
        let label = header.label();
        if label.kind() != LabelKind::Router {
            return Err(DropReason::Malformed);
        }
        if label != self.fib.router() {
            let (class, flags) = (header.class(), header.flags());
            let step = self.step(Target::Router(label), header, class, flags, Some(from));
            return step.map(Verdict::Forward);
        }
        in_time(now, header, body)?;
        self.egress(header)
    }

    /// The label is this router's: the requested label is looked up among the attached instances.
    fn egress(&self, header: &View<'_>) -> Result<Verdict, DropReason> {
        let (class, flags) = (header.class(), header.flags());
        let requested = header.requested_label();
        let key = Key::of(header, class);
        let here = match requested.kind() {
            LabelKind::Class => {
                self.class_here(header.source_label(), header.tenant(), requested, key)
            }
            LabelKind::Agent => self.agent_here(requested, key),
            LabelKind::Group => {
                return Ok(Verdict::Replicate {
                    class,
                    routers: false,
                });
            }
            LabelKind::Router => return Err(DropReason::NoRoute),
        };
        if let Some(peer) = here {
            return self
                .step(Target::Here(peer), header, class, flags, None)
                .map(Verdict::Forward);
        }
        // Nobody left here: once, another egress router may have it.
        let stale = || match self.names_this_router(header.tenant(), requested) {
            true => DropReason::Unreachable,
            false => DropReason::StaleTable,
        };
        if flags.contains(Flags::REROUTED) {
            return Err(stale());
        }
        let asker = Asker::Source(header.source_label());
        let target = match requested.kind() {
            LabelKind::Agent => self.agent_target(None, requested, key),
            _ => self.class_target(asker, header.tenant(), requested, key, true),
        };
        let target = target.map_err(|_| stale())?;
        let flags = flags.with(Flags::REROUTED);
        self.step(target, header, class, flags, None)
            .map(Verdict::Forward)
    }

    #[inline]
    fn is_ours(&self, domain: u32) -> bool {
        domain == 0 || domain == self.fib.domain()
    }

    /// From a destination to a peer and the header's new fields. `back` = the neighbour it came from,
    /// to which transit never returns it.
    #[inline]
    fn step(
        &self,
        target: Target,
        header: &View<'_>,
        class: TrafficClass,
        flags: Flags,
        back: Option<PeerIdx>,
    ) -> Result<Step, DropReason> {
        let capped = class != header.class();
        let hops = header.hop_limit();
        match target {
            Target::Here(to) => {
                let label = header.requested_label();
                Ok(Step {
                    to,
                    label,
                    class,
                    hop_limit: hops,
                    flags,
                    capped,
                })
            }
            Target::Router(label) => {
                let flow = mix_pair(header.flow(), u64::from(header.source_label().bits()));
                let hop = self.routes.next_hop(label, flow, back);
                let to = hop.ok_or(DropReason::Unreachable)?;
                let hop_limit = hops_left(hops).ok_or(DropReason::HopLimit)?;
                Ok(Step {
                    to,
                    label,
                    class,
                    hop_limit,
                    flags,
                    capped,
                })
            }
        }
    }
}

/// Classes.
impl Forwarder {
    /// Lookup order (R9, R13): (T, exact), (0, exact), (T, parent), (0, parent), ...; at the
    /// requested class everything below counts, at its parents only their own members. `elsewhere`: this
    /// router is out of the question.
    #[inline]
    fn class_target(
        &self,
        asker: Asker<'_>,
        tenant: u32,
        requested: Label,
        key: Key,
        elsewhere: bool,
    ) -> Result<Target, DropReason> {
        let mut misses = Misses::default();
        let mut label = requested;
        loop {
            let exact = label == requested;
            for owner in owners(tenant) {
                let Some(view) = self.fib.class_view(owner, label) else {
                    // An instance attached while the controller is away is not in the table yet.
                    if !elsewhere {
                        if let Some(target) = self.local_class((owner, label, exact), key) {
                            if self.may_match(asker, (owner, label), (tenant, requested)) {
                                return Ok(target);
                            }
                            misses.denied = true;
                        }
                    }
                    continue;
                };
                let members = if exact { view.subtree } else { view.own };
                let members = members.as_slice();
                if members.is_empty() {
                    continue;
                }
                if !self.may_match(asker, (owner, label), (tenant, requested)) {
                    misses.denied = true;
                    continue;
                }
                match self.class_member(members, (owner, label, exact), key, elsewhere) {
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
        key: Key,
        elsewhere: bool,
    ) -> Option<Target> {
        let this = self.fib.router();
        // The common case: one egress router, and it is this one.
        if let [Member { router, .. }] = members {
            if *router == this {
                return if elsewhere {
                    None
                } else {
                    self.local_class(class, key)
                };
            }
        }
        let alive = |member: &Member| match member.router == this {
            true => !elsewhere && self.local_class(class, key).is_some(),
            false => self.routes.reaches(member.router),
        };
        match self.pick_router(members, key, alive) {
            Some(router) if router == this => self.local_class(class, key),
            Some(router) => Some(Target::Router(router)),
            // The table does not name this router, or names nobody alive.
            None if !elsewhere => self.local_class(class, key),
            None => None,
        }
    }

    /// An attached member of a class at one level: anything below counts where it is `exact`.
    #[inline]
    fn local_class(&self, (owner, label, exact): (u32, Label, bool), key: Key) -> Option<Target> {
        let members = match exact {
            true => self.local.subtree(owner, label),
            false => self.local.own(owner, label),
        };
        self.pick_here(members, key).map(Target::Here)
    }

    /// An attached instance for a requested class, in the order of [`Forwarder::class_target`].
    fn class_here(
        &self,
        source: Label,
        tenant: u32,
        requested: Label,
        key: Key,
    ) -> Option<PeerIdx> {
        let asker = Asker::Source(source);
        let mut label = requested;
        loop {
            let exact = label == requested;
            for owner in owners(tenant) {
                let class = (owner, label, exact);
                let Some(Target::Here(peer)) = self.local_class(class, key) else {
                    continue;
                };
                if self.may_match(asker, (owner, label), (tenant, requested)) {
                    return Some(peer);
                }
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
    fn names_this_router(&self, tenant: u32, requested: Label) -> bool {
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
                        true => here(view.subtree.as_slice()),
                        false => here(view.own.as_slice()),
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
    fn agent_target(
        &self,
        policy: Option<&Policy>,
        requested: Label,
        key: Key,
    ) -> Result<Target, DropReason> {
        let agent = requested.any_instance();
        let view = self.fib.agent_view(agent);
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
                return Err(DropReason::PolicyDenied);
            }
            if requested.is_instance() {
                if let Some(peer) = self.local.instance(requested) {
                    return Ok(Target::Here(peer));
                }
            }
        }
        let this = self.fib.router();
        let wanted = requested.instance();
        let alive = |member: &Member| {
            (wanted == 0 || member.instance == wanted)
                && match member.router == this {
                    true => policy.is_some() && self.instance_here(agent, member).is_some(),
                    false => self.routes.reaches(member.router),
                }
        };
        let members = view
            .as_ref()
            .map_or(&[][..], |view| view.members.as_slice());
        match self.pick(
            members,
            key,
            |m| (instance_bits(agent, m), m.weight),
            alive,
            |_| 0,
        ) {
            Some(at) if members[at].router == this => {
                let peer = self.instance_here(agent, &members[at]);
                peer.map(Target::Here).ok_or(DropReason::Unreachable)
            }
            Some(at) => Ok(Target::Router(members[at].router)),
            None if policy.is_some() => {
                let peer = self.agent_here(requested, key);
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
    fn agent_here(&self, requested: Label, key: Key) -> Option<PeerIdx> {
        if requested.is_instance() {
            return self.local.instance(requested);
        }
        self.pick_here(self.local.agent(requested), key)
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
    #[inline]
    fn pick<T>(
        &self,
        members: &[T],
        key: Key,
        name_and_weight: impl Fn(&T) -> (u32, u32),
        alive: impl Fn(&T) -> bool,
        load: impl Fn(&T) -> u64,
    ) -> Option<usize> {
        match key.affinity {
            true => rendezvous(members, key.hash, name_and_weight, alive),
            false => least_of_two(members, key.hash, name_and_weight, alive, load),
        }
    }

    #[inline]
    fn pick_router(
        &self,
        members: &[Member],
        key: Key,
        alive: impl Fn(&Member) -> bool,
    ) -> Option<Label> {
        let load = |member: &Member| {
            let hop = self.routes.next_hop(member.router, key.hash, None);
            hop.map_or(0, |hop| self.load(hop, key.class))
        };
        let name = |member: &Member| (member.router.bits(), member.weight);
        self.pick(members, key, name, alive, load)
            .map(|at| members[at].router)
    }

    #[inline]
    fn pick_here(&self, here: Here<'_>, key: Key) -> Option<PeerIdx> {
        let members = match here {
            Here::Nobody => return None,
            Here::One(peer) => return Some(peer),
            Here::Many(members) => members,
        };
        let name = |member: &LocalMember| (member.label.bits(), member.weight);
        let load = |member: &LocalMember| self.load(member.peer, key.class);
        self.pick(members, key, name, |_| true, load)
            .map(|at| members[at].peer)
    }

    fn load(&self, peer: PeerIdx, class: TrafficClass) -> u64 {
        self.peers.get(peer).egress.bytes(class) as u64
    }
}

/// The hop limit as it is sent on to another router; `None` = used up (WF-24).
#[inline]
pub(super) fn hops_left(hop_limit: u8) -> Option<u8> {
    hop_limit.checked_sub(1).filter(|left| *left > 0)
}

/// Extensions are read only when the sender said that there is a deadline (WF-52).
#[inline]
fn in_time(now: Now, header: &View<'_>, body: &[u8]) -> Result<(), DropReason> {
    match header.flags().contains(Flags::DEADLINE) {
        true => deadline(now, header, body),
        false => Ok(()),
    }
}

#[cold]
fn deadline(now: Now, header: &View<'_>, body: &[u8]) -> Result<(), DropReason> {
    let extensions = body.get(..usize::from(header.extension_len()));
    let known = KnownExtensions::parse(extensions.ok_or(DropReason::Malformed)?);
    match known.map(|known| known.deadline_unix_us) {
        Ok(Some(deadline)) if deadline >= now.unix_us => Ok(()),
        Ok(Some(_)) => Err(DropReason::Deadline),
        Ok(None) | Err(_) => Err(DropReason::Malformed),
    }
}
