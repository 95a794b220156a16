//! `caplane`: the operator's command.

use std::process::ExitCode;

use caplane::arguments::Cli;
use clap::Parser;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Quiet unless asked: results are on standard output, errors below.
    let filter = EnvFilter::try_from_env("CAPLANE_LOG").unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!(
                "caplane: cannot start threads: {error}; raise the limit of threads or memory"
            );
            return ExitCode::FAILURE;
        }
    };
    let json = cli.global.json;
    match runtime.block_on(caplane::commands::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if json {
                eprintln!("{:#}", failure.json());
            } else {
                eprintln!("caplane: {failure}");
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}
