//! What a delta must hold to be applied: a verdict per entry, in words. Refuses to change anything.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;

use caplane_wire::{Label, LabelKind};

use super::entry::*;
use super::{Fib, Policies};
use crate::mix::MixState;

/// The tables an entry may refer to, as they will be after the delta.
pub(crate) struct Context<'a> {
    pub router: Label,
    pub policies: &'a Policies,
    pub neighbours: &'a BTreeMap<Label, NeighbourEntry>,
}

/// Longest certificate URI (RFC 3986 sets none; SPIFFE ids have at most 2,048 bytes).
const URI_BYTES_MAX: usize = 2_048;

/// Base and generation; `None` = they fit.
pub(crate) fn order(held: &Fib, delta: &Delta) -> Option<Rejection> {
    let reject = |reason: String| Some(Rejection { key: None, reason });
    let (base, new, have) = (delta.base, delta.generation, held.generation());
    if base.0 == 0 {
        return if new.0 == 0 {
            reject("a snapshot needs a generation of at least 1".into())
        } else {
            None
        };
    }
    if base != have {
        return reject(format!(
            "difference to generation {base}, but generation {have} is held: send a snapshot"
        ));
    }
    if new <= base {
        return reject(format!("generation {new} does not follow its base {base}"));
    }
    None
}

/// Verdicts on all entries; empty = all are good.
pub(crate) fn entries(context: &Context<'_>, delta: &Delta) -> Vec<Rejection> {
    let mut rejections = Vec::new();
    let mut seen = Seen::default();
    for entry in &delta.upserts {
        let verdict = match seen.first(&KeyRef::of(entry)) {
            true => check(context, entry),
            false => Err("stands twice in the update".into()),
        };
        if let Err(reason) = verdict {
            let key = Some(entry.key());
            rejections.push(Rejection { key, reason });
        }
    }
    for key in &delta.removes {
        let verdict = match seen.first(&KeyRef::of_key(key)) {
            true => check_key(key),
            false => Err("is both set and removed, or removed twice, in the update".into()),
        };
        if let Err(reason) = verdict {
            let key = Some(key.clone());
            rejections.push(Rejection { key, reason });
        }
    }
    rejections
}

/// Verdicts on removes that leave an entry of `next` naming what is gone; empty = none does. Such a
/// table could not be stored and read back.
pub(crate) fn removes(next: &Fib, delta: &Delta) -> Vec<Rejection> {
    let (mut policies, mut neighbours) = (BTreeSet::new(), BTreeSet::new());
    for key in &delta.removes {
        match key {
            EntryKey::Policy(id) => policies.insert(*id),
            EntryKey::Neighbour(label) => neighbours.insert(*label),
            _ => false,
        };
    }
    let mut rejections = Vec::new();
    // Each removed key is named once, however many entries still use it.
    let mut reject = |key: EntryKey, by: &dyn fmt::Display| {
        let reason = format!("is removed, but {by} still names it");
        let key = Some(key);
        rejections.push(Rejection { key, reason });
    };
    if !policies.is_empty() {
        for identity in next.identities() {
            if policies.remove(&identity.policy) {
                reject(EntryKey::Policy(identity.policy), &identity.uri);
            }
        }
    }
    if !neighbours.is_empty() {
        for route in next.transits() {
            for hop in route.next_hops.iter().chain(&route.alternates) {
                if neighbours.remove(hop) {
                    reject(EntryKey::Neighbour(*hop), &route.router);
                }
            }
        }
    }
    rejections
}

/// A key without its text copied: table number and packed key, or a URI.
enum KeyRef<'a> {
    Packed(u8, u64),
    Uri(&'a str),
}

