//! Our router against the best encrypted peer of the same runs.

use super::table::{Cell, Matrix, Row};
use super::{Path, RoundTrip};
use crate::bars::{Bar, Bound};
use crate::ceiling::Spread;

/// Our router against the best encrypted peer of the same runs.
pub fn bars(rows: &[Row], matrix: &Matrix) -> Vec<Bar> {
    let Some(ours) = rows.iter().find(|row| row.system == "caplane-router") else {
        return Vec::new();
    };
    let peers = || {
        rows.iter()
            .filter(|row| row.encrypted && row.system != ours.system)
    };
    let mut bars = Vec::new();
    // Bars of full speed are for one receiver.
    let sizes = matrix
        .sizes
        .iter()
        .filter(|_| matrix.receivers.contains(&1));
    for size in sizes {
        let own_faults = faults(ours, Cell::Throughput(*size, 1), matrix);
        let what = format!("{size} B against the best encrypted peer, {:?}", ours.path);
        let bound = Bound::AtLeast(least(ours.path, *size));
        let best = peers().max_by(|a, b| {
            let of = |row: &Row| row.messages(*size, 1).median;
            of(a).total_cmp(&of(b))
        });
        let Some(best) = best.filter(|best| best.messages(*size, 1).median > 0.0) else {
            bars.push(
                Bar::new(what, [], "x", bound)
                    .faulty([NO_PEER.to_owned()])
                    .faulty(own_faults),
            );
            continue;
        };
        let theirs = best.messages(*size, 1).median;
        let ratios = ours.runs(*size, 1).map(|messages| messages / theirs);
        let detail = format!(
            "{} over {}: {:.3} M/core-s",
            best.system,
            best.transport,
            theirs / 1e6
        );
        bars.push(
            Bar::new(what, ratios, "x", bound)
                .detailed(detail)
                .faulty(own_faults),
        );
    }
    for (n, rate) in matrix.rates.iter().enumerate() {
        for (name, of) in PERCENTILES {
            let what = format!("round trip at {rate}/s, {name}, below every encrypted peer");
            let own = ours.round_trips[n].iter().map(of);
            let fastest = peers()
                .filter(|row| !row.round_trips[n].is_empty())
                .map(|row| Spread::of(row.round_trips[n].iter().map(of)).median)
                .min_by(f64::total_cmp);
            let bar = match fastest {
                Some(fastest) => {
                    let most = (fastest * 10.0).round() / 10.0;
                    Bar::new(what, own, "us", Bound::AtMost(most))
                }
                None => Bar::new(what, own, "us", Bound::BelowPeers).faulty([NO_PEER.to_owned()]),
            };
            bars.push(bar.faulty(faults(ours, Cell::RoundTrip(n), matrix)));
        }
    }
    bars
}

const NO_PEER: &str = "no encrypted peer could be measured";

/// What our own runs of a cell did that they must not.
fn faults(ours: &Row, cell: Cell, matrix: &Matrix) -> Vec<String> {
    let failed = ours.failed_rounds(cell).len();
    let unanswered = match cell {
        Cell::RoundTrip(n) => ours.unanswered(n),
        Cell::Throughput(..) | Cell::Install => 0,
    };
    let mut faults = Vec::new();
    if failed > 0 {
        faults.push(format!("{failed} of {} rounds failed", matrix.repeat));
    }
    if unanswered > 0 {
        faults.push(format!("{unanswered} questions unanswered"));
    }
    faults
}

/// What is compared of round trips: its name, and where it stands.
type Percentile = (&'static str, fn(&RoundTrip) -> f64);
const PERCENTILES: [Percentile; 2] = [("p50", |trip| trip.p50), ("p99", |trip| trip.p99)];

/// What is asked of the ratio.
fn least(path: Path, size: usize) -> f64 {
    match (path, size) {
        (Path::Loopback, 64) => 2.8,
        (Path::Loopback, 1_024) => 2.0,
        (Path::Loopback, _) => 2.2,
        (Path::Veth, 64) => 1.8,
        (Path::Veth, _) => 1.0,
    }
}

/// Whether every cell of every system was measured in every round: what failed is in the table, and no bar is met by its absence.
pub fn is_whole(rows: &[Row]) -> bool {
    rows.iter().all(|row| row.failures.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::{matrix, row};
    use super::super::table::{Failure, tests::failing};
    use super::*;
    use crate::bars::Standing;

    #[test]
    fn the_best_encrypted_peer_is_the_bar() {
        let rows = [
            row("caplane-router", true, 300),
            row("plain", false, 500),
            row("slow", true, 50),
            row("best", true, 100),
            failing("broken"),
        ];
        let bars = bars(&rows, &matrix());
        assert_eq!(bars[0].figure.map(|figure| figure.median), Some(3.0));
        assert!(bars[0].standing() == Standing::Met && bars[0].detail.contains("best"));
        // The slow one answers first.
        assert_eq!(bars[1].bound, Bound::AtMost(100.0));
    }

    #[test]
    fn rounds_of_ours_that_failed_or_were_not_answered_meet_nothing() {
        let peer = row("best", true, 1);
        let mut ours = row("caplane-router", true, 300);
        ours.failures.insert(
            Cell::Throughput(64, 1),
            vec![Failure {
                round: 2,
                why: "3 messages lost".to_owned(),
            }],
        );
        ours.round_trips[0][0].unanswered = 4;
        let bars = bars(&[ours, peer], &matrix());
        assert_eq!(bars[0].faults, ["1 of 3 rounds failed"]);
        assert_eq!(bars[1].faults, ["4 questions unanswered"]);
        assert!(bars.iter().all(|bar| bar.standing() == Standing::NotMet));
    }

    #[test]
    fn without_a_peer_or_our_own_figure_nothing_is_met() {
        let alone = [row("caplane-router", true, 300), failing("broken")];
        let mut mute = row("caplane-router", true, 300);
        mute.round_trips[0].clear();
        mute.throughput.clear();
        let mute = [mute, row("best", true, 100)];
        for rows in [alone, mute] {
            let bars = bars(&rows, &matrix());
            assert_eq!(bars.len(), 3);
            assert!(bars.iter().all(|bar| bar.standing() == Standing::NotMet));
        }
        let mut ten = matrix();
        ten.receivers = vec![10];
        ten.rates.clear();
        assert!(bars(&[row("caplane-router", true, 300)], &ten).is_empty());
    }
}
