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
    /// Place in `LocalTable::lists` of a set of several, kept for its next use; 0 = none yet.
    lists: [u32; 2],
}

/// Who serves a label here.
#[derive(Clone, Copy)]
pub(super) enum Here<'a> {
    Nobody,
    One(PeerIdx),
    Many(&'a [LocalMember]),
}

/// What a message reads of a class: own and subtree set. 0 = nobody, top bit = the only member's peer, else
/// the place of the members in `LocalTable::lists`.
#[derive(Clone, Copy, Default)]
struct Packed {
    own: u32,
    subtree: u32,
}

const ONE: u32 = 1 << 31;

/// The attached instances by what they answer to.
#[derive(Default)]
pub(super) struct LocalTable {
    /// Packed `tenant << 32 | label`; 16 bytes an entry, since every message here reads one.
    packed: MixMap<u64, Packed>,
    lists: Vec<Vec<LocalMember>>,
    /// Lists that nobody uses.
    free: Vec<u32>,
    /// What `packed` is made from.
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
    pub fn subtree(&self, tenant: u32, label: Label) -> Here<'_> {
        match self.packed.get(&pack(tenant, label)) {
            Some(packed) => self.here(packed.subtree),
            None => Here::Nobody,
        }
    }

    /// Members granted exactly the class.
    #[inline]
    pub fn own(&self, tenant: u32, label: Label) -> Here<'_> {
        match self.packed.get(&pack(tenant, label)) {
            Some(packed) => self.here(packed.own),
            None => Here::Nobody,
        }
    }

    #[inline]
    fn here(&self, packed: u32) -> Here<'_> {
        match packed {
            0 => Here::Nobody,
            one if one & ONE != 0 => Here::One(PeerIdx(one & !ONE)),
            at => Here::Many(&self.lists[at as usize]),
        }
    }

    /// Makes `packed` say what `classes` says.
    fn repack(&mut self, key: u64) {
        let Some(class) = self.classes.get_mut(&key) else {
            self.packed.remove(&key);
            return;
        };
        if self.lists.is_empty() {
            self.lists.push(Vec::new());
        }
        let mut packed = [0; 2];
        for (at, members) in [&class.own, &class.subtree].into_iter().enumerate() {
            packed[at] = match &members[..] {
                [] => 0,
                [one] => ONE | one.peer.0,
                several => {
                    if class.lists[at] == 0 {
                        class.lists[at] = self.free.pop().unwrap_or_else(|| {
                            self.lists.push(Vec::new());
                            self.lists.len() as u32 - 1
                        });
                    }
                    let list = &mut self.lists[class.lists[at] as usize];
                    list.clear();
                    list.extend_from_slice(several);
                    class.lists[at]
                }
            };
        }
        let [own, subtree] = packed;
        if subtree == 0 {
            self.free
                .extend(class.lists.into_iter().filter(|list| *list != 0));
            self.classes.remove(&key);
            self.packed.remove(&key);
        } else {
            self.packed.insert(key, Packed { own, subtree });
        }
    }

    #[inline]
    pub fn instance(&self, label: Label) -> Option<PeerIdx> {
        self.instances.get(&label.bits()).copied()
    }

    #[inline]
    pub fn agent(&self, any_instance: Label) -> Here<'_> {
        match self.agents.get(&any_instance.bits()) {
            Some(members) => Here::Many(members),
            None => Here::Nobody,
        }
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
            let weight = grant.weight;
            let member = LocalMember {
                peer,
                label,
                weight,
            };
            for at in core::iter::once(grant.label).chain(grant.label.ancestors()) {
                let key = pack(grant.tenant, at);
                let class = self.classes.entry(key).or_default();
                if at == grant.label {
                    add(&mut class.own, member);
                }
                add(&mut class.subtree, member);
                self.repack(key);
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
                self.repack(key);
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
