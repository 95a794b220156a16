//! The two handshakes of the exchange in every order of steps that the memory
//! model admits: the source of `signal.rs` over loom's atomics.
//!
//! The rings themselves are crossbeam's; what stands for one here is its count, read and written as loosely as the
//! language allows, so that nothing but the signal orders anything.

mod atomics {
    pub(super) use loom::sync::atomic::{AtomicBool, Ordering, fence};
}

#[allow(
    clippy::duplicate_mod,
    reason = "the same source over loom's atomics is the point"
)]
#[path = "../signal.rs"]
mod signal;

use loom::sync::Arc;
use loom::sync::atomic::AtomicUsize;
use loom::thread;
use signal::Signal;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// Two sides: what one put in, what the other says, and the bells that were rung.
struct Scene {
    held: AtomicUsize,
    signal: Signal,
    bells: AtomicUsize,
}

impl Scene {
    fn with(held: usize) -> Arc<Scene> {
        Arc::new(Scene {
            held: AtomicUsize::new(held),
            signal: Signal::new(),
            bells: AtomicUsize::new(0),
        })
    }

    /// As `Mailbox::ring_bell`.
    fn ring_bell(&self) {
        if self.signal.is_said() {
            // A bell is a system call: what was done before it is seen by whoever hears it.
            self.bells.fetch_add(1, Release);
        }
    }

    /// As `Port::may_sleep`.
    fn may_sleep(&self) -> bool {
        self.signal.say();
        self.held.load(Relaxed) == 0
    }
}

/// Somebody who puts a thing into the ring.
fn giver(scene: &Arc<Scene>) -> thread::JoinHandle<()> {
    let scene = Arc::clone(scene);
    thread::spawn(move || {
        scene.held.fetch_add(1, Relaxed);
        scene.ring_bell();
    })
}

#[test]
fn who_goes_to_sleep_has_seen_what_came_or_is_woken() {
    loom::model(|| {
        let scene = Scene::with(0);
        let giving = giver(&scene);
        let asleep = scene.may_sleep();
        giving.join().unwrap();
        assert!(
            !asleep || scene.bells.load(Relaxed) > 0,
            "asleep beside a full ring, and nobody rings"
        );
    });
}

#[test]
fn of_two_givers_one_wakes_the_sleeper() {
    loom::model(|| {
        let scene = Scene::with(0);
        let givers = [giver(&scene), giver(&scene)];
        let asleep = scene.may_sleep();
        givers.into_iter().for_each(|giver| giver.join().unwrap());
        assert!(!asleep || scene.bells.load(Relaxed) > 0);
    });
}

#[test]
fn who_wakes_and_sleeps_again_is_woken_again() {
    loom::model(|| {
        let scene = Scene::with(0);
        let giving = giver(&scene);
        // Wakes for the bell or for another reason, empties the ring and wants to sleep again.
        let _ = scene.may_sleep();
        scene.signal.unsay();
        let heard = scene.bells.load(Acquire);
        let taken = scene.held.swap(0, Relaxed);
        let asleep = scene.may_sleep();
        giving.join().unwrap();
        let rung_since = scene.bells.load(Relaxed) > heard;
        assert!(!asleep || taken == 1 || rung_since);
    });
}

/// A ring with room for one: the giver finds it full and says so, the taker empties it and listens.
#[test]
fn a_giver_without_room_sees_the_room_or_is_told_of_it() {
    loom::model(|| {
        let scene = Scene::with(1);
        let taking = {
            let scene = Arc::clone(&scene);
            thread::spawn(move || {
                scene.held.fetch_sub(1, Relaxed);
                // As `Ring::relieve`.
                if scene.signal.take() {
                    scene.bells.fetch_add(1, Relaxed);
                }
            })
        };
        // As `Ring::room`.
        let room = scene.held.load(Relaxed) == 0 || {
            scene.signal.say();
            scene.held.load(Relaxed) == 0
        };
        taking.join().unwrap();
        assert!(
            room || scene.bells.load(Relaxed) == 1,
            "waits for room that is there, and nobody tells"
        );
    });
}

/// What the fence is for: without it both sides miss each other in some order, and loom finds it.
#[test]
#[should_panic(expected = "missed each other")]
fn without_a_fence_there_is_an_order_in_which_both_miss() {
    loom::model(|| {
        let (held, said) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let scene = Arc::new((held, said));
        let giving = {
            let scene = Arc::clone(&scene);
            thread::spawn(move || {
                scene.0.store(1, Relaxed);
                scene.1.load(Relaxed) == 1
            })
        };
        scene.1.store(1, Relaxed);
        let asleep = scene.0.load(Relaxed) == 0;
        let rung = giving.join().unwrap();
        assert!(!asleep || rung, "missed each other");
    });
}
