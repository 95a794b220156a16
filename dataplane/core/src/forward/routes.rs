//! Next hops towards every other router, with the dead ones left out: rebuilt when a neighbour comes,
//! goes or falls silent, and when the topology of the table changes. Refuses to know labels other than
//! routers'.

use std::collections::BTreeMap;

use caplane_wire::Label;

use super::peers::{PeerIdx, Peers, Role};
use crate::fib::Fib;
use crate::mix::MixMap;

/// Next hops kept per router. Four equal paths use the width of a fabric's spine; a fifth adds nothing.
const HOPS_MAX: usize = 4;

/// Live next hops towards one router.
#[derive(Clone, Copy, Default)]
struct Hops {
    /// Shares the flows: the live next hops on shortest paths, or one alternate when none is.
    hops: [Option<PeerIdx>; HOPS_MAX],
    count: u8,
    /// The first live alternate beyond `hops`: used when the only hop would lead back.
    spare: Option<PeerIdx>,
}

/// Routers with a number below this stand in an array: 4,096 x 40 bytes at most.
const DENSE: u32 = 4_096;

/// Next hops of one router's forwarder.
#[derive(Default)]
pub(super) struct Routes {
    /// By router number.
    dense: Vec<Hops>,
    sparse: MixMap<u32, Hops>,
}

impl Routes {
    /// Builds the table anew from the topology and the neighbours that are up and alive. Connections
    /// of `worker` are preferred where a neighbour has several.
    pub fn rebuild(&mut self, fib: &Fib, peers: &Peers, worker: u8) {
        let mut up: BTreeMap<Label, PeerIdx> = BTreeMap::new();
        for (at, peer) in peers.iter() {
            if let Role::Neighbour {
                router,
                alive: true,
            } = peer.role
            {
                let held = up.get(&router).map(|held| peers.get(*held).key);
                if held.is_none_or(|held| held.worker != worker && peer.key.worker == worker) {
                    up.insert(router, at);
                }
            }
        }
        self.dense.clear();
        self.sparse.clear();
        for entry in fib.transits() {
            let live = |label: &Label| up.get(label).copied();
            let mut hops = Hops::default();
            for hop in entry.next_hops.iter().filter_map(live).take(HOPS_MAX) {
                hops.hops[usize::from(hops.count)] = Some(hop);
                hops.count += 1;
            }
            let mut alternates = entry.alternates.iter().filter_map(live);
            if hops.count == 0 {
                hops.hops[0] = alternates.next();
                hops.count = u8::from(hops.hops[0].is_some());
            }
            hops.spare = alternates.find(|at| !hops.hops.contains(&Some(*at)));
            self.insert(entry.router, hops);
        }
    }

    fn insert(&mut self, router: Label, hops: Hops) {
        let number = router.number();
        if number >= DENSE {
            self.sparse.insert(number, hops);
            return;
        }
        let at = number as usize;
        if self.dense.len() <= at {
            self.dense.resize(at + 1, Hops::default());
        }
        self.dense[at] = hops;
    }

    #[inline]
    fn hops(&self, router: Label) -> Option<&Hops> {
        let number = router.number();
        match self.dense.get(number as usize) {
            Some(hops) => Some(hops),
            None if number < DENSE => None,
            None => self.sparse.get(&number),
        }
    }

    /// Is there a live next hop towards the router?
    #[inline]
    pub fn reaches(&self, router: Label) -> bool {
        self.hops(router).is_some_and(|hops| hops.count > 0)
    }

    /// The next hop for a flow (its hash, made where there is a choice), never `back` (where the message came from).
    #[inline]
    pub fn next_hop(
        &self,
        router: Label,
        flow: impl FnOnce() -> u64,
        back: Option<PeerIdx>,
    ) -> Option<PeerIdx> {
        let hops = self.hops(router)?;
        let first = match hops.count {
            0 | 1 => hops.hops[0],
            count => {
                let at = ((flow() & 0xffff_ffff) * u64::from(count)) >> 32;
                hops.hops[at as usize % HOPS_MAX]
            }
        };
        if back.is_none() || first != back {
            return first;
        }
        hops.beside(back)
    }
}

impl Hops {
    /// A next hop that is not `back`, which would be the first choice.
    #[cold]
    fn beside(&self, back: Option<PeerIdx>) -> Option<PeerIdx> {
        let others = self.hops[..usize::from(self.count)].iter().copied();
        others
            .flatten()
            .find(|hop| Some(*hop) != back)
            .or(self.spare)
    }
}
