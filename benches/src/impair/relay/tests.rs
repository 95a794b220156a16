use super::super::{Command, Impairer, Scope};
use super::*;
use std::collections::HashSet;
use std::net::UdpSocket as Plain;

const DEADLINE: Duration = Duration::from_secs(20);
const MS: Duration = Duration::from_millis(1);

fn socket(ip: &str) -> Plain {
    let socket = Plain::bind((ip, 0)).expect("bind");
    socket.set_read_timeout(Some(DEADLINE)).expect("timeout");
    socket
}

/// A client socket connected to a relay, and the target behind it.
struct Rig {
    client: Plain,
    target: Plain,
    relay: Impairer,
}

fn rig(ip: &str, seed: u64, conditions: Conditions) -> Rig {
    let target = socket(ip);
    let to = target.local_addr().expect("address");
    let relay = Impairer::start(ImpairConfig::to(to, seed).with(conditions)).expect("relay");
    let client = socket(ip);
    client.connect(relay.local_addr()).expect("connect");
    Rig {
        client,
        target,
        relay,
    }
}

impl Rig {
    /// Sends numbered packets in small groups, waiting until the relay has judged each group, so
    /// that no kernel buffer overflows. Returns nothing: the target has what passed.
    fn send_numbered(&self, from: u32, to: u32, size: usize) {
        let mut packet = vec![0u8; size];
        let base = self.relay.counters().up.received;
        for n in from..to {
            packet[..4].copy_from_slice(&n.to_be_bytes());
            self.client.send(&packet).expect("send");
            if n % 32 == 31 || n + 1 == to {
                let seen = base + u64::from(n + 1 - from);
                wait_for(&self.relay, |c| c.up.received >= seen);
            }
        }
    }

    /// Numbers of the packets that arrive at the target, until `count` are here.
    fn numbers(&self, count: usize) -> Vec<u32> {
        let mut buffer = vec![0u8; PACKET_MAX];
        (0..count)
            .map(|n| {
                let len = self
                    .target
                    .recv(&mut buffer)
                    .unwrap_or_else(|e| panic!("packet {n} of {count}: {e}"));
                assert!(len >= 4);
                u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]])
            })
            .collect()
    }
}

fn wait_for(relay: &Impairer, done: impl Fn(&Counters) -> bool) -> Counters {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let counters = relay.counters();
        if done(&counters) {
            return counters;
        }
        assert!(Instant::now() < deadline, "gave up waiting:\n{counters}");
        std::thread::yield_now();
    }
}

/// Packets of lane 0 upwards that the seed lets pass, by the pure decision.
fn predicted(seed: u64, count: u32, conditions: &Conditions) -> Vec<u32> {
    let mut lane = Lane::new(seed, 0, Direction::Up, false);
    let mut wire = Wire::default();
    (0..count)
        .filter(|_| {
            matches!(
                lane.judge(Duration::ZERO, 100, conditions, &mut wire),
                Fate::Passed { .. }
            )
        })
        .collect()
}

#[test]
fn a_perfect_path_relays_both_ways_on_ipv4_and_ipv6() {
    for ip in ["127.0.0.1", "::1"] {
        let rig = rig(ip, 1, Conditions::default());
        let mut buffer = vec![0u8; PACKET_MAX];
        // 65,507 is the largest UDP payload over IPv4.
        for size in [0, 1, 1350, 9000, 65_507] {
            let packet: Vec<u8> = (0..size).map(|n| (n * 7) as u8).collect();
            rig.client.send(&packet).expect("send");
            let (len, from) = rig.target.recv_from(&mut buffer).expect("up");
            assert_eq!(&buffer[..len], &packet[..], "{ip} {size} up");
            rig.target.send_to(&packet, from).expect("answer");
            let len = rig.client.recv(&mut buffer).expect("down");
            assert_eq!(&buffer[..len], &packet[..], "{ip} {size} down");
        }
        let counters = rig.relay.stop().expect("stop");
        assert_eq!(counters.up.forwarded, 5);
        assert_eq!(counters.down.forwarded, 5);
        assert_eq!((counters.clients, counters.kernel_dropped), (1, 0));
    }
}

