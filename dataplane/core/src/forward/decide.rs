//! The forwarding decision: where does this header go? Reads tables and peers; changes nothing but what is remembered
//! of decisions.
//!
//! From an instance: ingress (source, kind, policy, priority cap; chooses the egress router, or the
//! instance when that is this router). From a neighbour: transit by router label, or egress by
//! requested label when the label is this router's own.

use core::cell::Cell;

use caplane_wire::{
    Flags, HEADER_LEN, Header, Kind, KnownExtensions, Label, LabelKind, TrafficClass,
};

use super::Forwarder;
use super::explain::{Candidate, Observe, Verdict};
use super::local::SetAt;
use super::peers::{Instance, PeerIdx, Role};
use super::recall::{self, Tag};
use crate::fib::Policy;
use crate::mix::mix_pair;
use crate::{DropReason, Now};

type View<'a> = Header<&'a [u8; HEADER_LEN]>;

/// Where a message goes and what is written into its header on the way. Its class becomes its [`Sender::class`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// [`PeerIdx::MEMBERS`] = it is for a group, and written when it is copied.
    pub to: PeerIdx,
    pub label: Label,
    pub hop_limit: u8,
    pub flags: Flags,
    /// It goes to another egress router than the one it came to.
    pub rerouted: bool,
}

impl Step {
    #[inline]
    pub fn write(&self, class: TrafficClass, head: &mut [u8; HEADER_LEN]) {
        let mut header = Header::new_unchecked(head);
        header.set_class(class);
        header.set_hop_limit(self.hop_limit);
        header.set_flags(self.flags);
        header.set_label(self.label);
    }
}

/// A destination before members here and next hops are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// An attached instance.
    Here(PeerIdx),
    /// One of several attached instances.
    OneOf(SetAt),
    /// An egress router with a live next hop.
    Router(Label),
    /// All members of a group.
    Group,
}

/// A target, and what the way there makes of the header.
#[derive(Clone, Copy)]
struct Way {
    target: Target,
    flags: Flags,
    /// The neighbour it came from, to which transit never returns it.
    back: Option<PeerIdx>,
}

/// What the tables say.
enum Route {
    /// It holds for all messages that ask for the label, unless their flow was asked about.
    Lasting(Way),
    /// It holds for this message.
    Once(Way),
}

/// The flow of a message, by which one of several members is chosen, and whether anybody asked for it: an answer
/// that did not is the same for every flow.
pub(super) struct Flow<'a> {
    header: View<'a>,
    /// After the cap: whose queues count as load.
    pub class: TrafficClass,
    asked: Cell<bool>,
}

impl<'a> Flow<'a> {
    #[inline]
    fn of(header: &View<'a>, class: TrafficClass) -> Flow<'a> {
        Flow {
            header: *header,
            class,
            asked: Cell::new(false),
        }
    }

    /// The answer is this message's own.
    #[inline]
    pub fn depends(&self) {
        self.asked.set(true);
    }

    /// Chosen by the flow, or else by the load?
    #[inline]
    pub fn affinity(&self) -> bool {
        self.depends();
        self.header.flags().contains(Flags::AFFINITY)
    }

    #[inline]
    pub fn hash(&self) -> u64 {
        let flow = path_hash(&self.header);
        match self.affinity() {
            true => flow,
            false => mix_pair(flow, u64::from(self.header.sequence())),
        }
    }
}

/// Chooses among equal paths: the same for all messages of a flow.
#[inline]
fn path_hash(header: &View<'_>) -> u64 {
    mix_pair(header.flow(), u64::from(header.source_label().bits()))
}

/// Whose permission a match needs.
#[derive(Clone, Copy)]
pub(super) enum Asker<'a> {
    /// The sender's policy group, at the ingress router.
    Policy(&'a Policy),
    /// The source label, at the egress router, where only a match other than the requested class is
    /// still in question.
    Source(Label),
}

/// A peer whose messages are decided, as far as each of them needs it.
#[derive(Clone, Copy)]
pub(super) struct Sender {
    pub at: PeerIdx,
    /// Under which its answers are remembered; `None` = none is.
    tag: Option<Tag>,
    pub is_instance: bool,
    /// What its messages' class is lowered to, or stays.
    pub class: TrafficClass,
    /// The priority is lowered.
    pub is_capped: bool,
    /// The source label an instance must name; of a neighbour, this router's own label.
    label: Label,
    domain: u32,
}

impl Sender {
    #[inline]
    fn is_ours(&self, domain: u32) -> bool {
        domain == 0 || domain == self.domain
    }
}

impl Forwarder {
    /// The peer as a sender of messages of one class: valid until a peer or the table changes.
    pub(super) fn sender(&mut self, at: PeerIdx, class: TrafficClass) -> Sender {
        let (sender, asker) = self.sender_afresh(at, class);
        let tag = asker.map(|asker| self.recall.tag(asker));
        Sender { tag, ..sender }
    }

