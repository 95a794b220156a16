//! What a configuration may say, and how a wrong one is answered.

use super::*;

const LEAST: &str = r#"
name = "edge-1"
listen = "127.0.0.1:0"
state_dir = "state"

[controller]
addresses = ["127.0.0.1:7443"]

[credentials]
chain = "router.pem"
key = "router-key.pem"
trust = [{ domain = "caplane.local", roots = "ca.pem" }]
"#;

fn parse(text: &str) -> Result<RouterConfig, ConfigError> {
    RouterConfig::parse(Path::new("/etc/caplane/router.toml"), text)
}

/// Line, column and message of the fault of `text`.
fn fault(text: &str) -> (usize, usize, String) {
    match parse(text) {
        Err(ConfigError::Invalid {
            line,
            column,
            message,
            ..
        }) => (line, column, message),
        other => panic!("expected an invalid configuration, got {other:?}"),
    }
}

#[test]
fn the_least_configuration_takes_every_default() {
    let config = parse(LEAST).unwrap();
    assert_eq!(config.name, "edge-1");
    assert_eq!(config.admin, defaults::ADMIN.parse().unwrap());
    assert_eq!(config.workers, 1);
    assert_eq!(config.controller.server_name, "caplane-controller");
    assert_eq!(
        config.controller.uri,
        format!("spiffe://{}/controller/", config.controller.trust_domain)
    );
    assert_eq!(config.controller.trust_domain, "caplane.local");
    assert_eq!(config.state_dir, Path::new("/etc/caplane/state"));
    assert_eq!(
        config.credentials.chain,
        Path::new("/etc/caplane/router.pem")
    );
    assert_eq!(config.limits.queue_bytes_max, defaults::QUEUE_BYTES_MAX);
    assert_eq!(
        config.timers.probe_interval,
        Duration::from_millis(defaults::PROBE_INTERVAL_MS)
    );
}

#[test]
fn defaults_lie_within_their_own_ranges() {
    let text = format!(
        "{LEAST}\n[quic]\nudp_payload_bytes_max = {}\n[limits]\npeers_max = {}\nbulk_message_bytes_max = {}\nqueue_bytes_max = {}\nqueue_total_bytes_max = {}\nresolve_outstanding_max = {}\n[timers]\nidle_timeout_ms = {}\nsilence_timeout_ms = {}\nhello_timeout_ms = {}\nprobe_interval_ms = {}\nprobe_misses = {}\ndrain_period_ms = {}\nresolve_timeout_ms = {}\n",
        defaults::UDP_PAYLOAD_BYTES_MAX,
        defaults::PEERS_MAX,
        defaults::BULK_MESSAGE_BYTES_MAX,
        defaults::QUEUE_BYTES_MAX,
        defaults::QUEUE_TOTAL_BYTES_MAX,
        defaults::RESOLVE_OUTSTANDING_MAX,
        defaults::IDLE_TIMEOUT_MS,
        defaults::SILENCE_TIMEOUT_MS,
        defaults::HELLO_TIMEOUT_MS,
        defaults::PROBE_INTERVAL_MS,
        defaults::PROBE_MISSES,
        defaults::DRAIN_PERIOD_MS,
        defaults::RESOLVE_TIMEOUT_MS,
    );
    assert_eq!(parse(&text).unwrap(), parse(LEAST).unwrap());
}

#[test]
fn an_unknown_field_is_named_with_its_place() {
    let (line, column, message) = fault(&format!("{LEAST}\n[limits]\npeers = 3\n"));
    assert_eq!((line, column), (15, 1));
    assert!(message.contains("unknown field `peers`"), "{message}");
}

#[test]
fn a_syntax_error_is_placed() {
    let (line, column, _) = fault("name = \"a\nlisten = 3");
    assert_eq!((line, column), (1, 10));
}

#[test]
fn admin_refuses_what_is_not_loopback() {
    let (line, column, message) =
        fault(&LEAST.replace("state_dir", "admin = \"0.0.0.0:9464\"\nstate_dir"));
    assert_eq!((line, column), (4, 9));
    assert!(message.contains("loopback"), "{message}");
    let ok = parse(&LEAST.replace("state_dir", "admin = \"[::1]:0\"\nstate_dir"));
    assert!(ok.is_ok(), "{ok:?}");
}

#[test]
fn a_wildcard_listener_needs_an_address_to_advertise() {
    let wild = LEAST.replace("127.0.0.1:0", "0.0.0.0:4433");
    let (line, _, message) = fault(&wild);
    assert_eq!(line, 3);
    assert!(message.contains("advertise"), "{message}");
    let told = wild.replace(
        "state_dir",
        "advertise = \"edge-1.example:4433\"\nstate_dir",
    );
    let config = parse(&told).unwrap();
    assert_eq!(config.advertise.unwrap().as_str(), "edge-1.example:4433");
}

