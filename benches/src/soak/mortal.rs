//! Peers that join each second, send and hear a little, and end: one in two
//! says goodbye, the other is gone without a word.

use super::paths::LossyWay;
use crate::impair::ImpairError;
use crate::load::{AttachError, Plan, Seat, Target};
use bytes::BytesMut;
use caplane_transport::{Event, LaneTx};
use caplane_wire::{HEADER_LEN, HeaderRepr, LANE_MESSAGE_MAX, message_len};
use serde::Serialize;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A new one each second.
const EVERY: Duration = Duration::from_secs(1);
/// How long one lives.
const LIFE: Duration = Duration::from_millis(600);
/// Messages one sends, and how often.
const MESSAGES: u32 = 200;
const SEND_EVERY: Duration = Duration::from_millis(3);
/// Nothing came for so long: there is nothing left to read.
const QUIET: Duration = Duration::from_millis(50);
const PAYLOAD: usize = 64;

/// What all of them did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Mortals {
    /// Attached and ended.
    pub lived: u64,
    /// Of these, without a word.
    pub ended_silently: u64,
    /// Not attached.
    pub failed: u64,
    /// Messages handed to the transport; the last of them may never have left.
    pub sent: u64,
    /// Whole messages of any kind that reached them.
    pub heard: u64,
}

/// One after the other until told to end: instances of the plan's receiver, so that they share its classes. Every other pair
/// comes over the lossy way. What they did, and the packets that way lost.
pub(super) fn succession(
    direct: &Target,
    mut way: LossyWay,
    plan: &Plan,
    ended: &AtomicBool,
) -> Result<(Mortals, u64), ImpairError> {
    let (begun, mut n, mut all) = (Instant::now(), 0, Mortals::default());
    while !ended.load(Ordering::Acquire) {
        if begun.elapsed() < EVERY * n {
            std::thread::park_timeout(Duration::from_millis(5));
            continue;
        }
        n += 1;
        // An identity may have 63 instances: names are new each time, numbers come back.
        let router = if n % 4 < 2 {
            way.address()?
        } else {
            direct.egress
        };
        match one(router, direct, plan, n, &mut all) {
            Ok(()) => all.lived += 1,
            Err(error) => {
                tracing::warn!(%error, "a mortal");
                all.failed += 1;
            }
        }
    }
    Ok((all, way.end()?))
}

fn one(
    router: SocketAddr,
    target: &Target,
    plan: &Plan,
    n: u32,
    all: &mut Mortals,
) -> Result<(), AttachError> {
    let failed = |e| AttachError::Io(router, e);
    // The second receiver's: it is the plan's only one.
    let identity = target.receivers[1].clone();
    let name = format!("mortal-{n}");
    let mut seat = Seat::attach(router, identity, &name, plan.udp_payload_max)?;
    let lane = seat.endpoint.open_lane(seat.peer, plan.class);
    let lane = lane.map_err(|e| AttachError::Protocol(router, format!("opening a lane: {e}")))?;
    let begun = Instant::now();
    for event in seat.take_early() {
        all.heard += hear(&mut seat, event, router)?;
    }
    let mut sent = 0;
    while begun.elapsed() < LIFE {
        let now = Instant::now();
        seat.endpoint.receive(now).map_err(failed)?;
        while let Some(event) = seat.endpoint.next_event() {
            all.heard += hear(&mut seat, event, router)?;
        }
        if sent < MESSAGES
            && begun.elapsed() >= SEND_EVERY * sent
            && send(&mut seat, lane, plan, n, sent)
        {
            sent += 1;
            all.sent += 1;
        }
        seat.endpoint.flush(now).map_err(failed)?;
        seat.endpoint
            .wait(Some(Duration::from_millis(1)))
            .map_err(failed)?;
    }
    // What QUIC has and has acknowledged is read to the end: an acknowledgement does not say that it was read. Nothing is
    // acknowledged any more meanwhile, so the router soon stops; what is read now counts as heard and as unacknowledged.
    let mut quiet_since = Instant::now();
    while quiet_since.elapsed() < QUIET {
        seat.endpoint
            .wait(Some(Duration::from_millis(1)))
            .map_err(failed)?;
        seat.endpoint.receive(Instant::now()).map_err(failed)?;
        while let Some(event) = seat.endpoint.next_event() {
            all.heard += hear(&mut seat, event, router)?;
            quiet_since = Instant::now();
        }
    }
    if n.is_multiple_of(2) {
        return seat.leave().map_err(failed);
    }
    all.ended_silently += 1;
    Ok(())
}

fn send(seat: &mut Seat, lane: LaneTx, plan: &Plan, n: u32, sequence: u32) -> bool {
    if !seat.endpoint.lane_ready(seat.peer, lane) {
        return false;
    }
    let label = plan.classes[sequence as usize % plan.classes.len()];
    let header = HeaderRepr {
        // Not of the lasting senders' runs: their receivers count these apart.
        flow: u64::from(n),
        sequence,
        ..seat.header(plan, label, PAYLOAD)
    };
    let mut message = BytesMut::zeroed(HEADER_LEN + PAYLOAD);
    message[..HEADER_LEN].copy_from_slice(&header.to_bytes());
    seat.endpoint
        .send_lane(seat.peer, lane, message.freeze())
        .is_ok()
}

/// Whole messages in an event.
fn hear(seat: &mut Seat, event: Event, router: SocketAddr) -> Result<u64, AttachError> {
    match event {
        Event::Lane {
            peer,
            lane,
            mut data,
            ..
        } => {
            let (mut at, mut heard) = (0, 0);
            while let Ok(Some(len)) = message_len(&data[at..], LANE_MESSAGE_MAX)
                && at + len <= data.len()
            {
                at += len;
                heard += 1;
            }
            drop(data.split_to(at));
            seat.endpoint.lane_rest(peer, lane, data);
            Ok(heard)
        }
        Event::Closed { code, reason, .. } => Err(AttachError::Closed {
            address: router,
            code,
            reason,
        }),
        _ => Ok(0),
    }
}
