//! Real routers in a row under a stub controller, with as many classes as a
//! plan names: what the load generator measures when it is not pointed at a
//! router that runs already.
//!
//! Senders attach to the first router, receivers to the last. Everything lies
//! in a temporary folder and ends with the rig.

mod tables;

use crate::load::{Approach, Plan, ProcessWatch, Target};
use crate::peers::Place;
use crate::stub_controller::{StubConfig, StubController, StubError, Table};
use caplane::fabric::{Binaries, FabricError, Metrics};
use caplane::pki::{self, Authority, Issued, Overwrite, PkiError, Request, Role};
use caplane_proto::v1::resource::Resource as Kind;
use caplane_proto::v1::{ClassKey, ClassRoute, Egress};
use caplane_transport::{Credentials, CredentialsError, TrustBundle};
use caplane_wire::Label;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A router binds in milliseconds; this is for a machine that is busy building.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// A router that does not end by itself within this time is killed.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// Domain and tenant of everybody in the rig.
const DOMAIN: u32 = 1;
const TENANT_NAME: &str = "bench";

/// Why the rig could not start.
#[derive(Debug, thiserror::Error)]
pub enum RigError {
    /// A certificate could not be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// A certificate could not be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The stub controller failed, or a router refused its table.
    #[error(transparent)]
    Stub(#[from] StubError),
    /// The router's program is missing.
    #[error(transparent)]
    Fabric(#[from] FabricError),
    /// A file or process.
    #[error("rig: {0}: {1}")]
    Io(&'static str, io::Error),
    /// A router ended or did not come up.
    #[error("rig: router {name}: {what}; its log ends:\n{log}")]
    Router {
        /// Which.
        name: String,
        /// What happened.
        what: String,
        /// Last lines of its log.
        log: String,
    },
}

/// What routers counted, from their metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct RouterCounters {
    /// Messages received.
    pub received: f64,
    /// Messages sent on, deliveries included.
    pub forwarded: f64,
    /// Messages dropped for any reason.
    pub dropped: f64,
    /// Bytes copied by the router's own code.
    pub copied_bytes: f64,
    /// Bytes forwarded.
    pub forwarded_bytes: f64,
}

/// What a router may be told beyond the defaults; what is absent stays as it comes.
#[derive(Clone, Debug, Default)]
pub struct Tuning {
    /// I/O driver: "auto", "mio" or "uring".
    pub driver: Option<String>,
    /// Worker threads.
    pub workers: Option<u8>,
}

/// A change of all routers' tables.
#[derive(Clone, Copy, Debug)]
pub struct Rewritten {
    /// When the making of it began.
    pub begun: Instant,
    /// When the first update was pushed.
    pub pushed: Instant,
    /// When the last was live.
    pub live: Instant,
    /// The longest time from an update, made and complete, to the report that it is live.
    pub live_after: Duration,
    /// The longest that a router reports for its own part.
    pub router: Duration,
}

struct Member {
    name: String,
    process: Child,
    listen: SocketAddr,
    admin: String,
}

/// The rig; its processes end when it is dropped.
pub struct Rig {
    members: Vec<Member>,
    plan: Plan,
    place: Place,
    tuning: Tuning,
    sender: Issued,
    receivers: Vec<Issued>,
    roots_pem: String,
    controller: StubController,
    runtime: tokio::runtime::Runtime,
    /// The whole tables: from the push to the report that they are live, and the router's own part; each of the slowest.
    tables_live: (Duration, Duration),
    folder: tempfile::TempDir,
}

impl Rig {
    /// Starts `routers` routers in a row, whose tables serve `plan`, and waits until the tables are live.
    ///
    /// # Errors
    /// [`RigError`] says what failed and shows the end of a router's log.
    pub fn start(plan: &Plan, routers: usize) -> Result<Rig, RigError> {
        Rig::start_at(plan, routers, &Place::loopback())
    }

    /// As [`Rig::start`], with the routers at the far end of a path.
    ///
    /// # Errors
    /// As [`Rig::start`].
    pub fn start_at(plan: &Plan, routers: usize, place: &Place) -> Result<Rig, RigError> {
        Rig::start_with(plan, routers, place, &Tuning::default())
    }

    /// As [`Rig::start_at`], with routers that are not quite as they come.
    ///
    /// # Errors
    /// As [`Rig::start`].
    pub fn start_with(
        plan: &Plan,
        routers: usize,
        place: &Place,
        tuning: &Tuning,
    ) -> Result<Rig, RigError> {
        let binaries = Binaries::beside_this_program()?;
        let folder = tempfile::Builder::new()
            .prefix("caplane-load-")
            .tempdir()
            .map_err(|e| RigError::Io("temporary folder", e))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| RigError::Io("runtime", e))?;
        let authority = Authority::init(folder.path(), pki::TRUST_DOMAIN, Overwrite::Refuse)?;
        let issue = |role: &Role, name: &str| {
            authority.issue(&Request::new(pki::TRUST_DOMAIN, role, name)?)
        };
        let agent = Role::Agent {
            tenant: TENANT_NAME.to_owned(),
        };
        let controller_identity = issue(&Role::Controller, "stub")?;
        let controller = runtime.block_on(StubController::start(StubConfig {
            listen: (place.generator, 0).into(),
            chain_pem: controller_identity.chain_pem,
            key_pem: controller_identity.key_pem,
            roots_pem: authority.certificate_pem().to_owned(),
            domain: DOMAIN,
        }))?;
        let mut rig = Rig {
            members: Vec::new(),
            plan: plan.clone(),
            place: place.clone(),
            tuning: tuning.clone(),
            sender: issue(&agent, "sender")?,
            receivers: (0..plan.receivers)
                .map(|n| issue(&agent, &format!("receiver-{n}")))
                .collect::<Result<_, _>>()?,
            roots_pem: authority.certificate_pem().to_owned(),
            controller,
            runtime,
            tables_live: (Duration::ZERO, Duration::ZERO),
            folder,
        };
        for n in 0..routers {
            let issued = issue(&Role::Router, &router_name(n))?;
            rig.start_router(n, &issued, &binaries.router)?;
        }
        rig.push_tables(routers)?;
        Ok(rig)
    }

    /// What to measure.
    ///
    /// # Errors
    /// When a certificate cannot be used.
    ///
    /// # Panics
    /// Never: a rig has at least one router.
    pub fn target(&self) -> Result<Target, RigError> {
        let (first, last) = (self.members.first(), self.members.last());
        let address = |member: Option<&Member>| member.expect("a rig has a router").listen;
        Ok(Target {
            name: format!("caplane-router x {}", self.members.len()),
            ingress: address(first),
            egress: address(last),
            sender: self.credentials(&self.sender)?,
            receivers: self
                .receivers
                .iter()
                .map(|issued| self.credentials(issued))
                .collect::<Result<_, _>>()?,
            watch: ProcessWatch::new(self.members.iter().map(|m| m.process.id()).collect()),
            approach: Approach::Attach,
            co_located: true,
        })
    }

    /// Gives the first `entries` class routes of every router another weight and waits until that is live everywhere.
    ///
    /// # Errors
    /// When a router refuses or does not answer in time.
    pub fn rewrite_classes(&self, entries: usize, round: u32) -> Result<Rewritten, RigError> {
        let begun = Instant::now();
        let last = router_label(self.members.len() - 1);
        let egress = vec![Egress {
            router: last,
            weight: 1 + round % 2,
        }];
        let generations: Vec<u64> = self
            .members
            .iter()
            .map(|member| {
                self.controller.edit_table(&member.name, |table| {
                    for class in self.plan.classes.iter().take(entries) {
                        table.put(Kind::Class(ClassRoute {
                            key: Some(ClassKey {
                                tenant: self.plan.tenant,
                                label: class.bits(),
                            }),
                            own: egress.clone(),
                            subtree: egress.clone(),
                        }));
                    }
                })
            })
            .collect();
        let mut rewritten = Rewritten {
            begun,
            pushed: Instant::now(),
            live: begun,
            live_after: Duration::ZERO,
            router: Duration::ZERO,
        };
        for (member, generation) in self.members.iter().zip(generations) {
            let live = self
                .controller
                .wait_live(&member.name, generation, START_PATIENCE);
            let view = self.runtime.block_on(live)?;
            let (_, took_us) = view.live.unwrap_or_default();
            rewritten.live_after = rewritten.live_after.max(view.live_after);
            rewritten.router = rewritten.router.max(Duration::from_micros(took_us));
            if let Some((_, pushed)) = view.pushed {
                rewritten.pushed = rewritten.pushed.min(pushed);
                rewritten.live = rewritten.live.max(pushed + view.live_after);
            }
        }
        Ok(rewritten)
    }

    /// Sums of the routers' metrics.
    ///
    /// # Errors
    /// When a metrics page cannot be read.
    pub fn counters(&self) -> Result<RouterCounters, RigError> {
        let mut sum = RouterCounters::default();
        for page in self.metrics()? {
            sum.received += page.sum("router_messages_received_total");
            sum.forwarded += page.sum("router_messages_forwarded_total");
            sum.dropped += page.sum("router_drops_total");
            sum.copied_bytes += page.sum("router_copied_bytes_total");
            sum.forwarded_bytes += page.sum("router_forwarded_bytes_total");
        }
        Ok(sum)
    }

    /// The routers' metrics pages, first to last.
    ///
    /// # Errors
    /// When a metrics page cannot be read.
    pub fn metrics(&self) -> Result<Vec<Metrics>, RigError> {
        let fetch = |member: &Member| {
            let page = self.runtime.block_on(Metrics::fetch(&member.admin));
            page.map_err(|e| RigError::Io("metrics", e))
        };
        self.members.iter().map(fetch).collect()
    }

    /// How long the whole tables took at the start: from an update, made and complete, to the report that it is live, and the
    /// router's own part of that; each of the slowest router.
    pub fn tables_live(&self) -> (Duration, Duration) {
        self.tables_live
    }

    /// Process ids of the routers, first to last.
    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().map(|m| m.process.id()).collect()
    }

