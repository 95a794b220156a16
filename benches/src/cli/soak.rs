//! `caplane-load soak`: everything at once, for a while.

use caplane_load::load::Machine;
use caplane_load::rig::Tuning;
use caplane_load::soak::{self, Outcome, Soak};
use clap::ValueEnum;
use serde_json::json;
use std::process::ExitCode;
use std::time::Duration;

/// A router of its own at full speed over a path that loses packets, with bulk messages, datagrams and a group beside the lanes,
/// tables rewritten twice a second and peers that come and die each second. At the end the books must balance: what was sent was received, noticed, or dropped and counted by
/// reason; nothing twice, nothing changed; no memory grown past warm-up.
///
/// Exit code: 0 all rules hold, 1 an error, 5 a rule does not hold.
#[derive(clap::Args)]
pub struct Arguments {
    /// How long (seconds); below 10 memory cannot be judged.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(10..=86_400))]
    seconds: u64,
    /// The router's I/O driver; may be repeated, both when left out.
    #[arg(long, value_enum)]
    driver: Vec<Driver>,
    /// The router's workers: two, so that messages pass between them.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    workers: u8,
    /// Packets lost on the way (percent, either direction).
    #[arg(long, default_value_t = 1.0)]
    loss: f64,
    /// Labels and flows.
    #[arg(long, default_value_t = 10_000)]
    labels: usize,
    /// Decides which packets are lost.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One JSON object instead of the text.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Driver {
    Mio,
    Uring,
}

impl Driver {
    fn name(self) -> &'static str {
        match self {
            Driver::Mio => "mio",
            Driver::Uring => "uring",
        }
    }
}

/// A rule does not hold.
const EXIT_FAULTY: u8 = 5;

/// Soaks one driver after the other.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let drivers = if arguments.driver.is_empty() {
        Driver::value_variants()
    } else {
        &arguments.driver
    };
    let mut all = Vec::new();
    for driver in drivers {
        let soak = Soak {
            duration: Duration::from_secs(arguments.seconds),
            tuning: Tuning {
                driver: Some(driver.name().to_owned()),
                workers: Some(arguments.workers),
            },
            loss: (arguments.loss / 100.0).clamp(0.0, 1.0),
            labels: arguments.labels,
            seed: arguments.seed,
        };
        eprintln!(
            "caplane-load: soaking {} for {} s",
            driver.name(),
            arguments.seconds
        );
        let outcome = soak::soak(&soak, &mut |line| eprintln!("caplane-load: {line}"))?;
        if !arguments.json {
            print(driver.name(), &outcome);
        }
        all.push((driver.name(), outcome));
    }
    if arguments.json {
        let soaks: Vec<_> = all
            .iter()
            .map(|(driver, outcome)| json!({"driver": driver, "passed": outcome.passed(), "outcome": outcome}))
            .collect();
        let machine = Machine::read();
        println!(
            "{}",
            json!({"schema": "caplane-load.soak.1", "machine": machine, "soaks": soaks})
        );
    }
    Ok(if all.iter().all(|(_, outcome)| outcome.passed()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_FAULTY)
    })
}

fn print(driver: &str, outcome: &Outcome) {
    let (books, growth) = (&outcome.books, &outcome.growth);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "{driver}: {:.0} s, {} messages sent and {} received ({:.0} a second), {} packets lost on the way, {} changes of tables, {} peers came, {} of them died",
        outcome.seconds,
        books.sent(),
        books.received(),
        books.received() as f64 / outcome.seconds,
        outcome.packets_lost,
        outcome.table_changes,
        books.mortals.lived,
        books.mortals.ended_silently,
    );
    for carried in &books.carried {
        println!(
            "{driver}: {:?}: {} sent, {} of {} copies heard, {} notices",
            carried.part, carried.sent, carried.received, carried.expected, carried.notices
        );
    }
    println!(
        "{driver}: dropped {:?}: {} noticed, {} suppressed; handed to the dying and not acknowledged {}",
        books.router.dropped,
        books.router.notices,
        books.router.notices_suppressed,
        books.router.unacknowledged,
    );
    println!(
        "{driver}: memory {:.1} MiB after warm-up, {:.1} at the end, {:.1} at most, {:.1} allowed at the end; router CPU {:.1} s",
        mib(growth.warm_bytes),
        mib(growth.end_bytes),
        mib(growth.peak_bytes),
        mib(growth.bound_bytes),
        outcome.router_cpu_s,
    );
    for fault in &outcome.faults {
        println!("{driver}: BROKEN: {}: {}", fault.rule, fault.what);
    }
    if outcome.passed() {
        println!("{driver}: all rules hold");
    }
}
