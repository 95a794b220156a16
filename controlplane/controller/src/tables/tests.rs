use caplane_core::fib::TransitEntry;

use super::*;

fn router(number: u32) -> Label {
    Label::router(number).expect("a router")
}

fn change(of: u32, to: u32, there: bool) -> EntryChange {
    let key = TableKey::Router(router(of), EntryKey::Transit(router(to)));
    let entry = Entry::Transit(TransitEntry {
        router: router(to),
        next_hops: vec![router(to)],
        alternates: Vec::new(),
    });
    (key, there.then_some(entry))
}

fn publish(tables: &mut Tables, generation: u64, changes: Vec<EntryChange>) {
    tables.publish(vec![(generation, changes)], generation);
}

fn counts(tables: &Tables, of: u32, held: u64) -> Option<(usize, usize)> {
    tables
        .difference(router(of), held)
        .map(|d| (d.upserts.len(), d.removes.len()))
}

#[test]
fn a_difference_holds_each_entry_once_as_it_is_now() {
    let mut tables = Tables::new(0, 0, Vec::new(), 100, Vec::new());
    publish(&mut tables, 1, vec![change(1, 2, true), change(2, 1, true)]);
    publish(&mut tables, 2, vec![change(1, 2, true)]);
    publish(&mut tables, 3, vec![change(1, 3, true)]);
    publish(&mut tables, 4, vec![change(1, 3, false)]);
    assert_eq!(counts(&tables, 1, 1), Some((1, 1)));
    assert_eq!(counts(&tables, 1, 4), Some((0, 0)));
    assert_eq!(
        counts(&tables, 2, 1),
        Some((0, 0)),
        "another router's entries"
    );
    assert_eq!(tables.size(router(1)), 1);
    let rows = tables.snapshot(router(1)).upserts;
    assert_eq!(rows[0].version, 2);
}

#[test]
fn the_log_is_bounded_and_who_held_less_gets_a_snapshot() {
    let mut tables = Tables::new(0, 0, Vec::new(), 3, Vec::new());
    for generation in 1..=5 {
        publish(
            &mut tables,
            generation,
            vec![change(1, generation as u32 + 1, true)],
        );
    }
    assert_eq!(tables.floor(), 2);
    assert_eq!(counts(&tables, 1, 1), None);
    assert_eq!(counts(&tables, 1, 2), Some((3, 0)));
    // A change larger than the whole log leaves nothing to start from but itself.
    publish(
        &mut tables,
        6,
        (2..9).map(|to| change(1, to, false)).collect(),
    );
    assert_eq!(tables.floor(), 6);
    assert_eq!(counts(&tables, 1, 5), None);
    assert_eq!(counts(&tables, 1, 6), Some((0, 0)));
}

#[test]
fn a_log_that_was_stored_works_as_before() {
    let mut first = Tables::new(0, 0, Vec::new(), 100, Vec::new());
    publish(&mut first, 1, vec![change(1, 2, true)]);
    publish(&mut first, 2, vec![change(1, 3, true)]);
    let log: Vec<LogRow> = first.log.iter().cloned().collect();
    let entries = [change(1, 2, true), change(1, 3, true)]
        .into_iter()
        .filter_map(|(key, entry)| Some((key, entry?)));
    let again = Tables::new(2, 0, log, 100, entries);
    assert_eq!(counts(&again, 1, 1), counts(&first, 1, 1));
    assert_eq!(again.snapshot(router(1)).upserts.len(), 2);
}
