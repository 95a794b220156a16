//! `caplane up`: a whole fabric on this machine.

use std::path::PathBuf;

use clap::Args;

/// `caplane up`
#[derive(Debug, Args)]
pub struct UpArguments {
    /// Routers, in a line; agents attach to the last, the requester to the first
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub routers: u8,
    /// Worker threads of each router
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub workers: u8,
    /// Send a fixed set of messages, check every byte, and end
    #[arg(long)]
    pub once: bool,
    /// Receipted messages of --once
    #[arg(long, default_value_t = 10_000, requires = "once")]
    pub messages: u64,
    /// Datagrams of --once
    #[arg(long, default_value_t = 1_000, requires = "once")]
    pub datagrams: u64,
    /// Folder of A2A agent cards (*.json) to register instead of the built-in ones
    #[arg(long, value_name = "FOLDER")]
    pub cards: Option<PathBuf>,
    /// Requests a second of the live view, over all agents
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,
    /// End the live view after this many seconds [default: until interrupted]
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<u64>,
}
