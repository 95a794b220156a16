//! `caplane-load ceiling`: what a message must cost on this machine.

use caplane_load::bars::Settings;
use caplane_load::ceiling::{
    self, CertificateFiles, Cost, PACKETS, Spread, Yard, aead, forward, gigabits, millions, relay,
};
use caplane_load::load::{Machine, Report};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Four yardsticks, interleaved, at each packet size; medians with [lowest..highest].
///
/// (a) QUIC in memory: packets decrypted, their stream handed on, packets encrypted; (b) UDP through the kernel with GRO and
/// GSO; (c) AES-128-GCM opened and sealed; (d) the naive hop: a plain good router of one connection in, one out, each header
/// walked and looked up among a million labels. The wall is (a) and (b) together: no router over quiche and UDP
/// sockets is faster; (d) is the floor that caplane-router must reach.
#[derive(clap::Args)]
pub struct Arguments {
    /// UDP payload bytes; may be repeated.
    #[arg(long, default_values_t = PACKETS)]
    packet: Vec<usize>,
    /// Payload bytes of messages through the naive hop; may be repeated.
    #[arg(long, default_values_t = [64, 1_024, 16_384])]
    size: Vec<usize>,
    /// Seconds of each run.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Runs of each figure.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=100))]
    repeat: u8,
    /// Only this yardstick: relay, udp, aead or hop; may be repeated.
    #[arg(long, value_parser = ["relay", "udp", "aead", "hop"])]
    only: Vec<String>,
    /// One JSON object instead of the table.
    #[arg(long)]
    json: bool,
}

/// What the hidden subcommand takes.
#[derive(clap::Args)]
pub struct HopArguments {
    /// UDP payload bytes.
    #[arg(long)]
    packet: usize,
    /// Certificate chain (PEM).
    #[arg(long)]
    chain: PathBuf,
    /// Its key.
    #[arg(long)]
    key: PathBuf,
}

/// All figures of one packet size.
struct Row {
    packet: usize,
    relay: Vec<Cost>,
    udp: Vec<Cost>,
    aead: Vec<Cost>,
    hop: Vec<(usize, Vec<Report>)>,
}

/// Runs the naive hop until its standard input ends.
pub fn hop(arguments: HopArguments) -> anyhow::Result<ExitCode> {
    let certificate = CertificateFiles {
        chain: arguments.chain,
        key: arguments.key,
    };
    ceiling::process::serve(arguments.packet, &certificate)?;
    Ok(ExitCode::SUCCESS)
}

/// Measures and prints.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    for packet in &arguments.packet {
        anyhow::ensure!(
            (1_200..=16_376).contains(packet),
            "--packet {packet}: give 1200 to 16376 bytes"
        );
    }
    let yard = Yard::open()?;
    let mut rows: Vec<Row> = arguments
        .packet
        .iter()
        .map(|packet| Row {
            packet: *packet,
            relay: Vec::new(),
            udp: Vec::new(),
            aead: Vec::new(),
            hop: arguments.size.iter().map(|s| (*s, Vec::new())).collect(),
        })
        .collect();
    for round in 1..=arguments.repeat {
        for row in &mut rows {
            row.round(arguments, &yard)?;
            eprintln!(
                "caplane-load: round {round} of {}: packets of {} B measured",
                arguments.repeat, row.packet
            );
        }
    }
    if arguments.json {
        let rows: Vec<_> = rows.iter().map(Row::json).collect();
        let object =
            json!({"schema": "caplane-load.ceiling.1", "machine": Machine::read(), "rows": rows});
        println!("{object}");
    } else {
        print(&rows);
    }
    Ok(ExitCode::SUCCESS)
}

fn ns(costs: &[Cost]) -> Spread {
    Spread::of(costs.iter().map(|cost| cost.ns_per_packet))
}

fn gbit(costs: &[Cost]) -> Spread {
    Spread::of(costs.iter().map(|cost| cost.gbit_per_core_second))
}

