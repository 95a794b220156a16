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
    /// Relay UDP between clients and one target, and impair it on the way.
    Impair(cli::impair::Arguments),
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    let done = match Arguments::parse().command {
        Command::Impair(arguments) => cli::impair::run(arguments),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("caplane-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}
