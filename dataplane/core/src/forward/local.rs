//! Who is attached here: class, agent and group labels to local instances. Changes with every
//! attachment, reads like the table. Refuses to know other routers.

use caplane_wire::Label;

use super::peers::PeerIdx;
use crate::fib::IdentityEntry;
use crate::mix::MixMap;

/// One attached instance that serves a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LocalMember {
    pub peer: PeerIdx,
    /// Instance label.
    pub label: Label,
    pub weight: u32,
}

/// Members of one class among the attached instances.
#[derive(Default)]
struct LocalClass {
    own: Vec<LocalMember>,
    subtree: Vec<LocalMember>,
}

/// The attached instances by what they answer to.
#[derive(Default)]
pub(super) struct LocalTable {
    /// Packed `tenant << 32 | label`.
    classes: MixMap<u64, LocalClass>,
    /// Instance label.
    instances: MixMap<u32, PeerIdx>,
    /// Agent label, instance 0.
    agents: MixMap<u32, Vec<LocalMember>>,
    groups: MixMap<u32, Vec<PeerIdx>>,
}

fn pack(tenant: u32, label: Label) -> u64 {
    u64::from(tenant) << 32 | u64::from(label.bits())
}

impl LocalTable {
    /// Members granted the class itself or anything below it.
    #[inline]
    pub fn subtree(&self, tenant: u32, label: Label) -> &[LocalMember] {
        let class = self.classes.get(&pack(tenant, label));
        class.map_or(&[], |class| &class.subtree)
    }

    /// Members granted exactly the class.
    #[inline]
    pub fn own(&self, tenant: u32, label: Label) -> &[LocalMember] {
        let class = self.classes.get(&pack(tenant, label));
        class.map_or(&[], |class| &class.own)
    }

    #[inline]
    pub fn instance(&self, label: Label) -> Option<PeerIdx> {
        self.instances.get(&label.bits()).copied()
    }

    #[inline]
    pub fn agent(&self, any_instance: Label) -> &[LocalMember] {
        self.agents
            .get(&any_instance.bits())
            .map_or(&[], Vec::as_slice)
    }

    #[inline]
    pub fn group(&self, label: Label) -> &[PeerIdx] {
        self.groups.get(&label.bits()).map_or(&[], Vec::as_slice)
    }

    /// Makes the instance reachable by its own label; what else it serves is [`LocalTable::serve`].
    pub fn attach(&mut self, peer: PeerIdx, label: Label) {
        self.instances.insert(label.bits(), peer);
        // Instances of one agent share alike; their class weights count for classes only.
        let member = LocalMember {
            peer,
            label,
            weight: 1,
        };
        self.agents
            .entry(label.any_instance().bits())
            .or_default()
            .push(member);
    }

    pub fn detach(&mut self, peer: PeerIdx, label: Label) {
        self.instances.remove(&label.bits());
        let agent = label.any_instance().bits();
        if let Some(members) = self.agents.get_mut(&agent) {
            members.retain(|member| member.peer != peer);
            if members.is_empty() {
                self.agents.remove(&agent);
            }
        }
    }

    /// Adds what the identity serves. An instance with several grants below one class counts there
    /// once, with the largest of their weights.
    pub fn serve(&mut self, peer: PeerIdx, label: Label, identity: &IdentityEntry) {
        for grant in &identity.classes {
            let member = LocalMember {
                peer,
                label,
                weight: grant.weight,
            };
            let class = self
                .classes
                .entry(pack(grant.tenant, grant.label))
                .or_default();
            add(&mut class.own, member);
            add(&mut class.subtree, member);
            for above in grant.label.ancestors() {
                let class = self.classes.entry(pack(grant.tenant, above)).or_default();
                add(&mut class.subtree, member);
            }
        }
        for group in &identity.groups {
            let members = self.groups.entry(group.bits()).or_default();
            if !members.contains(&peer) {
                members.push(peer);
            }
        }
    }

    /// Takes back what [`LocalTable::serve`] added; `groups` too, or only the classes (draining).
    pub fn unserve(&mut self, peer: PeerIdx, identity: &IdentityEntry, groups: bool) {
        for grant in &identity.classes {
            for label in core::iter::once(grant.label).chain(grant.label.ancestors()) {
                let key = pack(grant.tenant, label);
                let Some(class) = self.classes.get_mut(&key) else {
                    continue;
                };
                class.own.retain(|member| member.peer != peer);
                class.subtree.retain(|member| member.peer != peer);
                if class.subtree.is_empty() {
                    self.classes.remove(&key);
                }
            }
        }
        if !groups {
            return;
        }
        for group in &identity.groups {
            if let Some(members) = self.groups.get_mut(&group.bits()) {
                members.retain(|member| *member != peer);
                if members.is_empty() {
                    self.groups.remove(&group.bits());
                }
            }
        }
    }
}

fn add(members: &mut Vec<LocalMember>, new: LocalMember) {
    match members.iter_mut().find(|member| member.peer == new.peer) {
        Some(known) => known.weight = known.weight.max(new.weight),
        None => members.push(new),
    }
}