impl<'a> KeyRef<'a> {
    fn of(entry: &'a Entry) -> KeyRef<'a> {
        match entry {
            Entry::Class(e) => KeyRef::class(e.tenant, e.label),
            Entry::Agent(e) => KeyRef::label(1, e.label),
            Entry::Group(e) => KeyRef::label(2, e.label),
            Entry::Identity(e) => KeyRef::Uri(&e.uri),
            Entry::Policy(e) => KeyRef::Packed(3, u64::from(e.id)),
            Entry::Transit(e) => KeyRef::label(4, e.router),
            Entry::Neighbour(e) => KeyRef::label(5, e.router),
        }
    }

    fn of_key(key: &'a EntryKey) -> KeyRef<'a> {
        match key {
            EntryKey::Class { tenant, label } => KeyRef::class(*tenant, *label),
            EntryKey::Agent(label) => KeyRef::label(1, *label),
            EntryKey::Group(label) => KeyRef::label(2, *label),
            EntryKey::Identity(uri) => KeyRef::Uri(uri),
            EntryKey::Policy(id) => KeyRef::Packed(3, u64::from(*id)),
            EntryKey::Transit(label) => KeyRef::label(4, *label),
            EntryKey::Neighbour(label) => KeyRef::label(5, *label),
        }
    }

    fn class(tenant: u32, label: Label) -> KeyRef<'a> {
        KeyRef::Packed(0, u64::from(tenant) << 32 | u64::from(label.bits()))
    }

    fn label(table: u8, label: Label) -> KeyRef<'a> {
        KeyRef::Packed(table, u64::from(label.bits()))
    }
}

#[derive(Default)]
struct Seen<'a> {
    packed: HashSet<(u64, u64), MixState>,
    uris: HashSet<&'a str, MixState>,
}

impl<'a> Seen<'a> {
    fn first(&mut self, key: &KeyRef<'a>) -> bool {
        match *key {
            KeyRef::Packed(table, packed) => self.packed.insert((u64::from(table), packed)),
            KeyRef::Uri(uri) => self.uris.insert(uri),
        }
    }
}

type Verdict = Result<(), String>;

fn check(context: &Context<'_>, entry: &Entry) -> Verdict {
    match entry {
        Entry::Class(e) => class(e),
        Entry::Agent(e) => agent(e),
        Entry::Group(e) => group(e),
        Entry::Identity(e) => identity(context, e),
        Entry::Policy(e) => policy(e),
        Entry::Transit(e) => transit(context, e),
        Entry::Neighbour(e) => neighbour(context, e),
    }
}

fn check_key(key: &EntryKey) -> Verdict {
    match key {
        EntryKey::Class { label, .. } => class_label(*label),
        EntryKey::Agent(label) => agent_label(*label),
        EntryKey::Group(label) => group_label(*label),
        EntryKey::Transit(label) | EntryKey::Neighbour(label) => router_label(*label),
        EntryKey::Identity(_) | EntryKey::Policy(_) => Ok(()),
    }
}

fn class(e: &ClassEntry) -> Verdict {
    class_label(e.label)?;
    egress(&e.own, "own")?;
    egress(&e.subtree, "subtree")?;
    for own in &e.own {
        if !e.subtree.iter().any(|s| s.router == own.router) {
            return Err(format!("own member {} is missing in subtree", own.router));
        }
    }
    Ok(())
}

fn agent(e: &AgentEntry) -> Verdict {
    agent_label(e.label)?;
    let mut seen = 0u64;
    for at in &e.instances {
        if at.instance == 0 || at.instance > Label::INSTANCE_MAX {
            return Err(format!("instance {} is not within 1..=63", at.instance));
        }
        if seen & 1 << at.instance != 0 {
            return Err(format!("instance {} stands twice", at.instance));
        }
        seen |= 1 << at.instance;
        router_label(at.router)?;
        weight(at.weight, u32::MAX)?;
    }
    Ok(())
}

fn group(e: &GroupEntry) -> Verdict {
    group_label(e.label)?;
    distinct_routers(&e.routers)
}

fn identity(context: &Context<'_>, e: &IdentityEntry) -> Verdict {
    if e.uri.is_empty() || e.uri.len() > URI_BYTES_MAX {
        return Err(format!(
            "URI of {} bytes, 1..={URI_BYTES_MAX} allowed",
            e.uri.len()
        ));
    }
    agent_label(e.agent)?;
    if !context.policies.contains_key(&e.policy) {
        return Err(format!("its policy group {} is not in the table", e.policy));
    }
    for membership in &e.classes {
        class_label(membership.label)?;
        weight(membership.weight, 65_535)?;
    }
    e.groups.iter().try_for_each(|label| group_label(*label))
}

