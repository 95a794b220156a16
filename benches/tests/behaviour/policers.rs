//! What a policer of the northbound API does to an agent's messages at a real router, and a policy to where they may go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use caplane_client::{Client, ClientEvent, Destination, FlowOptions, Label, NoticeCode, SendError};
use caplane_proto::v1;
use caplane_proto::v1::entity::Entity as Kind;
use caplane_proto::v1::update::Type;

use crate::stage::{CONVERSION, RATES, Stage, answer, card, eventually, within};

/// So often a message is sent: four times the larger of the rates below.
const EVERY: Duration = Duration::from_micros(1_250);
const FOR: Duration = Duration::from_millis(2_500);
/// The burst that a policer allows which names none.
const BURST: f64 = 0.1;

fn policer(messages_per_second: u64, to_rates: u64) -> Kind {
    let rate = |messages_per_second| v1::Rate {
        messages_per_second,
        ..v1::Rate::default()
    };
    Kind::Policer(v1::Policer {
        name: "slow".into(),
        rate: Some(rate(messages_per_second)),
        classes: vec![v1::PolicerClass {
            tenant: "shared".into(),
            class_path: RATES.into(),
            rate: Some(rate(to_rates)),
        }],
    })
}

/// What became of a run: how long it took, and how many were sent, received, noticed, and dropped beyond the rate of
/// notices.
#[derive(Debug)]
struct Run {
    seconds: f64,
    sent: u64,
    received: u64,
    noticed: u64,
    suppressed: u64,
}

impl Run {
    /// What passed is what the rate allows, and whatever did not was noticed as RATE_LIMITED, or counted where notices are
    /// too many: to the message.
    fn is_held_to(&self, rate: f64) {
        let allowed = rate * (self.seconds + BURST);
        let most = allowed * 1.02 + 2.0;
        // The sender and the router may come late on a busy machine; what a rate allows beyond its burst is lost then.
        let least = allowed * 0.5 - 2.0;
        let received = self.received as f64;
        assert!((least..=most).contains(&received), "{rate}/s: {self:?}");
        let told = self.received + self.noticed + self.suppressed;
        assert_eq!(told, self.sent, "{self:?}");
        assert!(self.noticed > 0, "{self:?}");
    }
}

/// Sends to `destination` at a steady pace; `received` counts at the other end, `noticed` at this one.
async fn run(
    stage: &Stage,
    asker: &Client,
    destination: Destination,
    received: &AtomicU64,
    noticed: &AtomicU64,
) -> Run {
    let counted = async || {
        let suppressed = stage.metric("r1", "router_notices_suppressed_total", &[]);
        let suppressed = suppressed.await as u64;
        [
            received.load(Ordering::SeqCst),
            noticed.load(Ordering::SeqCst),
            suppressed,
        ]
    };
    let before = counted().await;
    let since = async || {
        let now = counted().await;
        [0, 1, 2].map(|i| now[i] - before[i])
    };
    let flow = asker.flow(destination, FlowOptions::default());
    let (mut pace, begun) = (tokio::time::interval(EVERY), Instant::now());
    // Who comes late sends no more at once for that.
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut sent = 0;
    while begun.elapsed() < FOR {
        pace.tick().await;
        flow.send("x").await.expect("taken");
        sent += 1;
    }
    let seconds = begun.elapsed().as_secs_f64();
    eventually("each message is told of", async || {
        since().await.iter().sum::<u64>() >= sent
    })
    .await;
    let [received, noticed, suppressed] = since().await;
    let run = Run {
        seconds,
        sent,
        received,
        noticed,
        suppressed,
    };
    println!("{run:?}");
    run
}

/// Counts the RATE_LIMITED notices of `client`, which gets no others, until it is closed.
fn count_notices(client: &Client) -> Arc<AtomicU64> {
    let (mut events, noticed) = (client.events(), Arc::new(AtomicU64::new(0)));
    let counter = noticed.clone();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                ClientEvent::Notice { code, .. } => assert_eq!(code, NoticeCode::RateLimited),
                ClientEvent::Missed(_) => panic!("events were missed"),
                _ => continue,
            }
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    noticed
}

