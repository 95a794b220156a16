//! Pushes tables to one router: one update at a time, each answered before the next is made.

use std::time::Duration;

use caplane_proto::v1;
use caplane_proto::v1::controller_message::Message as ToRouter;
use caplane_wire::Label;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Status;

use super::registry::RefusedEntry;
use super::session::send;
use super::{Outgoing, SouthboundService};
use crate::convert;
use crate::store::ElectionId;
use crate::tables::TableDifference;

/// Largest part of an update (bytes), as southbound.proto promises.
const PART_BYTES_MAX: usize = 1024 * 1024;

/// A generation that changes nothing of a router's is told this much later, with what came meanwhile.
const EMPTY_AFTER: Duration = Duration::from_millis(100);

/// Room kept in a part for the fields around its entries, and the tag and length of each entry.
const PART_BYTES_AROUND: usize = 64;
const ENTRY_BYTES_AROUND: usize = 8;

pub(super) struct Pusher {
    pub(super) service: SouthboundService,
    pub(super) label: Label,
    pub(super) uri: String,
    pub(super) election: ElectionId,
    pub(super) outgoing: Outgoing,
    pub(super) answers: mpsc::Receiver<v1::TableAnswer>,
}

/// What leads from one generation to another.
struct Offer {
    base: u64,
    generation: u64,
    difference: TableDifference,
}

impl Offer {
    fn is_empty(&self) -> bool {
        self.difference.upserts.is_empty() && self.difference.removes.is_empty()
    }
}

/// What one update says besides its entries.
#[derive(Clone, Copy)]
struct Envelope {
    nonce: u64,
    generation: u64,
    base_generation: u64,
    election: ElectionId,
}

impl Pusher {
    /// Keeps the router at the newest generation that routers may have; `held` is what it accepted last, 0 = nothing.
    pub(super) async fn run(mut self, mut held: u64) -> Result<(), Status> {
        let mut released = self.service.state.released();
        let mut offered = 0;
        let mut nonce = 0;
        let mut quiet: Option<Instant> = None;
        loop {
            let newest = *released.borrow_and_update();
            self.still_registered()?;
            if newest == offered {
                if released.changed().await.is_err() {
                    return Ok(());
                }
                continue;
            }
            let difference = self.difference(held);
            // The first update is never put off: it says whether what the router holds is the newest.
            if nonce > 0 && difference.as_ref().is_some_and(Offer::is_empty) {
                let until = *quiet.get_or_insert_with(|| Instant::now() + EMPTY_AFTER);
                if Instant::now() < until {
                    tokio::select! {
                        more = released.changed() => if more.is_err() {
                            return Ok(());
                        },
                        () = tokio::time::sleep_until(until) => {}
                    }
                    continue;
                }
            }
            quiet = None;
            nonce += 1;
            offered = self.push(nonce, difference).await?;
            self.service.sessions.pushed(self.label, offered);
            let answer = self.answer(nonce).await?;
            if answer.rejected.is_empty() {
                held = offered;
                self.service.sessions.accepted(self.label, offered);
                continue;
            }
            // It keeps what it held; the next difference starts there, unless it does not hold that at all: then the last
            // word on this generation is what it says of the snapshot.
            let again = answer.needs_snapshot && held > 0;
            self.note_rejection(offered, &answer, again);
            if again {
                (held, offered) = (0, 0);
            }
        }
    }

    /// What leads from `held` to the newest generation; `None` when only a snapshot can.
    fn difference(&self, held: u64) -> Option<Offer> {
        let tables = self.service.state.tables();
        let difference = tables.difference(self.label, held)?;
        Some(Offer {
            base: held,
            generation: tables.released(),
            difference,
        })
    }

    /// A router that was withdrawn, or given another certificate, is told so.
    fn still_registered(&self) -> Result<(), Status> {
        let rib = self.service.state.rib();
        match rib.router_by_label(self.label) {
            Some(record) if record.uri == self.uri => Ok(()),
            _ => Err(Status::permission_denied(format!(
                "\"{}\" is no registered router any more",
                self.uri
            ))),
        }
    }

