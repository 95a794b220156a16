//! Who serves a class by the table alone: the class itself, the shared one, a parent (R9, R13). Refuses to know
//! policy and who is alive; the forwarder asks for both at each step of the same order.

use core::hint::black_box;

use caplane_wire::Label;

use super::Fib;
use super::edge::{ClassView, Place};
use super::sets::Reference;

/// The class that serves a question, as the table has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serving {
    /// Tenant of the class matched; 0 = shared.
    pub tenant: u32,
    /// The class matched: the one asked for, or one above it.
    pub label: Label,
    /// The first of its egress routers.
    pub egress: Label,
}

/// Questions whose loads are under way at once. The out-of-order window of today's cores holds about as many.
pub(crate) const BATCH: usize = 32;

impl Fib {
    /// Loads what lookups of these labels, at most [`BATCH`], will look at first, all loads under way at once. Labels
    /// that are not classes have tenant 0.
    #[inline]
    pub(crate) fn warm(&self, asked: impl Iterator<Item = (u32, Label)>) {
        let mut places = [Place::NOWHERE; BATCH];
        let mut count = 0;
        for (place, (tenant, label)) in places.iter_mut().zip(asked) {
            *place = self.edge.place(tenant, label);
            count += 1;
        }
        load(&places[..count]);
    }

    /// Who serves `label` for `tenant`.
    #[inline]
    pub fn serving(&self, tenant: u32, label: Label) -> Option<Serving> {
        let mut at = label;
        loop {
            let of = |owner| {
                let view = self.edge.class(owner, at)?;
                serving(&view, owner, at, at != label)
            };
            let shared = || if tenant == 0 { None } else { of(0) };
            if let Some(found) = of(tenant).or_else(shared) {
                return Some(found);
            }
            at = at.parent()?;
        }
    }

    /// [`Fib::serving`] of many `asked` at once: every round first loads what it will look at, so that a large
    /// table's memory is waited for once for all of them and not once for each.
    ///
    /// # Panics
    ///
    /// When `found` is shorter than `asked`.
    pub fn serving_all(&self, asked: &[(u32, Label)], found: &mut [Option<Serving>]) {
        let found = &mut found[..asked.len()];
        for (asked, found) in asked.chunks(BATCH).zip(found.chunks_mut(BATCH)) {
            self.serving_batch(asked, found);
        }
    }

    /// Rounds in the order of [`Fib::serving`], for those that found nothing in the round before. Which those are, and
    /// whose members stand elsewhere, cannot be foretold: lists of them are written without a branch.
    fn serving_batch(&self, asked: &[(u32, Label)], found: &mut [Option<Serving>]) {
        let mut places = [Place::NOWHERE; BATCH];
        let mut matched = [Match::NONE; BATCH];
        let mut labels = [Label::NONE; BATCH];
        let mut open: [u8; BATCH] = core::array::from_fn(|at| at as u8);
        for (label, asked) in labels.iter_mut().zip(asked) {
            *label = asked.1;
        }
        let mut count = asked.len();
        for round in 0.. {
            let (shared, above) = (round % 2 == 1, round >= 2);
            for (place, n) in places.iter_mut().zip(&open[..count]) {
                let n = usize::from(*n) % BATCH;
                let owner = if shared { 0 } else { asked[n].0 };
                *place = self.edge.place(owner, labels[n]);
            }
            load(&places[..count]);
            let mut still = 0;
            for at in 0..count {
                let n = usize::from(open[at]) % BATCH;
                let set = self.edge.set_at(&places[at], above);
                matched[n] = Match {
                    key: places[at].key(),
                    set,
                };
                open[still] = n as u8;
                still += usize::from(set.is_empty());
            }
            count = still;
            if shared {
                count = climb(&mut open[..still], &mut labels);
            }
            if count == 0 {
                break;
            }
        }
        let mut apart = [0; BATCH];
        let mut count = 0;
        for (n, (matched, found)) in matched.iter().zip(found.iter_mut()).enumerate() {
            *found = Some(matched.served_by(matched.set.router()));
            apart[count % BATCH] = n as u8;
            count += usize::from(!matched.set.is_packed());
        }
        for n in &apart[..count] {
            let n = usize::from(*n);
            let first = self.edge.first(matched[n].key, matched[n].set);
            found[n] = first.map(|member| matched[n].served_by(member.router));
        }
    }
}

/// Nothing but loads: the fewer instructions between them, the more are under way at once.
#[inline]
fn load(places: &[Place<'_>]) {
    black_box(places.iter().fold(0, |sum, place| sum ^ place.touch()));
}

/// What a question has found so far.
#[derive(Clone, Copy)]
struct Match {
    key: u64,
    set: Reference,
}

impl Match {
    const NONE: Match = Match {
        key: 0,
        set: Reference(0),
    };

    #[inline]
    fn served_by(&self, egress: Label) -> Serving {
        Serving {
            tenant: (self.key >> 32) as u32,
            label: Label::from_bits(self.key as u32),
            egress,
        }
    }
}

/// One level up for those `open`; those at the top are out. Returns how many are left, in front.
fn climb(open: &mut [u8], labels: &mut [Label; BATCH]) -> usize {
    let mut left = 0;
    for at in 0..open.len() {
        let n = open[at];
        let label = &mut labels[usize::from(n) % BATCH];
        let parent = label.parent();
        *label = parent.unwrap_or(Label::NONE);
        open[left] = n;
        left += usize::from(parent.is_some());
    }
    left
}

/// Of classes above the one asked for only their own members serve.
#[inline]
fn serving(view: &ClassView<'_>, tenant: u32, label: Label, above: bool) -> Option<Serving> {
    let members = if above { view.own() } else { view.subtree() };
    let first = members.as_slice().first()?;
    Some(Serving {
        tenant,
        label,
        egress: first.router,
    })
}
