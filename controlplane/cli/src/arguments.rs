//! The command line, as data. Parsing decides nothing and touches nothing.

#![allow(
    rustdoc::invalid_html_tags,
    reason = "these texts are the command's help, where <NAME> stands for itself"
)]

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::failure::EXIT_CODES;
use crate::settings::{Settings, default_state};

mod agents;
mod apply;
mod audit;
mod certificates;
mod classes;
mod commit;
mod documents;
mod explain;
mod messages;
mod overrides;
mod policies;
mod policy;
mod rollout;
mod topology;
mod up;
mod watch;
mod write;

pub use agents::{AgentCommand, RegisterArguments};
pub use apply::ManifestArguments;
pub use audit::AuditCommand;
pub use certificates::{PkiCommand, RoleName};
pub use classes::{ClassCommand, ResolveArguments};
pub use commit::CommitCommand;
pub use documents::{CompletionsArguments, ManualArguments};
pub use explain::ExplainArguments;
pub use messages::{
    BodyArguments, ListenArguments, RequestArguments, SendArguments, SpeakerArguments,
};
pub use overrides::{GroupCommand, OverrideCommand};
pub use policies::{PolicerArguments, PolicerCommand, PolicyArguments, PolicyCommand};
pub use policy::{GrantCommand, PermissionArguments, PermissionCommand, TenantCommand};
pub use rollout::{GenerationCommand, RolloutCommand};
pub use topology::{LinkCommand, RouterCommand};
pub use up::UpArguments;
pub use watch::{WatchArguments, WatchKind};
pub use write::WriteArguments;

const EXAMPLES: &str = "\
Try it on one machine:
  caplane up                                  a controller, two routers, agents, traffic
  caplane class find \"book a hotel\"           in another terminal: what a need is called
  caplane router list                         who holds which table
  caplane pki issue agent fx                  a certificate for an agent of your own
  caplane agent register --name fx --card fx-card.json
  caplane listen --as fx --reply pong
  caplane request --as requester \"convert currency\" --body ping";

/// Caplane switches messages between AI agents by what the receiver can do.
///
/// This command drives a fabric through its controller's API, starts one on
/// this machine (`up`), and speaks as an agent (`send`, `request`, `listen`).
#[derive(Debug, Parser)]
#[command(name = "caplane", version, after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct Cli {
    /// Where and who.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// State folder of `caplane up`: certificates, addresses [default: ~/.local/state/caplane]
    #[arg(long, global = true, env = "CAPLANE_STATE", value_name = "FOLDER")]
    pub state: Option<PathBuf>,
    /// The controller's northbound API; of several, with commas between, one that can be reached [default: the state folder's fabric]
    #[arg(
        long,
        global = true,
        env = "CAPLANE_CONTROLLER",
        value_name = "HOST:PORT|unix:///PATH"
    )]
    pub controller: Option<String>,
    /// URI the controller's certificate must carry; ending in "/", what it begins with [default: spiffe://DOMAIN/controller/ of
    /// your own certificate's trust domain]
    #[arg(
        long,
        global = true,
        env = "CAPLANE_CONTROLLER_URI",
        value_name = "URI"
    )]
    pub controller_uri: Option<String>,
    /// Operator whose certificate is used, `operator-<NAME>.pem` of the state folder [default: you, by the controller's unix socket where there is one, else admin]
    #[arg(long, global = true, value_name = "NAME")]
    pub operator: Option<String>,
    /// Certificate chain (PEM), instead of the state folder's
    #[arg(long, global = true, value_name = "FILE")]
    pub chain: Option<PathBuf>,
    /// Private key (PEM), instead of the state folder's
    #[arg(long, global = true, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Root certificates (PEM), instead of the state folder's
    #[arg(long, global = true, value_name = "FILE")]
    pub roots: Option<PathBuf>,
    /// Print JSON with a "schema" field instead of text, errors too
    #[arg(long, global = true)]
    pub json: bool,
    /// How it is written.
    #[command(flatten)]
    pub write: WriteArguments,
}

