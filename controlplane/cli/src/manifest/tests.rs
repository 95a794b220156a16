use caplane_proto::v1::update::Type;

use super::plan::{Change, key};
use super::*;

struct TestNames;

impl Names for TestNames {
    fn agent(&self, name: &str, tenant: &str) -> Result<String, String> {
        match name {
            "" => Err("an agent has a name".to_owned()),
            _ => Ok(format!("spiffe://d/tenant/{tenant}/agent/{name}")),
        }
    }

    fn router(&self, name: &str) -> Result<String, String> {
        Ok(format!("spiffe://d/router/{name}"))
    }
}

fn parsed(text: &str) -> Result<Manifest, Failure> {
    Manifest::parse(text, Path::new("fabric.toml"), &TestNames)
}

fn good(text: &str) -> Manifest {
    parsed(text).unwrap_or_else(|failure| panic!("{failure}"))
}

/// In short: the sign, what, and which fields.
fn words(changes: &[Change]) -> Vec<String> {
    let word = |change: &Change| {
        let sign = match change.action {
            Type::Insert => '+',
            Type::Modify => '~',
            _ => '-',
        };
        let key = key(&change.entity);
        let text = format!(
            "{sign} {} {} {}",
            key.noun(),
            key.name(),
            change.fields.join(" ")
        );
        text.trim_end().to_owned()
    };
    changes.iter().map(word).collect()
}

/// What is there after the changes, which must each be possible where they stand.
fn after(there: &[Kind], changes: &[Change]) -> Vec<Kind> {
    let mut state: std::collections::BTreeMap<_, _> =
        there.iter().map(|e| (key(e), e.clone())).collect();
    for change in changes {
        let key = key(&change.entity);
        match change.action {
            Type::Delete => {
                assert!(state.remove(&key).is_some(), "{change:?}");
                if let Kind::Agent(agent) = &change.entity {
                    state.retain(|_, entity| match entity {
                        Kind::Grant(grant) => grant.agent_uri != agent.uri,
                        Kind::Override(told) => told.agent_uri != agent.uri,
                        _ => true,
                    });
                }
            }
            Type::Insert => assert!(
                state.insert(key, change.entity.clone()).is_none(),
                "{change:?}"
            ),
            _ => assert!(
                state.insert(key, change.entity.clone()).is_some(),
                "{change:?}"
            ),
        }
    }
    state.into_values().collect()
}

const FABRIC: &str = r#"
group = [{ name = "g", tenant = "acme", agents = ["b", "a", "b"] }]
[[tenant]]
name = "acme"
[[router]]
name = "r2"
[[router]]
name = "r1"
[[link]]
a = "r2"
b = "r1"
[[agent]]
agent = "a"
tenant = "acme"
[[grant]]
agent = "a"
tenant = "acme"
class = "*"
[[override]]
agent = "a"
tenant = "acme"
skill = "s"
class = "travel"
[[permission]]
from = "acme"
to = "zeta"
"#;

#[test]
fn a_file_is_made_true_once() {
    let manifest = good(FABRIC);
    let changes = manifest.plan(Vec::new(), false);
    let a = "spiffe://d/tenant/acme/agent/a";
    assert_eq!(
        words(&changes),
        [
            "+ tenant acme",
            "+ router r1",
            "+ router r2",
            "+ link r1 r2",
            &format!("+ agent {a}"),
            &format!("+ grant {a} *"),
            &format!("+ override {a} s"),
            "+ permission acme zeta",
            "+ group g",
        ]
    );
    let there = after(&[], &changes);
    assert_eq!(
        words(&manifest.plan(there.clone(), true)),
        Vec::<String>::new()
    );
    let agent = there.iter().find_map(|entity| match entity {
        Kind::Agent(agent) => Some(agent),
        _ => None,
    });
    assert_eq!(agent.map(|agent| agent.weight), Some(100), "the default");

    let other = good(
        &FABRIC
            .replace("b = \"r1\"", "b = \"r1\"\ncost = 7")
            .replace(
                "agent = \"a\"\ntenant = \"acme\"\n[[grant]]",
                "agent = \"a\"\ntenant = \"acme\"\nweight = 5\npriority_max = 3\n[[grant]]",
            ),
    );
    let changes = other.plan(there, false);
    assert_eq!(
        words(&changes),
        [
            "~ link r1 r2 cost".to_owned(),
            format!("~ agent {a} weight priority_max"),
        ]
    );
}

