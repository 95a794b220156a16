//! Make before break: which entries of a change may come in force before which.
//!
//! Routers take a table each when they can. What is *made* is what others will point at: identities that serve more,
//! policy groups that answer more, links. Then routes *point* there. What nobody points at any more is *broken* last. Each
//! of the three is a whole, sound table. A change that needs no order is one phase.
//!
//! An identity that stops serving a class, while an instance of it is attached, serves both until nobody asks it.
//!
//! Refuses to know which routers are there, and how long anybody waits.

use std::collections::{BTreeMap, BTreeSet};

use caplane_core::fib::{AgentEntry, Entry, EntryKey, IdentityEntry, PolicyEntry};
use caplane_wire::Label;

use crate::tables::{EntryChange, TableKey, Tables};

#[cfg(test)]
mod tests;

/// Entries that come in force together.
#[derive(Debug, Clone, PartialEq)]
pub struct Phase {
    /// Which of the three.
    pub step: Step,
    /// The entries, in key order.
    pub changes: Vec<EntryChange>,
    /// Who must have the phase before first.
    pub awaits: Awaits,
}

impl Phase {
    /// Everything at once.
    #[must_use]
    pub fn whole(changes: Vec<EntryChange>) -> Self {
        Self {
            step: Step::Whole,
            changes,
            awaits: Awaits::Nobody,
        }
    }
}

/// What a phase is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Everything at once.
    Whole,
    /// What will be pointed at.
    Make,
    /// Who points at it.
    Point,
    /// What nobody points at any more.
    Break,
}

/// Routers whose tables a phase waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Awaits {
    /// None.
    Nobody,
    /// These.
    Some(BTreeSet<Label>),
    /// All.
    Everybody,
}

impl Awaits {
    /// Whether this router is waited for.
    #[must_use]
    pub fn concerns(&self, router: Label) -> bool {
        match self {
            Self::Nobody => false,
            Self::Some(routers) => routers.contains(&router),
            Self::Everybody => true,
        }
    }
}

/// Puts changes against `tables` in order. Never empty.
#[must_use]
pub fn split(changes: Vec<EntryChange>, tables: &Tables) -> Vec<Phase> {
    let attached = attached(&changes);
    let mut plan = Plan::default();
    for (key, new) in changes {
        let old = tables.entry(&key).map(|row| row.entry.as_ref());
        match (old, new) {
            (Some(Entry::Identity(old)), Some(Entry::Identity(new))) => {
                let mut routers = routers_of(old.agent, tables);
                routers.extend(attached.get(&new.agent).into_iter().flatten());
                plan.identity(key, old, new, routers);
            }
            (Some(Entry::Policy(old)), Some(Entry::Policy(new))) => plan.policy(key, old, new),
            (None, Some(Entry::Neighbour(new))) => {
                if let TableKey::Router(router, _) = key {
                    plan.serve.insert(router);
                }
                plan.make.push((key, Some(Entry::Neighbour(new))));
            }
            (_, new) => match key.entry_key() {
                EntryKey::Class { .. }
                | EntryKey::Agent(_)
                | EntryKey::Group(_)
                | EntryKey::Transit(_) => plan.point.push((key, new)),
                EntryKey::Identity(_) | EntryKey::Policy(_) | EntryKey::Neighbour(_) => match new {
                    Some(_) => plan.make.push((key, new)),
                    None => plan.last.push((key, None)),
                },
            },
        }
    }
    plan.phases()
}

/// Where instances of agents are that the same change attaches.
fn attached(changes: &[EntryChange]) -> BTreeMap<Label, BTreeSet<Label>> {
    let agents = changes.iter().filter_map(|(_, new)| match new {
        Some(Entry::Agent(agent)) => Some((agent.label, routers(agent))),
        _ => None,
    });
    agents.collect()
}

fn routers(agent: &AgentEntry) -> BTreeSet<Label> {
    agent.instances.iter().map(|at| at.router).collect()
}

fn routers_of(agent: Label, tables: &Tables) -> BTreeSet<Label> {
    let row = tables.entry(&TableKey::Shared(EntryKey::Agent(agent)));
    match row.map(|row| row.entry.as_ref()) {
        Some(Entry::Agent(agent)) => routers(agent),
        _ => BTreeSet::new(),
    }
}

#[derive(Default)]
struct Plan {
    make: Vec<EntryChange>,
    point: Vec<EntryChange>,
    last: Vec<EntryChange>,
    /// Routers that will be pointed at for what is made.
    serve: BTreeSet<Label>,
    /// Any router may be.
    anywhere: bool,
}

