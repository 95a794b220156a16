//! What a router says of itself and what it costs: its metrics page and its
//! CPU time.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest a metrics page may take.
const METRICS_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest metrics page read (bytes).
const METRICS_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// One reading of a Prometheus text page.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    samples: Vec<Sample>,
}

#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// Sum of all samples of a family; 0 when there is none.
    #[must_use]
    pub fn sum(&self, name: &str) -> f64 {
        self.matching(name, &[]).map(|sample| sample.value).sum()
    }

    /// Sum of the samples of a family that carry all of `labels`.
    #[must_use]
    pub fn sum_where(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|sample| sample.value).sum()
    }

    /// Sums of a family by the values of one label, zeros left out.
    #[must_use]
    pub fn by_label(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for sample in self
            .matching(name, &[])
            .filter(|sample| sample.value != 0.0)
        {
            if let Some(value) = sample.labels.get(label) {
                *sums.entry(value.clone()).or_insert(0.0) += sample.value;
            }
        }
        sums
    }

    /// Reads the Prometheus text format; lines it does not understand are skipped.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let samples = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(parse_sample);
        Self {
            samples: samples.collect(),
        }
    }

    /// Fetches `http://<address>/metrics`.
    ///
    /// # Errors
    /// The connection's, or [`std::io::ErrorKind::InvalidData`] when the answer is no 200.
    pub async fn fetch(address: &str) -> std::io::Result<Self> {
        let page = tokio::time::timeout(METRICS_TIMEOUT, fetch_text(address));
        let text = page.await.map_err(|_| {
            let cause = format!("no metrics from {address} within {METRICS_TIMEOUT:?}");
            std::io::Error::new(std::io::ErrorKind::TimedOut, cause)
        })??;
        Ok(Self::parse(&text))
    }

    fn matching<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(label, value)| sample.labels.get(*label).is_some_and(|v| v == value))
        })
    }
}

async fn fetch_text(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream
        .take(METRICS_BYTES_MAX)
        .read_to_end(&mut answer)
        .await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        let cause = format!("{address} answered {status:?} for its metrics");
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, cause));
    }
    Ok(body.to_owned())
}

/// `name{label="value",…} number`, the number possibly followed by a time.
fn parse_sample(line: &str) -> Option<Sample> {
    let name_end = line.find(['{', ' '])?;
    let name = line[..name_end].to_owned();
    let mut labels = BTreeMap::new();
    let mut rest = &line[name_end..];
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            rest = rest.trim_start_matches([',', ' ']);
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(label.to_owned(), value);
            rest = after;
        }
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample {
        name,
        labels,
        value,
    })
}

/// A label value up to its closing quote, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match (escaped, c) {
            (true, 'n') => value.push('\n'),
            (true, c) => value.push(c),
            (false, '"') => return Some((value, &text[at + 1..])),
            (false, '\\') => {
                escaped = true;
                continue;
            }
            (false, c) => value.push(c),
        }
        escaped = false;
    }
    None
}

/// User and system time a process has used, all threads, from `/proc/<pid>/stat`
/// (resolution: one clock tick, 10 ms).
///
/// # Errors
/// When the process is gone or the file is not as proc(5) says.
pub fn cpu_time(pid: u32) -> std::io::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let invalid = || {
        std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            "unexpected /proc stat line",
        )
    };
    // The name may hold blanks and brackets: what counts begins after the last bracket, with field 3.
    let (_, fields) = stat.rsplit_once(')').ok_or_else(invalid)?;
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().map_err(|_| invalid()))
        .sum::<Result<u64, _>>()?;
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Ok(Duration::from_nanos(
        ticks.saturating_mul(1_000_000_000 / per_second),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_summed_by_family_and_by_label() {
        let metrics = Metrics::parse(
            "# HELP router_dropped_messages_total Dropped.\n# TYPE router_dropped_messages_total counter\n\
             router_dropped_messages_total{worker=\"0\",reason=\"NO_ROUTE\"} 3\n\
             router_dropped_messages_total{worker=\"1\",reason=\"NO_ROUTE\"} 4 1700000000\n\
             router_dropped_messages_total{reason=\"odd \\\"\\\\ }\",worker=\"0\"} 0.5\n\
             router_generation 17\nbroken{ 1\n# EOF\n",
        );
        assert!((metrics.sum("router_dropped_messages_total") - 7.5).abs() < 1e-9);
        let zero = [("worker", "0"), ("reason", "NO_ROUTE")];
        assert!((metrics.sum_where("router_dropped_messages_total", &zero) - 3.0).abs() < 1e-9);
        let by_reason = metrics.by_label("router_dropped_messages_total", "reason");
        assert_eq!(by_reason["NO_ROUTE"], 7.0);
        assert_eq!(by_reason["odd \"\\ }"], 0.5);
        assert_eq!(metrics.sum("router_generation"), 17.0);
        assert_eq!(metrics.sum("absent"), 0.0);
    }

    #[test]
    fn this_process_has_used_time() {
        let mut x = 1_u64;
        let before = cpu_time(std::process::id()).expect("stat");
        while cpu_time(std::process::id()).expect("stat") == before {
            x = std::hint::black_box(x.wrapping_mul(31));
        }
        cpu_time(u32::MAX).expect_err("no such process");
    }
}
