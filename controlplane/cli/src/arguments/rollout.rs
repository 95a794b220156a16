//! `caplane rollout` and `caplane generation`: how far changes came.

use clap::Subcommand;

const HELP: &str = "\
Every change makes a generation. A router that refuses one keeps its last good table.

  caplane grant add <URI> travel --wait-live 5       says how many routers forward by it
  caplane rollout status                             the newest generation, router by router
  caplane generation show 41                         who made it, when, and since when it is live where";

/// `caplane rollout`
#[derive(Debug, Subcommand)]
#[command(after_help = HELP)]
pub enum RolloutCommand {
    /// The newest generation, router by router
    Status,
}

/// `caplane generation`
#[derive(Debug, Subcommand)]
#[command(after_help = HELP)]
pub enum GenerationCommand {
    /// One generation: who made it, when, and since when it is live where
    Show {
        /// Its number, as changes print it
        generation: u64,
    },
}