    /// The same, of whom nothing is remembered; and under whose name it would be.
    #[inline]
    pub(super) fn sender_afresh(
        &self,
        at: PeerIdx,
        class: TrafficClass,
    ) -> (Sender, Option<recall::Asker>) {
        let (asker, is_instance, label, capped) = match &self.peers.get(at).role {
            Role::Instance(instance) => {
                let policy = instance.policy.as_deref();
                let asker = policy.map(|policy| recall::Asker::Policy(policy.entry().id));
                let capped = policy.map_or(class, |policy| class.capped(policy.priority_max()));
                (asker, true, instance.label, capped)
            }
            Role::Neighbour { .. } => {
                let asker = Some(recall::Asker::Fabric);
                (asker, false, self.fib.router(), class)
            }
        };
        let sender = Sender {
            at,
            tag: None,
            is_instance,
            class: capped,
            is_capped: capped != class,
            label,
            domain: self.fib.domain(),
        };
        (sender, asker)
    }

    /// Decides one message: `head` is its header (version, kind and class checked), `body` what follows, which
    /// begins with the extensions.
    #[inline(always)]
    pub(super) fn decide(
        &mut self,
        now: Now,
        sender: &Sender,
        head: &[u8; HEADER_LEN],
        body: &[u8],
    ) -> Result<Step, DropReason> {
        match self.at_once(sender, head) {
            Some(step) => Ok(step),
            None => self.decide_by_tables(now, sender, head, body),
        }
    }

    /// What can be said without the tables: transit, and what was decided before. `None` says nothing, and above all
    /// not that the message is refused: each check here is one that [`Forwarder::decide_by_tables`] makes too.
    #[inline(always)]
    fn at_once(&self, sender: &Sender, head: &[u8; HEADER_LEN]) -> Option<Step> {
        let header = Header::new_unchecked(head);
        let mut flags = header.flags();
        if sender.is_instance {
            let honest = header.kind() != Kind::Notice
                && header.source_label() == sender.label
                && sender.is_ours(header.source_domain())
                && sender.is_ours(header.destination_domain());
            if !honest {
                return None;
            }
            flags = flags.without(Flags::REROUTED);
        } else if header.label() != sender.label {
            return self.transit(sender, &header);
        }
        if flags.contains(Flags::DEADLINE) {
            return None;
        }
        let (tenant, requested) = (header.tenant(), header.requested_label());
        let target = self.recall.find(sender.tag?, tenant, requested)?;
        let way = Way {
            target,
            flags,
            back: None,
        };
        self.step(way, sender.class, &header, &mut ()).ok()
    }

    /// Another router's label, and nothing else, says where it goes.
    #[inline]
    fn transit(&self, sender: &Sender, header: &View<'_>) -> Option<Step> {
        let label = header.label();
        let way = Way {
            target: Target::Router(label),
            flags: header.flags(),
            back: Some(sender.at),
        };
        match label.kind() {
            LabelKind::Router => self.step(way, sender.class, header, &mut ()).ok(),
            _ => None,
        }
    }

    #[inline(never)]
    fn decide_by_tables(
        &mut self,
        now: Now,
        sender: &Sender,
        head: &[u8; HEADER_LEN],
        body: &[u8],
    ) -> Result<Step, DropReason> {
        let header = Header::new_unchecked(head);
        self.recall.miss();
        let flow = Flow::of(&header, sender.class);
        let way = match self.route(now, sender.at, &header, body, &flow, &mut ())? {
            Route::Lasting(way) => {
                if let (false, Some(tag)) = (flow.asked.get(), sender.tag) {
                    let (tenant, requested) = (header.tenant(), header.requested_label());
                    self.recall.put(tag, tenant, requested, way.target);
                }
                way
            }
            Route::Once(way) => way,
        };
        let step = self.step(way, sender.class, &header, &mut ())?;
        let rerouted =
            step.flags.contains(Flags::REROUTED) && !header.flags().contains(Flags::REROUTED);
        Ok(Step { rerouted, ..step })
    }

    /// Decides one message as [`Forwarder::decide`] does where nothing is remembered, and remembers nothing.
    pub(super) fn decide_afresh(
        &self,
        now: Now,
        sender: &Sender,
        head: &[u8; HEADER_LEN],
        body: &[u8],
        seen: &mut impl Observe,
    ) -> Result<Step, DropReason> {
        let header = Header::new_unchecked(head);
        let flow = Flow::of(&header, sender.class);
        let (Route::Lasting(way) | Route::Once(way)) =
            self.route(now, sender.at, &header, body, &flow, seen)?;
        self.step(way, sender.class, &header, seen)
    }

