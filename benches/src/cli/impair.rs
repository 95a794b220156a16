//! `caplane-load impair`: the relay as a command, steered by lines on the
//! standard input.

use anyhow::Context;
use caplane_load::impair::{Command, Conditions, Direction, ImpairConfig, Impairer, Scope};
use serde_json::json;
use std::io::BufRead;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// While it runs, lines on the standard input change the path, for both
/// directions or for one ("down loss 5"): loss, delay, jitter, reorder, hold,
/// duplicate, rate, queue, mtu, cut, heal, clear; rebind, show and quit. SIGINT and SIGTERM end it.
#[derive(clap::Args)]
pub struct Arguments {
    /// Where packets of clients go.
    #[arg(long, value_name = "ADDRESS")]
    target: SocketAddr,
    /// Where clients send; default: a free loopback port.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Seed of every decision.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Loss, in percent.
    #[arg(long, value_name = "PERCENT")]
    loss: Option<String>,
    /// One-way delay ("20ms").
    #[arg(long, value_name = "TIME")]
    delay: Option<String>,
    /// Jitter on top of the delay; keeps the order.
    #[arg(long, value_name = "TIME")]
    jitter: Option<String>,
    /// Packets held back so that later ones overtake them, in percent.
    #[arg(long, value_name = "PERCENT")]
    reorder: Option<String>,
    /// How long such packets are held back.
    #[arg(long, value_name = "TIME")]
    hold: Option<String>,
    /// Packets sent twice, in percent.
    #[arg(long, value_name = "PERCENT")]
    duplicate: Option<String>,
    /// Rate ("100mbit").
    #[arg(long, value_name = "RATE")]
    rate: Option<String>,
    /// Bytes that may wait for the rate.
    #[arg(long, value_name = "BYTES")]
    queue: Option<String>,
    /// MTU, IP header included; larger packets vanish silently.
    #[arg(long, value_name = "BYTES")]
    mtu: Option<String>,
    /// Any command, for example --set "up loss 5"; may be repeated.
    #[arg(long, value_name = "COMMAND")]
    set: Vec<String>,
    /// End after this time; default and most: a day.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<f64>,
    /// End when the standard input ends.
    #[arg(long)]
    quit_on_eof: bool,
    /// JSON objects instead of text: one at the start, one for each `show`, one at the end.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    fn conditions(&self) -> anyhow::Result<[Conditions; 2]> {
        let words = [
            ("loss", &self.loss),
            ("delay", &self.delay),
            ("jitter", &self.jitter),
            ("reorder", &self.reorder),
            ("hold", &self.hold),
            ("duplicate", &self.duplicate),
            ("rate", &self.rate),
            ("queue", &self.queue),
            ("mtu", &self.mtu),
        ];
        let named = words
            .into_iter()
            .filter_map(|(word, value)| value.as_ref().map(|value| format!("{word} {value}")));
        let mut conditions = [Conditions::default(); 2];
        for line in named.chain(self.set.iter().cloned()) {
            let (scope, command) = Command::parse(&line)?;
            for direction in Direction::BOTH {
                if scope.covers(direction) {
                    command.apply(&mut conditions[direction as usize]);
                }
            }
        }
        Ok(conditions)
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("give seconds from 0 to 86400".to_owned()),
    }
}

/// Runs until a signal, `quit` or the end of the time.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut config = ImpairConfig::to(arguments.target, arguments.seed);
    config.conditions = arguments.conditions()?;
    if let Some(listen) = arguments.listen {
        config.listen = listen;
    }
    let relay = Impairer::start(config)?;
    if arguments.json {
        let start = json!({
            "listen": relay.local_addr(), "target": arguments.target, "seed": relay.seed(),
        });
        println!("{start}");
    } else {
        println!(
            "impair: {} -> {}, seed {}",
            relay.local_addr(),
            arguments.target,
            relay.seed()
        );
    }
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(steer(&relay, arguments))?;
    let seed = relay.seed();
    let counters = relay.stop()?;
    if arguments.json {
        println!("{}", json!({"seed": seed, "counters": counters}));
    } else {
        println!("impair: seed {seed}\n{counters}");
    }
    Ok(ExitCode::SUCCESS)
}

async fn steer(relay: &Impairer, arguments: &Arguments) -> anyhow::Result<()> {
    let mut lines = standard_input();
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    // A day stands for "until told".
    let patience = Duration::from_secs_f64(arguments.seconds.unwrap_or(86_400.0));
    let end = tokio::time::sleep(patience);
    tokio::pin!(end);
    let mut more_lines = true;
    loop {
        tokio::select! {
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            () = &mut end => return Ok(()),
            line = lines.recv(), if more_lines => match line {
                Some(line) => {
                    if carry_out(relay, &line, arguments.json) {
                        return Ok(());
                    }
                }
                None if arguments.quit_on_eof => return Ok(()),
                None => more_lines = false,
            },
        }
    }
}

/// True when the relay is to end.
fn carry_out(relay: &Impairer, line: &str, json: bool) -> bool {
    if line.trim().is_empty() {
        return false;
    }
    match Command::parse(line) {
        Err(error) => eprintln!("impair: {error}"),
        Ok((_, Command::Quit)) => return true,
        Ok((_, Command::Show)) if json => println!("{}", json!({"counters": relay.counters()})),
        Ok((_, Command::Show)) => println!("{:?}\n{}", relay.conditions(), relay.counters()),
        Ok((scope, command)) => {
            relay.command(scope, command);
            eprintln!("impair: {}", describe(scope, line));
        }
    }
    false
}

fn describe(scope: Scope, line: &str) -> String {
    match scope {
        Scope::Both => format!("both ways: {}", line.trim()),
        Scope::Only(_) => line.trim().to_owned(),
    }
}

/// Lines of the standard input; the channel ends with it.
fn standard_input() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(16);
    // A thread of its own: a blocked read of the terminal must not keep the process from ending.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
