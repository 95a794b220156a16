use caplane_core::Fib;
use caplane_core::fib::{AgentEntry, InstanceAt};
use caplane_proto::v1::resource_key::Key;
use caplane_wire::Label;

use super::*;

fn agent(number: u32, instance: u8) -> Entry {
    Entry::Agent(AgentEntry {
        label: Label::agent(number, 0).unwrap(),
        tenant: 0,
        instances: vec![InstanceAt {
            instance,
            router: Label::router(2).unwrap(),
            weight: 1,
        }],
    })
}

fn update(base: u64, generation: u64, upserts: &[Entry], removes: &[u32]) -> v1::TableUpdate {
    v1::TableUpdate {
        nonce: 9,
        generation,
        base_generation: base,
        upserts: upserts
            .iter()
            .map(|entry| table::resource(entry, generation))
            .collect(),
        removes: removes
            .iter()
            .map(|number| v1::ResourceKey {
                key: Some(Key::Agent(Label::agent(*number, 0).unwrap().bits())),
            })
            .collect(),
        last: true,
        election_id: 7,
    }
}

/// A router that holds what it is sent, and stores it.
struct Holding {
    folder: tempfile::TempDir,
    stored: StoredTable,
    held: HeldTable,
    since: Since,
}

impl Holding {
    /// With so many agents, not yet stored.
    fn of(agents: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(fib_file::FILE_NAME);
        let mut held = HeldTable {
            fib: Fib::empty(0, Label::router(1).unwrap()),
            router_name: "r1".into(),
            store_id: "store-a".into(),
            election_id: 7,
        };
        let entries: Vec<Entry> = (1..=agents).map(|number| agent(number, 1)).collect();
        held.fib = apply(&held.fib, update(0, 1, &entries, &[]));
        Self {
            folder,
            stored: StoredTable::at(path),
            held,
            since: Since::Whole,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(fib_file::FILE_NAME)
    }

    fn take(&mut self, upserts: &[Entry], removes: &[u32]) {
        let base = self.held.fib.generation().0;
        let update = update(base, base + 1, upserts, removes);
        self.since
            .add(Since::Rows(Row::of(&update).into_iter().collect()));
        self.held.fib = apply(&self.held.fib, update);
    }

    fn save(&mut self) -> Saved {
        let since = std::mem::take(&mut self.since);
        self.stored.save(&self.held, &since).unwrap()
    }

    fn loaded(&self) -> HeldTable {
        load(&self.path()).unwrap().unwrap()
    }
}

fn apply(fib: &Fib, update: v1::TableUpdate) -> Fib {
    let delta = table::delta(
        update.base_generation,
        update.generation,
        update.upserts,
        update.removes,
    );
    fib.apply(&delta.unwrap()).unwrap()
}

/// Entries in an order of their own.
fn entries(held: &HeldTable) -> (u64, Vec<Entry>) {
    let mut entries: Vec<Entry> = held.fib.entries().collect();
    entries.sort_by_key(Entry::key);
    (held.fib.generation().0, entries)
}

#[test]
fn what_changed_is_appended_and_comes_back() {
    let mut router = Holding::of(1_000);
    assert!(load(&router.path()).unwrap().is_none());
    assert!(router.save().whole, "there was nothing to go on from");
    router.take(&[agent(1, 7)], &[2]);
    router.take(&[agent(2, 8), agent(5_000, 1)], &[1, 3]);
    assert!(!router.save().whole);
    router.take(&[], &[]);
    assert!(!router.save().whole);
    let back = router.loaded();
    assert_eq!(entries(&back), entries(&router.held));
    assert_eq!(
        (back.router_name.as_str(), back.store_id.as_str()),
        ("r1", "store-a")
    );

    // A snapshot is written whole, and what the log said before it means nothing.
    router.since.add(Since::Whole);
    let log = std::fs::read(log_path(&router.path())).unwrap();
    assert!(router.save().whole);
    assert!(!log_path(&router.path()).exists());
    std::fs::write(log_path(&router.path()), log).unwrap();
    assert_eq!(entries(&router.loaded()), entries(&router.held));

    // Another process appends to nothing that it did not write.
    router.stored = StoredTable::at(router.path());
    router.take(&[agent(9, 9)], &[]);
    assert!(router.save().whole);
    // Rows that do not go on from what is there are no difference to it.
    router.take(&[agent(10, 9)], &[]);
    router.since = Since::default();
    router.take(&[agent(11, 9)], &[]);
    assert!(router.save().whole);
    assert_eq!(entries(&router.loaded()), entries(&router.held));
}

#[test]
fn one_change_costs_the_same_at_any_table_size() {
    let cost = |agents: u32| {
        let mut router = Holding::of(agents);
        let whole = router.save();
        router.take(&[agent(agents / 2, 3)], &[]);
        let first = router.save();
        router.take(&[agent(agents / 2, 4)], &[]);
        let next = router.save();
        assert!(whole.whole && !first.whole && !next.whole);
        assert_eq!(entries(&router.loaded()), entries(&router.held));
        (whole.bytes, first.bytes, next.bytes)
    };
    let (small, large) = (cost(1_000), cost(100_000));
    println!(
        "1,000 and 100,000 entries: table {} and {} bytes, a change {} and {}",
        small.0, large.0, small.2, large.2
    );
    assert!(large.0 > 50 * small.0, "the tables differ");
    assert!(large.1 <= 2 * small.1 && large.2 <= 2 * small.2);
}

#[test]
fn a_log_as_long_as_the_table_gives_way_to_it() {
    let mut router = Holding::of(10_000);
    let table = router.save().bytes;
    assert!(table > LOG_BYTES_MIN, "{table}");
    let (mut appended, mut changes) = (0, 0);
    loop {
        changes += 1;
        router.take(&[agent(changes % 10_000 + 1, 2)], &[]);
        let saved = router.save();
        if saved.whole {
            break;
        }
        appended += saved.bytes;
        let log = std::fs::metadata(log_path(&router.path())).unwrap().len();
        assert_eq!(log, appended);
        assert!(log <= table + HEADER_LEN as u64);
    }
    assert!(appended > table * 9 / 10, "{appended} of {table}");
    assert_eq!(entries(&router.loaded()), entries(&router.held));
    // More waits than is kept: it is written whole instead.
    for number in 1..=10 {
        let many: Vec<Entry> = (1..=20_000).map(|i| agent(i, 1 + number)).collect();
        router.take(&many, &[]);
    }
    assert!(matches!(router.since, Since::Whole));
}

#[test]
fn a_torn_or_rotten_log_ends_where_it_is_no_longer_whole() {
    let mut router = Holding::of(3);
    router.save();
    let mut states = vec![entries(&router.held)];
    for instance in 2..6 {
        router.take(&[agent(1, instance)], &[]);
        router.save();
        states.push(entries(&router.held));
    }
    let log = std::fs::read(log_path(&router.path())).unwrap();
    let loaded = |log: &[u8]| {
        std::fs::write(log_path(&router.path()), log).unwrap();
        entries(&router.loaded())
    };
    assert_eq!(loaded(&log), states[4]);
    let mut reached = 0;
    for end in 0..=log.len() {
        let at = states
            .iter()
            .position(|state| *state == loaded(&log[..end]));
        let at = at.unwrap_or_else(|| panic!("cut at {end}: a state that never was"));
        assert!(at >= reached, "cut at {end}");
        reached = at;
    }
    assert_eq!(reached, 4);
    for bit in 0..log.len() * 8 {
        let mut rotten = log.clone();
        rotten[bit / 8] ^= 1 << (bit % 8);
        let state = loaded(&rotten);
        assert!(states[..4].contains(&state), "bit {bit}");
    }
}

/// Any updates, saved at any times, by a process that ends at any time: what is loaded is what was saved last.
#[test]
fn whatever_is_saved_is_what_is_loaded() {
    for seed in 1..=40_u64 {
        let mut state = seed;
        let mut dice = |sides: u64| {
            // Knuth's MMIX generator; its high bits are good enough here.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % sides) as u32
        };
        let mut router = Holding::of(20);
        router.save();
        for _ in 0..60 {
            let put: Vec<Entry> = (1..=3 * dice(4))
                .step_by(3)
                .map(|i| agent(i + dice(3), 1 + dice(60) as u8))
                .collect();
            let gone: Vec<u32> = match put.is_empty() {
                true => (0..dice(4)).map(|i| 1 + 4 * i + dice(4)).collect(),
                false => Vec::new(),
            };
            router.take(&put, &gone);
            match dice(8) {
                0..4 => {
                    router.save();
                    assert_eq!(
                        entries(&router.loaded()),
                        entries(&router.held),
                        "seed {seed}"
                    );
                }
                4 => router.since.add(Since::Whole),
                5 => {
                    router.save();
                    router.stored = StoredTable::at(router.path());
                    router.held = router.loaded();
                }
                _ => {}
            }
        }
    }
}
