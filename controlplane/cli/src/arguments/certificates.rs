//! `caplane pki`: a development authority.

use clap::Subcommand;

/// `caplane pki`
#[derive(Debug, Subcommand)]
pub enum PkiCommand {
    /// Make an authority in the state folder: ca.pem, ca-key.pem
    Init {
        /// Trust domain of its names
        #[arg(long, default_value = crate::pki::TRUST_DOMAIN)]
        trust_domain: String,
        /// Replace the one that is there; its certificates are then worth nothing
        #[arg(long)]
        force: bool,
    },
    /// Issue a certificate: <ROLE>-<NAME>.pem, <ROLE>-<NAME>-key.pem
    Issue {
        /// controller, router, agent or operator
        #[arg(value_enum)]
        role: RoleName,
        /// Its name
        name: String,
        /// Tenant of an agent
        #[arg(long, default_value = "shared")]
        tenant: String,
        /// Lifetime in days
        #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u64).range(1..=3_650))]
        days: u64,
        /// More DNS names or IP addresses
        #[arg(long = "dns", value_name = "NAME")]
        dns: Vec<String>,
        /// Replace the files that are there
        #[arg(long)]
        force: bool,
    },
}

/// Whom a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RoleName {
    /// A controller.
    Controller,
    /// A router.
    Router,
    /// An agent.
    Agent,
    /// An operator.
    Operator,
}
