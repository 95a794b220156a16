//! `caplane-load figures`: what one message costs a router, in a table.
//!
//! One router, one sender, one receiver, loopback, mutual TLS; the rate is
//! closed by flow control, so what counts is CPU time, not rate. Runs of
//! different cells are interleaved, so that drift of the machine meets all.

use caplane_load::load::{self, Plan, Rate, Report, Verdict};
use caplane_load::rig::{Rig, RouterCounters};
use caplane_wire::{CongestionAction, TrafficClass};
use serde_json::json;
use std::process::ExitCode;
use std::time::Duration;

/// Payload bytes of the rows.
const SIZES: [usize; 3] = [64, 1_024, 16_384];
/// Largest UDP payloads: an Internet path, and what loopback allows.
const PACKETS: [usize; 2] = [1_350, 16_368];

/// Medians over --repeat interleaved runs, with the spread (lowest to highest).
#[derive(clap::Args)]
pub struct Arguments {
    /// Seconds measured in each run.
    #[arg(long, default_value_t = 4.0)]
    duration: f64,
    /// Runs of each cell.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=100))]
    repeat: u8,
    /// Labels and flows.
    #[arg(long, default_value_t = 10_000)]
    labels: usize,
    /// Routers in a row.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    routers: u8,
    /// One JSON object instead of the table.
    #[arg(long)]
    json: bool,
}

struct Cell {
    packet: usize,
    size: usize,
    runs: Vec<(Report, RouterCounters)>,
}

