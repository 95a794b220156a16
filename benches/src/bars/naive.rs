//! The router against the naive hop: same load, same packets, same moment.

use super::runs::{Loss, faults, ns, ratios};
use super::{Bar, BarError, Bound, Settings};
use crate::ceiling::{Yard, gigabits, millions};
use crate::load::{self, Report};
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
        let last = |reports: &[Report]| reports.last().and_then(ns).unwrap_or(f64::NAN);
        let (naive, router) = (last(&self.naive), last(&self.router));
        format!(
            "round {} of {of}: packets of {} B, {} B payload: naive hop {naive:.0} ns a message, router {router:.0} ns, ratio {:.3}",
            round + 1,
            self.packet,
            self.size,
            naive / router,
        )
    }

    fn bar(&self) -> Bar {
        let what = format!(
            "against the naive hop, packets {} B, {} B",
            self.packet, self.size
        );
        let figures = ratios(&self.naive, &self.router, |naive, router| naive / router);
        Bar::new(what, figures, "x", bound(self.packet))
            .detailed(format!(
                "router {:.3} M/core-s ({:.2} Gb), naive {:.3} ({:.2} Gb)",
                millions(&self.router),
                gigabits(&self.router).median,
                millions(&self.naive),
                gigabits(&self.naive).median,
            ))
            .faulty(faults(self.naive.iter().chain(&self.router), Loss::Fault))
    }
}
