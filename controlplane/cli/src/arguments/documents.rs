//! `caplane completions` and `caplane man`: the command line, told to shells and to `man`.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

const COMPLETIONS_HELP: &str = "\
  caplane completions bash > ~/.local/share/bash-completion/completions/caplane
  caplane completions zsh > \"${fpath[1]}/_caplane\"
  caplane completions fish > ~/.config/fish/completions/caplane.fish";

const MANUAL_HELP: &str = "\
  caplane man | man -l -                                 read it
  caplane man --folder ~/.local/share/man/man1           then: man caplane-agent-register";

/// `caplane completions`
#[derive(Debug, Args)]
#[command(after_help = COMPLETIONS_HELP)]
pub struct CompletionsArguments {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// `caplane man`
#[derive(Debug, Args)]
#[command(after_help = MANUAL_HELP)]
pub struct ManualArguments {
    /// Write a page of each command into this folder; it is made when it is not there
    #[arg(long, value_name = "FOLDER")]
    pub folder: Option<PathBuf>,
}
