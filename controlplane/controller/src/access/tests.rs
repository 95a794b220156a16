use caplane_proto::v1::entity::Entity as Body;
use caplane_proto::{FILE_DESCRIPTOR_SET, v1};
use prost::Message;

use super::*;
use crate::change::Atomicity;
use crate::change::write::batch_as;
use crate::testbed::{
    agent, agent_uri, apply, change, checked, delete, grant, group, insert, link, modify,
    permission, policer, policy, router, tenant,
};

const EVERY_ROLE: [Role; 4] = [
    Role::Viewer,
    Role::Orchestrator,
    Role::Operator,
    Role::Admin,
];

fn rule(who: &str, role: Role) -> Rule {
    Rule {
        who: UriPattern::parse(who).expect("a pattern"),
        role,
        tenants: None,
        agents: None,
    }
}

fn principal(rule: Rule) -> Principal {
    let who = rule.who.to_string();
    let access = Access::new(&[rule]);
    let found = access.principal(&who.into(), &"127.0.0.1:1".into());
    found.expect("the rule's own name")
}

fn caller(role: Role) -> Principal {
    principal(rule("spiffe://d/somebody", role))
}

fn bound(role: Role, tenants: &[&str], agents: Option<&[&str]>) -> Principal {
    let parse = |pattern: &&str| UriPattern::parse(pattern).expect("a pattern");
    principal(Rule {
        tenants: Some(tenants.iter().map(|name| (*name).to_owned()).collect()),
        agents: agents.map(|patterns| patterns.iter().map(parse).collect()),
        ..rule("spiffe://d/somebody", role)
    })
}

