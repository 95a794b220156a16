use proptest::prelude::*;

use super::*;

fn r(number: u32) -> Label {
    Label::router(number).expect("router label")
}

fn topology(links: &[(u32, u32, u32)]) -> Topology {
    let links: Vec<Link> = links
        .iter()
        .map(|&(a, b, cost)| Link {
            a: r(a),
            b: r(b),
            cost,
            up: true,
        })
        .collect();
    let routers = links.iter().flat_map(|link| [link.a, link.b]).collect();
    Topology { routers, links }
}

fn route(topology: &Topology, from: u32, to: u32) -> Route {
    let routes = topology.routes_from(r(from));
    routes
        .into_iter()
        .find(|route| route.to == r(to))
        .expect("a route")
}

#[test]
fn a_line_has_one_way_and_no_alternate() {
    let line = topology(&[(1, 2, 1), (2, 3, 0)]);
    let far = route(&line, 1, 3);
    assert_eq!(
        far,
        Route {
            to: r(3),
            cost: 2,
            next_hops: vec![r(2)],
            alternates: vec![]
        }
    );
    assert_eq!(line.routes_from(r(2)).len(), 2);
    assert!(
        line.routes_from(r(9)).is_empty(),
        "an unknown router has no routes"
    );
}

#[test]
fn a_ring_of_three_protects_each_link() {
    let ring = topology(&[(1, 2, 1), (2, 3, 1), (3, 1, 1)]);
    let direct = route(&ring, 1, 2);
    assert_eq!(
        (direct.next_hops, direct.alternates),
        (vec![r(2)], vec![r(3)])
    );
}

#[test]
fn in_a_ring_of_four_the_far_neighbour_would_loop() {
    // To 2 from 1: neighbour 4's own way to 2 may lead back through 1 (equal cost), so it is no alternate.
    let ring = topology(&[(1, 2, 1), (2, 3, 1), (3, 4, 1), (4, 1, 1)]);
    assert_eq!(route(&ring, 1, 2).alternates, vec![]);
    let across = route(&ring, 1, 3);
    assert_eq!((across.next_hops, across.cost), (vec![r(2), r(4)], 2));
}

#[test]
fn alternates_that_avoid_the_next_hop_come_first() {
    // 1 -> 5 goes through 2. 3 is nearer but passes 2; 4 has its own way to 5.
    let net = topology(&[
        (1, 2, 1),
        (2, 5, 1),
        (1, 3, 1),
        (3, 2, 1),
        (1, 4, 5),
        (4, 5, 1),
    ]);
    let route = route(&net, 1, 5);
    assert_eq!(
        (route.next_hops, route.alternates),
        (vec![r(2)], vec![r(4), r(3)])
    );
}

#[test]
fn links_that_are_down_or_lead_nowhere_do_not_count() {
    let mut net = topology(&[(1, 2, 1), (2, 3, 1), (1, 3, 10)]);
    net.links.push(Link {
        a: r(1),
        b: r(1),
        cost: 1,
        up: true,
    });
    net.links.push(Link {
        a: r(1),
        b: r(77),
        cost: 1,
        up: true,
    });
    net.links.push(Link {
        a: r(3),
        b: r(1),
        cost: 12,
        up: true,
    });
    assert_eq!(route(&net, 1, 3).cost, 2);
    net.links[1].up = false;
    let direct = route(&net, 1, 3);
    assert_eq!((direct.cost, direct.next_hops), (10, vec![r(3)]));
    net.links[2].up = false;
    assert_eq!(
        route(&net, 1, 3).cost,
        12,
        "the dearer parallel link takes over"
    );
    net.links.pop();
    assert!(
        net.routes_from(r(1)).iter().all(|route| route.to != r(3)),
        "cut off"
    );
}

proptest! {
    /// Hop by hop along any next hop the cost falls to zero; an alternate's own shortest
    /// path never returns to the router that uses it.
    #[test]
    fn next_hops_approach_and_alternates_do_not_return(
        links in prop::collection::vec((1_u32..10, 1_u32..10, 1_u32..6), 1..25)
    ) {
        let net = topology(&links);
        let mut paths = Paths::new(&net);
        let table: BTreeMap<Label, Vec<Route>> =
            net.routers.iter().map(|&from| (from, paths.routes_from(from))).collect();
        let cost = |from: Label, to: Label| match from == to {
            true => Some(0),
            false => table[&from].iter().find(|route| route.to == to).map(|route| route.cost),
        };
        for (&from, routes) in &table {
            for route in routes {
                prop_assert!(!route.next_hops.is_empty());
                prop_assert!(route.next_hops.is_sorted());
                for &hop in &route.next_hops {
                    prop_assert!(cost(hop, route.to).expect("reaches") < route.cost);
                    prop_assert!(!route.alternates.contains(&hop));
                }
                for &alternate in &route.alternates {
                    // Walk every shortest path of the alternate.
                    let mut front = vec![alternate];
                    while let Some(at) = front.pop() {
                        prop_assert_ne!(at, from);
                        if at != route.to {
                            let onward = table[&at].iter().find(|r| r.to == route.to);
                            front.extend(&onward.expect("reaches").next_hops);
                        }
                    }
                }
            }
        }
    }
}
