//! `caplane-load run`: one measurement.

use anyhow::{Context, bail};
use caplane_load::churn::{self, Churn};
use caplane_load::load::{
    self, Approach, Assertion, Carrier, Display, Observer, Plan, ProcessWatch, Rate, Report,
    Target, Verdict,
};
use caplane_load::rig::Rig;
use caplane_load::self_test;
use caplane_transport::{Credentials, TrustBundle};
use caplane_wire::{CongestionAction, Label, TrafficClass};
use clap::ValueEnum;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// The generator could not offer what it should have.
const EXIT_SATURATED: u8 = 3;
/// The router took less than was offered.
const EXIT_HELD_BACK: u8 = 4;
/// Corrupted or misrouted messages, or none at all.
const EXIT_FAULTY: u8 = 5;
/// An assertion does not hold.
const EXIT_ASSERTION: u8 = 7;

/// Without --router it starts routers of its own, with tables of --classes labels.
///
/// Exit code: 0 valid, 1 an error, 3 generator saturated (result invalid), 4 the router took less than was offered,
/// 5 corrupted or misrouted messages, or none received, 7 an assertion does not hold.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    load: LoadArguments,
    /// Routers of its own, in a row.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    routers: u8,
    #[command(flatten)]
    external: ExternalArguments,
    /// Leave the self-test out.
    #[arg(long)]
    no_self_test: bool,
    #[command(flatten)]
    churn: ChurnArguments,
    /// A condition on the result ("p99<2ms", "loss<=0.1%", "received>=9900", "cpu<1500ns"); may be repeated.
    #[arg(long, value_name = "CONDITION")]
    assert: Vec<Assertion>,
    /// Write all latencies there, in HdrHistogram's log format.
    #[arg(long, value_name = "FILE")]
    hlog: Option<PathBuf>,
    /// One JSON object on the standard output instead of text; its schema: benches/schema/run.json.
    #[arg(long)]
    json: bool,
}

/// What changes meanwhile.
#[derive(clap::Args, Clone)]
struct ChurnArguments {
    /// Instances that attach and leave, a second.
    #[arg(long, value_name = "RATE", default_value_t = 0.0)]
    churn: f64,
    /// Class entries rewritten in every change of the tables.
    #[arg(long, value_name = "ENTRIES", default_value_t = 0)]
    table_churn: usize,
    /// Seconds between changes of the tables.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    table_every: f64,
}

impl ChurnArguments {
    fn churn(&self) -> Churn {
        Churn {
            connections_per_s: self.churn,
            table_entries: self.table_churn,
            table_every: Duration::from_secs_f64(self.table_every.clamp(0.001, 86_400.0)),
        }
    }
}

