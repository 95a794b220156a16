//! Decisions remembered: where messages that ask for a label went last, so that the next one costs one look here
//! instead of one into each table. Only what is the same for every flow is kept ([`super::decide::Flow`] tells), and
//! everything is forgotten at once when anything changes that a decision reads. Refuses to know how one is made.

use caplane_wire::Label;

use super::decide::Target;
use super::local::SetAt;
use super::peers::PeerIdx;
use crate::mix::MixMap;

/// Who asks, as far as the answer depends on it.
#[derive(Clone, Copy)]
pub(super) enum Asker {
    /// Instances of this policy group, at the ingress router.
    Policy(u32),
    /// Other routers, at the egress router.
    Fabric,
}

/// Stands for an [`Asker`] until the next [`Recall::forget`]: what was remembered under another tag is void. Never 0.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag(u32);

/// 16 bytes; tag 0 = free.
#[derive(Clone, Copy, Default)]
struct Known {
    key: u64,
    tag: u32,
    target: u32,
}

const WAYS: usize = 4;

/// What a question looks at: one cache line.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Line([Known; WAYS]);

/// What one worker remembers.
pub(super) struct Recall {
    /// Made when first used: a router without traffic has none.
    lines: Box<[Line]>,
    lines_max: usize,
    tags: MixMap<u64, u32>,
    /// The last tag that was given out, and the last one that is void.
    last: u32,
    void: u32,
    /// Whose place is taken next in a line that is full.
    turn: usize,
    /// Something was not remembered since [`Recall::missed`] was asked.
    missed: bool,
}

impl Recall {
    /// Remembers so many decisions.
    pub fn new(decisions: usize) -> Recall {
        Recall {
            lines: Box::default(),
            lines_max: decisions.div_ceil(WAYS),
            tags: MixMap::default(),
            last: 0,
            void: 0,
            turn: 0,
            missed: true,
        }
    }

    /// Everything is decided anew from now on. Costs the same however much is remembered.
    pub fn forget(&mut self) {
        self.void = self.last;
        self.tags.clear();
    }

    /// The tag under which this one's answers are remembered.
    pub fn tag(&mut self, asker: Asker) -> Tag {
        let asker = match asker {
            Asker::Policy(group) => u64::from(group),
            Asker::Fabric => u64::MAX,
        };
        if let Some(tag) = self.tags.get(&asker) {
            return Tag(*tag);
        }
        if self.last == u32::MAX {
            // Four billion changes: old tags would come again.
            self.lines.fill(Line::default());
            self.tags.clear();
            (self.last, self.void) = (0, 0);
        }
        self.last += 1;
        self.tags.insert(asker, self.last);
        Tag(self.last)
    }

    /// Where messages of this asker go that ask for this label.
    #[inline]
    pub fn find(&self, tag: Tag, tenant: u32, requested: Label) -> Option<Target> {
        let key = key(tenant, requested);
        let line = self.lines.get(place(key, self.lines.len()))?;
        // Without a branch: which of the ways it is cannot be foretold.
        let mut found = None;
        for known in &line.0 {
            let same = (known.key == key) & (known.tag == tag.0);
            found = if same { Some(known.target) } else { found };
        }
        found.map(unpacked)
    }

    /// Remembers it. What a full line held longest goes.
    pub fn put(&mut self, tag: Tag, tenant: u32, requested: Label, target: Target) {
        let Some(target) = packed(target) else {
            return;
        };
        if self.lines.is_empty() {
            self.lines = vec![Line::default(); self.lines_max].into();
        }
        let key = key(tenant, requested);
        let at = place(key, self.lines.len());
        let Some(line) = self.lines.get_mut(at) else {
            return;
        };
        let void = |known: &Known| known.tag <= self.void;
        let free = line.0.iter().position(void);
        let way = free.unwrap_or_else(|| {
            self.turn = (self.turn + 1) % WAYS;
            self.turn
        });
        line.0[way] = Known {
            key,
            tag: tag.0,
            target,
        };
    }

    /// A label was looked up in the tables.
    pub fn miss(&mut self) {
        self.missed = true;
    }

    /// Was there any since the last time?
    #[inline]
    pub fn missed(&mut self) -> bool {
        core::mem::take(&mut self.missed)
    }
}

#[inline]
fn key(tenant: u32, requested: Label) -> u64 {
    u64::from(tenant) << 32 | u64::from(requested.bits())
}

/// The upper bits of a product with an odd constant depend on all bits of the key.
#[inline]
fn place(key: u64, lines: usize) -> usize {
    let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    ((hash * lines as u64) >> 32) as usize
}

