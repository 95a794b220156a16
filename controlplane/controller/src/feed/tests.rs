use super::*;

fn tenants(names: &[&str]) -> Changes {
    let mut changes = Changes::default();
    for name in names {
        changes.add(EntityKey::Tenant((*name).to_owned()), None, true);
    }
    changes
}

/// The same, as told to who could see all of them.
fn seen(names: &[&str]) -> BTreeMap<EntityKey, bool> {
    let keys = tenants(names).0.into_keys();
    keys.map(|key| (key, true)).collect()
}

fn all(_: &Changed) -> Option<bool> {
    Some(true)
}

#[test]
fn what_changed_often_is_told_once() {
    let feed = ChangeFeed::starting_at(5, 1);
    feed.push(6, tenants(&["a", "b"]));
    feed.push(7, Changes::default());
    feed.push(9, tenants(&["b", "c"]));
    let since = |generation| feed.since(generation, all).map(|s| (s.upto, s.keys));
    assert_eq!(since(5), Ok((9, seen(&["a", "b", "c"]))));
    assert_eq!(since(6), Ok((9, seen(&["b", "c"]))));
    assert_eq!(since(8), Ok((9, seen(&["b", "c"]))));
    assert_eq!(since(9), Ok((9, seen(&[]))));
    let gone = Gone {
        oldest: 5,
        newest: 9,
    };
    assert_eq!([since(4), since(10)], [Err(gone), Err(gone)]);
    let only = feed.since(5, |changed| {
        (changed.key == EntityKey::Tenant("c".into())).then_some(true)
    });
    assert_eq!(only.expect("known").keys, seen(&["c"]));
    // Seen once is seen.
    let twice = feed.since(5, |changed| {
        Some(changed.key == EntityKey::Tenant("a".into()))
    });
    let twice = twice.expect("known").keys;
    assert_eq!(twice.values().filter(|seen| **seen).count(), 1);
}

#[test]
fn the_ring_is_bounded_in_keys_and_says_what_fell_off() {
    let feed = ChangeFeed::bounded(0, 1, 4);
    feed.push(1, tenants(&["a"]));
    feed.push(2, tenants(&["b", "c"]));
    feed.push(3, tenants(&["d"]));
    assert_eq!(feed.since(0, all).expect("all of it").keys.len(), 4);
    feed.push(4, tenants(&["e"]));
    let gone = Gone {
        oldest: 1,
        newest: 4,
    };
    assert_eq!(feed.since(0, all), Err(gone));
    let slice = feed.since(1, all).expect("the rest");
    assert_eq!(slice.keys, seen(&["b", "c", "d", "e"]));
    // More at once than the ring takes: nobody can go on from before it.
    feed.push(5, tenants(&["1", "2", "3", "4", "5"]));
    assert_eq!(feed.since(4, all).expect_err("gone").oldest, 5);
    assert_eq!(feed.since(5, all).expect("nothing").keys.len(), 0);
    assert_eq!(feed.ring().keys, 0);
}
