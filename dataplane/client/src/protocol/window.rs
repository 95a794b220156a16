//! The sender's window of one flow: what was numbered and is not settled, in order of sequence. Knows nothing of timers
//! or payloads.

use std::collections::VecDeque;

/// Entries from the oldest unsettled sequence to the newest. Numbers that need no settling take a place only while an
/// older one is unsettled, so a flow of fire-and-forget messages holds nothing.
#[derive(Debug)]
pub(crate) struct SendWindow<E> {
    base: u32,
    places: VecDeque<Option<E>>,
}

impl<E> SendWindow<E> {
    /// A window whose first sequence will be `first`.
    pub(crate) fn new(first: u32) -> Self {
        Self {
            base: first,
            places: VecDeque::new(),
        }
    }

    /// The distance from the oldest unsettled sequence to the next one; 0 when all is settled.
    pub(crate) fn span(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Takes the next sequence for a message that must be settled.
    pub(crate) fn push(&mut self, entry: E) -> u32 {
        let sequence = self.base.wrapping_add(self.places.len() as u32);
        self.places.push_back(Some(entry));
        sequence
    }

    /// Takes the next sequence for a message that nobody waits for.
    pub(crate) fn skip(&mut self) -> u32 {
        let sequence = self.base.wrapping_add(self.places.len() as u32);
        if self.places.is_empty() {
            self.base = self.base.wrapping_add(1);
        } else {
            self.places.push_back(None);
        }
        sequence
    }

    fn index(&self, sequence: u32) -> Option<usize> {
        let index = sequence.wrapping_sub(self.base) as usize;
        (index < self.places.len()).then_some(index)
    }

    pub(crate) fn get_mut(&mut self, sequence: u32) -> Option<&mut E> {
        let index = self.index(sequence)?;
        self.places[index].as_mut()
    }

    pub(crate) fn get(&self, sequence: u32) -> Option<&E> {
        self.places[self.index(sequence)?].as_ref()
    }

    /// Takes a settled entry out; the window moves past every settled one at its front.
    pub(crate) fn settle(&mut self, sequence: u32) -> Option<E> {
        let index = self.index(sequence)?;
        let entry = self.places[index].take()?;
        while let Some(None) = self.places.front() {
            self.places.pop_front();
            self.base = self.base.wrapping_add(1);
        }
        Some(entry)
    }

    /// Unsettled entries, oldest first, to look at.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &E)> {
        let places = self.places.iter().enumerate();
        places.filter_map(|(i, place)| {
            let entry = place.as_ref()?;
            Some((self.base.wrapping_add(i as u32), entry))
        })
    }

    /// Unsettled entries, oldest first.
    pub(crate) fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = (u32, &mut E)> {
        let base = self.base;
        self.places
            .iter_mut()
            .enumerate()
            .filter_map(move |(i, place)| {
                place
                    .as_mut()
                    .map(|entry| (base.wrapping_add(i as u32), entry))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn settles_in_any_order_and_moves_on() {
        let mut window = SendWindow::new(u32::MAX);
        assert_eq!(window.skip(), u32::MAX, "nothing unsettled: no place taken");
        assert!(window.is_empty());
        assert_eq!(window.push('a'), 0);
        assert_eq!(window.skip(), 1);
        assert_eq!(window.push('b'), 2);
        assert_eq!(window.span(), 3);
        assert_eq!(window.settle(2), Some('b'));
        assert_eq!(window.settle(2), None);
        assert_eq!(window.settle(1), None);
        assert_eq!(window.span(), 3);
        assert_eq!(window.settle(0), Some('a'));
        assert!(window.is_empty());
        assert_eq!(window.push('c'), 3);
        assert_eq!(window.settle(77), None);
    }

    proptest! {
        #[test]
        fn numbers_run_on_and_nothing_is_lost(first in any::<u32>(), ops in prop::collection::vec(0_u8..3, 1..300)) {
            let mut window = SendWindow::new(first);
            let mut expected = first;
            let mut open = std::collections::BTreeMap::new();
            for (i, op) in ops.into_iter().enumerate() {
                match op {
                    0 => { prop_assert_eq!(window.skip(), expected); expected = expected.wrapping_add(1); }
                    1 => {
                        prop_assert_eq!(window.push(i), expected);
                        open.insert(expected.wrapping_sub(first), i);
                        expected = expected.wrapping_add(1);
                    }
                    _ => {
                        let pick = open.keys().nth(i % open.len().max(1)).copied();
                        if let Some(offset) = pick {
                            let entry = open.remove(&offset);
                            prop_assert_eq!(window.settle(first.wrapping_add(offset)), entry);
                        }
                    }
                }
                let seen: Vec<usize> = window.iter_mut().map(|(_, e)| *e).collect();
                let held: Vec<usize> = open.values().copied().collect();
                prop_assert_eq!(seen, held);
                prop_assert_eq!(window.is_empty(), open.is_empty());
            }
        }
    }
}
