//! A report as people read it.

use super::{Distribution, Report, SelfTest, Verdict};
use std::fmt;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let offered = self
            .offered_per_s
            .map_or("as fast as flow control admits".to_owned(), |rate| {
                format!("{rate:.0}/s offered")
            });
        writeln!(
            f,
            "{}: {:?}, {} B payload, {offered} ({} loop), {} senders, {} receivers, {} classes, {} flows, {:.1} s",
            self.target,
            self.carrier,
            self.payload_bytes,
            self.loop_kind,
            self.senders,
            self.receivers,
            self.classes,
            self.flows,
            self.measured_s,
        )?;
        writeln!(
            f,
            "  rate      sent {:.0}/s, received {:.0}/s = {:.3} Gbit/s of payload, UDP payload {} B",
            self.sent_per_s, self.received_per_s, self.received_gbit_per_s, self.udp_payload,
        )?;
        writeln!(
            f,
            "  messages  sent {}, received {}, lost {} ({:.4} %), duplicated {}, reordered {}, corrupted {}, misrouted {}, foreign {}, too large {}",
            self.sent,
            self.received,
            self.lost,
            self.loss() * 100.0,
            self.duplicated,
            self.reordered,
            self.corrupted,
            self.misrouted,
            self.foreign,
            self.too_large,
        )?;
        self.write_latency(f)?;
        self.write_machine(f)
    }
}

impl Report {
    fn write_latency(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.notices.is_empty() {
            writeln!(f, "  notices   {:?}", self.notices)?;
        }
        for (name, latency) in [
            ("latency  ", &self.latency_us),
            ("  from sending (uncorrected)", &self.latency_uncorrected_us),
        ] {
            if let Some(d) = latency {
                writeln!(f, "  {name} us: {d}")?;
            }
        }
        if let Some(churn) = &self.connection_churn {
            writeln!(
                f,
                "  churn     {} instances attached and left, {:.1}/s of {:.1}/s, {} failed; attaching took p50 {:.2} ms, max {:.2} ms",
                churn.attached,
                churn.attached_per_s,
                churn.wanted_per_s,
                churn.failed,
                churn.attach_ms.p50,
                churn.attach_ms.max
            )?;
        }
        if let Some(churn) = &self.table_churn {
            writeln!(
                f,
                "  tables    {} changes of {} entries: live after p50 {:.2} ms, max {:.2} ms (the router's part {:.2} ms, {:.2} ms); blocked {}; longest silence while one came into force {}, longest of all {:.2} ms",
                churn.deltas,
                churn.entries,
                churn.live_ms.p50,
                churn.live_ms.max,
                churn.router_ms.p50,
                churn.router_ms.max,
                churn
                    .blocked_ms
                    .map_or("-".to_owned(), |ms| format!("{ms:.3} ms a change")),
                churn
                    .silence_during_ms
                    .zip(churn.silence_before_ms)
                    .map_or("not judged".to_owned(), |(during, before)| format!(
                        "{during:.2} ms, as long before it {before:.2} ms"
                    )),
                self.longest_silence_ms,
            )?;
        }
        if let Some(round_trip) = &self.round_trip_us {
            writeln!(
                f,
                "  answers   {}, round trip us: {round_trip}",
                self.replies
            )?;
        }
        match &self.self_test {
            Some(test) => writeln!(f, "  {test}")?,
            None => writeln!(f, "  self-test left out")?,
        }
        writeln!(
            f,
            "  generator late by p99 {:.0} us; held back by flow control {:.1} % of the time",
            self.generator_lateness_us.p99,
            self.blocked_part * 100.0
        )
    }

    fn write_machine(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(cpu) = &self.router_cpu {
            writeln!(
                f,
                "  router    {:.0} ns of CPU a message, {:.3} M messages and {:.2} Gbit a core-second, {:.4} context switches a message, {:.1} MiB resident ({:.2} s of CPU, resolution {:.0} ms)",
                cpu.ns_per_message,
                cpu.messages_per_core_second / 1e6,
                cpu.gbit_per_core_second,
                cpu.context_switches_per_message,
                cpu.resident_bytes as f64 / 1048576.0,
                cpu.cpu_s,
                cpu.resolution_s * 1e3,
            )?;
        }
        writeln!(
            f,
            "  on        {} ({} CPUs, {}), Linux {}, commit {}, {}, seed {}",
            self.machine.cpu,
            self.machine.cpus,
            if self.co_located {
                "co-located"
            } else {
                "the router elsewhere"
            },
            self.machine.kernel,
            self.machine.commit,
            self.tls,
            self.seed,
        )?;
        write!(
            f,
            "  verdict   {}",
            match self.verdict {
                Verdict::Valid => "valid",
                Verdict::HeldBack =>
                    "held back: the router took less than was offered; this is its limit, and the latency is that of an overload",
                Verdict::GeneratorSaturated => "generator saturated: result invalid",
                Verdict::NothingReceived => "NOTHING RECEIVED: result invalid",
                Verdict::Faulty => "FAULTY: corrupted or misrouted messages",
            }
        )
    }
}

impl fmt::Display for SelfTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "self-test: the generator alone carries ")?;
        write!(f, "{:.0} messages a second", self.received_per_s)?;
        match self.offered_per_s {
            Some(offered) => write!(f, " of {offered:.0} asked of it")?,
            None => write!(f, " as fast as flow control admits")?,
        }
        if self.verdict != Verdict::Valid {
            write!(f, " (not valid: {:?})", self.verdict)?;
        }
        for what in &self.left_out {
            write!(f, "; left out: {what}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "min {:.0}, mean {:.0}, p50 {:.0}, p90 {:.0}, p99 {:.0}, p99.9 {:.0}, p99.99 {:.0}, max {:.0}",
            self.min, self.mean, self.p50, self.p90, self.p99, self.p999, self.p9999, self.max
        )
    }
}
