//! The forwarding decision: where does this header go? Reads tables and peers, changes nothing.
//!
//! From an instance: ingress (source, kind, policy, priority cap; chooses the egress router, or the
//! instance when that is this router). From a neighbour: transit by router label, or egress by
//! requested label when the label is this router's own.

use caplane_wire::{
    Flags, HEADER_LEN, Header, Kind, KnownExtensions, Label, LabelKind, TrafficClass,
};

use super::Forwarder;
use super::peers::{Instance, PeerIdx, Role};
use crate::fib::Policy;
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
pub(super) enum Target {
    /// An attached instance.
    Here(PeerIdx),
    /// An egress router with a live next hop.
    Router(Label),
}

/// How a member is chosen: by the flow, or by the load.
#[derive(Clone, Copy)]
pub(super) struct Key {
    pub hash: u64,
    pub affinity: bool,
    pub class: TrafficClass,
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
pub(super) enum Asker<'a> {
    /// The sender's policy group, at the ingress router.
    Policy(&'a Policy),
    /// The source label, at the egress router, where only a match other than the requested class is
    /// still in question.
    Source(Label),
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
            Role::Neighbour { .. } => self.fabric(now, from, &header, body),
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
    fn fabric(
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
