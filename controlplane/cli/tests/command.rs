//! The command as a script sees it: arguments in, text or JSON and an exit
//! code out, against a fabric of the real programs.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use caplane::fabric::{Fabric, FabricConfig, Signal};
use serde_json::Value;

/// Longest any one step may take.
const PATIENCE: Duration = Duration::from_secs(60);

const CARD: &str = r#"{"name": "Teller", "description": "Changes money", "version": "1",
    "skills": [{"id": "currency_conversion", "name": "Change money", "description": "", "tags": []}]}"#;
const MUTE_CARD: &str = r#"{"name": "Asker", "description": "Asks", "version": "1", "skills": []}"#;

fn caplane(state: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_caplane"))
        .env_remove("CAPLANE_STATE")
        .env_remove("CAPLANE_CONTROLLER")
        .arg("--state")
        .arg(state)
        .args(arguments)
        .output()
        .expect("the command runs")
}

fn json(state: &Path, arguments: &[&str], schema: &str) -> Value {
    let output = caplane(state, &[arguments, &["--json"]].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    let value: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(value["schema"], schema, "{arguments:?}");
    value
}

/// Runs a command that must fail with `code`; returns what it said.
fn refused(state: &Path, arguments: &[&str], code: i32) -> String {
    let output = caplane(state, arguments);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    assert!(errors.starts_with("caplane: "), "{errors}");
    errors
}

/// Looks until `condition` holds.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::yield_now();
    }
}

/// A child that is ended, by its id, when the test ends.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn fabric(folder: &Path) -> Fabric {
    let config = FabricConfig::line(folder, 2).expect("the sibling programs are built");
    let fabric = Fabric::start(config).await.expect("the fabric starts");
    let routers = fabric.routers().map(|name| {
        (
            name.to_owned(),
            fabric.router_address(name).expect("bound").to_owned(),
        )
    });
    let file = caplane::settings::FabricFile {
        schema: caplane::settings::FABRIC_SCHEMA.to_owned(),
        pid: std::process::id(),
        controller: fabric.northbound_address().expect("bound").to_owned(),
        // Tests ask as the operator whose certificate lies there, unless they say otherwise.
        controller_local: None,
        routers: routers.collect(),
        trust_domain: fabric.authority().trust_domain().to_owned(),
    };
    let text = serde_json::to_string(&file).expect("JSON");
    std::fs::write(folder.join(caplane::settings::FABRIC_FILE), text).expect("written");
    fabric
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("written");
    path.to_string_lossy().into_owned()
}

