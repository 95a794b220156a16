//! The control plane at scale, with the real programs: a file of 100,000 agents and a taxonomy of 5,000 classes, questions
//! in words, one agent's change on its way to ten routers as the table grows, and two hundred routers at one controller.
//!
//! Ratios and bounds are gated; times depend on the machine and are told beside what is promised of them. Refuses to know
//! how the controller does any of it.

mod routers;
mod world;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use caplane::api::WriteOptions;
use caplane::fabric::{Fabric, FabricConfig};
use caplane::pki::{Request, Role};
use caplane_proto::v1;
use caplane_proto::v1::entity::Entity as Kind;
use caplane_proto::v1::resolve::Target;
use caplane_proto::v1::update::Type;
use hdrhistogram::Histogram;
use serde::Serialize;

use routers::SimulatedRouter;

/// What is measured, and at which size.
#[derive(Clone, Debug)]
pub struct Scale {
    /// Sizes of the table (agents), rising; the last is the one that is loaded from nothing.
    pub sizes: Vec<usize>,
    /// Changes timed at each size.
    pub changes: usize,
    /// Questions asked.
    pub questions: usize,
    /// Real routers that follow.
    pub routers: usize,
    /// Simulated ones.
    pub simulated: usize,
    /// How many of those read nothing.
    pub stuck: usize,
}

impl Default for Scale {
    fn default() -> Self {
        Self {
            sizes: vec![1_000, 10_000, 100_000],
            changes: 40,
            questions: 2_000,
            routers: 10,
            simulated: 200,
            stuck: 10,
        }
    }
}

/// A figure, what was promised of it, and whether that is required here.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What it is.
    pub name: String,
    /// Measured.
    pub value: f64,
    /// Of value and bar.
    pub unit: &'static str,
    /// At most this.
    pub at_most: Option<f64>,
    /// Above the bar the measurement fails; of others it is only told.
    pub gated: bool,
}

impl Figure {
    /// Whether it keeps its bar.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.at_most.is_none_or(|bar| self.value <= bar)
    }
}

/// The size that the times are promised for: at others they are only told.
const PROMISED_AGENTS: usize = 100_000;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(120);
/// A change may cost this much more at the largest table than at the smallest.
const CURVE_MAX: f64 = 1.5;
/// Resident memory may be this much higher after many changes, while some routers read nothing.
const GROWTH_MAX: f64 = 1.25;
/// Changes made while some read nothing: with none taken each would hold them all.
const CHURN: usize = 200;
/// Agents that each of them changes.
const CHURN_AGENTS: usize = 50;

/// Measures everything. `tell` hears each figure as it comes.
///
/// # Errors
/// A program failed, or something did not happen in time.
pub async fn measure(scale: &Scale, tell: &mut dyn FnMut(&Figure)) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut note = |figure: Figure| {
        tell(&figure);
        figures.push(figure);
    };
    let folder = tempfile::tempdir()?;
    let taxonomy = world::taxonomy(folder.path())?;
    let largest = *scale.sizes.last().context("no size")?;
    let file = world::manifest(folder.path(), 0, largest)?;
    load(scale, &taxonomy, &file, largest, folder.path(), &mut note).await?;
    grow(scale, &taxonomy, folder.path(), &mut note).await?;
    Ok(figures)
}

fn told(name: impl Into<String>, value: f64, unit: &'static str) -> Figure {
    Figure {
        name: name.into(),
        value,
        unit,
        at_most: None,
        gated: false,
    }
}

/// From nothing to everything by `caplane apply`, and questions in words to that.
async fn load(
    scale: &Scale,
    taxonomy: &Path,
    file: &Path,
    agents: usize,
    folder: &Path,
    note: &mut impl FnMut(Figure),
) -> anyhow::Result<()> {
    let fabric = start(folder.join("load"), taxonomy, 1).await?;
    let took = apply(&fabric, file)?;
    let promised = (agents == PROMISED_AGENTS).then_some(30.0);
    note(Figure {
        at_most: promised,
        ..told(
            format!(
                "load {agents} agents and {} classes from a file",
                world::CLASSES
            ),
            took.as_secs_f64(),
            "s",
        )
    });
    note(told(
        "controller, resident",
        resident(&fabric, "VmRSS")?,
        "MiB",
    ));
    let mut times = Histogram::<u64>::new(3)?;
    let mut found = 0;
    for number in 0..scale.questions {
        let asker = match number % 2 {
            0 => String::new(),
            _ => format!(
                "spiffe://{}/tenant/shared/agent/a0",
                fabric.authority().trust_domain()
            ),
        };
        let begun = Instant::now();
        let answer = fabric
            .api()
            .resolve(Target::Text(world::question(number)), 5, &asker, None)
            .await?;
        times.record(begun.elapsed().as_micros() as u64)?;
        found += usize::from(!answer.candidates.is_empty());
    }
    ensure!(
        found * 2 > scale.questions,
        "only {found} of {} questions were answered",
        scale.questions
    );
    note(told(
        "resolve by text, half within",
        times.value_at_quantile(0.5) as f64 / 1e3,
        "ms",
    ));
    let promised = (agents == PROMISED_AGENTS).then_some(10.0);
    note(Figure {
        at_most: promised,
        ..told(
            "resolve by text, 99 of 100 within",
            times.value_at_quantile(0.99) as f64 / 1e3,
            "ms",
        )
    });
    Ok(())
}

