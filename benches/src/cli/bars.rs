//! `caplane-load bars`: the product against its bars.

use caplane_load::bars::{
    self, Bar, Settings, Standing, agents, naive, round_trip, shapes, tables,
};
use caplane_load::load::Machine;
use clap::ValueEnum;
use std::process::ExitCode;
use std::time::Duration;

/// Each row prints its figure as median [lowest..highest], its bar, and whether the median meets it. A row is not met either when
/// a run of it lost, duplicated or changed a message, was not valid, or measured nothing.
///
/// One cell of the comparison with the naive hop, quickly:
/// `caplane-load bars --row naive --size 1024 --packet 1350 --seconds 3 --repeat 3`.
///
/// Exit code: 0 no bar is missed, 1 an error, 6 a bar is not met.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only this row; may be repeated.
    #[arg(long, value_enum)]
    row: Vec<Row>,
    /// Payload bytes (row naive); may be repeated.
    #[arg(long, default_values_t = naive::SIZES)]
    size: Vec<usize>,
    /// Largest UDP payload (row naive); may be repeated.
    #[arg(long, default_values_t = naive::PACKETS)]
    packet: Vec<usize>,
    /// Seconds measured in each run.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Seconds before that: a router touches the memory that it will use in its first seconds at full speed.
    #[arg(long, default_value_t = 3.0)]
    warm_up: f64,
    /// Runs of each cell.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=100))]
    repeat: u8,
    /// Labels and flows.
    #[arg(long, default_value_t = 10_000)]
    labels: usize,
    /// One JSON object instead of the table.
    #[arg(long)]
    json: bool,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Row {
    /// Messages per core-second against the naive hop.
    Naive,
    /// Ten senders, ten receivers, ten classes against one to one.
    Many,
    /// Two and four workers against one.
    Workers,
    /// Two routers in a row against one.
    TwoRouters,
    /// Bytes copied by the router's own code.
    Copied,
    /// Request and reply at 1,000 and 5,000 a second.
    RoundTrip,
    /// CPU per delivered copy of a group message against unicast.
    FanOut,
    /// A change of 1,000 table entries under load.
    Delta,
    /// A table of 1,000,000 labels.
    Snapshot,
    /// Handshakes per core-second.
    Attach,
    /// 10,000 idle agents.
    Idle,
}

/// A bar is not met.
const EXIT_NOT_MET: u8 = 6;

/// Measures and prints.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let rows = if arguments.row.is_empty() {
        Row::value_variants().to_vec()
    } else {
        arguments.row.clone()
    };
    let mut all: Vec<Bar> = Vec::new();
    for row in rows {
        let bars = measure(row, arguments)?;
        if !arguments.json {
            for bar in &bars {
                println!("{bar}");
            }
        }
        all.extend(bars);
    }
    let machine = Machine::read();
    if arguments.json {
        println!("{}", bars::json(&all, &machine));
    } else {
        println!(
            "on {} ({} CPUs, co-located), Linux {}, commit {}: loopback, {} labels and flows, mutual TLS, AES-128-GCM, {} runs of {} s",
            machine.cpu,
            machine.cpus,
            machine.kernel,
            machine.commit,
            arguments.labels,
            arguments.repeat,
            arguments.seconds,
        );
    }
    Ok(
        if all.iter().all(|bar| bar.standing() != Standing::NotMet) {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(EXIT_NOT_MET)
        },
    )
}

fn measure(row: Row, arguments: &Arguments) -> anyhow::Result<Vec<Bar>> {
    let duration = Duration::from_secs_f64(arguments.seconds.clamp(0.1, 3_600.0));
    let settings = Settings {
        duration,
        warm_up: Duration::from_secs_f64(arguments.warm_up.clamp(0.0, 60.0)),
        repeat: arguments.repeat.into(),
        labels: arguments.labels,
    };
    let mut tell = |line: &str| eprintln!("caplane-load: {line}");
    let tell: &mut dyn FnMut(&str) = &mut tell;
    Ok(match row {
        Row::Naive => naive::measure(&settings, &arguments.packet, &arguments.size, tell),
        Row::Many => shapes::many(&settings, tell),
        Row::Workers => shapes::workers(&settings, tell),
        Row::TwoRouters => shapes::two_routers(&settings, tell),
        Row::Copied => shapes::copied(&settings, tell),
        Row::RoundTrip => round_trip::measure(&settings, tell),
        Row::FanOut => shapes::fan_out(&settings, tell),
        Row::Delta => tables::delta(&settings, tell),
        Row::Snapshot => tables::snapshot(&settings, tell),
        Row::Attach => agents::attach(&settings, tell),
        Row::Idle => agents::idle(&settings, tell),
    }?)
}
