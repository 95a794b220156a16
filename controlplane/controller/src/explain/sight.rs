//! What somebody who is bound to tenants is told: of their own things everything, of others' what the source may reach, in
//! the sense of Resolve. That it may answer others is no reason to be told of them: then whoever may answer everybody
//! could count the agents of all.
//!
//! What is left out looks as if it were not there. Refuses to know routers and decisions.

use caplane_core::DropReason;
use caplane_core::forward::{Outcome, Verdict};
use caplane_wire::LabelKind;

use super::Known;
use super::fabric::{Asked, Visit};
use crate::access::Scope;
use crate::change::Refusal;
use crate::record::{AgentRecord, GroupRecord, SHARED_TENANT, TenantRecord};
use crate::resolve::Asker;
use crate::rib::Rib;

/// Whom a question may name.
pub(super) struct Sight<'a> {
    rib: &'a Rib,
    scope: &'a Scope,
    source: Asker<'a>,
}

impl<'a> Sight<'a> {
    /// Of whoever asks as `source`.
    ///
    /// # Errors
    /// The source is not registered.
    pub(super) fn of(known: &Known<'a>, source: &str) -> Result<Self, Refusal> {
        Ok(Self {
            rib: known.rib,
            scope: known.scope,
            source: Asker::of(known.rib, source)?,
        })
    }

    pub(super) fn is_bound(&self) -> bool {
        self.scope.is_bound()
    }

    pub(super) fn agent(&self, agent: &AgentRecord) -> bool {
        self.scope.has_number(self.rib, agent.tenant) || self.source.agent(self.rib, agent)
    }

    pub(super) fn group(&self, group: &GroupRecord) -> bool {
        self.scope.has_number(self.rib, group.tenant) || self.source.whole(group.tenant)
    }

    pub(super) fn tenant(&self, tenant: &TenantRecord) -> bool {
        // That there is a shared one is no secret.
        tenant.name == SHARED_TENANT
            || self.scope.has(&tenant.name)
            || self.source.tenants(self.rib).contains(&tenant.id)
    }
}

/// Takes out of an explanation whom policy hid from the source, and that there was somebody to hide.
pub(super) fn narrow(known: &Known<'_>, asked: Asked, visits: &mut [Visit]) {
    if !known.scope.is_bound() {
        return;
    }
    for visit in visits {
        let explanation = &mut visit.explanation;
        let denied = explanation.considered.iter();
        let mut denied = denied
            .filter(|one| one.verdict == Verdict::Denied)
            .peekable();
        // Of a class that is allowed itself: somebody of others serves the one above it, or the shared tenant does.
        let others = asked.label.kind() == LabelKind::Class
            && denied.peek().is_some()
            && denied.all(|one| !known.scope.has_number(known.rib, one.tenant));
        if others && explanation.outcome == Outcome::Refused(DropReason::PolicyDenied) {
            explanation.outcome = Outcome::Refused(DropReason::NoRoute);
        }
        explanation
            .considered
            .retain(|one| one.verdict != Verdict::Denied);
        // It is not known how many of these were denied.
        explanation.considered_more = 0;
    }
}
