//! `caplane explain`: what a message would be, and what is gone.

use clap::Args;

/// `caplane explain`
#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// Who would send it: URI of its certificate, or its name in the state folder's trust domain
    #[arg(long = "as", value_name = "AGENT")]
    pub source: String,
    /// What it asks for: a need in words, a class path, a label, or an agent's URI
    #[arg(required_unless_present = "group")]
    pub to: Option<String>,
    /// It is for this group
    #[arg(long, value_name = "NAME", conflicts_with = "to")]
    pub group: Option<String>,
    /// Tenant of the source, when a name is given
    #[arg(long, value_name = "NAME", default_value = "shared")]
    pub as_tenant: String,
    /// Tenant of the class [default: the source's own]
    #[arg(long, value_name = "NAME", default_value = "")]
    pub tenant: String,
    /// Router it enters by [default: where the source is attached]
    #[arg(long, value_name = "NAME")]
    pub router: Option<String>,
    /// Priority, 0 to 7
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(0..=7))]
    pub priority: u8,
    /// It waits where a queue is full, instead of being dropped
    #[arg(long)]
    pub blocking: bool,
    /// Its flow, by which one of several members is chosen
    #[arg(long, default_value_t = 0)]
    pub flow: u64,
    /// It is of no flow: chosen by load
    #[arg(long, conflicts_with = "flow")]
    pub no_affinity: bool,
    /// Also say what happens without this link
    #[arg(long, num_args = 2, value_names = ["ROUTER", "ROUTER"])]
    pub without_link: Option<Vec<String>>,
    /// Also say what happens without this router
    #[arg(long, value_name = "NAME", conflicts_with = "without_link")]
    pub without_router: Option<String>,
}
