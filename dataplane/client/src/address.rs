//! Who a message is from and who it is for. Knows the header's addressing fields; refuses to know how a destination is reached.

use std::fmt;

use caplane_proto::v1::Candidate;
use caplane_wire::{Label, LabelKind};
use thiserror::Error;

/// One place in the fabric: a label and the domain it means something in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Administrative domain, as an AS number; 0 = this one.
    pub domain: u32,
    /// Label within that domain.
    pub label: Label,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.domain == 0 {
            write!(f, "{}", self.label)
        } else {
            write!(f, "{} in domain {}", self.label, self.domain)
        }
    }
}

/// What a flow asks for: a capability class, an agent, one instance of it, or a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The label put into `requested label`.
    pub label: Label,
    /// Tenant of the destination class, 0 = shared. Keys class labels only.
    pub tenant: u32,
    /// Domain of the destination, 0 = this one.
    pub domain: u32,
}

impl Destination {
    /// `label` of `tenant` (0 = shared) in this domain. Which labels exist is learnt by `Client::resolve`.
    ///
    /// # Panics
    /// When `label` cannot be a destination: it is none, ill-formed, or names a router. A label that came from elsewhere
    /// is checked by [`Destination::checked`].
    #[must_use]
    pub fn new(label: Label, tenant: u32) -> Self {
        Self::checked(label, tenant).unwrap_or_else(|| {
            panic!("{label} cannot be a destination: use a class, agent or group label")
        })
    }

    /// As [`Destination::new`], `None` where that would panic.
    #[must_use]
    pub fn checked(label: Label, tenant: u32) -> Option<Self> {
        label.is_destination().then_some(Self {
            label,
            tenant,
            domain: 0,
        })
    }

    /// The same label in another domain.
    #[must_use]
    pub fn in_domain(self, domain: u32) -> Self {
        Self { domain, ..self }
    }

    /// Whether an answer may come from one of several instances, so that a flow can be pinned to the one that answered.
    pub(crate) fn is_anycast(&self) -> bool {
        match self.label.kind() {
            LabelKind::Class => true,
            LabelKind::Agent => !self.label.is_instance(),
            LabelKind::Group | LabelKind::Router => false,
        }
    }

    /// Whether `source` may answer for this destination: an agent's destination is answered by that agent only.
    pub(crate) fn may_be_answered_by(&self, source: Label) -> bool {
        source.is_instance()
            && match self.label.kind() {
                LabelKind::Agent => self.label.any_instance().covers(source),
                _ => true,
            }
    }
}

/// The destination that a resolved candidate stands for.
impl TryFrom<&Candidate> for Destination {
    type Error = NoDestination;

    fn try_from(candidate: &Candidate) -> Result<Self, NoDestination> {
        let label = Label::from_bits(candidate.label);
        Self::checked(label, candidate.tenant).ok_or(NoDestination(label))
    }
}

/// A candidate carries a label that cannot be a destination: the router that resolved it is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{0} cannot be a destination; the router that answered breaks the protocol, ask another")]
pub struct NoDestination(
    /// The label.
    pub Label,
);

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}",
            Address {
                domain: self.domain,
                label: self.label
            }
        )?;
        if self.tenant != 0 {
            write!(f, " of tenant {}", self.tenant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_classes_agents_and_groups_are_destinations() {
        assert!(Destination::checked(Label::NONE, 0).is_none());
        assert!(Destination::checked(Label::router(2).unwrap(), 0).is_none());
        let agent = Destination::new(Label::agent(7, 0).unwrap(), 0);
        assert!(agent.is_anycast());
        assert!(agent.may_be_answered_by(Label::agent(7, 3).unwrap()));
        assert!(!agent.may_be_answered_by(Label::agent(8, 3).unwrap()));
        assert!(!agent.may_be_answered_by(Label::router(8).unwrap()));
        assert!(!Destination::new(Label::agent(7, 3).unwrap(), 0).is_anycast());
        assert!(!Destination::new(Label::group(7).unwrap(), 0).is_anycast());
    }

    #[test]
    fn text_names_what_is_not_the_default() {
        let class = Destination::new("class:7.12".parse().unwrap(), 3).in_domain(64512);
        assert_eq!(class.to_string(), "class:7.12 in domain 64512 of tenant 3");
    }
}
