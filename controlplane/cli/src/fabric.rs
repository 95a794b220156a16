//! A whole fabric on one machine: a controller and routers as child processes
//! of this one, with development certificates and configurations in a state
//! folder. `caplane up` and the end-to-end tests are its users.
//!
//! It knows processes, files and the northbound API. It refuses to know
//! messages: those are the client library's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use caplane_proto::v1;
use caplane_proto::v1::entity::Entity as Kind;
use caplane_proto::v1::update::Type as UpdateType;

use crate::api::{Api, ApiCredentials, ApiError};
use crate::pki::{self, Authority, Overwrite, PemFiles, PkiError, Role};

mod binaries;
mod child;
mod configuration;
mod member;
mod observe;

pub use binaries::Binaries;
pub use child::Signal;
pub use configuration::{FabricConfig, LinkSpec, RouterSpec};
pub use observe::{Metrics, cpu_time};

use child::{Child, POLL};
use member::Member;

/// Longest a child may take to bind its sockets, and the fabric to become ready.
const READY_PATIENCE: Duration = Duration::from_secs(30);
/// Longest a child may take to end after a signal.
const END_PATIENCE: Duration = Duration::from_secs(15);
/// Name of the one controller.
pub const CONTROLLER: &str = "c1";
/// Name of the operator whose certificate the fabric uses, and leaves for the CLI.
pub const OPERATOR: &str = "admin";

/// Why a fabric could not be started or told something.
#[derive(Debug, thiserror::Error)]
pub enum FabricError {
    /// The operating system refused.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A sibling program is not there.
    #[error("{name} is in none of {searched:?}; build it with `cargo build --release --bins`")]
    NoBinary {
        /// The program.
        name: &'static str,
        /// Folders looked in.
        searched: Vec<PathBuf>,
    },
    /// A child ended by itself.
    #[error("{name} ended with {how}; the end of its log {}:\n{tail}", log.display())]
    Ended {
        /// The child.
        name: String,
        /// Exit code or signal.
        how: String,
        /// Its log.
        log: PathBuf,
        /// Last lines of the log.
        tail: String,
    },
    /// Something did not happen in time.
    #[error("waited {patience:?} for {what}; last seen: {seen}\n{tail}")]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long.
        patience: Duration,
        /// The state when patience ended.
        seen: String,
        /// Last lines of the log concerned; may be empty.
        tail: String,
    },
    /// No child of that name, or not in the state needed.
    #[error("{name}: {cause}")]
    Child {
        /// The name given.
        name: String,
        /// What is wrong.
        cause: &'static str,
    },
    /// A certificate could not be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The controller refused, or was out of reach.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// A running fabric. Its children end when it is dropped, and when this process dies.
#[derive(Debug)]
pub struct Fabric {
    config: FabricConfig,
    authority: Authority,
    api: Api,
    members: BTreeMap<String, Member>,
}

/// The identity of an agent: its name in certificates and where they lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentIdentity {
    /// `spiffe://<trust domain>/tenant/<tenant>/agent/<name>`.
    pub uri: String,
    /// Tenant; "shared" is tenant 0.
    pub tenant: String,
    /// Certificate chain and key.
    pub files: PemFiles,
}

impl Fabric {
    /// Starts a controller and the routers of `config`, registers routers and
    /// links, and waits until every router forwards by a table that has them all.
    ///
    /// # Errors
    /// [`FabricError`]; children started so far are ended.
    pub async fn start(config: FabricConfig) -> Result<Self, FabricError> {
        config.check()?;
        let authority = Authority::load_or_init(&config.folder, &config.trust_domain)?;
        let mut members = BTreeMap::new();
        let role = Role::Controller;
        pki::issue_to(
            &authority,
            &config.folder,
            &role,
            CONTROLLER,
            Overwrite::Replace,
        )?;
        pki::issue_to(
            &authority,
            &config.folder,
            &Role::Operator,
            OPERATOR,
            Overwrite::Replace,
        )?;
        let mut controller = Member::new(&config, &config.binaries.controller, CONTROLLER);
        controller.configure(&config.controller_toml(&controller.addresses))?;
        controller.start(CONTROLLER).await?;
        // From now on a restart comes back at the same addresses.
        controller.configure(&config.controller_toml(&controller.addresses))?;
        let address = controller.address(CONTROLLER, "northbound")?.to_owned();
        let southbound = controller.address(CONTROLLER, "southbound")?.to_owned();
        let credentials = operator_credentials(&config.folder)?;
        let api = controller.connect(&address, &credentials).await?;
        members.insert(CONTROLLER.to_owned(), controller);

        let mut fabric = Self {
            config,
            authority,
            api,
            members,
        };
        fabric.register_topology().await?;
        fabric.start_routers(&southbound).await?;
        fabric.wait_live().await?;
        fabric.wait_links().await?;
        Ok(fabric)
    }

