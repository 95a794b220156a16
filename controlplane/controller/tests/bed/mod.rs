//! A controller process with its own certificates, and a simulated router.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use caplane_proto::v1;
use caplane_proto::v1::controller_message::Message as FromController;
use caplane_proto::v1::northbound_client::NorthboundClient;
use caplane_proto::v1::router_message::Message as ToController;
use caplane_proto::v1::southbound_client::SouthboundClient;
use prost::Message;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

pub const DEADLINE: Duration = Duration::from_secs(20);

/// A certificate authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// What a leaf certificate says.
pub struct Leaf {
    pub uris: Vec<String>,
    pub purposes: Vec<ExtendedKeyUsagePurpose>,
    pub usages: Vec<KeyUsagePurpose>,
    pub expired: bool,
}

impl Leaf {
    pub fn of(uri: &str) -> Self {
        Self {
            uris: vec![uri.into()],
            purposes: vec![
                ExtendedKeyUsagePurpose::ClientAuth,
                ExtendedKeyUsagePurpose::ServerAuth,
            ],
            usages: vec![KeyUsagePurpose::DigitalSignature],
            expired: false,
        }
    }
}

impl Default for Authority {
    fn default() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, key).expect("a root"))
    }
}

impl Authority {
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certificate and key, PEM.
    pub fn issue(&self, leaf: &Leaf) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        for uri in &leaf.uris {
            let uri = uri.as_str().try_into().expect("ASCII");
            params.subject_alt_names.push(SanType::URI(uri));
        }
        for name in ["caplane-controller", "localhost"] {
            let name = name.try_into().expect("ASCII");
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.extended_key_usages.clone_from(&leaf.purposes);
        params.key_usages.clone_from(&leaf.usages);
        if leaf.expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 2, 1);
        }
        let certificate = params.signed_by(&key, &self.0).expect("signed");
        (certificate.pem(), key.serialize_pem())
    }
}

/// A controller process; killed when dropped.
pub struct Controller {
    pub authority: Authority,
    folder: tempfile::TempDir,
    child: Option<Child>,
}

#[derive(serde::Deserialize)]
pub struct Addresses {
    pub northbound: String,
    pub southbound: String,
}

impl Controller {
    pub fn start() -> Self {
        Self::with("")
    }

    /// With more configuration at the end.
    pub fn with(more: &str) -> Self {
        Self::with_lines("", more)
    }

