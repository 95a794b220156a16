use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::BytesMut;
use caplane_core::Forwarder;
use caplane_core::fib::{Delta, Fib, Generation};
use caplane_core::forward::{ForwarderConfig, PeerKey, PeerRole};
use caplane_wire::{LANE_MESSAGE_MAX, Messages};
use proptest::prelude::*;

use super::*;
use crate::change::attach;
use crate::testbed::*;
use crate::testbed::{agent, router};

const NOW: Now = Now {
    mono: std::time::Duration::from_secs(1),
    unix_us: 1,
};
const ROUTERS: [&str; 5] = ["r1", "r2", "r3", "r4", "r5"];
const AGENTS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const TENANTS: [&str; 3] = ["shared", "t1", "t2"];
const PATHS: [&str; 5] = [
    "travel",
    "travel/hotels",
    "travel/hotels/book_hotel",
    "travel/flights",
    "finance",
];

fn ask(source: &str, to: To) -> v1::ExplainRequest {
    v1::ExplainRequest {
        source: agent_uri(source),
        to: Some(to),
        traffic_class: 4,
        ..v1::ExplainRequest::default()
    }
}

fn explained(rib: &Rib, request: &v1::ExplainRequest) -> Result<v1::ExplainResponse, ExplainError> {
    explained_to(rib, request, Scope::everything())
}

fn explained_to(
    rib: &Rib,
    request: &v1::ExplainRequest,
    scope: &Scope,
) -> Result<v1::ExplainResponse, ExplainError> {
    let known = Known {
        rib,
        knowledge: &knowledge(),
        live: &|_| 0,
        resolved: Vec::new(),
        scope,
    };
    explain(&known, request, NOW)
}

fn up(rib: &mut Rib, at: &str, agent: &str, instance: u8) {
    let attachment = attachment(rib, agent, instance, "");
    let at = router_label(rib, at);
    change(rib, 1_000, |tx| attach::report(tx, at, &[attachment], &[])).expect("reported");
}

/// Routers in a ring, agents in three tenants; `dice` say who serves what where.
fn fabric(dice: &[[usize; 4]]) -> Rib {
    let mut rib = Rib::new();
    let mut updates = vec![insert(tenant("t1")), insert(tenant("t2"))];
    updates.extend(ROUTERS.map(|name| insert(router(name))));
    let ring = ROUTERS.iter().zip(ROUTERS.iter().cycle().skip(1));
    updates.extend(ring.zip(1..).map(|((a, b), cost)| insert(link(a, b, cost))));
    updates.extend([
        insert(link("r1", "r3", 2)),
        insert(permission("t1", "t2", "travel")),
    ]);
    for (at, name) in AGENTS.iter().enumerate() {
        let skills: &[&str] = [&["book_hotel"][..], &["find_hotel", "flights"], &[]][at % 3];
        updates.push(insert(agent(name, TENANTS[at / 2], skills)));
    }
    updates.push(insert(group("g", "t1", &["c", "d"])));
    apply(&mut rib, &updates).expect("accepted");
    for [kind, one, two, three] in dice {
        let name = AGENTS[one % AGENTS.len()];
        match kind % 3 {
            0 => {
                let path = ["*", "travel", "travel/hotels", "finance"][two % 4];
                let _ = apply(&mut rib, &[insert(grant(name, path))]);
            }
            _ => up(
                &mut rib,
                ROUTERS[two % ROUTERS.len()],
                name,
                1 + (three % 4) as u8,
            ),
        }
    }
    rib
}

/// The routers themselves: whole tables, everybody attached, messages sent.
struct Real {
    routers: BTreeMap<Label, Forwarder>,
}

fn at(label: Label) -> PeerKey {
    let number = label.bits() & 0x3fff_ffff;
    PeerKey {
        worker: 0,
        slot: match label.kind() {
            LabelKind::Router => number,
            _ => number + INSTANCES,
        },
    }
}

/// Slots of instances begin here.
const INSTANCES: u32 = 100;

