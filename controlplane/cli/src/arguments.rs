//! The command line, as data. Parsing decides nothing and touches nothing.

#![allow(
    rustdoc::invalid_html_tags,
    reason = "these texts are the command's help, where <NAME> stands for itself"
)]

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::failure::EXIT_CODES;
use crate::settings::{Settings, default_state};

mod explain;
mod write;

pub use explain::ExplainArguments;
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
    /// The controller's northbound API [default: the state folder's fabric]
    #[arg(
        long,
        global = true,
        env = "CAPLANE_CONTROLLER",
        value_name = "HOST:PORT"
    )]
    pub controller: Option<String>,
    /// Operator whose certificate is used, `operator-<NAME>.pem` of the state folder
    #[arg(long, global = true, default_value = "admin", value_name = "NAME")]
    pub operator: String,
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
    /// Ask what serves a need: the best classes or agents for a text, path or id
    Resolve(ResolveArguments),
    /// Say what would become of a message, router by router, and why
    Explain(ExplainArguments),
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
}

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
    /// Grant nothing: its skills wait until `caplane grant add`
    #[arg(long)]
    pub no_grant: bool,
    /// Assign it anew when it is registered already; its grants stay, and without any it is granted what a new one is
    #[arg(long)]
    pub replace: bool,
}

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

const OVERRIDE_HELP: &str = "\
A skill becomes a route by its class. The classifier finds that by id or text and says why; below its
threshold the skill waits, and sometimes it is wrong. An override is the operator's word and stands above it.

  caplane agent show fx                                       its skills, their classes and why
  caplane class find \"book a hotel\"                          what a class is called
  caplane override add <URI> my_skill travel/accommodation    from now on it means that
  caplane override remove <URI> my_skill                      the classifier decides again";

/// `caplane override`
#[derive(Debug, Subcommand)]
#[command(after_help = OVERRIDE_HELP)]
pub enum OverrideCommand {
    /// Put a skill of an agent into a class
    #[command(after_help = OVERRIDE_HELP)]
    Add {
        /// URI of the agent; it is registered
        agent: String,
        /// Id of the skill, as in the agent's card
        skill: String,
        /// Class path or label
        class: String,
        /// Take another class when there is an override already
        #[arg(long)]
        replace: bool,
    },
    /// List overrides
    List {
        /// Only those of this agent's URI
        #[arg(long, default_value = "", value_name = "URI")]
        agent: String,
    },
    /// Take an override back: the classifier decides again
    Remove {
        /// URI of the agent
        agent: String,
        /// Id of the skill
        skill: String,
    },
}

const GROUP_HELP: &str = "\
A message to a group's label goes to every attached instance of its agents, one copy over each link. Copies
are never receipted or noticed. Members belong to the group's tenant and need not be registered yet.

  caplane group add tellers --agent <URI> --agent <URI>       prints its label, such as group:1
  caplane send group:1 --as fx --no-receipt --body closing
  caplane group add tellers --agent <URI> --replace           assigns its members anew";

/// `caplane group`
#[derive(Debug, Subcommand)]
#[command(after_help = GROUP_HELP)]
pub enum GroupCommand {
    /// Add a group and show its label
    #[command(after_help = GROUP_HELP)]
    Add {
        /// Its name
        name: String,
        /// URI of a member; repeat for more
        #[arg(long = "agent", value_name = "URI")]
        agents: Vec<String>,
        /// Tenant of its members
        #[arg(long, default_value = "shared")]
        tenant: String,
        /// Assign it anew when it is there already; its label stays
        #[arg(long)]
        replace: bool,
    },
    /// List groups with their labels and members
    List,
    /// Remove a group
    Remove {
        /// Its name
        name: String,
    },
}

/// `caplane tenant`
#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// Add a tenant
    Add {
        /// Its name
        name: String,
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

/// `caplane resolve`
#[derive(Debug, Args)]
pub struct ResolveArguments {
    /// A need in words, a class path ("travel/hotels"), a label ("class:112.1"), or an agent's URI
    pub need: String,
    /// At most this many
    #[arg(long, default_value_t = 5)]
    pub limit: u32,
    /// Ask as the agent with this URI: what it may not reach is left out
    #[arg(long, value_name = "URI", default_value = "")]
    pub asker: String,
}

/// Who speaks, and where it attaches.
#[derive(Debug, Args)]
pub struct SpeakerArguments {
    /// Agent to speak as: `agent-<NAME>.pem` of the state folder
    #[arg(long = "as", value_name = "NAME")]
    pub agent: String,
    /// Router to attach to, by name or "host:port"; repeat for more, tried in turn [default: the fabric's]
    #[arg(long = "router", value_name = "ROUTER")]
    pub routers: Vec<String>,
    /// Name of this instance; the same name gets the same label back [default: random]
    #[arg(long, value_name = "NAME")]
    pub instance: Option<String>,
}

/// What a message says.
#[derive(Debug, Args)]
pub struct BodyArguments {
    /// The message: a text, "@FILE" for a file's bytes, "-" for standard input
    #[arg(long, default_value = "-")]
    pub body: String,
    /// Priority, 0 to 7
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(0..=7))]
    pub priority: u8,
    /// Give up after this many seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub timeout: u64,
    /// Tenant number of the destination class, when a label is given; 0 = shared
    #[arg(long, default_value_t = 0)]
    pub tenant: u32,
}

/// `caplane send`
#[derive(Debug, Args)]
pub struct SendArguments {
    /// Who it is for: a need in words, a class path, a label, or an agent's URI
    pub to: String,
    #[command(flatten)]
    /// Who speaks.
    pub speaker: SpeakerArguments,
    #[command(flatten)]
    /// What it says.
    pub body: BodyArguments,
    /// One datagram: may be lost, no receipt
    #[arg(long)]
    pub datagram: bool,
    /// Do not ask for a receipt
    #[arg(long)]
    pub no_receipt: bool,
}

/// `caplane request`
#[derive(Debug, Args)]
pub struct RequestArguments {
    /// Who it is for: a need in words, a class path, a label, or an agent's URI
    pub to: String,
    #[command(flatten)]
    /// Who speaks.
    pub speaker: SpeakerArguments,
    #[command(flatten)]
    /// What it says.
    pub body: BodyArguments,
}

/// `caplane listen`
#[derive(Debug, Args)]
pub struct ListenArguments {
    #[command(flatten)]
    /// Who listens.
    pub speaker: SpeakerArguments,
    /// Answer each message with this text
    #[arg(long, value_name = "TEXT", conflicts_with = "echo")]
    pub reply: Option<String>,
    /// Answer each message with itself
    #[arg(long)]
    pub echo: bool,
    /// End after this many messages [default: until interrupted]
    #[arg(long)]
    pub count: Option<u64>,
}

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

/// `caplane up`
#[derive(Debug, Args)]
pub struct UpArguments {
    /// Routers, in a line; agents attach to the last, the requester to the first
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub routers: u8,
    /// Worker threads of each router
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub workers: u8,
    /// Send a fixed set of messages, check every byte, and end
    #[arg(long)]
    pub once: bool,
    /// Receipted messages of --once
    #[arg(long, default_value_t = 10_000, requires = "once")]
    pub messages: u64,
    /// Datagrams of --once
    #[arg(long, default_value_t = 1_000, requires = "once")]
    pub datagrams: u64,
    /// Folder of A2A agent cards (*.json) to register instead of the built-in ones
    #[arg(long, value_name = "FOLDER")]
    pub cards: Option<PathBuf>,
    /// Requests a second of the live view, over all agents
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,
    /// End the live view after this many seconds [default: until interrupted]
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<u64>,
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
