//! SLIM (`agntcy-slim`): its node, in plain text and over TLS.
//!
//! The node is `slimctl slim start`. The bench of that command line knows no
//! TLS, no key but its own and no open loop, so the load is a program of ours
//! (`benches/peers/slim-load`) on SLIM's client.

use super::foreign::{Identity, Product};
use super::install::{self, Build};
use std::net::SocketAddr;

/// The node's defaults: a thread a core. Sessions are unreliable and without MLS, which is between the ends and costs the node nothing.
pub struct SlimNode {
    /// With TLS (server certificate only), or in plain text.
    pub tls: bool,
}

impl Product for SlimNode {
    fn name(&self) -> &'static str {
        "slim"
    }

    fn transport(&self) -> &'static str {
        if self.tls { "grpcs" } else { "grpc" }
    }

    fn encrypted(&self) -> bool {
        self.tls
    }

    fn server(&self) -> ((&'static str, &'static str), &'static str, Build) {
        (install::SLIMCTL, "slimctl", Build::Slim)
    }

    fn load(&self) -> &'static str {
        "slim-load"
    }

    fn endpoint(&self, address: SocketAddr) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{address}")
    }

    fn configuration(&self, address: SocketAddr, identity: Option<&Identity>) -> String {
        let tls = identity.map_or_else(
            || "{ insecure: true }".to_owned(),
            |identity| {
                format!(
                    "{{ source: {{ type: file, cert: \"{}\", key: \"{}\" }} }}",
                    identity.chain.display(),
                    identity.key.display()
                )
            },
        );
        format!(
            "runtime: {{ n_cores: 0, thread_name: slim, drain_timeout: 1s }}\ntracing: {{ log_level: error }}\n\
             services:\n  slim/0:\n    dataplane:\n      servers:\n        - endpoint: \"{address}\"\n          tls: {tls}\n      clients: []\n"
        )
    }

    fn file_name(&self) -> &'static str {
        "slim.yaml"
    }

    fn arguments(&self, configuration: &str) -> Vec<String> {
        let words = ["slim", "start", "--config", configuration];
        words.map(str::to_owned).to_vec()
    }
}
