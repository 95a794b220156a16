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
