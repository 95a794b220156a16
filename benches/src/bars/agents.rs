//! Rows about many attached agents: what each costs when idle, and what it
//! costs to attach.

use super::{Bar, BarError, Bound, Settings};
use crate::load::{AttachError, Crowd, Plan, ProcessSample, ProcessWatch};
use crate::rig::Rig;
use caplane_client::ClientConfig;
use std::time::{Duration, Instant};

/// Agents of the idle row.
const IDLE: usize = 10_000;
/// Instances attached in one run of the handshake row.
const HANDSHAKES: usize = 2_000;
/// Instances one identity may have: six bits, number 0 is none.
const INSTANCES: usize = 63;
/// Until memory of handshakes has been given back.
const SETTLE: Duration = Duration::from_secs(3);
/// As agents of our client library: after half of the idle timeout.
const KEEPALIVE: Duration =
    Duration::from_millis(ClientConfig::IDLE_TIMEOUT.as_millis() as u64 / 2);
/// The idle router is watched for two keepalives of each agent.
const WATCH: Duration = KEEPALIVE.saturating_mul(2);
/// Idle agents cost more once they are old: QUIC remembers up to 24 acknowledgements of keepalives.
const AGE: Duration = KEEPALIVE.saturating_mul(26);

/// A rig with so many identities that `count` instances find room.
fn rig(count: usize) -> Result<Rig, BarError> {
    let plan = Plan {
        receivers: count.div_ceil(INSTANCES),
        ..Plan::one_to_one(10)
    };
    Ok(Rig::start(&plan, 1)?)
}

fn sample(watch: &ProcessWatch) -> Result<ProcessSample, BarError> {
    watch.sample().map_err(|e| BarError::Proc(e.to_string()))
}

fn failed(error: AttachError) -> BarError {
    BarError::Run(error.into())
}

/// 10,000 idle agents with client certificates: memory each, CPU of the router.
///
/// # Errors
/// As all rows.
pub fn idle(settings: &Settings, tell: &mut dyn FnMut(&str)) -> Result<Vec<Bar>, BarError> {
    let rig = rig(IDLE)?;
    let target = rig.target()?;
    let before = sample(&target.watch)?;
    let mut crowd = Crowd::new(target.egress, &target.receivers, true).map_err(failed)?;
    crowd.attach(IDLE, INSTANCES).map_err(failed)?;
    tell(&format!("idle: {IDLE} attached"));
    crowd.serve(SETTLE).map_err(failed)?;
    let settled = sample(&target.watch)?;
    let windows = WATCH * settings.repeat as u32;
    let age = AGE.saturating_sub(windows);
    tell(&format!(
        "idle: {} s until they are old",
        (age + windows).as_secs()
    ));
    crowd.serve(age).map_err(failed)?;
    let mut shares = Vec::new();
    let mut last = sample(&target.watch)?;
    for _ in 0..settings.repeat {
        let begun = Instant::now();
        crowd.serve(WATCH).map_err(failed)?;
        let now = sample(&target.watch)?;
        shares.push((now.cpu - last.cpu).as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0);
        last = now;
    }
    let each = |now: &ProcessSample| {
        now.resident_bytes.saturating_sub(before.resident_bytes) as f64 / IDLE as f64 / 1_024.0
    };
    let memory = Bar::new(
        "10,000 idle agents: resident memory each",
        (each(&last) > 0.0).then_some(each(&last)),
        "KiB",
        Bound::AtMost(48.0),
    )
    .detailed(format!(
        "after {} keepalives each; {:.1} KiB just attached; one run",
        (age + windows).as_millis() / KEEPALIVE.as_millis(),
        each(&settled)
    ));
    let cpu = Bar::new(
        "10,000 idle agents: CPU of the router",
        shares,
        "%",
        Bound::AtMost(2.0),
    )
    .detailed(format!(
        "of one core, {} windows of {} s; each sends a keepalive every {:.1} s, as agents of our client library",
        settings.repeat,
        WATCH.as_secs(),
        KEEPALIVE.as_secs_f64()
    ));
    Ok(vec![memory, cpu])
}

/// Full handshakes with client certificates, Hello and Welcome, per core-second of the router.
///
/// # Errors
/// As all rows.
pub fn attach(settings: &Settings, tell: &mut dyn FnMut(&str)) -> Result<Vec<Bar>, BarError> {
    let rig = rig(HANDSHAKES)?;
    let target = rig.target()?;
    let mut rates = [Vec::new(), Vec::new()];
    for round in 0..settings.repeat {
        for (rates, hybrid) in rates.iter_mut().zip([true, false]) {
            let mut crowd = Crowd::new(target.egress, &target.receivers, hybrid).map_err(failed)?;
            let before = sample(&target.watch)?;
            crowd.attach(HANDSHAKES, INSTANCES).map_err(failed)?;
            let cpu = (sample(&target.watch)?.cpu - before.cpu).as_secs_f64();
            // Without CPU time there is no rate: a bar of fewer runs says so.
            rates.extend((cpu > 0.0).then(|| HANDSHAKES as f64 / cpu));
            crowd.leave().map_err(failed)?;
        }
        tell(&format!(
            "attach: round {} of {}",
            round + 1,
            settings.repeat
        ));
    }
    let names = ["X25519MLKEM768 (default)", "X25519"];
    Ok(names
        .into_iter()
        .zip(rates)
        .map(|(name, rates)| {
            let what = format!("attach: mutual TLS handshakes per core-second, {name}");
            let without = settings.repeat - rates.len();
            Bar::new(what, rates, "/s", Bound::AtLeast(1_200.0))
                .detailed(format!(
                    "{HANDSHAKES} a run, ECDSA P-256 both ways, Hello and Welcome included"
                ))
                .faulty((without > 0).then(|| format!("no CPU time in {without} runs")))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_attaches_stays_and_leaves() {
        const COUNT: usize = 130;
        let rig = rig(COUNT).expect("a rig");
        let target = rig.target().expect("a target");
        let mut crowd = Crowd::new(target.egress, &target.receivers, false).expect("sockets");
        crowd.attach(COUNT, INSTANCES).expect("all attach");
        assert_eq!(crowd.attached(), COUNT);
        crowd.serve(Duration::from_millis(100)).expect("all stay");
        crowd.leave().expect("all leave");
    }
}
