//! zenohd over TCP, TLS and QUIC.

use super::foreign::{Identity, Product};
use super::install::{self, Build};
use std::net::SocketAddr;

/// zenohd's defaults but for scouting (off) and, with TLS and QUIC, the certificate; declared publishers, blocking when
/// congested, batching on for throughput and off (express) for round trips.
pub struct Zenohd {
    /// "tcp", "tls" or "quic".
    pub transport: &'static str,
}

impl Product for Zenohd {
    fn name(&self) -> &'static str {
        "zenohd"
    }

    fn transport(&self) -> &'static str {
        self.transport
    }

    fn encrypted(&self) -> bool {
        self.transport != "tcp"
    }

    fn server(&self) -> ((&'static str, &'static str), &'static str, Build) {
        (install::ZENOHD, "zenohd", Build::Zenoh)
    }

    fn load(&self) -> &'static str {
        "zenoh-load"
    }

    fn endpoint(&self, address: SocketAddr) -> String {
        format!("{}/{address}", self.transport)
    }

    fn configuration(&self, address: SocketAddr, identity: Option<&Identity>) -> String {
        let tls = identity.map_or_else(String::new, |identity| {
            format!(
                ", transport: {{ link: {{ tls: {{ listen_certificate: \"{}\", listen_private_key: \"{}\" }} }} }}",
                identity.chain.display(),
                identity.key.display()
            )
        });
        let endpoint = self.endpoint(address);
        format!(
            "{{ mode: \"router\", listen: {{ endpoints: [\"{endpoint}\"] }}, scouting: {{ multicast: {{ enabled: false }}, gossip: {{ enabled: false }} }}{tls} }}\n"
        )
    }

    fn file_name(&self) -> &'static str {
        "zenoh.json5"
    }

    fn arguments(&self, configuration: &str) -> Vec<String> {
        ["-c", configuration].map(str::to_owned).to_vec()
    }

    fn over_tcp(&self) -> bool {
        self.transport != "quic"
    }
}
