//! Results as one self-contained HTML page: plots in SVG, tables, and the
//! data they come from; readable in a light and a dark room, without a
//! network and without scripts.
//!
//! It reads the JSON that `run` and `search` print, so a page can be made
//! long after the measurement. Refuses to know how anything was measured.

mod plot;
mod results;

pub use results::{PageError, Results};

use plot::{Axis, Curve, Plot, grouped};
use serde_json::Value;
use std::fmt::Write;

/// Writes the page.
pub fn render(results: &Results) -> String {
    let mut body = String::new();
    section(&mut body, "Latency", &latency(results));
    section(&mut body, "Loss against load", &loss(results));
    section(&mut body, "Runs", &runs(results));
    section(&mut body, "Searches", &searches(results));
    let machines: String = results
        .machines()
        .map(|m| format!("<li>{}</li>", escape(&m)))
        .collect();
    let _ = write!(
        body,
        "<section><h2>Measured on</h2><ul>{machines}</ul><p>Where generator and router share the CPUs (co-located), \
         routers are compared by CPU time per message, not by rate, and a loopback figure is no line rate.</p></section>"
    );
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>caplane-load report</title>\n<style>{STYLE}</style></head>\n<body><main>\n\
         <h1>caplane-load</h1>\n<p>{}</p>\n{body}\n{}</main></body></html>\n",
        summary(results),
        data(results)
    )
}

/// What the page is about, before anything else.
fn summary(results: &Results) -> String {
    let count = |n: usize, what: &str, many: &str| match n {
        1 => format!("1 {what}"),
        n => format!("{n} {many}"),
    };
    let invalid = results
        .runs()
        .filter(|(_, run)| run["verdict"].as_str() != Some("valid"))
        .count();
    let mut text = format!(
        "{} and {}.",
        count(results.runs().count(), "run", "runs"),
        count(results.searches().count(), "search", "searches")
    );
    if invalid > 0 {
        let _ = write!(
            text,
            " {} not valid: its figures do not mean what they say.",
            count(invalid, "run is", "runs are")
        );
    }
    text
}

/// Everything the page was made from, as it was given, for whoever wants to look again.
fn data(results: &Results) -> String {
    let all: serde_json::Map<String, Value> = results
        .runs()
        .chain(results.searches())
        .map(|(name, value)| (name.to_owned(), value.clone()))
        .collect();
    let text = Value::Object(all).to_string();
    format!(
        "<details><summary>Data, as JSON</summary><pre id=\"data\">{}</pre></details>\n",
        escape(&text)
    )
}

const STYLE: &str = include_str!("style.css");

fn section(body: &mut String, title: &str, content: &str) {
    if !content.is_empty() {
        let _ = writeln!(body, "<section><h2>{title}</h2>{content}</section>");
    }
}

/// A plot whose horizontal axis stretches the nines: 90 %, 99 %, 99.9 % are equally far apart.
fn latency(results: &Results) -> String {
    let curves: Vec<Curve> = results
        .percentiles()
        .map(|(name, points)| Curve {
            name,
            points: points
                .into_iter()
                .filter(|(q, us)| *q < 1.0 && *us > 0.0)
                .map(|(q, us)| (-(1.0 - q).log10(), us.log10()))
                .collect(),
            line: true,
        })
        .filter(|curve| curve.points.len() > 1)
        .collect();
    if curves.is_empty() {
        return String::new();
    }
    let farthest = curves
        .iter()
        .flat_map(|c| &c.points)
        .map(|p| p.0)
        .fold(1.0, f64::max);
    let nines = [
        (0.0, "0 %"),
        (0.301, "50 %"),
        (1.0, "90 %"),
        (2.0, "99 %"),
        (3.0, "99.9 %"),
        (4.0, "99.99 %"),
        (5.0, "99.999 %"),
        (6.0, "99.9999 %"),
    ];
    let x = Axis {
        title: "part of the messages that came at least as fast".to_owned(),
        ticks: nines
            .into_iter()
            .filter(|(at, _)| *at <= farthest.ceil())
            .map(|(at, name)| (at, name.to_owned()))
            .collect(),
    };
    let y = Axis::decades("latency (logarithmic)", &curves, duration);
    let note = "<p>Open-loop runs count from the time a message was due; closed ones from the time of sending.</p>";
    let plot = Plot {
        x,
        y,
        curves,
        marks: Vec::new(),
    };
    format!("{}{note}", plot.svg())
}

fn duration(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{us} µs"),
        us if us < 1e6 => format!("{} ms", us / 1e3),
        us => format!("{} s", us / 1e6),
    }
}

fn loss(results: &Results) -> String {
    let curves: Vec<Curve> = results
        .trials()
        .map(|(name, points)| Curve {
            name,
            points: points
                .into_iter()
                .map(|(load, loss)| (load, loss * 100.0))
                .collect(),
            line: false,
        })
        .filter(|curve| !curve.points.is_empty())
        .collect();
    if curves.is_empty() {
        return String::new();
    }
    let x = Axis::linear(
        "load, messages a second",
        curves.iter().flat_map(|c| &c.points).map(|p| p.0),
    );
    let y = Axis::linear(
        "loss, %",
        curves.iter().flat_map(|c| &c.points).map(|p| p.1),
    );
    let note = "<p>A dot is a trial. NDR: the highest load that keeps its goal without loss; PDR: with as much loss as its goal \
                admits. The lines stand at their conditional throughput (RFC 9971).</p>";
    let plot = Plot {
        x,
        y,
        curves,
        marks: results.goals(),
    };
    format!("{}{note}", plot.svg())
}

