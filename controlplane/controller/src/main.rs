//! `caplane-controller`: reads its configuration, serves until SIGTERM.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use caplane_controller::config::ControllerConfig;
use caplane_controller::knowledge::Knowledge;
use caplane_controller::{service, tls};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Caplane's controller: keeps who serves what, compiles it into forwarding tables and pushes
/// them to routers.
///
/// Everything it knows is set and read through its northbound gRPC API (the `caplane` command is
/// a client of it) and survives restarts in one redb file. Both listeners demand client
/// certificates; `caplane pki` makes development ones.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Log lines as JSON.
    #[arg(long)]
    log_json: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Subcommand)]
enum Action {
    /// Check the configuration and every file it names, then exit: 0 = good, 2 = not.
    Check,
}

const EXAMPLES: &str = r#"A configuration:

  name = "c1"
  listen_northbound = "127.0.0.1:7400"      # operators; port 0 = any free one
  listen_southbound = "0.0.0.0:7401"        # routers
  state_dir = "/var/lib/caplane/controller" # controller.redb and addresses.json
  operators = ["spiffe://caplane.local/operator/*"]

  [credentials]
  chain = "controller-c1.pem"
  key = "controller-c1-key.pem"
  trust = [{ domain = "caplane.local", roots = "ca.pem" }]

Relative paths start at the file's own folder. Once both listeners are up the log says
event="ready" and <state_dir>/addresses.json holds the bound addresses.

Environment:
  RUST_LOG   what is logged, for example "info,caplane_controller=debug" (default "info")

Exit status: 0 stopped by SIGTERM or SIGINT, 1 failed while running, 2 could not start."#;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter);
    if arguments.log_json {
        log.json().init();
    } else {
        log.init();
    }
    let outcome = match arguments.action {
        Some(Action::Check) => check(&arguments),
        None => serve(&arguments),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("caplane-controller: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn check(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = ControllerConfig::load(&arguments.config)?;
    tls::server_config(&config.credentials)?;
    let knowledge = Knowledge::load(&config.taxonomy)?;
    println!(
        "{}: good; {} classes, store {}",
        arguments.config.display(),
        knowledge.taxonomy().len(),
        config.store.path.display()
    );
    Ok(ExitCode::SUCCESS)
}

fn serve(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = ControllerConfig::load(&arguments.config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
        let mut running = service::start(&config).await?;
        let broken = tokio::select! {
            _ = terminate.recv() => false,
            _ = interrupt.recv() => false,
            () = running.broken() => true,
        };
        if broken {
            tracing::error!(
                event = "commit_thread_broken",
                "see the panic above; ending"
            );
            return Ok(ExitCode::FAILURE);
        }
        tracing::info!(event = "stopping", name = config.name);
        running.stop().await;
        tracing::info!(event = "stopped", name = config.name);
        Ok(ExitCode::SUCCESS)
    })
}