#[test]
fn nothing_said_and_0_or_empty_are_the_same() {
    let zeros = good(
        r#"
link = [{ a = "r1", b = "r2", cost = 0 }]
agent = [{ agent = "a", tenant = "", weight = 0 }]
grant = [{ agent = "a", tenant = "", class = "*", weight = 0 }]
override = [{ agent = "a", tenant = "", skill = "s", class = "travel" }]
permission = [{ from = "", to = "acme", class = "" }]
group = [{ name = "g", tenant = "", agents = ["a"] }]
"#,
    );
    let nothing = good(
        r#"
link = [{ a = "r1", b = "r2" }]
agent = [{ agent = "a" }]
grant = [{ agent = "a", class = "*" }]
override = [{ agent = "a", skill = "s", class = "travel" }]
permission = [{ from = "shared", to = "acme" }]
group = [{ name = "g", agents = ["a"] }]
"#,
    );
    // As the controller keeps them: nothing is left to do.
    let there = after(&[], &nothing.plan(Vec::new(), false));
    assert_eq!(words(&zeros.plan(there, true)), Vec::<String>::new());
    assert_eq!(zeros, nothing);
    let failure = parsed("[[link]]\na = \"r1\"\nb = \"r2\"\ncost = -1").expect_err("negative");
    assert!(failure.text.contains("fabric.toml:4:8: "), "{failure}");
}

#[test]
fn what_goes_is_only_what_the_file_has_a_say_in() {
    let there = after(&[], &good(FABRIC).plan(Vec::new(), false));
    // It says nothing of agents: their grants stay, and so do links and routers.
    let tenants = good("[[tenant]]\nname = \"zeta\"");
    assert_eq!(
        words(&tenants.plan(there.clone(), false)),
        ["+ tenant zeta"]
    );
    let changes = tenants.plan(there.clone(), true);
    assert_eq!(words(&changes), ["+ tenant zeta", "- tenant acme"]);
    // Agents of a tenant that it does not name stay; those of one that it names go with all that is theirs.
    let elsewhere = good("[[agent]]\nagent = \"x\"");
    assert_eq!(
        words(&elsewhere.plan(there.clone(), true)),
        ["+ agent spiffe://d/tenant/shared/agent/x"]
    );
    let here = good(
        "[[agent]]\nagent = \"x\"\ntenant = \"acme\"\n[[grant]]\nagent = \"a\"\ntenant = \"acme\"\nclass = \"*\"",
    );
    let changes = here.plan(there.clone(), true);
    let a = "spiffe://d/tenant/acme/agent/a";
    assert_eq!(
        words(&changes),
        [
            format!("- agent {a}"),
            "+ agent spiffe://d/tenant/acme/agent/x".to_owned(),
            // It went with the agent, and may stand without.
            format!("+ grant {a} *"),
        ]
    );
    let now = after(&there, &changes);
    assert_eq!(words(&here.plan(now, true)), Vec::<String>::new());
    // Links go before the routers they join, tenants after all else.
    let routers = good(
        "tenant = []\n[[router]]\nname = \"r1\"\n[[link]]\na = \"r1\"\nb = \"r3\"\n[[router]]\nname = \"r3\"",
    );
    assert_eq!(
        words(&routers.plan(there, true)),
        ["- link r1 r2", "- router r2", "+ router r3", "+ link r1 r3"]
    );
}