    fn credentials(&self, issued: &Issued) -> Result<Credentials, CredentialsError> {
        let mut trust = TrustBundle::new();
        trust.add_pem(pki::TRUST_DOMAIN, self.roots_pem.as_bytes())?;
        Credentials::from_pem(
            issued.chain_pem.as_bytes(),
            issued.key_pem.as_bytes(),
            trust,
        )
    }

    fn start_router(&mut self, n: usize, issued: &Issued, program: &Path) -> Result<(), RigError> {
        let failed = |what| move |e| RigError::Io(what, e);
        let name = router_name(n);
        // It learns its label as its session opens; the rest follows when all routers are there.
        self.controller
            .set_table(&name, Table::new(router_label(n)));
        let folder = self.folder.path().join(&name);
        issued.write(&folder, "router", Overwrite::Refuse)?;
        fs::write(folder.join("roots.pem"), &self.roots_pem).map_err(failed("roots.pem"))?;
        let config = folder.join("router.toml");
        fs::write(&config, self.router_toml(&name)).map_err(failed("router.toml"))?;
        let log = fs::File::create(folder.join("log")).map_err(failed("log"))?;
        let log_too = log.try_clone().map_err(failed("log"))?;
        let mut command = match self.place.prefix.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            None => Command::new(program),
        };
        let process = command
            .arg("--config")
            .arg(&config)
            .arg("--exit-with-stdin")
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(log_too)
            .spawn()
            .map_err(failed("starting caplane-router"))?;
        self.members.push(Member {
            name,
            process,
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            admin: String::new(),
        });
        self.wait_bound(n, &folder)
    }

    fn router_toml(&self, name: &str) -> String {
        let controller = self.controller.address();
        let payload = self.plan.udp_payload_max;
        let listen = self.place.server;
        let domain = pki::TRUST_DOMAIN;
        let Tuning { driver, workers } = &self.tuning;
        let line = |text: Option<String>| text.unwrap_or_default();
        let workers = line(workers.map(|n| format!("workers = {n}\n")));
        let driver = line(
            driver
                .as_ref()
                .map(|name| format!("[io]\ndriver = \"{name}\"\n")),
        );
        format!(
            "name = \"{name}\"\nlisten = \"{listen}:0\"\nadmin = \"127.0.0.1:0\"\nstate_dir = \".\"\n{workers}\
             [controller]\naddresses = [\"{controller}\"]\n\
             [credentials]\nchain = \"router.pem\"\nkey = \"router-key.pem\"\n\
             trust = [{{ domain = \"{domain}\", roots = \"roots.pem\" }}]\n\
             [quic]\nudp_payload_bytes_max = {payload}\n{driver}"
        )
    }

    fn wait_bound(&mut self, n: usize, folder: &Path) -> Result<(), RigError> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            let text = fs::read_to_string(folder.join("addresses.json")).unwrap_or_default();
            let bound: BTreeMap<String, serde_json::Value> =
                serde_json::from_str(&text).unwrap_or_default();
            let address = |key: &str| bound.get(key)?.as_str().map(str::to_owned);
            if let (Some(listen), Some(admin)) = (address("listen"), address("admin"))
                && let Ok(listen) = listen.parse()
            {
                self.members[n].listen = listen;
                self.members[n].admin = admin;
                return Ok(());
            }
            if let Ok(Some(status)) = self.members[n].process.try_wait() {
                return Err(self.router_failed(n, format!("ended with {status}")));
            }
            if Instant::now() > deadline {
                return Err(
                    self.router_failed(n, format!("no addresses.json within {START_PATIENCE:?}"))
                );
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    fn router_failed(&self, n: usize, what: String) -> RigError {
        let name = self.members[n].name.clone();
        let text =
            fs::read_to_string(self.folder.path().join(&name).join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        RigError::Router {
            what,
            log: lines[lines.len().saturating_sub(12)..].join("\n"),
            name,
        }
    }

    fn push_tables(&mut self, routers: usize) -> Result<(), RigError> {
        let tables: Vec<Table> = (0..routers).map(|n| self.table(n, routers)).collect();
        let generations: Vec<u64> = tables
            .into_iter()
            .enumerate()
            .map(|(n, table)| self.controller.set_table(&router_name(n), table))
            .collect();
        for (n, generation) in generations.into_iter().enumerate() {
            let name = router_name(n);
            let live = self.controller.wait_live(&name, generation, START_PATIENCE);
            let view = self.runtime.block_on(live)?;
            let (_, took_us) = view.live.unwrap_or_default();
            self.tables_live.0 = self.tables_live.0.max(view.live_after);
            self.tables_live.1 = self.tables_live.1.max(Duration::from_micros(took_us));
        }
        self.wait_links(routers)
    }

    /// Waits until each router sees its neighbours alive.
    fn wait_links(&self, routers: usize) -> Result<(), RigError> {
        let deadline = Instant::now() + START_PATIENCE;
        for (n, member) in self.members.iter().enumerate() {
            let wanted = usize::from(n > 0) + usize::from(n + 1 < routers);
            if wanted == 0 {
                continue;
            }
            loop {
                let page = self
                    .runtime
                    .block_on(Metrics::fetch(&member.admin))
                    .map_err(|e| RigError::Io("metrics", e))?;
                let alive = page.sum("router_links_alive");
                if alive >= wanted as f64 {
                    break;
                }
                if Instant::now() > deadline {
                    let what = format!("{alive} of {wanted} links alive after {START_PATIENCE:?}");
                    return Err(self.router_failed(n, what));
                }
                std::thread::park_timeout(Duration::from_millis(10));
            }
        }
        Ok(())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for member in &mut self.members {
            // With its standard input at an end a router drains and ends.
            drop(member.process.stdin.take());
        }
        let deadline = Instant::now() + END_PATIENCE;
        for member in &mut self.members {
            while matches!(member.process.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::park_timeout(Duration::from_millis(10));
            }
            // Errors mean that it has ended already.
            let _ = member.process.kill();
            let _ = member.process.wait();
        }
    }
}

fn router_name(n: usize) -> String {
    format!("r{}", n + 1)
}

fn router_label(n: usize) -> u32 {
    Label::router(n as u32 + 1)
        .expect("router numbers are small")
        .bits()
}
