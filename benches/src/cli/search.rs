//! `caplane-load search`: NDR, PDR, MRR, and latency below the PDR.

use super::run::{ExternalArguments, LoadArguments};
use anyhow::bail;
use caplane_load::load::{Display, Observer, Plan, Rate};
use caplane_load::rig::Rig;
use caplane_load::search::{self, SearchReport, SearchSettings};
use caplane_load::self_test::self_test;
use std::process::ExitCode;
use std::time::Duration;

/// Searches the highest load without loss (NDR) and with at most --pdr-loss of it (PDR), after RFC 9971 (MLRsearch), prints
/// the rate received at maximum load (MRR), and measures latency at 0, 10, 50 and 90 % of the PDR.
///
/// A message that flow control held back past the end of a trial counts as lost: it was not carried at that load. The traffic
/// class drops at full queues unless --action block says otherwise.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    load: LoadArguments,
    #[command(flatten)]
    external: ExternalArguments,
    /// Routers of its own, in a row.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    routers: u8,
    /// Goal Final Trial Duration (seconds).
    #[arg(long, default_value_t = 2.0)]
    trial: f64,
    /// Goal Duration Sum: seconds of trials at a load, until no further one can change its side.
    #[arg(long, default_value_t = 6.0)]
    duration_sum: f64,
    /// Goal Exceed Ratio: part of the duration sum that may have more loss.
    #[arg(long, default_value_t = 0.5)]
    exceed_ratio: f64,
    /// Goal Width: relative distance of the bounds at the end.
    #[arg(long, default_value_t = 0.05)]
    width: f64,
    /// Goal Loss Ratio of the PDR.
    #[arg(long, default_value_t = 0.005)]
    pdr_loss: f64,
    /// Leave the self-test out: the generator alone at maximum load, which says whether the MRR is the generator's.
    #[arg(long)]
    no_self_test: bool,
    /// One JSON object on the standard output instead of text.
    #[arg(long)]
    json: bool,
}

/// Searches and prints.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut plan = arguments.load.plan();
    plan.warm_up = plan.warm_up.min(Duration::from_millis(200));
    let settings = SearchSettings {
        trial: Duration::from_secs_f64(arguments.trial.clamp(0.1, 3_600.0)),
        duration_sum: Duration::from_secs_f64(arguments.duration_sum.clamp(0.1, 86_400.0)),
        exceed_ratio: arguments.exceed_ratio.clamp(0.0, 0.999),
        width: arguments.width.max(0.001),
        pdr_loss_ratio: arguments.pdr_loss.clamp(0.0, 1.0),
    };
    let mut display = Display::new(arguments.json);
    let external = match arguments.external.router {
        Some(router) => {
            arguments.external.apply(&mut plan);
            Some(arguments.external.target(router)?)
        }
        None => None,
    };
    plan.check()?;
    let mut alone = None;
    if !arguments.no_self_test {
        let most = Plan {
            rate: Rate::Max,
            ..plan.clone()
        };
        let co_located = external.as_ref().is_none_or(|target| target.co_located);
        let tested = self_test(&most, co_located, &mut |line| display.note(line))?;
        if let Some(report) = tested.saturated {
            bail!("the generator alone is at fault, nothing is searched:\n{report}");
        }
        alone = Some(tested.summary);
    }
    let report = match external {
        Some(target) => search::search(&plan, &target, &settings, alone, &mut display)?,
        None => {
            let rig = Rig::start(&plan, arguments.routers.into())?;
            search::search(&plan, &rig.target()?, &settings, alone, &mut display)?
        }
    };
    drop(display);
    if arguments.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(report: &SearchReport) {
    let [senders, receivers, classes, flows] = report.scale;
    println!(
        "{}: {} B payload, {senders} senders, {receivers} receivers, {classes} classes, {flows} flows",
        report.target, report.payload_bytes
    );
    println!(
        "  MRR  {:.0} messages/s received at maximum load{}",
        report.mrr_per_s,
        if report.mrr_generator_limited {
            " (the generator's limit: the router may carry more)"
        } else {
            ""
        }
    );
    match &report.self_test {
        Some(test) => println!("  {test}"),
        None => println!("  self-test left out"),
    }
    let rate = |rate: Option<f64>| rate.map_or("none".to_owned(), |rate| format!("{rate:.0}/s"));
    for result in &report.goals {
        let goal = &result.goal;
        println!(
            "  {}  conditional throughput {}, relevant lower bound {}, relevant upper bound {}{}\n       \
             goal: loss ratio {}, final trial duration {} s, duration sum {} s, exceed ratio {}, width {}",
            goal.name,
            rate(result.conditional_throughput),
            rate(result.relevant_lower_bound),
            rate(result.relevant_upper_bound),
            if result.generator_limited {
                " (the generator's limit: the router may carry more)"
            } else {
                ""
            },
            goal.loss_ratio,
            goal.trial_s,
            goal.duration_sum_s,
            goal.exceed_ratio,
            goal.width,
        );
    }
    for at in &report.latency {
        let text = at
            .latency_us
            .as_ref()
            .map_or("payloads carry no stamps".to_owned(), ToString::to_string);
        println!(
            "  latency at {:>2.0} % of PDR ({:.0}/s) us: {text}",
            at.part_of_pdr * 100.0,
            at.load
        );
    }
    println!(
        "  {} trials, {:.0} s in all; {} ({} CPUs, {}), Linux {}, commit {}",
        report.trials.len(),
        report.trials_s,
        report.machine.cpu,
        report.machine.cpus,
        if report.co_located {
            "co-located"
        } else {
            "the router elsewhere"
        },
        report.machine.kernel,
        report.machine.commit
    );
}
