//! Flags of commands that change something, and which commands those are.

use clap::Args;

use super::{
    AgentCommand, Command, GrantCommand, GroupCommand, LinkCommand, OverrideCommand,
    PermissionCommand, PolicerCommand, PolicyCommand, RouterCommand, TenantCommand,
};
use crate::api::WriteOptions;

/// Flags of every command that changes something.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of commands that change something")]
pub struct WriteArguments {
    /// Change nothing, show what would be and how routers' tables would differ
    #[arg(long, global = true)]
    pub dry_run: bool,
    /// Refuse when somebody changed something after this generation (as `list` commands tell it with --json)
    #[arg(long, global = true, value_name = "GENERATION")]
    pub expect_generation: Option<u64>,
    /// Do this once, however often the command is given with this key (24 hours)
    #[arg(
        long,
        global = true,
        value_name = "KEY",
        default_value = "",
        hide_default_value = true,
        conflicts_with = "dry_run"
    )]
    pub idempotency_key: String,
    /// Take it back unless it is confirmed within this time: `caplane commit confirm`
    #[arg(
        long,
        global = true,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u32).range(1..=86_400),
        conflicts_with = "dry_run"
    )]
    pub confirm_within: Option<u32>,
    /// Wait until every router that is there forwards by it, or refused it, this long at most; say how many do
    #[arg(
        long,
        global = true,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u32).range(1..=20),
        conflicts_with = "dry_run"
    )]
    pub wait_live: Option<u32>,
}

impl WriteArguments {
    pub(super) fn options(&self) -> WriteOptions {
        WriteOptions {
            dry_run: self.dry_run,
            expected_generation: self.expect_generation,
            idempotency_key: self.idempotency_key.clone(),
            confirm_within: self.confirm_within,
            wait_live_seconds: self.wait_live.unwrap_or_default(),
        }
    }
}

impl Command {
    /// Whether the command changes something at the controller by one Write.
    #[must_use]
    pub fn writes(&self) -> bool {
        match self {
            Self::Agent(command) => {
                !matches!(command, AgentCommand::List | AgentCommand::Show { .. })
            }
            Self::Router(command) => !matches!(command, RouterCommand::List),
            Self::Link(command) => !matches!(command, LinkCommand::List),
            Self::Grant(command) => !matches!(command, GrantCommand::List),
            Self::Override(command) => !matches!(command, OverrideCommand::List { .. }),
            Self::Group(command) => !matches!(command, GroupCommand::List),
            Self::Tenant(command) => !matches!(command, TenantCommand::List),
            Self::Permission(command) => !matches!(command, PermissionCommand::List),
            Self::Policy(command) => !matches!(command, PolicyCommand::List),
            Self::Policer(command) => !matches!(command, PolicerCommand::List),
            Self::Apply(_) => true,
            Self::Class(_)
            | Self::Diff(_)
            | Self::Commit(_)
            | Self::Rollout(_)
            | Self::Generation(_)
            | Self::Audit(_)
            | Self::Status
            | Self::Resolve(_)
            | Self::Explain(_)
            | Self::Watch(_)
            | Self::Send(_)
            | Self::Request(_)
            | Self::Listen(_)
            | Self::Pki(_)
            | Self::Up(_)
            | Self::Completions(_)
            | Self::Man(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::arguments::Cli;

    fn parsed(arguments: &[&str]) -> Cli {
        Cli::try_parse_from([&["caplane"], arguments].concat()).expect("parses")
    }

    #[test]
    fn flags_of_a_write_stand_anywhere_and_only_writing_commands_take_them() {
        let cli = parsed(&[
            "tenant",
            "add",
            "t",
            "--dry-run",
            "--expect-generation",
            "7",
        ]);
        let options = cli.global.settings().write;
        assert!(options.dry_run && options.expected_generation == Some(7));
        assert!(cli.command.writes());
        assert!(!parsed(&["--dry-run", "tenant", "list"]).command.writes());
        Cli::try_parse_from([
            "caplane",
            "tenant",
            "add",
            "t",
            "--dry-run",
            "--idempotency-key",
            "k",
        ])
        .expect_err("a dry run has nothing to remember");
    }
}