fn policy(e: &PolicyEntry) -> Verdict {
    if e.priority_max > 7 {
        return Err(format!("priority_max {} is above 7", e.priority_max));
    }
    for allow in e.allow.iter().filter(|allow| !allow.label.is_none()) {
        class_label(allow.label)?;
    }
    e.rate.iter().try_for_each(rate)?;
    let mut limited = BTreeSet::new();
    for limit in &e.class_rates {
        class_label(limit.label)?;
        rate(&limit.rate)?;
        if !limited.insert((limit.tenant, limit.label)) {
            return Err(format!(
                "two rates for {} of tenant {}",
                limit.label, limit.tenant
            ));
        }
    }
    Ok(())
}

fn rate(rate: &Rate) -> Verdict {
    let most = rate.messages_per_second.max(rate.bytes_per_second);
    if most > Rate::MAX || rate.burst_ms > Rate::BURST_MS_MAX {
        return Err(format!(
            "a rate of {most} with bursts of {} ms: at most {} and {} ms",
            rate.burst_ms,
            Rate::MAX,
            Rate::BURST_MS_MAX
        ));
    }
    Ok(())
}

fn transit(context: &Context<'_>, e: &TransitEntry) -> Verdict {
    other_router(context, e.router)?;
    for hop in e.next_hops.iter().chain(&e.alternates) {
        if !context.neighbours.contains_key(hop) {
            return Err(format!("next hop {hop} is not a neighbour in the table"));
        }
    }
    distinct_routers(&e.next_hops)?;
    distinct_routers(&e.alternates)
}

fn neighbour(context: &Context<'_>, e: &NeighbourEntry) -> Verdict {
    other_router(context, e.router)?;
    if e.uri.is_empty() || e.uri.len() > URI_BYTES_MAX {
        return Err(format!(
            "URI of {} bytes, 1..={URI_BYTES_MAX} allowed",
            e.uri.len()
        ));
    }
    Ok(())
}

fn other_router(context: &Context<'_>, label: Label) -> Verdict {
    router_label(label)?;
    if label == context.router {
        return Err("names this router itself".into());
    }
    Ok(())
}

fn class_label(label: Label) -> Verdict {
    match label.kind() == LabelKind::Class && !label.is_none() && label.is_well_formed() {
        true => Ok(()),
        false => Err(format!("{label} is not a class label")),
    }
}

fn agent_label(label: Label) -> Verdict {
    match label.kind() == LabelKind::Agent && label.instance() == 0 {
        true => Ok(()),
        false => Err(format!("{label} is not an agent label with instance 0")),
    }
}

fn group_label(label: Label) -> Verdict {
    match label.kind() == LabelKind::Group {
        true => Ok(()),
        false => Err(format!("{label} is not a group label")),
    }
}

fn router_label(label: Label) -> Verdict {
    match label.kind() == LabelKind::Router {
        true => Ok(()),
        false => Err(format!("{label} is not a router label")),
    }
}

fn weight(weight: u32, max: u32) -> Verdict {
    match (1..=max).contains(&weight) {
        true => Ok(()),
        false => Err(format!("weight {weight} is not within 1..={max}")),
    }
}

fn egress(members: &[Egress], which: &str) -> Verdict {
    for (at, member) in members.iter().enumerate() {
        router_label(member.router)?;
        weight(member.weight, u32::MAX)?;
        if members[..at].iter().any(|m| m.router == member.router) {
            return Err(format!("{} stands twice in {which}", member.router));
        }
    }
    Ok(())
}

fn distinct_routers(routers: &[Label]) -> Verdict {
    for (at, router) in routers.iter().enumerate() {
        router_label(*router)?;
        if routers[..at].contains(router) {
            return Err(format!("{router} stands twice"));
        }
    }
    Ok(())
}
