//! The soak, short: on each driver, with two workers, the books balance under
//! full speed, every carrier, loss, changing tables and dying peers (`make
//! soak` does it for ten minutes).

use caplane_load::rig::Tuning;
use caplane_load::soak::{Outcome, Soak, soak};
use std::time::Duration;

fn outcome(driver: &str) -> Outcome {
    let soaking = Soak {
        duration: Duration::from_secs(20),
        tuning: Tuning {
            driver: Some(driver.to_owned()),
            // Messages pass between them.
            workers: Some(2),
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
    for driver in ["mio", "uring"] {
        let outcome = outcome(driver);
        println!("{driver}: {outcome:#?}");
        assert_eq!(outcome.faults, [], "{driver}");
        assert!(outcome.books.mortals.ended_silently >= 5, "{driver}");
    }
}
