//! What a dry run would have made of routers' tables, spelt out within bounds.

use caplane_proto::v1;
use prost::Message;

use crate::commit::{Difference, Rehearsed};
use crate::convert;
use crate::tables::TableKey;

/// Entries spelt out, over all routers.
const ENTRIES_MAX: usize = 1_000;
/// Bytes of them.
const ENTRIES_BYTES_MAX: usize = 512 * 1024;

/// One difference per table that would differ: first what all routers share.
pub(super) fn diff<T>(rehearsed: &Rehearsed<T>) -> Vec<v1::RouterDiff> {
    let mut tables: Vec<v1::RouterDiff> = Vec::new();
    let (mut told, mut bytes) = (0, 0);
    let mut owner = None;
    // In key order: shared entries come first, then router by router.
    for difference in &rehearsed.differences {
        let router = match &difference.key {
            TableKey::Shared(_) => None,
            TableKey::Router(router, _) => Some(*router),
        };
        if tables.is_empty() || owner != router {
            owner = router;
            let name = router.map(|label| {
                let known = rehearsed.routers.get(&label);
                known.cloned().unwrap_or_else(|| label.to_string())
            });
            tables.push(v1::RouterDiff {
                router: name.unwrap_or_default(),
                ..v1::RouterDiff::default()
            });
        }
        let Some(table) = tables.last_mut() else {
            continue;
        };
        match difference.after {
            Some(_) => table.upserts += 1,
            None => table.removes += 1,
        }
        if told < ENTRIES_MAX && bytes <= ENTRIES_BYTES_MAX {
            let entry = spell_out(difference);
            told += 1;
            bytes += entry.encoded_len();
            if bytes <= ENTRIES_BYTES_MAX {
                table.entries.push(entry);
            }
        }
    }
    tables
}

fn spell_out(difference: &Difference) -> v1::EntryDiff {
    let before = difference.before.as_ref();
    v1::EntryDiff {
        entry: difference.key.entry_key().to_string(),
        before: before.map(|row| convert::resource(&row.entry, row.version)),
        after: difference
            .after
            .as_ref()
            .map(|entry| convert::resource(entry, 0)),
    }
}
