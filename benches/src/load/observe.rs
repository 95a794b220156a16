//! What a run tells while it runs, and how a person sees it: a bar on a
//! terminal, a line a second elsewhere.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Load runs, nothing is measured.
    WarmUp,
    /// What happens counts.
    Measuring,
    /// Nothing is sent any more; what is under way may still come.
    Drain,
}

impl Phase {
    /// As people read it.
    pub fn name(self) -> &'static str {
        match self {
            Phase::WarmUp => "warm-up",
            Phase::Measuring => "measuring",
            Phase::Drain => "drain",
        }
    }
}

/// How things stand, ten times a second.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Where the run is.
    pub phase: Phase,
    /// Part of the phase that is over, 0 to 1.
    pub done: f64,
    /// Until the end of the phase.
    pub left: Duration,
    /// Messages a second asked for; `None` when closed by flow control.
    pub offered_per_s: Option<f64>,
    /// Messages handed over so far.
    pub sent: u64,
    /// Copies that were to come for those.
    pub expected: u64,
    /// Copies that came so far.
    pub received: u64,
    /// Latency so far, median (us); 0 while there is none.
    pub p50_us: f64,
    /// 99th percentile (us).
    pub p99_us: f64,
}

/// Somebody who wants to know.
pub trait Observer {
    /// How things stand.
    fn moment(&mut self, moment: &Moment);

    /// Something worth a line.
    fn note(&mut self, line: &str);
}

/// Rates between two moments.
struct Pace {
    since: Instant,
    sent: u64,
    received: u64,
}

impl Pace {
    fn new() -> Pace {
        Pace {
            since: Instant::now(),
            sent: 0,
            received: 0,
        }
    }

    /// A line with rates since the last one, when `every` has passed.
    fn line(&mut self, moment: &Moment, every: Duration) -> Option<String> {
        let took = self.since.elapsed();
        if took < every {
            return None;
        }
        let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / took.as_secs_f64();
        let line = Line {
            moment,
            sent_per_s: rate(self.sent, moment.sent),
            received_per_s: rate(self.received, moment.received),
        }
        .to_string();
        *self = Pace {
            since: Instant::now(),
            sent: moment.sent,
            received: moment.received,
        };
        Some(line)
    }
}

struct Line<'a> {
    moment: &'a Moment,
    sent_per_s: f64,
    received_per_s: f64,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = self.moment;
        write!(f, "{}: ", moment.phase.name())?;
        if let Some(offered) = moment.offered_per_s {
            write!(f, "offered {offered:.0}/s, ")?;
        }
        write!(
            f,
            "sent {:.0}/s, received {:.0}/s, {} under way or lost",
            self.sent_per_s,
            self.received_per_s,
            moment.expected.saturating_sub(moment.received)
        )?;
        if moment.p99_us > 0.0 {
            write!(
                f,
                ", p50 {:.0} us, p99 {:.0} us",
                moment.p50_us, moment.p99_us
            )?;
        }
        write!(f, ", {:.0} s left", moment.left.as_secs_f64())
    }
}

/// A line a second to anything that takes lines.
pub struct Lines<'a> {
    tell: &'a mut dyn FnMut(&str),
    pace: Pace,
}

impl<'a> Lines<'a> {
    /// Tells this one.
    pub fn new(tell: &'a mut dyn FnMut(&str)) -> Lines<'a> {
        Lines {
            tell,
            pace: Pace::new(),
        }
    }
}

impl Observer for Lines<'_> {
    fn moment(&mut self, moment: &Moment) {
        if let Some(line) = self.pace.line(moment, Duration::from_secs(1)) {
            (self.tell)(&line);
        }
    }

    fn note(&mut self, line: &str) {
        (self.tell)(line);
    }
}

/// A bar on a terminal's standard error; plain lines when it is none.
pub struct Display {
    terminal: bool,
    quiet: bool,
    pace: Pace,
    drawn: bool,
}

/// Cells of the bar.
const BAR: usize = 24;

impl Display {
    /// On standard error; `quiet` without a terminal.
    pub fn new(quiet: bool) -> Display {
        let terminal = std::io::stderr().is_terminal();
        Display {
            terminal,
            quiet: quiet && !terminal,
            pace: Pace::new(),
            drawn: false,
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            eprint!("\r\x1b[K");
        }
    }
}

impl Observer for Display {
    fn moment(&mut self, moment: &Moment) {
        let every = if self.terminal { 250 } else { 1_000 };
        let Some(line) = self.pace.line(moment, Duration::from_millis(every)) else {
            return;
        };
        if self.terminal {
            self.clear();
            eprint!("{} {line}", bar(moment.done));
            // A bar that cannot be drawn is no fault of the run.
            let _ = std::io::stderr().flush();
            self.drawn = true;
        } else if !self.quiet {
            eprintln!("caplane-load: {line}");
        }
    }

    fn note(&mut self, line: &str) {
        self.clear();
        if !self.quiet {
            eprintln!("caplane-load: {line}");
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.clear();
    }
}

fn bar(done: f64) -> String {
    let full = (done.clamp(0.0, 1.0) * BAR as f64).round() as usize;
    format!("[{}{}]", "#".repeat(full), "-".repeat(BAR - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_phase_rates_what_is_missing_latency_and_the_time_left() {
        let moment = Moment {
            phase: Phase::Measuring,
            done: 0.5,
            left: Duration::from_secs(3),
            offered_per_s: Some(1_000.0),
            sent: 500,
            expected: 500,
            received: 490,
            p50_us: 120.0,
            p99_us: 900.0,
        };
        let line = Line {
            moment: &moment,
            sent_per_s: 999.6,
            received_per_s: 980.0,
        };
        assert_eq!(
            line.to_string(),
            "measuring: offered 1000/s, sent 1000/s, received 980/s, 10 under way or lost, p50 120 us, p99 900 us, 3 s left"
        );
        assert_eq!(bar(0.5), format!("[{}{}]", "#".repeat(12), "-".repeat(12)));
    }
}
