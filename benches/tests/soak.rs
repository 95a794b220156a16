//! The soak, short: on each driver the books balance under full speed, loss,
//! changing tables and dying peers (`make soak` does it for ten minutes).

use caplane_load::rig::Tuning;
use caplane_load::soak::{Outcome, Soak, soak};
use std::time::Duration;

fn outcome(driver: &str, workers: Option<u8>) -> Outcome {
    let soaking = Soak {
        duration: Duration::from_secs(20),
        tuning: Tuning {
            driver: Some(driver.to_owned()),
            workers,
        },
        loss: 0.01,
        labels: 2_000,
        seed: 7,
    };
    soak(&soaking, &mut |line| println!("{driver}: {line}")).expect("an outcome")
}

/// One after the other: each takes the machine.
#[test]
fn the_books_balance_on_each_driver() {
    for (driver, workers) in [("mio", None), ("uring", Some(2))] {
        let outcome = outcome(driver, workers);
        println!("{driver}: {outcome:#?}");
        assert_eq!(outcome.faults, [], "{driver}");
        assert!(outcome.books.mortals.ended_silently >= 5, "{driver}");
    }
}
