//! What was sent and what arrived, message by message.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use caplane_client::CarriedBy;
use hdrhistogram::Histogram;
use tokio::sync::Notify;

use super::body;

/// Longest latency told apart (microseconds): a minute.
const LATENCY_US_MAX: u64 = 60_000_000;

/// Books of one run: numbers below `receipted` are receipted messages, the rest datagrams.
pub(super) struct Ledger {
    begun: Instant,
    receipted: u64,
    /// Microseconds since `begun` + 1 when the message was handed to the client; 0 = not yet.
    sent_us: Vec<AtomicU64>,
    arrivals: Vec<AtomicU8>,
    corrupted: AtomicU64,
    datagrams: AtomicU64,
    order: Mutex<Order>,
    changed: Notify,
}

#[derive(Default)]
struct Order {
    /// Per flow and carrier: the highest sequence delivered.
    highest: HashMap<(u64, CarriedBy), u32>,
    out_of_order: u64,
    latency_us: Option<Histogram<u64>>,
}

/// What the books say in the end.
#[derive(Debug, Clone, Default)]
pub(super) struct Totals {
    /// Receipted messages that arrived at least once.
    pub(super) delivered: u64,
    /// Further arrivals of the same messages.
    pub(super) duplicated: u64,
    /// Messages whose bytes are not those sent, or that nobody sent.
    pub(super) corrupted: u64,
    /// Messages that came after a later one of their flow and carrier.
    pub(super) out_of_order: u64,
    /// Datagrams that arrived.
    pub(super) datagrams: u64,
    /// From the call to send until the receiving application had it: p50, p99, max.
    pub(super) latency_us: [u64; 3],
}

impl Ledger {
    pub(super) fn new(receipted: u64, datagrams: u64) -> Self {
        let all = receipted + datagrams;
        Self {
            begun: Instant::now(),
            receipted,
            sent_us: (0..all).map(|_| AtomicU64::new(0)).collect(),
            arrivals: (0..all).map(|_| AtomicU8::new(0)).collect(),
            corrupted: AtomicU64::new(0),
            datagrams: AtomicU64::new(0),
            order: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// The body of a message, by its number.
    pub(super) fn body(&self, id: u64) -> bytes::Bytes {
        let size = body::size(id);
        let size = if id < self.receipted {
            size
        } else {
            size.min(body::DATAGRAM_BYTES_MAX)
        };
        body::request(id, size)
    }

    /// The message is handed to the client now.
    pub(super) fn sent(&self, id: u64) {
        if let Some(sent) = self.sent_us.get(id as usize) {
            sent.store(self.now_us() + 1, Ordering::Relaxed);
        }
    }

    /// A message arrived.
    pub(super) fn arrived(&self, payload: &[u8], flow: u64, sequence: u32, carrier: CarriedBy) {
        let now = self.now_us();
        let id = body::number(payload).filter(|id| (*id as usize) < self.arrivals.len());
        let Some(id) = id.filter(|id| self.body(*id) == payload) else {
            self.corrupted.fetch_add(1, Ordering::Relaxed);
            self.changed.notify_one();
            return;
        };
        let before = self.arrivals[id as usize].fetch_add(1, Ordering::Relaxed);
        if id >= self.receipted && before == 0 {
            self.datagrams.fetch_add(1, Ordering::Relaxed);
        }
        let sent = self.sent_us[id as usize].load(Ordering::Relaxed);
        let mut order = self.order();
        if before == 0 {
            let latency = (now + 1).saturating_sub(sent).clamp(1, LATENCY_US_MAX);
            order.latency().saturating_record(latency);
        }
        let highest = order.highest.insert((flow, carrier), sequence);
        if let Some(highest) = highest.filter(|highest| *highest > sequence) {
            order.highest.insert((flow, carrier), highest);
            order.out_of_order += 1;
        }
        drop(order);
        self.changed.notify_one();
    }

    /// Waits until every datagram is here, or `patience` passed without a further one.
    pub(super) async fn datagrams_settled(&self) {
        const PATIENCE: Duration = Duration::from_secs(1);
        let expected = self.arrivals.len() as u64 - self.receipted;
        while self.datagrams.load(Ordering::Relaxed) < expected {
            if tokio::time::timeout(PATIENCE, self.changed.notified())
                .await
                .is_err()
            {
                return;
            }
        }
    }

    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals {
            corrupted: self.corrupted.load(Ordering::Relaxed),
            datagrams: self.datagrams.load(Ordering::Relaxed),
            ..Totals::default()
        };
        for arrivals in &self.arrivals[..self.receipted as usize] {
            let arrivals = u64::from(arrivals.load(Ordering::Relaxed));
            totals.delivered += arrivals.min(1);
            totals.duplicated += arrivals.saturating_sub(1);
        }
        let mut order = self.order();
        totals.out_of_order = order.out_of_order;
        let latency = order.latency();
        totals.latency_us = [
            latency.value_at_quantile(0.5),
            latency.value_at_quantile(0.99),
            latency.max(),
        ];
        totals
    }

    fn now_us(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64
    }

    fn order(&self) -> MutexGuard<'_, Order> {
        // Numbers only: whole after a panic elsewhere.
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Order {
    fn latency(&mut self) -> &mut Histogram<u64> {
        self.latency_us.get_or_insert_with(|| {
            Histogram::new_with_max(LATENCY_US_MAX, 3)
                .expect("3 digits up to a minute is a valid range")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_fault_is_seen() {
        let ledger = Ledger::new(4, 1);
        let arrive = |id: u64, sequence| {
            ledger.sent(id);
            ledger.arrived(&ledger.body(id), 7, sequence, CarriedBy::Lane);
        };
        arrive(0, 0);
        arrive(2, 2);
        arrive(3, 1);
        arrive(3, 3);
        ledger.arrived(&ledger.body(4), 7, 0, CarriedBy::Datagram);
        let mut flipped = ledger.body(2).to_vec();
        *flipped.last_mut().expect("not empty") ^= 1;
        ledger.arrived(&flipped, 7, 4, CarriedBy::Lane);
        ledger.arrived(b"not ours", 7, 5, CarriedBy::Lane);
        ledger.arrived(&body::request(77, 64), 7, 6, CarriedBy::Lane);
        let totals = ledger.totals();
        assert_eq!(
            (totals.delivered, totals.duplicated, totals.corrupted),
            (3, 1, 3)
        );
        assert_eq!((totals.out_of_order, totals.datagrams), (1, 1));
        assert!(totals.latency_us[0] >= 1 && totals.latency_us[0] <= totals.latency_us[2]);
    }
}
