//! Fabrics, agents and waiting. Knows the client library and the fabric; refuses to know what a test is about.

use std::future::Future;
use std::process::Stdio;
use std::time::{Duration, Instant};

use caplane::fabric::{AgentIdentity, CONTROLLER, Fabric, FabricConfig};
use caplane_client::{Client, ClientConfig, Credentials, Destination, Query, TrustBundle};
use caplane_proto::v1;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Longest anything here may take to come true.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Classes of the shipped taxonomy that the tests use, a parent and two of its children.
pub const PARENT: &str = "finance/currency";
pub const CONVERSION: &str = "finance/currency/currency_conversion";
pub const RATES: &str = "finance/currency/exchange_rates";

/// A fabric in a folder of its own; both go when it is dropped.
pub struct Stage {
    pub fabric: Fabric,
    // Dropped after the fabric, whose children write there.
    folder: TempDir,
}

impl Stage {
    /// `routers` routers in a line.
    pub async fn line(routers: usize) -> Self {
        Self::with(|folder| FabricConfig::line(folder, routers).expect("programs are built")).await
    }

    /// The fabric that `configure` asks for in the folder it is given.
    pub async fn with(configure: impl FnOnce(&std::path::Path) -> FabricConfig) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let fabric = Fabric::start(configure(folder.path()))
            .await
            .expect("the fabric starts");
        Self { fabric, folder }
    }

    /// Registers an agent that serves the class `path` (none when empty) with `weight`.
    pub async fn register(
        &self,
        tenant: &str,
        name: &str,
        path: &str,
        weight: u32,
    ) -> AgentIdentity {
        let identity = self.fabric.issue_agent(tenant, name).expect("certificate");
        self.fabric
            .register_agent(&identity, card(name, path).as_bytes(), |agent| {
                agent.weight = weight;
            })
            .await
            .expect("registered");
        identity
    }

    /// How a client of `identity` is configured to attach to `router`.
    pub fn client_config(
        &self,
        identity: &AgentIdentity,
        router: &str,
        instance: &str,
    ) -> ClientConfig {
        let address = self.fabric.router_address(router).expect("a router");
        ClientConfig::new([address], self.credentials(identity)).instance_name(instance)
    }

    pub fn credentials(&self, identity: &AgentIdentity) -> Credentials {
        let mut trust = TrustBundle::new();
        trust
            .add_file(self.fabric.authority().trust_domain(), &self.fabric.roots())
            .expect("roots");
        Credentials::from_files(&identity.files.chain, &identity.files.key, trust)
            .expect("credentials")
    }

    /// Attaches an instance, once every router knows the newest registrations.
    pub async fn attach(
        &mut self,
        identity: &AgentIdentity,
        router: &str,
        instance: &str,
    ) -> Client {
        self.fabric.wait_live().await.expect("tables are live");
        Client::attach(self.client_config(identity, router, instance))
            .await
            .expect("attached")
    }

    /// Attaches `caplane listen --json` as a process of its own, which answers every message with `reply`.
    pub async fn listener(
        &mut self,
        identity: &AgentIdentity,
        router: &str,
        reply: &str,
    ) -> Listener {
        self.listen(identity, router, &["--reply", reply]).await
    }

    /// The same, answering nothing.
    pub async fn hearer(&mut self, identity: &AgentIdentity, router: &str) -> Listener {
        self.listen(identity, router, &[]).await
    }

    async fn listen(
        &mut self,
        identity: &AgentIdentity,
        router: &str,
        arguments: &[&str],
    ) -> Listener {
        self.fabric.wait_live().await.expect("tables are live");
        let program = std::env::current_exe()
            .expect("this program")
            .parent()
            .and_then(|deps| deps.parent())
            .expect("a target folder")
            .join("caplane");
        let mut child = Command::new(program)
            .arg("listen")
            .arg("--state")
            .arg(self.folder.path())
            .args(["--as", identity.uri.rsplit('/').next().expect("a name")])
            .arg("--chain")
            .arg(&identity.files.chain)
            .arg("--key")
            .arg(&identity.files.key)
            .arg("--roots")
            .arg(self.fabric.roots())
            .args([
                "--router",
                self.fabric.router_address(router).expect("a router"),
            ])
            .args(arguments)
            .arg("--json")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("`caplane` is built beside the tests");
        let stderr = child.stderr.take().expect("piped");
        let mut lines = BufReader::new(stderr).lines();
        let mut seen = Vec::new();
        let attached = async {
            while let Some(line) = lines.next_line().await.expect("stderr") {
                let done = line.contains("attached as");
                seen.push(line);
                if done {
                    return;
                }
            }
            panic!("caplane listen ended: {seen:?}");
        };
        within("a listener is attached", attached).await;
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let stdout = child.stdout.take().expect("piped");
        let heard = tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            let mut heard = Vec::new();
            while let Ok(Some(line)) = lines.next_line().await {
                // The last one may be cut short.
                heard.extend(serde_json::from_str::<serde_json::Value>(&line));
            }
            heard
        });
        Listener { child, heard }
    }

    /// Waits until the controller has `count` instances attached and every router knows them.
    pub async fn settled(&mut self, count: u32) {
        self.fabric.wait_instances(count).await.expect("instances");
    }

    /// What a class path means to `asker`.
    pub async fn destination(&self, asker: &Client, path: &str) -> Destination {
        let found = asker
            .resolve(Query::Path(path.to_owned()))
            .await
            .expect("resolved");
        Destination::try_from(found.first().expect("a candidate")).expect("a destination")
    }

    /// Sum of a metric's samples over labels, on one router.
    pub async fn metric(&self, router: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
        let metrics = self.fabric.metrics(router).await.expect("metrics");
        metrics.sum_where(name, labels)
    }

    /// Removes a link.
    pub async fn remove_link(&self, a: &str, b: &str) {
        let link = v1::Link {
            a: a.to_owned(),
            b: b.to_owned(),
            cost: 0,
        };
        self.fabric
            .api()
            .delete(v1::entity::Entity::Link(link))
            .await
            .expect("the link was there");
    }

    /// Lets tenant `from` reach every class of tenant `to`.
    pub async fn permit(&self, from: &str, to: &str) {
        let permission = v1::Permission {
            from: from.to_owned(),
            to: to.to_owned(),
            class_path: String::new(),
        };
        self.fabric
            .api()
            .insert(v1::entity::Entity::Permission(permission))
            .await
            .expect("permission");
    }
}

