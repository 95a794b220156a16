//! `caplane override` and `caplane group`: what operators say by hand.

use clap::Subcommand;

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
