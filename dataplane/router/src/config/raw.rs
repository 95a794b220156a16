//! The file as it is written: every field optional where a default exists,
//! every value with its place, so that a check can point at it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use caplane_core::fib::Rate;
use caplane_transport::Io;
use serde::Deserialize;
use toml::Spanned;

use super::{
    ControllerConfig, CredentialsConfig, HostPort, IoConfig, Limits, QuicConfig, RouterConfig,
    Timers, TrustRoots, defaults,
};

/// What is wrong, at which byte of the text.
pub(super) struct Fault {
    pub(super) offset: usize,
    pub(super) message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    name: Spanned<String>,
    listen: Spanned<String>,
    admin: Option<Spanned<String>>,
    advertise: Option<Spanned<String>>,
    state_dir: PathBuf,
    workers: Option<Spanned<RawWorkers>>,
    controller: RawController,
    credentials: RawCredentials,
    #[serde(default)]
    quic: RawQuic,
    #[serde(default)]
    io: RawIo,
    #[serde(default)]
    limits: RawLimits,
    #[serde(default)]
    timers: RawTimers,
}

/// A number, or "auto".
#[derive(Deserialize)]
#[serde(untagged)]
enum RawWorkers {
    Count(u64),
    Word(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawController {
    addresses: Spanned<Vec<Spanned<String>>>,
    server_name: Option<Spanned<String>>,
    uri: Option<Spanned<String>>,
    trust_domain: Option<Spanned<String>>,
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
struct RawQuic {
    udp_payload_bytes_max: Option<Spanned<u64>>,
    path_mtu_discovery: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawIo {
    driver: Option<Spanned<String>>,
    interface: Option<Spanned<String>>,
    agent_dscp: Option<Spanned<u64>>,
    link_dscp: Option<Spanned<u64>>,
    busy_poll_us: Option<Spanned<u64>>,
    pin_workers: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    peers_max: Option<Spanned<u64>>,
    bulk_message_bytes_max: Option<Spanned<u64>>,
    queue_bytes_max: Option<Spanned<u64>>,
    queue_total_bytes_max: Option<Spanned<u64>>,
    resolve_outstanding_max: Option<Spanned<u64>>,
    instance_messages_per_second: Option<Spanned<u64>>,
    instance_bytes_per_second: Option<Spanned<u64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawTimers {
    idle_timeout_ms: Option<Spanned<u64>>,
    silence_timeout_ms: Option<Spanned<u64>>,
    hello_timeout_ms: Option<Spanned<u64>>,
    probe_interval_ms: Option<Spanned<u64>>,
    probe_misses: Option<Spanned<u64>>,
    drain_period_ms: Option<Spanned<u64>>,
    resolve_timeout_ms: Option<Spanned<u64>>,
}

/// Parses and checks; relative paths are taken from `folder`.
pub(super) fn parse(text: &str, folder: &Path) -> Result<RouterConfig, Fault> {
    let raw: RawConfig = toml::from_str(text).map_err(|e| Fault {
        offset: e.span().map_or(0, |span| span.start),
        message: e.message().to_owned(),
    })?;
    let listen = address(&raw.listen, "listen", "0.0.0.0:4433")?;
    let credentials = credentials(raw.credentials, folder)?;
    Ok(RouterConfig {
        name: name(&raw.name)?,
        listen,
        admin: admin(raw.admin.as_ref())?,
        advertise: advertise(raw.advertise.as_ref(), listen, &raw.listen)?,
        state_dir: folder.join(raw.state_dir),
        workers: workers(raw.workers.as_ref())?,
        controller: controller(raw.controller, &credentials)?,
        credentials,
        quic: quic(&raw.quic)?,
        io: io(&raw.io)?,
        limits: limits(&raw.limits)?,
        timers: timers(&raw.timers)?,
    })
}

fn fault<T>(at: &Spanned<T>, message: impl Into<String>) -> Fault {
    Fault {
        offset: at.span().start,
        message: message.into(),
    }
}

fn name(raw: &Spanned<String>) -> Result<String, Fault> {
    let text = raw.get_ref();
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if text.is_empty() || text.len() > 64 || !text.bytes().all(allowed) {
        return Err(fault(
            raw,
            format!("name \"{text}\" must be 1 to 64 characters of A-Z a-z 0-9 . _ -"),
        ));
    }
    Ok(text.clone())
}

fn address(raw: &Spanned<String>, field: &str, example: &str) -> Result<SocketAddr, Fault> {
    raw.get_ref().parse().map_err(|_| {
        fault(
            raw,
            format!(
                "{field} \"{}\" is no IP address with a port; write for example \"{example}\" (port 0 = any free port)",
                raw.get_ref()
            ),
        )
    })
}

fn admin(raw: Option<&Spanned<String>>) -> Result<SocketAddr, Fault> {
    let Some(raw) = raw else {
        return Ok(defaults::ADMIN
            .parse()
            .expect("the default admin address is an address: a test parses it"));
    };
    let parsed = address(raw, "admin", defaults::ADMIN)?;
    if !parsed.ip().is_loopback() {
        return Err(fault(
            raw,
            format!(
                "admin \"{parsed}\" is not a loopback address; the endpoint is plain HTTP, so it listens on 127.0.0.0/8 or [::1] only"
            ),
        ));
    }
    Ok(parsed)
}

fn advertise(
    raw: Option<&Spanned<String>>,
    listen: SocketAddr,
    listen_raw: &Spanned<String>,
) -> Result<Option<HostPort>, Fault> {
    match raw {
        Some(raw) => Ok(Some(host_port(raw, "advertise")?)),
        None if listen.ip().is_unspecified() => Err(fault(
            listen_raw,
            format!(
                "listen \"{listen}\" is every address, so nobody can be told where to find this router; add advertise = \"host:port\""
            ),
        )),
        None => Ok(None),
    }
}

fn host_port(raw: &Spanned<String>, field: &str) -> Result<HostPort, Fault> {
    HostPort::parse(raw.get_ref()).map_err(|cause| fault(raw, format!("{field}: {cause}")))
}

fn workers(raw: Option<&Spanned<RawWorkers>>) -> Result<u8, Fault> {
    let Some(raw) = raw else {
        return Ok(defaults::WORKERS);
    };
    let wanted = match raw.get_ref() {
        RawWorkers::Count(count) => u8::try_from(*count).ok(),
        RawWorkers::Word(word) if word == "auto" => {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            Some(cores.min(usize::from(defaults::WORKERS_MAX)) as u8)
        }
        RawWorkers::Word(_) => None,
    };
    wanted
        .filter(|count| (1..=defaults::WORKERS_MAX).contains(count))
        .ok_or_else(|| {
            fault(
                raw,
                format!(
                    "workers must be 1 to {}, or \"auto\" for one on each core",
                    defaults::WORKERS_MAX
                ),
            )
        })
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
        if trust.iter().any(|t| t.domain == *domain) {
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

fn controller(
    raw: RawController,
    credentials: &CredentialsConfig,
) -> Result<ControllerConfig, Fault> {
    if raw.addresses.get_ref().is_empty() {
        return Err(fault(
            &raw.addresses,
            "addresses is empty; name at least one controller as \"host:port\"",
        ));
    }
    let addresses = raw
        .addresses
        .get_ref()
        .iter()
        .map(|a| host_port(a, "addresses"))
        .collect::<Result<Vec<_>, _>>()?;
    let trust_domain = match &raw.trust_domain {
        None => credentials.trust[0].domain.clone(),
        Some(domain) => {
            if !credentials
                .trust
                .iter()
                .any(|t| t.domain == *domain.get_ref())
            {
                return Err(fault(
                    domain,
                    format!(
                        "trust_domain \"{}\" has no roots; add it to credentials.trust",
                        domain.get_ref()
                    ),
                ));
            }
            domain.get_ref().clone()
        }
    };
    let server_name = match raw.server_name {
        None => defaults::CONTROLLER_SERVER_NAME.to_owned(),
        Some(name) if name.get_ref().is_empty() => {
            return Err(fault(
                &name,
                "server_name is empty; leave it out for the default",
            ));
        }
        Some(name) => name.into_inner(),
    };
    let uri = match raw.uri {
        None => format!("spiffe://{trust_domain}/controller/"),
        Some(uri) => {
            let text = uri.get_ref();
            // A beginning names nobody yet.
            let probe = match text.ends_with('/') {
                true => format!("{text}x"),
                false => text.clone(),
            };
            let name = caplane_wire::PeerName::parse(&probe).map_err(|cause| {
                fault(&uri, format!("uri \"{text}\": {cause}; name the controller's certificate, or end it in \"/\" for all whose URI begins so"))
            })?;
            if name.trust_domain() != trust_domain {
                return Err(fault(
                    &uri,
                    format!(
                        "uri \"{text}\" is not of trust_domain \"{trust_domain}\", whose roots vouch for controllers"
                    ),
                ));
            }
            uri.into_inner()
        }
    };
    Ok(ControllerConfig {
        addresses,
        server_name,
        uri,
        trust_domain,
    })
}

/// A number within `range`, or the default.
fn bounded(
    raw: Option<&Spanned<u64>>,
    field: &str,
    default: u64,
    range: std::ops::RangeInclusive<u64>,
) -> Result<u64, Fault> {
    let Some(raw) = raw else { return Ok(default) };
    let value = *raw.get_ref();
    if !range.contains(&value) {
        return Err(fault(
            raw,
            format!(
                "{field} = {value} is out of range; allowed are {} to {}, the default is {default}",
                range.start(),
                range.end()
            ),
        ));
    }
    Ok(value)
}

fn size(
    raw: Option<&Spanned<u64>>,
    field: &str,
    default: usize,
    range: std::ops::RangeInclusive<u64>,
) -> Result<usize, Fault> {
    bounded(raw, field, default as u64, range).map(|v| v as usize)
}

fn quic(raw: &RawQuic) -> Result<QuicConfig, Fault> {
    Ok(QuicConfig {
        udp_payload_bytes_max: size(
            raw.udp_payload_bytes_max.as_ref(),
            "udp_payload_bytes_max",
            defaults::UDP_PAYLOAD_BYTES_MAX,
            1_200..=16_383,
        )?,
        path_mtu_discovery: raw
            .path_mtu_discovery
            .unwrap_or(defaults::PATH_MTU_DISCOVERY),
    })
}

fn io(raw: &RawIo) -> Result<IoConfig, Fault> {
    let dscp = |raw: &Option<Spanned<u64>>, field: &str| {
        size(raw.as_ref(), field, defaults::DSCP, 0..=63).map(|dscp| dscp as u8)
    };
    let interface = match &raw.interface {
        // IFNAMSIZ counts the closing zero.
        Some(name) if !(1..=15).contains(&name.get_ref().len()) => {
            let told = "interface must be the name of a network device, 1 to 15 bytes";
            return Err(fault(name, told.to_owned()));
        }
        name => name.as_ref().map(|name| name.get_ref().clone()),
    };
    let driver = match raw
        .driver
        .as_ref()
        .map(|name| (name, name.get_ref().as_str()))
    {
        None | Some((_, "auto")) => Io::Auto,
        Some((_, "mio")) => Io::Mio,
        Some((_, "uring")) => Io::Uring,
        Some((name, other)) => {
            let told = format!("driver \"{other}\" is none of \"auto\", \"mio\", \"uring\"");
            return Err(fault(name, told));
        }
    };
    let busy_poll = raw.busy_poll_us.as_ref();
    let busy_poll_us = size(
        busy_poll,
        "busy_poll_us",
        defaults::BUSY_POLL_US,
        0..=10_000,
    )?;
    Ok(IoConfig {
        driver,
        interface,
        agent_dscp: dscp(&raw.agent_dscp, "agent_dscp")?,
        link_dscp: dscp(&raw.link_dscp, "link_dscp")?,
        busy_poll: Duration::from_micros(busy_poll_us as u64),
        pin_workers: raw.pin_workers.unwrap_or(defaults::PIN_WORKERS),
    })
}

fn limits(raw: &RawLimits) -> Result<Limits, Fault> {
    const GIB: u64 = 1 << 30;
    let rate = |raw: &Option<Spanned<u64>>, field| {
        bounded(raw.as_ref(), field, defaults::INSTANCE_RATE, 0..=Rate::MAX)
    };
    Ok(Limits {
        peers_max: size(
            raw.peers_max.as_ref(),
            "peers_max",
            defaults::PEERS_MAX,
            1..=1_000_000,
        )?,
        bulk_message_bytes_max: bounded(
            raw.bulk_message_bytes_max.as_ref(),
            "bulk_message_bytes_max",
            defaults::BULK_MESSAGE_BYTES_MAX,
            65_536..=GIB,
        )?,
        // Below two of the largest lane messages a queue could hold none while one is leaving.
        queue_bytes_max: size(
            raw.queue_bytes_max.as_ref(),
            "queue_bytes_max",
            defaults::QUEUE_BYTES_MAX,
            131_072..=GIB,
        )?,
        queue_total_bytes_max: size(
            raw.queue_total_bytes_max.as_ref(),
            "queue_total_bytes_max",
            defaults::QUEUE_TOTAL_BYTES_MAX,
            1_048_576..=64 * GIB,
        )?,
        resolve_outstanding_max: size(
            raw.resolve_outstanding_max.as_ref(),
            "resolve_outstanding_max",
            defaults::RESOLVE_OUTSTANDING_MAX,
            1..=65_536,
        )?,
        instance_rate: Rate {
            messages_per_second: rate(
                &raw.instance_messages_per_second,
                "instance_messages_per_second",
            )?,
            bytes_per_second: rate(&raw.instance_bytes_per_second, "instance_bytes_per_second")?,
            burst_ms: 0,
        },
    })
}

fn timers(raw: &RawTimers) -> Result<Timers, Fault> {
    let ms = |raw: &Option<Spanned<u64>>, field, default, range| {
        bounded(raw.as_ref(), field, default, range).map(Duration::from_millis)
    };
    Ok(Timers {
        idle_timeout: ms(
            &raw.idle_timeout_ms,
            "idle_timeout_ms",
            defaults::IDLE_TIMEOUT_MS,
            500..=600_000,
        )?,
        silence_timeout: ms(
            &raw.silence_timeout_ms,
            "silence_timeout_ms",
            defaults::SILENCE_TIMEOUT_MS,
            200..=600_000,
        )?,
        hello_timeout: ms(
            &raw.hello_timeout_ms,
            "hello_timeout_ms",
            defaults::HELLO_TIMEOUT_MS,
            100..=60_000,
        )?,
        probe_interval: ms(
            &raw.probe_interval_ms,
            "probe_interval_ms",
            defaults::PROBE_INTERVAL_MS,
            5..=60_000,
        )?,
        probe_misses: bounded(
            raw.probe_misses.as_ref(),
            "probe_misses",
            u64::from(defaults::PROBE_MISSES),
            2..=100,
        )? as u32,
        drain_period: ms(
            &raw.drain_period_ms,
            "drain_period_ms",
            defaults::DRAIN_PERIOD_MS,
            0..=600_000,
        )?,
        resolve_timeout: ms(
            &raw.resolve_timeout_ms,
            "resolve_timeout_ms",
            defaults::RESOLVE_TIMEOUT_MS,
            10..=60_000,
        )?,
    })
}
