//! Every default of `controller.toml`, with its unit and reason.

use std::time::Duration;

/// Name of the store's file under `state_dir`.
pub const STORE_FILE: &str = "controller.redb";

/// Changed table entries kept for routers that come back: at about 100 bytes each some 25 MiB, and more
/// than one change of every entry at 100,000 agents (an identity and a route each).
pub const CHANGE_LOG_ENTRIES_MAX: usize = 262_144;

/// A router renews every third of this: three lost renewals, or a controller restart of a few
/// seconds, cost no route.
pub const ROUTER_LEASE: Duration = Duration::from_secs(15);

/// A router applies a snapshot of 200,000 entries in well under a second; beyond this it is stuck.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Two round trips across the world take half a second; the rest is for a loaded machine.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What init systems usually wait before SIGKILL is 10 s; half of that.
pub const DRAIN_PERIOD: Duration = Duration::from_secs(5);

/// Audit records kept: at about 600 bytes each some 60 MiB of disk.
pub const AUDIT_RECORDS_MAX: u64 = 100_000;
