//! The rules of this house, checked: who may depend on whom, where `unsafe`
//! may stand, how long files get, which names say nothing.
//!
//! `make tidy` prints the report of long functions too.

#[path = "tidy/source.rs"]
mod source;

use cargo_metadata::{Metadata, MetadataCommand, Package};
use source::Source;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of a file, tests apart.
const FILE_LINES_MAX: usize = 600;
/// Lines of a function above which it is reported.
const FUNCTION_LINES_WANTED: usize = 70;

/// Everything that may lie at the top; dot-files may too.
const TOP_LEVEL: &[&str] = &[
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "benches",
    "controlplane",
    "dataplane",
    "deny.toml",
    "fuzz",
    "wire-format",
];

/// Which of our crates a crate may use, build and test dependencies included.
/// `benches` and `fuzz` may use anything and are not listed.
const MAY_DEPEND_ON: &[(&str, &[&str])] = &[
    ("caplane-wire", &[]),
    ("caplane-core", &["caplane-wire"]),
    ("caplane-transport", &["caplane-wire"]),
    (
        "caplane-router",
        &[
            "caplane-wire",
            "caplane-core",
            "caplane-transport",
            "caplane-proto",
        ],
    ),
    (
        "caplane-client",
        &["caplane-wire", "caplane-transport", "caplane-proto"],
    ),
    ("caplane-edge", &["caplane-client"]),
    ("caplane-proto", &[]),
    (
        "caplane-controller",
        &["caplane-wire", "caplane-proto", "caplane-core"],
    ),
    ("caplane", &["caplane-proto", "caplane-client"]),
];
const ANYTHING: &[&str] = &["caplane-load", "caplane-fuzz"];

/// Crates whose names only the transport (and the measuring room) may say.
const TRANSPORT_ONLY: &[&str] = &["quiche", "boring", "mio", "io-uring", "libc"];
const MAY_NAME_TRANSPORT: &[&str] = &["caplane-transport", "caplane-load"];

/// The only folder with `unsafe`,
const UNSAFE_FOLDER: &str = "dataplane/transport/src/io/";
/// and the allocator that counts, which is in no product: `GlobalAlloc` is an unsafe trait.
const COUNTING_ALLOCATOR: &str = "dataplane/core/benches/counting.rs";

/// Words that say nothing, as parts of identifiers.
const EMPTY_WORDS: &[&str] = &["util", "utils", "helper", "helpers", "manager"];
/// File and folder names that say nothing.
const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "helper", "helpers", "manager", "managers", "common", "misc", "handler",
];
/// This test has to name what it bans.
const TIDY: &str = "benches/tests/tidy";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("benches lies in the workspace")
        .to_owned()
}

/// Files of the project: tracked, or new and not ignored.
fn files() -> Vec<String> {
    let output = Command::new("git")
        .args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "-z",
        ])
        .current_dir(root())
        .output()
        .expect("tidy asks git for the project's files: is git installed?");
    assert!(
        output.status.success(),
        "git ls-files: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let files: Vec<String> = String::from_utf8(output.stdout)
        .expect("file names are UTF-8")
        .split_terminator('\0')
        .filter(|file| root().join(file).is_file())
        .map(str::to_owned)
        .collect();
    assert!(files.len() > 10, "git names only {files:?}");
    files
}

