//! Whether an audit log is whole: pure, over the records as the controller sends them.
//!
//! It refuses to know how they are fetched and shown.

use caplane_proto::v1;
use prost::Message;
use ring::digest::{Context, SHA256};
use ring::signature::{ED25519, UnparsedPublicKey};

#[cfg(test)]
mod tests;

/// What is hashed before a record's body.
const HASH_PREFIX: &[u8] = b"caplane.audit/1\n";

/// A log that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    /// The oldest record there is; 0 = there is none.
    pub oldest: u64,
    /// The newest.
    pub newest: u64,
    /// Its hash.
    pub head: Vec<u8>,
}

/// What is wrong, at which record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("audit record {sequence}: {cause}")]
pub struct Broken {
    /// Its number, as far as it can be told.
    pub sequence: u64,
    /// What is wrong.
    pub cause: &'static str,
}

fn hash(body: &[u8]) -> Vec<u8> {
    let mut context = Context::new(&SHA256);
    context.update(HASH_PREFIX);
    context.update(body);
    context.finish().as_ref().to_vec()
}

/// Checks records from the oldest there is to the newest. `keys`: who may have signed; none = whoever signed the first.
///
/// # Errors
/// [`Broken`], at the first fault.
pub fn verify(
    records: &[v1::AuditRecord],
    keys: &[Vec<u8>],
    expect_head: Option<&[u8]>,
) -> Result<Whole, Broken> {
    let mut whole = Whole {
        oldest: 0,
        newest: 0,
        head: Vec::new(),
    };
    let (mut first_previous, mut expected_seen) = (Vec::new(), expect_head.is_none());
    let mut pruned: Option<(u64, Vec<u8>)> = None;
    for record in records {
        let due = whole.newest + 1;
        let broken = |cause| Broken {
            sequence: due,
            cause,
        };
        let known = match keys {
            [] => records
                .first()
                .is_some_and(|first| first.public_key == record.public_key),
            keys => keys.contains(&record.public_key),
        };
        if !known {
            return Err(broken("is signed by a key that is not known"));
        }
        if record.hash != hash(&record.body) {
            return Err(broken("was changed: its hash does not fit"));
        }
        UnparsedPublicKey::new(&ED25519, &record.public_key)
            .verify(&record.hash, &record.signature)
            .map_err(|_| broken("was changed: its signature does not fit"))?;
        let body =
            v1::AuditBody::decode(record.body.as_slice()).map_err(|_| broken("cannot be read"))?;
        if body.sequence == 0 {
            return Err(broken("has no number"));
        }
        if whole.newest == 0 {
            whole.oldest = body.sequence;
            first_previous.clone_from(&body.previous);
        } else if body.sequence != due {
            return Err(broken("is missing: another stands in its place"));
        } else if body.previous != whole.head {
            return Err(broken("does not follow the one before"));
        }
        // Only the controller itself forgets, and what it did was done.
        if body.call == "prune" && body.pruned_through > 0 && body.who.is_empty() && body.code == 0
        {
            pruned = Some((body.pruned_through, body.pruned_hash));
        }
        expected_seen |= expect_head == Some(record.hash.as_slice());
        whole.newest = body.sequence;
        whole.head.clone_from(&record.hash);
    }
    begins(&whole, &first_previous, pruned.as_ref())?;
    // The oldest names the last that was forgotten.
    let forgotten = !first_previous.is_empty() && expect_head == Some(&first_previous);
    if !expected_seen && !forgotten {
        return Err(Broken {
            sequence: whole.newest,
            cause: "is the newest, and the expected one is not among those before: newer ones are missing, or it was forgotten",
        });
    }
    Ok(whole)
}

/// The oldest is the first, or the one after what a record says was forgotten.
fn begins(whole: &Whole, previous: &[u8], pruned: Option<&(u64, Vec<u8>)>) -> Result<(), Broken> {
    let by_record = pruned
        .is_some_and(|(through, hash)| *through + 1 == whole.oldest && hash.as_slice() == previous);
    match whole.oldest {
        0 => Ok(()),
        1 if previous.is_empty() && pruned.is_none() => Ok(()),
        _ if by_record => Ok(()),
        oldest => Err(Broken {
            sequence: oldest,
            cause: "is the oldest there is, and no record says that those before it were forgotten",
        }),
    }
}