    /// The state folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.config.folder
    }

    /// The authority that issued everybody's certificates.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The root certificate every peer trusts.
    #[must_use]
    pub fn roots(&self) -> PathBuf {
        self.config.folder.join(pki::CA_FILE)
    }

    /// The northbound API, as an operator.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Names of the routers, in the order of the configuration.
    pub fn routers(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.config
            .routers
            .iter()
            .map(|router| router.name.as_str())
    }

    /// Address of a router's QUIC socket ("ip:port"), where agents attach.
    ///
    /// # Errors
    /// [`FabricError::Child`] for an unknown name.
    pub fn router_address(&self, router: &str) -> Result<&str, FabricError> {
        self.member(router)?.address(router, "listen")
    }

    /// Address of the controller's northbound API ("ip:port").
    ///
    /// # Errors
    /// None once started.
    pub fn northbound_address(&self) -> Result<&str, FabricError> {
        self.member(CONTROLLER)?.address(CONTROLLER, "northbound")
    }

    /// Path of the unix socket of the controller's northbound API, where there is one.
    #[must_use]
    pub fn northbound_socket(&self) -> Option<&str> {
        let controller = self.members.get(CONTROLLER)?;
        controller.address(CONTROLLER, "northbound_unix").ok()
    }

    /// Address of the controller's southbound service ("ip:port"), where routers open sessions.
    ///
    /// # Errors
    /// None once started.
    pub fn southbound_address(&self) -> Result<&str, FabricError> {
        self.member(CONTROLLER)?.address(CONTROLLER, "southbound")
    }

    /// Process id of a running child.
    ///
    /// # Errors
    /// [`FabricError::Child`] for an unknown name or a stopped child.
    pub fn pid(&self, name: &str) -> Result<u32, FabricError> {
        let child = self.member(name)?.running.as_ref();
        child
            .map(Child::pid)
            .ok_or_else(|| no_child(name, "is not running; restart it first"))
    }

    /// Where a child's log lies.
    ///
    /// # Errors
    /// [`FabricError::Child`] for an unknown name.
    pub fn log(&self, name: &str) -> Result<PathBuf, FabricError> {
        Ok(self.member(name)?.log_path())
    }

    /// User and system time a child has used.
    ///
    /// # Errors
    /// [`FabricError::Child`] or [`FabricError::Io`].
    pub fn cpu_time(&self, name: &str) -> Result<Duration, FabricError> {
        let pid = self.pid(name)?;
        cpu_time(pid).map_err(|source| FabricError::Io {
            operation: "read",
            path: PathBuf::from(format!("/proc/{pid}/stat")),
            source,
        })
    }

    /// A router's metrics page, now.
    ///
    /// # Errors
    /// [`FabricError::Child`] or [`FabricError::Io`].
    pub async fn metrics(&self, router: &str) -> Result<Metrics, FabricError> {
        let address = self.member(router)?.address(router, "admin")?;
        Metrics::fetch(address)
            .await
            .map_err(|source| FabricError::Io {
                operation: "read the metrics of",
                path: PathBuf::from(router),
                source,
            })
    }

    /// Issues a certificate for an agent; it is not registered yet.
    ///
    /// # Errors
    /// [`FabricError::Pki`].
    pub fn issue_agent(&self, tenant: &str, name: &str) -> Result<AgentIdentity, FabricError> {
        let role = Role::Agent {
            tenant: tenant.to_owned(),
        };
        let folder = &self.config.folder;
        let (issued, files) =
            pki::issue_to(&self.authority, folder, &role, name, Overwrite::Replace)?;
        Ok(AgentIdentity {
            uri: issued.uri,
            tenant: tenant.to_owned(),
            files,
        })
    }

    /// Registers an agent with its card and grants it whatever its skills are
    /// classified as. `adjust` may change the entity before it is written.
    ///
    /// # Errors
    /// [`FabricError::Api`].
    pub async fn register_agent(
        &self,
        identity: &AgentIdentity,
        card: &[u8],
        adjust: impl FnOnce(&mut v1::Agent),
    ) -> Result<v1::Agent, FabricError> {
        if identity.tenant != "shared" {
            let tenant = v1::Tenant {
                name: identity.tenant.clone(),
                ..Default::default()
            };
            match self.api.insert(Kind::Tenant(tenant)).await {
                Err(error) if error.code() != tonic::Code::AlreadyExists => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
        let mut agent = v1::Agent {
            uri: identity.uri.clone(),
            card: card.to_vec(),
            tenant: identity.tenant.clone(),
            ..Default::default()
        };
        adjust(&mut agent);
        let grant = v1::Grant {
            agent_uri: identity.uri.clone(),
            class_path: "*".to_owned(),
            ..Default::default()
        };
        let batch = [
            (UpdateType::Insert, Kind::Agent(agent)),
            (UpdateType::Insert, Kind::Grant(grant)),
        ];
        let answer = self.api.write(batch).await?;
        match answer
            .entities
            .into_iter()
            .next()
            .and_then(|entity| entity.entity)
        {
            Some(Kind::Agent(agent)) => Ok(agent),
            _ => Err(ApiError::Nonsense {
                call: "Write",
                missing: "the agent written",
            }
            .into()),
        }
    }

    /// Ends a child with a signal and waits until it is gone.
    ///
    /// # Errors
    /// [`FabricError::Child`], [`FabricError::Io`] or [`FabricError::Deadline`].
    pub async fn stop(&mut self, name: &str, signal: Signal) -> Result<(), FabricError> {
        let running = self.member_mut(name)?.running.as_mut();
        let child = running.ok_or_else(|| no_child(name, "is not running"))?;
        child.signal(signal)?;
        child.wait(END_PATIENCE).await?;
        self.member_mut(name)?.running = None;
        Ok(())
    }

    /// Starts a stopped child again with its configuration, state and addresses,
    /// and waits until its sockets are bound.
    ///
    /// # Errors
    /// [`FabricError::Child`] when it runs, else as [`Fabric::start`].
    pub async fn restart(&mut self, name: &str) -> Result<(), FabricError> {
        let member = self.member_mut(name)?;
        if member.running.is_some() {
            return Err(no_child(name, "is running; stop it first"));
        }
        member.start(name).await
    }

    /// Fails when a child that should run has ended.
    ///
    /// # Errors
    /// [`FabricError::Ended`] with the end of its log.
    pub fn check_running(&mut self) -> Result<(), FabricError> {
        let mut running = self
            .members
            .values_mut()
            .filter_map(|member| member.running.as_mut());
        running.try_for_each(Child::check_running)
    }

    /// Waits until every running router forwards by the controller's newest generation.
    ///
    /// # Errors
    /// [`FabricError::Deadline`] with what each router holds; [`FabricError::Ended`].
    pub async fn wait_live(&mut self) -> Result<u64, FabricError> {
        self.wait_for("every router to hold the newest generation", |_| true)
            .await
    }

    /// Waits until `condition` holds for the routers as the controller reports
    /// them and every running one forwards by the newest generation.
    ///
    /// # Errors
    /// As [`Fabric::wait_live`].
    pub async fn wait_for(
        &mut self,
        what: &str,
        condition: impl Fn(&[v1::Router]) -> bool,
    ) -> Result<u64, FabricError> {
        let begun = Instant::now();
        let mut poll = tokio::time::interval(POLL);
        loop {
            poll.tick().await;
            self.check_running()?;
            let (routers, generation) = self.api.routers().await?;
            let live = |router: &v1::Router| {
                let runs = self
                    .members
                    .get(&router.name)
                    .is_some_and(|m| m.running.is_some());
                !runs || (router.connected && router.live_generation == generation)
            };
            if routers.iter().all(live) && condition(&routers) {
                return Ok(generation);
            }
            if begun.elapsed() > READY_PATIENCE {
                let seen = routers.iter().map(|router| {
                    let v1::Router {
                        name,
                        connected,
                        live_generation,
                        instances,
                        ..
                    } = router;
                    format!(
                        "{name} connected={connected} live={live_generation} instances={instances}"
                    )
                });
                let seen = seen.collect::<Vec<_>>().join(", ");
                return Err(FabricError::Deadline {
                    what: what.to_owned(),
                    patience: READY_PATIENCE,
                    seen: format!("generation {generation}; {seen}"),
                    tail: String::new(),
                });
            }
        }
    }

    /// Waits until every running router has heard all neighbours that its table names.
    ///
    /// # Errors
    /// [`FabricError::Deadline`] with what each router hears; [`FabricError::Ended`].
    pub async fn wait_links(&mut self) -> Result<(), FabricError> {
        let begun = Instant::now();
        let mut poll = tokio::time::interval(POLL);
        loop {
            poll.tick().await;
            self.check_running()?;
            let mut missing = Vec::new();
            for name in self.routers().filter(|name| self.pid(name).is_ok()) {
                let metrics = self.metrics(name).await?;
                let (alive, all) = (
                    metrics.sum("router_links_alive"),
                    metrics.sum("router_neighbours"),
                );
                if alive < all {
                    missing.push(format!("{name} hears {alive} of {all} neighbours"));
                }
            }
            if missing.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > READY_PATIENCE {
                return Err(FabricError::Deadline {
                    what: "every link to be alive".to_owned(),
                    patience: READY_PATIENCE,
                    seen: missing.join(", "),
                    tail: String::new(),
                });
            }
        }
    }

    /// Waits until that many instances are attached, as the controller knows,
    /// and every router's table has them.
    ///
    /// # Errors
    /// As [`Fabric::wait_live`].
    pub async fn wait_instances(&mut self, count: u32) -> Result<u64, FabricError> {
        let what = format!("{count} attached instances in every table");
        self.wait_for(&what, |routers| {
            routers.iter().map(|r| r.instances).sum::<u32>() == count
        })
        .await
    }

    async fn register_topology(&self) -> Result<(), FabricError> {
        let routers = self.config.routers.iter().map(|router| {
            let uri = pki::uri_of(&self.config.trust_domain, &Role::Router, &router.name)?;
            Ok(Kind::Router(v1::Router {
                name: router.name.clone(),
                uri,
                ..Default::default()
            }))
        });
        let links = self.config.links.iter().map(|link| {
            let (a, b) = (link.a.clone(), link.b.clone());
            Ok(Kind::Link(v1::Link {
                a,
                b,
                cost: link.cost,
            }))
        });
        let entities: Vec<Kind> = routers.chain(links).collect::<Result<_, PkiError>>()?;
        self.api
            .write(
                entities
                    .into_iter()
                    .map(|entity| (UpdateType::Insert, entity)),
            )
            .await?;
        Ok(())
    }

    async fn start_routers(&mut self, southbound: &str) -> Result<(), FabricError> {
        for router in self.config.routers.clone() {
            let folder = &self.config.folder;
            pki::issue_to(
                &self.authority,
                folder,
                &Role::Router,
                &router.name,
                Overwrite::Replace,
            )?;
            let mut member = Member::new(&self.config, &self.config.binaries.router, &router.name);
            let text = self
                .config
                .router_toml(&router, southbound, &member.addresses);
            member.configure(&text)?;
            member.start(&router.name).await?;
            let text = self
                .config
                .router_toml(&router, southbound, &member.addresses);
            member.configure(&text)?;
            self.members.insert(router.name, member);
        }
        Ok(())
    }

    fn member(&self, name: &str) -> Result<&Member, FabricError> {
        self.members
            .get(name)
            .ok_or_else(|| no_child(name, "is no child of this fabric"))
    }

    fn member_mut(&mut self, name: &str) -> Result<&mut Member, FabricError> {
        self.members
            .get_mut(name)
            .ok_or_else(|| no_child(name, "is no child of this fabric"))
    }
}

/// The operator's credentials that a fabric left in its state folder.
///
/// # Errors
/// [`FabricError::Io`] naming the file that is missing.
pub fn operator_credentials(folder: &Path) -> Result<ApiCredentials, FabricError> {
    let read = |path: PathBuf| {
        std::fs::read_to_string(&path).map_err(|source| FabricError::Io {
            operation: "read",
            path,
            source,
        })
    };
    let files = PemFiles::at(folder, &format!("{}-{OPERATOR}", Role::Operator.as_str()));
    Ok(ApiCredentials {
        chain_pem: read(files.chain)?,
        key_pem: read(files.key)?,
        roots_pem: read(folder.join(pki::CA_FILE))?,
        controller_uri: String::new(),
    })
}

fn no_child(name: &str, cause: &'static str) -> FabricError {
    FabricError::Child {
        name: name.to_owned(),
        cause,
    }
}
