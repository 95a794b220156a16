//! Seeded simulation: many nodes running the very forwarder over a modelled network, with tables that change.
//!
//! Every scenario runs under many seeds; `SIM_SEED=n` runs one. A failing run prints its seed and the command.

mod check;
mod load;
mod network;
mod nodes;
mod plan;
mod rng;
mod scenarios;
mod world;
