//! Latency for other programs: percentiles to plot, and HdrHistogram's own
//! log format.

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

/// Quantiles that a log-percentile plot needs: nine of each decade of nines, to six nines, and the largest.
fn quantiles() -> impl Iterator<Item = f64> {
    let body = (0..10).map(|n| f64::from(n) / 10.0);
    let tail = (1..6).flat_map(|decade| {
        let rest = 0.1f64.powi(decade);
        (1..10).map(move |n| 1.0 - rest * f64::from(10 - n) / 10.0)
    });
    body.chain(tail).chain([0.999_999, 1.0])
}

/// Pairs of quantile (0 to 1) and latency (us); empty without latencies.
pub(super) fn percentiles(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    if histogram.is_empty() {
        return Vec::new();
    }
    // Beyond one in as many as there are, a quantile says nothing but the largest.
    let finest = 1.0 - 1.0 / histogram.len() as f64;
    quantiles()
        .filter(|q| *q <= finest || *q == 1.0)
        .map(|q| (q, histogram.value_at_quantile(q) as f64 / 1e3))
        .collect()
}

/// Latencies of a run, for `.hlog`.
#[derive(Clone, Debug)]
pub struct Histograms {
    /// From the intended time (ns).
    pub corrected: Histogram<u64>,
    /// From the time of sending (ns).
    pub uncorrected: Histogram<u64>,
}

impl Histograms {
    /// Writes one interval of `duration` for each: tags `corrected` and `uncorrected`, values in nanoseconds.
    ///
    /// # Errors
    /// When writing fails.
    pub fn write_hlog(&self, out: &mut impl Write, duration: Duration) -> io::Result<()> {
        let failed = |e: &dyn std::fmt::Debug| io::Error::other(format!("histogram log: {e:?}"));
        let mut serializer = V2DeflateSerializer::new();
        let mut log = IntervalLogWriterBuilder::new()
            .with_start_time(SystemTime::now() - duration)
            .with_max_value_divisor(1e6)
            .add_comment("caplane-load: latency in nanoseconds")
            .begin_log_with(out, &mut serializer)
            .map_err(|e| failed(&e))?;
        for (name, histogram) in [
            ("corrected", &self.corrected),
            ("uncorrected", &self.uncorrected),
        ] {
            let tag = Tag::new(name).ok_or_else(|| failed(&"tag"))?;
            log.write_histogram(histogram, Duration::ZERO, duration, Some(tag))
                .map_err(|e| failed(&e))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    #[test]
    fn percentiles_rise_and_end_at_the_largest() {
        let mut histogram = super::super::receiver::histogram();
        for n in 1..=10_000u64 {
            histogram.saturating_record(n * 1_000);
        }
        let points = percentiles(&histogram);
        assert!(
            points
                .windows(2)
                .all(|two| two[0].0 < two[1].0 && two[0].1 <= two[1].1)
        );
        let (last, largest) = points[points.len() - 1];
        assert!(last == 1.0 && (9_990.0..10_010.0).contains(&largest));
        assert!(
            points
                .iter()
                .any(|(q, us)| (q - 0.99).abs() < 1e-9 && (9_890.0..9_910.0).contains(us))
        );
    }

    #[test]
    fn a_log_can_be_read_again() {
        let mut corrected = super::super::receiver::histogram();
        corrected.saturating_record(5_000_000);
        let uncorrected = corrected.clone();
        let histograms = Histograms {
            corrected,
            uncorrected,
        };
        let mut log = Vec::new();
        histograms
            .write_hlog(&mut log, Duration::from_secs(2))
            .expect("a log");
        let intervals: Vec<_> = IntervalLogIterator::new(&log)
            .filter_map(|entry| match entry.expect("readable") {
                LogEntry::Interval(interval) => interval.tag().map(|tag| tag.as_str().to_owned()),
                _ => None,
            })
            .collect();
        assert_eq!(intervals, ["corrected", "uncorrected"]);
    }
}
