//! A router under everything at once, for as long as one likes: senders at
//! full speed behind a path that loses packets, tables rewritten, peers that
//! come and die. It does not measure; it balances the books.
//!
//! Each [`Part`] of the traffic has a sender and receivers of its own. Mortals
//! join the receiver of one each second, send a little, and end: every other
//! one without a word. The rules are those of [`Books`]; memory is sampled all
//! the while.

mod books;
mod memory;
mod mortal;
mod parts;
mod paths;

pub use books::{Books, Carried, Fault, RouterBooks};
pub use memory::{Growth, Memory};
pub use mortal::Mortals;
pub use parts::Part;

use crate::impair::ImpairError;
use crate::load::{self, Lines, ProcessWatch, Report, RunError, Target};
use crate::peers::Place;
use crate::rig::{Rig, RigError, Tuning};
use paths::{LossyWay, Paths};
use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Table entries rewritten at a time, and how often.
const REWRITTEN: usize = 1_000;
const REWRITE_EVERY: Duration = Duration::from_millis(500);
/// Mortals end before the senders do: what they had must find its way first.
const MORTALS_END_BEFORE: Duration = Duration::from_secs(2);
/// For the last acknowledgements and deaths to be noticed: a silent peer is gone after 0.9 s under traffic, or its idle time.
const SETTLE_PATIENCE: Duration = Duration::from_secs(60);
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// What is to be suffered.
#[derive(Clone, Debug)]
pub struct Soak {
    /// How long.
    pub duration: Duration,
    /// The router's I/O driver ("mio", "uring"), and its workers.
    pub tuning: Tuning,
    /// Packets lost on the way, either direction, 0.0 to 1.0.
    pub loss: f64,
    /// Labels and flows.
    pub labels: usize,
    /// Decides which packets are lost.
    pub seed: u64,
}

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
pub enum SoakError {
    /// The router did not start, or refused a table.
    #[error(transparent)]
    Rig(#[from] RigError),
    /// The lossy path could not be set up.
    #[error(transparent)]
    Path(#[from] ImpairError),
    /// A sender or receiver ended in the middle.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The router's process could not be watched: it has ended.
    #[error("watching the router: {0}")]
    Proc(#[from] std::io::Error),
    /// A thread panicked.
    #[error("a soaking thread panicked")]
    Panicked,
}

/// How it went.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Seconds under load.
    pub seconds: f64,
    /// What everybody counted.
    pub books: Books,
    /// Rules that do not hold; empty when all is well.
    pub faults: Vec<Fault>,
    /// Memory of the router.
    pub growth: Growth,
    /// Packets that the path lost on purpose.
    pub packets_lost: u64,
    /// Changes of the tables.
    pub table_changes: u32,
    /// CPU seconds of the router.
    pub router_cpu_s: f64,
}

impl Outcome {
    /// Nothing is missing, nothing is twice, nothing grew.
    pub fn passed(&self) -> bool {
        self.faults.is_empty()
    }
}

/// Runs the soak; `tell` gets a line a second.
///
/// # Errors
/// [`SoakError`]; broken rules are no error but [`Outcome::faults`].
pub fn soak(soak: &Soak, tell: &mut dyn FnMut(&str)) -> Result<Outcome, SoakError> {
    let whole = soak.plan();
    let rig = Rig::start_with(&whole, 1, &Place::loopback(), &soak.tuning)?;
    rig.add_group(parts::group(), Part::Group.receivers())?;
    let direct = rig.target()?;
    let paths = Paths::start(soak, direct.ingress)?;
    let begun = Instant::now();
    let cpu_before = direct.watch.sample()?.cpu;
    let loaded = under_load(soak, &rig, &direct, &paths, tell)?;
    let seconds = begun.elapsed().as_secs_f64();
    let router_cpu_s = (direct.watch.sample()?.cpu - cpu_before).as_secs_f64();
    let books = settle(&rig, &loaded, &paths)?;
    let packets_lost = paths.stop()? + loaded.mortals_packets_lost;
    let growth = loaded.memory.growth();
    let mut faults = books.faults();
    faults.extend(growth.fault());
    let deaths = loaded.mortals.ended_silently;
    if deaths == 0 || loaded.table_changes == 0 || (packets_lost == 0) != (soak.loss == 0.0) {
        let what = format!(
            "{deaths} deaths, {} changes of tables, {packets_lost} packets lost",
            loaded.table_changes
        );
        faults.push(Fault::new("everything happened that should", what));
    }
    Ok(Outcome {
        seconds,
        books,
        faults,
        growth,
        packets_lost,
        table_changes: loaded.table_changes,
        router_cpu_s,
    })
}

/// What is left when the load has ended.
struct Loaded {
    reports: Vec<(Part, Report)>,
    mortals: Mortals,
    mortals_packets_lost: u64,
    memory: Memory,
    table_changes: u32,
}

fn under_load(
    soak: &Soak,
    rig: &Rig,
    direct: &Target,
    paths: &Paths,
    tell: &mut dyn FnMut(&str),
) -> Result<Loaded, SoakError> {
    let (ended, mortals_end) = (AtomicBool::new(false), AtomicBool::new(false));
    let joined = soak.part(Part::Dropping);
    let way = LossyWay::new(paths::config(soak, direct.egress, 2));
    std::thread::scope(|scope| {
        let run = |part: Part| {
            let (plan, target) = (soak.part(part), target(part, direct, paths));
            scope.spawn(move || load::observed(&plan, &target, &mut Lines::new(&mut |_| {})))
        };
        let runs = Part::ALL.map(run);
        let mortals = scope.spawn(|| mortal::succession(direct, way, &joined, &mortals_end));
        let changes = scope.spawn(|| rewrite_tables(rig, &ended));
        let watched = watch(
            soak,
            rig,
            &mortals_end,
            &|| runs.iter().any(|run| run.is_finished()),
            tell,
        );
        mortals_end.store(true, Ordering::Release);
        let reports = runs.map(|run| run.join());
        ended.store(true, Ordering::Release);
        let (mortals, changes) = (mortals.join(), changes.join());
        let panicked = |_| SoakError::Panicked;
        let mut all = Vec::new();
        for (part, report) in Part::ALL.into_iter().zip(reports) {
            all.push((part, report.map_err(panicked)??));
        }
        let (mortals, mortals_packets_lost) = mortals.map_err(panicked)??;
        Ok(Loaded {
            reports: all,
            mortals,
            mortals_packets_lost,
            memory: watched?,
            table_changes: changes.map_err(panicked)??,
        })
    })
}

/// The router as one part reaches it.
fn target(part: Part, direct: &Target, paths: &Paths) -> Target {
    let way = match part {
        Part::Datagrams => &paths.datagrams,
        _ => &paths.lanes,
    };
    let receivers = part.receivers().iter();
    Target {
        ingress: way.local_addr(),
        egress: way.local_addr(),
        receivers: receivers.map(|r| direct.receivers[*r].clone()).collect(),
        watch: ProcessWatch::default(),
        ..direct.clone()
    }
}

/// Samples memory once a second, and says how things stand, until the load ends.
fn watch(
    soak: &Soak,
    rig: &Rig,
    mortals_end: &AtomicBool,
    over: &dyn Fn() -> bool,
    tell: &mut dyn FnMut(&str),
) -> Result<Memory, SoakError> {
    let watch = ProcessWatch::new(rig.pids());
    let (begun, mut memory) = (Instant::now(), Memory::new(soak.duration));
    let (mut next, mut before) = (begun, (begun, 0));
    while !over() {
        std::thread::park_timeout(Duration::from_millis(20));
        let now = Instant::now();
        if now.duration_since(begun) + MORTALS_END_BEFORE > soak.duration {
            mortals_end.store(true, Ordering::Release);
        }
        if now < next {
            continue;
        }
        next += SAMPLE_EVERY;
        let resident = watch.sample()?.resident_bytes;
        memory.note(now.duration_since(begun), resident);
        let counters = RouterBooks::read(&rig.metrics()?);
        let since = now.duration_since(before.0).as_secs_f64().max(1e-3);
        tell(&format!(
            "{:>4.0} s: {:>9.0} messages/s in, {:>9} dropped in all, {} MiB resident, {} slabs",
            now.duration_since(begun).as_secs_f64(),
            (counters.received - before.1) as f64 / since,
            counters.dropped_total(),
            resident >> 20,
            counters.slabs,
        ));
        before = (now, counters.received);
    }
    Ok(memory)
}

fn rewrite_tables(rig: &Rig, ended: &AtomicBool) -> Result<u32, RigError> {
    let (begun, mut changes) = (Instant::now(), 0);
    while !ended.load(Ordering::Acquire) {
        if begun.elapsed() < REWRITE_EVERY * (changes + 1) {
            std::thread::park_timeout(Duration::from_millis(5));
            continue;
        }
        changes += 1;
        rig.rewrite_classes(REWRITTEN, changes)?;
    }
    Ok(changes)
}

/// Reads the router's counters until they balance, or patience ends: what does not balance then never will.
fn settle(rig: &Rig, loaded: &Loaded, paths: &Paths) -> Result<Books, SoakError> {
    let deadline = Instant::now() + SETTLE_PATIENCE;
    loop {
        let router = RouterBooks::read(&rig.metrics()?);
        let lost = paths.datagrams_lost()?;
        let books = Books::new(&loaded.reports, &loaded.mortals, lost, router);
        if books.faults().is_empty() || Instant::now() > deadline {
            return Ok(books);
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
}