impl Drop for Stage {
    /// A test that fails shows what the programs said last.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for name in self.fabric.routers().chain([CONTROLLER]) {
            let log = self.fabric.log(name).map(std::fs::read_to_string);
            if let Ok(Ok(log)) = log {
                let lines: Vec<_> = log.lines().collect();
                let last = &lines[lines.len().saturating_sub(30)..];
                eprintln!("---- {name} said last:\n{}", last.join("\n"));
            }
        }
    }
}

/// A `caplane listen` process.
pub struct Listener {
    child: Child,
    heard: tokio::task::JoinHandle<Vec<serde_json::Value>>,
}

impl Listener {
    /// Ends it with SIGKILL: it says goodbye to nobody. What it had printed, a `caplane.message/1` each.
    pub async fn kill(mut self) -> Vec<serde_json::Value> {
        self.child.kill().await.expect("killed");
        self.heard.await.expect("read to the end")
    }
}

/// An agent card whose one skill has the id of the class, so that it is classified exactly.
pub fn card(name: &str, path: &str) -> String {
    let skills = if path.is_empty() {
        serde_json::json!([])
    } else {
        serde_json::json!([{ "id": path, "name": path, "description": path, "tags": [] }])
    };
    serde_json::json!({
        "name": name, "description": name, "version": "1.0.0", "skills": skills,
        "url": "http://localhost:1/", "capabilities": {}, "defaultInputModes": ["text"], "defaultOutputModes": ["text"],
    })
    .to_string()
}

/// Answers every message of `client` with `text` and counts them, until the client is closed.
pub fn answer(client: &Client, text: &'static str) -> tokio::task::JoinHandle<u64> {
    let client = client.clone();
    tokio::spawn(async move {
        let mut served = 0;
        while let Ok(delivery) = client.recv().await {
            served += 1;
            // A requester that left in between is its own affair.
            let _ = delivery.reply(text).await;
        }
        served
    })
}

/// The outcome of `future`, which must come within [`PATIENCE`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}

/// Polls until `condition` holds, for at most [`PATIENCE`].
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let begun = Instant::now();
    let mut poll = tokio::time::interval(Duration::from_millis(20));
    loop {
        poll.tick().await;
        if condition().await {
            return;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "still not so after {PATIENCE:?}: {what}"
        );
    }
}
