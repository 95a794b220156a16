//! Links under a clock that only the test moves.

use super::*;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn router(n: u32) -> Label {
    Label::router(n).unwrap()
}

fn entry(n: u32, address: &str, dial: bool) -> NeighbourEntry {
    NeighbourEntry {
        router: router(n),
        name: format!("edge-{n}"),
        uri: format!("spiffe://caplane.local/router/edge-{n}"),
        address: address.into(),
        dial,
        cost: 1,
    }
}

fn links(entries: &[NeighbourEntry]) -> (Links<Peer>, Vec<Action<Peer>>) {
    let mut links = Links::new(ms(15), 3, 7);
    let mut actions = Vec::new();
    links.set_neighbours(ms(0), entries.iter(), &mut actions);
    links.tick(ms(0), &mut actions);
    (links, actions)
}

type Peer = u8;

#[test]
fn the_dialling_side_dials_and_the_other_waits() {
    let (links, actions) = links(&[
        entry(2, "127.0.0.1:1", true),
        entry(3, "127.0.0.1:2", false),
        entry(4, "", true),
    ]);
    assert_eq!(
        actions,
        [Action::Dial {
            router: router(2),
            address: "127.0.0.1:1".parse().unwrap(),
            uri: entry(2, "", true).uri,
        }]
    );
    assert_eq!(
        links.by_uri(&entry(3, "", false).uri),
        Some((router(3), false))
    );
}

#[test]
fn a_failed_dial_is_tried_again_later_and_later() {
    let (mut links, _) = links(&[entry(2, "127.0.0.1:1", true)]);
    let mut now = ms(0);
    let mut waits = Vec::new();
    for _ in 0..8 {
        links.dialled(now, router(2), Some(1));
        links.down(now, 1);
        let due = links.next_deadline().unwrap();
        waits.push(due - now);
        now = due;
        let mut actions = Vec::new();
        links.tick(now, &mut actions);
        assert_eq!(actions.len(), 1, "{actions:?}");
    }
    assert!(waits[0] <= RETRY_FIRST);
    assert!(*waits.last().unwrap() >= RETRY_LONGEST / 2);
    assert!(waits.iter().all(|w| *w <= RETRY_LONGEST));
}

#[test]
fn a_host_name_is_looked_up_first() {
    let (mut links, mut actions) = links(&[entry(2, "edge-2.example:4433", true)]);
    let name = "edge-2.example:4433".to_owned();
    assert_eq!(
        std::mem::take(&mut actions),
        [Action::LookUp {
            router: router(2),
            name: name.clone()
        }]
    );
    links.address_found(ms(1), router(2), "old.example:1", None, &mut actions);
    assert!(actions.is_empty());
    let address = "10.0.0.2:4433".parse().ok();
    links.address_found(ms(1), router(2), &name, address, &mut actions);
    assert!(matches!(&actions[..], [Action::Dial { .. }]));
}

#[test]
fn probes_find_a_silent_link_and_its_return() {
    let (mut links, _) = links(&[entry(2, "", false)]);
    assert_eq!(links.up(ms(0), router(2), 0, 1), None);
    let mut actions = Vec::new();
    for n in 1..=3 {
        links.tick(ms(15 * n), &mut actions);
    }
    assert_eq!(links.up_and_alive(), (1, 1));
    links.tick(ms(60), &mut actions);
    assert!(actions.contains(&Action::Alive {
        peer: 1,
        alive: false
    }));
    assert_eq!(links.up_and_alive(), (1, 0));
    actions.clear();
    links.echoed(1, 1, &mut actions);
    assert!(actions.is_empty(), "a late answer is no sign of life");
    links.echoed(1, 2, &mut actions);
    assert_eq!(
        actions,
        [Action::Alive {
            peer: 1,
            alive: true
        }]
    );
}

#[test]
fn an_answering_link_stays_alive() {
    let (mut links, _) = links(&[entry(2, "", false)]);
    links.up(ms(0), router(2), 0, 1);
    let mut actions = Vec::new();
    for n in 1..=100 {
        links.tick(ms(15 * n), &mut actions);
        links.echoed(1, n, &mut actions);
    }
    assert!(actions.iter().all(|a| matches!(a, Action::Probe { .. })));
}

#[test]
fn a_neighbour_that_left_the_table_is_closed_and_one_that_stayed_is_kept() {
    let (mut links, _) = links(&[entry(2, "", false), entry(3, "", false)]);
    links.up(ms(0), router(2), 0, 1);
    links.up(ms(0), router(3), 0, 2);
    let mut actions = Vec::new();
    links.set_neighbours(ms(5), [entry(2, "", false)].iter(), &mut actions);
    assert_eq!(actions, [Action::Close { peer: 2 }]);
    assert_eq!(links.by_peer(1), Some(router(2)));
    assert_eq!(links.by_peer(2), None);
}

#[test]
fn a_second_connection_replaces_the_first() {
    let (mut links, _) = links(&[entry(2, "", false)]);
    links.up(ms(0), router(2), 0, 1);
    assert_eq!(links.up(ms(1), router(2), 0, 9), Some(1));
    links.down(ms(2), 1);
    assert_eq!(
        links.by_peer(9),
        Some(router(2)),
        "the late end of the first is no matter"
    );
}

#[test]
fn a_round_trip_longer_than_the_interval_is_no_failure() {
    let (mut links, _) = links(&[entry(2, "", false)]);
    links.up(ms(0), router(2), 0, 1);
    let mut actions = Vec::new();
    for n in 1..=100 {
        links.tick(ms(15 * n), &mut actions);
        links.echoed(1, n.saturating_sub(2), &mut actions);
    }
    assert!(actions.iter().all(|a| matches!(a, Action::Probe { .. })));
}

#[test]
fn workers_of_one_neighbour_have_links_of_their_own() {
    let (mut links, _) = links(&[]);
    let accepting = [entry(2, "", false)];
    links.set_neighbours(ms(0), accepting.iter(), &mut Vec::new());
    for (worker, peer) in [(0, 10), (1, 11), (3, 13)] {
        assert_eq!(links.up(ms(0), router(2), worker, peer), None);
    }
    assert_eq!((links.len(), links.up_and_alive().0), (1, 3));
    // The same worker again takes the place of its own connection and of no other.
    assert_eq!(links.up(ms(1), router(2), 1, 21), Some(11));
    links.down(ms(2), 13);
    links.down(ms(2), 10);
    assert_eq!((links.len(), links.up_and_alive().0), (1, 1));
    // A table that keeps the neighbour keeps them all; one that drops it closes them all.
    let mut actions = Vec::new();
    links.set_neighbours(ms(3), accepting.iter(), &mut actions);
    assert_eq!((actions.len(), links.up_and_alive().0), (0, 1));
    links.up(ms(3), router(2), 0, 30);
    links.set_neighbours(ms(4), [].iter(), &mut actions);
    assert_eq!(actions.len(), 2);
}
