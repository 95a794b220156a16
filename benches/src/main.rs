//! `caplane-load`: reads arguments, runs one of the library's rooms, prints.

mod cli;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Load generator, path impairer and measurements of Caplane.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send messages through a router and measure what becomes of them.
    Run(Box<cli::run::Arguments>),
    /// Search the highest load without loss, and with little.
    Search(Box<cli::search::Arguments>),
    /// Make an HTML page of results.
    Report(cli::results::ReportArguments),
    /// Compare two results.
    Compare(cli::results::CompareArguments),
    /// Measure what a message costs a router: the table of the README.
    Figures(cli::figures::Arguments),
    /// Measure what a message must cost on this machine, whoever forwards it.
    Ceiling(cli::ceiling::Arguments),
    /// Measure the router against its bars.
    Bars(cli::bars::Arguments),
    /// Balance the books of a router under everything at once, for a while.
    Soak(cli::soak::Arguments),
    /// Measure other message routers under the same load.
    Peers(cli::peers::Arguments),
    /// Measure the control plane at scale.
    Control(cli::control::Arguments),
    /// Be the naive hop, for `ceiling` and `bars`.
    #[command(hide = true)]
    NaiveHop(cli::ceiling::HopArguments),
    /// Relay UDP between clients and one target, and impair it on the way.
    Impair(Box<cli::impair::Arguments>),
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    let done = match Arguments::parse().command {
        Command::Run(arguments) => cli::run::run(&arguments),
        Command::Search(arguments) => cli::search::run(&arguments),
        Command::Report(arguments) => cli::results::report(&arguments),
        Command::Compare(arguments) => cli::results::compare(&arguments),
        Command::Figures(arguments) => cli::figures::run(arguments),
        Command::Ceiling(arguments) => cli::ceiling::run(&arguments),
        Command::Bars(arguments) => cli::bars::run(&arguments),
        Command::Soak(arguments) => cli::soak::run(&arguments),
        Command::Peers(arguments) => cli::peers::run(&arguments),
        Command::Control(arguments) => cli::control::run(&arguments),
        Command::NaiveHop(arguments) => cli::ceiling::hop(arguments),
        Command::Impair(arguments) => cli::impair::run(&arguments),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("caplane-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}
