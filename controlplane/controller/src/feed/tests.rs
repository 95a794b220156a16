use super::*;

fn tenants(names: &[&str]) -> BTreeSet<EntityKey> {
    let names = names.iter().map(|name| (*name).to_owned());
    names.map(EntityKey::Tenant).collect()
}

#[test]
fn what_changed_often_is_told_once() {
    let feed = ChangeFeed::starting_at(5, 1);
    feed.push(6, tenants(&["a", "b"]));
    feed.push(7, BTreeSet::new());
    feed.push(9, tenants(&["b", "c"]));
    let since = |generation| feed.since(generation, |_| true).map(|s| (s.upto, s.keys));
    assert_eq!(since(5), Ok((9, tenants(&["a", "b", "c"]))));
    assert_eq!(since(6), Ok((9, tenants(&["b", "c"]))));
    assert_eq!(since(8), Ok((9, tenants(&["b", "c"]))));
    assert_eq!(since(9), Ok((9, tenants(&[]))));
    let gone = Gone {
        oldest: 5,
        newest: 9,
    };
    assert_eq!([since(4), since(10)], [Err(gone), Err(gone)]);
    let only = feed.since(5, |key| *key == EntityKey::Tenant("c".into()));
    assert_eq!(only.expect("known").keys, tenants(&["c"]));
}

#[test]
fn the_ring_is_bounded_in_keys_and_says_what_fell_off() {
    let feed = ChangeFeed::bounded(0, 1, 4);
    feed.push(1, tenants(&["a"]));
    feed.push(2, tenants(&["b", "c"]));
    feed.push(3, tenants(&["d"]));
    assert_eq!(feed.since(0, |_| true).expect("all of it").keys.len(), 4);
    feed.push(4, tenants(&["e"]));
    let gone = Gone {
        oldest: 1,
        newest: 4,
    };
    assert_eq!(feed.since(0, |_| true), Err(gone));
    let slice = feed.since(1, |_| true).expect("the rest");
    assert_eq!(slice.keys, tenants(&["b", "c", "d", "e"]));
    // More at once than the ring takes: nobody can go on from before it.
    feed.push(5, tenants(&["1", "2", "3", "4", "5"]));
    assert_eq!(feed.since(4, |_| true).expect_err("gone").oldest, 5);
    assert_eq!(feed.since(5, |_| true).expect("nothing").keys.len(), 0);
    assert_eq!(feed.ring().keys, 0);
}