impl Global {
    /// The same as settings.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings {
            state: self.state.clone().unwrap_or_else(default_state),
            controller: self.controller.clone(),
            controller_uri: self.controller_uri.clone().unwrap_or_default(),
            operator: self.operator.clone(),
            chain: self.chain.clone(),
            key: self.key.clone(),
            roots: self.roots.clone(),
            write: self.write.options(),
        }
    }
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Register, list, show and withdraw agents
    #[command(subcommand)]
    Agent(AgentCommand),
    /// List capability classes, or find the one a text means
    #[command(subcommand)]
    Class(ClassCommand),
    /// List routers with their live generation, or add one
    #[command(subcommand)]
    Router(RouterCommand),
    /// Declare links between routers
    #[command(subcommand)]
    Link(LinkCommand),
    /// Allow agents to serve classes
    #[command(subcommand)]
    Grant(GrantCommand),
    /// Put skills into classes by hand, whatever the classifier says
    #[command(subcommand)]
    Override(OverrideCommand),
    /// Groups: one label that reaches many agents at once
    #[command(subcommand)]
    Group(GroupCommand),
    /// Tenants: whose agents are apart from whose
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Let one tenant reach classes of another
    #[command(subcommand)]
    Permission(PermissionCommand),
    /// Policies: what the agents that name them may reach
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Policers: how much agents may send
    #[command(subcommand)]
    Policer(PolicerCommand),
    /// Make a file true: agents, grants, routers, links, tenants and more
    Apply(ManifestArguments),
    /// Say what `apply` would change; exit code 10 when anything
    Diff(ManifestArguments),
    /// Confirm or cancel changes that wait for it (--confirm-within)
    #[command(subcommand)]
    Commit(CommitCommand),
    /// Which routers forward by the newest generation, since when, and what they refused
    #[command(subcommand)]
    Rollout(RolloutCommand),
    /// What made a generation, and how far it came
    #[command(subcommand)]
    Generation(GenerationCommand),
    /// Who did what: list the audit log, or verify that nobody changed it
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Which controller answers, which one leads, and where its store stands
    Status,
    /// Ask what serves a need: the best classes or agents for a text, path or id
    Resolve(ResolveArguments),
    /// Say what would become of a message, router by router, and why
    Explain(ExplainArguments),
    /// Show what changes, as it does
    Watch(WatchArguments),
    /// Send a message as an agent and wait for its receipt
    Send(SendArguments),
    /// Send a request as an agent and print the reply
    Request(RequestArguments),
    /// Attach as an agent and print what arrives
    Listen(ListenArguments),
    /// Make a development certification authority and issue from it
    #[command(subcommand)]
    Pki(PkiCommand),
    /// Start a whole fabric on this machine, with agents and traffic
    Up(UpArguments),
    /// Print what a shell needs to complete this command
    Completions(CompletionsArguments),
    /// Print this command's manual page, or write all of them into a folder
    Man(ManualArguments),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_has_a_flag_of_its_own_by_the_name_of_a_global_one() {
        fn own<'a>(command: &'a clap::Command, out: &mut Vec<&'a clap::Arg>) {
            for below in command.get_subcommands() {
                out.extend(below.get_arguments());
                own(below, out);
            }
        }
        let cli = Cli::command();
        let global: Vec<_> = cli
            .get_arguments()
            .filter(|argument| argument.is_global_set())
            .map(clap::Arg::get_id)
            .collect();
        let mut own_ones = Vec::new();
        own(&cli, &mut own_ones);
        assert!(global.len() > 5 && own_ones.len() > 50);
        let twice = own_ones
            .iter()
            .find(|argument| global.contains(&argument.get_id()));
        assert!(twice.is_none(), "{twice:?}");
    }

    #[test]
    fn global_flags_stand_anywhere() {
        let cli = Cli::try_parse_from(["caplane", "router", "list", "--json", "--state", "/s"])
            .expect("parses");
        assert!(cli.global.json);
        assert_eq!(cli.global.settings().state, PathBuf::from("/s"));
    }

    #[test]
    fn help_shows_examples_and_exit_codes() {
        let help = Cli::command().render_help().to_string();
        assert!(
            help.contains("caplane up ") && help.contains("Exit codes:"),
            "{help}"
        );
    }
}