/// One agent's change as the table grows; then many routers at the largest.
async fn grow(
    scale: &Scale,
    taxonomy: &Path,
    folder: &Path,
    note: &mut impl FnMut(Figure),
) -> anyhow::Result<()> {
    let fabric = start(folder.join("grow"), taxonomy, scale.routers).await?;
    let mut medians = Vec::new();
    for agents in &scale.sizes {
        let file = world::manifest(folder, *agents, *agents)?;
        let took = apply(&fabric, &file)?;
        note(told(
            format!("up to {agents} agents, {} routers following", scale.routers),
            took.as_secs_f64(),
            "s",
        ));
        let times = changes(&fabric, scale).await?;
        let median = times.value_at_quantile(0.5) as f64 / 1e3;
        let promised = (*agents == PROMISED_AGENTS).then_some(100.0);
        note(Figure {
            at_most: promised,
            ..told(
                format!(
                    "one change live on {} routers at {agents} agents, half within",
                    scale.routers
                ),
                median,
                "ms",
            )
        });
        note(told(
            "the same, 9 of 10 within",
            times.value_at_quantile(0.9) as f64 / 1e3,
            "ms",
        ));
        medians.push(median);
    }
    if let (Some(first), Some(last)) = (medians.first(), medians.last()) {
        note(Figure {
            at_most: Some(CURVE_MAX),
            gated: true,
            ..told(
                "one change, largest table against smallest",
                last / first,
                "times",
            )
        });
    }
    crowd(&fabric, scale, note).await?;
    Ok(())
}

/// Registers one agent after the other, each until all routers forward by it.
async fn changes(fabric: &Fabric, scale: &Scale) -> anyhow::Result<Histogram<u64>> {
    let mut times = Histogram::<u64>::new(3)?;
    let options = WriteOptions {
        wait_live_seconds: 30,
        ..WriteOptions::default()
    };
    let api = fabric.api().clone().with_options(options);
    for number in 0..scale.changes {
        let begun = Instant::now();
        let answer = api.write([(Type::Insert, probe(fabric, number))]).await?;
        let took = begun.elapsed();
        let live = answer.rollout.map_or(0, |rollout| rollout.live);
        ensure!(
            live as usize == scale.routers,
            "live on {live} of {} routers",
            scale.routers
        );
        times.record(took.as_micros() as u64)?;
    }
    let gone = (0..scale.changes).map(|number| (Type::Delete, probe(fabric, number)));
    api.write(gone).await?;
    Ok(times)
}

fn probe(fabric: &Fabric, number: usize) -> Kind {
    Kind::Agent(v1::Agent {
        uri: format!(
            "spiffe://{}/tenant/shared/agent/probe{number}",
            fabric.authority().trust_domain()
        ),
        card: world::card(number),
        ..v1::Agent::default()
    })
}

