//! The subcommands: arguments in, text or JSON out.

pub mod figures;
pub mod impair;
pub mod run;
