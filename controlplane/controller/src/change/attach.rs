//! What routers report of attached instances.
//!
//! An instance label belongs to whoever reported it first; a second router that
//! claims it is told so (INSTANCE_CONFLICT) and the instance attaches again. The
//! exception is an instance that *moved*: same agent, same instance name. Then
//! the place it attached to last holds, whoever reports first, and the other
//! router is told REPLACED: a router that comes back after a while may still
//! list an instance that left it.

use std::collections::HashSet;

use caplane_proto::v1::{Attachment, ByeCode, RefusedAttachment};
use caplane_wire::Label;

use super::Refusal;
use crate::commit::Transaction;
use crate::record::{AttachmentRecord, Object, ObjectKey};

/// Longest instance name (bytes), as `Hello` allows.
const INSTANCE_NAME_BYTES_MAX: usize = 64;

/// A router's session begins: these are its attachments, all of them.
///
/// # Errors
/// Never; refused attachments are in the answer.
pub fn open(
    tx: &mut Transaction<'_>,
    router: Label,
    address: &str,
    attachments: &[Attachment],
) -> Result<Vec<RefusedAttachment>, Refusal> {
    if let Some(record) = tx.rib.router_by_label(router)
        && record.address != address
    {
        let mut record = record.clone();
        record.address = address.to_owned();
        tx.rib.put(Object::Router(record));
    }
    let wanted: HashSet<u32> = attachments.iter().map(|a| a.label).collect();
    let gone: Vec<Label> = tx
        .rib
        .attached_at(router)
        .filter(|label| !wanted.contains(&label.bits()))
        .collect();
    for label in gone {
        detach(tx, label);
    }
    report(tx, router, attachments, &[])
}

/// Instances came and went at a router.
///
/// # Errors
/// Never; refused attachments are in the answer.
pub fn report(
    tx: &mut Transaction<'_>,
    router: Label,
    up: &[Attachment],
    down: &[Attachment],
) -> Result<Vec<RefusedAttachment>, Refusal> {
    // What went makes room for what came: a router may reuse a number within one report.
    for attachment in down {
        let label = Label::from_bits(attachment.label);
        let here = tx.rib.attachment(label).map(AttachmentRecord::router);
        if here == Some(router) {
            detach(tx, label);
        }
    }
    let mut refused = Vec::new();
    for attachment in up {
        if let Err((code, reason)) = attach(tx, router, attachment) {
            refused.push(RefusedAttachment {
                label: attachment.label,
                code: code.into(),
                reason,
            });
        }
    }
    Ok(refused)
}

/// A router's lease ended, or it was withdrawn: nothing is attached there any more.
pub fn expire_router(tx: &mut Transaction<'_>, router: Label) -> usize {
    let labels: Vec<Label> = tx.rib.attached_at(router).collect();
    for label in &labels {
        detach(tx, *label);
    }
    labels.len()
}

/// Detaches every instance of an agent and has its routers close them.
pub(super) fn withdraw_attachments(
    tx: &mut Transaction<'_>,
    number: u32,
    code: ByeCode,
    reason: &str,
) {
    let attached: Vec<AttachmentRecord> = tx.rib.instances(number).cloned().collect();
    for attachment in attached {
        tx.rib.remove(&ObjectKey::Attachment(attachment.label));
        tx.verdicts.push((
            attachment.router(),
            RefusedAttachment {
                label: attachment.label,
                code: code.into(),
                reason: reason.to_owned(),
            },
        ));
    }
}

fn detach(tx: &mut Transaction<'_>, label: Label) {
    tx.rib.remove(&ObjectKey::Attachment(label.bits()));
    // The registration's lease runs from the last instance's end.
    let number = label.agent_number();
    let Some(agent) = tx.rib.agent_by_number(number) else {
        return;
    };
    if agent.lease_seconds > 0 && tx.rib.instances(number).next().is_none() {
        let mut agent = agent.as_ref().clone();
        agent.renewed_unix_ms = tx.now_unix_ms;
        tx.rib.put(Object::Agent(agent.into()));
    }
}

fn attach(
    tx: &mut Transaction<'_>,
    router: Label,
    attachment: &Attachment,
) -> Result<(), (ByeCode, String)> {
    let label = Label::from_bits(attachment.label);
    let name = &attachment.instance_name;
    let uri = &attachment.uri;
    if !label.is_instance() {
        let reason = format!("{label} does not name an instance of an agent");
        return Err((ByeCode::Protocol, reason));
    }
    if name.len() > INSTANCE_NAME_BYTES_MAX {
        let reason = format!("the instance name has {} bytes, 64 are allowed", name.len());
        return Err((ByeCode::Protocol, reason));
    }
    let Some(agent) = tx.rib.agent(uri) else {
        return Err((
            ByeCode::UnknownIdentity,
            format!("{uri} is not registered; register it with `caplane agent register`"),
        ));
    };
    if agent.number != label.agent_number() {
        return Err((
            ByeCode::Withdrawn,
            format!(
                "{label} is of an earlier registration; {uri} is {} now",
                agent.label()
            ),
        ));
    }
    let number = agent.number;
    let since_unix_ms = tx.now_unix_ms.saturating_sub(attachment.age_ms);
    if let Some(holder) = tx.rib.attachment(label).cloned() {
        let same_name = holder.instance_name == *name;
        if holder.router() == router && same_name {
            return Ok(());
        }
        if holder.router() != router && (name.is_empty() || !same_name) {
            return Err((
                ByeCode::InstanceConflict,
                format!("{label} is attached at another router; attach again"),
            ));
        }
        moved(tx, &holder, router, since_unix_ms)?;
    }
    if !name.is_empty()
        && let Some(other) = tx.rib.attachment_named(number, name).cloned()
    {
        moved(tx, &other, router, since_unix_ms)?;
    }
    tx.rib.put(Object::Attachment(AttachmentRecord {
        label: label.bits(),
        router: router.number(),
        instance_name: name.clone(),
        since_unix_ms,
    }));
    Ok(())
}

/// The instance attached twice: the earlier place is given up, and its router told to close it.
fn moved(
    tx: &mut Transaction<'_>,
    known: &AttachmentRecord,
    router: Label,
    since_unix_ms: u64,
) -> Result<(), (ByeCode, String)> {
    let reason = format!(
        "instance \"{}\" attached at another router since",
        known.instance_name
    );
    let elsewhere = known.router() != router;
    if elsewhere && known.since_unix_ms > since_unix_ms {
        return Err((ByeCode::Replaced, reason));
    }
    tx.rib.remove(&ObjectKey::Attachment(known.label));
    if elsewhere {
        tx.verdicts.push((
            known.router(),
            RefusedAttachment {
                label: known.label,
                code: ByeCode::Replaced.into(),
                reason,
            },
        ));
    }
    Ok(())
}
