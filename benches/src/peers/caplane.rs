//! caplane-router, as every run of the generator starts it.

use super::{LABELS, PeerError, ROUND_TRIP_SIZE, RoundTrip, Settings, System, Throughput};
use crate::bars::runs::{Loss, faults};
use crate::load::{self, Plan, Rate, Report, Verdict};
use crate::rig::Rig;
use caplane_wire::{CongestionAction, TrafficClass};
use std::time::Duration;

/// The router's default configuration: mutual TLS, AES-128-GCM, path MTU discovery.
pub struct Router;

impl Router {
    fn run(&self, settings: &Settings, plan: &Plan) -> Result<Report, PeerError> {
        let plan = Plan {
            warm_up: settings.warm_up,
            duration: settings.duration,
            ..plan.clone()
        };
        let rig = Rig::start_at(&plan, 1, &settings.place)?;
        let report = load::run(&plan, &rig.target()?, &mut |_| {})?;
        match report.verdict {
            Verdict::Valid | Verdict::HeldBack => Ok(report),
            other => Err(PeerError::Failed(format!(
                "the run is not valid: {other:?}"
            ))),
        }
    }
}

impl System for Router {
    fn name(&self) -> &'static str {
        "caplane-router"
    }

    fn transport(&self) -> &'static str {
        "quic"
    }

    fn encrypted(&self) -> bool {
        true
    }

    fn install(&mut self, _: &Settings) -> Result<(), PeerError> {
        Ok(())
    }

    fn throughput(
        &mut self,
        settings: &Settings,
        size: usize,
        receivers: usize,
    ) -> Result<Throughput, PeerError> {
        let plan = Plan {
            payload: size,
            receivers,
            rate: Rate::Max,
            class: TrafficClass::new(0, CongestionAction::Block),
            ..Plan::one_to_one(LABELS)
        };
        let report = self.run(settings, &plan)?;
        let faults = faults([&report], Loss::Fault);
        if !faults.is_empty() {
            return Err(PeerError::Failed(faults.join(", ")));
        }
        let cpu = report
            .router_cpu
            .ok_or_else(|| PeerError::Failed("no CPU time of the router".to_owned()))?;
        Ok(Throughput {
            messages: cpu.messages,
            payload_bytes: cpu.messages * size as u64,
            cpu: Duration::from_secs_f64(cpu.cpu_s),
            elapsed: Duration::from_secs_f64(cpu.messages as f64 / report.received_per_s.max(1e-9)),
        })
    }

    fn round_trip(&mut self, settings: &Settings, rate: f64) -> Result<RoundTrip, PeerError> {
        let plan = Plan {
            payload: ROUND_TRIP_SIZE,
            rate: Rate::PerSecond(rate),
            reply: true,
            class: TrafficClass::new(0, CongestionAction::Drop),
            ..Plan::one_to_one(LABELS)
        };
        let report = self.run(settings, &plan)?;
        let trip = report
            .round_trip_us
            .ok_or_else(|| PeerError::Failed("nothing was answered".to_owned()))?;
        Ok(RoundTrip {
            rate,
            p50: trip.p50,
            p99: trip.p99,
            unanswered: report.sent.saturating_sub(report.replies),
        })
    }
}
