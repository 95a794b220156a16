//! `caplane-controller`: arguments, logs and signals around [`caplane_controller::service`].

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use caplane_controller::config::ControllerConfig;
use caplane_controller::knowledge::Knowledge;
use caplane_controller::service;
use caplane_controller::tls;
use clap::{Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

const EXAMPLE: &str = r#"A small controller.toml:

  name = "c1"
  listen_northbound = "127.0.0.1:7442"      # operators, orchestrators; port 0 = any free one
  listen_southbound = "0.0.0.0:7443"        # routers
  state_dir = "/var/lib/caplane/controller" # controller.redb, addresses.json
  listen_unix = "/run/caplane/c1.sock"      # commands on this machine; may be left out
  operators = ["spiffe://caplane.local/operator/*"]   # administrators; see [[roles]] in the README for others

  [credentials]                             # made by `caplane pki`, or your own CA
  chain = "controller-c1.pem"
  key = "controller-c1-key.pem"
  trust = [{ domain = "caplane.local", roots = "ca.pem" }]

Relative paths are relative to the file. Once both listeners are up the log says
event="ready" and <state_dir>/addresses.json holds the bound addresses. Then register
a router with `caplane router add` and start it. SIGTERM ends open calls within
timers.drain_period_ms (5 s); a second one ends at once.

CAPLANE_LOG chooses what is logged ("info", "caplane_controller=debug").

Exit codes: 0 ended as asked, 1 a failure while running, 2 wrong arguments,
configuration or start-up."#;

/// Keeps which agents serve what, compiles it into forwarding tables, and pushes them to routers.
///
/// All it knows is set and read through its gRPC API (the `caplane` command is a client of it)
/// and survives restarts in one file. Every connection needs a client certificate.
#[derive(Parser)]
#[command(name = "caplane-controller", version, after_help = EXAMPLE, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Task>,

    /// Configuration file (TOML)
    #[arg(
        long,
        value_name = "FILE",
        env = "CAPLANE_CONTROLLER_CONFIG",
        required = true
    )]
    config: Option<PathBuf>,

    /// End at once when standard input ends: for a parent process that may die
    #[arg(long)]
    exit_with_stdin: bool,

    /// Form of the log lines on standard error
    #[arg(long, value_enum, default_value = "text", env = "CAPLANE_LOG_FORMAT")]
    log_format: LogFormat,
}

#[derive(Subcommand)]
enum Task {
    /// Check a configuration file and the files it names, and say what is in force
    CheckConfig {
        /// Configuration file (TOML)
        #[arg(long, value_name = "FILE", env = "CAPLANE_CONTROLLER_CONFIG")]
        config: PathBuf,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Some(Task::CheckConfig { config }) => check_config(&config),
        None => {
            start_log(arguments.log_format);
            let config = arguments
                .config
                .expect("clap requires --config when there is no subcommand");
            run(&config, arguments.exit_with_stdin)
        }
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("caplane-controller: {error:#}");
        ExitCode::from(2)
    })
}

fn check_config(path: &Path) -> anyhow::Result<ExitCode> {
    let config = ControllerConfig::load(path)?;
    tls::server_config(&config.credentials)?;
    let knowledge = Knowledge::load(&config.taxonomy)?;
    println!(
        "{}: no faults, {} classes. In force:\n{config:#?}",
        path.display(),
        knowledge.taxonomy().len(),
    );
    Ok(ExitCode::SUCCESS)
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_env("CAPLANE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

fn run(path: &Path, exit_with_stdin: bool) -> anyhow::Result<ExitCode> {
    let config = ControllerConfig::load(path)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let code = runtime.block_on(async {
        // Before anybody can know that this runs, and so ask it to end.
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
        let mut running = service::start(&config).await?;
        let stdin_ended = stdin_watch(exit_with_stdin);
        let ended = tokio::select! {
            _ = terminate.recv() => Ended::Asked,
            _ = interrupt.recv() => Ended::Asked,
            () = running.broken() => Ended::Broken,
            Ok(()) = stdin_ended => Ended::AtOnce,
        };
        match ended {
            Ended::Broken => {
                tracing::error!(event = "commit_thread_broken", "see the panic above");
                return Ok(ExitCode::FAILURE);
            }
            Ended::AtOnce => return Ok(ExitCode::SUCCESS),
            Ended::Asked => {}
        }
        tracing::info!(event = "stopping", name = config.name);
        tokio::select! {
            () = running.stop() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!(event = "stopped", name = config.name);
        Ok::<_, anyhow::Error>(ExitCode::SUCCESS)
    });
    // What did not end within the drain period is not waited for.
    runtime.shutdown_background();
    code
}

/// Why the controller is to end.
enum Ended {
    /// By a signal.
    Asked,
    /// Its parent is gone.
    AtOnce,
    /// The commit thread broke.
    Broken,
}

/// Resolves to `Ok` when standard input ends, and never so when that is not asked for.
fn stdin_watch(asked: bool) -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    if !asked {
        return receiver;
    }
    std::thread::spawn(move || {
        let mut sink = [0; 256];
        while std::io::stdin().read(&mut sink).is_ok_and(|n| n > 0) {}
        let _ = sender.send(());
    });
    receiver
}