#[test]
fn loss_hits_exactly_the_packets_the_seed_names() {
    let conditions = Conditions::loss(0.1);
    let rig = rig("127.0.0.1", 42, conditions);
    let expected = predicted(42, 2000, &conditions);
    // Interleave sending and reading: the target's buffer is small.
    let mut got = Vec::new();
    for group in 0..20 {
        let (from, to) = (group * 100, (group + 1) * 100);
        rig.send_numbered(from, to, 100);
        let passing = expected.iter().filter(|n| (from..to).contains(n)).count();
        got.extend(rig.numbers(passing));
    }
    assert_eq!(got, expected);
    let counters = rig.relay.stop().expect("stop");
    assert_eq!(counters.up.lost, 2000 - expected.len() as u64);
    assert_eq!(counters.up.held(), 0);
}

#[test]
fn delay_and_jitter_add_time_and_keep_order() {
    let conditions = Conditions::default()
        .with_delay(MS * 20)
        .with_jitter(MS * 10);
    let rig = rig("127.0.0.1", 3, conditions);
    let start = Instant::now();
    rig.send_numbered(0, 50, 64);
    let numbers = rig.numbers(50);
    assert!(start.elapsed() >= MS * 20, "{:?}", start.elapsed());
    assert!(numbers.is_sorted(), "{numbers:?}");
    // One packet at a time, the time each takes is at least the delay.
    for n in 0..5 {
        let start = Instant::now();
        rig.client.send(&[0u8; 64]).expect("send");
        rig.numbers(1);
        assert!(
            start.elapsed() >= MS * 20,
            "packet {n}: {:?}",
            start.elapsed()
        );
    }
    assert_eq!(rig.relay.stop().expect("stop").up.forwarded, 55);
}

#[test]
fn reordering_makes_later_packets_overtake() {
    // Held for 50 ms, so that however slow this machine is, all that are not held come first.
    let conditions = Conditions {
        reorder: 0.1,
        reorder_hold: MS * 500,
        ..Conditions::default()
    };
    let rig = rig("127.0.0.1", 5, conditions);
    rig.send_numbered(0, 100, 64);
    let numbers = rig.numbers(100);
    let held = rig.relay.counters().up.reordered as usize;
    assert!((1..40).contains(&held), "{held}");
    assert!(!numbers.is_sorted());
    assert!(numbers[..100 - held].is_sorted(), "{numbers:?}");
    assert_eq!(numbers.iter().collect::<HashSet<_>>().len(), 100);
}

#[test]
fn duplication_sends_a_second_copy() {
    let rig = rig("127.0.0.1", 6, Conditions::default().with_duplicate(0.5));
    rig.send_numbered(0, 100, 64);
    let counters = wait_for(&rig.relay, |c| c.up.held() == 0);
    assert!((20..80).contains(&counters.up.duplicated), "{counters}");
    let numbers = rig.numbers(100 + counters.up.duplicated as usize);
    assert_eq!(numbers.iter().collect::<HashSet<_>>().len(), 100);
    assert!(numbers.is_sorted());
}

#[test]
fn the_rate_is_kept() {
    // 100 packets of 1,000 IP bytes at 4 Mbit/s take 200 ms.
    let rig = rig("127.0.0.1", 7, Conditions::default().with_rate(4_000_000));
    let start = Instant::now();
    rig.send_numbered(0, 100, 972);
    rig.numbers(100);
    assert!(start.elapsed() >= MS * 199, "{:?}", start.elapsed());
}

#[test]
fn the_mtu_may_be_lowered_under_way_and_larger_packets_vanish_silently() {
    let rig = rig("127.0.0.1", 8, Conditions::default().with_mtu(1500));
    rig.send_numbered(0, 1, 1472);
    rig.send_numbered(1, 2, 1473);
    let (scope, lower) = Command::parse("mtu 1400").expect("command");
    rig.relay.command(scope, lower);
    rig.send_numbered(2, 3, 1373);
    rig.send_numbered(3, 4, 1372);
    assert_eq!(rig.numbers(2), [0, 3]);
    assert_eq!(rig.relay.stop().expect("stop").up.too_big, 2);
}

#[test]
fn a_cut_path_heals_and_one_direction_may_be_cut_alone() {
    let rig = rig("127.0.0.1", 9, Conditions::default());
    rig.relay.cut();
    rig.send_numbered(0, 3, 64);
    rig.relay.heal();
    rig.send_numbered(3, 4, 64);
    rig.relay
        .command(Scope::Only(Direction::Down), Command::Cut);
    rig.send_numbered(4, 5, 64);
    assert_eq!(rig.numbers(2), [3, 4]);
    let counters = rig.relay.stop().expect("stop");
    assert_eq!((counters.up.cut, counters.up.forwarded), (3, 2));
}