/// The upper two bits say what the others are: a peer, a router's number, a set of members here, nothing.
const KIND: u32 = 30;
const VALUE: u32 = (1 << KIND) - 1;

/// `None` = a number that does not fit, which no table of this size has.
fn packed(target: Target) -> Option<u32> {
    let (kind, value) = match target {
        Target::Here(PeerIdx(peer)) => (0, peer),
        Target::Router(router) => (1, router.number()),
        Target::OneOf(SetAt(set)) => (2, set),
        Target::Group => (3, 0),
    };
    (value <= VALUE).then_some(kind << KIND | value)
}

#[inline]
fn unpacked(bits: u32) -> Target {
    let value = bits & VALUE;
    match bits >> KIND {
        0 => Target::Here(PeerIdx(value)),
        1 => Target::Router(Label::from_bits(ROUTER | value)),
        2 => Target::OneOf(SetAt(value)),
        _ => Target::Group,
    }
}

/// Type bits of a router label.
const ROUTER: u32 = 3 << KIND;

#[cfg(test)]
mod tests {
    use super::*;

    fn class(n: u32) -> Label {
        Label::class(1 + (n / 1_000) as u16, 1 + (n % 1_000) as u16, 0).unwrap()
    }

    fn peer(found: Option<Target>) -> Option<u32> {
        match found? {
            Target::Here(PeerIdx(peer)) => Some(peer),
            _ => None,
        }
    }

    #[test]
    fn what_was_put_is_found_under_its_tag_only() {
        let mut recall = Recall::new(64);
        let (one, two) = (recall.tag(Asker::Policy(1)), recall.tag(Asker::Policy(2)));
        let fabric = recall.tag(Asker::Fabric);
        recall.put(one, 1, class(5), Target::Here(PeerIdx(7)));
        assert_eq!(peer(recall.find(one, 1, class(5))), Some(7));
        for (tag, tenant, label) in [
            (two, 1, class(5)),
            (fabric, 1, class(5)),
            (one, 0, class(5)),
            (one, 1, class(6)),
        ] {
            assert!(recall.find(tag, tenant, label).is_none());
        }
        assert!(recall.tag(Asker::Policy(1)) == one);
    }

    #[test]
    fn targets_survive_packing() {
        let router = Label::router((1 << KIND) - 1).unwrap();
        for target in [
            Target::Here(PeerIdx(9)),
            Target::Router(router),
            Target::OneOf(SetAt(3)),
            Target::Group,
        ] {
            assert_eq!(packed(target).map(unpacked), Some(target));
        }
        assert_eq!(packed(Target::Here(PeerIdx(1 << KIND))), None);
    }

    #[test]
    fn all_is_forgotten_at_once_and_places_are_used_again() {
        let mut recall = Recall::new(WAYS);
        let old = recall.tag(Asker::Policy(1));
        for n in 0..WAYS as u32 {
            recall.put(old, 1, class(n), Target::Here(PeerIdx(n)));
        }
        recall.forget();
        let new = recall.tag(Asker::Policy(1));
        assert!(recall.find(new, 1, class(0)).is_none());
        for n in 0..WAYS as u32 {
            recall.put(new, 1, class(n), Target::Here(PeerIdx(n + 100)));
        }
        for n in 0..WAYS as u32 {
            assert_eq!(peer(recall.find(new, 1, class(n))), Some(n + 100));
        }
        // A full line lets one go for each that comes.
        recall.put(new, 1, class(50), Target::Here(PeerIdx(50)));
        let left = (0..WAYS as u32).filter(|n| recall.find(new, 1, class(*n)).is_some());
        assert_eq!(left.count(), WAYS - 1);
        assert_eq!(peer(recall.find(new, 1, class(50))), Some(50));
    }

    #[test]
    fn tags_that_come_again_find_nothing_old() {
        let mut recall = Recall::new(64);
        let first = recall.tag(Asker::Policy(1));
        recall.put(first, 1, class(1), Target::Here(PeerIdx(1)));
        recall.last = u32::MAX;
        recall.forget();
        let again = recall.tag(Asker::Policy(1));
        assert!(again == first);
        assert!(recall.find(again, 1, class(1)).is_none());
    }

    #[test]
    fn without_room_nothing_is_remembered() {
        let mut recall = Recall::new(0);
        let tag = recall.tag(Asker::Fabric);
        recall.put(tag, 1, class(1), Target::Here(PeerIdx(1)));
        assert!(recall.find(tag, 1, class(1)).is_none());
    }
}
