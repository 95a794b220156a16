//! `caplane-router`: arguments, logs and signals around [`caplane_router::Router`].

use std::io::{IsTerminal, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::Context;
use caplane_router::config::RouterConfig;
use caplane_router::{Ended, Router};
use clap::{Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

/// quiche allocates for every packet received and every stream's bytes; what that costs stands in ARCHITECTURE.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long the allocator keeps memory that nobody uses before the system gets it back, in milliseconds. By default it is a
/// second: a worker with little to do then gave pages back and had them cleared for it again each second, and messages
/// waited milliseconds for that. The allocator reads it before `main`.
const KEEP_MEMORY: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "60000");

const EXAMPLE: &str = r#"A small router.toml:

  name = "edge-1"
  listen = "0.0.0.0:4433"              # QUIC; agents and neighbour routers
  advertise = "edge-1.example:4433"    # where others find it
  admin = "127.0.0.1:9464"             # http://127.0.0.1:9464/metrics
  state_dir = "/var/lib/caplane/edge-1"
  workers = "auto"                     # threads, one for each core; default 1

  [controller]
  addresses = ["controller-1.example:7443", "controller-2.example:7443"]

  [credentials]                        # made by `caplane pki`, or your own CA
  chain = "router-edge-1.pem"
  key = "router-edge-1-key.pem"
  trust = [{ domain = "caplane.local", roots = "ca.pem" }]

  [io]                                 # every line may be left out
  driver = "auto"                      # or "mio" (epoll), or "uring"
  interface = "vrf-blue"               # send and receive by this device only
  agent_dscp = 0                       # codepoint of packets to agents,
  link_dscp = 46                       # and to neighbour routers
  busy_poll_us = 50                    # look so long before sleeping
  pin_workers = true                   # worker n on the n-th core allowed

Relative paths are relative to the file. SIGTERM drains and ends within
timers.drain_period_ms (5 s); a second one ends at once.

Exit codes: 0 ended as asked, 1 a failure while running, 2 wrong arguments,
configuration or start-up."#;

/// Switches agents' messages by capability label over QUIC: forwards by the tables a Caplane
/// controller pushes, and goes on by the last ones while it is away.
#[derive(Parser)]
#[command(name = "caplane-router", version, after_help = EXAMPLE, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Task>,

    /// Configuration file (TOML)
    #[arg(
        long,
        value_name = "FILE",
        env = "CAPLANE_ROUTER_CONFIG",
        required = true
    )]
    config: Option<PathBuf>,

    /// End at once when standard input ends: for a parent process that may die
    #[arg(long)]
    exit_with_stdin: bool,

    /// Form of the log lines on standard error; CAPLANE_LOG chooses what is logged ("info", "caplane_router=debug")
    #[arg(long, value_enum, default_value = "text", env = "CAPLANE_LOG_FORMAT")]
    log_format: LogFormat,
}

#[derive(Subcommand)]
enum Task {
    /// Check a configuration file and say what is in force, defaults included
    CheckConfig {
        /// Configuration file (TOML)
        #[arg(long, value_name = "FILE", env = "CAPLANE_ROUTER_CONFIG")]
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
    match arguments.command {
        Some(Task::CheckConfig { config }) => check_config(&config),
        None => {
            start_log(arguments.log_format);
            keep_memory();
            let config = arguments
                .config
                .expect("clap requires --config when there is no subcommand");
            run(&config, arguments.exit_with_stdin)
        }
    }
}

/// Begins anew, as the same process, with the allocator told how long to keep memory; whoever sets it otherwise is heard.
fn keep_memory() {
    let (name, value) = KEEP_MEMORY;
    if std::env::var_os(name).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    let mut arguments = std::env::args_os();
    let mut anew = Command::new(program);
    if let Some(name) = arguments.next() {
        anew.arg0(name);
    }
    let error = anew.args(arguments).env(name, value).exec();
    tracing::warn!(%error, "goes on with the allocator's own settings: set {name}={value}");
}

fn check_config(path: &std::path::Path) -> ExitCode {
    match RouterConfig::load(path) {
        Ok(config) => {
            println!("{}: no faults. In force:\n{config:#?}", path.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
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

fn run(path: &std::path::Path, exit_with_stdin: bool) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ended = runtime
        .context("setting up signal handling")
        .and_then(|runtime| runtime.block_on(start_and_wait(path, exit_with_stdin)));
    match ended {
        Ok(Ended::Asked) => ExitCode::SUCCESS,
        Ok(Ended::Failed(reason)) => {
            eprintln!("caplane-router: {reason}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("caplane-router: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Starts the router and waits for its end, or for signals that ask for it.
async fn start_and_wait(path: &std::path::Path, exit_with_stdin: bool) -> anyhow::Result<Ended> {
    // Before anybody can know that the router is there.
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let mut stdin_ended = stdin_watch(exit_with_stdin);
    let config = RouterConfig::load(path)?;
    let mut router = Router::start(&config).context("the router did not start")?;
    let mut draining = false;
    let mut stdin_open = true;
    loop {
        tokio::select! {
            ended = router.ended() => return Ok(ended),
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = &mut stdin_ended, if stdin_open => {
                stdin_open = false;
                draining = true;
            }
        }
        if draining {
            router.stop();
            std::thread::spawn(end_for_certain);
        } else {
            draining = true;
            router.drain();
        }
    }
}

/// A worker that ticks stops within milliseconds; one that does not must not keep the process.
fn end_for_certain() {
    std::thread::sleep(Duration::from_secs(1));
    eprintln!("caplane-router: a thread did not stop; ended without it");
    std::process::exit(1);
}

/// Resolves when standard input ends; never, when that is not asked for.
fn stdin_watch(asked: bool) -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    if !asked {
        // Kept for the process's life, so that the receiver never resolves.
        std::mem::forget(sender);
        return receiver;
    }
    std::thread::spawn(move || {
        let mut sink = [0; 256];
        while std::io::stdin().read(&mut sink).is_ok_and(|n| n > 0) {}
        let _ = sender.send(());
    });
    receiver
}
