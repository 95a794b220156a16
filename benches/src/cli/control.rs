//! `caplane-load control`: the control plane at scale.

use caplane_load::control::{self, Figure, Scale};
use serde_json::json;
use std::process::ExitCode;

/// Load a file of many agents into a real controller, ask it in words, time one agent's change on its way to real routers as
/// the table grows, and give it many simulated routers of which some read nothing.
///
/// Ratios are gated, times are told beside what is promised of them.
///
/// Exit code: 0 all gates hold, 1 an error, 5 a gate does not hold.
#[derive(clap::Args)]
pub struct Arguments {
    /// Sizes of the table (agents), rising.
    #[arg(long, value_delimiter = ',', default_values_t = Scale::default().sizes)]
    agents: Vec<usize>,
    /// Routers that follow; the real program.
    #[arg(long, default_value_t = Scale::default().routers)]
    routers: usize,
    /// Simulated routers.
    #[arg(long, default_value_t = Scale::default().simulated)]
    simulated: usize,
    /// One JSON object instead of the text.
    #[arg(long)]
    json: bool,
}

/// A gate does not hold.
const EXIT_FAULTY: u8 = 5;

/// Measures and prints.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let default = Scale::default();
    let scale = Scale {
        sizes: arguments.agents.clone(),
        routers: arguments.routers.max(1),
        simulated: arguments.simulated,
        stuck: default.stuck.min(arguments.simulated / 2),
        ..default
    };
    anyhow::ensure!(scale.sizes.is_sorted(), "--agents must rise");
    let as_text = !arguments.json;
    let mut tell = |figure: &Figure| {
        if as_text {
            println!("{}", line(figure));
        }
    };
    let runtime = tokio::runtime::Runtime::new()?;
    let figures = runtime.block_on(control::measure(&scale, &mut tell))?;
    let holds = figures.iter().all(|figure| figure.holds() || !figure.gated);
    if arguments.json {
        println!(
            "{}",
            json!({ "schema": "caplane.control/1", "figures": figures, "holds": holds })
        );
    }
    Ok(if holds {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_FAULTY)
    })
}

fn line(figure: &Figure) -> String {
    let Figure {
        name, value, unit, ..
    } = figure;
    let bar = match figure.at_most {
        None => String::new(),
        Some(bar) => {
            let word = match (figure.holds(), figure.gated) {
                (true, _) => "holds",
                (false, true) => "FAILS",
                (false, false) => "is missed here",
            };
            format!("   at most {bar} {unit}: {word}")
        }
    };
    format!("{value:>10.2} {unit:<5}  {name}{bar}")
}
