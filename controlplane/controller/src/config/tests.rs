use super::*;

const GOOD: &str = r#"
name = "c1"
listen_northbound = "127.0.0.1:0"
listen_southbound = "[::1]:0"
state_dir = "state"
operators = ["spiffe://caplane.local/operator/*"]

[credentials]
chain = "controller-c1.pem"
key = "controller-c1-key.pem"
trust = [{ domain = "caplane.local", roots = "ca.pem" }]
"#;

fn parse(text: &str) -> Result<ControllerConfig, ConfigError> {
    ControllerConfig::parse(text, Path::new("/etc/caplane/controller.toml"))
}

fn message(text: &str) -> String {
    parse(text).expect_err("must be refused").to_string()
}

#[test]
fn a_small_file_is_enough_and_paths_start_at_its_folder() {
    let config = parse(GOOD).expect("good");
    assert_eq!(config.state_dir, Path::new("/etc/caplane/state"));
    assert_eq!(
        config.store.path,
        Path::new("/etc/caplane/state/controller.redb")
    );
    assert_eq!(config.timers.router_lease, defaults::ROUTER_LEASE);
    assert_eq!(config.timers.make_before_break, defaults::MAKE_BEFORE_BREAK);
    let off = parse(&format!("{GOOD}\n[timers]\nmake_before_break_ms = 0\n")).expect("good");
    assert!(off.timers.make_before_break.is_zero());
    assert_eq!(config.domain, 0);
}

#[test]
fn a_fault_is_told_with_file_line_and_column() {
    let told = message(&GOOD.replace("127.0.0.1:0", "localhost"));
    assert!(
        told.starts_with("/etc/caplane/controller.toml:3:21: listen_northbound \"localhost\""),
        "{told}"
    );
    let told = message(&format!("colour = 1\n{GOOD}"));
    assert!(told.contains(":1:1: unknown field `colour`"), "{told}");
    let told = message(&GOOD.replace("[\"spiffe://caplane.local/operator/*\"]", "[]"));
    assert!(told.contains(":6:13: operators is empty"), "{told}");
    let told = message(&format!("{GOOD}\n[timers]\nrouter_lease_ms = 1\n"));
    assert!(
        told.contains("router_lease_ms = 1 is out of range"),
        "{told}"
    );
}

#[test]
fn salts_are_read_refused_in_their_place_and_never_shown() {
    let with = |salts: &str| format!("{GOOD}\n[acps]\nsalts = [{salts}]\n");
    let good = with(
        r#"{ prefix = "1.2.156.3088", salt = "c0ffee" }, { prefix = "1.2.840", salt = "12" }"#,
    );
    let config = parse(&good).expect("good");
    assert_eq!(parse(GOOD).expect("good").salts, Salts::default());
    let shown = format!("{config:#?}");
    assert!(shown.contains("1.2.156.3088: 3 bytes"), "{shown}");
    assert!(
        !shown.contains("c0ffee") && !shown.contains("192"),
        "{shown}"
    );
    for (salts, place, due) in [
        (
            r#"{ prefix = "1.2.", salt = "12" }"#,
            ":14:21:",
            "is not the beginning of an AIC",
        ),
        (
            r#"{ prefix = "1.2", salt = "xyz" }"#,
            ":14:35:",
            "hexadecimal",
        ),
        (
            r#"{ prefix = "1.a", salt = "12" }, { prefix = "1.A", salt = "34" }"#,
            ":14:54:",
            "is here twice",
        ),
        (
            r#"{ prefix = "1.2", pepper = "12" }"#,
            ":14:",
            "unknown field `pepper`",
        ),
    ] {
        let told = message(&with(salts));
        assert!(told.contains(place) && told.contains(due), "{told}");
        assert!(!told.contains("xyz"), "{told}");
    }
}

#[test]
fn operators_are_exact_or_by_prefix() {
    let all = UriPattern::parse("spiffe://a/operator/*").expect("prefix");
    assert!(all.matches("spiffe://a/operator/ada"));
    assert!(!all.matches("spiffe://a/operator/"));
    assert!(!all.matches("spiffe://a/router/r1"));
    let one = UriPattern::parse("spiffe://a/operator/ada").expect("exact");
    assert!(one.matches("spiffe://a/operator/ada"));
    assert!(!one.matches("spiffe://a/operator/adam"));
    for bad in ["spiffe://a/op*", "spiffe://*/x", "*", "http://a/b"] {
        assert!(UriPattern::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn roles_are_read_and_refused_in_their_place() {
    use crate::access::Role;

    let with = |roles: &str| format!("{GOOD}\n{roles}\n");
    let good = with(
        r#"[[roles]]
who = "spiffe://caplane.local/orchestrator/acme"
role = "orchestrator"
tenants = ["acme"]
agents = ["spiffe://caplane.local/tenant/acme/*"]
[[roles]]
who = "unix:uid/1000"
role = "viewer""#,
    );
    let roles = parse(&good).expect("good").roles;
    let told: Vec<(String, Role)> = roles.iter().map(|r| (r.who.to_string(), r.role)).collect();
    assert_eq!(
        told,
        [
            ("spiffe://caplane.local/operator/*".to_owned(), Role::Admin),
            (
                "spiffe://caplane.local/orchestrator/acme".to_owned(),
                Role::Orchestrator
            ),
            ("unix:uid/1000".to_owned(), Role::Viewer),
        ]
    );
    assert_eq!(roles[1].tenants.as_deref(), Some(&["acme".to_owned()][..]));
    for (roles, place, due) in [
        (
            "[[roles]]\nwho = \"spiffe://d/x\"\nrole = \"root\"",
            ":15:8:",
            "use one of viewer, orchestrator, operator, admin",
        ),
        (
            "[[roles]]\nwho = \"spiffe://d/x\"\nrole = \"operator\"\ntenants = [\"t\"]",
            ":16:11:",
            "is bound to no tenant",
        ),
        (
            "[[roles]]\nwho = \"spiffe://d/x\"\nrole = \"viewer\"\ntenants = [\"a b\"]",
            ":16:12:",
            "tenant \"a b\"",
        ),
        (
            "[[roles]]\nwho = \"spiffe://caplane.local/operator/*\"\nrole = \"viewer\"",
            ":14:7:",
            "is here twice",
        ),
        (
            "[[roles]]\nwho = \"unix:uid/ada\"\nrole = \"viewer\"",
            ":14:7:",
            "a user's number",
        ),
    ] {
        let told = message(&with(roles));
        assert!(told.contains(place) && told.contains(due), "{told}");
    }
}

#[test]
fn a_socket_is_enough_for_who_needs_no_operators() {
    let none = GOOD.replace("operators = [\"spiffe://caplane.local/operator/*\"]\n", "");
    assert!(message(&none).contains("operators is empty"));
    let config = parse(&format!("listen_unix = \"c1.sock\"\n{none}")).expect("good");
    assert_eq!(
        config.listen_unix.as_deref(),
        Some(Path::new("/etc/caplane/c1.sock"))
    );
    let long = format!("listen_unix = \"{}\"\n{none}", "x".repeat(100));
    assert!(
        message(&long).contains(":1:15: listen_unix"),
        "{}",
        message(&long)
    );
}