impl Real {
    fn new(rib: &Rib, source: &Source, gone: Gone) -> Real {
        let whole = compile::everything(rib);
        let mut routers = BTreeMap::new();
        for record in rib.routers_after("") {
            let this = record.label();
            let entries = whole.iter().filter(|(key, _)| key.concerns(this));
            let delta = Delta {
                base: Generation(0),
                generation: Generation(1),
                upserts: entries.map(|(_, entry)| entry.clone()).collect(),
                removes: Vec::new(),
            };
            let fib = Fib::empty(0, this).apply(&delta).expect("compiled");
            let neighbours: Vec<Label> = fib.neighbours().map(|n| n.router).collect();
            let mut forwarder = Forwarder::new(ForwarderConfig::default(), Arc::new(fib));
            for other in neighbours {
                if !gone_between(gone, this, other) {
                    let role = PeerRole::Neighbour { router: other };
                    forwarder.peer_up(at(other), role).expect("a neighbour");
                }
            }
            let mut instances: BTreeSet<Label> = rib.attached_at(this).collect();
            if this == source.router {
                instances.insert(source.instance);
            }
            for label in instances {
                let agent = rib.agent_by_number(label.agent_number()).expect("known");
                let uri = agent.uri.clone();
                let role = PeerRole::Instance { uri, label };
                forwarder.peer_up(at(label), role).expect("an instance");
            }
            routers.insert(this, forwarder);
        }
        Real { routers }
    }

    /// Who gets it, and why copies of it are dropped.
    fn send(
        &mut self,
        source: &Source,
        message: [u8; HEADER_LEN],
    ) -> (BTreeSet<Label>, Vec<DropReason>) {
        let mut got = BTreeSet::new();
        let first = (source.router, at(source.instance), message.to_vec());
        let mut due = std::collections::VecDeque::from([first]);
        while let Some((router, from, message)) = due.pop_front() {
            let class = Header::new_unchecked(&message).class();
            let forwarder = self.routers.get_mut(&router).expect("a router");
            let mut data = BytesMut::from(&message[..]);
            forwarder
                .lane(NOW, from, 0, class, &mut data)
                .expect("a message");
            while let Some(key) = forwarder.dirty() {
                let mut bytes = Vec::new();
                while let Some(out) = forwarder.dequeue(key, usize::MAX, |_, _| true) {
                    bytes.extend_from_slice(&out.data);
                }
                for message in Messages::new(&bytes, LANE_MESSAGE_MAX) {
                    let message = message.expect("whole");
                    if Header::new_unchecked(message).kind() == caplane_wire::Kind::Notice {
                        continue;
                    }
                    if key.slot < INSTANCES {
                        let next = Label::router(key.slot).expect("a router");
                        due.push_back((next, at(router), message.to_vec()));
                    } else {
                        let number = key.slot - INSTANCES;
                        let label = Label::agent(number >> 6, (number & 63) as u8);
                        got.insert(label.expect("an instance"));
                    }
                }
            }
        }
        let reasons = DropReason::ALL.into_iter().filter(|reason| {
            let mut routers = self.routers.values();
            routers.any(|forwarder| forwarder.counters().dropped(*reason) > 0)
        });
        (got, reasons.collect())
    }
}

fn gone_between(gone: Gone, one: Label, other: Label) -> bool {
    match gone {
        Gone::Nothing => false,
        Gone::Link(a, b) => BTreeSet::from([a, b]) == BTreeSet::from([one, other]),
        Gone::Router(router) => [one, other].contains(&router),
    }
}

/// Explained and happened are the same.
fn agree(trace: &v1::Trace, (got, dropped): &(BTreeSet<Label>, Vec<DropReason>)) {
    let told: BTreeSet<Label> = trace
        .receivers
        .iter()
        .map(|receiver| Label::from_bits(receiver.label))
        .collect();
    assert_eq!(&told, got, "{trace:#?} {dropped:?}");
    match trace.outcome.strip_prefix("dropped: ") {
        Some(why) => {
            let name = why.split(' ').next().expect("a reason");
            let names: Vec<_> = dropped.iter().map(|reason| reason.name()).collect();
            assert_eq!(names, [name], "{trace:#?}");
        }
        None if trace.outcome == "delivered" => assert!(dropped.is_empty(), "{dropped:?}"),
        None => assert_eq!(trace.outcome, "copied"),
    }
}