fn read(file: &str) -> String {
    let bytes = std::fs::read(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn rust_files() -> Vec<(String, Source)> {
    files()
        .into_iter()
        .filter(|file| file.ends_with(".rs"))
        .map(|file| {
            let source = Source::new(&read(&file));
            (file, source)
        })
        .collect()
}

fn is_test_file(file: &str) -> bool {
    file.split('/')
        .any(|part| part == "tests" || part == "fuzz_targets")
        || file.ends_with("tests.rs")
}

fn metadata() -> Metadata {
    MetadataCommand::new()
        .current_dir(root())
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .expect("cargo metadata")
}

/// Fails with every line of `faults`, when there are any.
fn none(rule: &str, faults: Vec<String>) {
    assert!(faults.is_empty(), "{rule}\n  {}\n", faults.join("\n  "));
}

#[test]
fn the_top_level_holds_only_what_it_should() {
    let mut top: Vec<String> = files()
        .into_iter()
        .map(|file| file.split('/').next().unwrap_or_default().to_owned())
        .filter(|name| !name.starts_with('.') && !TOP_LEVEL.contains(&name.as_str()))
        .collect();
    top.dedup();
    none(
        "put these into one of the rooms (TOP_LEVEL in this test is the list):",
        top,
    );
}

#[test]
fn the_planes_meet_only_where_the_table_says() {
    let metadata = metadata();
    let ours: Vec<&str> = metadata.packages.iter().map(|p| p.name.as_str()).collect();
    let faults = metadata
        .packages
        .iter()
        .filter(|package| !ANYTHING.contains(&package.name.as_str()))
        .flat_map(|package| edges_outside_the_table(package, &ours))
        .collect();
    none("edges outside the dependency table:", faults);
}

fn edges_outside_the_table(package: &Package, ours: &[&str]) -> Vec<String> {
    let name = package.name.as_str();
    let Some((_, allowed)) = MAY_DEPEND_ON.iter().find(|(room, _)| *room == name) else {
        return vec![format!("{name} is no room of this house")];
    };
    package
        .dependencies
        .iter()
        .filter(|d| ours.contains(&d.name.as_str()) && !allowed.contains(&d.name.as_str()))
        .map(|d| format!("{name} -> {} ({:?})", d.name, d.kind))
        .collect()
}

#[test]
fn only_the_transport_names_what_carries_it() {
    let faults = metadata()
        .packages
        .iter()
        .filter(|package| !MAY_NAME_TRANSPORT.contains(&package.name.as_str()))
        .flat_map(|package| {
            package
                .dependencies
                .iter()
                .filter(|d| TRANSPORT_ONLY.contains(&d.name.as_str()))
                .map(|d| format!("{} -> {}", package.name, d.name))
                .collect::<Vec<_>>()
        })
        .collect();
    none("these belong behind the transport's surface:", faults);
}

#[test]
fn unsafe_stays_in_the_drivers() {
    let faults = rust_files()
        .iter()
        .filter(|(file, _)| !file.starts_with(UNSAFE_FOLDER) && file != COUNTING_ALLOCATOR)
        .flat_map(|(file, source)| {
            source
                .words()
                .filter(|(word, _)| *word == "unsafe")
                .map(|(_, line)| format!("{file}:{line}"))
                .collect::<Vec<_>>()
        })
        .collect();
    none("unsafe outside dataplane/transport/src/io:", faults);
}

#[test]
fn files_stay_short() {
    let faults = rust_files()
        .iter()
        .filter(|(file, _)| !is_test_file(file))
        .map(|(file, source)| (file, source.lines_without_tests()))
        .filter(|(_, lines)| *lines > FILE_LINES_MAX)
        .map(|(file, lines)| format!("{file}: {lines} lines"))
        .collect();
    none(
        "files past 600 lines without their tests; split them by what they know:",
        faults,
    );
}

#[test]
fn long_functions_are_reported() {
    let mut long: Vec<(usize, String)> = rust_files()
        .iter()
        .filter(|(file, _)| !is_test_file(file))
        .flat_map(|(file, source)| {
            source
                .functions()
                .into_iter()
                .filter(|f| f.lines > FUNCTION_LINES_WANTED)
                .map(|f| (f.lines, format!("{file}:{} {}", f.first_line, f.name)))
                .collect::<Vec<_>>()
        })
        .collect();
    long.sort_by(|a, b| b.cmp(a));
    println!(
        "functions past {FUNCTION_LINES_WANTED} lines: {}",
        long.len()
    );
    for (lines, place) in long {
        println!("  {lines:4} {place}");
    }
}

#[test]
fn names_say_something() {
    let mut faults = Vec::new();
    for (file, source) in rust_files() {
        if file.starts_with(TIDY) {
            continue;
        }
        let parts = file.split('/').map(|p| p.split('.').next().unwrap_or(p));
        faults.extend(
            parts
                .filter(|part| EMPTY_NAMES.contains(part))
                .map(|part| format!("{file}: `{part}` says nothing")),
        );
        faults.extend(
            source
                .words()
                .filter(|(word, _)| segments(word).any(|s| EMPTY_WORDS.contains(&s.as_str())))
                .map(|(word, line)| format!("{file}:{line}: `{word}`")),
        );
    }
    none("name these by what they do:", faults);
}

/// `PeerManager` and `peer_manager` both give `peer`, `manager`.
fn segments(word: &str) -> impl Iterator<Item = String> + '_ {
    word.split('_').flat_map(|part| {
        let mut pieces: Vec<String> = Vec::new();
        let mut previous_lower = false;
        for c in part.chars() {
            if pieces.is_empty() || (c.is_uppercase() && previous_lower) {
                pieces.push(String::new());
            }
            previous_lower = c.is_lowercase();
            if let Some(last) = pieces.last_mut() {
                last.extend(c.to_lowercase());
            }
        }
        pieces
    })
}

#[test]
fn every_module_says_what_it_is_for() {
    let faults = files()
        .into_iter()
        .filter(|file| file.ends_with(".rs") && !file.ends_with("tests.rs"))
        .filter(|file| {
            let text = read(file);
            let first = text
                .lines()
                .find(|l| !l.trim().is_empty() && !l.starts_with("#!["));
            !first.is_some_and(|line| line.starts_with("//!"))
        })
        .collect();
    none(
        "modules without a `//!` head that says what they are for:",
        faults,
    );
}

#[test]
fn nothing_is_left_half_done() {
    // Spelt in pieces, so that this file does not hold them.
    let marks = [
        ["FIX", "ME"].concat(),
        ["#[ign", "ore"].concat(),
        ["todo", "!("].concat(),
        ["unimplement", "ed!("].concat(),
    ];
    let faults = files()
        .into_iter()
        .filter(|file| file.ends_with(".rs") || file.ends_with(".py") || file.ends_with(".sh"))
        .flat_map(|file| {
            lines_with(&file, |line| {
                marks.iter().any(|m| line.contains(m.as_str()))
            })
        })
        .collect();
    none("finish these or take them out:", faults);
}

#[test]
fn nothing_names_a_folder_of_one_machine() {
    let folders = [
        ["/ro", "ot"].concat(),
        ["/wo", "rk"].concat(),
        ["/ho", "me"].concat(),
    ];
    let faults = files()
        .into_iter()
        .filter(|file| !file.starts_with("fuzz/corpus/"))
        .flat_map(|file| lines_with(&file, |line| folders.iter().any(|f| names_folder(line, f))))
        .collect();
    none("paths that exist on one machine only:", faults);
}

/// Whether `folder` stands in `line` as a path of its own: nothing before it, nothing but `/` after it.
fn names_folder(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + folder.len()..].chars().next();
        let part = |c: char| c.is_alphanumeric() || "_-./~${}<>*)".contains(c);
        !before.is_some_and(part)
            && !after.is_some_and(|c| c.is_alphanumeric() || "_-.".contains(c))
    })
}

