//! A fabric with a victim, an agent that serves and one that asks it. Refuses to know what is done to them.

use caplane::fabric::AgentIdentity;
use caplane_client::{Client, Destination, FlowOptions, Query};
use caplane_wire::{CongestionAction, Label, TrafficClass};
use tokio::task::JoinHandle;

use crate::peer::{Message, Peer};
use crate::stage::{CONVERSION, Stage, answer, eventually, within};

/// A class that every agent may use.
pub const CLASS: TrafficClass = TrafficClass::new(4, CongestionAction::Drop);

/// Where the rogues attach.
pub const ENTRY: &str = "r1";

pub struct Scene {
    pub stage: Stage,
    pub victim: Peer,
    asker: Client,
    destination: Destination,
    _served: JoinHandle<u64>,
}

impl Scene {
    /// A line of so many routers; whoever asks is on the first, whoever serves and the victim on the last.
    pub async fn set(routers: usize) -> Self {
        let mut stage = Stage::line(routers).await;
        let last = format!("r{routers}");
        let server = stage.register("shared", "server", CONVERSION, 0).await;
        let asker = stage.register("shared", "asker", "", 0).await;
        let victim = stage.register("shared", "victim", "", 0).await;
        let server = stage.attach(&server, &last, "one").await;
        let asker = stage.attach(&asker, ENTRY, "one").await;
        let victim = attach(&stage, &victim, &last).await;
        stage.settled(3).await;
        let destination = stage.destination(&asker, CONVERSION).await;
        Self {
            stage,
            victim,
            asker,
            destination,
            _served: answer(&server, "here"),
        }
    }

    /// Registers an agent and attaches it to the first router.
    pub async fn rogue(&mut self, name: &str) -> Peer {
        let identity = self.stage.register("shared", name, "", 0).await;
        self.attach(&identity).await
    }

    /// Attaches a registered agent to the first router.
    pub async fn attach(&mut self, identity: &AgentIdentity) -> Peer {
        self.stage.fabric.wait_live().await.expect("live");
        attach(&self.stage, identity, ENTRY).await
    }

    /// Address of the router where rogues attach.
    pub fn entry(&self) -> &str {
        self.stage.fabric.router_address(ENTRY).expect("a router")
    }

    /// What the first router has counted.
    pub async fn count(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.stage.metric(ENTRY, name, labels).await
    }

    /// Waits until the first router has counted so many.
    pub async fn counted(&self, name: &str, labels: &[(&str, &str)], many: f64) {
        eventually(&format!("{name} {labels:?} is {many}"), || async {
            self.count(name, labels).await >= many
        })
        .await;
        assert_eq!(self.count(name, labels).await, many, "{name} {labels:?}");
    }

    pub async fn drops(&self, reason: &str, many: f64) {
        self.counted("router_drops_total", &[("reason", reason)], many)
            .await;
    }

    /// A normal request is answered still.
    pub async fn serves(&self, after: &str) {
        let flow = self.asker.flow(self.destination, FlowOptions::default());
        let what = format!("an answer after {after}");
        match within(&what, flow.request("still there?")).await {
            Ok(reply) => assert_eq!(&reply.payload()[..], b"here"),
            Err(error) => panic!("no {what}: {error}"),
        }
    }

    /// How many candidates the answer to a question has.
    pub async fn ask(&self, query: Query) -> usize {
        let found = within("an answer", self.asker.resolve(query)).await;
        found.expect("resolved").len()
    }

    /// The victim has received nothing: a right message from `honest` comes first.
    pub async fn victim_got_nothing_but_from(&self, honest: &Peer) {
        let header = honest.header(self.victim.label, CLASS, 6);
        honest.send(header, b"honest");
        let first = self.victim.message().await;
        assert_eq!(first.header.source_label, honest.label, "{first:?}");
        assert_eq!(first.body, b"honest", "{:?}", first.header);
    }

    /// Label of the victim.
    pub fn target(&self) -> Label {
        self.victim.label
    }

    /// What the victim receives next.
    pub async fn delivered(&self) -> Message {
        self.victim.message().await
    }
}

async fn attach(stage: &Stage, identity: &AgentIdentity, router: &str) -> Peer {
    let (chain, key) = pem(identity);
    let address = stage.fabric.router_address(router).expect("a router");
    Peer::attach(address, (&chain, &key), "one").await
}

/// Chain and key of an agent.
pub fn pem(identity: &AgentIdentity) -> (String, String) {
    let read = |path| std::fs::read_to_string(path).expect("a PEM file");
    (read(&identity.files.chain), read(&identity.files.key))
}
