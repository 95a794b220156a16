//! `caplane router` and `caplane link`: what messages go through.

use clap::Subcommand;

/// `caplane router`
#[derive(Debug, Subcommand)]
pub enum RouterCommand {
    /// List routers
    List,
    /// Register a router
    Add {
        /// Its name
        name: String,
        /// URI of its certificate [default: spiffe://<trust domain>/router/<NAME>]
        #[arg(long)]
        uri: Option<String>,
    },
}

/// `caplane link`
#[derive(Debug, Subcommand)]
pub enum LinkCommand {
    /// Declare a link between two routers
    Add {
        /// One end
        a: String,
        /// The other end
        b: String,
        /// Cost, 1 to 65535
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_535))]
        cost: u32,
    },
    /// List links
    List,
    /// Remove a link
    Remove {
        /// One end
        a: String,
        /// The other end
        b: String,
    },
}
