//! What an operator must be able to see: each test starts a real fabric (controller and routers as processes, with their
//! certificates, stores and sockets), attaches real agents and watches from outside: deliveries, notices, metrics, logs.
//!
//!
//! One file a subject; `stage` builds fabrics and attaches agents.

mod classes;
mod conservation;
mod controller_loss;
mod families;
mod generator;
mod policers;
mod sharing;
mod stage;
mod tenants;
mod workers;
