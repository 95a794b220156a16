//! Where the fabric is and who asks: command-line flags first, then what
//! `caplane up` left in its state folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use caplane_client::{Credentials, TrustBundle};
use serde::{Deserialize, Serialize};

use crate::api::{Api, ApiCredentials, ApiError, WriteOptions};
use crate::fabric::OPERATOR;
use crate::failure::{Exit, Failure};
use crate::pki::{CA_FILE, PemFiles, TRUST_DOMAIN};

/// What `caplane up` writes about itself, so that other commands find the fabric.
pub const FABRIC_FILE: &str = "fabric.json";
/// Version of the file's form.
pub const FABRIC_SCHEMA: &str = "caplane.fabric/1";

/// Content of [`FABRIC_FILE`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FabricFile {
    /// [`FABRIC_SCHEMA`].
    pub schema: String,
    /// Process id of the `caplane up` that wrote it.
    pub pid: u32,
    /// "ip:port" of the northbound API.
    pub controller: String,
    /// The same by its unix socket, "unix:///path".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller_local: Option<String>,
    /// Router name to "ip:port".
    pub routers: BTreeMap<String, String>,
    /// Trust domain of the certificates.
    pub trust_domain: String,
}

/// What the global flags say.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// State folder.
    pub state: PathBuf,
    /// "host:port" of the northbound API, several with commas between, or "unix:///path".
    pub controller: Option<String>,
    /// URI that the controller's certificate must carry, see [`ApiCredentials::controller_uri`].
    pub controller_uri: String,
    /// Operator's name: its files are `operator-<name>.pem` in the state folder. `None` = [`OPERATOR`], or this user
    /// where the fabric has a unix socket.
    pub operator: Option<String>,
    /// Certificate chain instead of the state folder's.
    pub chain: Option<PathBuf>,
    /// Key instead of the state folder's.
    pub key: Option<PathBuf>,
    /// Roots instead of the state folder's.
    pub roots: Option<PathBuf>,
    /// How commands write.
    pub write: WriteOptions,
}

/// The state folder when none is given: `$XDG_STATE_HOME/caplane`, else `~/.local/state/caplane`.
#[must_use]
pub fn default_state() -> PathBuf {
    let from = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty());
    from("XDG_STATE_HOME")
        .map(|folder| PathBuf::from(folder).join("caplane"))
        .or_else(|| from("HOME").map(|home| PathBuf::from(home).join(".local/state/caplane")))
        .unwrap_or_else(|| PathBuf::from("caplane-state"))
}

impl Settings {
    /// What `caplane up` left behind, if anything.
    ///
    /// # Errors
    /// When the file is there and cannot be understood.
    pub fn fabric(&self) -> Result<Option<FabricFile>, Failure> {
        let path = self.state.join(FABRIC_FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(&path, &error)),
        };
        match serde_json::from_str::<FabricFile>(&text) {
            Ok(file) if file.schema == FABRIC_SCHEMA => Ok(Some(file)),
            Ok(file) => Err(Failure::new(
                Exit::Usage,
                format!(
                    "{} is of the form {:?}, this command reads {FABRIC_SCHEMA:?}; start `caplane up` anew",
                    path.display(),
                    file.schema
                ),
            )),
            Err(error) => Err(unreadable(&path, &error)),
        }
    }

    /// Connects to the northbound API as the operator.
    ///
    /// # Errors
    /// [`Failure`] naming the file or the address.
    pub async fn api(&self) -> Result<Api, Failure> {
        let address = match &self.controller {
            Some(address) => address.clone(),
            None => {
                let fabric = self.fabric()?;
                let file = fabric.ok_or_else(|| self.no_fabric("--controller HOST:PORT"))?;
                // Who names somebody else asks as that one.
                let as_this_user =
                    self.operator.is_none() && self.chain.is_none() && self.key.is_none();
                let local = file.controller_local.filter(|_| as_this_user);
                local.unwrap_or(file.controller)
            }
        };
        if address.starts_with("unix:") {
            let api = Api::connect_local(&address).await?;
            return Ok(api.with_options(self.write.clone()));
        }
        let operator = self.operator.as_deref().unwrap_or(OPERATOR);
        let files = self.files(&format!("operator-{operator}"));
        let credentials = ApiCredentials {
            chain_pem: read(&files.chain)?,
            key_pem: read(&files.key)?,
            roots_pem: read(&self.roots_path())?,
            controller_uri: self.controller_uri.clone(),
        };
        let api = first(&address, &credentials).await?;
        Ok(api.with_options(self.write.clone()))
    }

    /// Credentials of the agent `name`, for attaching to a router.
    ///
    /// # Errors
    /// [`Failure`] naming the file.
    pub fn agent_credentials(&self, name: &str) -> Result<Credentials, Failure> {
        let files = self.files(&format!("agent-{name}"));
        let mut trust = TrustBundle::new();
        let refused = |error: caplane_client::CredentialsError| {
            Failure::new(
                Exit::Usage,
                format!("{error}; make it with `caplane pki issue agent {name}`"),
            )
        };
        trust
            .add_file(&self.trust_domain()?, &self.roots_path())
            .map_err(refused)?;
        Credentials::from_files(&files.chain, &files.key, trust).map_err(refused)
    }

    /// Routers an agent may attach to: those given, else those of the state folder's fabric.
    ///
    /// # Errors
    /// When there are none.
    pub fn routers(&self, given: &[String]) -> Result<Vec<String>, Failure> {
        if !given.is_empty() {
            let known = self
                .fabric()
                .ok()
                .flatten()
                .map(|file| file.routers)
                .unwrap_or_default();
            let address = |router: &String| known.get(router).unwrap_or(router).clone();
            return Ok(given.iter().map(address).collect());
        }
        let file = self
            .fabric()?
            .ok_or_else(|| self.no_fabric("--router HOST:PORT"))?;
        Ok(file.routers.into_values().collect())
    }

    /// Trust domain of the state folder's fabric, else the development one.
    ///
    /// # Errors
    /// When [`FABRIC_FILE`] cannot be understood.
    pub fn trust_domain(&self) -> Result<String, Failure> {
        Ok(self
            .fabric()?
            .map_or_else(|| TRUST_DOMAIN.to_owned(), |file| file.trust_domain))
    }

    fn files(&self, stem: &str) -> PemFiles {
        let files = PemFiles::at(&self.state, stem);
        PemFiles {
            chain: self.chain.clone().unwrap_or(files.chain),
            key: self.key.clone().unwrap_or(files.key),
        }
    }

    fn roots_path(&self) -> PathBuf {
        self.roots
            .clone()
            .unwrap_or_else(|| self.state.join(CA_FILE))
    }

    fn no_fabric(&self, flag: &str) -> Failure {
        Failure::new(
            Exit::Usage,
            format!(
                "no fabric is known in {}; start one with `caplane up`, or say {flag}",
                self.state.display()
            ),
        )
    }
}

