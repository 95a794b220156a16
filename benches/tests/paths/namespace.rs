//! Network namespaces without a trace: a test runs itself again in one of its own, and makes a second one held by a child.
//! Both vanish with their processes. Needs no root where the system lets users have namespaces. Knows links; refuses to
//! know what travels there.

use std::path::Path;
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::stage::eventually;

/// Set for the test that runs inside.
const INSIDE: &str = "CAPLANE_TEST_IN_NAMESPACE";

/// Programs needed, and the Debian package each is in.
const PROGRAMS: [(&str, &str); 3] = [
    ("ip", "iproute2"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
];

/// Whether this is the test run again.
pub fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs the test `name` of this binary again, in a namespace of its own.
pub fn run_inside(name: &str) {
    for (program, package) in PROGRAMS {
        let there = std::process::Command::new(program).arg("--help").output();
        assert!(
            there.is_ok(),
            "{program} is missing: install the package {package} (`make deps` does)"
        );
    }
    let mut unshare = std::process::Command::new("unshare");
    if !is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    let status = unshare
        .args(["--net", "--"])
        .arg(std::env::current_exe().expect("this program"))
        .args([name, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare runs");
    assert!(
        status.success(),
        "{name} failed inside its network namespace, see above. When it is unshare that failed: this test makes network \
         namespaces, for which it must be root or the system must let users have namespaces of their own \
         (kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)"
    );
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Another namespace, linked to this one.
pub struct Neighbour {
    holder: Child,
}

/// Addresses of the link's ends, and their names.
pub const HERE: &str = "10.77.0.1";
const THERE: &str = "10.77.0.2";
const HERE_END: &str = "here";
const THERE_END: &str = "there";

impl Neighbour {
    /// Makes it, and a link of this MTU between it and here.
    pub async fn linked(mtu: u32) -> Self {
        // Reads until its stdin is closed: it ends when this process does.
        let holder = Command::new("unshare")
            .args(["--net", "--", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("unshare runs");
        let neighbour = Self { holder };
        let (ours, theirs) = (net_of("self"), format!("/proc/{}/ns/net", neighbour.pid()));
        eventually("the namespace is another", || async {
            std::fs::read_link(Path::new(&theirs)).is_ok_and(|theirs| theirs != ours)
        })
        .await;
        let pid = neighbour.pid().to_string();
        here(&["link", "set", "lo", "up"]).await;
        here(&[
            "link", "add", HERE_END, "type", "veth", "peer", "name", THERE_END, "netns", &pid,
        ])
        .await;
        neighbour.set_mtu(mtu).await;
        here(&["address", "add", &format!("{HERE}/24"), "dev", HERE_END]).await;
        here(&["link", "set", HERE_END, "up"]).await;
        neighbour
            .there(&["address", "add", &format!("{THERE}/24"), "dev", THERE_END])
            .await;
        neighbour.there(&["link", "set", THERE_END, "up"]).await;
        neighbour
    }

    /// Gives both ends of the link another MTU.
    pub async fn set_mtu(&self, mtu: u32) {
        let mtu = mtu.to_string();
        here(&["link", "set", HERE_END, "mtu", &mtu]).await;
        self.there(&["link", "set", THERE_END, "mtu", &mtu]).await;
    }

    /// `program`, to be started there.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        let target = self.pid().to_string();
        command
            .args(["--target", &target, "--net", "--"])
            .arg(program);
        command
    }

    /// IP fragments made and fragments received, here and there together.
    pub fn fragments(&self) -> u64 {
        let there = self.pid().to_string();
        ["self", &there]
            .into_iter()
            .flat_map(|process| ["FragCreates", "ReasmReqds"].map(|name| ip_counter(process, name)))
            .sum()
    }

    fn pid(&self) -> u32 {
        self.holder.id().expect("it ends with this process")
    }

    async fn there(&self, arguments: &[&str]) {
        run(self.command("ip").args(arguments)).await;
    }
}

async fn here(arguments: &[&str]) {
    run(Command::new("ip").args(arguments)).await;
}

async fn run(command: &mut Command) {
    let output = command.output().await.expect("it was there");
    assert!(output.status.success(), "{command:?}: {output:?}");
}

fn net_of(process: &str) -> std::path::PathBuf {
    std::fs::read_link(format!("/proc/{process}/ns/net")).expect("Linux has network namespaces")
}

/// A counter of the lines "Ip:" of the network namespace of `process`.
fn ip_counter(process: &str, name: &str) -> u64 {
    let table = std::fs::read_to_string(format!("/proc/{process}/net/snmp")).expect("counters");
    let mut lines = table.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let at = names.split(' ').position(|n| n == name).expect("the name");
    let value = values.split(' ').nth(at).expect("a value");
    value.parse().expect("a number")
}
