//! Is SPEC.md enough to write a peer? A client in Python that was written from it alone (`benches/python`) attaches to
//! real routers, asks and answers, and talks to a Rust client. Its codec is held against the golden vectors too.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use caplane::fabric::{AgentIdentity, Fabric, FabricConfig};
use caplane_client::{
    Client, ClientConfig, Credentials, Destination, FlowOptions, Query, TrustBundle,
};
use tempfile::NamedTempFile;
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;
use tokio::time::timeout;

/// Longest a script or an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest the packages may take to be fetched and installed.
const INSTALL_PATIENCE: Duration = Duration::from_secs(300);

/// What the Python server serves, what the Rust one does, and what nobody does.
const OF_PYTHON: &str = "finance/currency/currency_conversion";
const OF_RUST: &str = "finance/currency/exchange_rates";
const OF_NOBODY: &str = "travel/accommodation/hotel_booking";
/// Requests that the Python server gets: five from the Python asker, one from the Rust client.
const SERVED: usize = 5 + 1;

#[tokio::test]
async fn the_python_codec_agrees_with_every_golden_vector() {
    let steps = Script::start("vectors", [] as [&str; 0])
        .await
        .success()
        .await;
    let files = std::fs::read_dir(folder().join("../../wire-format/vectors"))
        .expect("vectors")
        .filter(|entry| {
            let name = entry.as_ref().expect("entry").file_name();
            Path::new(&name).extension() == Some(OsStr::new("json"))
        });
    // One step a file, one that there are no other files, one for the SPEC's own examples.
    assert_eq!(steps.len(), files.count() + 2, "{steps:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_written_from_the_specification_asks_and_answers_on_real_routers() {
    let folder = tempfile::tempdir().expect("folder");
    let config = FabricConfig::line(folder.path(), 2).expect("programs are built");
    let mut fabric = Fabric::start(config).await.expect("the fabric starts");
    let python = register(&fabric, "python-server", OF_PYTHON).await;
    let rust = register(&fabric, "rust-server", OF_RUST).await;
    let asker = register(&fabric, "python-asker", "").await;
    let stranger = fabric
        .issue_agent("shared", "stranger")
        .expect("certificate");
    fabric.wait_live().await.expect("tables are live");

    let mut arguments = attaching(&fabric, &python, "r2");
    arguments.extend(["--count".to_owned(), SERVED.to_string()]);
    let server = Script::start("serve", arguments).await;
    let client = attach(&fabric, &rust, "r2").await;
    if let Err(error) = fabric.wait_instances(2).await {
        panic!("{error}\nthe Python server said:\n{}", server.output());
    }

    let found = client
        .resolve(Query::Path(OF_PYTHON.to_owned()))
        .await
        .expect("resolved");
    let destination = Destination::try_from(found.first().expect("a candidate")).expect("one");
    let flow = client.flow(destination, FlowOptions::default());
    let reply = timeout(PATIENCE, flow.request("olleh"))
        .await
        .expect("in time")
        .expect("Python answers Rust");
    assert_eq!(&reply.payload()[..], b"hello");

    let answering = client.clone();
    let answers = tokio::spawn(async move {
        while let Ok(delivery) = answering.recv().await {
            delivery.reply("rates").await.expect("replied");
        }
    });
    let mut arguments = attaching(&fabric, &asker, "r1");
    let options = [
        ("--expect", "spiffe://caplane.local/router/r1".to_owned()),
        ("--text", "convert currency".to_owned()),
        ("--unserved", OF_NOBODY.to_owned()),
        ("--also", format!("{OF_RUST}=rates")),
        ("--stranger-chain", text(&stranger.files.chain)),
        ("--stranger-key", text(&stranger.files.key)),
    ];
    arguments.extend(options.into_iter().flat_map(|(o, v)| [o.to_owned(), v]));
    let asked = Script::start("ask", arguments).await.success().await;
    let served = server.success().await;
    client.close().await;
    answers.await.expect("the Rust server answered");

    let expected = [
        "router refused",
        "client without certificate refused",
        "stranger refused",
        "attached",
        "resolved",
        "receipt",
        "reply",
        "copy receipted again",
        "notice",
        "broken stream stopped",
        "also",
        "left",
    ];
    assert_eq!(names(&asked), BTreeSet::from(expected), "{asked:?}");
    assert_eq!(
        names(&served),
        BTreeSet::from(["attached", "served", "replies receipted", "left"]),
        "{served:?}"
    );
    let carriers: BTreeSet<_> = served
        .iter()
        .filter_map(|s| s["carrier"].as_str())
        .collect();
    assert_eq!(carriers, BTreeSet::from(["lane", "bulk", "datagram"]));
}

async fn register(fabric: &Fabric, name: &str, class: &str) -> AgentIdentity {
    let identity = fabric.issue_agent("shared", name).expect("certificate");
    let skills = if class.is_empty() {
        serde_json::json!([])
    } else {
        serde_json::json!([{ "id": class, "name": class, "description": class, "tags": [] }])
    };
    let card = serde_json::json!({
        "name": name, "description": name, "version": "1.0.0", "skills": skills, "url": "http://localhost:1/",
        "capabilities": {}, "defaultInputModes": ["text"], "defaultOutputModes": ["text"],
    });
    fabric
        .register_agent(&identity, card.to_string().as_bytes(), |_| {})
        .await
        .expect("registered");
    identity
}

async fn attach(fabric: &Fabric, identity: &AgentIdentity, router: &str) -> Client {
    let mut trust = TrustBundle::new();
    trust
        .add_file(fabric.authority().trust_domain(), &fabric.roots())
        .expect("roots");
    let credentials =
        Credentials::from_files(&identity.files.chain, &identity.files.key, trust).expect("files");
    let address = fabric.router_address(router).expect("a router");
    Client::attach(ClientConfig::new([address], credentials).instance_name("rust"))
        .await
        .expect("attached")
}

/// Arguments with which the Python peer attaches.
fn attaching(fabric: &Fabric, identity: &AgentIdentity, router: &str) -> Vec<String> {
    let roots = format!(
        "{}={}",
        fabric.authority().trust_domain(),
        fabric.roots().display()
    );
    let options = [
        (
            "--router",
            fabric.router_address(router).expect("a router").to_owned(),
        ),
        ("--chain", text(&identity.files.chain)),
        ("--key", text(&identity.files.key)),
        ("--roots", roots),
    ];
    options
        .into_iter()
        .flat_map(|(option, value)| [option.to_owned(), value])
        .collect()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn names(steps: &[serde_json::Value]) -> BTreeSet<&str> {
    steps.iter().filter_map(|s| s["step"].as_str()).collect()
}

/// The folder of the Python peer.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python")
}

/// A running script, and the file that has all it says.
struct Script {
    child: Child,
    output: NamedTempFile,
}

impl Script {
    async fn start(command: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        let mut python = Command::new(interpreter().await);
        python
            .arg(folder().join("caplane_peer.py"))
            .arg(command)
            .args(arguments)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        Self::spawn(&mut python)
    }

    fn spawn(command: &mut Command) -> Self {
        let output = NamedTempFile::new().expect("a file");
        let appending = File::options()
            .append(true)
            .open(output.path())
            .expect("the same file");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::from(appending.try_clone().expect("a handle")))
            .stderr(Stdio::from(appending))
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, output }
    }

    fn output(&self) -> String {
        let bytes = std::fs::read(self.output.path()).expect("the output");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until it has ended well.
    async fn done(&mut self, patience: Duration) {
        match timeout(patience, self.child.wait()).await {
            Ok(status) => {
                let status = status.expect("its status");
                assert!(status.success(), "{status}; it said:\n{}", self.output());
            }
            Err(_) => panic!("not done after {patience:?}; it said:\n{}", self.output()),
        }
    }

    /// The steps of a script that ended well.
    async fn success(mut self) -> Vec<serde_json::Value> {
        self.done(PATIENCE).await;
        let output = self.output();
        let steps: Vec<serde_json::Value> = output
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no step:\n{output}")))
            .collect();
        assert!(steps.iter().all(|step| step["ok"] == true), "{output}");
        steps
    }
}

/// Python in a virtual environment that has what `requirements.txt` says. It stays in the target folder for next time.
async fn interpreter() -> &'static Path {
    static INTERPRETER: OnceCell<PathBuf> = OnceCell::const_new();
    INTERPRETER
        .get_or_init(|| async {
            let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-peer");
            let python = environment.join("bin/python");
            let wanted = folder().join("requirements.txt");
            let requirements = std::fs::read_to_string(&wanted).expect("requirements.txt");
            // Written last, so that half an environment is never taken for a whole one.
            let installed = environment.join("installed.txt");
            if std::fs::read_to_string(&installed).is_ok_and(|text| text == requirements) {
                return python;
            }
            let mut make = Command::new("python3");
            make.args(["-m", "venv", "--clear"]).arg(&environment);
            Script::spawn(&mut make).done(INSTALL_PATIENCE).await;
            let mut install = Command::new(&python);
            install
                .args(["-m", "pip", "install", "--disable-pip-version-check", "-r"])
                .arg(&wanted);
            Script::spawn(&mut install).done(INSTALL_PATIENCE).await;
            std::fs::write(&installed, requirements).expect("a note of what is installed");
            python
        })
        .await
}
