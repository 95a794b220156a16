//! Who serves a class by the table alone: the class itself, the shared one, a parent (R9, R13). Refuses to know
//! policy and who is alive; the forwarder asks for both at each step of the same order.

use caplane_wire::Label;

use super::Fib;
use super::edge::{ClassView, EdgeTable, Place};
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
        for (tenant, label) in asked.take(BATCH) {
            self.edge.place(tenant, label).prefetch();
        }
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
        let mut batch = Batch::new();
        batch.ask(&self.edge, asked.iter().copied());
        batch.look(&self.edge, 0..asked.len() as u8, false);
        let mut labels = [Label::NONE; BATCH];
        for (label, asked) in labels.iter_mut().zip(asked) {
            *label = asked.1;
        }
        let mut above = false;
        while batch.open_count > 0 {
            let open = batch.open;
            let open = &open[..batch.open_count];
            batch.ask(
                &self.edge,
                open.iter().map(|n| (0, labels[usize::from(*n) % BATCH])),
            );
            batch.look(&self.edge, open.iter().copied(), above);
            above = true;
            batch.climb(&mut labels);
            let open = batch.open;
            let open = &open[..batch.open_count];
            let up = open.iter().map(|n| {
                let n = usize::from(*n) % BATCH;
                (asked[n].0, labels[n])
            });
            batch.ask(&self.edge, up);
            batch.look(&self.edge, open.iter().copied(), above);
        }
        let mut apart = [0; BATCH];
        let mut count = 0;
        for (n, (matched, found)) in batch.matched.iter().zip(found.iter_mut()).enumerate() {
            *found = Some(matched.served_by(matched.set.router()));
            apart[count % BATCH] = n as u8;
            count += usize::from(!matched.set.is_packed());
        }
        for n in &apart[..count] {
            let n = usize::from(*n) % BATCH;
            let matched = batch.matched[n];
            let first = self.edge.first(matched.key, matched.set);
            found[n] = first.map(|member| matched.served_by(member.router));
        }
    }
}

/// Questions whose rounds go together.
struct Batch<'a> {
    places: [Place<'a>; BATCH],
    matched: [Match; BATCH],
    /// Numbers of those that found nothing yet, in front.
    open: [u8; BATCH],
    open_count: usize,
}

impl<'a> Batch<'a> {
    fn new() -> Batch<'a> {
        Batch {
            places: [Place::NOWHERE; BATCH],
            matched: [Match::NONE; BATCH],
            open: [0; BATCH],
            open_count: 0,
        }
    }

    /// Asks memory for all the lines of a round.
    #[inline(always)]
    fn ask(&mut self, edge: &'a EdgeTable, classes: impl Iterator<Item = (u32, Label)>) {
        for (place, (owner, label)) in self.places.iter_mut().zip(classes) {
            *place = edge.place(owner, label);
            place.prefetch();
        }
    }

    /// Looks at them, for the questions of these numbers.
    #[inline(always)]
    fn look(&mut self, edge: &EdgeTable, numbers: impl Iterator<Item = u8>, above: bool) {
        let mut still = 0;
        for (place, n) in self.places.iter().zip(numbers) {
            let set = edge.set_at(place, above);
            self.matched[usize::from(n) % BATCH] = Match {
                key: place.key(),
                set,
            };
            self.open[still % BATCH] = n;
            still += usize::from(set.is_empty());
        }
        self.open_count = still;
    }

    /// One level up for those that are open; those at the top are out.
    fn climb(&mut self, labels: &mut [Label; BATCH]) {
        let mut left = 0;
        for at in 0..self.open_count {
            let n = self.open[at % BATCH];
            let label = &mut labels[usize::from(n) % BATCH];
            let parent = label.parent();
            *label = parent.unwrap_or(Label::NONE);
            self.open[left % BATCH] = n;
            left += usize::from(parent.is_some());
        }
        self.open_count = left;
    }
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
