//! `caplane agent`: who there is.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `caplane agent`
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Register an agent with its A2A card or ACPs capability specification, as it is
    Register(RegisterArguments),
    /// List agents
    List,
    /// Show one agent: its skills, their classes and why, its instances
    Show {
        /// URI of its certificate, or its name in the state folder's trust domain
        agent: String,
        /// Tenant, when a name is given
        #[arg(long, default_value = "shared")]
        tenant: String,
    },
    /// Withdraw an agent: its instances are closed, its grants go
    Withdraw {
        /// URI of its certificate, or its name in the state folder's trust domain
        agent: String,
        /// Tenant, when a name is given
        #[arg(long, default_value = "shared")]
        tenant: String,
    },
}

/// `caplane agent register`
#[derive(Debug, Args)]
pub struct RegisterArguments {
    /// URI of the agent's certificate
    #[arg(long, conflicts_with = "name", required_unless_present = "name")]
    pub uri: Option<String>,
    /// Name of the agent in the state folder's trust domain
    #[arg(long)]
    pub name: Option<String>,
    /// A2A agent card or ACPs capability specification (JSON)
    #[arg(long, value_name = "FILE")]
    pub card: PathBuf,
    /// Tenant; it must exist
    #[arg(long, default_value = "shared")]
    pub tenant: String,
    /// Share of traffic among the members of a class, 1 to 65535 [default: 100]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub weight: Option<u32>,
    /// Lifetime without renewal (seconds) [default: until withdrawn]
    #[arg(long, value_name = "SECONDS")]
    pub lease: Option<u32>,
    /// Highest priority it may send with [default: 6]
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=7))]
    pub priority_max: Option<u32>,
    /// Policy of its tenant [default: what its tenant's agents may]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub policy: String,
    /// Where it runs, from large to small ("eu/de/fra"), for `resolve --locality`
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "PLACE"
    )]
    pub locality: String,
    /// What using it costs, for `resolve --cost-max`
    #[arg(long, default_value_t = 0)]
    pub cost: u32,
    /// It serves no class until it is registered without this (--replace)
    #[arg(long)]
    pub out_of_service: bool,
    /// Grant nothing: its skills wait until `caplane grant add`
    #[arg(long)]
    pub no_grant: bool,
    /// Assign it anew when it is registered already; its grants stay, and without any it is granted what a new one is
    #[arg(long)]
    pub replace: bool,
}
