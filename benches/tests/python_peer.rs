//! Is SPEC.md enough to write a peer? A client in Python that was written from it alone (`benches/python`) attaches to
//! real routers, asks and answers, and talks to a Rust client. Its codec is held against the golden vectors too.

mod python;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;

use caplane::fabric::{AgentIdentity, Fabric, FabricConfig};
use caplane_client::{
    Client, ClientConfig, Credentials, Destination, FlowOptions, Query, TrustBundle,
};
use python::{PATIENCE, Script, folder, names};
use tokio::time::timeout;

/// The peer.
const PEER: &str = "caplane_peer.py";

/// What the Python server serves, what the Rust one does, and what nobody does.
const OF_PYTHON: &str = "finance/currency/currency_conversion";
const OF_RUST: &str = "finance/currency/exchange_rates";
const OF_NOBODY: &str = "travel/accommodation/hotel_booking";
/// Requests that the Python server gets: five from the Python asker, one from the Rust client.
const SERVED: usize = 5 + 1;

#[tokio::test]
async fn the_python_codec_agrees_with_every_golden_vector() {
    let steps = Script::start(PEER, ["vectors"]).await.success().await;
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

    let mut arguments = attaching("serve", &fabric, &python, "r2");
    arguments.extend(["--count".to_owned(), SERVED.to_string()]);
    let server = Script::start(PEER, arguments).await;
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
    let mut arguments = attaching("ask", &fabric, &asker, "r1");
    let options = [
        ("--expect", "spiffe://caplane.local/router/r1".to_owned()),
        ("--text", "convert currency".to_owned()),
        ("--unserved", OF_NOBODY.to_owned()),
        ("--also", format!("{OF_RUST}=rates")),
        ("--stranger-chain", text(&stranger.files.chain)),
        ("--stranger-key", text(&stranger.files.key)),
    ];
    arguments.extend(options.into_iter().flat_map(|(o, v)| [o.to_owned(), v]));
    let asked = Script::start(PEER, arguments).await.success().await;
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
fn attaching(
    command: &str,
    fabric: &Fabric,
    identity: &AgentIdentity,
    router: &str,
) -> Vec<String> {
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
    let options = options
        .into_iter()
        .flat_map(|(option, value)| [option.to_owned(), value]);
    std::iter::once(command.to_owned()).chain(options).collect()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
