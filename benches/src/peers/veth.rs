//! A link of 1500 bytes to a network namespace, for servers: what an
//! Ethernet path does to packet sizes. Needs root and `ip`.

use super::{Path, PeerError, Place};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};

/// Address of the generator's end and of the servers' end: 198.18.0.0/15 is for benchmarks (RFC 2544).
const NEAR: Ipv4Addr = Ipv4Addr::new(198, 18, 77, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(198, 18, 77, 2);

/// How namespaces of ours begin; the process that made one follows.
const PREFIX: &str = "caplane-load-";

/// The link and the namespace; both go with it.
pub struct Veth {
    namespace: String,
}

impl Veth {
    /// Makes a namespace and a link to it, both ends up. What a killed run left goes first: two links with the same
    /// addresses would carry nothing.
    ///
    /// # Errors
    /// When `ip` refuses (not root, or no such tool), or when another run has the link.
    pub fn open() -> Result<Veth, PeerError> {
        clear()?;
        let id = std::process::id();
        let veth = Veth {
            namespace: format!("{PREFIX}{id}"),
        };
        let (near, far) = (format!("clv{id}a"), format!("clv{id}b"));
        let name = &veth.namespace;
        ip(&format!("netns add {name}"))?;
        ip(&format!(
            "link add {near} mtu 1500 type veth peer name {far} mtu 1500 netns {name}"
        ))?;
        ip(&format!("addr add {NEAR}/30 dev {near}"))?;
        ip(&format!("link set {near} up"))?;
        ip(&format!("-n {name} addr add {FAR}/30 dev {far}"))?;
        ip(&format!("-n {name} link set {far} up"))?;
        ip(&format!("-n {name} link set lo up"))?;
        Ok(veth)
    }

    /// Servers at its far end.
    pub fn place(&self) -> Place {
        let prefix = ["ip", "netns", "exec", self.namespace.as_str()];
        Place {
            path: Path::Veth,
            server: IpAddr::V4(FAR),
            generator: IpAddr::V4(NEAR),
            prefix: prefix.map(str::to_owned).to_vec(),
        }
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        // The link goes with the namespace that holds its far end.
        if let Err(error) = ip(&format!("netns delete {}", self.namespace)) {
            tracing::warn!(%error, "veth");
        }
    }
}

/// Removes the namespaces of processes that are no more.
fn clear() -> Result<(), PeerError> {
    let listed = ip("netns list")?;
    for (namespace, id) in namespaces(&listed) {
        if std::path::Path::new("/proc").join(id).exists() {
            return Err(PeerError::Failed(format!(
                "process {id} measures on the veth link, whose addresses are fixed; try again when it has ended"
            )));
        }
        tracing::info!(namespace, "left by a run that was killed; removed");
        ip(&format!("netns delete {namespace}"))?;
    }
    Ok(())
}

/// Namespaces of ours in the words of `ip netns list`, each with the process that made it.
fn namespaces(listed: &str) -> impl Iterator<Item = (&str, &str)> {
    listed.lines().filter_map(|line| {
        let namespace = line.split_whitespace().next()?;
        Some((namespace, namespace.strip_prefix(PREFIX)?))
    })
}

/// Runs `ip`; what it printed.
fn ip(arguments: &str) -> Result<String, PeerError> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .stdin(Stdio::null())
        .output()
        .map_err(|e| PeerError::Io("ip", e))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(PeerError::Failed(format!(
        "ip {arguments}: {}",
        text.trim()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespaces_of_ours_are_found() {
        let listed = "caplane-load-4711 (id: 0)\nblue\ncaplane-load-12\n";
        let found: Vec<_> = namespaces(listed).collect();
        assert_eq!(
            found,
            [("caplane-load-4711", "4711"), ("caplane-load-12", "12")]
        );
    }
}