    /// Sends a difference, or a snapshot, and answers the generation it leads to.
    async fn push(&self, nonce: u64, offer: Option<Offer>) -> Result<u64, Status> {
        if let Some(offer) = offer {
            let envelope = Envelope {
                nonce,
                generation: offer.generation,
                base_generation: offer.base,
                election: self.election,
            };
            self.send_parts(envelope, offer.difference).await?;
            return Ok(offer.generation);
        }
        let _place = self
            .service
            .snapshots
            .acquire()
            .await
            .map_err(|_| Status::unavailable("the controller is stopping"))?;
        let (generation, snapshot) = {
            let tables = self.service.state.tables();
            (tables.released(), tables.snapshot(self.label))
        };
        let envelope = Envelope {
            nonce,
            generation,
            base_generation: 0,
            election: self.election,
        };
        self.send_parts(envelope, snapshot).await?;
        Ok(generation)
    }

    /// Sends entries in parts, each made when the one before has left: the table is never held twice.
    async fn send_parts(
        &self,
        envelope: Envelope,
        difference: TableDifference,
    ) -> Result<(), Status> {
        let mut part = envelope.part();
        let mut bytes = PART_BYTES_AROUND;
        for row in difference.upserts {
            let resource = convert::resource(&row.entry, row.version);
            let size = resource.encoded_len() + ENTRY_BYTES_AROUND;
            if bytes + size > PART_BYTES_MAX && bytes > PART_BYTES_AROUND {
                self.send(std::mem::replace(&mut part, envelope.part()))
                    .await?;
                bytes = PART_BYTES_AROUND;
            }
            bytes += size;
            part.upserts.push(resource);
        }
        for key in difference.removes {
            let key = convert::resource_key(&key);
            let size = key.encoded_len() + ENTRY_BYTES_AROUND;
            if bytes + size > PART_BYTES_MAX && bytes > PART_BYTES_AROUND {
                self.send(std::mem::replace(&mut part, envelope.part()))
                    .await?;
                bytes = PART_BYTES_AROUND;
            }
            bytes += size;
            part.removes.push(key);
        }
        part.last = true;
        self.send(part).await
    }

    async fn send(&self, part: v1::TableUpdate) -> Result<(), Status> {
        let limit = self.service.timers.answer_timeout;
        tokio::time::timeout(limit, send(&self.outgoing, ToRouter::Update(part)))
            .await
            .map_err(|_| {
                Status::deadline_exceeded(format!("the router read nothing for {limit:?}"))
            })?
    }

    async fn answer(&mut self, nonce: u64) -> Result<v1::TableAnswer, Status> {
        let limit = self.service.timers.answer_timeout;
        let answers = &mut self.answers;
        let wait = async {
            loop {
                match answers.recv().await {
                    Some(answer) if answer.nonce == nonce => return Ok(answer),
                    // Of an update of an earlier session; it means nothing here.
                    Some(_) => {}
                    None => return Err(Status::cancelled("the session ended")),
                }
            }
        };
        tokio::time::timeout(limit, wait).await.map_err(|_| {
            Status::deadline_exceeded(format!("update {nonce} was not answered within {limit:?}"))
        })?
    }

    fn note_rejection(&self, generation: u64, answer: &v1::TableAnswer, again: bool) {
        let entries: Vec<RefusedEntry> = answer
            .rejected
            .iter()
            .map(|rejected| RefusedEntry {
                key: rejected.key.as_ref().and_then(convert::entry_key),
                reason: rejected.reason.clone(),
            })
            .collect();
        tracing::error!(
            event = "update_rejected", router = %self.label, generation,
            entries = entries.len(), needs_snapshot = answer.needs_snapshot,
            first = entries.first().map_or("", |entry| entry.reason.as_str()),
        );
        if !again {
            let sessions = &self.service.sessions;
            sessions.rejected(self.label, generation, entries);
        }
    }
}

impl Envelope {
    fn part(self) -> v1::TableUpdate {
        v1::TableUpdate {
            nonce: self.nonce,
            generation: self.generation,
            base_generation: self.base_generation,
            upserts: Vec::new(),
            removes: Vec::new(),
            last: false,
            election_id: self.election.0,
        }
    }
}
