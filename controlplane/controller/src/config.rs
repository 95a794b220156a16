//! `controller.toml`, parsed once into types that cannot be invalid.
//!
//! Every default stands in [`defaults`] with its unit and reason. Knows nothing
//! of sockets, certificates' contents or the store: files named here are read
//! by whoever needs them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::access::Rule;
use crate::quota::Quota;
use crate::salts::Salts;

pub mod defaults;
mod raw;
mod roles;

#[cfg(test)]
mod tests;

/// A whole, valid configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerConfig {
    /// Name in logs and in `addresses.json`: 1 to 64 bytes of `[A-Za-z0-9._-]`.
    pub name: String,
    /// Administrative domain, as AS numbers are; 0 = the only one.
    pub domain: u32,
    /// TCP address for operators and orchestrators; port 0 lets the kernel choose.
    pub listen_northbound: SocketAddr,
    /// TCP address for routers; port 0 lets the kernel choose.
    pub listen_southbound: SocketAddr,
    /// "host:port" at which operators reach this controller; `None` = where it listens.
    pub advertise_northbound: Option<String>,
    /// "host:port" at which routers do.
    pub advertise_southbound: Option<String>,
    /// Folder of `addresses.json`, and of the store unless told otherwise.
    pub state_dir: PathBuf,
    /// Unix socket of the northbound API for this user and root; `None` = there is none.
    pub listen_unix: Option<PathBuf>,
    /// Who may use the northbound API, and as what.
    pub roles: Vec<Rule>,
    /// Taxonomy files, joined; empty = the shipped one.
    pub taxonomy: Vec<PathBuf>,
    /// Salts of those whose agent identity codes are checked (`[acps] salts`).
    pub salts: Salts,
    /// Who this controller is and whom it believes.
    pub credentials: CredentialsConfig,
    /// What each client of the northbound API may ask for.
    pub quota: Quota,
    /// Audit records kept; the oldest are forgotten, which is recorded.
    pub audit_records_max: u64,
    /// Where the desired state is kept.
    pub store: StoreConfig,
    /// How long things may take.
    pub timers: Timers,
}

/// Who this controller is and whom it believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialsConfig {
    /// PEM file: the controller's certificate, then its intermediates.
    pub chain: PathBuf,
    /// PEM file: the private key of the first certificate.
    pub key: PathBuf,
    /// Roots per trust domain; at least one, no domain twice.
    pub trust: Vec<TrustRoots>,
}

/// The roots of one trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustRoots {
    /// Trust domain as it stands in `spiffe://<domain>/...`.
    pub domain: String,
    /// PEM file of one or more root certificates.
    pub roots: PathBuf,
}

/// Where the desired state is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// The redb file.
    pub path: PathBuf,
    /// Changed table entries remembered for routers that come back.
    pub change_log_entries_max: usize,
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// A router silent for this long loses its attachments.
    pub router_lease: Duration,
    /// Longest a router may take to answer a table update.
    pub answer_timeout: Duration,
    /// Longest a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// How long a step of a change waits for the routers that must have the step before; zero = changes go in one step.
    pub make_before_break: Duration,
    /// Longest wait for open calls to end after SIGTERM.
    pub drain_period: Duration,
}

/// What the names of local users begin with, where others have a URI.
pub const LOCAL_USER: &str = "unix:uid/";

/// One URI, or all that begin with a text ending in `/` (written with a `*` after it).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UriPattern {
    text: String,
    prefix: bool,
}

impl UriPattern {
    /// The holder of a process on this machine, by its user's number.
    #[must_use]
    pub fn local_user(uid: u32) -> Self {
        Self {
            text: format!("{LOCAL_USER}{uid}"),
            prefix: false,
        }
    }

    /// Parses `spiffe://domain/operator/ada`, `spiffe://domain/operator/*` or `unix:uid/1000`.
    ///
    /// # Errors
    /// What is wrong with the text, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(uid) = text.strip_prefix(LOCAL_USER) {
            let uid = uid.parse();
            return uid
                .map(Self::local_user)
                .map_err(|_| format!("\"{text}\": write a user's number, \"{LOCAL_USER}1000\""));
        }
        let (body, prefix) = match text.strip_suffix('*') {
            Some(body) => (body, true),
            None => (text, false),
        };
        if body.contains('*') {
            return Err(format!("\"{text}\": \"*\" may stand at the end only"));
        }
        if prefix && !body.ends_with('/') {
            return Err(format!("\"{text}\": \"*\" must follow a \"/\""));
        }
        let probe = if prefix {
            format!("{body}x")
        } else {
            body.to_owned()
        };
        caplane_wire::PeerName::parse(&probe).map_err(|e| format!("\"{text}\": {e}"))?;
        Ok(Self {
            text: body.to_owned(),
            prefix,
        })
    }

    /// What sorts the more special of two patterns later: one name, else the longer text.
    #[must_use]
    pub fn speciality(&self) -> (bool, usize) {
        (!self.prefix, self.text.len())
    }

    /// Whether `uri` is one of those meant.
    #[must_use]
    pub fn matches(&self, uri: &str) -> bool {
        if self.prefix {
            uri.len() > self.text.len() && uri.starts_with(&self.text)
        } else {
            uri == self.text
        }
    }
}

impl std::fmt::Display for UriPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)?;
        f.write_str(if self.prefix { "*" } else { "" })
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {}: {source}; name the configuration with --config", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The text is wrong.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Invalid {
        /// The file, as the caller named it.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// Field, offending value, remedy.
        message: String,
    },
}

impl ControllerConfig {
    /// Reads and checks a file; relative paths in it are taken from its folder.
    ///
    /// # Errors
    /// [`ConfigError`]: unreadable, or wrong with line and column.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Checks a configuration's text; `path` is what errors name and relative paths start from.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let folder = path.parent().unwrap_or(Path::new(""));
        raw::parse(text, folder).map_err(|fault| {
            let (line, column) = place(text, fault.offset);
            ConfigError::Invalid {
                path: path.to_owned(),
                line,
                column,
                message: fault.message,
            }
        })
    }
}

/// Line and column, both from 1, of a byte offset.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
}