#[test]
fn every_client_has_a_port_of_its_own_at_the_target_and_surplus_ones_are_refused() {
    let target = socket("127.0.0.1");
    let mut config = ImpairConfig::to(target.local_addr().expect("address"), 1);
    config.clients_max = 3;
    let relay = Impairer::start(config).expect("relay");
    let clients: Vec<Plain> = (0..4).map(|_| socket("127.0.0.1")).collect();
    let mut ports = HashSet::new();
    let mut buffer = [0u8; 16];
    for (n, client) in clients.iter().enumerate().take(3) {
        client
            .send_to(&[n as u8], relay.local_addr())
            .expect("send");
        let (_, from) = target.recv_from(&mut buffer).expect("up");
        assert!(ports.insert(from.port()));
        target.send_to(&[buffer[0] + 100], from).expect("answer");
        client.recv(&mut buffer).expect("down");
        assert_eq!(buffer[0] as usize, n + 100);
    }
    clients[3].send_to(&[9], relay.local_addr()).expect("send");
    let counters = wait_for(&relay, |c| c.clients_refused == 1);
    assert_eq!(counters.clients, 3);
}

#[test]
fn rebinding_gives_a_client_another_port_at_the_target() {
    let rig = rig("127.0.0.1", 1, Conditions::default());
    let mut buffer = [0u8; 16];
    rig.client.send(b"a").expect("send");
    let (_, before) = rig.target.recv_from(&mut buffer).expect("up");
    rig.relay.command(Scope::Both, Command::Rebind);
    rig.client.send(b"b").expect("send");
    let (_, after) = rig.target.recv_from(&mut buffer).expect("up");
    assert_ne!(before.port(), after.port());
    rig.target.send_to(b"c", after).expect("answer");
    assert_eq!(rig.client.recv(&mut buffer).expect("down"), 1);
}

#[test]
fn what_is_held_is_bounded_and_a_stop_counts_it() {
    let target = socket("127.0.0.1");
    let mut config = ImpairConfig::to(target.local_addr().expect("address"), 1)
        .with(Conditions::default().with_delay(Duration::from_secs(600)));
    config.held_bytes_max = 10_000;
    let relay = Impairer::start(config).expect("relay");
    let client = socket("127.0.0.1");
    client.connect(relay.local_addr()).expect("connect");
    let rig = Rig {
        client,
        target,
        relay,
    };
    rig.send_numbered(0, 15, 1000);
    let stopped = Instant::now();
    let counters = rig.relay.stop().expect("stop");
    assert!(stopped.elapsed() < DEADLINE);
    assert_eq!((counters.up.queue_full, counters.up.unsent), (5, 10));
    assert_eq!(counters.up.held(), 0);
}

#[test]
fn a_target_that_is_not_there_does_not_end_the_relay() {
    let gone = socket("127.0.0.1").local_addr().expect("address");
    let relay = Impairer::start(ImpairConfig::to(gone, 1)).expect("relay");
    let client = socket("127.0.0.1");
    for n in 1..=5 {
        client.send_to(b"x", relay.local_addr()).expect("send");
        wait_for(&relay, |c| c.up.received == n);
    }
    assert!(!relay.ended());
    let counters = relay.stop().expect("stop");
    assert_eq!(
        counters.up.received,
        counters.up.forwarded + counters.up.unsent
    );
}

#[test]
fn addresses_that_cannot_work_are_refused_with_a_remedy() {
    let mut config = ImpairConfig::to("127.0.0.1:9".parse().expect("address"), 1);
    config.listen = "[::1]:0".parse().expect("address");
    let error = Impairer::start(config).expect_err("family").to_string();
    assert!(error.contains("one address family"), "{error}");
    let taken = socket("127.0.0.1");
    let mut config = ImpairConfig::to("127.0.0.1:9".parse().expect("address"), 1);
    config.listen = taken.local_addr().expect("address");
    let error = Impairer::start(config).expect_err("taken").to_string();
    assert!(
        error.contains("cannot listen on") && error.contains("port 0"),
        "{error}"
    );
}

#[test]
fn drops_of_the_kernel_are_read_by_port() {
    let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
         123: 0100007F:1F90 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 12 2 0000000000000000 17\n\
         124: 0100007F:1F91 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 13 2 0000000000000000 5\n";
    assert_eq!(dropped_on(table, &[8080]), 17);
    assert_eq!(dropped_on(table, &[8080, 8081]), 22);
    assert_eq!(dropped_on(table, &[1]), 0);
    assert_eq!(dropped_on("garbage\n1 2\n", &[1]), 0);
}