impl Row {
    fn round(&mut self, arguments: &Arguments, yard: &Yard) -> anyhow::Result<()> {
        let wanted =
            |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|o| o == name);
        let time = Duration::from_secs_f64(arguments.seconds.clamp(0.05, 3_600.0));
        if wanted("relay") {
            self.relay
                .push(relay::measure(self.packet, time, yard.certificate())?);
        }
        if wanted("udp") {
            self.udp.push(forward::measure(self.packet, time)?);
        }
        if wanted("aead") {
            self.aead.push(aead::measure(self.packet, time)?);
        }
        if wanted("hop") {
            let settings = Settings {
                duration: time,
                warm_up: time.min(Duration::from_secs(1)),
                repeat: 1,
                labels: 10_000,
            };
            for (size, reports) in &mut self.hop {
                let plan = settings.plan(*size, self.packet);
                reports.push(yard.through_hop(&plan, &mut |_| {})?);
            }
        }
        Ok(())
    }

    /// CPU time of a packet through QUIC and the kernel: nothing over both is faster.
    fn wall_ns(&self) -> f64 {
        ns(&self.relay).median + ns(&self.udp).median
    }

    /// Gigabits of QUIC payload a core-second at the wall.
    fn wall_gbit(&self) -> f64 {
        let (relay, udp) = (gbit(&self.relay).median, gbit(&self.udp).median);
        if relay * udp > 0.0 {
            1.0 / (1.0 / relay + 1.0 / udp)
        } else {
            0.0
        }
    }

    fn json(&self) -> serde_json::Value {
        let layer = |costs: &[Cost]| json!({"ns_per_packet": ns(costs), "gbit_per_core_second": gbit(costs)});
        let hop: Vec<_> = self
            .hop
            .iter()
            .map(|(size, reports)| {
                json!({
                    "payload_bytes": size,
                    "million_messages_per_core_second": millions(reports),
                    "gbit_per_core_second": gigabits(reports),
                })
            })
            .collect();
        json!({
            "packet_bytes": self.packet,
            "quic_relay": layer(&self.relay),
            "udp_forward": layer(&self.udp),
            "aead": layer(&self.aead),
            "wall": {"ns_per_packet": self.wall_ns(), "gbit_per_core_second": self.wall_gbit()},
            "naive_hop": hop,
        })
    }
}

fn print(rows: &[Row]) {
    let machine = Machine::read();
    println!(
        "CPU time a packet in ns, and gigabits a core-second in brackets behind it: median [lowest..highest]\n\
         {} ({} CPUs), Linux {}, commit {}; loopback, co-located; AES-128-GCM\n",
        machine.cpu, machine.cpus, machine.kernel, machine.commit
    );
    println!(
        "{:>6}  {:>32}  {:>32}  {:>32}  {:>16}",
        "packet",
        "(a) QUIC relay, in memory",
        "(b) UDP forward",
        "(c) AEAD open + seal",
        "wall = a + b"
    );
    for row in rows {
        let cell = |costs: &[Cost]| {
            if costs.is_empty() {
                return "-".to_owned();
            }
            format!("{:.0} ({:.1} Gb)", ns(costs), gbit(costs).median)
        };
        println!(
            "{:>6}  {:>32}  {:>32}  {:>32}  {:>16}",
            row.packet,
            cell(&row.relay),
            cell(&row.udp),
            cell(&row.aead),
            format!("{:.0} ({:.1} Gb)", row.wall_ns(), row.wall_gbit()),
        );
    }
    print_hop(rows);
}

fn print_hop(rows: &[Row]) {
    if rows
        .iter()
        .flat_map(|row| &row.hop)
        .all(|(_, r)| r.is_empty())
    {
        return;
    }
    println!("\n(d) naive hop, CPU of its process: million messages a core-second");
    println!(
        "{:>6}  {:>8}  {:>26}  {:>20}  {:>10}",
        "packet", "payload", "messages (M)", "payload Gbit", "of wall"
    );
    for row in rows {
        for (size, reports) in row.hop.iter().filter(|(_, reports)| !reports.is_empty()) {
            let whole = gigabits(reports).median * (*size + 48) as f64 / (*size).max(1) as f64;
            let wall = row.wall_gbit();
            let part = if wall > 0.0 {
                format!("{:.0} %", 100.0 * whole / wall)
            } else {
                "-".to_owned()
            };
            println!(
                "{:>6}  {:>8}  {:>26}  {:>20}  {part:>10}",
                row.packet,
                size,
                format!("{:.3}", millions(reports)),
                format!("{:.2}", gigabits(reports)),
            );
        }
    }
}
