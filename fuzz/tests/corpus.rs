//! Every seed of `corpus/`, and some thousands of mutations of it, pass their target.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use caplane_fuzz::mutation::{Random, mutated};
use caplane_fuzz::{TARGETS, Target};

/// Mutations a target: about a second in all. `run.sh` is for more.
const MUTATIONS: u32 = 3_000;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn replay(name: &str) {
    let (_, target): &(&str, Target) = TARGETS.iter().find(|(known, _)| *known == name).unwrap();
    let mut corpus = Vec::new();
    for path in files(&folder("corpus").join(name)) {
        let seed = fs::read(&path).unwrap();
        // A failing seed is named by the captured output above the panic.
        println!("{}", path.display());
        target(&seed);
        corpus.push(seed);
    }
    let mut random = Random::new(1);
    for number in 1..=MUTATIONS {
        let input = mutated(&mut random, &corpus);
        println!("mutation {number}: mutate 60 1 {name}");
        target(&input);
    }
}

#[test]
fn every_target_has_a_file_and_a_corpus() {
    let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let stems = |name| -> BTreeSet<String> {
        let files = files(&folder(name)).into_iter();
        files
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(stems("corpus"), names);
    assert_eq!(stems("fuzz_targets"), names);
}

macro_rules! replays {
    ($($name:ident)+) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })+

        #[test]
        fn every_target_is_replayed() {
            assert_eq!([$(stringify!($name)),+], TARGETS.map(|(name, _)| name));
        }
    };
}

replays! {
    agent_card
    bulk_framing
    control_stream
    header_tlv
    label_text
    lane_framing
    southbound_update
    taxonomy_file
}