/// Field numbers of google.protobuf.FileDescriptorSet that say which calls there are.
mod descriptors {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Set {
        #[prost(message, repeated, tag = "1")]
        pub files: Vec<File>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct File {
        #[prost(string, tag = "2")]
        pub package: String,
        #[prost(message, repeated, tag = "6")]
        pub services: Vec<Named>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Named {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(message, repeated, tag = "2")]
        pub methods: Vec<Method>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Method {
        #[prost(string, tag = "1")]
        pub name: String,
    }
}

#[test]
fn every_call_that_is_served_has_its_least_role_and_no_other_has_one() {
    // The table, once more and by hand: who changes it changes it here too.
    let expected = [
        ("Write", Role::Orchestrator),
        ("Confirm", Role::Orchestrator),
        ("Read", Role::Viewer),
        ("Watch", Role::Viewer),
        ("Resolve", Role::Viewer),
        ("Explain", Role::Viewer),
        ("Rollout", Role::Viewer),
        ("ReadAudit", Role::Admin),
        ("Status", Role::Viewer),
    ];
    let set = descriptors::Set::decode(FILE_DESCRIPTOR_SET).expect("descriptors");
    let services = set.files.iter().filter(|file| file.package == "caplane.v1");
    let services = services.flat_map(|file| &file.services);
    let northbound = services
        .filter(|service| service.name == "Northbound")
        .flat_map(|service| &service.methods);
    let served: Vec<&str> = northbound.map(|method| method.name.as_str()).collect();
    assert_eq!(served.len(), expected.len(), "{served:?}");
    for name in served {
        let role = expected.iter().find(|(call, _)| *call == name);
        let role = role
            .unwrap_or_else(|| panic!("{name}: say who may call it"))
            .1;
        assert_eq!(
            least_caller(&format!("/caplane.v1.Northbound/{name}")),
            Some(role)
        );
    }
    for path in [
        "/caplane.v1.Northbound/",
        "/caplane.v1.Northbound/write",
        "/caplane.v1.Northbound/Write/",
        "/caplane.v1.Southbound/Session",
        "/Write",
        "",
    ] {
        assert_eq!(least_caller(path), None, "{path}");
    }
}

/// One update of every kind that Write takes, and who may write it.
fn every_kind() -> Vec<(Body, Role)> {
    vec![
        (agent("a", "t", &["flights"]), Role::Orchestrator),
        (grant("a", "travel"), Role::Orchestrator),
        (
            Body::Override(v1::SkillOverride {
                agent_uri: agent_uri("a"),
                skill_id: "flights".into(),
                class_path: "travel".into(),
            }),
            Role::Orchestrator,
        ),
        (group("g", "t", &["a"]), Role::Orchestrator),
        (router("r"), Role::Operator),
        (link("r", "s", 1), Role::Operator),
        (tenant("u"), Role::Admin),
        (permission("t", "v", ""), Role::Admin),
        (Body::Policy(policy("p", "t", "v", "travel")), Role::Admin),
        (Body::Policer(policer("q", 1, "t", "travel")), Role::Admin),
    ]
}

fn world() -> Rib {
    let mut rib = Rib::new();
    let updates = [
        insert(tenant("t")),
        insert(tenant("v")),
        insert(agent("a", "t", &["flights"])),
        insert(agent("b", "v", &["flights"])),
        insert(grant("later", "travel")),
        insert(group("of-v", "v", &[])),
    ];
    apply(&mut rib, &updates).expect("written");
    rib
}

#[test]
fn role_by_kind_by_action() {
    let rib = world();
    let mut looked_at = 0;
    for (body, least) in every_kind() {
        for update in [insert(body.clone()), modify(body.clone()), delete(body)] {
            let parsed = checked(&[update]).expect("parses").remove(0);
            let parsed = parsed.expect("right in itself");
            assert_eq!(least_writer(&parsed.target), least);
            for role in EVERY_ROLE {
                let outcome = caller(role).may_write(&rib, &parsed);
                let kind = parsed.target.kind();
                assert_eq!(
                    outcome.is_ok(),
                    role >= least,
                    "{role:?} {kind}: {outcome:?}"
                );
                if let Err(refusal) = outcome {
                    assert_eq!(refusal.fault, Fault::Denied);
                    assert!(refusal.reason.contains(least.as_str()), "{refusal}");
                }
                looked_at += 1;
            }
        }
    }
    assert_eq!(looked_at, 10 * 3 * 4);
}

#[test]
fn who_is_bound_to_tenants_writes_theirs_and_nothing_else() {
    let rib = world();
    let mine = bound(Role::Orchestrator, &["t"], None);
    let may = |caller: &Principal, update: v1::Update| {
        let parsed = checked(&[update]).expect("parses").remove(0);
        caller.may_write(&rib, &parsed.expect("right in itself"))
    };
    let allowed = [
        insert(agent("new", "t", &[])),
        modify(agent("a", "t", &[])),
        delete(agent("a", "t", &[])),
        // Not there: NOT_FOUND is for the state to say.
        delete(agent("nobody", "", &[])),
        insert(grant("a", "*")),
        delete(grant("a", "*")),
        insert(group("g", "t", &["a"])),
        delete(group("g", "", &[])),
    ];
    for update in allowed {
        assert_eq!(may(&mine, update.clone()), Ok(()), "{update:?}");
    }
    let others = [
        (insert(agent("new", "v", &[])), "agent.tenant"),
        // The shared tenant is nobody's but who is given it.
        (insert(agent("new", "", &[])), "agent.tenant"),
        // Neither taken over nor given away.
        (modify(agent("b", "t", &[])), "agent.uri"),
        (modify(agent("a", "v", &[])), "agent.tenant"),
        (delete(agent("b", "v", &[])), "agent.uri"),
        (insert(grant("b", "*")), "grant.agent_uri"),
        // Given by somebody else to an identity that is not registered.
        (delete(grant("later", "travel")), "grant.agent_uri"),
        (insert(grant("nobody", "*")), "grant.agent_uri"),
        (insert(group("g", "v", &[])), "group.tenant"),
        (modify(group("of-v", "t", &[])), "group.name"),
        (delete(group("of-v", "", &[])), "group.name"),
    ];
    for (update, field) in others {
        let refusal = may(&mine, update).expect_err(field);
        assert_eq!(
            (refusal.fault, refusal.field.as_str()),
            (Fault::Denied, field)
        );
    }
    let refusal = may(&mine, insert(agent("new", "v", &[]))).expect_err("not mine");
    assert_eq!(refusal.about.accepted, ["t"], "says which are");
    // What belongs to nobody is for who is bound to nothing, whatever the role.
    let strange = bound(Role::Admin, &["t"], None);
    for body in [router("r"), tenant("u"), permission("t", "v", "")] {
        assert!(may(&strange, insert(body)).is_err());
    }
    let named = bound(
        Role::Orchestrator,
        &["t"],
        Some(&["spiffe://caplane.local/tenant/t/agent/*"]),
    );
    assert_eq!(may(&named, insert(agent("new", "t", &[]))), Ok(()));
    let elsewhere = insert(Body::Agent(v1::Agent {
        uri: "spiffe://caplane.local/tenant/v/agent/x".into(),
        tenant: "t".into(),
        ..v1::Agent::default()
    }));
    let refusal = may(&named, elsewhere).expect_err("another's name");
    assert_eq!(refusal.field, "agent.uri");
}

#[test]
fn each_update_is_judged_in_the_state_that_it_meets() {
    let mut rib = world();
    let mine = bound(Role::Orchestrator, &["t"], None);
    let parsed = checked(&[
        insert(agent("new", "t", &["flights"])),
        insert(grant("new", "*")),
        insert(grant("b", "*")),
        insert(grant("a", "*")),
    ])
    .expect("parses");
    let may = |rib: &Rib, update: &Update| mine.may_write(rib, update);
    let outcome = change(&mut rib, 1, |tx| {
        batch_as(tx, &parsed, Atomicity::ContinueOnError, &may)
    });
    let (refusals, _) = outcome.expect("goes on");
    let denied = refusals.iter().map(Option::is_some);
    assert_eq!(denied.collect::<Vec<_>>(), [false, false, true, false]);
    let refusal = refusals[2].as_ref().expect("refused");
    assert_eq!(refusal.field, "updates[2].grant.agent_uri");
    assert!(rib.grant(&agent_uri("new"), "*").is_some());
    let all_or_none = change(&mut rib, 2, |tx| {
        batch_as(tx, &parsed[1..3], Atomicity::AllOrNone, &may)
    });
    assert!(all_or_none.is_err());
}

#[test]
fn the_most_special_rule_counts_and_strangers_are_nobody() {
    let access = Access::new(&[
        rule("spiffe://d/*", Role::Viewer),
        rule("spiffe://d/team/*", Role::Orchestrator),
        rule("spiffe://d/team/ada", Role::Admin),
        rule("unix:uid/1000", Role::Operator),
    ]);
    let role = |uri: &str| {
        let found = access.principal(&uri.into(), &"x".into());
        found.map(|principal| principal.role)
    };
    assert_eq!(role("spiffe://d/team/ada"), Some(Role::Admin));
    assert_eq!(role("spiffe://d/team/bob"), Some(Role::Orchestrator));
    assert_eq!(role("spiffe://d/x"), Some(Role::Viewer));
    assert_eq!(role("unix:uid/1000"), Some(Role::Operator));
    for stranger in ["spiffe://e/team/ada", "unix:uid/1001", "unix:uid/10000", ""] {
        assert_eq!(role(stranger), None, "{stranger}");
    }
    for role in EVERY_ROLE {
        assert_eq!(Role::parse(role.as_str()), Some(role));
    }
    assert_eq!(Role::parse("root"), None);
}

#[test]
fn questions_are_asked_as_ones_own_and_commits_are_ended_by_their_own() {
    let rib = world();
    let mine = bound(Role::Viewer, &["t"], None);
    let ask = |caller: &Principal, uri: &str| caller.may_ask_as(&rib, "asker", uri).is_ok();
    assert!(ask(&mine, &agent_uri("a")));
    assert!(!ask(&mine, ""));
    // What is another's is refused as what is not there.
    let refused = |name: &str| {
        let refusal = mine.may_ask_as(&rib, "asker", &agent_uri(name));
        let refusal = refusal.expect_err("denied").to_string();
        refusal.replace(&agent_uri(name), "it")
    };
    assert_eq!(refused("b"), refused("nobody"));
    let free = caller(Role::Viewer);
    assert!(ask(&free, &agent_uri("b")) && ask(&free, ""));
    for (role, others) in [(Role::Orchestrator, false), (Role::Operator, true)] {
        let caller = caller(role);
        assert_eq!(caller.may_end(7, "spiffe://d/other").is_ok(), others);
        assert_eq!(caller.may_end(7, "spiffe://d/somebody"), Ok(()));
    }
}
