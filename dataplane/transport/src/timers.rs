//! Deadlines of connections: a heap in which a connection stands at most a few times, so idle peers cost nothing per tick.
//!
//! A deadline that moves later (every packet moves the loss and idle timers) is not moved in the heap: when the old entry
//! comes up, the owner asks the connection for its true deadline and arms it again.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, u32)>>,
}

impl Timers {
    /// Arms `slot` at `deadline`, unless `armed` is already as early; gives what it is armed at now.
    pub(crate) fn arm(
        &mut self,
        slot: u32,
        armed: Option<Instant>,
        deadline: Option<Instant>,
    ) -> Option<Instant> {
        match (armed, deadline) {
            (_, None) => armed,
            (Some(armed), Some(deadline)) if armed <= deadline => Some(armed),
            (_, Some(deadline)) => {
                self.heap.push(Reverse((deadline, slot)));
                Some(deadline)
            }
        }
    }

    /// The next slot whose entry is due, and the instant the entry was for: it is stale unless the slot is armed at it.
    pub(crate) fn due(&mut self, now: Instant) -> Option<(u32, Instant)> {
        let Reverse((at, _)) = self.heap.peek()?;
        if *at > now {
            return None;
        }
        self.heap.pop().map(|Reverse((at, slot))| (slot, at))
    }

    /// When the next entry is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_later_deadline_keeps_the_entry_and_an_earlier_one_adds_one() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = Timers::default();
        let armed = timers.arm(7, None, Some(at(10)));
        let armed = timers.arm(7, armed, Some(at(20)));
        assert_eq!(armed, Some(at(10)));
        let armed = timers.arm(7, armed, Some(at(5)));
        assert_eq!(armed, Some(at(5)));
        assert_eq!(timers.due(at(4)), None);
        assert_eq!(timers.due(at(6)), Some((7, at(5))));
        assert_eq!(timers.next(), Some(at(10)));
    }
}
