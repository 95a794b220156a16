//! Instruction counts of what every message passes, held against a committed table: `make gates`.
//!
//! Wall time on a shared machine says little; the number of instructions that a fixed input takes is the same run
//! after run. Each case runs under valgrind's callgrind, which counts what happens inside [`cases::measured`]. Counts
//! depend on the compiler, so the table names the one it was made with.
//!
//! `cargo bench -p caplane-core --bench gates` compares; `-- --update` writes the table anew; `-- --run CASE` runs
//! one case by itself, for a profile.

mod cases;
#[allow(dead_code, reason = "the bench of the table uses the rest")]
#[path = "../fib/labels.rs"]
mod labels;
#[allow(dead_code, reason = "the bench of forwarding uses the rest")]
#[path = "../load/mod.rs"]
mod load;
mod table;

use std::process::{Command, ExitCode};

use table::Table;

/// Counts may differ by so much, in percent, before that is a regression (or an improvement to write down).
const TOLERANCE: f64 = 3.0;
/// Another compiler makes other code, whose counts differ by a few percent either way; what it does not explain is a
/// regression there too.
const TOLERANCE_OTHER_COMPILER: f64 = 20.0;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["--run", case] | ["--run", case, "--bench"] => {
            // Read by `count`.
            println!("{}", cases::run(case));
            ExitCode::SUCCESS
        }
        ["--update"] | ["--update", "--bench"] => update(),
        _ => compare(),
    }
}

/// What the compiler calls itself, as the table holds it.
fn compiler() -> String {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let output = Command::new(rustc).arg("--version").output();
    let version = output.ok().and_then(|o| String::from_utf8(o.stdout).ok());
    version.map_or_else(|| "unknown".to_owned(), |v| v.trim().to_owned())
}

/// Runs one case under callgrind: the instructions of its measured part, for a thousand messages.
fn count(case: &str) -> Result<u64, String> {
    let this = std::env::current_exe().map_err(|e| format!("own path: {e}"))?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .args(["--toggle-collect=*measured*", "--"])
        .arg(this)
        .args(["--run", case])
        .output()
        .map_err(|e| format!("valgrind does not start ({e}): run `make deps`"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected: Option<u64> = said
        .lines()
        .find_map(|line| line.split("Collected :").nth(1))
        .and_then(|number| number.trim().parse().ok());
    let messages = String::from_utf8_lossy(&output.stdout).trim().parse();
    match (collected, messages) {
        (Some(count), Ok::<u64, _>(messages)) if count > 0 => Ok(count * 1_000 / messages),
        _ => Err(format!("{case} under callgrind: {}\n{said}", output.status)),
    }
}

fn counts() -> Result<Vec<(String, u64)>, String> {
    let cases = cases::NAMES.iter();
    cases
        .map(|name| Ok(((*name).to_owned(), count(name)?)))
        .collect()
}

fn update() -> ExitCode {
    let written = counts().and_then(|counts| {
        let compiler = compiler();
        Table { compiler, counts }.write()
    });
    match written {
        Ok(()) => {
            println!("gates: {} is written; commit it", table::PATH);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("gates: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare() -> ExitCode {
    let (committed, now) = match (Table::read(), counts()) {
        (Ok(committed), Ok(now)) => (committed, now),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("gates: {error}");
            return ExitCode::FAILURE;
        }
    };
    let compiler = compiler();
    let tolerance = if committed.compiler == compiler {
        TOLERANCE
    } else {
        println!(
            "gates: the table is of `{}`, this is `{compiler}`: {TOLERANCE_OTHER_COMPILER} % instead of {TOLERANCE} %",
            committed.compiler
        );
        TOLERANCE_OTHER_COMPILER
    };
    println!("instructions per 1,000     committed      now  change (tolerance {tolerance} %)");
    let mut off = Vec::new();
    for (name, now) in &now {
        let Some(before) = committed.count(name) else {
            println!("{name:<24} {:>11} {now:>8}  not in the table", "-");
            off.push(format!("{name} is not in the table"));
            continue;
        };
        let change = (*now as f64 / before as f64 - 1.0) * 100.0;
        println!("{name:<24} {before:>11} {now:>8}  {change:>+6.1} %");
        if change.abs() > tolerance {
            off.push(format!("{name}: {before} -> {now}, {change:+.1} %"));
        }
    }
    if off.is_empty() {
        return ExitCode::SUCCESS;
    }
    let update = "cargo bench -p caplane-core --bench gates -- --update";
    eprintln!(
        "gates: instruction counts moved:\n  {}\n\
         More is a regression: find it with `valgrind --tool=callgrind` over `-- --run CASE`.\n\
         Meant, or less than before: `{update}`, and give both figures in the commit.",
        off.join("\n  ")
    );
    ExitCode::FAILURE
}
