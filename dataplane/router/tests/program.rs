//! The binary: arguments, exit codes, signals, the state folder.

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use caplane_proto::v1;
use support::controller::FakeController;
use support::instance::Instance;
use support::pki::Pki;
use support::tables::{class_at, identity, policy};
use support::{DEADLINE, config_text, wait_until};

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_caplane-router"))
}

fn check(path: &Path) -> Output {
    program()
        .args(["check-config", "--config"])
        .arg(path)
        .output()
        .unwrap()
}

/// Ends with the test, whatever happens.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn start(config: &Path) -> Self {
        let child = program()
            .arg("--config")
            .arg(config)
            .arg("--exit-with-stdin")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn terminate(&self) {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(sent.success());
    }

    fn exit_code(&mut self) -> i32 {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code().expect("ended by itself, not by a signal");
            }
            assert!(Instant::now() < end, "the router did not end");
            std::thread::yield_now();
        }
    }
}

fn addresses(folder: &Path) -> serde_json::Value {
    let path = folder.join("r1-state/addresses.json");
    let mut text = String::new();
    wait_until("addresses.json is there", || {
        text = std::fs::read_to_string(&path).unwrap_or_default();
        !text.is_empty()
    });
    serde_json::from_str(&text).unwrap()
}

#[test]
fn check_config_shows_what_is_in_force_or_points_at_the_fault() {
    let pki = Pki::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("router.toml");
    let text = config_text(&pki, "r1", &["127.0.0.1:1".parse().unwrap()], "127.0.0.1:0");
    std::fs::write(&path, &text).unwrap();
    let good = check(&path);
    assert!(good.status.success());
    let shown = String::from_utf8(good.stdout).unwrap();
    assert!(shown.contains("queue_bytes_max"), "{shown}");

    std::fs::write(&path, text.replace("drain_period_ms", "drain_period")).unwrap();
    let bad = check(&path);
    assert_eq!(bad.status.code(), Some(2));
    let said = String::from_utf8(bad.stderr).unwrap();
    assert!(said.contains("router.toml:13:1: unknown field"), "{said}");

    let missing = check(&folder.path().join("none.toml"));
    assert_eq!(missing.status.code(), Some(2));
}

#[test]
fn start_faults_name_the_file_and_exit_with_two() {
    let pki = Pki::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("router.toml");
    let text = config_text(&pki, "r1", &["127.0.0.1:1".parse().unwrap()], "127.0.0.1:0");
    std::fs::write(&path, text.replace("-key.pem", "-no-key.pem")).unwrap();
    let output = program().arg("--config").arg(&path).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("-no-key.pem"), "{said}");

    let help = program().arg("--help").output().unwrap();
    assert!(help.status.success());
    let said = String::from_utf8(help.stdout).unwrap();
    assert!(
        said.contains("[credentials]") && said.contains("Exit codes"),
        "{said}"
    );
    assert_eq!(program().output().unwrap().status.code(), Some(2));
}

