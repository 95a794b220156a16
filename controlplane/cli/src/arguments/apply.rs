//! `caplane apply` and `caplane diff`: what should be, from a file.

use std::path::PathBuf;

use clap::Args;

const HELP: &str = r#"The file is TOML; what it leaves out has the controller's defaults. Agents are named by URI, or by name in a tenant.

  [[tenant]]      name = "acme"
  [[router]]      name = "r1"                   # uri
  [[link]]        a = "r1"  b = "r2"            # cost
  [[agent]]       agent = "fx"  card = "fx.json"  # tenant, weight, lease_seconds, priority_max; the card from the file's folder
  [[grant]]       agent = "fx"  class = "*"     # tenant, weight
  [[override]]    agent = "fx"  skill = "convert"  class = "finance/currency"   # tenant
  [[permission]]  from = "acme"  to = "zeta"    # class
  [[group]]       name = "tellers"  agents = ["fx"]   # tenant

Only what differs is written, as one change: all or none, and nothing when somebody else writes meanwhile (exit code 9).
More than 10,000 updates, or 24 MiB of cards, are several changes, one after the other; then --dry-run, --confirm-within and
--idempotency-key are refused.

With --prune what is there and not in the file goes too: of the kinds that the file has; agents, groups and permissions only of
tenants that it names, grants and overrides only of agents that it names or that go."#;

/// `caplane apply` and `caplane diff`
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct ManifestArguments {
    /// The file
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// Remove what the file has a say in and does not have
    #[arg(long)]
    pub prune: bool,
}
