//! `caplane grant`, `caplane tenant` and `caplane permission`: who may do what.

use clap::{Args, Subcommand};

/// `caplane grant`
#[derive(Debug, Subcommand)]
pub enum GrantCommand {
    /// Allow an agent to serve a class and everything below it
    Add {
        /// URI of the agent
        agent: String,
        /// Class path; "*" = whatever its skills are classified as
        class: String,
        /// Weight for this class [default: the agent's]
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65_535))]
        weight: Option<u32>,
        /// It may, and does not now: the class gets no new messages for it
        #[arg(long)]
        out_of_service: bool,
        /// Assign it anew when it is there already
        #[arg(long)]
        replace: bool,
    },
    /// List grants
    List,
    /// Take a grant back
    Remove {
        /// URI of the agent
        agent: String,
        /// Class path, as granted
        class: String,
    },
}

/// `caplane tenant`
#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// Add a tenant
    Add {
        /// Its name
        name: String,
        /// Policer that holds its agents [default: the routers' default rate]
        #[arg(long, default_value = "", hide_default_value = true)]
        policer: String,
        /// Its agents may connect to others directly: `resolve` tells them endpoints
        #[arg(long)]
        direct: bool,
        /// Assign it anew when it is there already
        #[arg(long)]
        replace: bool,
    },
    /// List tenants
    List,
    /// Remove a tenant
    Remove {
        /// Its name
        name: String,
    },
}

/// `caplane permission`
#[derive(Debug, Subcommand)]
pub enum PermissionCommand {
    /// Let tenant FROM reach classes of tenant TO
    Add(PermissionArguments),
    /// List permissions
    List,
    /// Take a permission back
    Remove(PermissionArguments),
}

/// Key of a permission.
#[derive(Debug, Args)]
pub struct PermissionArguments {
    /// Tenant that asks
    pub from: String,
    /// Tenant that is reached
    pub to: String,
    /// This class path and below [default: all]
    #[arg(long, default_value = "")]
    pub class: String,
}
