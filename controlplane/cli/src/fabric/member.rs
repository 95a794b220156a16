//! One program of the fabric: its files, its addresses, and the process that
//! comes and goes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::child::{Child, POLL};
use super::{FabricConfig, FabricError, READY_PATIENCE, no_child};
use crate::api::{Api, ApiCredentials};

/// One child: its program and configuration outlive the process, which comes and goes.
#[derive(Debug)]
pub(super) struct Member {
    program: PathBuf,
    folder: PathBuf,
    pub(super) running: Option<Child>,
    /// What the program said it listens at; kept over a restart.
    pub(super) addresses: BTreeMap<String, String>,
}

impl Member {
    pub(super) fn new(config: &FabricConfig, program: &Path, name: &str) -> Self {
        Self {
            program: program.to_owned(),
            folder: config.folder.join(name),
            running: None,
            addresses: BTreeMap::new(),
        }
    }

    fn config_path(&self) -> PathBuf {
        self.folder.join("config.toml")
    }

    /// Writes the configuration that the next start reads.
    pub(super) fn configure(&self, text: &str) -> Result<(), FabricError> {
        let path = self.config_path();
        std::fs::create_dir_all(&self.folder)
            .and_then(|()| std::fs::write(&path, text))
            .map_err(|source| FabricError::Io {
                operation: "write",
                path,
                source,
            })
    }

    pub(super) fn log_path(&self) -> PathBuf {
        self.folder.join("log")
    }

    pub(super) fn address(&self, name: &str, key: &str) -> Result<&str, FabricError> {
        let address = self.addresses.get(key).map(String::as_str);
        address.ok_or_else(|| no_child(name, "has not said at which addresses it listens"))
    }

    /// Starts the process and waits for `addresses.json`.
    pub(super) async fn start(&mut self, name: &str) -> Result<(), FabricError> {
        let addresses = self.folder.join("addresses.json");
        match std::fs::remove_file(&addresses) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(FabricError::Io {
                    operation: "remove",
                    path: addresses,
                    source,
                });
            }
            _ => {}
        }
        let mut child = Child::start(name, &self.program, &self.config_path(), self.log_path())?;
        let begun = Instant::now();
        let mut poll = tokio::time::interval(POLL);
        self.addresses = loop {
            poll.tick().await;
            // Whole or absent: it is put in place by a rename.
            if let Ok(text) = std::fs::read_to_string(&addresses) {
                break read_addresses(&addresses, &text)?;
            }
            child.check_running()?;
            if begun.elapsed() > READY_PATIENCE {
                return Err(FabricError::Deadline {
                    what: format!("{name} to bind its sockets"),
                    patience: READY_PATIENCE,
                    seen: format!("no {}", addresses.display()),
                    tail: child.tail(),
                });
            }
        };
        self.running = Some(child);
        Ok(())
    }

    /// Connects to the northbound API of this member, a controller that has just started.
    pub(super) async fn connect(
        &mut self,
        address: &str,
        credentials: &ApiCredentials,
    ) -> Result<Api, FabricError> {
        let begun = Instant::now();
        let mut poll = tokio::time::interval(POLL);
        loop {
            poll.tick().await;
            match Api::connect(address, credentials).await {
                Ok(api) => return Ok(api),
                Err(error) if begun.elapsed() > READY_PATIENCE => return Err(error.into()),
                Err(_) => self.running.as_mut().map_or(Ok(()), Child::check_running)?,
            }
        }
    }
}

fn read_addresses(path: &Path, text: &str) -> Result<BTreeMap<String, String>, FabricError> {
    let json: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(text).map_err(|error| FabricError::Io {
            operation: "understand",
            path: path.to_owned(),
            source: error.into(),
        })?;
    let texts = json
        .into_iter()
        .filter_map(|(key, value)| Some((key, value.as_str()?.to_owned())));
    Ok(texts.collect())
}
