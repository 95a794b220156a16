//! What a fabric is to be, and the TOML its programs are given.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::{Binaries, CONTROLLER, FabricError};
use crate::pki::{self, PemFiles, TRUST_DOMAIN};

/// Name of the controller's unix socket in its folder.
const SOCKET_FILE: &str = "api.sock";

/// Longest path that the controller takes for one (bytes).
const SOCKET_PATH_BYTES_MAX: usize = 103;

/// What a fabric is to be.
#[derive(Debug, Clone)]
pub struct FabricConfig {
    /// State folder; created. Holds certificates, and a folder per program.
    pub folder: PathBuf,
    /// The programs.
    pub binaries: Binaries,
    /// Trust domain of the certificates.
    pub trust_domain: String,
    /// Where the programs listen unless a router says otherwise; ports are free ones.
    pub ip: IpAddr,
    /// Routers, in order of their labels.
    pub routers: Vec<RouterSpec>,
    /// Links between them.
    pub links: Vec<LinkSpec>,
    /// More lines for `controller.toml`, before its tables.
    pub controller_lines: String,
    /// More tables for `controller.toml`, `[timers]…`.
    pub controller_tables: String,
}

/// One router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterSpec {
    /// Its name, "r1".
    pub name: String,
    /// Its QUIC socket; `None` = a free port of the fabric's address.
    pub listen: Option<SocketAddr>,
    /// Where others are told to find it, when that is a relay in between.
    pub advertise: Option<String>,
    /// Its worker threads.
    pub workers: u8,
    /// More tables for its `router.toml`, `[limits]…`.
    pub tables: String,
}

/// One link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSpec {
    /// Name of one end.
    pub a: String,
    /// Name of the other.
    pub b: String,
    /// 1..=65535.
    pub cost: u32,
}

impl FabricConfig {
    /// `routers` routers r1, r2, … in a line, on 127.0.0.1, with the sibling programs.
    ///
    /// # Errors
    /// [`FabricError::NoBinary`].
    pub fn line(folder: impl Into<PathBuf>, routers: usize) -> Result<Self, FabricError> {
        let names: Vec<String> = (1..=routers).map(|number| format!("r{number}")).collect();
        let links = names
            .windows(2)
            .map(|pair| LinkSpec::new(&pair[0], &pair[1]));
        Ok(Self {
            folder: folder.into(),
            binaries: Binaries::beside_this_program()?,
            trust_domain: TRUST_DOMAIN.to_owned(),
            ip: Ipv4Addr::LOCALHOST.into(),
            links: links.collect(),
            routers: names.into_iter().map(RouterSpec::new).collect(),
            controller_lines: String::new(),
            controller_tables: String::new(),
        })
    }

    /// As [`FabricConfig::line`], with the last router linked to the first.
    ///
    /// # Errors
    /// [`FabricError::NoBinary`].
    pub fn ring(folder: impl Into<PathBuf>, routers: usize) -> Result<Self, FabricError> {
        let mut config = Self::line(folder, routers)?;
        if let [first, .., last] = config.routers.as_slice() {
            config.links.push(LinkSpec::new(&last.name, &first.name));
        }
        Ok(config)
    }

    /// The same with these tables added to every router's configuration.
    #[must_use]
    pub fn router_tables(mut self, tables: &str) -> Self {
        for router in &mut self.routers {
            router.tables.push_str(tables);
            router.tables.push('\n');
        }
        self
    }

    /// The same with this many worker threads in every router.
    #[must_use]
    pub fn workers(mut self, workers: u8) -> Self {
        for router in &mut self.routers {
            router.workers = workers;
        }
        self
    }

    pub(super) fn check(&self) -> Result<(), FabricError> {
        let refuse = |name: &str, cause| {
            Err(FabricError::Child {
                name: name.to_owned(),
                cause,
            })
        };
        for (index, router) in self.routers.iter().enumerate() {
            if router.name == CONTROLLER {
                return refuse(
                    &router.name,
                    "is the controller's name; give the router another",
                );
            }
            if self.routers[..index]
                .iter()
                .any(|other| other.name == router.name)
            {
                return refuse(&router.name, "is the name of two routers; give one another");
            }
        }
        for end in self.links.iter().flat_map(|link| [&link.a, &link.b]) {
            if !self.routers.iter().any(|router| router.name == *end) {
                return refuse(end, "ends a link and is no router of this fabric");
            }
        }
        Ok(())
    }

    pub(super) fn controller_toml(&self, bound: &BTreeMap<String, String>) -> String {
        let free = SocketAddr::new(self.ip, 0).to_string();
        let listen = |key: &str| quoted(bound.get(key).unwrap_or(&free));
        format!(
            "name = {name}\n\
             listen_northbound = {northbound}\n\
             listen_southbound = {southbound}\n\
             state_dir = \".\"\n\
             operators = [{operators}]\n\
             {socket}\
             {lines}\n\
             {credentials}\
             {tables}\n",
            name = quoted(CONTROLLER),
            northbound = listen("northbound"),
            southbound = listen("southbound"),
            operators = quoted(&format!("spiffe://{}/operator/*", self.trust_domain)),
            socket = self.socket_line(),
            lines = self.controller_lines,
            credentials = self.credentials_toml("controller", CONTROLLER),
            tables = self.controller_tables,
        )
    }

    /// The controller's unix socket, where the operating system takes its path.
    fn socket_line(&self) -> String {
        let path = self.folder.join(CONTROLLER).join(SOCKET_FILE);
        let path = std::path::absolute(&path).unwrap_or(path);
        match path.as_os_str().len() {
            0..=SOCKET_PATH_BYTES_MAX => {
                format!("listen_unix = {}\n", quoted(&path.to_string_lossy()))
            }
            _ => String::new(),
        }
    }

