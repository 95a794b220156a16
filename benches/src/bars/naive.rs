//! The router against the naive hop: same load, same packets, same moment.

use super::{Bar, BarError, Bound, Settings};
use crate::ceiling::{Spread, Yard, gigabits, millions};
use crate::load::{self, Report, Verdict};
use crate::rig::Rig;

/// Payload bytes of the cells.
pub const SIZES: [usize; 3] = [64, 1_024, 16_384];
/// Largest UDP payloads of the cells: an Internet path, and four segments a send on loopback.
pub const PACKETS: [usize; 2] = [1_350, 16_000];

/// What the router has to reach at packets of this size, in parts of the naive hop.
fn bound(packet: usize) -> Bound {
    // Below 9,000 bytes the cost of a packet is QUIC's and the kernel's: there is nothing to win.
    Bound::AtLeast(if packet < 9_000 { 0.95 } else { 1.1 })
}

/// One cell: both systems, run by run.
struct Cell {
    packet: usize,
    size: usize,
    naive: Vec<Report>,
    router: Vec<Report>,
}

/// Measures all cells; the runs of a cell take turns, and so do the cells.
///
/// # Errors
/// [`BarError`] when something did not start or a run failed.
pub fn measure(
    settings: &Settings,
    packets: &[usize],
    sizes: &[usize],
    tell: &mut dyn FnMut(&str),
) -> Result<Vec<Bar>, BarError> {
    let yard = Yard::open()?;
    let rigs = packets
        .iter()
        .map(|packet| Rig::start(&settings.plan(64, *packet), 1))
        .collect::<Result<Vec<_>, _>>()?;
    let mut cells: Vec<(Cell, &Rig)> = packets
        .iter()
        .zip(&rigs)
        .flat_map(|(packet, rig)| {
            sizes.iter().map(move |size| {
                let cell = Cell {
                    packet: *packet,
                    size: *size,
                    naive: Vec::new(),
                    router: Vec::new(),
                };
                (cell, rig)
            })
        })
        .collect();
    for round in 0..settings.repeat {
        for (cell, rig) in &mut cells {
            cell.round(settings, &yard, rig, round)?;
            tell(&cell.line(round, settings.repeat));
        }
    }
    Ok(cells.iter().map(|(cell, _)| cell.bar()).collect())
}

impl Cell {
    /// One run of each; which goes first alternates.
    fn round(
        &mut self,
        settings: &Settings,
        yard: &Yard,
        rig: &Rig,
        round: usize,
    ) -> Result<(), BarError> {
        let plan = settings.plan(self.size, self.packet);
        for turn in 0..2 {
            if (round + turn).is_multiple_of(2) {
                self.naive.push(yard.through_hop(&plan, &mut |_| {})?);
            } else {
                let target = rig.target()?;
                self.router.push(load::run(&plan, &target, &mut |_| {})?);
            }
        }
        Ok(())
    }

    fn line(&self, round: usize, of: usize) -> String {
        let last = |reports: &[Report]| {
            reports
                .last()
                .and_then(|report| report.router_cpu)
                .map_or(0.0, |cpu| cpu.ns_per_message)
        };
        let (naive, router) = (last(&self.naive), last(&self.router));
        format!(
            "round {} of {of}: packets of {} B, {} B payload: naive hop {naive:.0} ns a message, router {router:.0} ns, ratio {:.3}",
            round + 1,
            self.packet,
            self.size,
            naive / router.max(1e-9),
        )
    }

    fn bar(&self) -> Bar {
        let ns = |report: &Report| report.router_cpu.map_or(0.0, |cpu| cpu.ns_per_message);
        let ratios = self
            .naive
            .iter()
            .zip(&self.router)
            .map(|(naive, router)| ns(naive) / ns(router).max(1e-9));
        let faulty = self
            .naive
            .iter()
            .chain(&self.router)
            .filter(|report| report.verdict != Verdict::Valid || report.lost > 0)
            .count();
        let mut detail = format!(
            "router {:.3} M/core-s ({:.2} Gb), naive {:.3} ({:.2} Gb)",
            millions(&self.router),
            gigabits(&self.router).median,
            millions(&self.naive),
            gigabits(&self.naive).median,
        );
        if faulty > 0 {
            detail.push_str(&format!("; {faulty} RUNS WITH LOSS OR FAULTS"));
        }
        Bar {
            what: format!(
                "against the naive hop, packets {} B, {} B",
                self.packet, self.size
            ),
            figure: Spread::of(ratios),
            unit: "x",
            bound: bound(self.packet),
            detail,
        }
    }
}
