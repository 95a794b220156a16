//! Bulk messages that came in here and leave by another worker: how much of each is on its way there, and
//! when its stream is to be paused. Refuses to know rings, streams and the Forwarder.

use std::collections::HashMap;

use caplane_core::forward::PeerKey;
use caplane_transport::PeerId;

use super::{Head, Ingress};

/// Bytes of one message between two workers: the first window of its streams. More stands unread until some were taken.
const WINDOW: usize = 256 << 10;

/// One message on its way to another worker.
#[derive(Debug)]
pub(in crate::worker) struct Far {
    pub(in crate::worker) ingress: Ingress,
    pub(in crate::worker) to: PeerKey,
    pub(in crate::worker) head: Head,
    /// Bytes given to the other worker.
    pub(in crate::worker) bytes: u64,
    under_way: usize,
    paused: bool,
}

/// What the message's stream is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) enum Stream {
    Pause,
    Resume,
    AsItIs,
}

/// All messages of one worker that leave by another, by the name they have between the two.
#[derive(Debug, Default)]
pub(in crate::worker) struct FarBulks {
    flows: HashMap<u32, Far>,
    names: HashMap<Ingress, u32>,
    last: u32,
}

impl FarBulks {
    pub(in crate::worker) fn len(&self) -> usize {
        self.flows.len()
    }

    /// The name of a message that came in by `ingress`.
    pub(in crate::worker) fn name(&self, ingress: Ingress) -> Option<u32> {
        self.names.get(&ingress).copied()
    }

    /// A message was let through to a peer of another worker. Returns its name.
    pub(in crate::worker) fn open(&mut self, ingress: Ingress, to: PeerKey, head: Head) -> u32 {
        // Names come round again after 2^32 messages; few of them are alive at a time.
        loop {
            self.last = self.last.wrapping_add(1);
            if !self.flows.contains_key(&self.last) {
                break;
            }
        }
        let far = Far {
            ingress,
            to,
            head,
            bytes: 0,
            under_way: 0,
            paused: false,
        };
        self.flows.insert(self.last, far);
        self.names.insert(ingress, self.last);
        self.last
    }

    /// Bytes of it are given to the other worker.
    pub(in crate::worker) fn given(&mut self, id: u32, bytes: usize) -> Stream {
        let Some(far) = self.flows.get_mut(&id) else {
            return Stream::AsItIs;
        };
        far.bytes += bytes as u64;
        far.under_way += bytes;
        if far.under_way < WINDOW || far.paused {
            return Stream::AsItIs;
        }
        far.paused = true;
        Stream::Pause
    }

    /// The other worker has taken bytes of it. Returns its stream and what that is to do.
    pub(in crate::worker) fn taken(&mut self, id: u32, bytes: usize) -> Option<(Ingress, Stream)> {
        let far = self.flows.get_mut(&id)?;
        far.under_way = far.under_way.saturating_sub(bytes);
        let resume = far.paused && far.under_way < WINDOW;
        far.paused &= !resume;
        let stream = if resume {
            Stream::Resume
        } else {
            Stream::AsItIs
        };
        Some((far.ingress, stream))
    }

    /// The worker a message leaves by.
    pub(in crate::worker) fn worker(&self, id: u32) -> Option<u8> {
        self.flows.get(&id).map(|far| far.to.worker)
    }

    /// Forgets a message that is over.
    pub(in crate::worker) fn remove(&mut self, id: u32) -> Option<Far> {
        let far = self.flows.remove(&id)?;
        self.names.remove(&far.ingress);
        Some(far)
    }

    /// Messages that come in from `peer`.
    pub(in crate::worker) fn from(&self, peer: PeerId) -> Vec<u32> {
        self.names_where(|far| far.ingress.peer == peer)
    }

    /// Messages that go to `peer`.
    pub(in crate::worker) fn towards(&self, peer: PeerKey) -> Vec<u32> {
        self.names_where(|far| far.to == peer)
    }

    fn names_where(&self, is_meant: impl Fn(&Far) -> bool) -> Vec<u32> {
        let flows = self.flows.iter();
        flows
            .filter(|(_, far)| is_meant(far))
            .map(|(id, _)| *id)
            .collect()
    }
}