fn runs(results: &Results) -> String {
    let rows: String = results
        .runs()
        .map(|(name, run)| run_row(name, run))
        .collect();
    if rows.is_empty() {
        return rows;
    }
    table(
        &[
            "run",
            "verdict",
            "payload, bytes",
            "offered/s",
            "received/s",
            "lost",
            "p50, µs",
            "p99, µs",
            "p99.9, µs",
            "max, µs",
            "CPU, ns/message",
            "M messages/core-s",
        ],
        &rows,
    )
}

fn run_row(name: &str, run: &Value) -> String {
    let latency = if run["latency_us"].is_object() {
        &run["latency_us"]
    } else {
        &run["latency_uncorrected_us"]
    };
    let cpu = &run["router_cpu"];
    let valid = run["verdict"].as_str() == Some("valid");
    let cells = row(&[
        escape(name),
        escape(run["verdict"].as_str().unwrap_or("-")),
        number(&run["payload_bytes"], 0),
        number(&run["offered_per_s"], 0),
        number(&run["received_per_s"], 0),
        number(&run["lost"], 0),
        number(&latency["p50"], 0),
        number(&latency["p99"], 0),
        number(&latency["p999"], 0),
        number(&latency["max"], 0),
        number(&cpu["ns_per_message"], 0),
        cpu["messages_per_core_second"]
            .as_f64()
            .map_or("-".to_owned(), |n| format!("{:.3}", n / 1e6)),
    ]);
    if valid {
        cells
    } else {
        cells.replacen("<tr>", "<tr class=\"bad\">", 1)
    }
}

fn searches(results: &Results) -> String {
    let (mut found, mut attributes) = (String::new(), String::new());
    for (name, search) in results.searches() {
        for result in search["goals"].as_array().into_iter().flatten() {
            let goal = &result["goal"];
            let head = [escape(name), escape(goal["name"].as_str().unwrap_or("-"))];
            let figures = [
                number(&result["conditional_throughput"], 0),
                number(&result["relevant_lower_bound"], 0),
                number(&result["relevant_upper_bound"], 0),
                number(&search["mrr_per_s"], 0),
            ];
            found.push_str(&row(&[&head[..], &figures].concat()));
            let wanted = [
                number(&goal["loss_ratio"], 4),
                number(&goal["trial_s"], 1),
                number(&goal["duration_sum_s"], 1),
                number(&goal["exceed_ratio"], 2),
                number(&goal["width"], 3),
            ];
            attributes.push_str(&row(&[&head[..], &wanted].concat()));
        }
    }
    if found.is_empty() {
        return found;
    }
    let found = table(
        &[
            "search",
            "goal",
            "conditional throughput, messages/s",
            "lower bound, messages/s",
            "upper bound, messages/s",
            "MRR, messages/s",
        ],
        &found,
    );
    let attributes = table(
        &[
            "search",
            "goal",
            "loss ratio",
            "trial, s",
            "duration sum, s",
            "exceed ratio",
            "width",
        ],
        &attributes,
    );
    format!("{found}<p>What the goals ask for:</p>{attributes}")
}

fn table(heads: &[&str], rows: &str) -> String {
    let heads: String = heads
        .iter()
        .map(|head| format!("<th>{head}</th>"))
        .collect();
    format!(
        "<div class=\"wide\"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
}

fn row(cells: &[String]) -> String {
    let cells: String = cells
        .iter()
        .map(|cell| format!("<td>{cell}</td>"))
        .collect();
    format!("<tr>{cells}</tr>")
}

fn number(value: &Value, digits: usize) -> String {
    value.as_f64().map_or("-".to_owned(), |n| match digits {
        0 => grouped(n),
        digits => format!("{n:.digits$}"),
    })
}

/// For text and attribute values.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_page_shows_both_plots_and_stands_alone() {
        let run = json!({
            "schema": "caplane-load.run.1", "verdict": "valid", "payload_bytes": 64, "received_per_s": 1000.4,
            "latency_percentiles_us": [[0.0, 90.0], [0.5, 100.0], [0.99, 900.0], [1.0, 1200.0]],
            "latency_us": {"p50": 100.0, "p99": 900.0}, "router_cpu": null,
            "machine": {"cpu": "a <fast> one", "cpus": 2, "kernel": "6", "commit": "abc", "command_line": "x"},
        });
        let search = json!({
            "schema": "caplane-load.search.1", "mrr_per_s": 5.0,
            "goals": [{"goal": {"name": "NDR", "loss_ratio": 0.0}, "conditional_throughput": 4.0}],
            "trials": [{"load": 4.0, "loss_ratio": 0.0}, {"load": 8.0, "loss_ratio": 0.5}], "latency": [],
            "machine": run["machine"],
        });
        let mut results = Results::default();
        results.add("a.json", run).expect("a run");
        results.add("b.json", search).expect("a search");
        assert!(results.add("c.json", json!({"schema": "other"})).is_err());
        let page = render(&results);
        assert_eq!(page.matches("<svg").count(), 2);
        assert!(page.contains("a &lt;fast&gt; one") && !page.contains("a <fast> one"));
        assert!(page.contains("prefers-color-scheme: dark"));
        assert!(!page.contains("http") && !page.contains("<script"));
        assert!(page.contains("99 %") && page.contains("NDR"));
        let from = page.find("id=\"data\">").expect("data") + "id=\"data\">".len();
        let text = page[from..].split("</pre>").next().expect("an end");
        let text = text
            .replace("&quot;", "\"")
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&");
        let data: Value = serde_json::from_str(&text).expect("what is embedded is JSON");
        assert_eq!(data["a.json"]["latency_us"]["p99"], 900.0);
        assert_eq!(data["b.json"]["trials"][1]["load"], 8.0);
    }
}