#[test]
fn values_out_of_range_say_what_is_allowed() {
    let (line, column, message) = fault(&format!("{LEAST}\n[timers]\nprobe_misses = 1\n"));
    assert_eq!((line, column), (15, 16));
    assert!(message.contains("2 to 100"), "{message}");
    for wrong in ["0", "65", "\"many\""] {
        let told = LEAST.replace("state_dir", &format!("workers = {wrong}\nstate_dir"));
        let (_, _, message) = fault(&told);
        assert!(message.contains("1 to 64"), "{message}");
    }
    let auto = LEAST.replace("state_dir", "workers = \"auto\"\nstate_dir");
    let cores = std::thread::available_parallelism().unwrap().get().min(64);
    assert_eq!(usize::from(parse(&auto).unwrap().workers), cores);
    let four = LEAST.replace("state_dir", "workers = 4\nstate_dir");
    assert_eq!(parse(&four).unwrap().workers, 4);
}

#[test]
fn trust_must_be_there_once_and_cover_the_controller() {
    let (_, _, message) = fault(&LEAST.replace(
        "trust = [{ domain = \"caplane.local\", roots = \"ca.pem\" }]",
        "trust = []",
    ));
    assert!(message.contains("trust is empty"), "{message}");
    let (_, _, message) = fault(&LEAST.replace(
        "roots = \"ca.pem\" }",
        "roots = \"ca.pem\" }, { domain = \"caplane.local\", roots = \"b.pem\" }",
    ));
    assert!(message.contains("twice"), "{message}");
    let (_, _, message) =
        fault(&LEAST.replace("addresses =", "trust_domain = \"other\"\naddresses ="));
    assert!(message.contains("has no roots"), "{message}");
}

#[test]
fn hosts_and_ports_are_checked() {
    for good in ["a:1", "10.0.0.1:7443", "[::1]:7443", "edge-1.example:0"] {
        assert!(HostPort::parse(good).is_ok(), "{good}");
    }
    for bad in ["", "a", "a:", "a:65536", ":1", "::1:7443", "[x]:1", "a b:1"] {
        assert!(HostPort::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_error_reads_as_file_line_column() {
    let error = parse("name = 3").unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("/etc/caplane/router.toml:1:8: "),
        "{error}"
    );
}

/// Every prefix and every single-byte change gets an answer, never a panic.
#[test]
fn damaged_files_never_panic() {
    for end in 0..LEAST.len() {
        let _ = parse(&LEAST[..end]);
    }
    for at in 0..LEAST.len() {
        for byte in [b'"', b'\n', b'=', b'[', 0xff] {
            let mut bytes = LEAST.as_bytes().to_vec();
            bytes[at] = byte;
            let _ = parse(&String::from_utf8_lossy(&bytes));
        }
    }
}

#[test]
fn instances_are_held_to_a_rate_only_when_one_is_named() {
    assert!(parse(LEAST).unwrap().limits.instance_rate.is_unlimited());
    let told = format!("{LEAST}\n[limits]\ninstance_messages_per_second = 500\n");
    let rate = parse(&told).unwrap().limits.instance_rate;
    assert_eq!((rate.messages_per_second, rate.bytes_per_second), (500, 0));
}

#[test]
fn sockets_and_threads_are_told_how_to_use_the_machine() {
    let io = parse(LEAST).unwrap().io;
    assert_eq!((io.agent_dscp, io.link_dscp, io.pin_workers), (0, 0, false));
    let told = format!(
        "{LEAST}\n[io]\ndriver = \"uring\"\ninterface = \"vrf-blue\"\nagent_dscp = 10\nlink_dscp = 46\nbusy_poll_us = 50\npin_workers = true\n"
    );
    let io = parse(&told).unwrap().io;
    assert_eq!(io.interface.as_deref(), Some("vrf-blue"));
    assert_eq!(
        (io.agent_dscp, io.link_dscp, io.pin_workers),
        (10, 46, true)
    );
    assert_eq!(io.driver, caplane_transport::Io::Uring);
    assert_eq!(io.busy_poll, Duration::from_micros(50));
    for (wrong, named) in [
        ("agent_dscp = 64", "agent_dscp"),
        ("link_dscp = 64", "link_dscp"),
        ("busy_poll_us = 1000000", "busy_poll_us"),
        ("interface = \"a-name-of-16-bytes\"", "interface"),
        ("interface = \"\"", "interface"),
        ("driver = \"dpdk\"", "dpdk"),
    ] {
        let (line, _, message) = fault(&format!("{LEAST}\n[io]\n{wrong}\n"));
        assert!(line > 10 && message.contains(named), "{message}");
    }
}
