//! `caplane-load report` and `compare`: results read back from files.

use anyhow::Context;
use caplane_load::compare::Comparison;
use caplane_load::page::{self, Results};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The second result is worse than allowed.
const EXIT_WORSE: u8 = 8;

/// One self-contained HTML page: latency by percentile, loss against load, tables; for light and dark.
#[derive(clap::Args)]
pub struct ReportArguments {
    /// Files that `run --json` or `search --json` wrote; their names label the curves.
    #[arg(required = true)]
    results: Vec<PathBuf>,
    /// Where to write the page.
    #[arg(long, short, default_value = "report.html")]
    output: PathBuf,
}

/// Figures of two results side by side, and the settings in which they differ.
///
/// Exit code: 0, or 8 when --tolerance is given and B is worse in any figure by more than it.
#[derive(clap::Args)]
pub struct CompareArguments {
    /// File that `run --json` or `search --json` wrote.
    a: PathBuf,
    /// Another.
    b: PathBuf,
    /// Percent by which B may be worse than A.
    #[arg(long, value_name = "PERCENT")]
    tolerance: Option<f64>,
}

/// Writes the page.
pub fn report(arguments: &ReportArguments) -> anyhow::Result<ExitCode> {
    let results = Results::read(&arguments.results)?;
    let output = &arguments.output;
    std::fs::write(output, page::render(&results)).with_context(|| output.display().to_string())?;
    println!("{}", output.display());
    Ok(ExitCode::SUCCESS)
}

/// Compares and prints.
pub fn compare(arguments: &CompareArguments) -> anyhow::Result<ExitCode> {
    let comparison = Comparison::of(&read(&arguments.a)?, &read(&arguments.b)?);
    println!(
        "A = {}, B = {}\n{comparison}",
        arguments.a.display(),
        arguments.b.display()
    );
    let worse = arguments
        .tolerance
        .is_some_and(|percent| comparison.worse_than(percent / 100.0).next().is_some());
    Ok(if worse {
        ExitCode::from(EXIT_WORSE)
    } else {
        ExitCode::SUCCESS
    })
}

fn read(path: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}
