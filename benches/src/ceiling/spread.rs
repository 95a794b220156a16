//! Repeated figures: the median, and between what they lay.

use serde::Serialize;
use std::fmt;

/// Lowest, median and highest of repeated runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Lowest.
    pub low: f64,
    /// Median; of an even number the mean of the middle two.
    pub median: f64,
    /// Highest.
    pub high: f64,
}

impl Spread {
    /// Of some figures; all 0 without any.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Spread {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let Some((low, high)) = sorted.first().zip(sorted.last()) else {
            return Spread::default();
        };
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Spread {
            low: *low,
            median,
            high: *high,
        }
    }

    /// All three divided.
    pub fn per(self, divisor: f64) -> Spread {
        Spread {
            low: self.low / divisor,
            median: self.median / divisor,
            high: self.high / divisor,
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        let text = format!(
            "{:.digits$} [{:.digits$}..{:.digits$}]",
            self.median, self.low, self.high
        );
        f.pad_integral(true, "", &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_between_the_ends() {
        let odd = Spread::of([3.0, 1.0, 2.0]);
        assert_eq!((odd.low, odd.median, odd.high), (1.0, 2.0, 3.0));
        assert_eq!(Spread::of([4.0, 1.0]).median, 2.5);
        assert_eq!(Spread::of([]), Spread::default());
        assert_eq!(format!("{odd:>18.1}"), "    2.0 [1.0..3.0]");
        assert_eq!(odd.per(2.0).high, 1.5);
    }
}
