//! `caplane class` and `caplane resolve`: what a need is called, and what serves it.

use caplane_proto::v1;
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

const RESOLVE_HELP: &str = "\
Answers classes, which routers share out among the agents that serve them. With --agents, or any of the flags that
say what an agent must be, it answers agents: those that serve what is asked for and are all of that.

  caplane resolve \"convert currency\"
  caplane resolve finance/currency --agents --locality eu/de --cost-max 5 --serving
  caplane resolve \"book a hotel\" --tag rooms --provider \"Example Inns\" --version-min 2.1";

/// `caplane resolve`
#[derive(Debug, Args)]
#[command(after_help = RESOLVE_HELP)]
pub struct ResolveArguments {
    /// A need in words, a class path ("travel/hotels"), a label ("class:112.1"), or an agent's URI
    pub need: String,
    /// At most this many
    #[arg(long, default_value_t = 5)]
    pub limit: u32,
    /// Ask as the agent with this URI: what it may not reach is left out
    #[arg(long, value_name = "URI", default_value = "")]
    pub asker: String,
    /// Answer agents instead of classes
    #[arg(long)]
    pub agents: bool,
    /// Agents of this tenant; repeat for any of several
    #[arg(long = "in-tenant", value_name = "TENANT")]
    pub tenants: Vec<String>,
    /// Agents of this administrative domain
    #[arg(long, value_name = "NUMBER")]
    pub domain: Option<u32>,
    /// Agents of this provider, as their card says
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub provider: String,
    /// Agents with this tag among their card's skills; repeat for all of several
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// Agents of this version or a later one, as their card says
    #[arg(
        long,
        value_name = "VERSION",
        default_value = "",
        hide_default_value = true
    )]
    pub version_min: String,
    /// Agents of this place and below ("eu/de")
    #[arg(
        long,
        value_name = "PLACE",
        default_value = "",
        hide_default_value = true
    )]
    pub locality: String,
    /// Agents that cost this at most
    #[arg(long, value_name = "COST")]
    pub cost_max: Option<u32>,
    /// Agents with an attached instance
    #[arg(long)]
    pub serving: bool,
}

impl ResolveArguments {
    /// What agents must be; `None` = classes are asked for.
    #[must_use]
    pub fn constraints(&self) -> Option<v1::Constraints> {
        let constraints = v1::Constraints {
            tenants: self.tenants.clone(),
            domain: self.domain,
            provider: self.provider.clone(),
            tags: self.tags.clone(),
            version_min: self.version_min.clone(),
            locality: self.locality.clone(),
            cost_max: self.cost_max,
            serving_only: self.serving,
        };
        (self.agents || constraints != v1::Constraints::default()).then_some(constraints)
    }
}