/// What is sent.
#[derive(clap::Args, Clone)]
pub(super) struct LoadArguments {
    /// Sending connections.
    #[arg(long, default_value_t = 1)]
    senders: usize,
    /// Receiving connections.
    #[arg(long, default_value_t = 1)]
    receivers: usize,
    /// Destination classes (labels); receivers share them out.
    #[arg(long, default_value_t = 10_000)]
    classes: usize,
    /// Flows, spread over senders and classes.
    #[arg(long, default_value_t = 10_000)]
    flows: usize,
    /// What carries the messages.
    #[arg(long, value_enum, default_value_t = CarrierName::Lane)]
    carrier: CarrierName,
    /// Payload bytes, or several with weights ("64:7,570:4,1400:1"); the header's 48 come on top. From 24 on, latency and corruption are measured.
    #[arg(long, default_value = "64", value_parser = parse_sizes)]
    size: Sizes,
    /// The destinations are groups: every message goes to every receiver.
    #[arg(long)]
    fan_out: bool,
    /// Receivers answer every message; the round trip is measured.
    #[arg(long)]
    reply: bool,
    /// Messages a second of all senders together, or "max": closed by flow control, without corrected latency.
    #[arg(long, default_value = "10000", value_parser = parse_rate)]
    rate: Rate,
    /// At rate "max": messages under way at most, from the senders to the slowest of their receivers. Without it only the first
    /// router holds a sender back, and what later ones, or groups, cannot queue is lost.
    #[arg(long, value_name = "MESSAGES")]
    under_way: Option<u64>,
    /// Seconds measured.
    #[arg(long, default_value_t = 5.0)]
    duration: f64,
    /// Seconds before that.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Lanes a sender.
    #[arg(long, default_value_t = 1)]
    lanes: usize,
    /// What a full queue at the ingress router does; default: drop, at rate "max" block.
    #[arg(long, value_enum)]
    action: Option<ActionName>,
    /// Priority, 0 to 7.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=7))]
    priority: u8,
    /// Largest UDP payload that path MTU discovery may find (bytes).
    #[arg(long, default_value_t = 16_368)]
    udp_payload_max: usize,
    /// Order of flows and flow ids.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A router that runs already.
#[derive(clap::Args, Clone)]
pub(super) struct ExternalArguments {
    /// Router the senders attach to.
    #[arg(long, value_name = "ADDRESS", requires_all = ["roots", "sender_chain", "sender_key", "receiver_chain", "receiver_key", "class"])]
    pub(super) router: Option<SocketAddr>,
    /// Router the receivers attach to; default: the same.
    #[arg(long, value_name = "ADDRESS", requires = "router")]
    egress: Option<SocketAddr>,
    /// Roots of the trust domain (PEM).
    #[arg(long, value_name = "FILE")]
    roots: Option<PathBuf>,
    /// Trust domain of all certificates.
    #[arg(long, default_value = "caplane.local")]
    trust_domain: String,
    /// Certificate chain of the senders (PEM).
    #[arg(long, value_name = "FILE")]
    sender_chain: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE")]
    sender_key: Option<PathBuf>,
    /// Certificate chain of a receiver; once for each receiver, or one for all.
    #[arg(long, value_name = "FILE")]
    receiver_chain: Vec<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE")]
    receiver_key: Vec<PathBuf>,
    /// Destination label ("class:7.12"); may be repeated. Replaces --classes.
    #[arg(long, value_name = "LABEL")]
    class: Vec<Label>,
    /// Tenant of the classes.
    #[arg(long, default_value_t = 1)]
    tenant: u32,
    /// Router process whose CPU time counts; may be repeated.
    #[arg(long, value_name = "PID")]
    router_pid: Vec<u32>,
}

#[derive(Clone, Copy, ValueEnum)]
enum CarrierName {
    Lane,
    Bulk,
    Datagram,
}

#[derive(Clone, Copy, ValueEnum)]
enum ActionName {
    Drop,
    Block,
}

/// Payload sizes and their weights.
#[derive(Clone, Debug)]
struct Sizes(Vec<(usize, u32)>);

fn parse_sizes(text: &str) -> Result<Sizes, String> {
    let one = |part: &str| {
        let (size, weight) = part.split_once(':').unwrap_or((part, "1"));
        Some((size.trim().parse().ok()?, weight.trim().parse().ok()?))
    };
    let sizes: Option<Vec<(usize, u32)>> = text.split(',').map(one).collect();
    match sizes {
        Some(sizes) if !sizes.is_empty() => Ok(Sizes(sizes)),
        _ => Err("give bytes, or SIZE:WEIGHT,SIZE:WEIGHT,...".to_owned()),
    }
}

fn parse_rate(text: &str) -> Result<Rate, String> {
    match text.parse::<f64>() {
        _ if text == "max" => Ok(Rate::Max),
        Ok(rate) => Ok(Rate::PerSecond(rate)),
        Err(_) => Err("give messages a second, or max".to_owned()),
    }
}

impl LoadArguments {
    pub(super) fn plan(&self) -> Plan {
        let block = match self.action {
            Some(ActionName::Block) => true,
            Some(ActionName::Drop) => false,
            None => self.rate == Rate::Max,
        };
        let action = if block {
            CongestionAction::Block
        } else {
            CongestionAction::Drop
        };
        let labels = if self.fan_out {
            load::group_labels(self.classes)
        } else {
            load::class_labels(self.classes)
        };
        let mix = match self.size.0.as_slice() {
            [_] => Vec::new(),
            sizes => sizes.to_vec(),
        };
        Plan {
            classes: labels,
            fan_out: self.fan_out,
            mix,
            reply: self.reply,
            senders: self.senders,
            receivers: self.receivers,
            flows: self.flows,
            carrier: match self.carrier {
                CarrierName::Lane => Carrier::Lane,
                CarrierName::Bulk => Carrier::Bulk,
                CarrierName::Datagram => Carrier::Datagram,
            },
            payload: self.size.0.first().map_or(0, |(size, _)| *size),
            rate: self.rate,
            under_way_max: self.under_way,
            class: TrafficClass::new(self.priority, action),
            lanes: self.lanes,
            warm_up: Duration::from_secs_f64(self.warm_up.clamp(0.0, 86_400.0)),
            duration: Duration::from_secs_f64(self.duration.clamp(0.1, 86_400.0)),
            udp_payload_max: self.udp_payload_max,
            seed: self.seed,
            ..Plan::one_to_one(self.classes)
        }
    }
}

impl ExternalArguments {
    /// Classes and tenant of that router instead of our own.
    pub(super) fn apply(&self, plan: &mut Plan) {
        plan.classes.clone_from(&self.class);
        plan.tenant = self.tenant;
    }