fn lines_with(file: &str, wrong: impl Fn(&str) -> bool) -> Vec<String> {
    read(file)
        .lines()
        .enumerate()
        .filter(|(_, line)| wrong(line))
        .map(|(n, line)| format!("{file}:{}: {}", n + 1, line.trim()))
        .collect()
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut faults = Vec::new();
    for file in files().into_iter().filter(|file| file.ends_with(".md")) {
        let folder = root()
            .join(&file)
            .parent()
            .map(Path::to_owned)
            .unwrap_or_default();
        for link in links(&read(&file)) {
            let path = link.split('#').next().unwrap_or_default();
            if !path.is_empty() && !path.contains("://") && !folder.join(path).exists() {
                faults.push(format!("{file}: {link}"));
            }
        }
    }
    none("links to files that are not there:", faults);
}

/// Targets of `[text](target)`.
fn links(text: &str) -> Vec<String> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|target| !target.contains(char::is_whitespace))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_rules_themselves_work() {
    assert_eq!(
        segments("PeerManager").collect::<Vec<_>>(),
        ["peer", "manager"]
    );
    assert_eq!(
        segments("send_utils").collect::<Vec<_>>(),
        ["send", "utils"]
    );
    assert_eq!(segments("FIB").collect::<Vec<_>>(), ["fib"]);
    let home = ["/ho", "me"].concat();
    for (line, expected) in [
        (format!("open(\"{home}/me/x\")"), true),
        (format!("cd {home}"), true),
        (format!("see https://a.b{home}/x"), false),
        (format!("{home}page"), false),
    ] {
        assert_eq!(names_folder(&line, &home), expected, "{line}");
    }
    assert_eq!(
        links("a [b](c.md) [d](https://e/f) `x](y z)`"),
        ["c.md", "https://e/f"]
    );
}
