//! The file as it is written: every field optional where a default exists,
//! every value with its place, so that a check can point at it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::roles::{RawRole, rules};
use super::{ControllerConfig, CredentialsConfig, StoreConfig, Timers, TrustRoots, defaults};
use crate::quota::Quota;
use crate::salts::{Salt, Salts};

/// Longest path of a socket while it is made (bytes): Linux takes 107, and it is made under a name that is 4 longer.
const SOCKET_PATH_BYTES_MAX: usize = 103;

/// What is wrong, at which byte of the text.
pub(super) struct Fault {
    pub(super) offset: usize,
    pub(super) message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    name: Spanned<String>,
    domain: Option<Spanned<u64>>,
    listen_northbound: Spanned<String>,
    listen_southbound: Spanned<String>,
    advertise_northbound: Option<Spanned<String>>,
    advertise_southbound: Option<Spanned<String>>,
    state_dir: PathBuf,
    listen_unix: Option<Spanned<PathBuf>>,
    operators: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default)]
    roles: Vec<RawRole>,
    #[serde(default)]
    taxonomy: Vec<PathBuf>,
    credentials: RawCredentials,
    #[serde(default)]
    acps: RawAcps,
    #[serde(default)]
    audit: RawAudit,
    #[serde(default)]
    quota: RawQuota,
    #[serde(default)]
    store: RawStore,
    #[serde(default)]
    timers: RawTimers,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCredentials {
    chain: PathBuf,
    key: PathBuf,
    trust: Spanned<Vec<RawTrust>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTrust {
    domain: Spanned<String>,
    roots: PathBuf,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawAcps {
    #[serde(default)]
    salts: Vec<RawSalt>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSalt {
    prefix: Spanned<String>,
    salt: Spanned<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawQuota {
    calls_per_second: Option<Spanned<u64>>,
    updates_per_second: Option<Spanned<u64>>,
    bytes_per_second: Option<Spanned<u64>>,
    watches: Option<Spanned<u64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawAudit {
    records_max: Option<Spanned<u64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawStore {
    path: Option<PathBuf>,
    change_log_entries_max: Option<Spanned<u64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawTimers {
    router_lease_ms: Option<Spanned<u64>>,
    answer_timeout_ms: Option<Spanned<u64>>,
    handshake_timeout_ms: Option<Spanned<u64>>,
    make_before_break_ms: Option<Spanned<u64>>,
    drain_period_ms: Option<Spanned<u64>>,
}

/// Parses and checks; relative paths are taken from `folder`.
pub(super) fn parse(text: &str, folder: &Path) -> Result<ControllerConfig, Fault> {
    let raw: RawConfig = toml::from_str(text).map_err(|e| Fault {
        offset: e.span().map_or(0, |span| span.start),
        message: e.message().to_owned(),
    })?;
    let state_dir = folder.join(raw.state_dir);
    let entries = raw.store.change_log_entries_max.as_ref();
    Ok(ControllerConfig {
        name: name(&raw.name)?,
        domain: bounded(raw.domain.as_ref(), "domain", 0, 0, u64::from(u32::MAX))? as u32,
        listen_northbound: address(&raw.listen_northbound, "listen_northbound")?,
        listen_southbound: address(&raw.listen_southbound, "listen_southbound")?,
        roles: rules(
            raw.operators.as_ref(),
            &raw.roles,
            raw.listen_unix.is_some(),
        )?,
        listen_unix: match &raw.listen_unix {
            Some(path) => Some(socket(path, folder)?),
            None => None,
        },
        advertise_northbound: advertised(
            raw.advertise_northbound.as_ref(),
            "advertise_northbound",
        )?,
        advertise_southbound: advertised(
            raw.advertise_southbound.as_ref(),
            "advertise_southbound",
        )?,
        taxonomy: raw.taxonomy.iter().map(|path| folder.join(path)).collect(),
        salts: salts(&raw.acps.salts)?,
        credentials: credentials(raw.credentials, folder)?,
        quota: quota(&raw.quota)?,
        audit_records_max: bounded(
            raw.audit.records_max.as_ref(),
            "records_max",
            defaults::AUDIT_RECORDS_MAX,
            100,
            100_000_000,
        )?,
        store: StoreConfig {
            path: match raw.store.path {
                Some(path) => folder.join(path),
                None => state_dir.join(defaults::STORE_FILE),
            },
            change_log_entries_max: bounded(
                entries,
                "change_log_entries_max",
                defaults::CHANGE_LOG_ENTRIES_MAX as u64,
                16,
                16_777_216,
            )? as usize,
        },
        timers: timers(&raw.timers)?,
        state_dir,
    })
}

pub(super) fn fault<T>(at: &Spanned<T>, message: impl Into<String>) -> Fault {
    Fault {
        offset: at.span().start,
        message: message.into(),
    }
}

/// Whether a text may be the name of a controller or tenant.
pub(super) fn name_is_good(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=64).contains(&text.len()) && text.bytes().all(allowed)
}

fn name(raw: &Spanned<String>) -> Result<String, Fault> {
    let text = raw.get_ref();
    if !name_is_good(text) {
        return Err(fault(
            raw,
            format!("name \"{text}\" must be 1 to 64 characters of A-Z a-z 0-9 . _ -"),
        ));
    }
    Ok(text.clone())
}

fn address(raw: &Spanned<String>, field: &str) -> Result<std::net::SocketAddr, Fault> {
    let text = raw.get_ref();
    text.parse().map_err(|_| {
        fault(
            raw,
            format!(
                "{field} \"{text}\" is no IP address with a port; write for example \"127.0.0.1:7400\" (port 0 = any free port)"
            ),
        )
    })
}

/// Where others reach this controller; `None` = where it listens.
fn advertised(raw: Option<&Spanned<String>>, field: &str) -> Result<Option<String>, Fault> {
    let Some(raw) = raw else { return Ok(None) };
    let text = raw.get_ref();
    let sound = text.len() <= 261
        && text.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
    if !sound {
        return Err(fault(
            raw,
            format!(
                "{field} \"{text}\" must be \"host:port\", as others reach this controller; leave it out when that is where it listens"
            ),
        ));
    }
    Ok(Some(text.clone()))
}

/// A path that the operating system takes for a socket.
fn socket(raw: &Spanned<PathBuf>, folder: &Path) -> Result<PathBuf, Fault> {
    let path = folder.join(raw.get_ref());
    let bytes = path.as_os_str().len();
    if bytes > SOCKET_PATH_BYTES_MAX {
        let message = format!(
            "listen_unix \"{}\" has {bytes} bytes with its folder, sockets take {SOCKET_PATH_BYTES_MAX}; choose a shorter one, for example \"/run/caplane/c1.sock\"",
            path.display()
        );
        return Err(fault(raw, message));
    }
    Ok(path)
}

fn credentials(raw: RawCredentials, folder: &Path) -> Result<CredentialsConfig, Fault> {
    if raw.trust.get_ref().is_empty() {
        return Err(fault(
            &raw.trust,
            "trust is empty, so no peer could be believed; add { domain = \"...\", roots = \"ca.pem\" }",
        ));
    }
    let mut trust: Vec<TrustRoots> = Vec::new();
    for entry in raw.trust.into_inner() {
        let domain = entry.domain.get_ref();
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b);
        if domain.is_empty() || domain.len() > 255 || !domain.bytes().all(allowed) {
            return Err(fault(
                &entry.domain,
                format!(
                    "trust domain \"{domain}\" must be 1 to 255 characters of a-z 0-9 . - _ (as in spiffe://<domain>/...)"
                ),
            ));
        }
        if trust.iter().any(|known| known.domain == *domain) {
            return Err(fault(
                &entry.domain,
                format!(
                    "trust domain \"{domain}\" is here twice; put all its roots into one PEM file"
                ),
            ));
        }
        trust.push(TrustRoots {
            domain: domain.clone(),
            roots: folder.join(entry.roots),
        });
    }
    Ok(CredentialsConfig {
        chain: folder.join(raw.chain),
        key: folder.join(raw.key),
        trust,
    })
}

fn salts(raw: &[RawSalt]) -> Result<Salts, Fault> {
    let mut salts: Vec<Salt> = Vec::new();
    for entry in raw {
        // Of the two the fault's words say which.
        let at = match Salt::parse(entry.prefix.get_ref(), "00") {
            Ok(_) => &entry.salt,
            Err(_) => &entry.prefix,
        };
        let salt = Salt::parse(entry.prefix.get_ref(), entry.salt.get_ref())
            .map_err(|cause| fault(at, format!("acps: {cause}")))?;
        if salts.iter().any(|known| known.prefix() == salt.prefix()) {
            let cause = format!(
                "acps: prefix \"{}\" is here twice; an issuer has one salt",
                salt.prefix()
            );
            return Err(fault(&entry.prefix, cause));
        }
        salts.push(salt);
    }
    Ok(Salts::new(salts))
}

fn quota(raw: &RawQuota) -> Result<Quota, Fault> {
    let Quota {
        calls_per_second,
        updates_per_second,
        bytes_per_second,
        watches,
    } = defaults::QUOTA;
    let rate = |raw: &Option<Spanned<u64>>, field, default: u32| {
        let max = u64::from(u32::MAX);
        bounded(raw.as_ref(), field, default.into(), 1, max).map(|value| value as u32)
    };
    Ok(Quota {
        calls_per_second: rate(&raw.calls_per_second, "calls_per_second", calls_per_second)?,
        updates_per_second: rate(
            &raw.updates_per_second,
            "updates_per_second",
            updates_per_second,
        )?,
        bytes_per_second: rate(&raw.bytes_per_second, "bytes_per_second", bytes_per_second)?,
        watches: rate(&raw.watches, "watches", watches)?,
    })
}

fn timers(raw: &RawTimers) -> Result<Timers, Fault> {
    let time = |raw: &Option<Spanned<u64>>, field, default: Duration, min_ms, max_ms| {
        bounded(
            raw.as_ref(),
            field,
            default.as_millis() as u64,
            min_ms,
            max_ms,
        )
        .map(Duration::from_millis)
    };
    Ok(Timers {
        router_lease: time(
            &raw.router_lease_ms,
            "router_lease_ms",
            defaults::ROUTER_LEASE,
            200,
            3_600_000,
        )?,
        answer_timeout: time(
            &raw.answer_timeout_ms,
            "answer_timeout_ms",
            defaults::ANSWER_TIMEOUT,
            100,
            3_600_000,
        )?,
        handshake_timeout: time(
            &raw.handshake_timeout_ms,
            "handshake_timeout_ms",
            defaults::HANDSHAKE_TIMEOUT,
            100,
            60_000,
        )?,
        make_before_break: time(
            &raw.make_before_break_ms,
            "make_before_break_ms",
            defaults::MAKE_BEFORE_BREAK,
            0,
            60_000,
        )?,
        drain_period: time(
            &raw.drain_period_ms,
            "drain_period_ms",
            defaults::DRAIN_PERIOD,
            0,
            600_000,
        )?,
    })
}

/// A number between `min` and `max`, or the default.
fn bounded(
    raw: Option<&Spanned<u64>>,
    field: &str,
    default: u64,
    min: u64,
    max: u64,
) -> Result<u64, Fault> {
    let Some(raw) = raw else { return Ok(default) };
    let value = *raw.get_ref();
    if !(min..=max).contains(&value) {
        return Err(fault(
            raw,
            format!(
                "{field} = {value} is out of range; allowed are {min} to {max}, the default is {default}"
            ),
        ));
    }
    Ok(value)
}
