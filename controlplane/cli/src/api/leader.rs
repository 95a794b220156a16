//! What only the controller that leads can do is asked of that one.

use std::future::Future;

use caplane_proto::v1;
use caplane_proto::v1::northbound_client::NorthboundClient;
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::details::not_leader;
use super::{Api, ApiError};

/// Controllers asked one after the other, each named by the one before.
const HOPS_MAX: usize = 3;

impl Api {
    /// Makes a call here, and at the controller that is said to lead when this one does not: a call refused for that
    /// did nothing.
    pub(super) async fn led<T, F, A>(&self, call: F) -> Result<T, ApiError>
    where
        F: Fn(NorthboundClient<Channel>) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        let mut asked = self.clone();
        let mut hops = 0;
        loop {
            let status = match call(asked.client.clone()).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => status,
            };
            let leader = not_leader(&status).filter(|leader: &v1::NotLeader| {
                !leader.northbound.is_empty() && leader.northbound != asked.address
            });
            match (leader, &self.credentials) {
                (Some(leader), Some(credentials)) if hops < HOPS_MAX => {
                    hops += 1;
                    asked = Self::connect(&leader.northbound, credentials).await?;
                }
                _ => return Err(asked.refused(&status)),
            }
        }
    }
}
