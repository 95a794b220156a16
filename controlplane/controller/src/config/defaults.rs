//! Every default of `controller.toml`, with its unit and reason.

use std::time::Duration;

use crate::quota::Quota;

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

/// Routers have a difference in some milliseconds; one that does not in a second is slow or stuck, and nobody waits for it
/// again until it has caught up.
pub const MAKE_BEFORE_BREAK: Duration = Duration::from_secs(1);

/// What init systems usually wait before SIGKILL is 10 s; half of that.
pub const DRAIN_PERIOD: Duration = Duration::from_secs(5);

/// Audit records kept: at about 600 bytes each some 60 MiB of disk.
pub const AUDIT_RECORDS_MAX: u64 = 100_000;

/// What a client may ask for in a second; it may save up ten. 100,000 agents with a grant and a card of 2 KiB each pass
/// at once within that; a client that asks in a loop does not go on for ever.
pub const QUOTA: Quota = Quota {
    calls_per_second: 2_000,
    updates_per_second: 50_000,
    bytes_per_second: 32 * 1024 * 1024,
    // A quarter of those that may be open in all.
    watches: 64,
};
