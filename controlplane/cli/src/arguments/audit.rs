//! `caplane audit`: who did what.

use std::path::PathBuf;

use clap::Subcommand;

const HELP: &str = "\
Every Write and Confirm that holds is recorded with it, and so is who was denied what. Each record names the hash of the one
before and is signed by the controller, so that one that was changed, swapped or taken out shows. That the newest are missing
shows only against a hash that you noted elsewhere: `verify` prints it.

  caplane audit list --from 100
  caplane audit verify --public-key audit-key.pub --expect-head 5c1e...

audit-key.pub lies in the controller's state_dir; take a copy of it that the controller's machine cannot change. Without
--public-key a log that was made anew from beginning to end is not told from the true one.";

/// `caplane audit`
#[derive(Debug, Subcommand)]
#[command(after_help = HELP)]
pub enum AuditCommand {
    /// Show records, oldest first
    List {
        /// Sequence number to begin with [default: the oldest there is]
        #[arg(
            long,
            value_name = "NUMBER",
            default_value_t = 0,
            hide_default_value = true
        )]
        from: u64,
        /// Records at most [default: all]
        #[arg(
            long,
            value_name = "NUMBER",
            default_value_t = 0,
            hide_default_value = true
        )]
        count: u32,
    },
    /// Check that no record was changed, swapped or taken out; exit code 8 when one was
    Verify {
        /// Public keys that may have signed: files of 64 hexadecimal digits, one each; may be repeated
        #[arg(long = "public-key", value_name = "FILE")]
        keys: Vec<PathBuf>,
        /// Hash of a record that must still be there, as `verify` printed it before
        #[arg(long, value_name = "HASH")]
        expect_head: Option<String>,
    },
}
