//! One module a noun: each turns arguments into calls and calls into output.

use caplane_client::Label;

use crate::api::WriteOptions;
use crate::arguments::{Cli, Command, GenerationCommand, RolloutCommand};
use crate::failure::{Exit, Failure};
use crate::settings::Settings;

mod agents;
mod apply;
mod audit;
mod certificates;
mod classes;
mod commits;
mod documents;
mod entities;
mod explain;
mod messages;
mod overrides;
mod policies;
mod policy;
mod rollout;
mod status;
mod topology;
mod watch;
mod written;

/// Does what the command line asks.
///
/// # Errors
/// [`Failure`] with the exit code.
pub async fn run(cli: Cli) -> Result<(), Failure> {
    let settings = cli.global.settings();
    let json = cli.global.json;
    if settings.write != WriteOptions::default() && !cli.command.writes() {
        let text = "this command changes nothing; leave --dry-run, --expect-generation, --idempotency-key, --confirm-within and --wait-live out";
        return Err(Failure::new(Exit::Usage, text));
    }
    let output = match cli.command {
        Command::Agent(command) => agents::run(&settings, command).await?,
        Command::Class(command) => classes::run(&settings, command).await?,
        Command::Router(command) => topology::routers(&settings, command).await?,
        Command::Link(command) => topology::links(&settings, command).await?,
        Command::Grant(command) => policy::grants(&settings, command).await?,
        Command::Override(command) => overrides::overrides(&settings, command).await?,
        Command::Group(command) => overrides::groups(&settings, command).await?,
        Command::Tenant(command) => policy::tenants(&settings, command).await?,
        Command::Permission(command) => policy::permissions(&settings, command).await?,
        Command::Policy(command) => policies::policies(&settings, command).await?,
        Command::Policer(command) => policies::policers(&settings, command).await?,
        Command::Apply(arguments) => apply::apply(&settings, &arguments).await?,
        Command::Diff(arguments) => return apply::diff(&settings, &arguments, json).await,
        Command::Commit(command) => commits::commits(&settings, command).await?,
        Command::Rollout(RolloutCommand::Status) => rollout::show(&settings, 0).await?,
        Command::Generation(GenerationCommand::Show { generation }) => {
            rollout::show(&settings, generation).await?
        }
        Command::Audit(command) => audit::run(&settings, command).await?,
        Command::Status => status::show(&settings).await?,
        Command::Resolve(arguments) => classes::resolve(&settings, &arguments).await?,
        Command::Explain(arguments) => explain::explain(&settings, &arguments).await?,
        Command::Watch(arguments) => return watch::watch(&settings, &arguments, json).await,
        Command::Send(arguments) => messages::send(&settings, &arguments).await?,
        Command::Request(arguments) => messages::request(&settings, &arguments).await?,
        Command::Listen(arguments) => return messages::listen(&settings, &arguments, json).await,
        Command::Pki(command) => certificates::run(&settings, command)?,
        Command::Completions(arguments) => documents::completions(&arguments),
        Command::Man(arguments) => documents::manual(&arguments)?,
        Command::Up(arguments) => return crate::up::run(&settings, &arguments, json).await,
    };
    output.print(json)
}

/// A label as text; "-" for none.
fn label(bits: u32) -> String {
    if bits == 0 {
        "-".to_owned()
    } else {
        Label::from_bits(bits).to_string()
    }
}

/// A URI as it is, or a name made into the URI of an agent of the state folder's trust domain.
fn agent_uri(settings: &Settings, agent: &str, tenant: &str) -> Result<String, Failure> {
    if agent.contains("://") {
        return Ok(agent.to_owned());
    }
    let role = crate::pki::Role::Agent {
        tenant: tenant.to_owned(),
    };
    Ok(crate::pki::uri_of(&settings.trust_domain()?, &role, agent)?)
}
