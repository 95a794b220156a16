//! `caplane policy` and `caplane policer`: what agents may reach and send.

use clap::{Args, Subcommand};

const POLICY_HELP: &str = "\
An agent may reach its own tenant, the shared one and what permissions say. One that names a policy of its tenant
may reach what that allows besides, or with --only nothing else.

  caplane policy add desk --tenant acme --allow zeta:travel/hotels     also hotels of tenant zeta
  caplane policy add kiosk --tenant acme --only --allow acme:travel --policer slow
  caplane agent register --name till --tenant acme --card till.json --policy kiosk";

/// `caplane policy`
#[derive(Debug, Subcommand)]
#[command(after_help = POLICY_HELP)]
pub enum PolicyCommand {
    /// Add a policy
    #[command(after_help = POLICY_HELP)]
    Add(PolicyArguments),
    /// List policies
    List,
    /// Remove a policy that no agent names
    Remove {
        /// Its name
        name: String,
    },
}

/// `caplane policy add`
#[derive(Debug, Args)]
pub struct PolicyArguments {
    /// Its name
    pub name: String,
    /// Tenant whose agents may name it
    #[arg(long, default_value = "shared")]
    pub tenant: String,
    /// Allow this class of a tenant and what is below it, or all of the tenant; repeat for more
    #[arg(long, value_name = "TENANT[:CLASS]")]
    pub allow: Vec<String>,
    /// Allow nothing else
    #[arg(long)]
    pub only: bool,
    /// Highest priority [default: the agent's own]
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=7))]
    pub priority_max: Option<u32>,
    /// Policer that holds its agents [default: the tenant's]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub policer: String,
    /// Its agents may connect to others directly: `resolve` tells them endpoints
    #[arg(long)]
    pub direct: bool,
    /// Assign it anew when it is there already
    #[arg(long)]
    pub replace: bool,
}

const POLICER_HELP: &str = "\
Holds each attached instance to a rate; what it sends above it is dropped and noticed as RATE_LIMITED. Without
--messages and --bytes the router's own default counts for all it sends; --unlimited is no limit at all.

  caplane policer add slow --messages 100 --class acme:travel=10      and 10 a second to travel of tenant acme
  caplane tenant add acme --policer slow --replace";

/// `caplane policer`
#[derive(Debug, Subcommand)]
#[command(after_help = POLICER_HELP)]
pub enum PolicerCommand {
    /// Add a policer
    #[command(after_help = POLICER_HELP)]
    Add(PolicerArguments),
    /// List policers
    List,
    /// Remove a policer that no policy and no tenant names
    Remove {
        /// Its name
        name: String,
    },
}

/// `caplane policer add`
#[derive(Debug, Args)]
pub struct PolicerArguments {
    /// Its name
    pub name: String,
    /// Messages a second, in all
    #[arg(long, value_name = "N")]
    pub messages: Option<u64>,
    /// Bytes a second, headers included, in all
    #[arg(long, value_name = "N")]
    pub bytes: Option<u64>,
    /// So much of a rate may come at once after a pause (milliseconds) [default: 100]
    #[arg(long, value_name = "MS")]
    pub burst_ms: Option<u32>,
    /// No limit in all, whatever the router's default is
    #[arg(long, conflicts_with_all = ["messages", "bytes"])]
    pub unlimited: bool,
    /// Messages, or messages and bytes, a second to a class of a tenant and what is below it; repeat for more
    #[arg(long = "class", value_name = "TENANT:CLASS=N[,BYTES]")]
    pub classes: Vec<String>,
    /// Assign it anew when it is there already
    #[arg(long)]
    pub replace: bool,
}
