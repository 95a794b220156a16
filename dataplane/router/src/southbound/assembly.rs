//! Parts of a table update, put together. Refuses to know what an update means.

use caplane_proto::v1;

/// An update whose last part is here.
#[derive(Debug, Default)]
pub(super) struct Whole {
    pub(super) nonce: u64,
    pub(super) generation: u64,
    /// 0 = a snapshot.
    pub(super) base: u64,
    pub(super) upserts: Vec<v1::Resource>,
    pub(super) removes: Vec<v1::ResourceKey>,
}

impl Whole {
    /// As it would have come in one part.
    pub(super) fn into_update(self) -> v1::TableUpdate {
        v1::TableUpdate {
            nonce: self.nonce,
            generation: self.generation,
            base_generation: self.base,
            upserts: self.upserts,
            removes: self.removes,
            last: true,
            // Checked part by part; what is stored beside the table is the highest that was met.
            election_id: 0,
        }
    }
}

/// Collects parts of one update at a time.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    partial: Option<Whole>,
}

impl Assembly {
    /// Takes a part; the whole update when it was the last. A part of another update
    /// drops what was there: the controller gave it up.
    pub(super) fn add(&mut self, part: v1::TableUpdate) -> Option<Whole> {
        let fits = self.partial.as_ref().is_some_and(|p| {
            p.nonce == part.nonce
                && p.generation == part.generation
                && p.base == part.base_generation
        });
        if !fits {
            self.partial = Some(Whole {
                nonce: part.nonce,
                generation: part.generation,
                base: part.base_generation,
                ..Whole::default()
            });
        }
        if let Some(partial) = &mut self.partial {
            partial.upserts.extend(part.upserts);
            partial.removes.extend(part.removes);
        }
        if part.last { self.partial.take() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(nonce: u64, policy: u32, last: bool) -> v1::TableUpdate {
        v1::TableUpdate {
            nonce,
            generation: nonce * 10,
            base_generation: 0,
            upserts: vec![v1::Resource {
                version: 1,
                resource: Some(v1::resource::Resource::Policy(v1::PolicyGroup {
                    id: policy,
                    ..Default::default()
                })),
            }],
            removes: vec![],
            last,
            election_id: 0,
        }
    }

    #[test]
    fn parts_become_one_update_in_order() {
        let mut assembly = Assembly::default();
        assert!(assembly.add(part(1, 1, false)).is_none());
        assert!(assembly.add(part(1, 2, false)).is_none());
        let whole = assembly.add(part(1, 3, true)).unwrap();
        assert_eq!((whole.generation, whole.upserts.len()), (10, 3));
        assert!(assembly.partial.is_none());
    }

    #[test]
    fn an_update_given_up_leaves_nothing_behind() {
        let mut assembly = Assembly::default();
        assembly.add(part(1, 1, false));
        let whole = assembly.add(part(2, 2, true)).unwrap();
        assert_eq!((whole.nonce, whole.upserts.len()), (2, 1));
    }
}
