//! `caplane commit`: what becomes of changes that wait to be confirmed.

use clap::Subcommand;

const HELP: &str = "\
A change made with --confirm-within is taken back when nobody confirms it in time, also while the controller is
away. One waits at a time; others may change all that it did not change or would need back.

  caplane link remove r1 r2 --confirm-within 300     prints the id
  caplane commit list                                what waits, and how the last ones ended
  caplane commit confirm 41                          it holds for good
  caplane commit cancel 41                           it is taken back now";

/// `caplane commit`
#[derive(Debug, Subcommand)]
#[command(after_help = HELP)]
pub enum CommitCommand {
    /// List what waits to be confirmed, and how the last ones ended
    List,
    /// Confirm: the change holds for good
    Confirm {
        /// Its id, as the change printed it
        id: String,
    },
    /// Cancel: everything it changed is as it was
    Cancel {
        /// Its id, as the change printed it
        id: String,
    },
    /// Give it more time
    Extend {
        /// Its id, as the change printed it
        id: String,
        /// How long from now on (seconds)
        #[arg(
            long = "for",
            value_name = "SECONDS",
            default_value_t = 600,
            value_parser = clap::value_parser!(u32).range(1..=86_400)
        )]
        seconds: u32,
    },
}
