//! Records what happened without a change of its own: denials, and who read the log.
//!
//! Bounded, since whoever is denied must neither fill the disk nor push what was done out of the log: a denial beyond what
//! is due ([`Denials`]), and what comes faster than [`PER_SECOND`], is counted, and the next record says how many. Several
//! are stored at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::Note;
use super::denials::Denials;
use crate::commit::Committer;

/// Records of this kind in a second.
pub const PER_SECOND: usize = 100;

/// Time in which some are gathered, to be stored at once.
const GATHER: Duration = Duration::from_millis(100);

/// How many that are.
const GATHERED_MAX: usize = PER_SECOND / 10;

/// Waiting to be stored; further ones are counted only.
const WAITING_MAX: usize = 2 * PER_SECOND;

/// Takes notes.
#[derive(Debug, Clone)]
pub struct Recorder {
    waiting: mpsc::Sender<Note>,
    left_out: Arc<AtomicU64>,
    denials: Arc<Mutex<Denials>>,
}

impl Recorder {
    /// Stores what is noted through `committer`, in a task that ends after `stop`, once what waits is stored.
    pub fn start(
        committer: Committer,
        stop: watch::Receiver<bool>,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (waiting, notes) = mpsc::channel(WAITING_MAX);
        let left_out = Arc::new(AtomicU64::new(0));
        let recorder = Self {
            waiting,
            left_out: left_out.clone(),
            denials: Arc::new(Mutex::new(Denials::new(Instant::now()))),
        };
        (
            recorder,
            tokio::spawn(store(committer, notes, left_out, stop)),
        )
    }

    /// Notes something, or counts it when too much waits already or too much was denied lately. Never waits.
    pub fn note(&self, note: Note) {
        let denials = || self.denials.lock().unwrap_or_else(PoisonError::into_inner);
        let due = note.code == 0 || denials().take(&note.who, Instant::now());
        if !due || self.waiting.try_send(note).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn store(
    committer: Committer,
    mut notes: mpsc::Receiver<Note>,
    left_out: Arc<AtomicU64>,
    mut stop: watch::Receiver<bool>,
) {
    let mut stopping = false;
    loop {
        let mut some = Vec::new();
        if stopping {
            while let Ok(note) = notes.try_recv() {
                some.push(note);
            }
        } else {
            tokio::select! {
                count = notes.recv_many(&mut some, GATHERED_MAX) => if count == 0 { return },
                _ = stop.wait_for(|stop| *stop) => {
                    stopping = true;
                    continue;
                }
            }
        }
        let lost = some.len() as u64;
        // Nothing waits any more.
        let Some(first) = some.first_mut() else {
            return;
        };
        first.left_out = left_out.swap(0, Ordering::Relaxed);
        let lost = lost + first.left_out;
        let stored = committer.change(move |tx| {
            tx.notes.extend(some);
            Ok(())
        });
        if let Err(error) = stored.await {
            // They are lost; that some are is not.
            left_out.fetch_add(lost, Ordering::Relaxed);
            tracing::error!(event = "audit_failed", %error);
        }
        if !stopping {
            tokio::select! {
                () = tokio::time::sleep(GATHER) => {}
                _ = stop.wait_for(|stop| *stop) => stopping = true,
            }
        }
    }
}
