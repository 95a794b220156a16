//! `caplane class` and `caplane resolve`: what a need is called, and what serves it.

use clap::{Args, Subcommand};

/// `caplane class`
#[derive(Debug, Subcommand)]
pub enum ClassCommand {
    /// List classes
    List {
        /// Only this path and below
        #[arg(long, default_value = "", value_name = "PATH")]
        under: String,
    },
    /// Find the classes that a text means, best first
    Find {
        /// "book a hotel"
        text: String,
        /// At most this many
        #[arg(long, default_value_t = 5)]
        limit: u32,
    },
}

/// `caplane resolve`
#[derive(Debug, Args)]
pub struct ResolveArguments {
    /// A need in words, a class path ("travel/hotels"), a label ("class:112.1"), or an agent's URI
    pub need: String,
    /// At most this many
    #[arg(long, default_value_t = 5)]
    pub limit: u32,
    /// Ask as the agent with this URI: what it may not reach is left out
    #[arg(long, value_name = "URI", default_value = "")]
    pub asker: String,
}
