//! The lanes a worker has open towards one peer: opened when first needed, one
//! per traffic class and lane hint. Refuses to know what travels on them.

use caplane_transport::{Endpoint, LaneTx, PeerId, SendError};
use caplane_wire::TrafficClass;

/// Lanes to one peer. A handful (classes in use x lanes per class), so a scan beats a map.
#[derive(Debug, Default)]
pub(super) struct Egress {
    lanes: Vec<EgressLane>,
}

#[derive(Debug, Clone, Copy)]
struct EgressLane {
    class: TrafficClass,
    hint: u32,
    tx: LaneTx,
}

impl Egress {
    /// The lane of `class` and `hint`, if it is open.
    pub(super) fn lane(&self, class: TrafficClass, hint: u32) -> Option<LaneTx> {
        self.lanes
            .iter()
            .find(|lane| lane.class == class && lane.hint == hint)
            .map(|lane| lane.tx)
    }

    /// True when the lane of `class` and `hint` takes bytes now; opens it when it is not open yet.
    pub(super) fn ready(
        &mut self,
        endpoint: &mut Endpoint,
        peer: PeerId,
        class: TrafficClass,
        hint: u32,
    ) -> bool {
        let tx = match self.lane(class, hint) {
            Some(tx) => tx,
            None => match self.open(endpoint, peer, class, hint) {
                Some(tx) => tx,
                None => return false,
            },
        };
        endpoint.lane_ready(peer, tx)
    }

    fn open(
        &mut self,
        endpoint: &mut Endpoint,
        peer: PeerId,
        class: TrafficClass,
        hint: u32,
    ) -> Option<LaneTx> {
        let tx = match endpoint.open_lane(peer, class) {
            Ok(tx) => tx,
            // The peer allows no more streams: share a lane of the class. The choice stays, so a
            // flow stays on one lane. Without one, Event::Writable tells when to try again.
            Err(SendError::StreamLimit) => self.lanes.iter().find(|lane| lane.class == class)?.tx,
            Err(_) => return None,
        };
        self.lanes.push(EgressLane { class, hint, tx });
        Some(tx)
    }

    /// The peer stopped a lane: what comes next opens another.
    pub(super) fn forget(&mut self, tx: LaneTx) {
        self.lanes.retain(|lane| lane.tx != tx);
    }
}