/// Measures all cells and prints them.
pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut cells: Vec<Cell> = PACKETS
        .iter()
        .flat_map(|packet| SIZES.map(|size| (*packet, size)))
        .map(|(packet, size)| Cell {
            packet,
            size,
            runs: Vec::new(),
        })
        .collect();
    let rigs = PACKETS
        .iter()
        .map(|packet| Rig::start(&plan(&arguments, *packet, 64), arguments.routers.into()))
        .collect::<Result<Vec<_>, _>>()?;
    for round in 1..=arguments.repeat {
        for cell in &mut cells {
            let rig = &rigs[PACKETS
                .iter()
                .position(|p| *p == cell.packet)
                .unwrap_or_default()];
            let run = measure(&arguments, cell, rig)?;
            let ns = run.0.router_cpu.map_or(0.0, |cpu| cpu.ns_per_message);
            eprintln!(
                "caplane-load: round {round} of {}: {} B payload, packets up to {} B: {ns:.0} ns a message, {:.0} messages/s",
                arguments.repeat, cell.size, cell.packet, run.0.received_per_s
            );
            cell.runs.push(run);
        }
    }
    let faulty = cells
        .iter()
        .flat_map(|cell| &cell.runs)
        .any(|(report, _)| report.verdict != Verdict::Valid || report.lost > 0);
    if arguments.json {
        print_json(&cells);
    } else {
        print_table(&cells, &arguments);
    }
    Ok(if faulty {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn plan(arguments: &Arguments, packet: usize, size: usize) -> Plan {
    Plan {
        payload: size,
        rate: Rate::Max,
        class: TrafficClass::new(0, CongestionAction::Block),
        duration: Duration::from_secs_f64(arguments.duration.clamp(0.1, 3_600.0)),
        udp_payload_max: packet,
        ..Plan::one_to_one(arguments.labels)
    }
}

/// One run, and what the routers counted meanwhile.
fn measure(
    arguments: &Arguments,
    cell: &Cell,
    rig: &Rig,
) -> anyhow::Result<(Report, RouterCounters)> {
    let before = rig.counters()?;
    let plan = plan(arguments, cell.packet, cell.size);
    let report = load::run(&plan, &rig.target()?, &mut |_| {})?;
    let after = rig.counters()?;
    let meanwhile = RouterCounters {
        received: after.received - before.received,
        forwarded: after.forwarded - before.forwarded,
        dropped: after.dropped - before.dropped,
        copied_bytes: after.copied_bytes - before.copied_bytes,
        forwarded_bytes: after.forwarded_bytes - before.forwarded_bytes,
    };
    Ok((report, meanwhile))
}

/// Lowest, median and highest.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let at = |n: usize| values.get(n).copied().unwrap_or_default();
    [
        at(0),
        at(values.len() / 2),
        at(values.len().saturating_sub(1)),
    ]
}

impl Cell {
    fn spread(&self, of: impl Fn(&Report, &RouterCounters) -> f64) -> [f64; 3] {
        spread(
            self.runs
                .iter()
                .map(|(report, counters)| of(report, counters))
                .collect(),
        )
    }

    fn ns(&self) -> [f64; 3] {
        self.spread(|report, _| report.router_cpu.map_or(0.0, |cpu| cpu.ns_per_message))
    }

    fn messages(&self) -> [f64; 3] {
        self.spread(|report, _| {
            report
                .router_cpu
                .map_or(0.0, |cpu| cpu.messages_per_core_second)
        })
    }

    fn gbit(&self) -> [f64; 3] {
        self.spread(|report, _| {
            report
                .router_cpu
                .map_or(0.0, |cpu| cpu.gbit_per_core_second)
        })
    }

    fn rate(&self) -> [f64; 3] {
        self.spread(|report, _| report.received_per_s)
    }

    fn copied_part(&self) -> [f64; 3] {
        self.spread(|_, counters| {
            if counters.forwarded_bytes > 0.0 {
                counters.copied_bytes / counters.forwarded_bytes
            } else {
                0.0
            }
        })
    }

    fn lost(&self) -> u64 {
        self.runs.iter().map(|(report, _)| report.lost).sum()
    }

    fn udp_payload(&self) -> usize {
        self.runs
            .first()
            .map_or(0, |(report, _)| report.udp_payload)
    }
}

fn print_table(cells: &[Cell], arguments: &Arguments) {
    let Some((first, _)) = cells.iter().flat_map(|cell| cell.runs.first()).next() else {
        return;
    };
    println!(
        "{} router(s), one sender, one receiver, {} labels and flows, loopback, lanes, as fast as flow control admits;\n\
         CPU = user + system of the router's process(es) over {} s; medians of {} interleaved runs [lowest .. highest]\n",
        arguments.routers, arguments.labels, arguments.duration, arguments.repeat
    );
    println!(
        "| UDP payload | message payload | CPU ns a message | M messages a core-second | Gbit/s a core-second | copied | messages/s, co-located | lost |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for cell in cells {
        let [ns_low, ns, ns_high] = cell.ns();
        let [low, messages, high] = cell.messages().map(|m| m / 1e6);
        println!(
            "| {} B | {} B | {ns:.0} [{ns_low:.0} .. {ns_high:.0}] | {messages:.3} [{low:.3} .. {high:.3}] | {:.2} | {:.3} % | {:.0} | {} |",
            cell.udp_payload(),
            cell.size,
            cell.gbit()[1],
            cell.copied_part()[1] * 100.0,
            cell.rate()[1],
            cell.lost()
        );
    }
    let machine = &first.machine;
    println!(
        "\n{} ({} CPUs, shared by generator and router), Linux {}, commit {}, {}\n{}",
        machine.cpu, machine.cpus, machine.kernel, machine.commit, first.tls, machine.command_line
    );
}

fn print_json(cells: &[Cell]) {
    let results: Vec<_> = cells
        .iter()
        .map(|cell| {
            json!({
                "udp_payload_max": cell.packet,
                "udp_payload": cell.udp_payload(),
                "payload_bytes": cell.size,
                "cpu_ns_per_message": cell.ns(),
                "messages_per_core_second": cell.messages(),
                "gbit_per_core_second": cell.gbit(),
                "copied_part": cell.copied_part(),
                "messages_per_s": cell.rate(),
                "lost": cell.lost(),
                "runs": cell.runs.iter().map(|(report, counters)| json!({"report": report, "router": counters})).collect::<Vec<_>>(),
            })
        })
        .collect();
    println!(
        "{}",
        json!({"schema": "caplane-load.figures.1", "order": ["lowest", "median", "highest"], "results": results})
    );
}