#[test]
fn faults_say_where_they_are() {
    for (text, wanted) in [
        (
            "[[tenant]]\nnam = \"x\"",
            "fabric.toml:2:1: unknown field `nam`",
        ),
        ("[[agents]]\n", "fabric.toml:1:3: unknown field `agents`"),
        ("[[link]]\na = \"r1\"", "missing field `b`"),
        (
            "[[tenant]]\nname = \"x\"\n[[tenant]]\nname = \"x\"",
            "fabric.toml:4:8: tenant x stands twice",
        ),
        (
            "[[link]]\na = \"r1\"\nb = \"r2\"\n[[link]]\na = \"r2\"\nb = \"r1\"",
            "fabric.toml:5:5: link r1 r2 stands twice",
        ),
        (
            "[[agent]]\nagent = \"\"",
            "fabric.toml:2:9: an agent has a name",
        ),
        (
            "[[agent]]\nagent = \"a\"\ncard = \"no/such.json\"",
            "fabric.toml:3:8: cannot read no/such.json",
        ),
        (
            "[[grant]]\nagent = \"a\"\nclass = \"class:7.1\"",
            "fabric.toml:3:9: class \"class:7.1\" is a label",
        ),
        ("[[tenant]]\nname = 7", "fabric.toml:2:8: invalid type"),
        ("é = 1\n[[x", "fabric.toml:2:"),
    ] {
        let failure = parsed(text).expect_err(text);
        assert!(failure.text.contains(wanted), "{failure}");
        assert_eq!(failure.exit, Exit::Usage);
    }
}

const POLICIES: &str = r#"
[[tenant]]
name = "acme"
policer = "slow"
direct = true
[[policer]]
name = "slow"
rate = { messages_per_second = 100 }
classes = [{ tenant = "acme", class = "travel", rate = { messages_per_second = 10 } }]
[[policy]]
name = "kiosk"
tenant = "acme"
only = true
allow = [{ class = "travel" }, { tenant = "acme" }, { class = "travel" }]
policer = "slow"
[[agent]]
agent = "a"
tenant = "acme"
policy = "kiosk"
out_of_service = true
"#;

#[test]
fn tenants_and_policers_that_name_each_other_are_made_and_go_in_an_order_that_holds() {
    let manifest = good(POLICIES);
    let changes = manifest.plan(Vec::new(), false);
    let a = "spiffe://d/tenant/acme/agent/a";
    assert_eq!(
        words(&changes),
        [
            "+ tenant acme",
            "+ policer slow",
            "~ tenant acme policer",
            "+ policy kiosk",
            &format!("+ agent {a}"),
        ]
    );
    let Kind::Tenant(first) = &changes[0].entity else {
        panic!("a tenant");
    };
    assert_eq!((first.policer.as_str(), first.direct), ("", true));
    let there = after(&[], &changes);
    let Some(Kind::Policy(policy)) = there.iter().find(|e| matches!(e, Kind::Policy(_))) else {
        panic!("a policy");
    };
    let allowed: Vec<_> = policy
        .allow
        .iter()
        .map(|a| (a.tenant.as_str(), a.class_path.as_str()))
        .collect();
    assert_eq!(
        allowed,
        [("acme", ""), ("shared", "travel")],
        "as it is kept"
    );
    assert_eq!(
        words(&manifest.plan(there.clone(), true)),
        Vec::<String>::new()
    );

    let others = good(
        r#"
tenant = [{ name = "acme" }]
policer = [{ name = "p" }]
policy = [{ name = "q", tenant = "acme" }]
agent = [{ agent = "a", tenant = "acme" }]
"#,
    );
    let changes = others.plan(there.clone(), true);
    assert_eq!(
        words(&changes),
        [
            "+ policer p".to_owned(),
            "~ tenant acme policer direct".to_owned(),
            "+ policy q".to_owned(),
            format!("~ agent {a} policy out_of_service"),
            // Nobody names them any more.
            "- policy kiosk".to_owned(),
            "- policer slow".to_owned(),
        ]
    );
    let now = after(&there, &changes);
    assert_eq!(words(&others.plan(now, true)), Vec::<String>::new());

    // A tenant and a policer that name each other go together.
    let agentless = POLICIES
        .split("[[policy]]")
        .next()
        .expect("before policies");
    let there = after(&[], &good(agentless).plan(Vec::new(), false));
    let none = good("tenant = [{ name = \"t\" }]\npolicer = [{ name = \"p\" }]");
    assert_eq!(
        words(&none.plan(there, true)),
        [
            "+ tenant t",
            "+ policer p",
            "~ tenant acme policer",
            "- policer slow",
            "- tenant acme",
        ]
    );
}