    #[inline]
    fn route(
        &self,
        now: Now,
        from: PeerIdx,
        header: &View<'_>,
        body: &[u8],
        flow: &Flow<'_>,
        seen: &mut impl Observe,
    ) -> Result<Route, DropReason> {
        match &self.peers.get(from).role {
            Role::Instance(instance) => self.ingress(now, instance, header, body, flow, seen),
            Role::Neighbour { .. } => self.fabric(now, from, header, body, flow, seen),
        }
    }

    /// In the order of WF-73.
    fn ingress(
        &self,
        now: Now,
        instance: &Instance,
        header: &View<'_>,
        body: &[u8],
        flow: &Flow<'_>,
        seen: &mut impl Observe,
    ) -> Result<Route, DropReason> {
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
        let target = match requested.kind() {
            LabelKind::Class => {
                let tenant = header.tenant();
                if !policy.allows_class(tenant, requested) {
                    return Err(DropReason::PolicyDenied);
                }
                let asker = Asker::Policy(policy);
                self.class_target(asker, tenant, requested, flow, false, seen)?
            }
            LabelKind::Agent => self.agent_target(Some(policy), requested, flow, seen)?,
            LabelKind::Group | LabelKind::Router => {
                let group = self.fib.group_view(requested).ok_or(DropReason::NoRoute)?;
                if !policy.allows_tenant(group.tenant) {
                    return Err(DropReason::PolicyDenied);
                }
                Target::Group
            }
        };
        Ok(Route::Lasting(Way {
            target,
            flags: header.flags().without(Flags::REROUTED),
            back: None,
        }))
    }

    fn fabric(
        &self,
        now: Now,
        from: PeerIdx,
        header: &View<'_>,
        body: &[u8],
        flow: &Flow<'_>,
        seen: &mut impl Observe,
    ) -> Result<Route, DropReason> {
        let label = header.label();
        if label.kind() != LabelKind::Router {
            return Err(DropReason::Malformed);
        }
        if label != self.fib.router() {
            return Ok(Route::Once(Way {
                target: Target::Router(label),
                flags: header.flags(),
                back: Some(from),
            }));
        }
        in_time(now, header, body)?;
        self.egress(header, flow, seen)
    }

    /// The label is this router's: the requested label is looked up among the attached instances.
    fn egress(
        &self,
        header: &View<'_>,
        flow: &Flow<'_>,
        seen: &mut impl Observe,
    ) -> Result<Route, DropReason> {
        let (flags, requested) = (header.flags(), header.requested_label());
        let here = match requested.kind() {
            LabelKind::Class => {
                let (source, tenant) = (header.source_label(), header.tenant());
                self.class_here(source, tenant, requested, flow, seen)
            }
            LabelKind::Agent => self.agent_here(requested, flow, seen).map(Target::Here),
            LabelKind::Group => Some(Target::Group),
            LabelKind::Router => return Err(DropReason::NoRoute),
        };
        let way = |target, flags| Way {
            target,
            flags,
            back: None,
        };
        if let Some(target) = here {
            return Ok(Route::Lasting(way(target, flags)));
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
            LabelKind::Agent => self.agent_target(None, requested, flow, seen),
            _ => self.class_target(asker, header.tenant(), requested, flow, true, seen),
        };
        let target = target.map_err(|_| stale())?;
        Ok(Route::Once(way(target, flags.with(Flags::REROUTED))))
    }

    #[inline]
    fn is_ours(&self, domain: u32) -> bool {
        domain == 0 || domain == self.fib.domain()
    }

    /// From a destination to a peer and the header's new fields. `class` is that of the queue it will join.
    #[inline(always)]
    fn step(
        &self,
        way: Way,
        class: TrafficClass,
        header: &View<'_>,
        seen: &mut impl Observe,
    ) -> Result<Step, DropReason> {
        let (mut label, mut hop_limit) = (header.requested_label(), header.hop_limit());
        let to = match way.target {
            Target::Here(to) => {
                let chosen = || (Candidate::here(self, to), Verdict::Chosen);
                seen.members(core::iter::once_with(chosen));
                to
            }
            Target::OneOf(set) => {
                let flow = Flow::of(header, class);
                let to = self.choose(self.local.set(set), &flow, seen);
                to.ok_or(DropReason::Unreachable)?
            }
            Target::Router(router) => {
                let flow = || path_hash(header);
                let to = self.routes.next_hop(router, flow, way.back);
                let to = to.ok_or(DropReason::Unreachable)?;
                hop_limit = hops_left(hop_limit).ok_or(DropReason::HopLimit)?;
                label = router;
                to
            }
            Target::Group => PeerIdx::MEMBERS,
        };
        Ok(Step {
            to,
            label,
            hop_limit,
            flags: way.flags,
            rerouted: false,
        })
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