#[test]
fn sigterm_drains_and_exits_with_zero() {
    let pki = Pki::new();
    let folder = tempfile::tempdir().unwrap();
    let mut controller = FakeController::start(&pki);
    let path = folder.path().join("router.toml");
    let text = config_text(&pki, "r1", &[controller.address()], "127.0.0.1:0");
    std::fs::write(&path, text).unwrap();
    let mut router = Running::start(&path);
    let mut session = controller.session();
    session.accept(1, 1);
    let files = pki.agent("a");
    session.snapshot(1, vec![policy(), identity(&files.uri, 1, &[])]);
    let listen = addresses(folder.path())["listen"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let mut instance = Instance::attach(&pki, &files, listen, "pod-1");
    router.terminate();
    assert_eq!(instance.bye().code(), v1::ByeCode::Drained);
    assert_eq!(router.exit_code(), 0);

    let log = BufReader::new(router.0.stderr.take().unwrap());
    let lines: Vec<String> = log.lines().map_while(Result::ok).collect();
    for event in [
        "ready",
        "session_accepted",
        "table_live",
        "attached",
        "draining",
        "bye",
    ] {
        let wanted = format!("event=\"{event}\"");
        assert!(
            lines.iter().any(|l| l.contains(&wanted)),
            "no {wanted} in {lines:#?}"
        );
    }
    let table = folder.path().join("r1-state/table.fib");
    assert!(
        table.exists(),
        "the table is saved at the end at the latest"
    );
}

#[test]
fn a_second_sigterm_or_the_end_of_stdin_ends_at_once() {
    let pki = Pki::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("router.toml");
    let dead = "127.0.0.1:1".parse().unwrap();
    let text = config_text(&pki, "r1", &[dead], "127.0.0.1:0");
    std::fs::write(&path, text.replace("3000", "600000")).unwrap();
    let mut router = Running::start(&path);
    addresses(folder.path());
    drop(router.0.stdin.take());
    assert_eq!(router.exit_code(), 0);

    std::fs::remove_file(folder.path().join("r1-state/addresses.json")).unwrap();
    let mut router = Running::start(&path);
    addresses(folder.path());
    router.terminate();
    router.terminate();
    let began = Instant::now();
    assert_eq!(router.exit_code(), 0);
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_killed_router_starts_by_what_was_appended_to_its_table() {
    let pki = Pki::new();
    let folder = tempfile::tempdir().unwrap();
    let mut controller = FakeController::start(&pki);
    let path = folder.path().join("router.toml");
    let text = config_text(&pki, "r1", &[controller.address()], "127.0.0.1:0");
    std::fs::write(&path, text).unwrap();
    let router = Running::start(&path);
    let mut session = controller.session();
    session.accept(1, 1);
    session.snapshot(1, vec![policy(), identity(&pki.agent("a").uri, 1, &[])]);
    let length = |name: &str| {
        let file = folder.path().join("r1-state").join(name);
        std::fs::metadata(file).map_or(0, |file| file.len())
    };
    wait_until("the table is stored", || length("table.fib") > 0);
    let table = length("table.fib");
    session.delta(vec![class_at("class:7", 1)], vec![]);
    wait_until("the change is appended", || length("table.log") > 0);
    assert_eq!(length("table.fib"), table, "it is not written again");
    // SIGKILL: nothing is saved at its end.
    drop(router);
    drop(session);

    let _router = Running::start(&path);
    let session = controller.session();
    assert_eq!(session.open.held_generation, 2);
}

/// The processors that each worker of a running router may use, by its number.
fn processors_of_workers(pid: u32, workers: usize) -> Vec<String> {
    let field = |text: &str, name: &str| {
        let mut lines = text.lines();
        let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.unwrap_or_default().trim().to_owned()
    };
    let read = || {
        let mut found = vec![None; workers];
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))
            .ok()?
            .flatten()
        {
            let status = std::fs::read_to_string(task.path().join("status")).ok()?;
            if let Some(number) = field(&status, "Name").strip_prefix("worker-") {
                found[number.parse::<usize>().unwrap()] = Some(field(&status, "Cpus_allowed_list"));
            }
        }
        found.into_iter().collect::<Option<Vec<_>>>()
    };
    let mut all = None;
    wait_until("all workers run", || {
        all = read();
        all.is_some()
    });
    all.unwrap()
}

#[test]
fn workers_are_pinned_in_turn_when_told_and_free_otherwise() {
    const WORKERS: usize = 3;
    let pki = Pki::new();
    for pinned in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("router.toml");
        let text = config_text(&pki, "r1", &["127.0.0.1:1".parse().unwrap()], "127.0.0.1:0");
        let text = format!("workers = {WORKERS}\n{text}\n[io]\npin_workers = {pinned}\n");
        std::fs::write(&path, text).unwrap();
        let mut router = Running::start(&path);
        addresses(folder.path());
        let allowed = rustix::thread::sched_getaffinity(None).unwrap();
        let allowed: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU)
            .filter(|cpu| allowed.is_set(*cpu))
            .collect();
        let mut seen = Vec::new();
        // A worker pins itself first of all, but after it has its name.
        wait_until("workers stand where they belong", || {
            seen = processors_of_workers(router.0.id(), WORKERS);
            let due = |at: usize| allowed[at % allowed.len()].to_string();
            seen.iter().enumerate().all(|(at, cpus)| match pinned {
                true => *cpus == due(at),
                false => allowed.len() == 1 || *cpus != due(at),
            })
        });
        router.terminate();
        assert_eq!(router.exit_code(), 0, "{seen:?}");
    }
}