impl Plan {
    fn identity(
        &mut self,
        key: TableKey,
        old: &IdentityEntry,
        new: IdentityEntry,
        attached: BTreeSet<Label>,
    ) {
        if attached.is_empty() {
            return self.make.push((key, Some(Entry::Identity(new))));
        }
        if old.agent != new.agent {
            // Another registration of the same name: routers close what is attached by the old one.
            return self.last.push((key, Some(Entry::Identity(new))));
        }
        let both = both(old, &new);
        let serves_more = both.classes.len() > old.classes.len()
            || both.groups.iter().any(|group| !old.groups.contains(group));
        if serves_more {
            self.serve.extend(attached);
        }
        let differs = both != new;
        if both != *old {
            self.make.push((key.clone(), Some(Entry::Identity(both))));
        }
        if differs {
            self.last.push((key, Some(Entry::Identity(new))));
        }
    }

    /// Who may ask a tenant is let in only once its agents may answer, wherever they are; and the other way round.
    fn policy(&mut self, key: TableKey, old: &PolicyEntry, new: PolicyEntry) {
        let mut answers = new.reply_tenants.clone();
        let lost = old.reply_tenants.iter().filter(|id| !answers.contains(id));
        let lost: Vec<u32> = lost.copied().collect();
        answers.extend(lost);
        let all = new.reply_all && !old.reply_all;
        let answers_more = all || answers.len() > old.reply_tenants.len();
        let with = |allow: &PolicyEntry| PolicyEntry {
            allow: allow.allow.clone(),
            reply_tenants: answers.clone(),
            reply_all: new.reply_all || old.reply_all,
            ..new.clone()
        };
        let (first, second) = (with(old), with(&new));
        let mut held = old.clone();
        if answers_more {
            self.anywhere = true;
            held.clone_from(&first);
            self.make.push((key.clone(), Some(Entry::Policy(first))));
        }
        if !same(&second, &held) {
            held.clone_from(&second);
            self.point.push((key.clone(), Some(Entry::Policy(second))));
        }
        if !same(&new, &held) {
            self.last.push((key, Some(Entry::Policy(new))));
        }
    }

    fn phases(self) -> Vec<Phase> {
        let Self {
            mut make,
            mut point,
            last,
            serve,
            anywhere,
        } = self;
        if point.is_empty() {
            make.extend(last);
            return vec![phase(Step::Whole, make, Awaits::Nobody)];
        }
        let after = concerned(&point);
        let awaits = match (anywhere, serve.is_empty()) {
            (true, _) => Awaits::Everybody,
            (false, true) => Awaits::Nobody,
            (false, false) => Awaits::Some(serve),
        };
        let mut phases = Vec::new();
        if make.is_empty() || awaits == Awaits::Nobody {
            make.extend(point);
            point = make;
        } else {
            phases.push(phase(Step::Make, make, Awaits::Nobody));
        }
        let awaits = match phases.is_empty() {
            true => Awaits::Nobody,
            false => awaits,
        };
        phases.push(phase(Step::Point, point, awaits));
        if !last.is_empty() {
            phases.push(phase(Step::Break, last, after));
        }
        if let [only] = &mut phases[..] {
            only.step = Step::Whole;
        }
        phases
    }
}

/// Of several changes of one entry the last counts.
fn phase(step: Step, changes: Vec<EntryChange>, awaits: Awaits) -> Phase {
    let changes: BTreeMap<TableKey, Option<Entry>> = changes.into_iter().collect();
    Phase {
        step,
        changes: changes.into_iter().collect(),
        awaits,
    }
}

fn concerned(changes: &[EntryChange]) -> Awaits {
    let mut routers = BTreeSet::new();
    for (key, _) in changes {
        match key {
            TableKey::Shared(_) => return Awaits::Everybody,
            TableKey::Router(router, _) => routers.insert(*router),
        };
    }
    Awaits::Some(routers)
}

/// Serves what either does.
fn both(old: &IdentityEntry, new: &IdentityEntry) -> IdentityEntry {
    let mut both = new.clone();
    let served: BTreeSet<(u32, Label)> = new.classes.iter().map(|m| (m.tenant, m.label)).collect();
    let lost = old.classes.iter();
    let lost = lost.filter(|m| !served.contains(&(m.tenant, m.label)));
    both.classes.extend(lost.copied());
    let lost = old.groups.iter();
    let lost = lost.filter(|group| !new.groups.contains(group));
    both.groups.extend(lost.copied());
    both
}

/// The order of what is listed has no meaning.
fn same(one: &PolicyEntry, other: &PolicyEntry) -> bool {
    let answers =
        |policy: &PolicyEntry| -> BTreeSet<u32> { policy.reply_tenants.iter().copied().collect() };
    answers(one) == answers(other)
        && *one
            == PolicyEntry {
                reply_tenants: one.reply_tenants.clone(),
                ..other.clone()
            }
}
