//! The subcommands: arguments in, text or JSON out.

pub mod bars;
pub mod ceiling;
pub mod control;
pub mod figures;
pub mod impair;
pub mod peers;
pub mod results;
pub mod run;
pub mod search;
pub mod soak;
