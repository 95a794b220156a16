//! What time ends: registrations whose lease ran out.

use super::Refusal;
use super::write::withdraw;
use crate::commit::Transaction;

/// Registrations ended in one change, so that a mass expiry does not hold up writes.
const EXPIRED_MAX: usize = 1_000;

/// Withdraws the agents whose lease has ended and answers their URIs; their grants stay.
///
/// # Errors
/// Never.
pub fn expire_agents(tx: &mut Transaction<'_>) -> Result<Vec<String>, Refusal> {
    let ended: Vec<String> = tx
        .rib
        .expired_agents(tx.now_unix_ms)
        .take(EXPIRED_MAX)
        .map(str::to_owned)
        .collect();
    if !ended.is_empty() {
        tx.made_by("", "leases ended");
    }
    for uri in &ended {
        if let Some(agent) = tx.rib.agent(uri).cloned() {
            withdraw(tx, &agent, "its lease ended");
        }
    }
    Ok(ended)
}