/// Many routers at once, some of which read nothing.
async fn crowd(
    fabric: &Fabric,
    scale: &Scale,
    note: &mut impl FnMut(Figure),
) -> anyhow::Result<()> {
    let before = resident(fabric, "VmRSS")?;
    let names: Vec<String> = (0..scale.simulated)
        .map(|number| format!("s{number}"))
        .collect();
    let issued = names.iter().map(|name| {
        let request = Request::new(fabric.authority().trust_domain(), &Role::Router, name)?;
        fabric.authority().issue(&request)
    });
    let issued = issued.collect::<Result<Vec<_>, _>>()?;
    let registered = names.iter().zip(&issued).map(|(name, issued)| {
        let router = v1::Router {
            name: name.clone(),
            uri: issued.uri.clone(),
            ..v1::Router::default()
        };
        (Type::Insert, Kind::Router(router))
    });
    let answer = fabric.api().write(registered).await?;
    let begun = Instant::now();
    let mut open = Vec::new();
    for (number, issued) in issued.iter().enumerate() {
        let stuck = number < scale.stuck;
        let controller = fabric.southbound_address()?;
        open.push(SimulatedRouter::open(controller, &fabric.roots(), issued, stuck).await?);
    }
    let reading = &open[scale.stuck..];
    let mut peak = until_held(fabric, reading, answer.generation).await?;
    note(told(
        format!("{} routers have the whole table", reading.len()),
        begun.elapsed().as_secs_f64(),
        "s",
    ));
    let bytes: u64 = reading.iter().map(SimulatedRouter::bytes).sum();
    note(told(
        "bytes pushed for that",
        bytes as f64 / f64::from(1 << 20),
        "MiB",
    ));
    let with_all = resident(fabric, "VmRSS")?;
    let mut generation = 0;
    let begun = Instant::now();
    for turn in 0..CHURN {
        let action = if turn % 2 == 0 {
            Type::Insert
        } else {
            Type::Delete
        };
        let some = (0..CHURN_AGENTS).map(|number| (action, probe(fabric, number)));
        generation = fabric.api().write(some).await?.generation;
    }
    peak = peak.max(until_held(fabric, reading, generation).await?);
    let per_change = begun.elapsed().as_secs_f64() * 1e3 / CHURN as f64;
    note(told(
        format!(
            "a change of {CHURN_AGENTS} agents, {} routers following",
            reading.len()
        ),
        per_change,
        "ms",
    ));
    let after = resident(fabric, "VmRSS")?;
    note(told("controller before they came, resident", before, "MiB"));
    note(told(
        "controller with all of them, at most",
        peak.max(with_all),
        "MiB",
    ));
    note(Figure {
        at_most: Some(GROWTH_MAX),
        gated: true,
        ..told(
            format!(
                "memory after {CHURN} changes, {} routers reading nothing",
                scale.stuck
            ),
            after / with_all,
            "times",
        )
    });
    Ok(())
}

/// Waits until all hold a generation; the most memory that the controller had meanwhile (MiB).
async fn until_held(
    fabric: &Fabric,
    routers: &[SimulatedRouter],
    generation: u64,
) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let mut peak = 0_f64;
    let mut look = tokio::time::interval(Duration::from_millis(20));
    loop {
        look.tick().await;
        peak = peak.max(resident(fabric, "VmRSS")?);
        let behind = routers
            .iter()
            .filter(|router| router.generation() < generation)
            .count();
        if behind == 0 {
            return Ok(peak);
        }
        if begun.elapsed() > PATIENCE {
            bail!(
                "{behind} of {} routers do not hold generation {generation} after {PATIENCE:?}",
                routers.len()
            );
        }
    }
}

async fn start(folder: PathBuf, taxonomy: &Path, routers: usize) -> anyhow::Result<Fabric> {
    let mut config = FabricConfig::ring(folder, routers)?;
    if routers < 3 {
        // One router is no neighbour of itself, and two have one link.
        config.links.truncate(routers - 1);
    }
    let path = serde_json::Value::from(taxonomy.to_string_lossy().into_owned());
    config.controller_lines = format!("taxonomy = [{path}]");
    Ok(Fabric::start(config).await?)
}

/// Makes a file true, as an operator does; how long that took.
fn apply(fabric: &Fabric, file: &Path) -> anyhow::Result<Duration> {
    let program = std::env::current_exe()?;
    let folders = program.ancestors().skip(1).take(2);
    let command = folders
        .map(|folder| folder.join("caplane"))
        .find(|path| path.is_file());
    let command = command.context("`caplane` is not beside this program; build all programs")?;
    let begun = Instant::now();
    let output = Command::new(command)
        .arg("--state")
        .arg(fabric.folder())
        .args(["--controller", fabric.northbound_address()?])
        .args(["apply", "--file"])
        .arg(file)
        .output()?;
    let took = begun.elapsed();
    ensure!(
        output.status.success(),
        "caplane apply: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(took)
}

/// A line of the controller's `/proc/PID/status` (MiB).
fn resident(fabric: &Fabric, name: &str) -> anyhow::Result<f64> {
    let path = format!("/proc/{}/status", fabric.pid(caplane::fabric::CONTROLLER)?);
    let text = std::fs::read_to_string(&path).context(path)?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.context("no such line")? / 1024.0)
}
