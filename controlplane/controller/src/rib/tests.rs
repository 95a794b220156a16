use super::*;
use crate::testbed::{agent, agent_uri, apply, delete, insert, router, tenant};

#[test]
fn numbers_rise_and_a_given_back_one_is_tried_last() {
    let mut rib = Rib::new();
    let write = |rib: &mut Rib, updates: &[_]| apply(rib, updates).expect("accepted");
    write(
        &mut rib,
        &[insert(agent("a", "", &[])), insert(agent("b", "", &[]))],
    );
    write(&mut rib, &[delete(agent("a", "", &[]))]);
    write(
        &mut rib,
        &[insert(agent("c", "", &[])), insert(agent("a", "", &[]))],
    );
    let number = |name: &str| rib.agent(&agent_uri(name)).expect("there").number;
    assert_eq!((number("b"), number("c"), number("a")), (2, 3, 4));
}

#[test]
fn at_the_end_numbers_begin_again_and_skip_those_in_use() {
    let mut rib = Rib::new();
    let kind = CounterKind::Agent;
    apply(&mut rib, &[insert(agent("a", "", &[]))]).expect("accepted");
    rib.put(counter(kind, kind.largest()));
    assert_eq!(rib.allocate(kind), Ok(kind.largest()));
    assert_eq!(rib.allocate(kind), Ok(2), "1 is in use");
}

#[test]
fn a_refused_batch_takes_no_number() {
    let mut rib = Rib::new();
    let twice = [insert(router("r1")), insert(router("r1"))];
    apply(&mut rib, &twice).expect_err("the second is there already");
    apply(&mut rib, &[insert(router("r2"))]).expect("accepted");
    assert_eq!(rib.router("r2").expect("there").number, 1);
}

#[test]
fn changes_show_each_object_once_as_it_ended() {
    let mut rib = Rib::new();
    apply(&mut rib, &[insert(tenant("a")), insert(tenant("b"))]).expect("accepted");
    apply(&mut rib, &[delete(tenant("a"))]).expect("accepted");
    let changes = rib.changes();
    assert_eq!(changes.len(), 3, "a counter and two tenants: {changes:?}");
    let gone = changes
        .iter()
        .find(|(key, _)| *key == ObjectKey::Tenant("a".into()));
    assert_eq!(gone.map(|(_, object)| object.is_none()), Some(true));
}

#[test]
fn every_object_survives_its_stored_form() {
    use crate::testbed::{grant, group, link, permission};
    let mut rib = Rib::new();
    let updates = [
        insert(tenant("a")),
        insert(tenant("b")),
        insert(agent("x", "a", &["book_hotel"])),
        insert(grant("x", "travel")),
        insert(router("r1")),
        insert(router("r2")),
        insert(link("r1", "r2", 3)),
        insert(permission("a", "b", "travel")),
        insert(group("g", "a", &["x"])),
    ];
    apply(&mut rib, &updates).expect("accepted");
    let request = crate::record::RequestRecord {
        caller: "a".into(),
        key: "x".into(),
        digest: vec![7; 32],
        generation: 1,
        end_unix_ms: 2,
        refused: vec![crate::record::RefusedUpdate { index: 3, code: 5 }],
        first_generation: 0,
    };
    rib.put(Object::Request(request.into()));
    let changes = rib.changes();
    let mut keys = std::collections::BTreeSet::new();
    for (key, object) in changes {
        let object = object.expect("nothing was removed");
        assert_eq!(object.key(), key);
        assert!(keys.insert(key.to_bytes()), "keys differ");
        let read = Object::from_bytes(key.tag(), &object.to_bytes()).expect("reads");
        assert_eq!(read, object);
    }
    assert!(Object::from_bytes(99, &[]).is_err());
    assert!(Object::from_bytes(3, &[0xff]).is_err());
    let nobody = Object::from_bytes(3, &[]).expect_err("agent number 0");
    assert!(nobody.to_string().contains("0 is no number"), "{nobody}");
}