    /// The same, with lines before the first table.
    pub fn with_lines(lines: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::default();
        let place = |name: &str| folder.path().join(name);
        let (chain, key) = authority.issue(&Leaf::of("spiffe://caplane.local/controller/c1"));
        std::fs::write(place("ca.pem"), authority.pem()).expect("written");
        std::fs::write(place("c1.pem"), chain).expect("written");
        std::fs::write(place("c1-key.pem"), key).expect("written");
        let config = format!(
            r#"
name = "c1"
listen_northbound = "127.0.0.1:0"
listen_southbound = "127.0.0.1:0"
state_dir = "state"
operators = ["spiffe://caplane.local/operator/*"]
{lines}
[credentials]
chain = "c1.pem"
key = "c1-key.pem"
trust = [{{ domain = "caplane.local", roots = "ca.pem" }}]
{more}
"#
        );
        std::fs::write(place("controller.toml"), config).expect("written");
        let mut controller = Self {
            authority,
            folder,
            child: None,
        };
        controller.run();
        controller
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("controller.toml")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Starts the process and waits until it says where it listens.
    pub fn run(&mut self) {
        let addresses = self.state_dir().join("addresses.json");
        let _ = std::fs::remove_file(&addresses);
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .expect("a log");
        let child = Command::new(env!("CARGO_BIN_EXE_caplane-controller"))
            .arg("--config")
            .arg(self.config())
            .env("CAPLANE_LOG", "info")
            .stderr(Stdio::from(log))
            .spawn()
            .expect("the controller starts");
        self.child = Some(child);
        let begun = Instant::now();
        while !addresses.exists() {
            assert!(
                begun.elapsed() < DEADLINE,
                "not ready; log:\n{}",
                self.log()
            );
            let ended = self.child.as_mut().expect("running").try_wait();
            assert!(matches!(ended, Ok(None)), "ended; log:\n{}", self.log());
            std::thread::yield_now();
        }
    }

    /// Memory in use (KiB).
    pub fn resident_kib(&self) -> u64 {
        let id = self.child.as_ref().expect("running").id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("running");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        kib.and_then(|kib| kib.parse().ok()).expect("a number")
    }

    /// SIGKILL, by its own process id.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("killed");
            child.wait().expect("reaped");
        }
    }

    /// SIGTERM; answers the exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("running");
        let killed = Command::new("kill")
            .args(["-TERM", &child.id().to_string()])
            .status();
        assert!(killed.expect("kill runs").success());
        child.wait().expect("reaped").code()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub fn addresses(&self) -> Addresses {
        let text = std::fs::read(self.state_dir().join("addresses.json")).expect("ready");
        serde_json::from_slice(&text).expect("JSON")
    }

    pub async fn connect(
        &self,
        address: &str,
        identity: Option<(String, String)>,
    ) -> Result<Channel, tonic::transport::Error> {
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.authority.pem()))
            .domain_name("caplane-controller");
        if let Some((chain, key)) = identity {
            tls = tls.identity(Identity::from_pem(chain, key));
        }
        Endpoint::from_shared(format!("https://{address}"))?
            .tls_config(tls)?
            .connect_timeout(DEADLINE)
            .connect()
            .await
    }

    pub async fn operator(&self) -> NorthboundClient<Channel> {
        let leaf = Leaf::of("spiffe://caplane.local/operator/ada");
        let channel = self
            .connect(
                &self.addresses().northbound,
                Some(self.authority.issue(&leaf)),
            )
            .await
            .expect("connected");
        NorthboundClient::new(channel)
    }

    /// The northbound API for another name.
    pub async fn caller(&self, uri: &str) -> NorthboundClient<Channel> {
        let identity = self.authority.issue(&Leaf::of(uri));
        let address = self.addresses().northbound;
        let channel = self.connect(&address, Some(identity)).await;
        NorthboundClient::new(channel.expect("connected"))
    }

    pub async fn southbound(&self, router: &str) -> SouthboundClient<Channel> {
        let leaf = Leaf::of(&router_uri(router));
        let channel = self
            .connect(
                &self.addresses().southbound,
                Some(self.authority.issue(&leaf)),
            )
            .await
            .expect("connected");
        SouthboundClient::new(channel)
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn router_uri(name: &str) -> String {
    format!("spiffe://caplane.local/router/{name}")
}

pub fn agent_uri(name: &str) -> String {
    format!("spiffe://caplane.local/tenant/t/agent/{name}")
}

pub fn sample_card(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/cards")
        .join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A router as the controller sees one: it keeps what it is sent.
pub struct SimulatedRouter {
    pub accepted: v1::SessionAccepted,
    pub table: BTreeMap<Vec<u8>, v1::Resource>,
    pub generation: u64,
    to: mpsc::Sender<v1::RouterMessage>,
    from: tonic::Streaming<v1::ControllerMessage>,
}

/// What a router still has after it, or the controller, was away.
#[derive(Default, Clone)]
pub struct Held {
    pub table: BTreeMap<Vec<u8>, v1::Resource>,
    pub generation: u64,
    pub store_id: String,
    /// What of it is in force; `None` = all.
    pub live: Option<u64>,
    pub election_id: u64,
}

/// One whole update, its parts joined.
pub struct Update {
    pub nonce: u64,
    pub generation: u64,
    pub base: u64,
    pub upserts: Vec<v1::Resource>,
    pub removes: Vec<v1::ResourceKey>,
    pub parts: usize,
}

impl SimulatedRouter {
    pub async fn open(
        controller: &Controller,
        name: &str,
        held: Held,
        attachments: Vec<v1::Attachment>,
    ) -> Result<Self, tonic::Status> {
        let mut client = controller.southbound(name).await;
        let (to, outgoing) = mpsc::channel(16);
        to.send(message(ToController::Open(v1::SessionOpen {
            address: format!("{name}.example:4433"),
            held_generation: held.generation,
            store_id: held.store_id,
            software: "simulated 1".into(),
            attachments,
            live_generation: held.live.unwrap_or(held.generation),
            highest_election_id: held.election_id,
        })))
        .await
        .expect("queued");
        let mut from = client
            .session(ReceiverStream::new(outgoing))
            .await?
            .into_inner();
        let first = tokio::time::timeout(DEADLINE, from.message())
            .await
            .expect("in time")?;
        let Some(FromController::Accepted(accepted)) = first.and_then(|m| m.message) else {
            panic!("not accepted first");
        };
        Ok(Self {
            accepted,
            table: held.table,
            generation: held.generation,
            to,
            from,
        })
    }

    pub fn held(&self) -> Held {
        Held {
            table: self.table.clone(),
            generation: self.generation,
            store_id: self.accepted.store_id.clone(),
            live: None,
            election_id: self.accepted.election_id,
        }
    }

    pub async fn send(&self, body: ToController) {
        self.to.send(message(body)).await.expect("session open");
    }

    /// Ends its side of the session and waits for the controller's.
    pub async fn finish(self) {
        let Self { to, mut from, .. } = self;
        drop(to);
        let end = async { while let Ok(Some(_)) = from.message().await {} };
        tokio::time::timeout(DEADLINE, end).await.expect("in time");
    }

    pub async fn next(&mut self) -> Result<FromController, tonic::Status> {
        let next = tokio::time::timeout(DEADLINE, self.from.message())
            .await
            .expect("in time")?;
        next.and_then(|message| message.message)
            .ok_or_else(|| tonic::Status::cancelled("the stream ended"))
    }

    /// The next update, whole, not yet answered; anything else that comes first is an error.
    pub async fn update(&mut self) -> Update {
        let mut whole: Option<Update> = None;
        loop {
            let part = match self.next().await.expect("the session lives") {
                FromController::Update(part) => part,
                other => panic!("expected an update, got {other:?}"),
            };
            assert!(part.encoded_len() <= 1024 * 1024, "part too large");
            assert_eq!(part.election_id, self.accepted.election_id);
            let update = whole.get_or_insert_with(|| Update {
                nonce: part.nonce,
                generation: part.generation,
                base: part.base_generation,
                upserts: Vec::new(),
                removes: Vec::new(),
                parts: 0,
            });
            assert_eq!(
                (update.nonce, update.generation, update.base),
                (part.nonce, part.generation, part.base_generation)
            );
            update.parts += 1;
            update.upserts.extend(part.upserts);
            update.removes.extend(part.removes);
            if part.last {
                return whole.take().expect("just made");
            }
        }
    }

    /// Applies an update and says so.
    pub async fn accept(&mut self, update: Update) {
        if update.base == 0 {
            self.table.clear();
        } else {
            assert_eq!(update.base, self.generation, "a difference to what is held");
        }
        for resource in update.upserts {
            self.table
                .insert(key_of(&resource).encode_to_vec(), resource);
        }
        for key in update.removes {
            self.table.remove(&key.encode_to_vec());
        }
        self.generation = update.generation;
        self.send(ToController::Answer(v1::TableAnswer {
            nonce: update.nonce,
            generation: update.generation,
            rejected: Vec::new(),
            needs_snapshot: false,
        }))
        .await;
        self.send(ToController::Live(v1::LiveReport {
            generation: update.generation,
            took_us: 7,
        }))
        .await;
    }

    /// Refuses an update as a whole, or by its first entry.
    pub async fn refuse(&mut self, update: &Update, needs_snapshot: bool) {
        let first = update.upserts.first().filter(|_| !needs_snapshot);
        self.send(ToController::Answer(v1::TableAnswer {
            nonce: update.nonce,
            generation: update.generation,
            rejected: vec![v1::Rejected {
                key: first.map(key_of),
                reason: "told to".into(),
            }],
            needs_snapshot,
        }))
        .await;
    }

    /// Takes updates until `generation` is held.
    pub async fn follow(&mut self, generation: u64) {
        while self.generation < generation {
            let update = self.update().await;
            self.accept(update).await;
        }
    }

    /// The table without versions, which a restarted controller may put later.
    pub fn entries(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.table
            .iter()
            .map(|(key, resource)| {
                let mut resource = resource.clone();
                resource.version = 0;
                (key.clone(), resource.encode_to_vec())
            })
            .collect()
    }
}

pub fn message(body: ToController) -> v1::RouterMessage {
    v1::RouterMessage {
        message: Some(body),
    }
}

pub fn key_of(resource: &v1::Resource) -> v1::ResourceKey {
    use v1::resource::Resource;
    use v1::resource_key::Key;
    let key = match resource.resource.as_ref().expect("set") {
        Resource::Class(r) => Key::Class(r.key.expect("set")),
        Resource::Agent(r) => Key::Agent(r.label),
        Resource::Group(r) => Key::Group(r.label),
        Resource::Identity(r) => Key::Identity(r.uri.clone()),
        Resource::Policy(r) => Key::Policy(r.id),
        Resource::Transit(r) => Key::Transit(r.router),
        Resource::Neighbour(r) => Key::Neighbour(r.router),
    };
    v1::ResourceKey { key: Some(key) }
}

pub fn write(updates: Vec<(v1::update::Type, v1::entity::Entity)>) -> v1::WriteRequest {
    v1::WriteRequest {
        updates: updates
            .into_iter()
            .map(|(action, body)| v1::Update {
                r#type: action.into(),
                entity: Some(v1::Entity { entity: Some(body) }),
            })
            .collect(),
        ..v1::WriteRequest::default()
    }
}
