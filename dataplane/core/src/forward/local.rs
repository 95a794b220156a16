//! Who is attached here: class, agent and group labels to local instances. Changes with every
//! attachment, reads like the table. Refuses to know other routers.

use caplane_wire::Label;

use super::peers::PeerIdx;
use crate::choice::Seats;
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

/// The members of one label.
#[derive(Default)]
pub(super) struct Several {
    members: Vec<LocalMember>,
    /// Made when the members are many.
    crowd: Option<Box<Crowd>>,
}

/// What makes choosing from many members, and finding one of them, cost what it costs with few.
#[derive(Default)]
struct Crowd {
    seats: Seats,
    /// Peer -> its place among the members.
    places: MixMap<u32, u32>,
}

/// From here on choosing by seats is cheaper than looking at every member.
const MANY: usize = 32;

impl Several {
    #[inline]
    pub fn members(&self) -> &[LocalMember] {
        &self.members
    }

    /// How a large set is chosen from; `None` = look at the members.
    #[inline]
    pub fn seats(&self) -> Option<&Seats> {
        self.crowd.as_deref().map(|crowd| &crowd.seats)
    }

    fn place(&self, peer: PeerIdx) -> Option<usize> {
        match &self.crowd {
            Some(crowd) => crowd.places.get(&peer.0).map(|at| *at as usize),
            None => self.members.iter().position(|member| member.peer == peer),
        }
    }

    /// Adds a member; one that is there already keeps the larger weight.
    fn add(&mut self, new: LocalMember) {
        let at = self.place(new.peer).unwrap_or_else(|| {
            self.members.push(new);
            self.members.len() - 1
        });
        let member = &mut self.members[at];
        member.weight = member.weight.max(new.weight);
        let member = *member;
        if let Some(crowd) = &mut self.crowd {
            crowd.join(&member, at);
        } else if self.members.len() > MANY {
            let mut crowd = Box::<Crowd>::default();
            let members = self.members.iter().enumerate();
            members.for_each(|(at, member)| crowd.join(member, at));
            self.crowd = Some(crowd);
        }
    }

    fn remove(&mut self, peer: PeerIdx) {
        let Some(at) = self.place(peer) else {
            return;
        };
        let gone = self.members.swap_remove(at);
        // Not at once at MANY: a set that goes to and fro should not be made anew each time.
        if self.members.len() < MANY / 2 {
            self.crowd = None;
        }
        if let Some(crowd) = &mut self.crowd {
            crowd.seats.remove(gone.label.bits());
            crowd.places.remove(&gone.peer.0);
            if let Some(moved) = self.members.get(at) {
                crowd.places.insert(moved.peer.0, at as u32);
            }
        }
    }
}

impl Crowd {
    fn join(&mut self, member: &LocalMember, at: usize) {
        let LocalMember {
            peer,
            label,
            weight,
        } = *member;
        self.seats.put(label.bits(), weight, peer.0);
        self.places.insert(peer.0, at as u32);
    }
}

/// Members of one class among the attached instances.
#[derive(Default)]
struct LocalClass {
    own: Several,
    subtree: Several,
}

/// Where a set of several members stands, until somebody comes or goes: twice its class's place, and 1 for `own`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SetAt(pub u32);

/// Who serves a class here.
#[derive(Clone, Copy)]
pub(super) enum Here {
    Nobody,
    One(PeerIdx),
    Many(SetAt),
}

/// What a message reads of a class: own and subtree set. 0 = nobody, top bit = the only member's peer, else
/// 1 + the class's place.
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
    classes: Vec<LocalClass>,
    /// Places in `classes`, and those that nobody uses.
    places: MixMap<u64, u32>,
    free: Vec<u32>,
    /// Instance label.
    instances: MixMap<u32, PeerIdx>,
    /// Agent label, instance 0.
    agents: MixMap<u32, Several>,
    groups: MixMap<u32, Vec<PeerIdx>>,
}

fn pack(tenant: u32, label: Label) -> u64 {
    u64::from(tenant) << 32 | u64::from(label.bits())
}

/// A half of [`Packed`]; `own` is 1 for the own members.
#[inline]
fn here(packed: u32, own: u32) -> Here {
    match packed {
        0 => Here::Nobody,
        one if one & ONE != 0 => Here::One(PeerIdx(one & !ONE)),
        at => Here::Many(SetAt((at - 1) << 1 | own)),
    }
}

impl LocalTable {
    /// Members granted the class itself or anything below it.
    #[inline]
    pub fn subtree(&self, tenant: u32, label: Label) -> Here {
        match self.packed.get(&pack(tenant, label)) {
            Some(packed) => here(packed.subtree, 0),
            None => Here::Nobody,
        }
    }

    /// Members granted exactly the class.
    #[inline]
    pub fn own(&self, tenant: u32, label: Label) -> Here {
        match self.packed.get(&pack(tenant, label)) {
            Some(packed) => here(packed.own, 1),
            None => Here::Nobody,
        }
    }

    /// The members of a set that is there; nobody came or went since it was found.
    #[inline]
    pub fn set(&self, SetAt(at): SetAt) -> &Several {
        let class = &self.classes[at as usize / 2];
        if at % 2 == 0 {
            &class.subtree
        } else {
            &class.own
        }
    }

    /// Changes a class and makes `packed` say so.
    fn change(&mut self, key: u64, change: impl FnOnce(&mut LocalClass)) {
        let at = *self.places.entry(key).or_insert_with(|| {
            self.free.pop().unwrap_or_else(|| {
                self.classes.push(LocalClass::default());
                self.classes.len() as u32 - 1
            })
        });
        let class = &mut self.classes[at as usize];
        change(class);
        let packed = |several: &Several| match several.members() {
            [] => 0,
            [one] => ONE | one.peer.0,
            _ => at + 1,
        };
        let packed = Packed {
            own: packed(&class.own),
            subtree: packed(&class.subtree),
        };
        if packed.subtree == 0 {
            self.packed.remove(&key);
            self.places.remove(&key);
            self.free.push(at);
        } else {
            self.packed.insert(key, packed);
        }
    }

    #[inline]
    pub fn instance(&self, label: Label) -> Option<PeerIdx> {
        self.instances.get(&label.bits()).copied()
    }

    #[inline]
    pub fn agent(&self, any_instance: Label) -> Option<&Several> {
        self.agents.get(&any_instance.bits())
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
            .add(member);
    }

    pub fn detach(&mut self, peer: PeerIdx, label: Label) {
        self.instances.remove(&label.bits());
        let agent = label.any_instance().bits();
        if let Some(members) = self.agents.get_mut(&agent) {
            members.remove(peer);
            if members.members().is_empty() {
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
                self.change(pack(grant.tenant, at), |class| {
                    if at == grant.label {
                        class.own.add(member);
                    }
                    class.subtree.add(member);
                });
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
                self.change(pack(grant.tenant, label), |class| {
                    class.own.remove(peer);
                    class.subtree.remove(peer);
                });
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
