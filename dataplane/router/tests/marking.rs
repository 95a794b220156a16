//! What a router writes into the IP header: packets of links carry one codepoint,
//! those to agents another, seen by relays on the paths.

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use caplane_proto::v1::Resource;
use caplane_router::Router;
use caplane_router::config::RouterConfig;
use caplane_wire::{CongestionAction, HeaderRepr, TrafficClass};
use support::controller::FakeController;
use support::instance::Instance;
use support::pki::Pki;
use support::tables::{class_at, identity, link_to, policy};
use support::{DEADLINE, config_text, metric, wait_until};

const CLASS: &str = "class:7.12";
const TO_AGENTS: u8 = 10;
const ON_LINKS: u8 = 46;

/// Passes UDP packets between whoever writes to it and the address it was given, and prints each codepoint that it has not
/// seen before in that direction. The standard library of Rust does not read ancillary data.
const RELAY: &str = r#"
import select, socket, sys
host, port = sys.argv[1].rsplit(":", 1)
def bound():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    s.bind(("127.0.0.1", 0))
    return s
near, far = bound(), bound()
print(near.getsockname()[1], flush=True)
dialler, seen = None, set()
while True:
    for s in select.select([near, far, sys.stdin], [], [])[0]:
        if s is sys.stdin:
            sys.exit()
        data, ancillary, _, address = s.recvmsg(65535, 64)
        tos = next(v[0] for level, kind, v in ancillary if kind == socket.IP_TOS)
        direction = "there" if s is near else "back"
        if (direction, tos >> 2) not in seen:
            seen.add((direction, tos >> 2))
            print(direction, tos >> 2, flush=True)
        if s is near:
            dialler = address
            far.sendto(data, (host, int(port)))
        elif dialler:
            near.sendto(data, dialler)
"#;

struct Relay {
    child: Child,
    address: SocketAddr,
    lines: mpsc::Receiver<String>,
    there: BTreeSet<u8>,
    back: BTreeSet<u8>,
}

impl Relay {
    fn to(address: SocketAddr) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", RELAY, &address.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 (make deps installs it)");
        let out = BufReader::new(child.stdout.take().unwrap());
        let (says, lines) = mpsc::channel();
        // Ends with the relay.
        std::thread::spawn(move || {
            out.lines()
                .map_while(Result::ok)
                .all(|l| says.send(l).is_ok())
        });
        let port: u16 = lines.recv_timeout(DEADLINE).unwrap().parse().unwrap();
        Self {
            child,
            address: ([127, 0, 0, 1], port).into(),
            lines,
            there: BTreeSet::new(),
            back: BTreeSet::new(),
        }
    }

    /// Takes in what the relay has said.
    fn listen(&mut self) -> &mut Self {
        for line in self.lines.try_iter() {
            let (direction, codepoint) = line.split_once(' ').expect("direction and codepoint");
            let seen = match direction {
                "there" => &mut self.there,
                _ => &mut self.back,
            };
            seen.insert(codepoint.parse().unwrap());
        }
        self
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(pki: &Pki, folder: &std::path::Path, name: &str, controller: SocketAddr) -> Router {
    let text = config_text(pki, name, &[controller], "127.0.0.1:0");
    let text = format!("{text}\n[io]\nagent_dscp = {TO_AGENTS}\nlink_dscp = {ON_LINKS}\n");
    let config = RouterConfig::parse(&folder.join("router.toml"), &text).unwrap();
    Router::start(&config).unwrap()
}

#[test]
fn links_and_agents_have_codepoints_of_their_own() {
    let pki = Pki::new();
    let folder = tempfile::tempdir().unwrap();
    let mut controller = FakeController::start(&pki);
    let (asker_files, server_files) = (pki.agent("asker"), pki.agent("server"));
    let r1 = start(&pki, folder.path(), "r1", controller.address());
    let mut s1 = controller.session();
    let r2 = start(&pki, folder.path(), "r2", controller.address());
    let mut s2 = controller.session();
    let mut link = Relay::to(r2.addresses().listen);
    let mut agent = Relay::to(r1.addresses().listen);
    let people: [Resource; 3] = [
        policy(),
        identity(&asker_files.uri, 1, &[]),
        identity(&server_files.uri, 2, &[CLASS]),
    ];
    s1.accept(1, 1);
    s2.accept(2, 1);
    let far = link_to(2, &link.address.to_string(), true);
    s1.snapshot(1, [&people[..], &far, &[class_at(CLASS, 2)]].concat());
    let near = link_to(1, "", false);
    s2.snapshot(1, [&people[..], &near, &[class_at(CLASS, 2)]].concat());
    let mut asker = Instance::attach(&pki, &asker_files, agent.address, "asker-1");
    let mut server = Instance::attach(&pki, &server_files, r2.addresses().listen, "server-1");
    wait_until("the link is up on both sides", || {
        metric(&r1, "router_links_alive") == 1.0 && metric(&r2, "router_links_alive") == 1.0
    });
    // Whatever the link carried until now is its handshake, which nobody knows for a link's yet.
    let header = HeaderRepr {
        class: TrafficClass::new(3, CongestionAction::Drop),
        requested_label: CLASS.parse().unwrap(),
        flow: 42,
        ..HeaderRepr::default()
    };
    asker.send(header, b"convert 1 EUR");
    assert_eq!(server.message().payload, b"convert 1 EUR");
    wait_until("the link's codepoint is on packets of both sides", || {
        let link = link.listen();
        link.there.contains(&ON_LINKS) && link.back.contains(&ON_LINKS)
    });
    let others: BTreeSet<u8> = &link.there | &link.back;
    assert!(
        others.is_subset(&[TO_AGENTS, ON_LINKS].into()),
        "{others:?}"
    );
    wait_until("the agent got packets with the agents' codepoint", || {
        agent.listen().back.contains(&TO_AGENTS)
    });
    assert_eq!(
        agent.back,
        [TO_AGENTS].into(),
        "to the agent, of which some was data"
    );
    assert_eq!(agent.there, [0].into(), "the agent marks nothing");
}
