//! The command line of `caplane-load`: what it prints, and its exit codes.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_caplane-load"))
}

fn output(arguments: &[&str]) -> Output {
    program()
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

/// What a run prints that is to be valid. The generator says so when the machine gave it too little time (exit codes 3 and 4);
/// then it is asked again.
fn valid_output(arguments: &[&str]) -> Output {
    let mut out = output(arguments);
    for _ in 0..4 {
        if !matches!(out.status.code(), Some(3 | 4)) {
            break;
        }
        out = output(arguments);
    }
    out
}

#[test]
fn impair_relays_takes_commands_and_reports_at_the_end() {
    let target = UdpSocket::bind("127.0.0.1:0").expect("bind");
    target
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("timeout");
    let to = target.local_addr().expect("address").to_string();
    let mut child = program()
        .args([
            "impair",
            "--json",
            "--seed",
            "42",
            "--quit-on-eof",
            "--set",
            "down loss 100",
        ])
        .args(["--target", &to, "--mtu", "1500"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    stdout.read_line(&mut line).expect("the first line");
    let start: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(start["seed"], 42);
    let relay: SocketAddr = start["listen"]
        .as_str()
        .expect("address")
        .parse()
        .expect("address");

    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let mut buffer = [0u8; 2048];
    client.send_to(&[1; 1472], relay).expect("send");
    assert_eq!(target.recv(&mut buffer).expect("arrives"), 1472);
    stdin
        .write_all(b"nonsense\nup mtu 1400\nshow\n")
        .expect("commands");
    line.clear();
    // The answer to `show` says that the commands before it are in force.
    stdout.read_line(&mut line).expect("the answer");
    client.send_to(&[2; 1472], relay).expect("send");
    client.send_to(&[3; 1372], relay).expect("send");
    assert_eq!(target.recv(&mut buffer).expect("arrives"), 1372);
    drop(stdin);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("the end");
    let end: Value = serde_json::from_str(rest.lines().last().expect("a line")).expect("JSON");
    assert_eq!(end["counters"]["up"]["too_big"], 1, "{rest}");
    assert_eq!(end["counters"]["up"]["forwarded"], 2, "{rest}");
    assert!(child.wait().expect("ends").success());
}

#[test]
fn wrong_arguments_are_named() {
    let out = output(&["impair", "--target", "127.0.0.1:9", "--loss", "120"]);
    assert_eq!(out.status.code(), Some(1));
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(
        text.contains("loss 120") && text.contains("0 to 100"),
        "{text}"
    );
    let out = output(&["run", "--size", "70000"]);
    assert_eq!(out.status.code(), Some(1));
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(text.contains("payload bytes is 70000"), "{text}");
}

#[test]
fn a_run_prints_one_object_and_succeeds() {
    let out = valid_output(&[
        "run",
        "--json",
        "--rate",
        "1000",
        "--duration",
        "0.5",
        "--warm-up",
        "0.1",
        "--classes",
        "10",
        "--flows",
        "20",
        "--action",
        "block",
    ]);
    let text = String::from_utf8_lossy(&out.stdout);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{text}\n{errors}");
    let report: Value = serde_json::from_str(&text).expect("one JSON object");
    assert_eq!(report["schema"], "caplane-load.run.1");
    assert_eq!(report["verdict"], "valid");
    assert_eq!(report["self_test"]["verdict"], "valid");
    assert_eq!(report["co_located"], true);
    assert_eq!(report["lost"], 0);
    assert_eq!(report["sent"], report["received"]);
    assert!(report["router_cpu"]["ns_per_message"].is_number());
    assert!(report["latency_us"]["p99"].as_f64().expect("a number") > 0.0);
    assert!(report["machine"]["kernel"].is_string());
}

#[test]
fn a_saturated_generator_is_an_invalid_result() {
    let out = output(&[
        "run",
        "--rate",
        "1000000000",
        "--duration",
        "0.3",
        "--warm-up",
        "0.1",
        "--classes",
        "10",
        "--flows",
        "20",
    ]);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(3), "{errors}");
    assert!(
        errors.contains("generator saturated: result invalid"),
        "{errors}"
    );
}