/// Counts what `client` receives until it is closed.
fn count(client: &Client) -> Arc<AtomicU64> {
    let (client, received) = (client.clone(), Arc::new(AtomicU64::new(0)));
    let counter = received.clone();
    tokio::spawn(async move {
        while client.recv().await.is_ok() {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    received
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_held_to_its_policer_and_told_of_every_message_above_it() {
    let mut stage = Stage::line(2).await;
    let till = stage.register("shared", "till", CONVERSION, 0).await;
    let rates = stage.register("shared", "rates", RATES, 0).await;
    let policy = Kind::Policy(v1::Policy {
        name: "kiosk".into(),
        policer: "slow".into(),
        ..v1::Policy::default()
    });
    let api = stage.fabric.api();
    api.insert(policer(100, 20)).await.expect("the policer");
    api.insert(policy).await.expect("the policy");
    let asker = stage.fabric.issue_agent("shared", "asker").expect("issued");
    stage
        .fabric
        .register_agent(&asker, card("asker", "").as_bytes(), |agent| {
            agent.policy = "kiosk".into();
        })
        .await
        .expect("registered");
    let till = stage.attach(&till, "r2", "one").await;
    let rates = stage.attach(&rates, "r2", "one").await;
    let asker = stage.attach(&asker, "r1", "one").await;
    stage.settled(3).await;
    let (at_till, at_rates) = (count(&till), count(&rates));
    let noticed = count_notices(&asker);
    let to_till = stage.destination(&asker, CONVERSION).await;
    let to_rates = stage.destination(&asker, RATES).await;

    let to_till = async |stage: &Stage| run(stage, &asker, to_till, &at_till, &noticed).await;
    to_till(&stage).await.is_held_to(100.0);
    // The class has a lower rate of its own.
    let slower = run(&stage, &asker, to_rates, &at_rates, &noticed).await;
    slower.is_held_to(20.0);
    let limited = [("reason", "rate_limited")];
    let dropped = stage.metric("r1", "router_drops_total", &limited).await;
    assert!(dropped > 0.0, "the ingress router drops");
    let dropped = stage.metric("r2", "router_drops_total", &limited).await;
    assert!(dropped == 0.0, "and nobody behind it: {dropped}");

    // A changed policer is in force as soon as its generation is live.
    let changed = [(Type::Modify, policer(200, 20))];
    stage.fabric.api().write(changed).await.expect("changed");
    stage.fabric.wait_live().await.expect("live");
    to_till(&stage).await.is_held_to(200.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_says_where_its_agents_may_go_and_out_of_service_who_serves() {
    let mut stage = Stage::line(2).await;
    let till = stage.register("shared", "till", CONVERSION, 0).await;
    let other = stage.register("shared", "rates", RATES, 0).await;
    let asker = stage.register("acme", "asker", "", 0).await;
    let only = Kind::Policy(v1::Policy {
        name: "only".into(),
        tenant: "acme".into(),
        base: v1::policy::Base::Nothing.into(),
        allow: vec![v1::ClassSelector {
            tenant: "shared".into(),
            class_path: CONVERSION.into(),
        }],
        ..v1::Policy::default()
    });
    let named = |policy: &str| {
        Kind::Agent(v1::Agent {
            uri: asker.uri.clone(),
            tenant: "acme".into(),
            policy: policy.into(),
            ..v1::Agent::default()
        })
    };
    let api = stage.fabric.api();
    let updates = [(Type::Insert, only), (Type::Modify, named("only"))];
    api.write(updates).await.expect("written");
    let till_client = stage.attach(&till, "r2", "one").await;
    let other = stage.attach(&other, "r2", "one").await;
    let client = stage.attach(&asker, "r1", "one").await;
    stage.settled(3).await;
    let _served = [answer(&till_client, "till"), answer(&other, "rates")];
    let destination = stage.destination(&client, CONVERSION).await;
    let allowed = client.flow(destination, FlowOptions::default());
    let reply = within("what is allowed", allowed.request("?")).await;
    assert_eq!(&reply.expect("answered").payload()[..], b"till");

    // What the tenant reaches otherwise is denied, and Resolve does not tell of it.
    let classes = stage.fabric.api().classes().await.expect("classes");
    let rates = classes.iter().find(|class| class.path == RATES);
    let denied = Label::from_bits(rates.expect("in the taxonomy").label);
    let flow = client.flow(Destination::new(denied, 0), FlowOptions::default());
    let error = within("a refusal", flow.request("?")).await;
    assert!(
        matches!(
            error,
            Err(SendError::Refused {
                code: NoticeCode::PolicyDenied,
                ..
            })
        ),
        "{error:?}"
    );

    // Out of service, the one that serves takes nothing new, and is back when it says so no more.
    let serves = |out_of_service| {
        Kind::Agent(v1::Agent {
            uri: till.uri.clone(),
            card: card("till", CONVERSION).into_bytes(),
            out_of_service,
            ..v1::Agent::default()
        })
    };
    let out = [(Type::Modify, serves(true))];
    stage.fabric.api().write(out).await.expect("written");
    stage.fabric.wait_live().await.expect("live");
    let flow = client.flow(destination, FlowOptions::default());
    let error = within("nobody serves", flow.request("?")).await;
    assert!(
        matches!(
            error,
            Err(SendError::Refused {
                code: NoticeCode::NoRoute,
                ..
            })
        ),
        "{error:?}"
    );
    assert!(till_client.attachment().is_some(), "it stays attached");
    let back = [(Type::Modify, serves(false))];
    stage.fabric.api().write(back).await.expect("written");
    stage.fabric.wait_live().await.expect("live");
    eventually("it serves again", async || {
        let flow = client.flow(destination, FlowOptions::default());
        flow.request("?").await.is_ok()
    })
    .await;
}