    pub(super) fn router_toml(
        &self,
        router: &RouterSpec,
        southbound: &str,
        bound: &BTreeMap<String, String>,
    ) -> String {
        let free = |ip: IpAddr| SocketAddr::new(ip, 0).to_string();
        let listen = router
            .listen
            .map_or_else(|| free(self.ip), |address| address.to_string());
        let listen = bound.get("listen").unwrap_or(&listen);
        let admin = free(Ipv4Addr::LOCALHOST.into());
        let admin = bound.get("admin").unwrap_or(&admin);
        let advertise = router.advertise.as_ref();
        let advertise =
            advertise.map_or_else(String::new, |at| format!("advertise = {}\n", quoted(at)));
        format!(
            "name = {name}\n\
             listen = {listen}\n\
             admin = {admin}\n\
             {advertise}\
             state_dir = \".\"\n\
             workers = {workers}\n\
             \n[controller]\naddresses = [{southbound}]\n\
             {credentials}\
             {tables}\n",
            name = quoted(&router.name),
            listen = quoted(listen),
            admin = quoted(admin),
            workers = router.workers,
            southbound = quoted(southbound),
            credentials = self.credentials_toml("router", &router.name),
            tables = router.tables,
        )
    }

    fn credentials_toml(&self, role: &str, name: &str) -> String {
        let folder = std::path::absolute(&self.folder).unwrap_or_else(|_| self.folder.clone());
        let files = PemFiles::at(&folder, &format!("{role}-{name}"));
        let path = |path: &Path| quoted(&path.to_string_lossy());
        format!(
            "\n[credentials]\nchain = {}\nkey = {}\ntrust = [{{ domain = {}, roots = {} }}]\n",
            path(&files.chain),
            path(&files.key),
            quoted(&self.trust_domain),
            path(&folder.join(pki::CA_FILE)),
        )
    }
}

impl RouterSpec {
    /// A router at a free port, with every default.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            listen: None,
            advertise: None,
            workers: 1,
            tables: String::new(),
        }
    }
}

impl LinkSpec {
    /// A link of cost 1.
    #[must_use]
    pub fn new(a: &str, b: &str) -> Self {
        Self {
            a: a.to_owned(),
            b: b.to_owned(),
            cost: 1,
        }
    }
}

/// A TOML basic string; JSON's escapes are among those TOML knows.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(routers: usize) -> FabricConfig {
        let names: Vec<String> = (1..=routers).map(|number| format!("r{number}")).collect();
        FabricConfig {
            folder: PathBuf::from("/state \"x\""),
            binaries: Binaries {
                controller: PathBuf::new(),
                router: PathBuf::new(),
            },
            trust_domain: TRUST_DOMAIN.to_owned(),
            ip: Ipv4Addr::LOCALHOST.into(),
            links: vec![LinkSpec::new("r1", "r2")],
            routers: names.into_iter().map(RouterSpec::new).collect(),
            controller_lines: String::new(),
            controller_tables: "[timers]\nrouter_lease_ms = 2000".to_owned(),
        }
    }

    #[test]
    fn bound_addresses_are_kept_for_a_restart() {
        let config = ring(2).router_tables("[quic]\npath_mtu_discovery = false");
        let fresh = config.router_toml(&config.routers[0], "127.0.0.1:9", &BTreeMap::new());
        assert!(
            fresh.contains("listen = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nstate_dir"),
            "{fresh}"
        );
        assert!(fresh.contains("addresses = [\"127.0.0.1:9\"]"), "{fresh}");
        assert!(
            fresh.contains("chain = \"/state \\\"x\\\"/router-r1.pem\""),
            "{fresh}"
        );
        assert!(
            fresh.contains("[quic]\npath_mtu_discovery = false\n"),
            "{fresh}"
        );
        let bound = BTreeMap::from([("listen".to_owned(), "127.0.0.1:4433".to_owned())]);
        let again = config.router_toml(&config.routers[0], "127.0.0.1:9", &bound);
        assert!(
            again.contains("listen = \"127.0.0.1:4433\"\nadmin = \"127.0.0.1:0\""),
            "{again}"
        );
        let relayed = RouterSpec {
            advertise: Some("127.0.0.1:77".into()),
            ..RouterSpec::new("r2")
        };
        let relayed = config.router_toml(&relayed, "x:1", &BTreeMap::new());
        assert!(
            relayed.contains("advertise = \"127.0.0.1:77\"\nstate_dir"),
            "{relayed}"
        );
        let controller = config.controller_toml(&BTreeMap::new());
        assert!(
            controller.contains("operators = [\"spiffe://caplane.local/operator/*\"]"),
            "{controller}"
        );
        assert!(
            controller.contains("listen_unix = \"/state \\\"x\\\"/c1/api.sock\"\n"),
            "{controller}"
        );
        let mut deep = ring(2);
        deep.folder = PathBuf::from(format!("/{}", "x".repeat(100)));
        assert!(
            !deep
                .controller_toml(&BTreeMap::new())
                .contains("listen_unix")
        );
        assert!(
            controller.ends_with("[timers]\nrouter_lease_ms = 2000\n"),
            "{controller}"
        );
    }

    #[test]
    fn a_fabric_that_cannot_be_is_refused_before_anything_starts() {
        let mut config = ring(2);
        config.check().expect("fits");
        config.links.push(LinkSpec::new("r2", "r9"));
        let error = config.check().expect_err("no such router").to_string();
        assert_eq!(error, "r9: ends a link and is no router of this fabric");
        config.links.pop();
        config.routers.push(RouterSpec::new("r1"));
        let error = config.check().expect_err("twice").to_string();
        assert_eq!(error, "r1: is the name of two routers; give one another");
    }
}