    pub(super) fn target(&self, router: SocketAddr) -> anyhow::Result<Target> {
        let mut trust = TrustBundle::new();
        let roots = self
            .roots
            .as_deref()
            .context("--roots is needed with --router")?;
        trust.add_file(&self.trust_domain, roots)?;
        let (Some(chain), Some(key)) = (&self.sender_chain, &self.sender_key) else {
            bail!("--sender-chain and --sender-key are needed with --router");
        };
        if self.receiver_chain.len() != self.receiver_key.len() {
            bail!("give as many --receiver-key as --receiver-chain");
        }
        let receivers = self
            .receiver_chain
            .iter()
            .zip(&self.receiver_key)
            .map(|(chain, key)| Credentials::from_files(chain, key, trust.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Target {
            name: format!("router at {router}"),
            ingress: router,
            egress: self.egress.unwrap_or(router),
            sender: Credentials::from_files(chain, key, trust)?,
            receivers,
            watch: ProcessWatch::new(self.router_pid.clone()),
            approach: Approach::Attach,
            // A process that can be watched is here; so is a router with an address of ours.
            co_located: !self.router_pid.is_empty()
                || [router, self.egress.unwrap_or(router)]
                    .into_iter()
                    .any(load::is_here),
        })
    }
}

/// Runs and prints.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let report = measure(arguments)?;
    let code = print(&report, arguments.json);
    if let Some(path) = &arguments.hlog {
        let mut file = std::fs::File::create(path).with_context(|| path.display().to_string())?;
        let measured = Duration::from_secs_f64(report.measured_s);
        report.histograms.write_hlog(&mut file, measured)?;
    }
    let mut held = true;
    for assertion in &arguments.assert {
        eprintln!("caplane-load: {}", assertion.verdict(&report));
        held &= assertion.holds(&report);
    }
    Ok(if code != ExitCode::SUCCESS || held {
        code
    } else {
        ExitCode::from(EXIT_ASSERTION)
    })
}

fn measure(arguments: &Arguments) -> anyhow::Result<Report> {
    let mut plan = arguments.load.plan();
    let mut display = Display::new(arguments.json);
    let external = match arguments.external.router {
        Some(router) => {
            arguments.external.apply(&mut plan);
            if arguments.churn.table_churn > 0 || arguments.churn.churn > 0.0 {
                bail!("--churn and --table-churn need routers of our own: leave --router out");
            }
            Some(arguments.external.target(router)?)
        }
        None => None,
    };
    plan.check()?;
    let mut alone = None;
    if !arguments.no_self_test {
        let co_located = external.as_ref().is_none_or(|target| target.co_located);
        let tested = self_test::self_test(&plan, co_located, &mut |line| display.note(line))?;
        if let Some(report) = tested.saturated {
            return Ok(report);
        }
        alone = Some(tested.summary);
    }
    let report = match external {
        Some(target) => load::observed(&plan, &target, &mut display)?,
        None => {
            display.note(&format!(
                "starting {} router(s) with {} labels",
                arguments.routers,
                plan.classes.len()
            ));
            let rig = Rig::start(&plan, arguments.routers.into())?;
            churn::observed(&plan, &rig, &arguments.churn.churn(), &mut display)?
        }
    };
    Ok(Report {
        self_test: alone,
        ..report
    })
}

fn print(report: &Report, json: bool) -> ExitCode {
    if json {
        println!(
            "{}",
            serde_json::to_string(report).expect("a report is plain data")
        );
    } else {
        println!("{report}");
    }
    match report.verdict {
        Verdict::Valid => ExitCode::SUCCESS,
        Verdict::GeneratorSaturated => {
            eprintln!("caplane-load: generator saturated: result invalid");
            ExitCode::from(EXIT_SATURATED)
        }
        Verdict::HeldBack => ExitCode::from(EXIT_HELD_BACK),
        Verdict::Faulty | Verdict::NothingReceived => ExitCode::from(EXIT_FAULTY),
    }
}
