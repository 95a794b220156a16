//! `caplane watch`: what changes.

use caplane_proto::v1::read_request::Kind;
use clap::Args;

const HELP: &str = "\
One line a change: what is there now (+), or not any more (-). What changes faster than it is read is told once,
as it is then. With --json one object of the form caplane.watch/1 a line: `changes`, `synced` when what was asked
for at the start has been told, `gone` at the end when changes were missed. Each has `resume`, but for `gone`; it is
empty until all of --initial has been told.

  caplane watch router link                          from now on
  caplane watch agent --only <URI> --initial         first as it is
  caplane watch --resume TOKEN --json                go on after what was told before";

/// `caplane watch`
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct WatchArguments {
    /// What to watch [default: everything]
    #[arg(value_enum, value_name = "KIND")]
    pub kinds: Vec<WatchKind>,
    /// Only this: URI of an agent, name of a router, tenant, group, policy or policer, id of a commit
    #[arg(
        long,
        value_name = "KEY",
        default_value = "",
        hide_default_value = true
    )]
    pub only: String,
    /// First show everything as it is
    #[arg(long)]
    pub initial: bool,
    /// Go on after what was told before: `resume` of a message of --json
    #[arg(
        long,
        value_name = "TOKEN",
        value_parser = clap::builder::NonEmptyStringValueParser::new(),
        conflicts_with = "initial"
    )]
    pub resume: Option<String>,
    /// End after so many changes, or a few more that were told with them, but not before all of --initial [default: until interrupted]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
}

/// What can be watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum WatchKind {
    /// Agents, their skills and instances.
    Agent,
    /// Grants.
    Grant,
    /// Routers, and what they forward by.
    Router,
    /// Links.
    Link,
    /// Tenants.
    Tenant,
    /// Permissions.
    Permission,
    /// Groups.
    Group,
    /// Overrides of skills.
    Override,
    /// Policies.
    Policy,
    /// Policers.
    Policer,
    /// Changes that wait to be confirmed.
    Commit,
}

impl WatchKind {
    /// As the API has it.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::Agent => Kind::Agent,
            Self::Grant => Kind::Grant,
            Self::Router => Kind::Router,
            Self::Link => Kind::Link,
            Self::Tenant => Kind::Tenant,
            Self::Permission => Kind::Permission,
            Self::Group => Kind::Group,
            Self::Override => Kind::SkillOverride,
            Self::Policy => Kind::Policy,
            Self::Policer => Kind::Policer,
            Self::Commit => Kind::PendingCommit,
        }
    }
}
