//! What the routers counted and used between two moments, all together.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::fabric::{Fabric, FabricError};

/// One reading of all routers.
#[derive(Debug, Clone, Default)]
pub(super) struct Reading {
    /// Messages forwarded, per router hop, receipts included.
    pub(super) forwarded: f64,
    /// Messages handed to attached instances, receipts included.
    pub(super) delivered: f64,
    pub(super) forwarded_bytes: f64,
    pub(super) copied_bytes: f64,
    /// Drops by reason.
    pub(super) drops: BTreeMap<String, f64>,
    /// User and system time.
    pub(super) cpu: Duration,
}

impl Reading {
    /// Reads every router of the fabric.
    pub(super) async fn take(fabric: &Fabric) -> Result<Self, FabricError> {
        let mut sum = Self::default();
        for router in fabric.routers() {
            let metrics = fabric.metrics(router).await?;
            sum.forwarded += metrics.sum("router_messages_forwarded_total");
            sum.delivered += metrics.sum("router_messages_delivered_total");
            sum.forwarded_bytes += metrics.sum("router_forwarded_bytes_total");
            sum.copied_bytes += metrics.sum("router_copied_bytes_total");
            for (reason, count) in metrics.by_label("router_drops_total", "reason") {
                *sum.drops.entry(reason).or_default() += count;
            }
            sum.cpu += fabric.cpu_time(router)?;
        }
        Ok(sum)
    }

    /// What was added since an earlier reading.
    pub(super) fn since(&self, before: &Self) -> Self {
        let mut drops = self.drops.clone();
        for (reason, count) in &before.drops {
            if let Some(now) = drops.get_mut(reason) {
                *now -= count;
            }
        }
        drops.retain(|_, count| *count > 0.0);
        Self {
            forwarded: self.forwarded - before.forwarded,
            delivered: self.delivered - before.delivered,
            forwarded_bytes: self.forwarded_bytes - before.forwarded_bytes,
            copied_bytes: self.copied_bytes - before.copied_bytes,
            drops,
            cpu: self.cpu.saturating_sub(before.cpu),
        }
    }

    /// All drops.
    pub(super) fn drops_total(&self) -> f64 {
        // An empty sum of fractions is -0.
        self.drops.values().sum::<f64>() + 0.0
    }

    /// Routers a message passed, on average.
    pub(super) fn hops(&self) -> f64 {
        if self.delivered > 0.0 {
            self.forwarded / self.delivered
        } else {
            0.0
        }
    }

    /// CPU time of one message at one router (nanoseconds).
    pub(super) fn cpu_ns_per_message(&self) -> f64 {
        if self.forwarded > 0.0 {
            self.cpu.as_nanos() as f64 / self.forwarded
        } else {
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_leave_out_what_did_not_change() {
        let before = Reading {
            forwarded: 10.0,
            drops: [("NO_ROUTE".to_owned(), 2.0), ("STALE".to_owned(), 1.0)].into(),
            ..Reading::default()
        };
        let after = Reading {
            forwarded: 30.0,
            delivered: 10.0,
            cpu: Duration::from_micros(40),
            drops: [("NO_ROUTE".to_owned(), 5.0), ("STALE".to_owned(), 1.0)].into(),
            ..Reading::default()
        };
        let change = after.since(&before);
        assert_eq!(change.drops, [("NO_ROUTE".to_owned(), 3.0)].into());
        assert_eq!(
            (
                change.drops_total(),
                change.hops(),
                change.cpu_ns_per_message()
            ),
            (3.0, 2.0, 2_000.0)
        );
        assert_eq!(Reading::default().hops(), 0.0);
    }
}
