//! `mutate SECONDS [SEED] [TARGET...]`: runs each target on mutations of its corpus, without coverage.
//!
//! The fallback of `run.sh` where libFuzzer cannot be built. An input that makes a target panic is written to
//! `fuzz/artifacts/TARGET/`, and the program ends with status 1.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use caplane_fuzz::mutation::{Random, mutated};
use caplane_fuzz::{TARGETS, Target};

const USAGE: &str = "usage: mutate SECONDS [SEED] [TARGET...]";
/// Inputs between two looks at the clock.
const BATCH: u32 = 64;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().and_then(|text| text.parse().ok());
    let seed = arguments.next().map_or(Some(1), |text| text.parse().ok());
    let (Some(seconds), Some(seed)) = (seconds, seed) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let wanted: Vec<String> = arguments.collect();
    if let Some(unknown) = wanted
        .iter()
        .find(|name| !TARGETS.iter().any(|(known, _)| known == name))
    {
        eprintln!("no target is called {unknown}; {USAGE}");
        return ExitCode::from(2);
    }
    let chosen = TARGETS
        .iter()
        .filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name));
    let mut failed = false;
    for (name, target) in chosen {
        match run(name, *target, Duration::from_secs(seconds), seed) {
            Ok(inputs) => {
                println!("{name}: {inputs} inputs in {seconds} s from seed {seed}, all well")
            }
            Err(error) => {
                eprintln!("{name}: seed {seed}: {error}");
                failed = true;
            }
        }
    }
    ExitCode::from(u8::from(failed))
}

/// Runs one target for `time`; the number of inputs, or what went wrong.
fn run(name: &str, target: Target, time: Duration, seed: u64) -> Result<u64, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = corpus(&root.join("corpus").join(name))?;
    let mut random = Random::new(seed);
    let (began, mut inputs) = (Instant::now(), 0);
    while began.elapsed() < time {
        for _ in 0..BATCH {
            let input = mutated(&mut random, &corpus);
            inputs += 1;
            if catch_unwind(|| target(&input)).is_err() {
                let path = keep(&root.join("artifacts").join(name), seed, inputs, &input)?;
                return Err(format!(
                    "input {inputs} made it panic; it is kept in {}",
                    path.display()
                ));
            }
        }
    }
    Ok(inputs)
}

fn corpus(folder: &Path) -> Result<Vec<Vec<u8>>, String> {
    let told = |error| format!("read corpus {}: {error}", folder.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(told)? {
        paths.push(entry.map_err(told)?.path());
    }
    // The order of a folder's entries is the file system's; the seed's meaning is not.
    paths.sort();
    let corpus: Vec<_> = paths
        .iter()
        .map(fs::read)
        .collect::<Result<_, _>>()
        .map_err(told)?;
    if corpus.is_empty() {
        Err(format!("{} is empty", folder.display()))
    } else {
        Ok(corpus)
    }
}

fn keep(folder: &Path, seed: u64, number: u64, input: &[u8]) -> Result<PathBuf, String> {
    let path = folder.join(format!("seed-{seed}-input-{number}"));
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(&path, input))
        .map_err(|error| {
            format!(
                "input {number} made it panic, and {} cannot be written: {error}",
                path.display()
            )
        })?;
    Ok(path)
}
