//! Bounds the log lines that strangers can cause; the counters are exact all the same.

use std::time::Duration;

/// Lines let through in each second.
const LINES_PER_SECOND: u32 = 10;

/// Lines of one kind in the current second.
#[derive(Debug, Default)]
pub(super) struct LogLimit {
    second: u64,
    lines: u32,
}

impl LogLimit {
    /// True when one more line may be written at `now`.
    pub(super) fn allows(&mut self, now: Duration) -> bool {
        if now.as_secs() != self.second {
            self.second = now.as_secs();
            self.lines = 0;
        }
        self.lines = self.lines.saturating_add(1);
        self.lines <= LINES_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_lines_a_second_and_no_more() {
        let mut limit = LogLimit::default();
        let at = |ms| Duration::from_millis(ms);
        assert_eq!((0..50).filter(|&n| limit.allows(at(n))).count(), 10);
        assert!(limit.allows(at(1_000)));
    }
}
