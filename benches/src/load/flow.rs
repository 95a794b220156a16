//! What one flow's receiver has seen: enough to tell loss from duplication
//! from reordering, in 16 bytes a flow.

/// How a message relates to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The next one, or one past a gap.
    InOrder,
    /// An earlier one that had been missing.
    Reordered,
    /// Seen before.
    Duplicate,
}

/// Sequence numbers seen of one flow: the highest, and which of the 64 below it.
#[derive(Clone, Copy, Debug, Default)]
pub struct FlowLedger {
    /// Highest seen plus one; 0 = nothing seen.
    next: u32,
    /// Bit n: `next - 1 - n` was seen.
    seen: u64,
}

impl FlowLedger {
    /// Notes one message. One that is more than 64 behind counts as reordered: it cannot be told apart any more.
    pub fn note(&mut self, sequence: u32) -> Arrival {
        if sequence >= self.next {
            let ahead = sequence - self.next + 1;
            self.seen = if ahead >= 64 { 0 } else { self.seen << ahead };
            self.seen |= 1;
            self.next = sequence.saturating_add(1);
            return Arrival::InOrder;
        }
        let back = self.next - 1 - sequence;
        if back >= 64 {
            return Arrival::Reordered;
        }
        let bit = 1u64 << back;
        if self.seen & bit != 0 {
            return Arrival::Duplicate;
        }
        self.seen |= bit;
        Arrival::Reordered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_gaps_late_ones_and_duplicates_are_told_apart() {
        let mut flow = FlowLedger::default();
        let seen: Vec<Arrival> = [0, 1, 3, 2, 2, 3, 10, 9, 0].map(|n| flow.note(n)).into();
        use Arrival::{Duplicate, InOrder, Reordered};
        assert_eq!(
            seen,
            [
                InOrder, InOrder, InOrder, Reordered, Duplicate, Duplicate, InOrder, Reordered,
                Duplicate
            ]
        );
    }

    #[test]
    fn a_long_gap_forgets_what_is_too_far_back() {
        let mut flow = FlowLedger::default();
        flow.note(0);
        assert_eq!(flow.note(1000), Arrival::InOrder);
        assert_eq!(flow.note(1000), Arrival::Duplicate);
        assert_eq!(flow.note(0), Arrival::Reordered);
        assert_eq!(flow.note(u32::MAX), Arrival::InOrder);
    }
}
