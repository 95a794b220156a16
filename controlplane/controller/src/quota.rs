//! How much each client may ask for: calls, updates and bytes in time, and watches at once.
//!
//! Each client has its own buckets, so that one at its limit takes nothing from others. What a call costs is known only
//! when it is there, so a bucket may go below nothing: then its owner waits until it is filled again. Time comes in as an
//! argument. Refuses to know roles, gRPC and what is asked for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// Clients remembered; of more, who was silent longest begins anew. Some 200 bytes each.
pub const CLIENTS_MAX: usize = 4_096;

/// How much may be saved up: what is due in this many seconds.
const BURST_SECONDS: f64 = 10.0;

/// What a client may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Calls of any kind.
    pub calls_per_second: u32,
    /// Updates in Writes.
    pub updates_per_second: u32,
    /// Bytes of Writes.
    pub bytes_per_second: u32,
    /// Watches at a time.
    pub watches: u32,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Calls.
    Calls = 0,
    /// Updates.
    Updates = 1,
    /// Bytes.
    Bytes = 2,
}

impl Kind {
    /// Its field in `controller.toml`.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Self::Calls => "calls_per_second",
            Self::Updates => "updates_per_second",
            Self::Bytes => "bytes_per_second",
        }
    }
}

impl Quota {
    fn rate(&self, kind: Kind) -> f64 {
        f64::from(match kind {
            Kind::Calls => self.calls_per_second,
            Kind::Updates => self.updates_per_second,
            Kind::Bytes => self.bytes_per_second,
        })
    }
}

/// The buckets, and what goes into each.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Of every client.
    pub quotas: Arc<Quotas>,
    /// What a client may ask for.
    pub quota: Quota,
}

impl Limits {
    /// The same for every client.
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        Self {
            quotas: Arc::default(),
            quota,
        }
    }

    /// As [`Quotas::take`], now.
    ///
    /// # Errors
    /// As [`Quotas::take`].
    pub fn take(&self, client: &Arc<str>, costs: &[(Kind, usize)]) -> Result<(), Exceeded> {
        self.quotas.take(client, &self.quota, costs, Instant::now())
    }

    /// As [`Quotas::watch`].
    #[must_use]
    pub fn watch(&self, client: &Arc<str>) -> Option<Watching> {
        self.quotas.watch(client, &self.quota)
    }
}

/// A client asked for too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// Of what.
    pub kind: Kind,
    /// What is due in a second.
    pub per_second: u32,
    /// When it may ask again.
    pub retry_after: Duration,
}

#[derive(Debug)]
struct Client {
    /// Of each kind what may still be asked for; below nothing after a large request.
    left: [f64; 3],
    filled: Instant,
}

/// The buckets of all clients.
#[derive(Debug, Default)]
pub struct Quotas {
    clients: Mutex<HashMap<Arc<str>, Client>>,
    watches: Mutex<HashMap<Arc<str>, u32>>,
}

/// A watch that is counted while this lives.
#[derive(Debug)]
pub struct Watching {
    quotas: Arc<Quotas>,
    client: Arc<str>,
}

impl Quotas {
    fn clients(&self) -> MutexGuard<'_, HashMap<Arc<str>, Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watches(&self) -> MutexGuard<'_, HashMap<Arc<str>, u32>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes from a client's buckets, all or none of it.
    ///
    /// # Errors
    /// One of them is empty.
    pub fn take(
        &self,
        client: &Arc<str>,
        quota: &Quota,
        costs: &[(Kind, usize)],
        now: Instant,
    ) -> Result<(), Exceeded> {
        let mut clients = self.clients();
        if !clients.contains_key(client) {
            if clients.len() >= CLIENTS_MAX {
                let silent = clients.iter().min_by_key(|(_, client)| client.filled);
                let silent = silent.map(|(name, _)| name.clone());
                silent.and_then(|name| clients.remove(&name));
            }
            let full = Client {
                left: [Kind::Calls, Kind::Updates, Kind::Bytes]
                    .map(|kind| quota.rate(kind) * BURST_SECONDS),
                filled: now,
            };
            clients.insert(client.clone(), full);
        }
        let Some(client) = clients.get_mut(client) else {
            return Ok(());
        };
        let passed = now.saturating_duration_since(client.filled).as_secs_f64();
        client.filled = client.filled.max(now);
        for kind in [Kind::Calls, Kind::Updates, Kind::Bytes] {
            let rate = quota.rate(kind);
            let left = &mut client.left[kind as usize];
            *left = (*left + passed * rate).min(rate * BURST_SECONDS);
        }
        for (kind, _) in costs {
            let left = client.left[*kind as usize];
            if left <= 0.0 {
                let rate = quota.rate(*kind);
                return Err(Exceeded {
                    kind: *kind,
                    per_second: rate as u32,
                    // A whole unit, so that who waits so long does not come too early.
                    retry_after: Duration::from_secs_f64((1.0 - left) / rate),
                });
            }
        }
        for (kind, cost) in costs {
            client.left[*kind as usize] -= *cost as f64;
        }
        Ok(())
    }

    /// Counts a watch; `None` = the client has as many as it may.
    pub fn watch(self: &Arc<Self>, client: &Arc<str>, quota: &Quota) -> Option<Watching> {
        let mut watches = self.watches();
        let open = watches.entry(client.clone()).or_default();
        if *open >= quota.watches {
            return None;
        }
        *open += 1;
        Some(Watching {
            quotas: self.clone(),
            client: client.clone(),
        })
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut watches = self.quotas.watches();
        if let Some(open) = watches.get_mut(&self.client) {
            *open -= 1;
            if *open == 0 {
                watches.remove(&self.client);
            }
        }
    }
}
