//! A table as a set of resources by key, and the difference of two.

use caplane_proto::v1::resource::Resource as Kind;
use caplane_proto::v1::resource_key::Key;
use caplane_proto::v1::{Resource, ResourceKey, TableUpdate};
use prost::Message;
use std::collections::BTreeMap;

/// Resources of one part of an update. A class route is some 30 bytes and the
/// default limit of a gRPC message 4 MiB: parts stay well below it.
const RESOURCES_PER_PART: usize = 4_000;

/// Everything one router is to hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// The router's own label.
    pub router_label: u32,
    resources: BTreeMap<Vec<u8>, Kind>,
}

impl Table {
    /// An empty table of the router with this label.
    pub fn new(router_label: u32) -> Table {
        Table {
            router_label,
            resources: BTreeMap::new(),
        }
    }

    /// Puts a resource in, replacing one of the same key.
    pub fn put(&mut self, resource: Kind) {
        self.resources
            .insert(key_of(&resource).encode_to_vec(), resource);
    }

    /// Takes the resource of this key out.
    pub fn remove(&mut self, key: Key) {
        let key = ResourceKey { key: Some(key) };
        self.resources.remove(&key.encode_to_vec());
    }

    /// The resource of this key.
    pub fn resource(&self, key: Key) -> Option<&Kind> {
        let key = ResourceKey { key: Some(key) };
        self.resources.get(&key.encode_to_vec())
    }

    /// Number of resources.
    pub fn len(&self) -> usize {
        self.resources.len()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    /// The update that turns `before` into `self`, in parts. Without `before` it is a snapshot.
    pub(crate) fn update(
        &self,
        before: Option<(&Table, u64)>,
        generation: u64,
        nonce: u64,
    ) -> Vec<TableUpdate> {
        let old = before.map(|(table, _)| &table.resources);
        let upserts: Vec<Resource> = self
            .resources
            .iter()
            .filter(|(key, kind)| old.and_then(|old| old.get(*key)) != Some(kind))
            .map(|(_, kind)| Resource {
                version: generation,
                resource: Some(kind.clone()),
            })
            .collect();
        let removes: Vec<ResourceKey> = old
            .into_iter()
            .flatten()
            .filter(|(key, _)| !self.resources.contains_key(*key))
            .map(|(_, kind)| key_of(kind))
            .collect();
        let part = |upserts: &[Resource], removes: Vec<ResourceKey>| TableUpdate {
            nonce,
            generation,
            base_generation: before.map_or(0, |(_, held)| held),
            upserts: upserts.to_vec(),
            removes,
            last: false,
            election_id: 0,
        };
        let mut parts: Vec<TableUpdate> = upserts
            .chunks(RESOURCES_PER_PART)
            .map(|chunk| part(chunk, Vec::new()))
            .collect();
        parts.push(part(&[], removes));
        if let Some(last) = parts.last_mut() {
            last.last = true;
        }
        parts
    }
}

/// The key a resource stands under.
pub fn key_of(resource: &Kind) -> ResourceKey {
    let key = match resource {
        Kind::Class(class) => Key::Class(class.key.unwrap_or_default()),
        Kind::Agent(agent) => Key::Agent(agent.label),
        Kind::Group(group) => Key::Group(group.label),
        Kind::Identity(identity) => Key::Identity(identity.uri.clone()),
        Kind::Policy(policy) => Key::Policy(policy.id),
        Kind::Transit(transit) => Key::Transit(transit.router),
        Kind::Neighbour(neighbour) => Key::Neighbour(neighbour.router),
    };
    ResourceKey { key: Some(key) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caplane_proto::v1::{AgentRoute, ClassKey, ClassRoute, TransitRoute};

    fn class(label: u32, routers: &[u32]) -> Kind {
        let own = routers
            .iter()
            .map(|router| caplane_proto::v1::Egress {
                router: *router,
                weight: 1,
            })
            .collect();
        Kind::Class(ClassRoute {
            key: Some(ClassKey { tenant: 0, label }),
            own,
            subtree: Vec::new(),
        })
    }

    #[test]
    fn a_difference_holds_what_changed_and_a_snapshot_everything() {
        let mut before = Table::new(1);
        before.put(class(1, &[1]));
        before.put(class(2, &[1]));
        before.put(Kind::Agent(AgentRoute {
            label: 9,
            ..AgentRoute::default()
        }));
        let mut after = before.clone();
        after.put(class(2, &[2]));
        after.put(Kind::Transit(TransitRoute {
            router: 5,
            ..TransitRoute::default()
        }));
        after.remove(Key::Agent(9));
        let parts = after.update(Some((&before, 3)), 4, 77);
        let upserts: usize = parts.iter().map(|p| p.upserts.len()).sum();
        assert_eq!(upserts, 2);
        let last = parts.last().expect("a last part");
        assert!(last.last && parts[..parts.len() - 1].iter().all(|p| !p.last));
        assert_eq!(
            last.removes,
            [ResourceKey {
                key: Some(Key::Agent(9))
            }]
        );
        assert!(
            parts
                .iter()
                .all(|p| (p.base_generation, p.generation, p.nonce) == (3, 4, 77))
        );

        let snapshot = after.update(None, 4, 78);
        let upserts: usize = snapshot.iter().map(|p| p.upserts.len()).sum();
        assert_eq!((upserts, snapshot[0].base_generation), (3, 0));
    }

    #[test]
    fn a_large_table_comes_in_parts() {
        let mut table = Table::new(1);
        for label in 1..=10_000 {
            table.put(class(label, &[1]));
        }
        let parts = table.update(None, 1, 1);
        assert_eq!(parts.len(), 4);
        assert!(parts.iter().all(|p| p.encoded_len() < 1024 * 1024));
    }
}
