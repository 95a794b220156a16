//! Status: which controller this is, which one leads, and where its store stands.

use caplane_proto::v1;

use super::NorthboundService;
use super::errors::told;
use crate::store::Standing;

/// The call.
pub(super) fn answer(service: &NorthboundService) -> v1::StatusResponse {
    let state = &service.state;
    let standing = state.standing().borrow().clone();
    let (leader, election_id) = match standing {
        Standing::Leading(id) => (Some(told(&service.about)), id.0),
        Standing::Following(leader) => (leader.as_deref().map(told), 0),
    };
    let intent_generation = state.rib().intent_generation();
    v1::StatusResponse {
        name: service.about.name.clone(),
        leading: election_id != 0,
        leader,
        election_id,
        store: state.engine().into(),
        store_id: state.store_id(),
        generation: state.generation(),
        intent_generation,
    }
}