/// The state once the controller knows that it is gone.
fn take_away(rib: &mut Rib, request: &v1::ExplainRequest) {
    let links: Vec<(String, String)> = match request.without.as_ref().expect("something is gone") {
        Without::Link(gone) => vec![(gone.a.clone(), gone.b.clone())],
        Without::GoneRouter(name) => {
            let label = router_label(rib, name);
            change(rib, 1, |tx| attach::open(tx, label, "gone:1", &[])).expect("opened");
            let others = rib.neighbours_of(name).map(str::to_owned);
            others.map(|other| (name.clone(), other)).collect()
        }
    };
    for (a, b) in links {
        apply(rib, &[delete(link(&a, &b, 1))]).expect("deleted");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whoever asks for whatever, with a link or a router gone: what is explained over the entries that the question
    /// needs is what routers with whole tables do.
    #[test]
    fn what_is_explained_is_what_routers_do(
        dice in prop::collection::vec(prop::array::uniform4(0usize..1_000), 4..40),
        questions in prop::collection::vec(prop::array::uniform6(0usize..1_000), 1..6),
    ) {
        for [who, what, entry, gone, flow, tenant] in questions {
            let mut rib = fabric(&dice);
            let to = match what % 9 {
                0..5 => To::Path(PATHS[what % 9].into()),
                5 => To::Group("g".into()),
                6 => To::Agent(agent_uri(AGENTS[flow % AGENTS.len()])),
                7 => {
                    let label = rib.agent(&agent_uri(AGENTS[flow % AGENTS.len()])).expect("there").label();
                    To::Agent(label.with_instance(1 + (flow % 3) as u8).expect("1..=63").to_string())
                }
                _ => To::Agent("agent:99999".into()),
            };
            let ingress = ROUTERS[entry % ROUTERS.len()];
            let others: Vec<&str> = ROUTERS.into_iter().filter(|name| *name != ingress).collect();
            let without = match gone % 2 {
                0 => Without::GoneRouter(others[gone % others.len()].into()),
                _ => {
                    let all: Vec<_> = rib.links_after("", "").cloned().collect();
                    let link = &all[gone % all.len()];
                    Without::Link(v1::Link { a: link.a.clone(), b: link.b.clone(), cost: 0 })
                }
            };
            let request = v1::ExplainRequest {
                router: ingress.into(),
                flow: flow as u64,
                no_affinity: flow % 5 == 0,
                tenant: ["", "", "shared", "t1", "t2"][tenant % 5].into(),
                traffic_class: (flow % 16) as u32,
                without: Some(without),
                ..ask(AGENTS[who % AGENTS.len()], to)
            };
            let told = explained(&rib, &request).expect("an answer");
            let sender = rib.agent(&request.source).expect("there").clone();
            let source = source(&rib, &sender, ingress, &mut Vec::new()).expect("somewhere");
            let known = Known { rib: &rib, knowledge: &knowledge(), live: &|_| 0, resolved: Vec::new(), scope: Scope::everything() };
            let asked = known.asked(&request, &sender).expect("asked");
            let message = message(&request, &source, asked).expect("a message");
            let gone = super::gone(&rib, &request, &source).expect("gone");
            agree(
                told.now.as_ref().expect("now"),
                &Real::new(&rib, &source, Gone::Nothing).send(&source, message),
            );
            agree(
                told.while_gone.as_ref().expect("while gone"),
                &Real::new(&rib, &source, gone).send(&source, message),
            );
            take_away(&mut rib, &request);
            agree(
                told.after.as_ref().expect("after"),
                &Real::new(&rib, &source, gone).send(&source, message),
            );
        }
    }
}

/// r1 - r2 - r3 and r1 - r3, dearer; `b` serves hotels at r2, `a` asks at r1.
fn triangle() -> Rib {
    let mut rib = Rib::new();
    let updates = [
        insert(router("r1")),
        insert(router("r2")),
        insert(router("r3")),
        insert(link("r1", "r2", 1)),
        insert(link("r2", "r3", 1)),
        insert(link("r1", "r3", 5)),
        insert(tenant("t")),
        insert(agent("a", "t", &[])),
        insert(agent("b", "", &["book_hotel"])),
        insert(grant("b", "*")),
    ];
    apply(&mut rib, &updates).expect("accepted");
    up(&mut rib, "r1", "a", 1);
    up(&mut rib, "r2", "b", 1);
    rib
}

#[test]
fn an_answer_names_who_where_and_why() {
    let rib = triangle();
    let request = v1::ExplainRequest {
        without: Some(Without::Link(v1::Link {
            a: "r2".into(),
            b: "r1".into(),
            cost: 0,
        })),
        ..ask("a", To::Path("travel/hotels/book_hotel".into()))
    };
    let answer = explained(&rib, &request).expect("an answer");
    assert_eq!(answer.generation, rib.generation());
    assert!(answer.assumed.is_empty());
    let now = answer.now.expect("now");
    assert_eq!(now.outcome, "delivered");
    assert_eq!(now.receivers[0].agent_uri, agent_uri("b"));
    let [first, last] = &now.hops[..] else {
        panic!("{now:#?}");
    };
    assert_eq!(
        (
            first.router.as_str(),
            first.next_hop.as_str(),
            first.verdict.as_str()
        ),
        ("r1", "r2", "forward")
    );
    assert_eq!(first.alternates, ["r3"]);
    assert_eq!(first.label_in, class("class:1.1.1").bits());
    assert_eq!(first.label_out, router_label(&rib, "r2").bits());
    assert!(
        first.policy.contains("may reach t, shared"),
        "{}",
        first.policy
    );
    assert_eq!(first.policer, "the router's default");
    assert!(first.behind && first.live_generation == 0);
    let one = &first.considered[0];
    assert_eq!(
        (
            one.matched.as_str(),
            one.tenant.as_str(),
            one.member.as_str(),
            one.verdict.as_str()
        ),
        ("travel/hotels/book_hotel", "shared", "r2", "chosen")
    );
    assert_eq!(
        (last.verdict.as_str(), last.policy.as_str()),
        ("deliver", "")
    );
    // The link gone: round by the alternate at once, and by the new table afterwards.
    for trace in [answer.while_gone, answer.after] {
        let trace = trace.expect("asked for");
        assert_eq!(trace.outcome, "delivered");
        let routers: Vec<&str> = trace.hops.iter().map(|hop| hop.router.as_str()).collect();
        assert_eq!(routers, ["r1", "r3", "r2"]);
    }
}

#[test]
fn without_the_only_router_that_serves_it_nobody_does() {
    let rib = triangle();
    let request = v1::ExplainRequest {
        without: Some(Without::GoneRouter("r2".into())),
        ..ask("a", To::Path("travel/hotels/book_hotel".into()))
    };
    let answer = explained(&rib, &request).expect("an answer");
    let outcome = |trace: Option<v1::Trace>| trace.expect("asked for").outcome;
    // Its neighbours know that it is gone; r1 knows of a way round only.
    assert_eq!(outcome(answer.while_gone), "dropped: unreachable at r3");
    assert_eq!(outcome(answer.after), "dropped: no_route at r1");
    let denied = ask("b", To::Agent(agent_uri("a")));
    let answer = explained(&rib, &denied).expect("an answer");
    // The shared tenant may answer every other.
    assert_eq!(outcome(answer.now), "delivered");
    let other = v1::ExplainRequest {
        tenant: "t".into(),
        ..ask("b", To::Path("travel".into()))
    };
    let answer = explained(&rib, &other).expect("an answer");
    assert_eq!(outcome(answer.now), "dropped: policy_denied at r2");
}

#[test]
fn questions_without_sense_are_refused_with_field_and_remedy() {
    let rib = triangle();
    let hotels = || To::Path("travel/hotels".into());
    let without = |without| v1::ExplainRequest {
        without: Some(without),
        ..ask("a", hotels())
    };
    let nowhere = v1::Link {
        a: "r1".into(),
        b: "r9".into(),
        cost: 0,
    };
    for (request, due) in [
        (ask("zz", hotels()), "source \"spiffe"),
        (
            ask("a", To::Path("trains".into())),
            "path \"trains\": the taxonomy has",
        ),
        (
            ask("a", To::Group("g".into())),
            "group \"g\": there is no such group",
        ),
        (
            ask("a", To::Agent("b".into())),
            "agent \"b\": is not registered",
        ),
        (
            ask("a", To::Text("zz".into())),
            "text \"zz\": names no class",
        ),
        (
            without(Without::GoneRouter("r1".into())),
            "gone_router \"r1\": is where",
        ),
        (
            without(Without::GoneRouter("r9".into())),
            "gone_router \"r9\": there is no",
        ),
        (
            without(Without::Link(nowhere)),
            "link.b \"r9\": there is no such router",
        ),
        (
            v1::ExplainRequest {
                traffic_class: 16,
                ..ask("a", hotels())
            },
            "traffic_class \"16\": is no traffic class",
        ),
        (
            v1::ExplainRequest {
                tenant: "zz".into(),
                ..ask("a", hotels())
            },
            "tenant \"zz\": there is no such tenant",
        ),
        (
            v1::ExplainRequest {
                to: None,
                ..ask("a", hotels())
            },
            "to \"\": is not set",
        ),
    ] {
        let refused = explained(&rib, &request).expect_err(due).to_string();
        assert!(
            refused.starts_with(due) && refused.contains("; "),
            "{refused}"
        );
    }
    // A router where nobody is attached yet is fine; nowhere at all is not.
    let elsewhere = v1::ExplainRequest {
        router: "r3".into(),
        ..ask("a", hotels())
    };
    let answer = explained(&rib, &elsewhere).expect("an answer");
    assert!(
        answer.assumed[0].contains(".2 were"),
        "{:?}",
        answer.assumed
    );
    let mut rib = rib;
    apply(&mut rib, &[insert(agent("c", "", &[]))]).expect("accepted");
    let refused = explained(&rib, &ask("c", hotels())).expect_err("nowhere");
    assert!(
        refused.to_string().contains("is attached nowhere"),
        "{refused}"
    );
}

/// `a` of t1 may reach "travel/hotels" of t2; of t2 `x` serves "travel" itself, and nobody anything below.
#[test]
fn who_is_bound_is_not_told_whom_policy_hides() {
    let mut rib = Rib::new();
    let updates = [
        insert(router("r1")),
        insert(tenant("t1")),
        insert(tenant("t2")),
        insert(agent("a", "t1", &[])),
        insert(agent("x", "t2", &[])),
        insert(permission("t1", "t2", "travel/hotels")),
    ];
    apply(&mut rib, &updates).expect("accepted");
    up(&mut rib, "r1", "a", 1);
    up(&mut rib, "r1", "x", 1);
    let request = v1::ExplainRequest {
        tenant: "t2".into(),
        ..ask("a", To::Path("travel/hotels".into()))
    };
    let t1 = Scope::of(Some(&["t1".to_owned()]));
    let told = |rib: &Rib, scope: &Scope| {
        let answer = explained_to(rib, &request, scope).expect("an answer");
        answer.now.expect("now")
    };
    let nobody = told(&rib, &t1);
    assert_eq!(nobody.outcome, "dropped: no_route at r1");
    apply(&mut rib, &[insert(grant("x", "travel"))]).expect("accepted");
    // Who sees everything is told why.
    let whole = told(&rib, Scope::everything());
    assert_eq!(whole.outcome, "dropped: policy_denied at r1");
    assert_eq!(whole.hops[0].considered[0].verdict, "denied");
    let live = |trace: v1::Trace| (trace.outcome, trace.hops[0].considered.clone());
    assert_eq!(live(told(&rib, &t1)), live(nobody));
    // Its own tenant's are no secret.
    let both = Scope::of(Some(&["t1".to_owned(), "t2".to_owned()]));
    assert_eq!(told(&rib, &both).outcome, "dropped: policy_denied at r1");
}