/// Nobody is attached: what is explained is a drop, whoever sends from wherever.
fn explanations(state: &Path, uri: &str) {
    let explain = ["explain", "--as", "teller", "convert currency"];
    let told = refused(state, &explain, 2);
    assert!(told.contains("is attached nowhere"), "{told}");
    let elsewhere = [&explain[..], &["--router", "r1", "--without-router", "r2"]].concat();
    let told = json(state, &elsewhere, "caplane.explanation/1");
    assert_eq!(
        told["resolved"][0]["name"],
        "finance/currency/currency_conversion"
    );
    assert!(
        told["assumed"][0]
            .as_str()
            .is_some_and(|text| text.contains(uri))
    );
    for when in ["now", "while_gone", "after"] {
        // It serves what it asks for, and is attached in thought.
        assert_eq!(told[when]["outcome"], "delivered", "{told}");
        assert_eq!(told[when]["hops"][0]["router"], "r1", "{told}");
    }
    let class = [
        "explain",
        "--as",
        uri,
        "weather/weather_forecast",
        "--router",
        "r2",
    ];
    let told = json(state, &class, "caplane.explanation/1");
    assert_eq!(told["now"]["outcome"], "dropped: no_route at r2");
    let unknown = ["explain", "--as", uri, "weather/mars", "--router", "r2"];
    refused(state, &unknown, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn entities_are_set_listed_and_taken_back() {
    let folder = tempfile::tempdir().expect("folder");
    let state = folder.path();
    let _fabric = fabric(state).await;
    let card = write(state, "card.json", CARD);
    let uri = "spiffe://caplane.local/tenant/shared/agent/teller";

    let agent = json(
        state,
        &["agent", "register", "--name", "teller", "--card", &card],
        "caplane.agent/1",
    );
    assert_eq!(agent["agent"]["uri"], uri);
    assert_eq!(
        agent["agent"]["skills"][0]["class_path"],
        "finance/currency/currency_conversion"
    );
    assert_eq!(agent["agent"]["skills"][0]["granted"], true);
    refused(
        state,
        &["agent", "register", "--name", "teller", "--card", &card],
        4,
    );
    assert_eq!(
        json(state, &["agent", "list"], "caplane.agents/1")["agents"][0]["uri"],
        uri
    );
    json(state, &["agent", "show", uri], "caplane.agent/1");

    let found = json(
        state,
        &["class", "find", "convert currency"],
        "caplane.candidates/1",
    );
    assert_eq!(
        found["candidates"][0]["name"],
        "finance/currency/currency_conversion"
    );
    let found = json(
        state,
        &["class", "find", "book a hotel"],
        "caplane.candidates/1",
    );
    assert_eq!(
        found["candidates"][0]["name"],
        "travel/accommodation/hotel_booking"
    );
    let classes = json(
        state,
        &["class", "list", "--under", "weather"],
        "caplane.classes/1",
    );
    assert_eq!(classes["classes"][0]["path"], "weather");
    refused(state, &["class", "list", "--under", "weather/mars"], 3);
    refused(state, &["class", "find", "zzz qqq"], 3);

    let routers = json(state, &["router", "list"], "caplane.routers/1");
    assert_eq!(routers["routers"].as_array().map(Vec::len), Some(2));
    json(state, &["router", "add", "r9"], "caplane.router/1");
    json(
        state,
        &["link", "add", "r2", "r9", "--cost", "7"],
        "caplane.link/1",
    );
    let links = json(state, &["link", "list"], "caplane.links/1");
    assert_eq!(links["links"][1]["cost"], 7);
    refused(state, &["link", "add", "r9", "r2"], 4);
    json(state, &["link", "remove", "r9", "r2"], "caplane.link/1");
    refused(state, &["link", "remove", "r9", "r2"], 3);

    json(state, &["tenant", "add", "acme"], "caplane.tenant/1");
    json(state, &["tenant", "add", "zeta"], "caplane.tenant/1");
    json(
        state,
        &["permission", "add", "acme", "zeta", "--class", "travel"],
        "caplane.permission/1",
    );
    let permissions = json(state, &["permission", "list"], "caplane.permissions/1");
    assert_eq!(permissions["permissions"][0]["class_path"], "travel");
    json(
        state,
        &["permission", "remove", "acme", "zeta", "--class", "travel"],
        "caplane.permission/1",
    );
    json(state, &["tenant", "remove", "zeta"], "caplane.tenant/1");

    json(
        state,
        &["grant", "add", uri, "travel", "--weight", "5"],
        "caplane.grant/1",
    );
    assert_eq!(
        json(state, &["grant", "list"], "caplane.grants/1")["grants"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    json(
        state,
        &["grant", "remove", uri, "travel"],
        "caplane.grant/1",
    );
    explanations(state, uri);
    let by_id = json(state, &["resolve", uri], "caplane.candidates/1");
    assert_eq!(by_id["candidates"][0]["matched_by"], "id");

    json(
        state,
        &["agent", "withdraw", "teller"],
        "caplane.withdrawn/1",
    );
    refused(state, &["agent", "show", "teller"], 3);
    refused(state, &["agent", "withdraw", "teller"], 3);
}

/// Whether the first skill of an agent is granted, as an answer says.
fn is_granted(agent: &Value) -> bool {
    agent["agent"]["skills"][0]["granted"] == true
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_registered_anew_is_granted_also_on_restored_state() {
    let folder = tempfile::tempdir().expect("folder");
    let state = folder.path();
    let mut fabric = fabric(state).await;
    let card = write(state, "card.json", CARD);
    let anew = [
        "agent",
        "register",
        "--name",
        "teller",
        "--card",
        &card,
        "--replace",
    ];
    let uri = "spiffe://caplane.local/tenant/shared/agent/teller";
    let agent = |arguments: &[&str]| json(state, arguments, "caplane.agent/1");

    assert!(is_granted(&agent(&anew)), "never there before");
    fabric.stop("c1", Signal::KILL).await.expect("stops");
    fabric.restart("c1").await.expect("starts again");
    assert!(is_granted(&agent(&["agent", "show", "teller"])), "restored");
    assert!(is_granted(&agent(&anew)), "there already");
    json(
        state,
        &["agent", "withdraw", "teller"],
        "caplane.withdrawn/1",
    );
    fabric.stop("c1", Signal::KILL).await.expect("stops");
    fabric.restart("c1").await.expect("starts again");
    assert!(is_granted(&agent(&anew)), "withdrawn with its grants");

    // What an operator granted or not stays as it is.
    json(state, &["grant", "add", uri, "finance"], "caplane.grant/1");
    json(state, &["grant", "remove", uri, "*"], "caplane.grant/1");
    assert!(is_granted(&agent(&anew)));
    let grants = json(state, &["grant", "list"], "caplane.grants/1");
    assert_eq!(
        grants["grants"].as_array().map(Vec::len),
        Some(1),
        "{grants}"
    );
    assert_eq!(grants["grants"][0]["class_path"], "finance");
    json(
        state,
        &["grant", "remove", uri, "finance"],
        "caplane.grant/1",
    );
    assert!(!is_granted(&agent(&[&anew[..], &["--no-grant"]].concat())));
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_and_policers_are_set_listed_named_and_taken_back() {
    let folder = tempfile::tempdir().expect("folder");
    let state = folder.path();
    let _fabric = fabric(state).await;
    let card = write(state, "card.json", &CARD.replace("\"1\"", "\"2.10\""));
    let class = "finance/currency";
    let limit = format!("shared:{class}=5,4096");
    let slow = [
        "policer",
        "add",
        "slow",
        "--messages",
        "100",
        "--class",
        &limit,
    ];
    let added = json(state, &slow, "caplane.policer/1");
    assert_eq!(added["policer"]["rate"]["messages_per_second"], 100);
    assert_eq!(
        added["policer"]["classes"][0]["rate"]["bytes_per_second"],
        4_096
    );
    refused(state, &slow, 4);
    refused(state, &["policer", "add", "x", "--class", "finance=5"], 2);
    json(
        state,
        &["tenant", "add", "acme", "--policer", "slow"],
        "caplane.tenant/1",
    );
    let kiosk = [
        "policy",
        "add",
        "kiosk",
        "--only",
        "--allow",
        "shared:finance",
        "--allow",
        "acme",
        "--policer",
        "slow",
        "--priority-max",
        "4",
    ];
    let added = json(state, &kiosk, "caplane.policy/1");
    assert_eq!(added["policy"]["base"], "NOTHING");
    assert_eq!(added["policy"]["allow"][0]["tenant"], "acme", "in order");
    let register = [
        "agent",
        "register",
        "--name",
        "teller",
        "--card",
        &card,
        "--policy",
        "kiosk",
        "--locality",
        "eu/de",
        "--cost",
        "3",
    ];
    let agent = json(state, &register, "caplane.agent/1");
    assert_eq!(agent["agent"]["policy"], "kiosk");
    refused(state, &["policy", "remove", "kiosk"], 2);
    refused(state, &["policer", "remove", "slow"], 2);
    let all = json(state, &["policy", "list"], "caplane.policies/1");
    assert_eq!(all["policies"][0]["policer"], "slow");
    let shown = caplane(state, &["policer", "list"]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        text.contains("shared:finance/currency 5 messages/s, 4096 bytes/s"),
        "{text}"
    );

    // Asked for agents, Resolve tells who they are and where they can be reached.
    let found = |more: &[&str]| {
        let resolve = ["resolve", class, "--agents"];
        let arguments = [&resolve[..], more].concat();
        json(state, &arguments, "caplane.candidates/1")["candidates"][0].clone()
    };
    let uri = "spiffe://caplane.local/tenant/shared/agent/teller";
    let one = found(&[
        "--locality",
        "eu",
        "--version-min",
        "2.9",
        "--cost-max",
        "3",
    ]);
    assert_eq!(
        (&one["name"], &one["version"]),
        (&uri.into(), &"2.10".into())
    );
    assert!(
        one["provenance"]
            .as_str()
            .is_some_and(|why| why.contains("currency_conversion"))
    );
    refused(state, &["resolve", class, "--version-min", "3"], 3);
    refused(state, &["resolve", class, "--serving"], 3);

    // Out of service it is no candidate.
    let out = ["grant", "add", uri, "*", "--out-of-service", "--replace"];
    json(state, &out, "caplane.grant/1");
    refused(state, &["resolve", class, "--agents"], 3);
    json(
        state,
        &["agent", "withdraw", "teller"],
        "caplane.withdrawn/1",
    );
    json(state, &["policy", "remove", "kiosk"], "caplane.policy/1");
    json(
        state,
        &["tenant", "add", "acme", "--replace"],
        "caplane.tenant/1",
    );
    json(state, &["policer", "remove", "slow"], "caplane.policer/1");
}

#[tokio::test(flavor = "multi_thread")]
async fn overrides_and_groups_are_set_listed_and_taken_back() {
    let folder = tempfile::tempdir().expect("folder");
    let state = folder.path();
    let _fabric = fabric(state).await;
    let odd = CARD
        .replace("currency_conversion", "zzqx")
        .replace("Change money", "Zzqx");
    let card = write(state, "card.json", &odd);
    let uri = "spiffe://caplane.local/tenant/shared/agent/teller";
    let register = ["agent", "register", "--name", "teller", "--card", &card];
    let waiting = caplane(state, &register);
    let text = String::from_utf8_lossy(&waiting.stdout).into_owned();
    assert!(text.contains("caplane override add"), "{text}");

    let class = "finance/currency/currency_conversion";
    let add = ["override", "add", uri, "zzqx", class];
    let told = json(state, &add, "caplane.override/1");
    assert_eq!(told["override"]["class_path"], class);
    let shown = json(state, &["agent", "show", uri], "caplane.agent/1");
    assert_eq!(shown["agent"]["skills"][0]["class_path"], class);
    assert_eq!(shown["agent"]["skills"][0]["matched_by"], "override");
    assert!(is_granted(&shown), "{shown}");
    refused(state, &add, 4);
    let rates = "finance/currency/exchange_rates";
    json(
        state,
        &["override", "add", uri, "zzqx", rates, "--replace"],
        "caplane.override/1",
    );
    let all = json(state, &["override", "list"], "caplane.overrides/1");
    assert_eq!(all["overrides"][0]["class_path"], rates);
    let none = json(
        state,
        &["override", "list", "--agent", "spiffe://a/b"],
        "caplane.overrides/1",
    );
    assert_eq!(none["overrides"].as_array().map(Vec::len), Some(0));
    let unknown = refused(state, &["override", "add", uri, "nosuch", class], 3);
    assert!(unknown.contains("its skills are: zzqx"), "{unknown}");
    json(
        state,
        &["override", "remove", uri, "zzqx"],
        "caplane.override/1",
    );
    let shown = json(state, &["agent", "show", uri], "caplane.agent/1");
    assert_eq!(
        shown["agent"]["skills"][0]["class_path"], "",
        "it waits again"
    );
    let gone = refused(state, &["override", "remove", uri, "zzqx"], 3);
    assert!(gone.contains("caplane override list"), "{gone}");

    let made = json(
        state,
        &["group", "add", "tellers", "--agent", uri],
        "caplane.group/1",
    );
    let label = made["group"]["label"].as_str().expect("a label").to_owned();
    assert!(label.starts_with("group:"), "{label}");
    refused(state, &["group", "add", "tellers"], 4);
    let emptied = json(
        state,
        &["group", "add", "tellers", "--replace"],
        "caplane.group/1",
    );
    assert_eq!(emptied["group"]["label"], label.as_str(), "its label stays");
    let groups = json(state, &["group", "list"], "caplane.groups/1");
    assert_eq!(
        groups["groups"][0]["agent_uris"].as_array().map(Vec::len),
        Some(0)
    );
    json(state, &["group", "remove", "tellers"], "caplane.group/1");
    let gone = refused(state, &["group", "remove", "tellers"], 3);
    assert!(gone.contains("caplane group list"), "{gone}");
    for noun in ["override", "group"] {
        let help = caplane(state, &[noun, "add", "--help"]);
        let help = String::from_utf8_lossy(&help.stdout).into_owned();
        assert!(help.contains(&format!("caplane {noun} add")), "{help}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_what_to_do_and_have_their_exit_codes() {
    let folder = tempfile::tempdir().expect("folder");
    let state = folder.path();
    let error = refused(state, &["agent", "list"], 2);
    assert!(error.contains("start one with `caplane up`"), "{error}");
    let _fabric = fabric(state).await;
    let broken = write(state, "broken.json", "{\n \"name\": 3}");
    let error = refused(
        state,
        &["agent", "register", "--name", "x", "--card", &broken],
        2,
    );
    assert!(
        error.contains("2:10: name: invalid type: integer `3`"),
        "{error}"
    );
    let error = refused(
        state,
        &[
            "agent",
            "register",
            "--name",
            "x",
            "--card",
            "/nowhere.json",
        ],
        2,
    );
    assert!(
        error.contains("cannot read the agent card /nowhere.json"),
        "{error}"
    );
    let error = refused(state, &["agent", "list", "--controller", "127.0.0.1:1"], 6);
    assert!(
        error.contains("cannot reach the controller at 127.0.0.1:1"),
        "{error}"
    );
    let error = refused(state, &["listen", "--as", "nobody"], 2);
    assert!(error.contains("caplane pki issue agent nobody"), "{error}");
    // A router's certificate is a good one, and no operator's.
    let (chain, key) = (state.join("router-r1.pem"), state.join("router-r1-key.pem"));
    let (chain, key) = (chain.to_string_lossy(), key.to_string_lossy());
    refused(
        state,
        &["agent", "list", "--chain", &chain, "--key", &key],
        5,
    );
    // Wrong arguments are clap's: code 2, and the usage.
    let output = caplane(state, &["link", "add", "r1"]);
    assert_eq!(output.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_speaks_as_an_agent() {
    let folder = tempfile::tempdir().expect("folder");
    let state = folder.path();
    let _fabric = fabric(state).await;
    for (name, card) in [("teller", CARD), ("asker", MUTE_CARD)] {
        json(
            state,
            &["pki", "issue", "agent", name],
            "caplane.certificate/1",
        );
        let card = write(state, "card.json", card);
        json(
            state,
            &["agent", "register", "--name", name, "--card", &card],
            "caplane.agent/1",
        );
    }
    let error = refused(
        state,
        &[
            "request",
            "convert currency",
            "--as",
            "asker",
            "--router",
            "r1",
            "--body",
            "x",
            "--timeout",
            "2",
        ],
        7,
    );
    assert!(error.contains("NO_ROUTE"), "{error}");

    let listening = Command::new(env!("CARGO_BIN_EXE_caplane"))
        .arg("--state")
        .arg(state)
        .args([
            "listen",
            "--as",
            "teller",
            "--router",
            "r2",
            "--instance",
            "one",
            "--reply",
            "pong",
            "--count",
            "3",
            "--json",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("listens");
    let mut listening = Ended(listening);
    wait_until("the listener to be a member", || {
        let found = json(
            state,
            &["class", "find", "convert currency"],
            "caplane.candidates/1",
        );
        found["candidates"][0]["members"] == 1
    });
    let say = [
        "--as",
        "asker",
        "--router",
        "r1",
        "--instance",
        "me",
        "--body",
    ];
    let reply = json(
        state,
        &[&["request", "convert currency"], &say[..], &["ping"]].concat(),
        "caplane.reply/1",
    );
    assert_eq!(
        (&reply["body"], &reply["name"]),
        (
            &Value::from("pong"),
            &Value::from("finance/currency/currency_conversion")
        )
    );
    let sent = json(
        state,
        &[&["send", "convert currency"], &say[..], &["only this"]].concat(),
        "caplane.sent/1",
    );
    assert_eq!(sent["receipt"]["from"], reply["from"]);
    let body = write(state, "body.bin", &"x".repeat(200_000));
    let from_file = format!("@{body}");
    let sent = json(
        state,
        &[&["send", "class:111.1.1"], &say[..], &[&from_file]].concat(),
        "caplane.sent/1",
    );
    assert_eq!(sent["bytes"], 200_000);

    let mut lines = String::new();
    let mut out = listening.0.stdout.take().expect("piped");
    std::io::Read::read_to_string(&mut out, &mut lines).expect("text");
    assert!(listening.0.wait().expect("ended").success());
    let messages: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(messages.len(), 3);
    assert_eq!(messages[0]["body"], "ping");
    assert_eq!(
        (&messages[1]["body"], &messages[1]["carried_by"]),
        (&Value::from("only this"), &Value::from("lane"))
    );
    assert_eq!(messages[2]["carried_by"], "bulk");
}

#[test]
fn certificates_are_made_from_nothing_and_never_replaced_unasked() {
    let folder = tempfile::tempdir().expect("folder");
    let state = folder.path().join("pki");
    let error = refused(&state, &["pki", "issue", "router", "r1"], 1);
    assert!(
        error.contains("cannot read ") && error.contains("ca.pem"),
        "{error}"
    );
    json(
        &state,
        &["pki", "init", "--trust-domain", "example.org"],
        "caplane.authority/1",
    );
    refused(&state, &["pki", "init"], 4);
    let issued = json(
        &state,
        &[
            "pki", "issue", "agent", "fx", "--tenant", "acme", "--days", "1",
        ],
        "caplane.certificate/1",
    );
    assert_eq!(issued["uri"], "spiffe://example.org/tenant/acme/agent/fx");
    refused(&state, &["pki", "issue", "agent", "fx"], 4);
    json(
        &state,
        &["pki", "issue", "agent", "fx", "--force"],
        "caplane.certificate/1",
    );
    refused(&state, &["pki", "issue", "agent", "a/b"], 2);
}

#[test]
fn up_once_sends_checks_and_ends() {
    let folder = tempfile::tempdir().expect("folder");
    let state = folder.path().join("up");
    let result = json(
        &state,
        &[
            "up",
            "--once",
            "--messages",
            "600",
            "--datagrams",
            "100",
            "--routers",
            "3",
        ],
        "caplane.up/1",
    );
    for (key, expected) in [
        ("routers", 3),
        ("agents", 4),
        ("sent", 600),
        ("delivered", 600),
        ("duplicated", 0),
        ("corrupted", 0),
        ("out_of_order", 0),
        ("drops", 0),
    ] {
        assert_eq!(result[key], expected, "{key} of {result:#}");
    }
    assert_eq!(result["datagrams"]["sent"], 100);
    assert_eq!(result["hops"], 3.0);
    let latency = &result["latency_us"];
    assert!(
        latency["p50"].as_u64() <= latency["p99"].as_u64()
            && latency["p99"].as_u64() <= latency["max"].as_u64()
    );
    for key in [
        "classes",
        "router_cpu_ns_per_message",
        "copied_bytes",
        "forwarded_bytes",
        "generation",
    ] {
        assert!(result[key].is_number(), "{key} of {result:#}");
    }
    let copied = result["copied_bytes"].as_f64().expect("a number");
    assert!(
        copied < 0.01 * result["forwarded_bytes"].as_f64().expect("a number"),
        "{result:#}"
    );
    assert!(
        !state.join("fabric.json").exists(),
        "nobody should look for it any more"
    );
}

/// Process ids a fabric's programs wrote into their state folders.
fn pids(state: &Path, names: &[&str]) -> Vec<u64> {
    let read = |name: &&str| {
        let text = std::fs::read_to_string(state.join(name).join("addresses.json")).ok()?;
        serde_json::from_str::<Value>(&text).ok()?["pid"].as_u64()
    };
    names.iter().filter_map(read).collect()
}

fn runs(pid: u64) -> bool {
    // A zombie has ended; only its parent has not looked yet.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

#[test]
fn children_end_when_up_is_killed() {
    let folder = tempfile::tempdir().expect("folder");
    let state: PathBuf = folder.path().join("up");
    let up = Command::new(env!("CARGO_BIN_EXE_caplane"))
        .arg("--state")
        .arg(&state)
        .args(["up", "--rate", "10"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let mut up = Ended(up);
    wait_until("the fabric to be announced", || {
        state.join("fabric.json").exists()
    });
    let children = pids(&state, &["r1", "r2"]);
    assert_eq!(children.len(), 2);
    assert!(children.iter().all(|pid| runs(*pid)));
    let error = refused(&state, &["up"], 4);
    assert!(error.contains("another `caplane up` runs in"), "{error}");
    up.0.kill().expect("killed");
    up.0.wait().expect("gone");
    wait_until("the children to end", || {
        !children.iter().any(|pid| runs(*pid))
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_stop_and_come_back_at_their_addresses() {
    let folder = tempfile::tempdir().expect("folder");
    let mut fabric = fabric(folder.path()).await;
    let address = fabric.router_address("r2").expect("bound").to_owned();
    for signal in [Signal::TERM, Signal::KILL] {
        fabric.stop("r2", signal).await.expect("stops");
        fabric.check_running().expect("the others run");
        fabric.restart("r2").await.expect("starts again");
        assert_eq!(fabric.router_address("r2").expect("bound"), address);
        fabric.wait_live().await.expect("holds the newest table");
        fabric.wait_links().await.expect("hears its neighbour");
    }
    fabric.stop("c1", Signal::KILL).await.expect("stops");
    let metrics = fabric
        .metrics("r1")
        .await
        .expect("a router needs no controller to answer");
    assert!(metrics.sum("router_neighbours") >= 1.0);
    fabric.restart("c1").await.expect("starts again");
    fabric
        .wait_live()
        .await
        .expect("the routers came back to it");
    assert!(fabric.cpu_time("r1").is_ok() && fabric.pid("c1").is_ok());
    let error = fabric.restart("c1").await.expect_err("it runs").to_string();
    assert_eq!(error, "c1: is running; stop it first");
    let error = fabric
        .stop("r7", Signal::TERM)
        .await
        .expect_err("unknown")
        .to_string();
    assert_eq!(error, "r7: is no child of this fabric");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_tried_compared_and_repeated_without_harm() {
    let folder = tempfile::tempdir().expect("folder");
    let state = folder.path();
    let _fabric = fabric(state).await;
    let card = write(state, "card.json", CARD);
    let register = ["agent", "register", "--name", "teller", "--card", &card];
    let tried = json(
        state,
        &[&register[..], &["--dry-run"]].concat(),
        "caplane.agent/1",
    );
    assert_eq!(tried["dry_run"], true);
    assert_eq!(tried["diff"][0]["router"], "", "the same at every router");
    let entries = tried["diff"][0]["entries"].as_array().expect("spelt out");
    let uri = "spiffe://caplane.local/tenant/shared/agent/teller";
    assert_eq!(entries[0]["entry"], format!("identity {uri}"));
    assert_eq!(entries[0]["before"], Value::Null);
    assert_eq!(entries[0]["after"]["uri"], uri);
    refused(state, &["agent", "show", uri], 3);

    let added = json(state, &["tenant", "add", "t1"], "caplane.tenant/1");
    let generation = added["generation"].to_string();
    let expecting = ["--expect-generation", &generation];
    json(
        state,
        &[&["tenant", "add", "t2"][..], &expecting].concat(),
        "caplane.tenant/1",
    );
    let told = refused(
        state,
        &[&["tenant", "add", "t3"][..], &expecting].concat(),
        9,
    );
    assert!(
        told.contains("a Write changed something in generation"),
        "{told}"
    );

    let once = ["tenant", "add", "t4", "--idempotency-key", "k"];
    let first = json(state, &once, "caplane.tenant/1");
    let again = json(state, &once, "caplane.tenant/1");
    assert_eq!(again["repeated_request"], true);
    assert_eq!(again["generation"], first["generation"]);
    let output = caplane(state, &once);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("by an earlier request with this key"),
        "{text}"
    );

    let output = caplane(state, &["tenant", "remove", "t4", "--dry-run"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("nothing was changed"), "{text}");
    let told = refused(state, &["tenant", "list", "--dry-run"], 2);
    assert!(told.contains("changes nothing"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_what_would_be_accepted() {
    let folder = tempfile::tempdir().expect("folder");
    let state = folder.path();
    let _fabric = fabric(state).await;
    let add = ["link", "add", "r1", "r9"];
    let told = refused(state, &add, 3);
    assert!(told.contains("\n  accepted: r1, r2\n"), "{told}");
    let output = caplane(state, &[&add[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(3));
    assert!(output.stdout.is_empty(), "results only");
    let error: Value = serde_json::from_slice(&output.stderr).expect("one JSON object");
    assert_eq!(error["schema"], "caplane.error/1");
    assert_eq!(error["exit"], 3);
    assert_eq!(error["faults"][0]["field"], "updates[0].link.b");
    assert_eq!(error["faults"][0]["value"], "r9");
    assert_eq!(
        error["faults"][0]["accepted"],
        serde_json::json!(["r1", "r2"])
    );
    assert_eq!(error["faults"][0]["update_index"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_wait_to_be_confirmed_and_are_taken_back() {
    let folder = tempfile::tempdir().expect("folder");
    let state = folder.path();
    let _fabric = fabric(state).await;
    let within = ["--confirm-within", "300"];
    let add = |name| [&["tenant", "add", name][..], &within].concat();
    let keyed = |name| [&add(name)[..], &["--idempotency-key", name]].concat();
    let added = json(state, &keyed("t1"), "caplane.tenant/1");
    assert_eq!(added["pending"]["state"], "waiting");
    let id = added["pending"]["id"].as_str().expect("an id").to_owned();
    let error = refused(state, &add("t2"), 2);
    assert!(
        error.contains("waits already, one may at a time"),
        "{error}"
    );
    let error = refused(state, &["tenant", "remove", "t1"], 2);
    assert!(
        error.contains(&format!("caplane commit confirm {id}")),
        "{error}"
    );
    json(
        state,
        &["commit", "extend", &id, "--for", "60"],
        "caplane.commit/1",
    );
    let ended = json(state, &["commit", "cancel", &id], "caplane.commit/1");
    assert_eq!(ended["state"], "cancelled");
    refused(state, &["tenant", "remove", "t1"], 3);
    // Asked once more it is not done again, and does not hold.
    let error = refused(state, &keyed("t1"), 1);
    assert!(error.contains("does not hold: cancelled by"), "{error}");

    let added = json(state, &keyed("t3"), "caplane.tenant/1");
    let id = added["pending"]["id"].as_str().expect("an id").to_owned();
    let again = json(state, &keyed("t3"), "caplane.tenant/1");
    assert_eq!(again["pending"], added["pending"]);
    json(state, &["commit", "confirm", &id], "caplane.commit/1");
    let again = caplane(state, &keyed("t3"));
    let told = String::from_utf8_lossy(&again.stdout);
    assert!(
        told.contains(&format!("commit {id}: confirmed by ")),
        "{told}"
    );
    json(state, &["tenant", "remove", "t3"], "caplane.tenant/1");
    let all = json(state, &["commit", "list"], "caplane.commits/1");
    let states: Vec<&str> = all["commits"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|commit| commit["state"].as_str())
        .collect();
    assert_eq!(states, ["cancelled", "confirmed"]);
    refused(state, &["commit", "confirm", "99999"], 3);
    refused(state, &["tenant", "list", "--confirm-within", "5"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_followed_to_the_routers() {
    let folder = tempfile::tempdir().expect("folder");
    let state = folder.path();
    let mut fabric = fabric(state).await;
    let card = write(state, "card.json", CARD);
    let register = [
        "agent",
        "register",
        "--name",
        "teller",
        "--card",
        &card,
        "--wait-live",
        "20",
    ];
    let added = json(state, &register, "caplane.agent/1");
    let rollout = &added["rollout"];
    assert_eq!(rollout["generation"], added["generation"]);
    assert_eq!(
        (&rollout["live"], &rollout["registered"]),
        (&2.into(), &2.into()),
        "{rollout}"
    );
    fabric.wait_live().await.expect("it is so");
    let leads = json(state, &["status"], "caplane.status/1");
    assert_eq!(
        (&leads["leading"], &leads["leader"]["name"]),
        (&true.into(), &leads["name"]),
        "{leads}"
    );
    assert_eq!(leads["store"], "redb");
    let status = json(state, &["rollout", "status"], "caplane.rollout/1");
    assert!(status["generation"].as_u64() >= added["generation"].as_u64());
    let generation = added["generation"].to_string();
    let shown = json(
        state,
        &["generation", "show", &generation],
        "caplane.rollout/1",
    );
    assert_eq!(
        shown["origins"][0]["who"],
        "spiffe://caplane.local/operator/admin"
    );
    for router in shown["routers"].as_array().expect("a list") {
        assert_eq!(router["state"], "live");
        assert!(
            router["took_us"].as_u64() >= router["applied_us"].as_u64(),
            "{router}"
        );
    }
    refused(state, &["generation", "show", "999999"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_watched() {
    let folder = tempfile::tempdir().expect("folder");
    let state = folder.path();
    let _fabric = fabric(state).await;
    // Ends by itself, once everything has been told: there is one tenant.
    let first = ["watch", "tenant", "--initial", "--count", "1", "--json"];
    let output = caplane(state, &first);
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = told.lines().map(serde_json::from_str);
    let told: Vec<Value> = told.collect::<Result<_, _>>().expect("messages");
    let [changes, synced] = &told[..] else {
        panic!("two messages: {told:?}");
    };
    assert_eq!(changes["schema"], "caplane.watch/1");
    assert_eq!(changes["event"], "changes");
    assert_eq!(changes["changes"][0]["key"], "shared");
    assert_eq!(changes["resume"], "", "not everything was told yet");
    assert_eq!(synced["event"], "synced");
    let resume = synced["resume"].as_str().expect("a token").to_owned();

    json(state, &["tenant", "add", "t1"], "caplane.tenant/1");
    json(state, &["tenant", "add", "t2"], "caplane.tenant/1");
    json(state, &["tenant", "remove", "t2"], "caplane.tenant/1");
    let on = ["watch", "tenant", "--resume", &resume, "--count", "1"];
    let output = caplane(state, &on);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text, "+ tenant t1\n- tenant t2\n");

    let out = state.join("watched");
    let file = std::fs::File::create(&out).expect("a file");
    let mut watching = Ended(
        Command::new(env!("CARGO_BIN_EXE_caplane"))
            .arg("--state")
            .arg(state)
            .args(["watch", "tenant", "--count", "1"])
            .stdout(file)
            .spawn()
            .expect("the command runs"),
    );
    let text = || std::fs::read_to_string(&out).expect("text");
    wait_until("the watch to begin", || text().starts_with("= up to "));
    json(state, &["tenant", "remove", "t1"], "caplane.tenant/1");
    wait_until("the watch to end", || {
        watching.0.try_wait().expect("our child").is_some()
    });
    assert!(text().ends_with("\n- tenant t1\n"), "{}", text());

    let error = refused(state, &["watch", "--resume", "other:1:0"], 1);
    assert!(error.contains("watch again with --initial"), "{error}");
    refused(state, &["watch", "--resume", "nonsense"], 2);
    let empty = caplane(state, &["watch", "--resume", ""]);
    assert_eq!(empty.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_made_true_and_compared() {
    let folder = tempfile::tempdir().expect("folder");
    let state = folder.path();
    let _fabric = fabric(state).await;
    write(state, "teller.json", CARD);
    let text = r#"
[[tenant]]
name = "acme"
[[agent]]
agent = "teller"
tenant = ""
card = "teller.json"
weight = 0
[[agent]]
agent = "desk"
tenant = "acme"
[[grant]]
agent = "teller"
class = "*"
[[group]]
name = "tellers"
tenant = ""
agents = ["teller"]
[[link]]
a = "r1"
b = "r2"
cost = 0
"#;
    let file = write(state, "fabric.toml", text);
    let differs = |arguments: &[&str]| {
        let output = caplane(state, &[&["diff", "-f", &file], arguments].concat());
        assert_eq!(output.status.code(), Some(10), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let told = differs(&[]);
    let uri = "spiffe://caplane.local/tenant/shared/agent/teller";
    assert!(
        told.starts_with("+ tenant acme\n+ agent spiffe://"),
        "{told}"
    );
    assert!(
        told.contains(&format!("+ grant {uri} *\n+ group tellers\n")),
        "{told}"
    );
    assert!(
        told.contains("every router: "),
        "what routers would get: {told}"
    );
    let told: Value = serde_json::from_str(&differs(&["--json"])).expect("JSON");
    assert_eq!(told["schema"], "caplane.diff/1");
    assert_eq!(told["changes"].as_array().map(Vec::len), Some(5));
    refused(state, &["tenant", "remove", "acme"], 3);

    let apply = ["apply", "-f", &file];
    let tried = json(
        state,
        &[&apply[..], &["--dry-run"]].concat(),
        "caplane.applied/1",
    );
    assert_eq!(tried["dry_run"], true);
    let late = [&apply[..], &["--expect-generation", "0"]].concat();
    refused(state, &late, 9);
    let applied = json(
        state,
        &[&apply[..], &["--wait-live", "20"]].concat(),
        "caplane.applied/1",
    );
    assert_eq!(applied["changes"][0]["action"], "insert");
    assert_eq!(applied["rollout"]["live"], 2);
    let shown = json(state, &["agent", "show", "teller"], "caplane.agent/1");
    assert_eq!(shown["agent"]["skills"][0]["granted"], true);
    // Once more: it is so, also what is 0 or empty, for the default.
    let again = json(state, &apply, "caplane.applied/1");
    assert_eq!(again["changes"], Value::Array(Vec::new()));
    assert_eq!(
        json(state, &["diff", "-f", &file], "caplane.diff/1")["changes"],
        again["changes"]
    );

    let text = text.replace("tenant = \"acme\"\n", "tenant = \"acme\"\nweight = 7\n");
    let (text, _) = text.split_once("[[grant]]").expect("there");
    write(state, "fabric.toml", text);
    json(
        state,
        &[
            "agent",
            "register",
            "--name",
            "extra",
            "--card",
            &write(state, "mute.json", MUTE_CARD),
        ],
        "caplane.agent/1",
    );
    let told = differs(&[]);
    assert!(
        told.starts_with("~ agent spiffe://caplane.local/tenant/acme/agent/desk (weight)\n"),
        "{told}"
    );
    let applied = json(
        state,
        &[&apply[..], &["--prune"]].concat(),
        "caplane.applied/1",
    );
    let changes = applied["changes"].as_array().expect("a list");
    let words: Vec<_> = changes
        .iter()
        .map(|change| (change["action"].as_str(), change["kind"].as_str()))
        .collect();
    // It has no say in groups and grants any more, but for grants of an agent that goes.
    assert_eq!(
        words,
        [
            (Some("delete"), Some("agent")),
            (Some("modify"), Some("agent"))
        ]
    );
    refused(state, &["agent", "show", "extra"], 3);
    let groups = json(state, &["group", "list"], "caplane.groups/1");
    assert_eq!(groups["groups"].as_array().map(Vec::len), Some(1));

    write(state, "fabric.toml", "[[tenant]]\nname = \"a b\"");
    let error = refused(state, &apply, 2);
    assert!(error.contains("updates[0].tenant.name"), "{error}");
    write(state, "fabric.toml", "[[tenant]]\nnam = \"x\"");
    let error = refused(state, &apply, 2);
    assert!(error.contains("fabric.toml:2:1: "), "{error}");
    refused(state, &["diff", "-f", &file, "--dry-run"], 2);
}

#[test]
fn shells_and_man_take_what_is_made_for_them() {
    let folder = tempfile::tempdir().expect("folder");
    let script = caplane(folder.path(), &["completions", "bash"]);
    assert!(script.status.success(), "{script:?}");
    let path = folder.path().join("caplane.bash");
    std::fs::write(&path, &script.stdout).expect("written");
    // The shell itself: it completes the start of a command's name.
    let ask = "source \"$0\" && COMP_WORDS=(caplane roll) COMP_CWORD=1 && _caplane caplane roll caplane && echo \"${COMPREPLY[*]}\"";
    let told = Command::new("bash")
        .args(["-c", ask])
        .arg(&path)
        .output()
        .expect("bash runs");
    assert_eq!(
        String::from_utf8_lossy(&told.stdout).trim(),
        "rollout",
        "{told:?}"
    );
    let man = json(folder.path(), &["man"], "caplane.man/1");
    assert!(
        man["page"]
            .as_str()
            .is_some_and(|page| page.contains(".TH caplane 1")),
        "{man}"
    );
    refused(folder.path(), &["man", "--folder", "/proc/none"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_on_the_same_machine_ask_by_the_socket_of_the_fabric() {
    let folder = tempfile::tempdir().expect("folder");
    let state = folder.path();
    let fabric = fabric(state).await;
    let socket = fabric.northbound_socket().expect("short enough");
    let address = format!("unix://{socket}");
    let by_flag = ["tenant", "add", "one", "--controller", &address];
    assert!(caplane(state, &by_flag).status.success());
    // As `caplane up` leaves it.
    let file = state.join(caplane::settings::FABRIC_FILE);
    let text = std::fs::read_to_string(&file).expect("there");
    let mut content: Value = serde_json::from_str(&text).expect("JSON");
    content["controller_local"] = address.into();
    std::fs::write(&file, content.to_string()).expect("written");
    let who = |arguments: &[&str]| {
        let added = json(state, arguments, "caplane.tenant/1");
        let generation = added["generation"].to_string();
        let shown = ["generation", "show", &generation];
        let shown = json(state, &shown, "caplane.rollout/1");
        shown["origins"][0]["who"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let told = who(&["tenant", "add", "two"]);
    assert!(told.starts_with("unix:uid/"), "{told}");
    let told = who(&["tenant", "add", "three", "--operator", "admin"]);
    assert_eq!(told, "spiffe://caplane.local/operator/admin");
    let nobody = state.join("nobody.sock");
    let nobody = format!("unix://{}", nobody.display());
    let told = refused(state, &["tenant", "list", "--controller", &nobody], 6);
    assert!(
        told.contains("check that it runs there and that the socket is yours"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_is_listed_and_verified() {
    let folder = tempfile::tempdir().expect("folder");
    let state = folder.path();
    let _fabric = fabric(state).await;
    json(state, &["tenant", "add", "acme"], "caplane.tenant/1");
    let listed = json(state, &["audit", "list"], "caplane.audit/1");
    let records = listed["records"].as_array().expect("a list");
    let added = records
        .iter()
        .find(|record| record["what"] == "INSERT tenant acme");
    let added = added.expect("recorded");
    assert_eq!(added["who"], "spiffe://caplane.local/operator/admin");
    assert_eq!(
        (&added["role"], &added["code"]),
        (&"admin".into(), &0.into())
    );
    let head = added["hash"].as_str().expect("a hash");
    let key = state.join("c1/audit-key.pub");
    let key = key.to_string_lossy();
    let verify = [
        "audit",
        "verify",
        "--public-key",
        &key,
        "--expect-head",
        head,
    ];
    let whole = json(state, &verify, "caplane.audit-check/1");
    assert_eq!(
        (&whole["oldest"], &whole["key_checked"]),
        (&1.into(), &true.into())
    );
    let other = write(state, "other.pub", &"00".repeat(32));
    let told = refused(state, &["audit", "verify", "--public-key", &other], 8);
    assert!(
        told.contains("not whole: audit record 1: is signed by a key that is not known"),
        "{told}"
    );
    let never = "00".repeat(32);
    let told = refused(state, &["audit", "verify", "--expect-head", &never], 8);
    assert!(told.contains("newer ones are missing"), "{told}");
    refused(state, &["audit", "verify", "--expect-head", "5c1e"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_beyond_the_quota_waits_for_its_turn() {
    let folder = tempfile::tempdir().expect("folder");
    let state = folder.path();
    let mut config = FabricConfig::line(state, 1).expect("the sibling programs are built");
    config.controller_tables = "[quota]\nupdates_per_second = 2\n".to_owned();
    let fabric = Fabric::start(config).await.expect("the fabric starts");
    let api = fabric.api();
    let tenant = |i: usize| {
        caplane_proto::v1::entity::Entity::Tenant(caplane_proto::v1::Tenant {
            name: format!("t{i}"),
            ..Default::default()
        })
    };
    // 20 are saved up: what is beyond is due in its time.
    let begun = Instant::now();
    for i in 0..24 {
        api.insert(tenant(i)).await.expect("waited for");
    }
    let took = begun.elapsed();
    assert!(
        took > Duration::from_millis(500),
        "{took:?}: nothing had to wait"
    );
    // A batch that is too large passes and is paid for; what comes after it waits longer than a write waits.
    let batch = (100..300).map(|i| (caplane_proto::v1::update::Type::Insert, tenant(i)));
    api.write(batch).await.expect("paid for afterwards");
    let begun = Instant::now();
    let error = api
        .insert(tenant(300))
        .await
        .expect_err("a minute and more");
    assert_eq!(error.code(), tonic::Code::ResourceExhausted, "{error}");
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "known before it waits"
    );
    let failure = caplane::failure::Failure::from(error);
    let wait = failure.json()["retry_after_ms"].as_u64().expect("told");
    assert!((30_000..110_000).contains(&wait), "{wait}");
}
