//! Result files, told apart by their schema.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// Why a file cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// It cannot be read.
    #[error("{0}: {1}")]
    Io(String, std::io::Error),
    /// It is no JSON.
    #[error("{0}: {1}")]
    Json(String, serde_json::Error),
    /// It is no result of ours.
    #[error("{0}: schema {1}: give files that `caplane-load run --json` or `search --json` wrote")]
    Schema(String, String),
}

const RUN: &str = "caplane-load.run.1";
const SEARCH: &str = "caplane-load.search.1";

/// Results with the names of their files.
#[derive(Debug, Default)]
pub struct Results {
    runs: Vec<(String, Value)>,
    searches: Vec<(String, Value)>,
}

/// A named list of pairs.
type Series = (String, Vec<(f64, f64)>);

impl Results {
    /// Reads files.
    ///
    /// # Errors
    /// [`PageError`] names the file.
    pub fn read<P: AsRef<Path>>(paths: &[P]) -> Result<Results, PageError> {
        let mut results = Results::default();
        for path in paths {
            let path = path.as_ref();
            let (name, value) = read(path)?;
            results.add(&name, value)?;
        }
        Ok(results)
    }

    /// Takes one result.
    ///
    /// # Errors
    /// [`PageError::Schema`].
    pub fn add(&mut self, name: &str, value: Value) -> Result<(), PageError> {
        match value["schema"].as_str() {
            Some(RUN) => self.runs.push((name.to_owned(), value)),
            Some(SEARCH) => self.searches.push((name.to_owned(), value)),
            other => {
                let found = other.unwrap_or("missing").to_owned();
                return Err(PageError::Schema(name.to_owned(), found));
            }
        }
        Ok(())
    }

    /// Runs, by the order given.
    pub fn runs(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.runs.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Searches, by the order given.
    pub fn searches(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.searches
            .iter()
            .map(|(name, value)| (name.as_str(), value))
    }

    /// Quantile and latency (us), of runs and of the loads below a PDR.
    pub(super) fn percentiles(&self) -> impl Iterator<Item = Series> {
        let runs = self
            .runs()
            .map(|(name, run)| (name.to_owned(), pairs(&run["latency_percentiles_us"])));
        let below = self.searches().flat_map(|(name, search)| {
            let parts = search["latency"].as_array().into_iter().flatten();
            parts.map(move |at| {
                let part = at["part_of_pdr"].as_f64().unwrap_or(0.0) * 100.0;
                (
                    format!("{name}: {part:.0} % of PDR"),
                    pairs(&at["latency_percentiles_us"]),
                )
            })
        });
        runs.chain(below)
    }

    /// Load and loss ratio of every trial.
    pub(super) fn trials(&self) -> impl Iterator<Item = Series> {
        self.searches().map(|(name, search)| {
            let trials = search["trials"].as_array().into_iter().flatten();
            let points = trials
                .filter_map(|trial| Some((trial["load"].as_f64()?, trial["loss_ratio"].as_f64()?)));
            (name.to_owned(), points.collect())
        })
    }

    /// Conditional throughput of every goal of every search, and its name.
    pub(super) fn goals(&self) -> Vec<(f64, String)> {
        let several = self.searches.len() > 1;
        let of = |(name, search): (&str, &Value)| -> Vec<(f64, String)> {
            let goals = search["goals"].as_array().into_iter().flatten();
            goals
                .filter_map(|found| {
                    let goal = found["goal"]["name"].as_str()?;
                    let label = if several {
                        format!("{name}: {goal}")
                    } else {
                        goal.to_owned()
                    };
                    Some((found["conditional_throughput"].as_f64()?, label))
                })
                .collect()
        };
        self.searches().flat_map(of).collect()
    }

    /// One line for each machine and program.
    pub(super) fn machines(&self) -> impl Iterator<Item = String> {
        let all: BTreeSet<String> = self
            .runs
            .iter()
            .chain(&self.searches)
            .map(|(_, value)| {
                let machine = &value["machine"];
                let text = |key: &str| machine[key].as_str().unwrap_or("?").to_owned();
                format!(
                    "{} ({} CPUs, {}), Linux {}, commit {}: {}",
                    text("cpu"),
                    machine["cpus"],
                    match value["co_located"].as_bool() {
                        Some(true) => "co-located",
                        Some(false) => "the router elsewhere",
                        None => "co-located or not unknown",
                    },
                    text("kernel"),
                    text("commit"),
                    text("command_line")
                )
            })
            .collect();
        all.into_iter()
    }
}

/// One file: its name without folders, and what is in it.
pub(super) fn read(path: &Path) -> Result<(String, Value), PageError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|e| PageError::Io(name.clone(), e))?;
    let value = serde_json::from_str(&text).map_err(|e| PageError::Json(name.clone(), e))?;
    let stem = path
        .file_stem()
        .map_or(name, |stem| stem.to_string_lossy().into_owned());
    Ok((stem, value))
}

fn pairs(value: &Value) -> Vec<(f64, f64)> {
    let points = value.as_array().into_iter().flatten();
    points
        .filter_map(|point| Some((point[0].as_f64()?, point[1].as_f64()?)))
        .collect()
}