/// Connects to the first of these controllers that can be reached.
async fn first(addresses: &str, credentials: &ApiCredentials) -> Result<Api, ApiError> {
    let mut addresses = addresses.split(',').map(str::trim);
    let mut connected = Api::connect(addresses.next().unwrap_or_default(), credentials).await;
    for address in addresses {
        if connected.is_ok() {
            break;
        }
        connected = Api::connect(address, credentials).await;
    }
    connected
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    let remedy = "check --state, or give --chain, --key and --roots";
    Failure::new(
        Exit::Usage,
        format!("cannot read {}: {error}; {remedy}", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(state: &Path) -> Settings {
        Settings {
            state: state.to_owned(),
            operator: Some("admin".into()),
            ..Settings::default()
        }
    }

    #[test]
    fn a_running_fabric_is_found_by_its_file() {
        let folder = tempfile::tempdir().expect("folder");
        let settings = settings(folder.path());
        assert_eq!(settings.fabric().expect("no file"), None);
        let error = settings
            .routers(&[])
            .expect_err("nothing known")
            .to_string();
        assert!(
            error.contains("start one with `caplane up`, or say --router HOST:PORT"),
            "{error}"
        );
        let file = FabricFile {
            schema: FABRIC_SCHEMA.into(),
            pid: 1,
            controller: "127.0.0.1:1".into(),
            controller_local: None,
            routers: [("r1".to_owned(), "127.0.0.1:2".to_owned())].into(),
            trust_domain: "example.org".into(),
        };
        let text = serde_json::to_string(&file).expect("JSON");
        std::fs::write(folder.path().join(FABRIC_FILE), text).expect("written");
        assert_eq!(settings.fabric().expect("reads"), Some(file));
        assert_eq!(settings.trust_domain().expect("reads"), "example.org");
        assert_eq!(
            settings
                .routers(&["r1".into(), "h:9".into()])
                .expect("known"),
            ["127.0.0.1:2", "h:9"]
        );
        std::fs::write(folder.path().join(FABRIC_FILE), "{\"schema\": 1}").expect("written");
        let error = settings.fabric().expect_err("broken").to_string();
        assert!(
            error.contains("fabric.json: ") && error.contains("line 1 column"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn missing_credentials_are_named() {
        let folder = tempfile::tempdir().expect("folder");
        let settings = Settings {
            controller: Some("127.0.0.1:1".into()),
            ..settings(folder.path())
        };
        let error = settings.api().await.expect_err("no files").to_string();
        assert!(
            error.contains("operator-admin.pem") && error.contains("--chain"),
            "{error}"
        );
        let error = settings
            .agent_credentials("fx")
            .expect_err("no files")
            .to_string();
        assert!(error.contains("caplane pki issue agent fx"), "{error}");
    }
}
