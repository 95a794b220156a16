//! The slots that connections live in. A slot is reused; its generation tells the uses apart.

use crate::connection::Connection;
use crate::event::PeerId;

#[derive(Default)]
struct Slot {
    generation: u32,
    connection: Option<Box<Connection>>,
}

/// Connections by slot, bounded.
pub(crate) struct ConnectionTable {
    slots: Vec<Slot>,
    free: Vec<u32>,
    held: usize,
    max: usize,
}

impl ConnectionTable {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            held: 0,
            max,
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.held >= self.max
    }

    /// The id that the next connection will have; it must be inserted under it.
    pub(crate) fn next_id(&self) -> PeerId {
        let slot = self.free.last().copied().unwrap_or(self.slots.len() as u32);
        let generation = self.slots.get(slot as usize).map_or(0, |s| s.generation);
        PeerId { slot, generation }
    }

    pub(crate) fn insert(&mut self, connection: Connection) {
        let id = self.next_id();
        assert_eq!(id, connection.id, "inserted under the id that next_id gave");
        if self.free.pop().is_none() {
            self.slots.push(Slot::default());
        }
        self.slots[id.slot as usize].connection = Some(Box::new(connection));
        self.held += 1;
    }

    pub(crate) fn slot(&mut self, slot: u32) -> Option<&mut Connection> {
        self.slots.get_mut(slot as usize)?.connection.as_deref_mut()
    }

    pub(crate) fn get(&self, id: PeerId) -> Option<&Connection> {
        let slot = self.slots.get(id.slot as usize)?;
        slot.connection
            .as_deref()
            .filter(|_| slot.generation == id.generation)
    }

    pub(crate) fn get_mut(&mut self, id: PeerId) -> Option<&mut Connection> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        let current = slot.generation == id.generation;
        slot.connection.as_deref_mut().filter(|_| current)
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<Box<Connection>> {
        let entry = self.slots.get_mut(slot as usize)?;
        let connection = entry.connection.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(slot);
        self.held -= 1;
        Some(connection)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.slots
            .iter()
            .filter_map(|slot| slot.connection.as_deref())
    }
}
