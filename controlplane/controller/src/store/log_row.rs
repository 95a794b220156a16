//! Rows of the change log as stores keep them: which table entries a generation changed.

use caplane_proto::v1;
use caplane_wire::Label;
use prost::Message;

use crate::convert;
use crate::tables::TableKey;

/// A row of the change log as stored.
#[derive(Clone, PartialEq, Message)]
struct ChangeRow {
    #[prost(message, repeated, tag = "1")]
    keys: Vec<ChangedKey>,
}

#[derive(Clone, PartialEq, Message)]
struct ChangedKey {
    /// Router label; 0 = the entry is the same everywhere.
    #[prost(uint32, tag = "1")]
    router: u32,
    #[prost(message, optional, tag = "2")]
    key: Option<v1::ResourceKey>,
}

/// A row as it is stored.
pub(super) fn write(keys: &[TableKey]) -> Vec<u8> {
    let keys = keys
        .iter()
        .map(|key| ChangedKey {
            router: match key {
                TableKey::Shared(_) => 0,
                TableKey::Router(router, _) => router.bits(),
            },
            key: Some(convert::resource_key(key.entry_key())),
        })
        .collect();
    ChangeRow { keys }.encode_to_vec()
}

/// A row as it was stored, or what is wrong with it.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<TableKey>, String> {
    let row = ChangeRow::decode(bytes).map_err(|e| e.to_string())?;
    row.keys
        .iter()
        .map(|changed| {
            let key = changed
                .key
                .as_ref()
                .and_then(convert::entry_key)
                .ok_or("a key names nothing")?;
            Ok(match changed.router {
                0 => TableKey::Shared(key),
                router => TableKey::Router(Label::from_bits(router), key),
            })
        })
        .collect()
}
