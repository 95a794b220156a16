//! The subcommands: arguments in, text or JSON out.

pub mod impair;
