//! The generator judged before it judges: sender to receiver, without a
//! router between.
//!
//! It brings identities of its own, so it needs nothing of what is measured
//! afterwards: a router of ours, somebody else's, or a search.

use crate::load::{self, Plan, Rate, Report, RunError, SelfTest, Verdict};
use caplane::pki::{self, Authority, Issued, Overwrite, PkiError, Request, Role};
use caplane_transport::{Credentials, CredentialsError, TrustBundle};
use std::time::Duration;

/// How long the generator is measured against itself, and before that.
const DURATION: Duration = Duration::from_secs(1);
const WARM_UP: Duration = Duration::from_millis(500);

/// What the self-test says where it cannot make the copies of a group.
const COPIES: &str = "copies: no router makes them here, and the senders alone could not send all of them; each message went to one receiver";
/// What it says where the router is elsewhere.
const NETWORK: &str = "the network: sender and receiver are both on this machine's loopback";

/// Why the generator could not be tested.
#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    /// A certificate could not be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// A certificate could not be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// No folder for them.
    #[error("self-test: temporary folder: {0}")]
    Io(#[from] std::io::Error),
    /// The run failed.
    #[error("self-test: {0}")]
    Run(#[from] RunError),
}

/// Sender and receiver of the generator's own.
struct Alone {
    sender: Credentials,
    receiver: Credentials,
}

impl Alone {
    fn new() -> Result<Alone, SelfTestError> {
        let folder = tempfile::tempdir()?;
        let authority = Authority::init(folder.path(), pki::TRUST_DOMAIN, Overwrite::Refuse)?;
        let mut trust = TrustBundle::new();
        trust.add_pem(pki::TRUST_DOMAIN, authority.certificate_pem().as_bytes())?;
        let credentials = |role: &Role, name: &str| -> Result<Credentials, SelfTestError> {
            let issued: Issued = authority.issue(&Request::new(pki::TRUST_DOMAIN, role, name)?)?;
            let (chain, key) = (issued.chain_pem.as_bytes(), issued.key_pem.as_bytes());
            Ok(Credentials::from_pem(chain, key, trust.clone())?)
        };
        let agent = Role::Agent {
            tenant: "bench".to_owned(),
        };
        Ok(Alone {
            sender: credentials(&agent, "sender")?,
            // Who is dialled must be one that may act as a server.
            receiver: credentials(&Role::Router, "receiver")?,
        })
    }

    fn run(&self, plan: &Plan, tell: &mut dyn FnMut(&str)) -> Result<Report, SelfTestError> {
        Ok(load::self_test(plan, &self.sender, &self.receiver, tell)?)
    }
}

/// What came of it.
pub struct Tested {
    /// For the result of what is measured next.
    pub summary: SelfTest,
    /// The test's own run, when the generator could not even offer the rate to itself: the result is invalid then.
    pub saturated: Option<Report>,
}

/// Measures the generator against itself with `plan`'s load for a second.
///
/// The copies of a group come from the senders, as no router makes them: that asks more of the generator than the run will. When
/// it cannot do that much, each message goes to one receiver, and the summary says what was left out.
///
/// # Errors
/// [`SelfTestError`]; a generator that is too slow is no error.
pub fn self_test(
    plan: &Plan,
    co_located: bool,
    tell: &mut dyn FnMut(&str),
) -> Result<Tested, SelfTestError> {
    let alone = Alone::new()?;
    let single = Plan {
        fan_out: false,
        warm_up: WARM_UP.min(plan.warm_up),
        duration: DURATION,
        ..plan.clone()
    };
    let mut report = alone.run(&copies_sent(&single, plan.copies()), tell)?;
    let mut left_out = Vec::new();
    if plan.fan_out && report.verdict != Verdict::Valid {
        report = alone.run(&single, tell)?;
        left_out.push(COPIES);
    }
    if !co_located {
        left_out.push(NETWORK);
    }
    let summary = SelfTest {
        offered_per_s: report.offered_per_s,
        received_per_s: report.received_per_s,
        verdict: report.verdict,
        left_out,
    };
    tell(&summary.to_string());
    // A closed loop offers what it offers; a fault of the generator's own spoils either.
    let bad = match plan.rate {
        Rate::PerSecond(_) => report.verdict != Verdict::Valid,
        Rate::Max => report.verdict == Verdict::Faulty,
    };
    let saturated = bad.then(|| Report {
        verdict: Verdict::GeneratorSaturated,
        self_test: Some(summary.clone()),
        ..report
    });
    Ok(Tested { summary, saturated })
}

/// As many messages as there will be copies, each receiver's from a sender of its own.
fn copies_sent(single: &Plan, copies: u64) -> Plan {
    let senders = single.senders.max(copies as usize);
    Plan {
        senders,
        flows: single.flows.max(senders * single.lanes),
        rate: match single.rate {
            Rate::PerSecond(rate) => Rate::PerSecond(rate * copies as f64),
            Rate::Max => Rate::Max,
        },
        ..single.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            flows: 64,
            rate: Rate::PerSecond(500.0),
            warm_up: Duration::from_millis(100),
            drain: Duration::from_secs(20),
            ..Plan::one_to_one(16)
        }
    }

    /// Tests until the machine gave the generator time enough.
    fn valid(plan: &Plan, co_located: bool) -> SelfTest {
        for _ in 0..5 {
            let tested = self_test(plan, co_located, &mut |line| println!("{line}"));
            let tested = tested.expect("a test");
            if tested.saturated.is_none() && tested.summary.verdict == Verdict::Valid {
                return tested.summary;
            }
        }
        panic!("the generator cannot offer {:?} to itself", plan.rate);
    }

    #[test]
    fn every_shape_of_load_is_tested_alone() {
        let shapes = [
            (
                "many to many",
                Plan {
                    senders: 2,
                    receivers: 3,
                    ..plan()
                },
            ),
            (
                "answered",
                Plan {
                    reply: true,
                    ..plan()
                },
            ),
            (
                "fan-out",
                Plan {
                    fan_out: true,
                    receivers: 3,
                    classes: load::group_labels(16),
                    ..plan()
                },
            ),
        ];
        for (name, plan) in shapes {
            let summary = valid(&plan, true);
            assert_eq!(summary.left_out, [""; 0], "{name}");
            let asked = 500.0 * plan.copies() as f64;
            assert_eq!(summary.offered_per_s, Some(asked), "{name}");
            assert!(summary.received_per_s > 0.9 * asked, "{name}: {summary}");
        }
        let elsewhere = valid(&plan(), false);
        assert_eq!(elsewhere.left_out, [NETWORK]);
    }

    #[test]
    fn a_rate_that_the_generator_cannot_offer_is_found_and_copies_are_left_out_in_the_end() {
        let plan = Plan {
            rate: Rate::PerSecond(1e8),
            fan_out: true,
            receivers: 2,
            classes: load::group_labels(16),
            ..plan()
        };
        let tested = self_test(&plan, true, &mut |line| println!("{line}")).expect("a test");
        assert_eq!(tested.summary.left_out, [COPIES]);
        let report = tested.saturated.expect("saturated");
        assert_eq!(report.verdict, Verdict::GeneratorSaturated);
        assert!(report.self_test.is_some());
    }
}
